//! What a cast is asked to do. Every value is checked here and nowhere else.

mod context;
mod health;
mod network;
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
pub use network::{NetworkPolicy, NetworkRefusal, NetworkRule, local_addresses};
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

/// Smallest and largest cap on the video bitrate, in kbit/s.
pub const BITRATE_KBPS_RANGE: std::ops::RangeInclusive<u32> = 50..=100_000;
/// Longest recording.
pub const MAX_DURATION: Duration = Duration::from_secs(86_400);

/// A cast: one page, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CastSpec {
    /// The page.
    pub source: Source,
    /// Cap on the video bitrate in kbit/s; `None` takes [`default_bitrate_kbps`].
    #[serde(default)]
    pub bitrate_kbps: Option<u32>,
    /// The cast ends when it has been live for so long. `None`: when somebody ends it.
    #[serde(default)]
    pub duration: Option<Duration>,
    /// What is recorded.
    #[serde(default)]
    pub recording: Option<Recording>,
    /// Servers that the stream is sent to, at most [`MAX_PUSHES`].
    #[serde(default)]
    pub pushes: Vec<Push>,
    /// The room that the page is published in.
    #[serde(default)]
    pub room: Option<Room>,
    /// A folder for pictures and last words of a page in trouble, made when it is needed.
    #[serde(default)]
    pub evidence: Option<PathBuf>,
    /// When the page may be shown.
    #[serde(default)]
    pub readiness: Readiness,
    /// How the page is watched.
    #[serde(default)]
    pub checks: HealthChecks,
    /// What the cast may use.
    #[serde(default)]
    pub limits: Limits,
    /// What the page may reach, and its pushes may be sent to.
    #[serde(default)]
    pub network: NetworkPolicy,
    /// Whether pushes may be sent anywhere, whatever the network is: they were named by whose machine this
    /// is.
    #[serde(default)]
    pub pushes_anywhere: bool,
    /// Whether an earlier process has shown the page: then the running time goes on from the start of this
    /// one.
    #[serde(default)]
    pub resumed: bool,
}

impl CastSpec {
    /// A cast of this page that goes nowhere yet, with the usual care.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            bitrate_kbps: None,
            duration: None,
            recording: None,
            pushes: Vec::new(),
            room: None,
            evidence: None,
            readiness: Readiness::default(),
            checks: HealthChecks::default(),
            limits: Limits::default(),
            network: NetworkPolicy::default(),
            pushes_anywhere: false,
            resumed: false,
        }
    }

    /// Checks every value that the types leave open.
    ///
    /// # Errors
    /// The first value that is out of range.
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
        if let Some(path) = self.evidence.as_ref().filter(|path| path.to_str().is_none()) {
            return Err(SpecError::Path(path.clone()));
        }
        self.recording.as_ref().map_or(Ok(()), Recording::validate)?;
        push::validate(&self.pushes)?;
        self.room.as_ref().map_or(Ok(()), |room| room.validate(self.source.size, self.source.fps))?;
        self.readiness.validate()?;
        self.checks.validate()?;
        self.limits.validate()
    }

    /// Whether a browser that was made ready for this cast will do for that one.
    #[must_use]
    pub fn is_compatible_with(&self, other: &Self) -> bool {
        self.source.is_compatible_with(&other.source)
            && self.readiness.signal == other.readiness.signal
            && self.limits.max_video == other.limits.max_video
            && self.limits.disk_bytes == other.limits.disk_bytes
            && self.network == other.network
    }

    /// The cap on the video bitrate, in bit/s.
    #[must_use]
    pub fn bitrate_bps(&self) -> u32 {
        1000 * self.bitrate_kbps.unwrap_or_else(|| default_bitrate_kbps(self.source.size, self.source.fps))
    }
}

/// A cap that a busy page of this size reaches without visible loss: 6 Mbit/s at 1280x720 and 30 fps, growing
/// with the square root of the frame rate and slower than the area.
#[must_use]
pub fn default_bitrate_kbps(size: Size, fps: Fps) -> u32 {
    let area = f64::from(size.width() * size.height()) / f64::from(1280 * 720);
    let rate = f64::from(fps.get()) / 30.0;
    let kbps = 6000.0 * area.powf(0.75) * rate.sqrt();
    (kbps as u32).clamp(300, *BITRATE_KBPS_RANGE.end())
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
    /// Not a whole number of frames within [`Fps::OUT_OF_RANGE`].
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
    /// Not text: it could not be told to the process that writes it.
    #[error("cannot write to {}: its name must be UTF-8 text", .0.display())]
    Path(PathBuf),
    /// Not a name of files.
    #[error(
        "cannot call a recording {0:?}: 1 to 128 of the letters a to z and A to Z, digits, and . _ - are possible, no dot in front"
    )]
    RecordingName(String),
    /// Playlists and segments are many files.
    #[error("cannot put HLS into one file: name a folder or a bucket")]
    HlsToFile,
    /// A file and video on demand hold other things than a bucket.
    #[error(
        "cannot name a backup for a file or for video on demand: backups are folders and buckets, for folders and buckets"
    )]
    Backup,
    /// Video on demand holds nothing else.
    #[error("cannot store thumbnails or a list of files in video on demand")]
    VodMediaOnly,
    /// There is nothing to be seen.
    #[error("cannot take thumbnails of sound alone")]
    ThumbnailsWithoutVideo,
    /// A recording cannot be kept there.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A time out of range.
    #[error("cannot use {} s as {field}: {} to {} s are possible", .value.as_secs_f64(), .low.as_secs(), .high.as_secs())]
    DurationOutOfRange {
        /// Which.
        field: Field,
        /// What was asked for.
        value: Duration,
        /// The least.
        low: Duration,
        /// The most.
        high: Duration,
    },
    /// A number out of range.
    #[error("cannot use {value} as {field}: {low} to {high} are possible")]
    NumberOutOfRange {
        /// Which.
        field: Field,
        /// What was asked for.
        value: u64,
        /// The least.
        low: u64,
        /// The most.
        high: u64,
    },
    /// Something for the page that cannot be given to it.
    #[error("cannot use this {what}: {why}")]
    Context {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Not the address of a server that takes a stream; without the address, which is a secret.
    #[error("cannot push to this address: {0}")]
    Push(&'static str),
    /// Not something that a page can be published in, or with.
    #[error("cannot use {what}: {why}")]
    Room {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Not a [`NetworkRule`].
    #[error(
        "cannot read {0:?} as a network rule: write an address, a network like 10.0.0.0/8, a name, *.name or *, each with :PORT if you like"
    )]
    NetworkRule(String),
}

/// A value of a [`CastSpec`] that has a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are shown by the words below")]
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
            Self::ReadyTimeout => "time to wait for the page's call",
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
            Self::UploadTimeout => "time to wait for storage",
            Self::Spool => "bytes of the spool",
        })
    }
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
        let long = |text: &str| SourceUrl::parse(&format!("http://a.example/{}", text.repeat(1024)));
        assert!(long("𠀀").is_ok(), "12 bytes each");
        assert_eq!(long("页页").unwrap_err(), SpecError::UrlLength("http://a.example/".len() + 9 * 2048));
        for (text, hint) in [
            ("localhost:3000", ", write http://localhost:3000 or"),
            ("a.example:80/b", ", write http://a.example:80/b or"),
            ("/home/me/x.html", ", write one like https://"),
            ("", ", write one like https://"),
        ] {
            let said = SourceUrl::parse(text).unwrap_err().to_string();
            assert!(said.contains(hint) && !said.contains("http:///"), "{text}: {said}");
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
        let mut spec = CastSpec::new(Source::new(SourceUrl::parse("http://a.example").unwrap()));
        spec.recording = Some(Recording::new("a", Storage::File("a.mp4".into()), "a.spool".into()));
        assert_eq!(spec.validate(), Ok(()));
        assert_eq!(spec.bitrate_bps(), 6_000_000);
        let refused = |change: &dyn Fn(&mut CastSpec)| {
            let mut bad = spec.clone();
            change(&mut bad);
            bad.validate().unwrap_err().to_string()
        };
        fn recording(change: &dyn Fn(&mut Recording)) -> impl Fn(&mut CastSpec) {
            move |spec| spec.recording.as_mut().map_or((), change)
        }
        let secs = Duration::from_secs;
        let some = |s| Some(secs(s));
        for (said, words) in [
            (refused(&|s| s.source.scale_factor = f64::NAN), "scale factor NaN"),
            (refused(&|s| s.bitrate_kbps = Some(1)), "bitrate of 1 kbit/s"),
            (refused(&|s| s.duration = Some(Duration::ZERO)), "record for 0 s"),
            (
                refused(&|s| s.readiness.timeout = secs(61)),
                "61 s as time to wait for the page's call: 0 to 60 s",
            ),
            (refused(&|s| s.checks.freeze = some(1)), "1 s as interval of the freeze check: 2 to 30 s"),
            (refused(&|s| s.checks.blank = some(31)), "31 s as interval of the blank check: 2 to 30 s"),
            (refused(&|s| s.checks.crash = some(31)), "31 s as interval of the crash check: 1 to 30 s"),
            (refused(&|s| s.limits.max_time = secs(9)), "9 s as maximum running time: 10 to 86400 s"),
            (refused(&|s| s.limits.attempts = 0), "0 as number of attempts: 1 to 10"),
            (refused(&|s| s.limits.memory_bytes = 1), "1 as memory"),
            (refused(&|s| s.limits.disk_bytes = 1), "1 as disk space of the browser in bytes: 268435456 to"),
            (refused(&|s| s.limits.cpu_weight = 0), "0 as CPU weight"),
            (refused(&recording(&|r| r.name = "../a".into())), "call a recording"),
            (refused(&recording(&|r| r.name = ".a".into())), "call a recording"),
            (refused(&recording(&|r| r.name = "a".repeat(129))), "call a recording"),
            (refused(&recording(&|r| r.format = Format::Both)), "one file"),
            (refused(&recording(&|r| r.backup = Some(Storage::Folder("b".into())))), "backup"),
            (
                refused(&recording(&|r| (r.to, r.manifest) = (Storage::TencentVod(Vod::default()), true))),
                "in video on demand",
            ),
            (refused(&recording(&|r| (r.audio_only, r.thumbnails) = (true, some(5)))), "sound alone"),
            (refused(&recording(&|r| r.segment = secs(61))), "61 s as length of a segment: 1 to 60 s"),
            (refused(&recording(&|r| r.split = secs(0))), "0 s as length of a file: 5 to 86400 s"),
            (refused(&recording(&|r| r.thumbnails = some(3601))), "3601 s as time between thumbnails"),
            (refused(&recording(&|r| r.upload_timeout = secs(90_000))), "time to wait for storage"),
            (refused(&recording(&|r| r.spool_limit_bytes = 1)), "1 as bytes of the spool"),
            (refused(&|s| s.readiness.selector = Some(String::new())), "selector"),
        ] {
            assert!(said.contains(words), "{said}");
        }
        let other = |change: &dyn Fn(&mut CastSpec)| {
            let mut other = spec.clone();
            change(&mut other);
            spec.is_compatible_with(&other)
        };
        assert!(other(&|s| s.source.url = SourceUrl::parse("http://b.example/c").unwrap()));
        assert!(other(&|s| s.recording = None) && !other(&|s| s.network.udp = true));
        assert!(!other(&|s| s.limits.disk_bytes *= 2), "its browser has its quota from the start");
        assert!(
            !other(&|s| s.source.fps = Fps::new(29).unwrap())
                && !other(&|s| s.readiness.signal = ReadySignal::Webcast)
        );
        let same: CastSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(same, spec, "it survives the way to the process that runs it");
    }
}
