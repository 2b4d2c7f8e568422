//! What a page finds in the browser: the device it believes to run on, and what is sent and put in on its
//! behalf.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{SpecError, Tls};

/// Longest header value, cookie value or selector, in bytes.
pub const MAX_VALUE_LEN: usize = 8192;
/// Longest style sheet or script to put in, in bytes.
pub const MAX_INJECTED_LEN: usize = 1024 * 1024;
/// Most headers, and most cookies.
pub const MAX_HEADERS: usize = 100;

/// How the browser presents itself to the page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BrowserContext {
    /// A phone or tablet instead of a desktop.
    pub mobile: Option<Mobile>,
    /// Sent with every request of the page to its own origin: name and value.
    pub headers: Vec<(String, Secret)>,
    /// Cookies for the page's host, on all its ports, as cookies are: name and value.
    pub cookies: Vec<(String, Secret)>,
    /// Instead of the browser's own.
    pub user_agent: Option<String>,
    /// Like `de-DE`: the language of the page and the way numbers and dates are written.
    pub locale: Option<String>,
    /// IANA name, like `Europe/Berlin`.
    pub timezone: Option<String>,
    /// What `prefers-color-scheme` says.
    pub color_scheme: Option<ColorScheme>,
    /// A style sheet that beats the page's own.
    pub css: Option<String>,
    /// A script that runs in every document before the page's own.
    pub script: Option<String>,
    /// For servers that ask by HTTP: user and password.
    pub basic_auth: Option<(String, Secret)>,
    /// Which certificates of servers are accepted.
    pub tls: Tls,
}

/// A mobile device: its viewport, its touch screen, its user agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mobile {
    /// Which.
    pub device: Device,
    /// How it is held.
    pub orientation: Orientation,
}

/// A kind of mobile device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// 390x844 CSS pixels.
    Phone,
    /// 820x1180 CSS pixels.
    Tablet,
}

/// How a mobile device is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Orientation {
    /// Upright.
    Portrait,
    /// On its side.
    Landscape,
}

/// What a page's style may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColorScheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

impl Mobile {
    /// Width and height of the viewport in CSS pixels.
    #[must_use]
    pub fn viewport(self) -> (u32, u32) {
        let (width, height) = match self.device {
            Device::Phone => (390, 844),
            Device::Tablet => (820, 1180),
        };
        match self.orientation {
            Orientation::Portrait => (width, height),
            Orientation::Landscape => (height, width),
        }
    }
}

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl BrowserContext {
    pub(super) fn validate(&self) -> Result<(), SpecError> {
        let bad = |what, why| Err(SpecError::Context { what, why });
        if self.headers.len() > MAX_HEADERS || self.cookies.len() > MAX_HEADERS {
            return bad("headers or cookies", "more than 100 are given");
        }
        for (name, value) in &self.headers {
            if !is_token(name) {
                return bad("header", "its name must be made of letters, digits and - as in X-Room");
            }
            if is_forbidden_header(name) {
                return bad("header", "the browser sends this one itself and lets nobody else");
            }
            if !is_single_line(value.reveal()) {
                return bad("header", "its value must be one line of at most 8192 bytes");
            }
        }
        for (name, value) in &self.cookies {
            let plain = |c: u8| c.is_ascii_graphic() && !matches!(c, b';' | b',' | b'"' | b'\\');
            if !is_token(name) || value.reveal().len() > MAX_VALUE_LEN || !value.reveal().bytes().all(plain) {
                return bad("cookie", "write NAME=VALUE, without blanks, commas, semicolons or quotes");
            }
        }
        if self.user_agent.as_deref().is_some_and(|ua| ua.is_empty() || !is_single_line(ua)) {
            return bad("user agent", "it must be one line of 1 to 8192 bytes");
        }
        let word = |text: &str, more: &[char]| {
            (1..=64).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
        };
        if self.locale.as_deref().is_some_and(|l| !word(l, &['-', '_'])) {
            return bad("locale", "write a language like en or de-DE");
        }
        if self.timezone.as_deref().is_some_and(|z| !word(z, &['-', '_', '+', '/'])) {
            return bad("time zone", "write an IANA name like Europe/Berlin");
        }
        if [&self.css, &self.script].into_iter().flatten().any(|t| t.len() > MAX_INJECTED_LEN) {
            return bad("style sheet or script", "it has more than 1 MiB");
        }
        Ok(())
    }
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let part = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    (1..=256).contains(&text.len()) && text.bytes().all(part)
}

/// Headers that a browser refuses to send for anybody: they belong to the connection.
fn is_forbidden_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let known = [
        "connection",
        "content-length",
        "cookie2",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    known.contains(&name.as_str()) || name.starts_with("proxy-")
}

fn is_single_line(text: &str) -> bool {
    text.len() <= MAX_VALUE_LEN && !text.chars().any(|c| c.is_control() && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_cannot_break_out() {
        let secret = |text: &str| Secret::new(text);
        let good = BrowserContext {
            headers: vec![("X-Room".into(), secret("a b"))],
            cookies: vec![("session".into(), secret("abc=="))],
            locale: Some("zh-CN".into()),
            timezone: Some("America/Argentina/Buenos_Aires".into()),
            ..BrowserContext::default()
        };
        assert_eq!(good.validate(), Ok(()));
        let with = |change: fn(&mut BrowserContext)| {
            let mut page = good.clone();
            change(&mut page);
            page.validate()
        };
        assert!(with(|p| p.headers[0].0 = "X Room".into()).is_err());
        assert!(with(|p| p.headers[0].0 = "Host".into()).is_err());
        assert!(with(|p| p.headers[0].0 = "Proxy-Authorization".into()).is_err());
        assert!(with(|p| p.headers[0].1 = Secret::new("a\r\nHost: b")).is_err());
        assert!(with(|p| p.cookies[0].1 = Secret::new("a; Domain=b")).is_err());
        assert!(with(|p| p.user_agent = Some(String::new())).is_err());
        assert!(with(|p| p.locale = Some("de DE".into())).is_err());
        assert!(with(|p| p.timezone = Some("../../etc/passwd".into())).is_err());
        assert!(with(|p| p.script = Some("x".repeat(MAX_INJECTED_LEN + 1))).is_err());
        assert!(with(|p| p.cookies = vec![("a".into(), Secret::new("b")); 101]).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let context = BrowserContext {
            basic_auth: Some(("user".into(), Secret::new("hunter2"))),
            ..BrowserContext::default()
        };
        assert!(!format!("{context:?}").contains("hunter2"));
    }

    #[test]
    fn a_device_on_its_side_is_wide() {
        let phone = |orientation| Mobile { device: Device::Phone, orientation }.viewport();
        assert_eq!((phone(Orientation::Portrait), phone(Orientation::Landscape)), ((390, 844), (844, 390)));
    }
}
