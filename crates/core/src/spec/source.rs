//! The page, and the display it is shown on.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Context, SpecError};
use crate::time::Fps;

/// Longest accepted source address, in characters.
pub const MAX_URL_LEN: usize = 8192;
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
    /// Device pixel ratio: the page lays out `size / scale_factor` CSS pixels.
    pub scale_factor: f64,
    /// What the page finds in the browser.
    #[serde(default)]
    pub context: Context,
}

impl Source {
    /// This display and context, with the other's page.
    #[must_use]
    pub fn elsewhere(&self, other: &Self) -> Self {
        Self { url: other.url.clone(), ..self.clone() }
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        if !SCALE_FACTOR_RANGE.contains(&self.scale_factor) {
            return Err(SpecError::ScaleFactor(self.scale_factor));
        }
        self.context.check()
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
    /// Takes even sides of [`MIN_SIDE`] to [`MAX_SIDE`], [`MAX_PIXELS`] in all.
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
        match url.scheme() {
            "http" | "https" => Ok(Self(url)),
            other => Err(SpecError::UrlScheme(other.to_owned())),
        }
    }

    /// The whole address, secrets and all: for the browser only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.as_str()
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

fn hint_for(text: &str) -> String {
    if text.contains("://") { String::new() } else { format!(", write http://{text} or https://{text}") }
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
