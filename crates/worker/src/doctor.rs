//! Checks whether this machine can run casts.

use std::path::Path;

use pagecast_core::Fps;
use pagecast_core::spec::{
    BrowserContext, KEYFRAME_INTERVAL, Limits, NetworkPolicy, Size, Source, SourceUrl,
};
use pagecast_media::encode::{audio, video};
use pagecast_page::browser::PagePolicy;
use pagecast_page::child::Isolation;
use pagecast_page::{Config, Page, browser};
use serde_json::{Value, json};

use crate::chain;

/// Free disk space below which a recording is at risk, in bytes: half an hour at 4 Mbit/s.
const LOW_DISK_BYTES: u64 = 1_000_000_000;
/// Free shared memory, in bytes, below which Chromium's processes cannot exchange pictures.
const LOW_SHM_BYTES: u64 = 128_000_000;

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// How to fix the problem; `None` if the check passed.
    pub fix: Option<&'static str>,
}

impl Check {
    fn new(name: &'static str, passed: bool, found: impl Into<String>, fix: &'static str) -> Self {
        Self { name, found: found.into(), fix: (!passed).then_some(fix) }
    }
}

/// Runs all checks; `folder` is where recordings go.
#[must_use]
pub fn run_checks(folder: &Path) -> Vec<Check> {
    let mut checks = vec![check_h264(), check_aac()];
    checks.extend(check_browser());
    checks.push(check_free_space(
        "disk",
        folder,
        LOW_DISK_BYTES,
        "free some space, or record to another disk",
    ));
    checks.push(check_free_space(
        "shared memory",
        Path::new("/dev/shm"),
        LOW_SHM_BYTES,
        "enlarge /dev/shm (docker run --shm-size=1g)",
    ));
    checks
}

fn check_h264() -> Check {
    let opened = Size::new(1280, 720).ok().zip(Fps::new(30)).map(|(size, fps)| {
        let open = video::Encoder::open(video::Config::for_files(size, fps, 4_500_000, KEYFRAME_INTERVAL));
        open.map(drop).map_err(|e| e.to_string())
    });
    let (passed, found) = verdict(opened.unwrap_or(Ok(())), "libx264");
    Check::new(
        "H.264 encoder",
        passed,
        found,
        "install FFmpeg's libraries with libx264 (apt install libavcodec59)",
    )
}

fn check_aac() -> Check {
    let (passed, found) = verdict(
        audio::Encoder::open(audio::Config::FILES).map(drop).map_err(|e| e.to_string()),
        "libavcodec",
    );
    Check::new("AAC encoder", passed, found, "install FFmpeg's libraries (apt install libavcodec59)")
}

fn verdict(result: Result<(), String>, found: &str) -> (bool, String) {
    result.map_or_else(|reason| (false, reason), |()| (true, found.to_owned()))
}

fn check_browser() -> Vec<Check> {
    const INSTALL: &str = "install Chromium: apt install chromium";
    let Ok(path) = browser::find_chromium() else {
        return vec![Check::new("browser", false, "Chromium not found", INSTALL)];
    };
    let page = start_page();
    let started = page.as_ref().map_err(Clone::clone);
    let browser = match started.and_then(|page| page.browser().map_err(|e| e.to_string())) {
        Ok(browser) => browser,
        Err(reason) => {
            return vec![Check::new("browser", false, format!("{}: {reason}", path.display()), INSTALL)];
        }
    };
    let version = browser.version().unwrap_or_else(|e| e.to_string());
    let mut checks = vec![Check::new("browser", true, format!("{version} at {}", path.display()), INSTALL)];
    let sandboxed = crate::usage::is_sandboxed(browser.pid());
    checks.push(Check::new(
        "sandbox",
        sandboxed,
        if sandboxed { "pages run without privileges, under seccomp" } else { "pages are not confined" },
        "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or apt install chromium-sandbox",
    ));
    checks.extend(page.as_ref().ok().map(|page| check_isolation(page.isolation())));
    checks.extend(check_page_features(browser));
    checks
}

/// Checks what isolates browsers from each other. A machine that allows no isolation still runs casts.
fn check_isolation(isolation: Isolation) -> Check {
    let (ok, detail) = match isolation {
        Isolation::User(uid) => (true, format!("each browser runs as its own user, this one as uid {uid}")),
        Isolation::Namespaces => (
            true,
            "each browser has its own namespaces and sees neither other browsers nor our files".to_owned(),
        ),
        _ => (
            false,
            "a page that escapes Chromium's sandbox can reach other browsers and our files".to_owned(),
        ),
    };
    Check::new(
        "isolation",
        ok,
        detail,
        "run as root, or allow user namespaces: `unshare -Ump --map-current-user --fork --mount-proc true` \
         must work",
    )
}

fn start_page() -> Result<Page, String> {
    let source = Source {
        url: SourceUrl::parse("http://localhost/").map_err(|e| e.to_string())?,
        size: Size::new(640, 360).map_err(|e| e.to_string())?,
        fps: Fps::new(30).ok_or("30 fps")?,
        scale_factor: 1.0,
        context: BrowserContext::default(),
    };
    let (ticks, _) = std::sync::mpsc::sync_channel(1);
    let (samples, _) = std::sync::mpsc::sync_channel(1);
    let config = Config {
        source,
        policy: PagePolicy::default(),
        network: NetworkPolicy::default(),
        max_disk_bytes: Limits::default().disk_bytes,
    };
    Page::start(config, ticks, samples).map_err(|e| chain(&e))
}

/// Checks what only a page can find out.
fn check_page_features(browser: &browser::Browser) -> Vec<Check> {
    let params =
        json!({"expression": include_str!("doctor.js"), "returnByValue": true, "awaitPromise": true});
    let features = match browser.call("Runtime.evaluate", params) {
        Ok(result) => result["result"]["value"].clone(),
        Err(reason) => json!({"error": reason.to_string()}),
    };
    let works = |key: &str| features[key] == Value::Bool(true);
    let found = |works: bool| if works { "works" } else { "does not work" };
    let check = |name, key, fix| Check::new(name, works(key), found(works(key)), fix);
    vec![
        check("CJK fonts", "cjk", "apt install fonts-noto-cjk"),
        check("emoji font", "emoji", "apt install fonts-noto-color-emoji"),
        check("H.264 and AAC in pages", "h264", "use a Chromium with proprietary codecs, like Debian's"),
        check("VP9 and Opus in pages", "vp9", "use a complete Chromium, like Debian's"),
        check("WebGL", "webgl", "use a Chromium with SwiftShader, like Debian's"),
        check("sound", "sound", "apt install libpulse0"),
    ]
}

fn check_free_space(name: &'static str, path: &Path, low: u64, fix: &'static str) -> Check {
    match rustix::fs::statvfs(path) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            Check::new(
                name,
                free >= low,
                format!("{:.1} GB free in {}", free as f64 / 1e9, path.display()),
                fix,
            )
        }
        Err(reason) => Check::new(name, false, format!("{}: {reason}", path.display()), fix),
    }
}
