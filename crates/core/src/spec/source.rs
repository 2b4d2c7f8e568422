//! The page, and the display it is shown on.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{BrowserContext, SpecError};
use crate::time::Fps;

/// Longest accepted source address, in bytes as it is sent to servers: room for 1024 characters of any
/// script, up to 12 bytes each.
pub const MAX_URL_LEN: usize = 16_384;
/// Smallest side of a picture, in pixels.
pub const MIN_SIDE: u32 = 50;
/// Longest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 3840;
/// Most pixels in a picture (3840 x 2160).
pub const MAX_PIXELS: u32 = 3840 * 2160;
/// Smallest and largest device pixel ratio.
pub const SCALE_FACTOR_RANGE: std::ops::RangeInclusive<f64> = 0.25..=8.0;

/// The page and the display it is shown on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Address of the page, http or https.
    pub url: SourceUrl,
    /// Size of the display and of the output.
    pub size: Size,
    /// Rate of the display and of the output.
    pub fps: Fps,
    /// Device pixel ratio: the page lays out `size / scale_factor` CSS pixels. 1 for a mobile device, which
    /// has its own.
    pub scale_factor: f64,
    /// What the page finds in the browser.
    #[serde(default)]
    pub context: BrowserContext,
}

impl Source {
    /// This page at 1280x720 pixels and 30 frames per second, on a computer.
    #[must_use]
    pub fn new(url: SourceUrl) -> Self {
        Self { url, size: Size::HD, fps: Fps::DEFAULT, scale_factor: 1.0, context: BrowserContext::default() }
    }

    /// Whether a browser that was made ready for this page can show that one.
    pub(super) fn is_compatible_with(&self, other: &Self) -> bool {
        let BrowserContext { headers, cookies, basic_auth, tls, .. } = &self.context;
        // These are for one server only.
        let bound = !headers.is_empty() || !cookies.is_empty() || basic_auth.is_some() || tls.insecure;
        let same_server = !bound || self.url.origin() == other.url.origin();
        same_server && Self { url: other.url.clone(), ..self.clone() } == *other
    }

    pub(super) fn validate(&self) -> Result<(), SpecError> {
        if !SCALE_FACTOR_RANGE.contains(&self.scale_factor) {
            return Err(SpecError::ScaleFactor(self.scale_factor));
        }
        if self.context.mobile.is_some() && self.scale_factor != 1.0 {
            let why = "a mobile device has its own, as large as it fits into the picture: leave it at 1";
            return Err(SpecError::Context { what: "scale factor", why });
        }
        self.context.validate()
    }
}

/// Width and height of a picture in pixels, both even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32)", into = "(u32, u32)")]
pub struct Size {
    width: u32,
    height: u32,
}

impl Size {
    /// 1280x720.
    pub const HD: Self = Self { width: 1280, height: 720 };
    /// 1920x1080.
    pub const FULL_HD: Self = Self { width: 1920, height: 1080 };

    /// Takes even sides of [`MIN_SIDE`] to [`MAX_DIMENSION`], [`MAX_PIXELS`] in all.
    ///
    /// # Errors
    /// [`SpecError::Size`] for any other.
    pub fn new(width: u32, height: u32) -> Result<Self, SpecError> {
        let side = MIN_SIDE..=MAX_SIDE;
        let fits = side.contains(&width) && side.contains(&height) && width * height <= MAX_PIXELS;
        if !fits || !width.is_multiple_of(2) || !height.is_multiple_of(2) {
            return Err(SpecError::Size { width, height });
        }
        Ok(Self { width, height })
    }

    /// The largest size with the same proportions within `bounds` and itself, or `bounds` if that is too long
    /// and thin.
    #[must_use]
    pub fn fit_within(self, bounds: Self) -> Self {
        let sides = |size: Self| (u64::from(size.width), u64::from(size.height));
        let ((width, height), (most_wide, most_high)) = (sides(self), sides(bounds));
        let even = |side: u64| u32::try_from(side / 2 * 2).unwrap_or(0);
        let fitted = if width <= most_wide && height <= most_high {
            return self;
        } else if most_wide * height <= most_high * width {
            Self::new(even(most_wide), even(most_wide * height / width))
        } else {
            Self::new(even(most_high * width / height), even(most_high))
        };
        fitted.unwrap_or(bounds)
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(self) -> u32 {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(self) -> u32 {
        self.height
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The address of a page. Shows scheme, host and path only: queries and user names carry secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceUrl(Url);

impl SourceUrl {
    /// Takes absolute http and https addresses.
    ///
    /// # Errors
    /// [`SpecError::UrlSyntax`], [`SpecError::UrlScheme`] or [`SpecError::UrlLength`].
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        if text.len() > MAX_URL_LEN {
            return Err(SpecError::UrlLength(text.len()));
        }
        let url = Url::parse(text).map_err(|source| SpecError::UrlSyntax { hint: hint_for(text), source })?;
        // Written out, each foreign character is several; and it is read again in that form.
        if url.as_str().len() > MAX_URL_LEN {
            return Err(SpecError::UrlLength(url.as_str().len()));
        }
        match url.scheme() {
            "http" | "https" => Ok(Self(url)),
            // A host and its port look like a scheme and what follows it.
            _ if is_host_and_port(text) => Err(SpecError::UrlSyntax {
                hint: hint_for(text),
                source: url::ParseError::RelativeUrlWithoutBase,
            }),
            other => Err(SpecError::UrlScheme(other.to_owned())),
        }
    }

    /// The whole address, secrets and all: for the browser only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }

    /// Scheme, host and port, as pages and servers write them.
    #[must_use]
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Whether this page and `url` have the same origin.
    #[must_use]
    pub fn is_same_origin(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|other| other.origin() == self.0.origin())
    }

    /// The host, as written in the address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.host())?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())?;
        if self.0.query().is_some() { f.write_str("?…") } else { Ok(()) }
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({self})")
    }
}

/// What to write instead, if that can be guessed.
fn hint_for(text: &str) -> String {
    if text.contains("://") {
        String::new()
    } else if text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        format!(", write http://{text} or https://{text}")
    } else {
        ", write one like https://example.com/page.html".to_owned()
    }
}

/// Whether this is `host:port`, with or without a path behind it.
fn is_host_and_port(text: &str) -> bool {
    let port = text.split_once(':').map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit())
}

impl TryFrom<(u32, u32)> for Size {
    type Error = SpecError;
    fn try_from((width, height): (u32, u32)) -> Result<Self, SpecError> {
        Self::new(width, height)
    }
}

impl From<Size> for (u32, u32) {
    fn from(size: Size) -> Self {
        (size.width, size.height)
    }
}

impl TryFrom<String> for SourceUrl {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        Self::parse(&text)
    }
}

impl From<SourceUrl> for String {
    fn from(url: SourceUrl) -> Self {
        url.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Device, Mobile, Orientation};

    #[test]
    fn a_size_within_another_keeps_its_proportions() {
        let size = |(width, height)| Size::new(width, height).unwrap();
        for (of, bounds, wanted) in [
            ((1280, 720), (640, 360), (640, 360)),
            ((1280, 720), (640, 480), (640, 360)),
            ((1280, 720), (800, 360), (640, 360)),
            ((1280, 720), (320, 1000), (320, 180)),
            ((1280, 720), (720, 1280), (720, 404)),
            ((1080, 1920), (640, 360), (202, 360)),
            ((1280, 720), (1280, 720), (1280, 720)),
            ((1280, 720), (1920, 1080), (1280, 720)),
            ((3840, 100), (100, 100), (100, 100)),
        ] {
            assert_eq!(size(of).fit_within(size(bounds)), size(wanted), "{of:?} in {bounds:?}");
        }
    }

    #[test]
    fn origins() {
        let page = SourceUrl::parse("https://me:secret@Example.com/a?b").unwrap();
        assert_eq!(page.origin(), "https://example.com");
        for (url, same) in [
            ("https://example.com:443/", true),
            ("https://me@example.com/", true),
            ("http://example.com/", false),
            ("https://example.com:8443/", false),
            ("https://example.com.evil.net/", false),
            ("https://evil.net/https://example.com/", false),
            ("data:text/html,x", false),
            ("", false),
        ] {
            assert_eq!(page.is_same_origin(url), same, "{url}");
        }
    }

    #[test]
    fn a_device_has_its_own_scale_and_fits_into_every_picture() {
        let check = |width, height, scale_factor| {
            let tablet = Mobile { device: Device::Tablet, orientation: Orientation::Portrait };
            let context = BrowserContext { mobile: Some(tablet), ..BrowserContext::default() };
            let (url, size) = (SourceUrl::parse("http://a/").unwrap(), Size::new(width, height).unwrap());
            Source { url, size, fps: Fps::new(30).unwrap(), scale_factor, context }.validate()
        };
        assert_eq!(check(1280, 720, 1.0), Ok(()));
        assert!(check(1280, 720, 2.0).unwrap_err().to_string().contains("mobile device has its own"));
        for (width, height) in [(320, 180), (MIN_SIDE, MIN_SIDE), (1920, MIN_SIDE), (MIN_SIDE, 1080)] {
            assert_eq!(check(width, height, 1.0), Ok(()), "{width}x{height}");
        }
    }
}
