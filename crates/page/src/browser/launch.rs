//! Finds Chromium, and builds its switches, environment and profile.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pagecast_core::spec::{BrowserContext, NetworkPolicy, Source};
use serde_json::{Value, json};

/// Environment variable with the path of a Chromium to use instead of the installed ones.
pub const CHROMIUM_VARIABLE: &str = "PAGECAST_CHROMIUM";

/// Paths where packages install the browser. Debian's `/usr/bin/chromium` is a shell script around the first
/// one.
const CHROMIUM_PATHS: [&str; 6] = [
    "/usr/lib/chromium/chromium",
    "/usr/lib/chromium-browser/chromium-browser",
    "/opt/google/chrome/chrome",
    "/opt/chromium/chrome",
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
];

/// Switches that do not depend on the cast.
const SWITCHES: &[&str] = &[
    // Use our display, and control over pipes.
    "--ozone-platform=wayland",
    "--remote-debugging-pipe",
    "--kiosk",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--disable-lcd-text",
    // Compose in shared memory, and draw WebGL with SwiftShader.
    "--disable-gpu-compositing",
    "--use-angle=swiftshader",
    "--use-gl=angle",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    // One late frame must not delay the next: see `av_sync`.
    "--disable-main-frame-before-activation",
    // The page is shown, but nobody can click.
    "--autoplay-policy=no-user-gesture-required",
    "--deny-permission-prompts",
    "--block-new-web-contents",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-hang-monitor",
    "--disable-prompt-on-repost",
    "--noerrdialogs",
    // No background activity of the browser itself.
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
    // All connections use the egress proxy, those to loopback included. QUIC would need UDP.
    "--proxy-bypass-list=<-loopback>",
    "--disable-quic",
];

/// The browser reads only the last list of features, so all of them are in one.
const DISABLED_FEATURES: &str = "--disable-features=Translate,MediaRouter,OptimizationHints,\
    InterestFeedContentSuggestions,AutofillServerCommunication,CertificateTransparencyComponentUpdater,\
    GlobalMediaControls,HardwareMediaKeyHandling,CalculateNativeWinOcclusion,\
    DestroyProfileOnBrowserClose,PaintHolding";

/// Connections that the browser opens through its proxy before requests wait: as many as without a proxy. Its
/// default is 32 for all hosts together.
const MAX_PROXY_CONNECTIONS: u32 = 256;

/// Feature that replaces local addresses in WebRTC by names for multicast DNS. Without UDP there is nothing
/// to hide, and pages could cause multicast queries.
const MDNS_FEATURE: &str = "WebRtcHideLocalIpsWithMdns";

/// WebRTC policy that sends nothing past the proxy. Set by a switch and by a preference, either of which
/// would do.
const WEBRTC_NO_UDP_POLICY: &str = "disable_non_proxied_udp";

/// Opens a window without tabs: one with tabs is never narrower than 500 pixels.
const EMPTY_PAGE_SWITCH: &str = "--app=data:text/html,";

/// Quota for storage of pages, as a fraction of the whole disk, which is how the browser counts it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StorageQuota(f64);

impl StorageQuota {
    /// The quota of `bytes` on the disk of `folder`; `None` if its size is unknown.
    pub(super) fn from_bytes(folder: &Path, bytes: u64) -> Option<Self> {
        let disk = rustix::fs::statvfs(folder).ok()?;
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        (total > 0).then(|| Self((bytes as f64 / total as f64).min(1.0)))
    }

    /// The switch for the quota. The pool is shared by all origins, so a page gains nothing by using several.
    fn to_switch(self) -> String {
        format!("--enable-features=StorageQuotaSettings:PoolSizeRatio/{:.12}", self.0)
    }
}

/// All switches for a page whose only way to the network is the SOCKS proxy at `proxy`.
pub(super) fn switches(
    source: &Source,
    proxy: SocketAddr,
    udp: bool,
    profile: &Path,
    disk: Option<StorageQuota>,
) -> Vec<String> {
    let mut all: Vec<String> = SWITCHES.iter().map(|&s| s.to_owned()).collect();
    all.push(if udp { DISABLED_FEATURES.to_owned() } else { format!("{DISABLED_FEATURES},{MDNS_FEATURE}") });
    all.push(format!("--proxy-server=socks5://{proxy}"));
    if !udp {
        all.push(format!("--webrtc-ip-handling-policy={WEBRTC_NO_UDP_POLICY}"));
        // The proxy resolves names. The browser should resolve none itself; if it tries, the lookup fails.
        all.push(format!("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {}", proxy.ip()));
    }
    all.push(format!("--user-data-dir={}", profile.display()));
    all.extend(disk.map(StorageQuota::to_switch));
    all.push(format!("--window-size={},{}", source.size.width(), source.size.height()));
    all.push(EMPTY_PAGE_SWITCH.to_owned());
    all
}

/// Value of a content setting: denied without a prompt.
const CONTENT_SETTING_BLOCK: u32 = 2;

/// Files and contents of a new profile, for settings that have no switch.
pub(crate) fn profile_files(context: &BrowserContext, network: &NetworkPolicy) -> [(&'static str, Value); 2] {
    let mut preferences = preferences();
    if !network.udp {
        preferences["webrtc"] = json!({"ip_handling_policy": WEBRTC_NO_UDP_POLICY});
    }
    // Without a user and a password, HTTP authentication is disabled: the browser would show a dialog. The
    // page gets the 401 instead.
    let schemes = if context.basic_auth.is_some() { "basic" } else { "none" };
    let local_state = json!({
        "auth": {"schemes": schemes},
        "net": {
            "max_connections_per_proxy": MAX_PROXY_CONNECTIONS,
            "max_connections_per_proxy_for_websocket": MAX_PROXY_CONNECTIONS,
        },
    });
    [("Default/Preferences", preferences), ("Local State", local_state)]
}

/// Preferences that disable dialogs, which would cover the page.
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

/// All environment variables of the browser.
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
        // Disabled explicitly: without an address, the browser would start a bus.
        ("DBUS_SESSION_BUS_ADDRESS", "disabled:".to_owned()),
        ("DBUS_SYSTEM_BUS_ADDRESS", "disabled:".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
    ];
    if let Ok(zone) = std::env::var("TZ") {
        env.push(("TZ", zone));
    }
    env
}

/// Finds the browser to start: the one that [`CHROMIUM_VARIABLE`] names, or the first that is installed.
///
/// # Errors
/// The paths that were tried.
pub fn find_chromium() -> Result<PathBuf, Vec<PathBuf>> {
    let paths: Vec<PathBuf> = match std::env::var_os(CHROMIUM_VARIABLE) {
        Some(path) => vec![path.into()],
        None => CHROMIUM_PATHS.iter().map(PathBuf::from).collect(),
    };
    paths.iter().find(|p| p.is_file()).cloned().ok_or(paths)
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
            let proxy = SocketAddr::from(([127, 0, 0, 1], 1080));
            let all = switches(&source, proxy, udp, Path::new("/profile"), Some(StorageQuota(0.5)));
            let lists: Vec<_> = all.iter().filter(|s| s.starts_with("--disable-features=")).collect();
            assert_eq!(lists.len(), 1, "the browser reads only the last list");
            assert_eq!(lists[0].contains(MDNS_FEATURE), !udp);
            assert!(all.iter().any(|s| s == "--proxy-server=socks5://127.0.0.1:1080"));
            let quota = "--enable-features=StorageQuotaSettings:PoolSizeRatio/0.500000000000";
            assert!(all.iter().filter(|s| s.starts_with("--enable-features=")).eq([quota]));
        }
    }
}
