//! Sets up the environment of a page: device, language, injected scripts and styles. Frames of other sites
//! run in their own processes, so each gets the same commands.

use pagecast_core::spec::{BrowserContext, ColorScheme, Device, Mobile, Orientation, ReadySignal, Source};
use serde_json::{Value, json};

use super::cdp::CdpClient;
use super::{Browser, CallError, Error, PagePolicy, page_signal, request_log, video_size, webrtc};

/// Script for every document that disables dialogs, as nobody can answer them.
const UNATTENDED_SCRIPT: &str = include_str!("unattended.js");
/// JavaScript function that adds a style sheet to the document.
const STYLE_SCRIPT: &str = include_str!("style.js");
/// Number of touches that the emulated touch screen distinguishes, as common devices do.
const MAX_TOUCH_POINTS: u32 = 5;

/// A method of the DevTools protocol and its parameters.
pub(super) type CdpCommand = (&'static str, Value);

/// Commands that intercept requests of the page, and of frames of other sites.
pub(super) type InterceptCommands = (CdpCommand, Option<CdpCommand>);

/// Commands for every frame with its own session, sent before anything runs in it.
#[derive(Debug, Default)]
pub(super) struct FrameSetup {
    commands: Vec<CdpCommand>,
}

/// Scripts that run in every document before those of the page, in this order.
fn document_scripts(context: &BrowserContext, policy: PagePolicy) -> Vec<String> {
    let mut all = vec![UNATTENDED_SCRIPT.to_owned()];
    all.extend(page_signal::script(policy.signal));
    all.extend(policy.max_video_size.map(video_size::script));
    all.extend(policy.detect_webrtc.then(webrtc::script));
    // A JSON string is also a JavaScript string.
    all.extend(context.css.as_ref().map(|css| format!("({STYLE_SCRIPT})({})", json!(css))));
    all.extend(context.script.clone());
    all
}

/// Commands for a page and for each frame in it: scripts, language, time zone and appearance.
fn common_commands(context: &BrowserContext, policy: PagePolicy, browser: &Value) -> Vec<CdpCommand> {
    let mut all = Vec::new();
    all.extend(policy.log_requests.then(request_log::enable_command));
    let bindings = [
        (policy.signal != ReadySignal::None).then_some(page_signal::BINDING),
        policy.max_video_size.map(|_| video_size::BINDING),
        policy.detect_webrtc.then_some(webrtc::BINDING),
    ];
    all.extend(bindings.into_iter().flatten().map(|name| ("Runtime.addBinding", json!({ "name": name }))));
    let scripts = document_scripts(context, policy).into_iter();
    all.extend(scripts.map(|source| ("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source }))));
    if let Some(agent) = user_agent_override(context, browser) {
        all.push(("Emulation.setUserAgentOverride", agent));
    }
    if let Some(locale) = &context.locale {
        all.push(("Emulation.setLocaleOverride", json!({ "locale": locale.replace('_', "-") })));
    }
    if let Some(zone) = &context.timezone {
        all.push(("Emulation.setTimezoneOverride", json!({ "timezoneId": zone })));
    }
    if let Some(scheme) = context.color_scheme {
        let value = match scheme {
            ColorScheme::Light => "light",
            ColorScheme::Dark => "dark",
        };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        all.push(("Emulation.setEmulatedMedia", json!({ "features": features })));
    }
    if context.mobile.is_some() {
        let touch = json!({"enabled": true, "maxTouchPoints": MAX_TOUCH_POINTS});
        all.push(("Emulation.setTouchEmulationEnabled", touch));
    }
    // Without these, the browser would show dialogs for passkeys and files.
    all.push(("WebAuthn.enable", json!({"enableUI": false})));
    all.push(("Page.setInterceptFileChooserDialog", json!({"enabled": true})));
    all
}

/// Commands for the page as a whole.
fn page_commands(source: &Source) -> Vec<CdpCommand> {
    let mut all = Vec::new();
    if source.context.tls.insecure {
        // Each untrusted certificate raises an event, which is answered depending on the origin.
        all.push(("Security.enable", json!({})));
        all.push(("Security.setOverrideCertificateErrors", json!({"override": true})));
    }
    if let Some(mobile) = source.context.mobile {
        all.push(("Emulation.setDeviceMetricsOverride", device_metrics(mobile)));
    }
    if !source.context.cookies.is_empty() {
        let url = format!("{}/", source.url.origin());
        let cookie = |(name, value): &(String, pagecast_core::spec::Secret)| {
            let secure = url.starts_with("https:");
            json!({"name": name, "value": value.reveal(), "url": url, "path": "/", "secure": secure})
        };
        let cookies: Vec<Value> = source.context.cookies.iter().map(cookie).collect();
        all.push(("Network.setCookies", json!({ "cookies": cookies })));
    }
    all
}

/// Parameters for the layout of a mobile browser. The window already has the size and pixel ratio of the
/// device, see `display::geometry`.
fn device_metrics(mobile: Mobile) -> Value {
    let (width, height) = mobile.viewport();
    let (kind, angle) = match mobile.orientation {
        Orientation::Portrait => ("portraitPrimary", 0),
        Orientation::Landscape => ("landscapePrimary", 90),
    };
    json!({
        "width": width,
        "height": height,
        "screenWidth": width,
        "screenHeight": height,
        "deviceScaleFactor": 0,
        "mobile": true,
        "screenOrientation": {"type": kind, "angle": angle},
    })
}

/// Parameters of user agent and accepted languages; `browser` is the response of `Browser.getVersion`. `None`
/// if nothing is overridden.
fn user_agent_override(context: &BrowserContext, browser: &Value) -> Option<Value> {
    let BrowserContext { user_agent, locale, mobile, .. } = context;
    if user_agent.is_none() && locale.is_none() && mobile.is_none() {
        return None;
    }
    let own = user_agent.clone();
    // An empty user agent leaves that of the browser.
    let agent = own.or_else(|| mobile.map(|m| mobile_user_agent(m, browser))).unwrap_or_default();
    let mut params = json!({ "userAgent": agent });
    if let Some(locale) = locale {
        params["acceptLanguage"] = accept_language(locale).into();
    }
    if let Some(mobile) = mobile {
        let is_phone = mobile.device == Device::Phone;
        params["platform"] = "Linux armv81".into();
        params["userAgentMetadata"] = json!({
            "platform": "Android",
            "platformVersion": "10.0.0",
            "architecture": "",
            "model": "",
            "mobile": is_phone,
            "formFactors": [if is_phone { "Mobile" } else { "Tablet" }],
        });
    }
    Some(params)
}

/// User agent of this version of Chrome on Android; it names neither the device nor more than the major
/// version.
fn mobile_user_agent(mobile: Mobile, browser: &Value) -> String {
    let product = browser["product"].as_str().unwrap_or_default();
    let version = product.split('/').nth(1).unwrap_or_default();
    let major = version.split('.').next().unwrap_or_default();
    let phone = if mobile.device == Device::Phone { "Mobile " } else { "" };
    format!(
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/{major}.0.0.0 {phone}Safari/537.36"
    )
}

/// The `Accept-Language` header for a locale: `de-DE,de` for `de-DE`.
fn accept_language(locale: &str) -> String {
    let locale = locale.replace('_', "-");
    match locale.split_once('-') {
        Some((language, _)) => format!("{locale},{language}"),
        None => locale,
    }
}

/// Command that pauses frames of other sites when they are created, until they are set up. It also attaches
/// to workers, as the browser would pause even those that the filter excludes. Service workers are excluded:
/// the browser does not pause them, and an attached one would never end.
fn auto_attach_command() -> CdpCommand {
    let filter = json!([{"type": "service_worker", "exclude": true}, {}]);
    let params =
        json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true, "filter": filter});
    ("Target.setAutoAttach", params)
}

impl FrameSetup {
    /// Sets up a frame that was attached to session `parent`, and releases a worker.
    pub(super) fn handle_attached(&self, cdp: &CdpClient, parent: &str, params: &Value) {
        let session = params["sessionId"].as_str().unwrap_or_default();
        let is_frame = params["targetInfo"]["type"] == "iframe";
        if is_frame {
            // Commands that fail for a frame were already applied to the page.
            for (method, params) in &self.commands {
                cdp.send(session, method, params.clone());
            }
        }
        cdp.send(session, "Runtime.runIfWaitingForDebugger", json!({}));
        if !is_frame {
            cdp.send(parent, "Target.detachFromTarget", json!({ "sessionId": session }));
        }
    }
}

impl Browser {
    /// Applies the context of `source` to the page, before it is opened.
    pub(super) fn apply_context(
        &self,
        source: &Source,
        policy: PagePolicy,
        intercept: Option<InterceptCommands>,
    ) -> Result<(), Error> {
        let (for_page, for_frames) = intercept.unzip();
        let browser = self.call_session("", "Browser.getVersion", json!({}))?;
        let context = &source.context;
        let common = common_commands(context, policy, &browser);
        for (method, params) in page_commands(source).iter().chain(&common).chain(&for_page) {
            self.call(method, params.clone()).map_err(|error| setting_error(method, context, error))?;
        }
        let mut calls = vec![("Page.enable", json!({})), ("Runtime.enable", json!({}))];
        calls.extend(for_frames.flatten());
        calls.extend(common);
        calls.push(auto_attach_command());
        // Set before the first frame can be attached.
        let _once = self.shared.frame_setup.set(FrameSetup { commands: calls });
        let (method, params) = auto_attach_command();
        self.call(method, params)?;
        Ok(())
    }
}

/// Converts the error of a command into one that names the setting which the browser does not accept.
fn setting_error(method: &str, context: &BrowserContext, error: CallError) -> Error {
    let (setting, hint, value) = match method {
        "Emulation.setTimezoneOverride" => ("time zone", "write one like Europe/Berlin", &context.timezone),
        "Emulation.setLocaleOverride" => ("locale", "write one like de-DE", &context.locale),
        "Emulation.setUserAgentOverride" => ("user agent", "write one line of text", &context.user_agent),
        _ => return error.into(),
    };
    match (value, error) {
        (Some(value), CallError::ErrorResponse { message, .. }) => {
            Error::InvalidSetting { setting, hint, value: value.clone(), message }
        }
        (_, other) => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_go_from_special_to_general() {
        for (locale, expected) in [("de-DE", "de-DE,de"), ("zh_Hant_TW", "zh-Hant-TW,zh"), ("fr", "fr")] {
            assert_eq!(accept_language(locale), expected);
        }
    }

    #[test]
    fn user_agents_name_the_kind_of_device() {
        let browser = json!({"product": "Chrome/156.0.8078.73"});
        let agent = |device| {
            let mobile = Some(Mobile { device, orientation: Orientation::Portrait });
            user_agent_override(&BrowserContext { mobile, ..BrowserContext::default() }, &browser).unwrap()
        };
        let (phone, tablet) = (agent(Device::Phone), agent(Device::Tablet));
        assert!(phone["userAgent"].as_str().unwrap().ends_with("Chrome/156.0.0.0 Mobile Safari/537.36"));
        assert!(tablet["userAgent"].as_str().unwrap().ends_with("Chrome/156.0.0.0 Safari/537.36"));
        assert_eq!(phone["userAgentMetadata"]["mobile"], true);
        assert_eq!(tablet["userAgentMetadata"]["mobile"], false);
        assert!(user_agent_override(&BrowserContext::default(), &browser).is_none());
    }

    #[test]
    fn injected_css_cannot_break_out_of_its_string() {
        let css = "a::before { content: '\"`\\\n\u{2028}</script>${1}' }";
        let context = BrowserContext { css: Some(css.into()), ..BrowserContext::default() };
        let script = &document_scripts(&context, PagePolicy::default())[1];
        let quoted = script.strip_prefix(&format!("({STYLE_SCRIPT})(")).unwrap().strip_suffix(')').unwrap();
        assert_eq!(serde_json::from_str::<String>(quoted).unwrap(), css);
    }
}
