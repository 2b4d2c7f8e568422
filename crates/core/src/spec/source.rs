//! Page of a cast, and the display it is shown on.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{BrowserContext, SpecError};
use crate::time::Fps;

/// Longest address of a page in its encoded form, in bytes: room for 1024 characters of any script, which
/// take up to 12 bytes each.
pub const MAX_URL_LEN: usize = 16_384;
/// Smallest side of a picture, in pixels.
pub const MIN_SIDE: u32 = 50;
/// Longest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 3840;
/// Maximum number of pixels of a picture (3840 x 2160).
pub const MAX_PIXELS: u32 = 3840 * 2160;
/// Range of the device pixel ratio.
pub const SCALE_FACTOR_RANGE: std::ops::RangeInclusive<f64> = 0.25..=8.0;

/// A page and the display it is shown on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Address of the page.
    pub url: SourceUrl,
    /// Picture size of the display and of the outputs.
    pub size: Size,
    /// Frame rate of the display and of the outputs.
    pub fps: Fps,
    /// Device pixel ratio: the page's layout has `size / scale_factor` CSS pixels. It must be 1 for a mobile
    /// device, which has its own ratio.
    pub scale_factor: f64,
    /// Browser context.
    #[serde(default)]
    pub context: BrowserContext,
}

impl Source {
    /// Creates a source at 1280x720 pixels and 30 frames per second on a desktop device.
    #[must_use]
    pub fn new(url: SourceUrl) -> Self {
        Self { url, size: Size::HD, fps: Fps::DEFAULT, scale_factor: 1.0, context: BrowserContext::default() }
    }

    /// Whether a browser that was warmed for this source can show `other`.
    pub(super) fn is_compatible_with(&self, other: &Self) -> bool {
        let BrowserContext { headers, cookies, basic_auth, tls, .. } = &self.context;
        // These belong to one server only.
        let is_origin_bound =
            !headers.is_empty() || !cookies.is_empty() || basic_auth.is_some() || tls.insecure;
        let origin_fits = !is_origin_bound || self.url.origin() == other.url.origin();
        origin_fits && Self { url: other.url.clone(), ..self.clone() } == *other
    }

    pub(super) fn validate(&self) -> Result<(), SpecError> {
        if !SCALE_FACTOR_RANGE.contains(&self.scale_factor) {
            return Err(SpecError::ScaleFactor(self.scale_factor));
        }
        if self.context.mobile.is_some() && self.scale_factor != 1.0 {
            let why = "a mobile device has its own, chosen to fit the picture: leave it at 1";
            return Err(SpecError::Context { what: "scale factor", why });
        }
        self.context.validate()
    }
}

/// Picture size in pixels; width and height are even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32)", into = "(u32, u32)")]
pub struct Size {
    width: u32,
    height: u32,
}

impl Size {
    /// HD, 1280x720 pixels.
    pub const HD: Self = Self { width: 1280, height: 720 };
    /// Full HD, 1920x1080 pixels.
    pub const FULL_HD: Self = Self { width: 1920, height: 1080 };

    /// Creates a size from even sides of [`MIN_SIDE`] to [`MAX_SIDE`] with at most [`MAX_PIXELS`] in all.
    ///
    /// # Errors
    /// [`SpecError::Size`] for any other sides.
    pub fn new(width: u32, height: u32) -> Result<Self, SpecError> {
        let side = MIN_SIDE..=MAX_SIDE;
        let fits = side.contains(&width) && side.contains(&height) && width * height <= MAX_PIXELS;
        if !fits || !width.is_multiple_of(2) || !height.is_multiple_of(2) {
            return Err(SpecError::Size { width, height });
        }
        Ok(Self { width, height })
    }

    /// The largest size of the same aspect ratio that is within `bounds` and not above this size, or `bounds`
    /// itself if the result would be thinner than [`MIN_SIDE`].
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

    /// Width, in pixels.
    #[must_use]
    pub fn width(self) -> u32 {
        self.width
    }

    /// Height, in pixels.
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

/// Address of a page. It displays scheme, host and path only, because queries and user names carry secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceUrl(Url);

impl SourceUrl {
    /// Parses an absolute http or https address.
    ///
    /// # Errors
    /// [`SpecError::UrlSyntax`], [`SpecError::UrlScheme`] or [`SpecError::UrlLength`].
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        if text.len() > MAX_URL_LEN {
            return Err(SpecError::UrlLength(text.len()));
        }
        let url = Url::parse(text).map_err(|source| SpecError::UrlSyntax { hint: hint_for(text), source })?;
        // Encoding makes addresses longer, and the encoded form must be parsable again.
        if url.as_str().len() > MAX_URL_LEN {
            return Err(SpecError::UrlLength(url.as_str().len()));
        }
        match url.scheme() {
            "http" | "https" => Ok(Self(url)),
            // `host:port` looks like a scheme and a path.
            _ if is_host_and_port(text) => Err(SpecError::UrlSyntax {
                hint: hint_for(text),
                source: url::ParseError::RelativeUrlWithoutBase,
            }),
            other => Err(SpecError::UrlScheme(other.to_owned())),
        }
    }

    /// The whole address, including secrets: for the browser only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }

    /// Origin of the page: scheme, host and port (RFC 6454).
    #[must_use]
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Whether this page and `url` have the same origin.
    #[must_use]
    pub fn is_same_origin(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|other| other.origin() == self.0.origin())
    }

    /// Host of the page, as written in the address.
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

/// Suggestion of a valid address, if it can be guessed; otherwise empty.
fn hint_for(text: &str) -> String {
    if text.contains("://") {
        String::new()
    } else if text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        format!(", write http://{text} or https://{text}")
    } else {
        ", write one like https://example.com/page.html".to_owned()
    }
}

/// Whether the text is `host:port`, optionally followed by a path.
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
    fn fitting_a_size_keeps_its_aspect_ratio() {
        let size = |(width, height)| Size::new(width, height).unwrap();
        for (from, bounds, expected) in [
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
            assert_eq!(size(from).fit_within(size(bounds)), size(expected), "{from:?} in {bounds:?}");
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
    fn a_mobile_device_has_its_own_scale_and_fits_into_any_picture() {
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
