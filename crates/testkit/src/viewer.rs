//! Browser that shows one page until it is dropped, for pages that play streams.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::chromium::{CHROMIUM, unprivileged_command};
use crate::command::install_hint;
use crate::scratch::ScratchDir;

/// Headless Chromium with one page; killed when dropped. Media play without a click, and sound is muted.
#[derive(Debug)]
pub struct Viewer {
    child: Child,
    scratch: ScratchDir,
}

impl Viewer {
    /// Opens a page.
    ///
    /// # Errors
    /// Chromium is missing.
    pub fn open(url: &str) -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let home = scratch.world_writable_folder("home")?;
        let log = File::create(scratch.join("log"))?;
        let mut chromium = unprivileged_command(CHROMIUM.as_ref());
        chromium.env("HOME", &home).env("TMPDIR", &home);
        chromium.arg(format!("--user-data-dir={}", home.join("profile").display()));
        chromium.args(["--headless", "--no-first-run", "--mute-audio", "--disable-background-networking"]);
        chromium.args(["--autoplay-policy=no-user-gesture-required", "--disable-component-update"]);
        // All servers of tests are on this machine.
        chromium
            .args(["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"]);
        chromium.args(["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--enable-logging=stderr"]);
        chromium.args(["--window-size=1280,720", "--disable-renderer-backgrounding"]).arg(url);
        chromium.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Its own process group, so that all its processes can be killed.
        let child = chromium.process_group(0).spawn().with_context(|| install_hint("chromium"))?;
        Ok(Self { child, scratch })
    }

    /// Process id of the browser.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Log of the browser, including the console of the page.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ended = kill_process_group(pid, Signal::KILL);
        }
        let _reaped = self.child.wait();
    }
}
