//! Screenshots by Chromium, without Pagecast: the reference picture of a page.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command::{program, run_for_output};
use crate::media::RgbImage;
use crate::scratch::ScratchDir;

/// The browser of Debian. `/usr/bin/chromium` is a script that adds options.
pub(crate) const CHROMIUM: &str = "/usr/lib/chromium/chromium";

/// Screenshot of `url` after `settle` of page time.
///
/// # Errors
/// Chromium is missing or fails.
pub fn screenshot(url: &str, width: usize, height: usize, settle: Duration) -> Result<RgbImage> {
    let scratch = ScratchDir::new()?;
    let home = scratch.world_writable_folder("home")?;
    let png = home.join("page.png");
    let mut chromium = unprivileged_command(Path::new(CHROMIUM));
    chromium.env("HOME", &home).env("TMPDIR", &home);
    chromium.arg(format!("--user-data-dir={}", home.join("profile").display()));
    chromium.args(["--headless", "--no-first-run", "--hide-scrollbars", "--force-device-scale-factor=1"]);
    chromium.args(["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]);
    chromium.arg("--force-color-profile=srgb");
    chromium.arg(format!("--virtual-time-budget={}", settle.as_millis()));
    // Without kiosk mode and a screen of this size, the window is 87 pixels shorter.
    chromium.arg("--kiosk").arg(format!("--screen-info={{{width}x{height}}}"));
    chromium.arg(format!("--window-size={width},{height}"));
    chromium.arg(format!("--screenshot={}", png.display())).arg(url);
    run_for_output(&mut chromium)?;
    RgbImage::open(&png).context("Chromium took no screenshot")
}

/// Command that runs as `nobody` if the test runs as root, because Chromium's sandbox refuses root.
pub(crate) fn unprivileged_command(path: &Path) -> std::process::Command {
    if !rustix::process::geteuid().is_root() {
        return program(path);
    }
    let mut command = program("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"]).arg(path);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_server::{PageResponse, PageServer};

    #[test]
    fn the_page_has_the_whole_picture_from_the_start() -> Result<()> {
        let page = "<body><script>
            const fits = innerWidth === 640 && innerHeight === 360;
            document.body.style.background = fits ? '#00ff00' : '#ff0000';
        </script>";
        let server = PageServer::start()?.with_route("/", PageResponse::Html(200, page.to_owned()));
        let picture = screenshot(&server.url("/"), 640, 360, Duration::from_secs(1))?;
        assert_eq!((picture.width, picture.height), (640, 360));
        assert_eq!([picture.pixel(0, 0), picture.pixel(639, 359)], [[0, 255, 0]; 2]);
        Ok(())
    }
}
