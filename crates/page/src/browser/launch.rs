//! Which Chromium, with which switches, as which user.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pagecast_core::spec::{BrowserContext, NetworkPolicy, Source};
use serde_json::{Value, json};

/// Names a Chromium other than the installed ones.
pub const CHROMIUM_VARIABLE: &str = "PAGECAST_CHROMIUM";

/// Where packages put the browser itself. `/usr/bin/chromium` of Debian is a shell script around the first
/// one.
const CHROMIUM_PATHS: [&str; 6] = [
    "/usr/lib/chromium/chromium",
    "/usr/lib/chromium-browser/chromium-browser",
    "/opt/google/chrome/chrome",
    "/opt/chromium/chrome",
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
];

const SWITCHES: &[&str] = &[
    // Our display and sound card, and nothing else of the host.
    "--ozone-platform=wayland",
    "--remote-debugging-pipe",
    "--kiosk",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--disable-lcd-text",
    // Pictures are composed in shared memory; WebGL is drawn by SwiftShader into it.
    "--disable-gpu-compositing",
    "--use-angle=swiftshader",
    "--use-gl=angle",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    // A frame that was late is not followed by one that is late because of it: see `sync`.
    "--disable-main-frame-before-activation",
    // A page that is watched, by nobody who could click.
    "--autoplay-policy=no-user-gesture-required",
    "--deny-permission-prompts",
    "--block-new-web-contents",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-hang-monitor",
    "--disable-prompt-on-repost",
    "--noerrdialogs",
    // Nothing of its own accord.
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--no-service-autorun",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-extensions-with-background-pages",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-field-trial-config",
    "--disable-search-engine-choice-screen",
    "--disable-sync",
    "--metrics-recording-only",
    "--password-store=basic",
    "--use-mock-keychain",
    // Everything goes through the guard, which is a proxy: loopback too, and what only goes by UDP not at
    // all.
    "--proxy-bypass-list=<-loopback>",
    "--disable-quic",
];

const DISABLED_FEATURES: &str = "--disable-features=Translate,MediaRouter,OptimizationHints,InterestFeedContentSuggestions,\
AutofillServerCommunication,CertificateTransparencyComponentUpdater,GlobalMediaControls,HardwareMediaKeyHandling,\
CalculateNativeWinOcclusion,DestroyProfileOnBrowserClose,PaintHolding";

/// Connections that the browser makes through its proxy before it lets requests wait: as many as it would
/// make without. Its own default is 32, for all hosts together.
const MAX_PROXY_CONNECTIONS: u32 = 256;

/// Hides addresses of calls behind names that are asked for by multicast. Without UDP there is nothing to
/// hide, and pages could have names asked for.
const MDNS_FEATURE: &str = "WebRtcHideLocalIpsWithMdns";

/// What WebRTC may send past the proxy: nothing. Told by a switch and by a preference, of which either would
/// do.
const WEBRTC_NO_UDP_POLICY: &str = "disable_non_proxied_udp";

/// A window without tabs: one with tabs is never narrower than 500 pixels.
const EMPTY_PAGE_SWITCH: &str = "--app=data:text/html,";

/// What pages may store, as the browser's quota counts it: as a part of all space of the disk, free or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StorageQuota(f64);

impl StorageQuota {
    /// `bytes` of the disk that `folder` is on.
    pub(super) fn from_bytes(folder: &Path, bytes: u64) -> Option<Self> {
        let disk = rustix::fs::statvfs(folder).ok()?;
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        (total > 0).then(|| Self((bytes as f64 / total as f64).min(1.0)))
    }

    /// The pool is for all origins together, so that a page gets no more with more of them.
    fn to_switch(self) -> String {
        format!("--enable-features=StorageQuotaSettings:PoolSizeRatio/{:.12}", self.0)
    }
}

/// All switches for a page whose only way to the network is `guard`.
pub(super) fn switches(
    source: &Source,
    guard: SocketAddr,
    udp: bool,
    profile: &Path,
    disk: Option<StorageQuota>,
) -> Vec<String> {
    let mut all: Vec<String> = SWITCHES.iter().map(|&s| s.to_owned()).collect();
    all.push(if udp { DISABLED_FEATURES.to_owned() } else { format!("{DISABLED_FEATURES},{MDNS_FEATURE}") });
    all.push(format!("--proxy-server=socks5://{guard}"));
    if !udp {
        all.push(format!("--webrtc-ip-handling-policy={WEBRTC_NO_UDP_POLICY}"));
        // Names are for the guard to resolve. Nothing should ask for one; whatever does hears that there is
        // none.
        all.push(format!("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {}", guard.ip()));
    }
    all.push(format!("--user-data-dir={}", profile.display()));
    all.extend(disk.map(StorageQuota::to_switch));
    all.push(format!("--window-size={},{}", source.size.width(), source.size.height()));
    all.push(EMPTY_PAGE_SWITCH.to_owned());
    all
}

/// Content setting: refused without a question.
const CONTENT_SETTING_BLOCK: u32 = 2;

/// What the browser finds in its fresh profile and no switch can say: files and their contents.
pub(crate) fn profile_files(context: &BrowserContext, network: &NetworkPolicy) -> [(&'static str, Value); 2] {
    let mut preferences = preferences();
    if !network.udp {
        preferences["webrtc"] = json!({"ip_handling_policy": WEBRTC_NO_UDP_POLICY});
    }
    // Without a user and a password for servers that ask by HTTP, the browser is to understand no such
    // question: it would pass it on to a person. The page gets the 401 instead.
    let schemes = if context.basic_auth.is_some() { "basic" } else { "none" };
    let everywhere = json!({
        "auth": {"schemes": schemes},
        "net": {
            "max_connections_per_proxy": MAX_PROXY_CONNECTIONS,
            "max_connections_per_proxy_for_websocket": MAX_PROXY_CONNECTIONS,
        },
    });
    [("Default/Preferences", preferences), ("Local State", everywhere)]
}

/// Nobody is there for a dialog, and one would cover the page.
fn preferences() -> Value {
    json!({
        "credentials_enable_service": false,
        "hardware": {"screen_capture_enabled": false},
        "printing": {"enabled": false},
        "profile": {"default_content_setting_values": {
            "bluetooth_guard": CONTENT_SETTING_BLOCK,
            "hid_guard": CONTENT_SETTING_BLOCK,
            "serial_guard": CONTENT_SETTING_BLOCK,
            "usb_guard": CONTENT_SETTING_BLOCK,
        }},
    })
}

/// The whole environment of the browser.
pub(super) fn environment(folder: &Path, wayland: &Path, pulse: &Path) -> Vec<(&'static str, String)> {
    let inside = |name: &str| folder.join(name).display().to_string();
    let mut env = vec![
        ("PATH", "/usr/bin:/bin".to_owned()),
        ("HOME", inside("home")),
        ("TMPDIR", inside("tmp")),
        ("XDG_RUNTIME_DIR", folder.display().to_string()),
        ("XDG_CONFIG_HOME", inside("home/config")),
        ("XDG_CACHE_HOME", inside("home/cache")),
        ("WAYLAND_DISPLAY", wayland.display().to_string()),
        ("PULSE_SERVER", format!("unix:{}", pulse.display())),
        // No bus: the browser would start one.
        ("DBUS_SESSION_BUS_ADDRESS", "disabled:".to_owned()),
        ("DBUS_SYSTEM_BUS_ADDRESS", "disabled:".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
    ];
    if let Ok(zone) = std::env::var("TZ") {
        env.push(("TZ", zone));
    }
    env
}

/// The browser to start: the one [`CHROMIUM_VARIABLE`] names, or the first that is installed.
///
/// # Errors
/// The places that were looked at.
pub fn find_chromium() -> Result<PathBuf, Vec<PathBuf>> {
    let places: Vec<PathBuf> = match std::env::var_os(CHROMIUM_VARIABLE) {
        Some(path) => vec![path.into()],
        None => CHROMIUM_PATHS.iter().map(PathBuf::from).collect(),
    };
    places.iter().find(|p| p.is_file()).cloned().ok_or(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_core::Fps;
    use pagecast_core::spec::{BrowserContext, Size, SourceUrl};

    #[test]
    fn the_sandbox_is_never_switched_off() {
        assert!(SWITCHES.iter().all(|s| !s.contains("no-sandbox") && !s.contains("disable-web-security")));
        assert!(!DISABLED_FEATURES.contains("site-per-process"));
    }

    #[test]
    fn the_last_list_of_features_holds_all_of_them() {
        let source = Source {
            url: SourceUrl::parse("http://a.example/").unwrap(),
            size: Size::new(640, 360).unwrap(),
            fps: Fps::new(30).unwrap(),
            scale_factor: 1.0,
            context: BrowserContext::default(),
        };
        for udp in [false, true] {
            let guard = SocketAddr::from(([127, 0, 0, 1], 1080));
            let all = switches(&source, guard, udp, Path::new("/profile"), Some(StorageQuota(0.5)));
            let lists: Vec<_> = all.iter().filter(|s| s.starts_with("--disable-features=")).collect();
            assert_eq!(lists.len(), 1, "the browser takes the last list only");
            assert_eq!(lists[0].contains(MDNS_FEATURE), !udp);
            assert!(all.iter().any(|s| s == "--proxy-server=socks5://127.0.0.1:1080"));
            let quota = "--enable-features=StorageQuotaSettings:PoolSizeRatio/0.500000000000";
            assert!(all.iter().filter(|s| s.starts_with("--enable-features=")).eq([quota]));
        }
    }
}
