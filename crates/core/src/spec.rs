//! What a cast is asked to do. Every value is checked here and nowhere else.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

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
/// Smallest and largest cap on the video bitrate, in kbit/s.
pub const BITRATE_KBPS_RANGE: std::ops::RangeInclusive<u32> = 50..=100_000;
/// Longest recording.
pub const MAX_DURATION: Duration = Duration::from_secs(86_400);

/// A cast: one page, and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CastSpec {
    /// The page.
    pub source: Source,
    /// The file.
    pub recording: Recording,
    /// When the cast ends by itself; `None` runs until it is stopped.
    pub duration: Option<Duration>,
}

/// The page and the display it is shown on.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Address of the page, http or https.
    pub url: SourceUrl,
    /// Size of the display and of the output.
    pub size: Size,
    /// Rate of the display and of the output.
    pub fps: Fps,
    /// Device pixel ratio: the page lays out `size / scale_factor` CSS pixels.
    pub scale_factor: f64,
}

/// A recording to one local file.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// The MP4 file.
    pub path: PathBuf,
    /// Whether an existing file may be replaced.
    pub overwrite: bool,
    /// Cap on the video bitrate in kbit/s; `None` takes [`default_bitrate_kbps`].
    pub bitrate_kbps: Option<u32>,
}

impl CastSpec {
    /// Checks every value that the types leave open.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn check(&self) -> Result<(), SpecError> {
        if !SCALE_FACTOR_RANGE.contains(&self.source.scale_factor) {
            return Err(SpecError::ScaleFactor(self.source.scale_factor));
        }
        if let Some(kbps) = self.recording.bitrate_kbps
            && !BITRATE_KBPS_RANGE.contains(&kbps)
        {
            return Err(SpecError::Bitrate(kbps));
        }
        if let Some(d) = self.duration
            && (d < self.source.fps.interval() || d > MAX_DURATION)
        {
            return Err(SpecError::Duration(d));
        }
        Ok(())
    }

    /// The cap on the video bitrate, in bit/s.
    #[must_use]
    pub fn bitrate_bps(&self) -> u32 {
        1000 * self
            .recording
            .bitrate_kbps
            .unwrap_or_else(|| default_bitrate_kbps(self.source.size, self.source.fps))
    }
}

/// A cap that a busy page of this size reaches without visible loss: 6 Mbit/s at 1280x720 and 30 fps, growing with the
/// square root of the frame rate and slower than the area.
#[must_use]
pub fn default_bitrate_kbps(size: Size, fps: Fps) -> u32 {
    let area = f64::from(size.width() * size.height()) / f64::from(1280 * 720);
    let rate = f64::from(fps.get()) / 30.0;
    let kbps = 6000.0 * area.powf(0.75) * rate.sqrt();
    (kbps as u32).clamp(300, *BITRATE_KBPS_RANGE.end())
}

/// Width and height of a picture in pixels, both even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Clone, PartialEq, Eq)]
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

/// Why a [`CastSpec`] is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Not an absolute URL.
    #[error("the page address is not a URL{hint}")]
    UrlSyntax {
        /// What to write instead.
        hint: String,
        /// What the parser found.
        #[source]
        source: url::ParseError,
    },
    /// Neither http nor https.
    #[error("cannot open a {0}: address, only http: and https: pages can be cast")]
    UrlScheme(String),
    /// Longer than [`MAX_URL_LEN`].
    #[error("the page address has {0} characters, at most {MAX_URL_LEN} are allowed")]
    UrlLength(usize),
    /// Odd or out of range.
    #[error(
        "cannot show a page at {width}x{height}: width and height must be even, at least {MIN_SIDE}, and at most 3840x2160 or 2160x3840"
    )]
    Size {
        /// Asked width in pixels.
        width: u32,
        /// Asked height in pixels.
        height: u32,
    },
    /// Not a whole number of frames within [`Fps::RANGE`].
    #[error("cannot show a page at {0} frames per second: 1 to 60 are possible")]
    Fps(u32),
    /// Outside of [`SCALE_FACTOR_RANGE`].
    #[error("cannot use the scale factor {0}: 0.25 to 8 are possible")]
    ScaleFactor(f64),
    /// Outside of [`BITRATE_KBPS_RANGE`].
    #[error("cannot use a bitrate of {0} kbit/s: 50 to 100000 are possible")]
    Bitrate(u32),
    /// Shorter than a frame or longer than [`MAX_DURATION`].
    #[error("cannot record for {} s: one frame to 24 hours are possible", .0.as_secs_f64())]
    Duration(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (w, h, good) in [
            (1280, 720, true),
            (50, 50, true),
            (3840, 2160, true),
            (2160, 3840, true),
            (3840, 3840, false),
            (1281, 720, false),
            (48, 720, false),
            (0, 0, false),
            (u32::MAX, u32::MAX, false),
        ] {
            assert_eq!(Size::new(w, h).is_ok(), good, "{w}x{h}");
        }
    }

    #[test]
    fn addresses() {
        assert!(SourceUrl::parse("https://a.example/b?c=d").is_ok());
        for bad in [
            "file:///etc/passwd",
            "chrome://version",
            "javascript:alert(1)",
            "data:text/html,x",
            "a.example",
            "",
        ] {
            assert!(SourceUrl::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            SourceUrl::parse("a.example").unwrap_err().to_string(),
            "the page address is not a URL, write http://a.example or https://a.example"
        );
    }

    #[test]
    fn secrets_stay_out_of_logs() {
        let url = SourceUrl::parse("https://user:hunter2@a.example:8443/room?token=hunter2#hunter2").unwrap();
        for shown in [url.to_string(), format!("{url:?}")] {
            assert!(shown.contains("a.example:8443/room") && !shown.contains("hunter2"), "{shown}");
        }
        assert!(url.reveal().contains("token=hunter2"));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let spec = CastSpec {
            source: Source {
                url: SourceUrl::parse("http://a.example").unwrap(),
                size: Size::new(1280, 720).unwrap(),
                fps: Fps::new(30).unwrap(),
                scale_factor: 1.0,
            },
            recording: Recording { path: "a.mp4".into(), overwrite: false, bitrate_kbps: None },
            duration: None,
        };
        assert_eq!(spec.check(), Ok(()));
        assert_eq!(spec.bitrate_bps(), 6_000_000);
        let mut bad = spec.clone();
        bad.source.scale_factor = f64::NAN;
        assert!(matches!(bad.check(), Err(SpecError::ScaleFactor(_))));
        let mut bad = spec.clone();
        bad.recording.bitrate_kbps = Some(1);
        assert_eq!(bad.check(), Err(SpecError::Bitrate(1)));
        let mut bad = spec;
        bad.duration = Some(Duration::ZERO);
        assert_eq!(bad.check(), Err(SpecError::Duration(Duration::ZERO)));
    }
}
