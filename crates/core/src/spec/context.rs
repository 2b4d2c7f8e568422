//! Browser context of a page: the emulated device, and the headers, cookies, scripts and credentials added to
//! it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{SpecError, Tls};

/// Longest header value, cookie value or selector, in bytes: what common servers accept per header line.
pub const MAX_VALUE_LEN: usize = 8192;
/// Longest injected style sheet or script, in bytes.
pub const MAX_INJECTED_LEN: usize = 1024 * 1024;
/// Maximum number of headers, and of cookies.
pub const MAX_HEADERS: usize = 100;

/// Browser context of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BrowserContext {
    /// Mobile device to emulate; `None` means a desktop.
    pub mobile: Option<Mobile>,
    /// Headers sent with every request of the page to its own origin: name and value.
    pub headers: Vec<(String, Secret)>,
    /// Cookies for the page's host, on all its ports (cookies know no ports): name and value.
    pub cookies: Vec<(String, Secret)>,
    /// User agent; `None` means the browser's own.
    pub user_agent: Option<String>,
    /// Locale for the language and the format of numbers and dates, like `de-DE`.
    pub locale: Option<String>,
    /// Time zone as an IANA name, like `Europe/Berlin`.
    pub timezone: Option<String>,
    /// Value of the CSS media feature `prefers-color-scheme`.
    pub color_scheme: Option<ColorScheme>,
    /// Style sheet that overrides the page's own.
    pub css: Option<String>,
    /// Script that runs in every document before the page's own scripts.
    pub script: Option<String>,
    /// User and password for HTTP authentication.
    pub basic_auth: Option<(String, Secret)>,
    /// Accepted server certificates.
    pub tls: Tls,
}

/// An emulated mobile device: viewport, touch screen and user agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mobile {
    /// Kind of device.
    pub device: Device,
    /// Orientation of the device.
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

/// Orientation of a mobile device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Orientation {
    /// Upright: higher than wide.
    Portrait,
    /// On its side: wider than high.
    Landscape,
}

/// Colour scheme of a page (`prefers-color-scheme`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColorScheme {
    /// Dark text on a light background.
    Light,
    /// Light text on a dark background.
    Dark,
}

impl Mobile {
    /// Width and height of the viewport, in CSS pixels.
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

/// A text whose `Debug` output is redacted.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret text.
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
            return bad("headers or cookies", "at most 100 of each are allowed");
        }
        for (name, value) in &self.headers {
            if !is_token(name) {
                return bad("header", "its name must be made of letters, digits and - as in X-Room");
            }
            if is_forbidden_header(name) {
                return bad("header", "the browser sets it itself, and it cannot be overridden");
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
        let is_tag = |text: &str, more: &[char]| {
            (1..=64).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
        };
        if self.locale.as_deref().is_some_and(|l| !is_tag(l, &['-', '_'])) {
            return bad("locale", "write a language like en or de-DE");
        }
        if self.timezone.as_deref().is_some_and(|z| !is_tag(z, &['-', '_', '+', '/'])) {
            return bad("time zone", "write an IANA name like Europe/Berlin");
        }
        if [&self.css, &self.script].into_iter().flatten().any(|t| t.len() > MAX_INJECTED_LEN) {
            return bad("style sheet or script", "it is larger than 1 MiB");
        }
        Ok(())
    }
}

/// Whether this is a token (RFC 9110, section 5.6.2) of 1 to 256 characters.
fn is_token(text: &str) -> bool {
    let part = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    (1..=256).contains(&text.len()) && text.bytes().all(part)
}

/// Whether browsers refuse to set this header, because it belongs to the connection.
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
    fn invalid_headers_cookies_and_names_are_refused() {
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
    fn a_device_in_landscape_is_wide() {
        let phone = |orientation| Mobile { device: Device::Phone, orientation }.viewport();
        assert_eq!((phone(Orientation::Portrait), phone(Orientation::Landscape)), ((390, 844), (844, 390)));
    }
}
