//! Screenshots by Chromium alone: what the picture of a page should be.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command::{output_of, program};
use crate::media::Rgb;
use crate::scratch::Scratch;

/// Debian's browser itself; /usr/bin/chromium is a script that adds options.
const CHROMIUM: &str = "/usr/lib/chromium/chromium";

/// What a browser shows of `url` once `settle` of page time has passed.
///
/// # Errors
/// Chromium is missing or fails.
pub fn screenshot(url: &str, width: usize, height: usize, settle: Duration) -> Result<Rgb> {
    let scratch = Scratch::new()?;
    let home = scratch.open_folder("home")?;
    let png = home.join("page.png");
    let mut chromium = unprivileged(Path::new(CHROMIUM));
    chromium.env("HOME", &home).env("TMPDIR", &home);
    chromium.arg(format!("--user-data-dir={}", home.join("profile").display()));
    chromium.args(["--headless", "--no-first-run", "--hide-scrollbars", "--force-device-scale-factor=1"]);
    chromium.args(["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]);
    chromium.arg("--force-color-profile=srgb");
    chromium.arg(format!("--virtual-time-budget={}", settle.as_millis()));
    chromium.arg(format!("--window-size={width},{height}"));
    chromium.arg(format!("--screenshot={}", png.display())).arg(url);
    output_of(&mut chromium)?;
    Rgb::open(&png).context("Chromium took no screenshot")
}

/// The command as a user that may not do anything, because Chromium's sandbox refuses root.
fn unprivileged(path: &Path) -> std::process::Command {
    if !rustix::process::geteuid().is_root() {
        return program(path);
    }
    let mut command = program("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"]).arg(path);
    command
}
