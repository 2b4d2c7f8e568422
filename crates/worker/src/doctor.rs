//! Whether this machine has what a recording needs.

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

/// Free space below which a recording is in danger.
const LOW_DISK_BYTES: u64 = 1_000_000_000;
/// Shared memory below which Chromium's processes cannot hand each other pictures.
const LOW_SHM_BYTES: u64 = 128_000_000;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// How to mend it; `None` if nothing is wrong.
    pub fix: Option<&'static str>,
}

impl Check {
    fn new(name: &'static str, good: bool, found: impl Into<String>, mend: &'static str) -> Self {
        Self { name, found: found.into(), fix: (!good).then_some(mend) }
    }
}

/// Looks at everything; `folder` is where recordings go.
#[must_use]
pub fn run_checks(folder: &Path) -> Vec<Check> {
    let mut checks = vec![check_h264(), check_aac()];
    checks.extend(check_browser());
    checks.push(check_free_space("disk", folder, LOW_DISK_BYTES, "make room, or record to another disk"));
    checks.push(check_free_space(
        "shared memory",
        Path::new("/dev/shm"),
        LOW_SHM_BYTES,
        "give /dev/shm more room (docker run --shm-size=1g)",
    ));
    checks
}

fn check_h264() -> Check {
    let opened = Size::new(1280, 720).ok().zip(Fps::new(30)).map(|(size, fps)| {
        let open = video::Encoder::open(video::Config::for_files(size, fps, 4_500_000, KEYFRAME_INTERVAL));
        open.map(drop).map_err(|e| e.to_string())
    });
    let (good, found) = verdict(opened.unwrap_or(Ok(())), "libx264");
    Check::new(
        "H.264 encoder",
        good,
        found,
        "install FFmpeg's libraries with libx264 (apt install libavcodec59)",
    )
}

fn check_aac() -> Check {
    let (good, found) = verdict(
        audio::Encoder::open(audio::Config::FILES).map(drop).map_err(|e| e.to_string()),
        "libavcodec",
    );
    Check::new("AAC encoder", good, found, "install FFmpeg's libraries (apt install libavcodec59)")
}

fn verdict(result: Result<(), String>, good: &str) -> (bool, String) {
    result.map_or_else(|reason| (false, reason), |()| (true, good.to_owned()))
}

fn check_browser() -> Vec<Check> {
    const INSTALL: &str = "install it: apt install chromium";
    let Ok(path) = browser::find_chromium() else {
        return vec![Check::new("browser", false, "there is no Chromium", INSTALL)];
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
        if sandboxed { "pages run without privileges and with seccomp" } else { "pages are not confined" },
        "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or apt install chromium-sandbox",
    ));
    checks.extend(page.as_ref().ok().map(|page| check_isolation(page.isolation())));
    checks.extend(check_page_features(browser));
    checks
}

/// What keeps browsers apart. A machine that allows none of it still runs casts.
fn check_isolation(isolation: Isolation) -> Check {
    let (ok, detail) = match isolation {
        Isolation::User(uid) => (true, format!("each browser runs as a user of its own, this one as {uid}")),
        Isolation::Namespaces => {
            (true, "each browser has namespaces of its own: it sees neither others nor our files".to_owned())
        }
        _ => (
            false,
            "a browser that breaks out of Chromium's sandbox can reach others and our files".to_owned(),
        ),
    };
    Check::new(
        "isolation",
        ok,
        detail,
        "run as root, or let plain users have namespaces: `unshare -Ump --map-current-user --fork --mount-proc true` has to work",
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

/// What only a page can tell.
fn check_page_features(browser: &browser::Browser) -> Vec<Check> {
    let asked = json!({"expression": include_str!("doctor.js"), "returnByValue": true, "awaitPromise": true});
    let answer = match browser.call("Runtime.evaluate", asked) {
        Ok(answer) => answer["result"]["value"].clone(),
        Err(reason) => json!({"error": reason.to_string()}),
    };
    let yes = |key: &str| answer[key] == Value::Bool(true);
    let found = |good: bool| if good { "works" } else { "does not work" };
    let check = |name, key, mend| Check::new(name, yes(key), found(yes(key)), mend);
    vec![
        check("CJK fonts", "cjk", "apt install fonts-noto-cjk"),
        check("emoji font", "emoji", "apt install fonts-noto-color-emoji"),
        check("H.264 and AAC in pages", "h264", "use a Chromium with proprietary codecs, like Debian's"),
        check("VP9 and Opus in pages", "vp9", "use a complete Chromium, like Debian's"),
        check("WebGL", "webgl", "use a Chromium with SwiftShader, like Debian's"),
        check("sound", "sound", "apt install libpulse0"),
    ]
}

fn check_free_space(name: &'static str, path: &Path, low: u64, mend: &'static str) -> Check {
    match rustix::fs::statvfs(path) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            Check::new(
                name,
                free >= low,
                format!("{:.1} GB free in {}", free as f64 / 1e9, path.display()),
                mend,
            )
        }
        Err(reason) => Check::new(name, false, format!("{}: {reason}", path.display()), mend),
    }
}
