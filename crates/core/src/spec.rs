//! Description of a cast. Every value is validated here and nowhere else.

mod context;
mod health;
mod network;
mod placement;
mod push;
mod recording;
mod room;
mod source;
mod storage;
mod tls;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Fps;

pub use context::{
    BrowserContext, ColorScheme, Device, MAX_HEADERS, MAX_INJECTED_LEN, MAX_VALUE_LEN, Mobile, Orientation,
    Secret,
};
pub use health::{
    ATTEMPTS_RANGE, CHECK_INTERVAL_RANGE, CPU_WEIGHT_RANGE, CRASH_CHECK_INTERVAL_RANGE, DISK_RANGE,
    HealthChecks, Limits, MAX_TIME_RANGE, MEMORY_RANGE, READY_TIMEOUT_RANGE, Readiness, ReadySignal,
};
pub use network::{NetworkPolicy, NetworkRefusal, NetworkRule};
pub use placement::{MAX_LABELS, Placement, is_label};
pub use push::{MAX_PUSH_URL_LEN, MAX_PUSHES, MAX_STREAM_KEY_LEN, Push, PushProtocol, PushUrl};
pub use recording::{
    Format, KEYFRAME_INTERVAL, MAX_FILE_BYTES, MAX_RECORDING_NAME_LEN, Recording, SEGMENT_DURATION_RANGE,
    SPLIT_RANGE, SPOOL_LIMIT_RANGE, THUMBNAIL_INTERVAL_RANGE, UPLOAD_TIMEOUT_RANGE,
};
pub use room::{
    Ice, IceServer, LAYER_KBPS_RANGE, Layer, MAX_ICE_SERVERS, MAX_ID_LEN, MAX_LAYERS, MAX_ROOM_URL_LEN,
    MAX_TOKEN_LEN, Room, RoomCodec, RoomIds, RoomService, RoomUrl, default_layer_bitrate_kbps,
};
pub use source::{MAX_PIXELS, MAX_SIDE, MAX_URL_LEN, MIN_SIDE, SCALE_FACTOR_RANGE, Size, Source, SourceUrl};
pub use storage::{
    Bucket, MAX_OBJECT_NAME_LEN, MAX_PREFIX_LEN, Storage, StorageError, StorageKeys, StorageService,
    VOD_LIFETIME_RANGE, Vod, VodMediaType, is_object_name,
};
pub use tls::{CaBundle, MAX_CA_CERTIFICATES, MAX_CA_LEN, Tls};

/// Range of the cap on the video bitrate, in kbit/s.
pub const BITRATE_KBPS_RANGE: std::ops::RangeInclusive<u32> = 50..=100_000;
/// Longest duration of a cast that is set in advance: 24 hours.
pub const MAX_DURATION: Duration = Duration::from_secs(86_400);

/// Description of a cast: one page, its outputs, and its limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CastSpec {
    /// Page to open, and the display to show it on.
    pub source: Source,
    /// Cap on the video bitrate, in kbit/s; `None` means [`default_bitrate_kbps`].
    #[serde(default)]
    pub bitrate_kbps: Option<u32>,
    /// Duration after which the cast ends, counted from going live; `None` means until it is stopped.
    #[serde(default)]
    pub duration: Option<Duration>,
    /// Recording of the cast, if any.
    #[serde(default)]
    pub recording: Option<Recording>,
    /// Servers that the stream is pushed to, at most [`MAX_PUSHES`].
    #[serde(default)]
    pub pushes: Vec<Push>,
    /// Room that the page is published in, if any.
    #[serde(default)]
    pub room: Option<Room>,
    /// Conditions for showing the page.
    #[serde(default)]
    pub readiness: Readiness,
    /// Health checks of the page.
    #[serde(default)]
    pub checks: HealthChecks,
    /// Limits of the cast's time and resources.
    #[serde(default)]
    pub limits: Limits,
    /// Network policy for the page and the pushes.
    #[serde(default)]
    pub network: NetworkPolicy,
    /// Whether the network policy does not apply to pushes, because the owner of the machine named them.
    #[serde(default)]
    pub pushes_anywhere: bool,
    /// Whether an earlier process has shown the page; the running time then continues from the start of this
    /// process.
    #[serde(default)]
    pub resumed: bool,
    /// Which nodes of a fleet may run the cast.
    #[serde(default)]
    pub placement: Placement,
}

impl CastSpec {
    /// Creates a cast of this page without outputs, with default checks and limits.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            bitrate_kbps: None,
            duration: None,
            recording: None,
            pushes: Vec::new(),
            room: None,
            readiness: Readiness::default(),
            checks: HealthChecks::default(),
            limits: Limits::default(),
            network: NetworkPolicy::default(),
            pushes_anywhere: false,
            resumed: false,
            placement: Placement::default(),
        }
    }

    /// Validates every value that the types do not restrict.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.source.validate()?;
        if let Some(kbps) = self.bitrate_kbps
            && !BITRATE_KBPS_RANGE.contains(&kbps)
        {
            return Err(SpecError::Bitrate(kbps));
        }
        if let Some(d) = self.duration
            && (d < self.source.fps.interval() || d > MAX_DURATION)
        {
            return Err(SpecError::Duration(d));
        }
        self.recording.as_ref().map_or(Ok(()), Recording::validate)?;
        push::validate(&self.pushes)?;
        self.room.as_ref().map_or(Ok(()), |room| room.validate(self.source.size, self.source.fps))?;
        self.readiness.validate()?;
        self.checks.validate()?;
        self.limits.validate()?;
        self.placement.validate()
    }

    /// Whether a browser that was warmed for this cast can be used for `other`.
    #[must_use]
    pub fn is_compatible_with(&self, other: &Self) -> bool {
        self.source.is_compatible_with(&other.source)
            && self.readiness.signal == other.readiness.signal
            && self.limits.max_video == other.limits.max_video
            && self.limits.disk_bytes == other.limits.disk_bytes
            && self.network == other.network
    }

    /// Cap on the video bitrate, in bit/s.
    #[must_use]
    pub fn bitrate_bps(&self) -> u32 {
        1000 * self.bitrate_kbps.unwrap_or_else(|| default_bitrate_kbps(self.source.size, self.source.fps))
    }
}

/// Default cap on the video bitrate, in kbit/s, at which a busy page shows no visible loss: 6 Mbit/s for
/// 1280x720 at 30 fps, growing with the square root of the frame rate and more slowly than the area.
#[must_use]
pub fn default_bitrate_kbps(size: Size, fps: Fps) -> u32 {
    let area = f64::from(size.width() * size.height()) / f64::from(1280 * 720);
    let rate = f64::from(fps.get()) / 30.0;
    let kbps = 6000.0 * area.powf(0.75) * rate.sqrt();
    (kbps as u32).clamp(300, *BITRATE_KBPS_RANGE.end())
}

/// Reason why a [`CastSpec`] is invalid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The page address is not an absolute URL.
    #[error("the page address is not a URL{hint}")]
    UrlSyntax {
        /// Suggestion of a valid address, as the end of the message.
        hint: String,
        /// The parser's error.
        #[source]
        source: url::ParseError,
    },
    /// The scheme of the page address is neither http nor https.
    #[error("cannot open a {0}: address, only http: and https: pages can be cast")]
    UrlScheme(String),
    /// The page address is longer than [`MAX_URL_LEN`].
    #[error("the page address has {0} characters, at most {MAX_URL_LEN} are allowed")]
    UrlLength(usize),
    /// The picture size is odd or out of range.
    #[error(
        "cannot show a page at {width}x{height}: width and height must be even, at least {MIN_SIDE}, and at \
        most 3840x2160 or 2160x3840"
    )]
    Size {
        /// Requested width, in pixels.
        width: u32,
        /// Requested height, in pixels.
        height: u32,
    },
    /// The frame rate is outside [`Fps::RANGE`].
    #[error("cannot show a page at {0} frames per second: 1 to 60 are possible")]
    Fps(u32),
    /// The scale factor is outside [`SCALE_FACTOR_RANGE`].
    #[error("cannot use the scale factor {0}: 0.25 to 8 are possible")]
    ScaleFactor(f64),
    /// The bitrate is outside [`BITRATE_KBPS_RANGE`].
    #[error("cannot use a bitrate of {0} kbit/s: 50 to 100000 are possible")]
    Bitrate(u32),
    /// The duration is shorter than a frame or longer than [`MAX_DURATION`].
    #[error("cannot record for {} s: one frame to 24 hours are possible", .0.as_secs_f64())]
    Duration(Duration),
    /// The path is not UTF-8, so that it cannot be sent to the cast's process as JSON.
    #[error("cannot write to {}: its name must be UTF-8 text", .0.display())]
    Path(PathBuf),
    /// The name of the recording is not usable in file names.
    #[error(
        "cannot call a recording {0:?}: 1 to 128 of the letters a to z and A to Z, digits, and . _ - are \
        possible, no dot in front"
    )]
    RecordingName(String),
    /// HLS, which consists of many files, cannot go to a single file.
    #[error("cannot put HLS into one file: name a folder or a bucket")]
    HlsToFile,
    /// A backup is named for, or is, a single file or video on demand, which hold other files than a bucket.
    #[error(
        "cannot name a backup for a file or for video on demand: backups are folders and buckets, for \
        folders and buckets"
    )]
    Backup,
    /// Video on demand stores media files only.
    #[error("cannot store thumbnails or a list of files in video on demand")]
    VodMediaOnly,
    /// Thumbnails are requested for an audio-only recording.
    #[error("cannot take thumbnails of sound alone")]
    ThumbnailsWithoutVideo,
    /// The storage of a recording is invalid.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A duration is out of range.
    #[error("cannot use {} s as {field}: {} to {} s are possible", .value.as_secs_f64(), .low.as_secs(),
        .high.as_secs())]
    DurationOutOfRange {
        /// Name of the value.
        field: Field,
        /// Requested value.
        value: Duration,
        /// Smallest allowed value.
        low: Duration,
        /// Largest allowed value.
        high: Duration,
    },
    /// A number is out of range.
    #[error("cannot use {value} as {field}: {low} to {high} are possible")]
    NumberOutOfRange {
        /// Name of the value.
        field: Field,
        /// Requested value.
        value: u64,
        /// Smallest allowed value.
        low: u64,
        /// Largest allowed value.
        high: u64,
    },
    /// A value of the browser context is invalid.
    #[error("cannot use this {what}: {why}")]
    Context {
        /// Name of the value.
        what: &'static str,
        /// Reason why it is invalid.
        why: &'static str,
    },
    /// The address of a push is invalid. The message omits the address, which contains a secret.
    #[error("cannot push to this address: {0}")]
    Push(&'static str),
    /// A value of the room is invalid.
    #[error("cannot use {what}: {why}")]
    Room {
        /// Name of the value.
        what: &'static str,
        /// Reason why it is invalid.
        why: &'static str,
    },
    /// The placement is invalid.
    #[error("cannot place the cast: {0}")]
    Placement(&'static str),
    /// The text is not a [`NetworkRule`].
    #[error(
        "cannot read {0:?} as a network rule: write an address, a network like 10.0.0.0/8, a name, *.name \
        or *, each optionally with :PORT"
    )]
    NetworkRule(String),
}

/// A value of a [`CastSpec`] that has a range; its `Display` names it in error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "their Display below describes them")]
pub enum Field {
    ReadyTimeout,
    FreezeCheck,
    BlankCheck,
    CrashCheck,
    MaxTime,
    Attempts,
    Memory,
    Disk,
    CpuWeight,
    Segment,
    Split,
    Thumbnails,
    UploadTimeout,
    Spool,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadyTimeout => "timeout for the page's ready call",
            Self::FreezeCheck => "interval of the freeze check",
            Self::BlankCheck => "interval of the blank check",
            Self::CrashCheck => "interval of the crash check",
            Self::MaxTime => "maximum running time",
            Self::Attempts => "number of attempts",
            Self::Memory => "memory of the browser in bytes",
            Self::Disk => "disk space of the browser in bytes",
            Self::CpuWeight => "CPU weight",
            Self::Segment => "length of a segment",
            Self::Split => "length of a file",
            Self::Thumbnails => "time between thumbnails",
            Self::UploadTimeout => "upload timeout",
            Self::Spool => "size of the spool in bytes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_even_and_bounded() {
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
    fn only_web_addresses_are_pages() {
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
        let long = |text: &str| SourceUrl::parse(&format!("http://a.example/{}", text.repeat(1024)));
        assert!(long("𠀀").is_ok(), "12 bytes each");
        assert_eq!(long("页页").unwrap_err(), SpecError::UrlLength("http://a.example/".len() + 9 * 2048));
        for (text, hint) in [
            ("localhost:3000", ", write http://localhost:3000 or"),
            ("a.example:80/b", ", write http://a.example:80/b or"),
            ("/home/me/x.html", ", write one like https://"),
            ("", ", write one like https://"),
        ] {
            let message = SourceUrl::parse(text).unwrap_err().to_string();
            assert!(message.contains(hint) && !message.contains("http:///"), "{text}: {message}");
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
    fn errors_name_the_value_and_its_range() {
        let mut spec = CastSpec::new(Source::new(SourceUrl::parse("http://a.example").unwrap()));
        spec.recording = Some(Recording::new("a", Storage::File("a.mp4".into())));
        assert_eq!(spec.validate(), Ok(()));
        assert_eq!(spec.bitrate_bps(), 6_000_000);
        let error = |change: &dyn Fn(&mut CastSpec)| {
            let mut bad = spec.clone();
            change(&mut bad);
            bad.validate().unwrap_err().to_string()
        };
        fn recording(change: &dyn Fn(&mut Recording)) -> impl Fn(&mut CastSpec) {
            move |spec| spec.recording.as_mut().map_or((), change)
        }
        let secs = Duration::from_secs;
        let some = |s| Some(secs(s));
        for (message, part) in [
            (error(&|s| s.source.scale_factor = f64::NAN), "scale factor NaN"),
            (error(&|s| s.bitrate_kbps = Some(1)), "bitrate of 1 kbit/s"),
            (error(&|s| s.duration = Some(Duration::ZERO)), "record for 0 s"),
            (
                error(&|s| s.readiness.timeout = secs(61)),
                "61 s as timeout for the page's ready call: 0 to 60 s",
            ),
            (error(&|s| s.checks.freeze = some(1)), "1 s as interval of the freeze check: 2 to 30 s"),
            (error(&|s| s.checks.blank = some(31)), "31 s as interval of the blank check: 2 to 30 s"),
            (error(&|s| s.checks.crash = some(31)), "31 s as interval of the crash check: 1 to 30 s"),
            (error(&|s| s.limits.max_time = secs(9)), "9 s as maximum running time: 10 to 86400 s"),
            (error(&|s| s.limits.attempts = 0), "0 as number of attempts: 1 to 10"),
            (error(&|s| s.limits.memory_bytes = 1), "1 as memory"),
            (error(&|s| s.limits.disk_bytes = 1), "1 as disk space of the browser in bytes: 268435456 to"),
            (error(&|s| s.limits.cpu_weight = 0), "0 as CPU weight"),
            (error(&|s| s.placement.labels = vec!["a,b".into()]), "a label has 1 to 63"),
            (error(&|s| s.placement.labels = vec!["a".into(); 9]), "at most 8 labels"),
            (error(&recording(&|r| r.name = "../a".into())), "call a recording"),
            (error(&recording(&|r| r.name = ".a".into())), "call a recording"),
            (error(&recording(&|r| r.name = "a".repeat(129))), "call a recording"),
            (error(&recording(&|r| r.format = Format::Both)), "one file"),
            (error(&recording(&|r| r.backup = Some(Storage::Folder("b".into())))), "backup"),
            (
                error(&recording(&|r| (r.to, r.manifest) = (Storage::TencentVod(Vod::default()), true))),
                "in video on demand",
            ),
            (error(&recording(&|r| (r.audio_only, r.thumbnails) = (true, some(5)))), "sound alone"),
            (error(&recording(&|r| r.segment = secs(61))), "61 s as length of a segment: 1 to 60 s"),
            (error(&recording(&|r| r.split = secs(0))), "0 s as length of a file: 5 to 86400 s"),
            (error(&recording(&|r| r.thumbnails = some(3601))), "3601 s as time between thumbnails"),
            (error(&recording(&|r| r.upload_timeout = secs(90_000))), "upload timeout"),
            (error(&recording(&|r| r.spool_limit_bytes = 1)), "1 as size of the spool in bytes"),
            (error(&|s| s.readiness.selector = Some(String::new())), "selector"),
        ] {
            assert!(message.contains(part), "{message}");
        }
        let compatible = |change: &dyn Fn(&mut CastSpec)| {
            let mut other = spec.clone();
            change(&mut other);
            spec.is_compatible_with(&other)
        };
        assert!(compatible(&|s| s.source.url = SourceUrl::parse("http://b.example/c").unwrap()));
        assert!(compatible(&|s| s.recording = None) && !compatible(&|s| s.network.udp = true));
        assert!(!compatible(&|s| s.limits.disk_bytes *= 2), "a browser gets its disk quota when it starts");
        assert!(
            !compatible(&|s| s.source.fps = Fps::new(29).unwrap())
                && !compatible(&|s| s.readiness.signal = ReadySignal::Webcast)
        );
        let same: CastSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(same, spec, "it survives serialization");
    }
}
