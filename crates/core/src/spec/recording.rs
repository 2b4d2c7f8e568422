//! What is recorded, and how it is cut.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::validate_duration;
use super::{Field, SpecError, Storage};

/// Length of a segment.
pub const SEGMENT_DURATION_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(60);
/// Longest MP4 file.
pub const SPLIT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(86_400);
/// Largest MP4 file, in bytes; a file is ended before the segment that would make it larger.
pub const MAX_FILE_BYTES: u64 = 2 << 30;
/// Time between two thumbnails.
pub const THUMBNAIL_INTERVAL_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);
/// Time that storage is waited for at the end.
pub const UPLOAD_TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(86_400);
/// Bytes that a spool may hold.
pub const SPOOL_LIMIT_RANGE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;
/// Longest name of a recording, in characters.
pub const MAX_RECORDING_NAME_LEN: usize = 128;
/// Longest time between two keyframes: those who come late wait for one.
pub const KEYFRAME_INTERVAL: Duration = Duration::from_secs(4);

/// A recording: a chain of segments in a spool, stored as they close.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// What all its files are called: `name_0.mp4`, `name.m3u8`. 1 to 128 of `a–z A–Z 0–9 . _ -`, no dot in
    /// front.
    pub name: String,
    /// Where it is kept.
    pub to: Storage,
    /// Where all of it is kept instead if that does not answer. From one folder or bucket to another; then
    /// nothing leaves the spool before all is stored.
    #[serde(default)]
    pub backup: Option<Storage>,
    /// What it is made into.
    #[serde(default)]
    pub format: Format,
    /// Whether an existing file may be replaced.
    #[serde(default)]
    pub overwrite: bool,
    /// The folder for what is not stored yet. Made for the recording, and removed when all of it is stored.
    pub spool: PathBuf,
    /// Bytes it may hold, 1 MiB to 1 PiB. Beyond that nothing more is recorded; what was recorded is kept.
    #[serde(default = "default_spool_limit_bytes")]
    pub spool_limit_bytes: u64,
    /// Length of a segment, 1 to 60 s.
    #[serde(default = "default_segment")]
    pub segment: Duration,
    /// Length of an MP4 file, 5 s to 24 h, exact to a frame. The recording goes on in another one at every
    /// multiple of it, counted from its beginning, and before a file would exceed [`MAX_FILE_BYTES`].
    #[serde(default = "default_split")]
    pub split: Duration,
    /// Time between two thumbnails (JPEG), 1 s to 1 h.
    #[serde(default)]
    pub thumbnails: Option<Duration>,
    /// Whether a list of all its files is stored with them, `name.json`.
    #[serde(default)]
    pub manifest: bool,
    /// No picture, only sound.
    #[serde(default)]
    pub audio_only: bool,
    /// How long storage is waited for at the end, 0 to 24 h. What is not stored then stays in the spool.
    #[serde(default = "default_upload_timeout")]
    pub upload_timeout: Duration,
    /// Go on with the recording that is in the spool.
    #[serde(default)]
    pub resume: bool,
    /// A file that says what was stored and where (JSON), written when all is, before the spool goes: for
    /// whoever was not there.
    #[serde(default)]
    pub receipt: Option<PathBuf>,
}

/// What a recording is made into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// MP4 files with their index in front.
    #[default]
    Mp4,
    /// Segments of fragmented MP4 and playlists.
    Hls,
    /// Segments of MPEG-TS and playlists.
    HlsTs,
    /// MP4 files, and segments of fragmented MP4 and playlists.
    Both,
    /// MP4 files, and segments of MPEG-TS and playlists.
    BothTs,
}

impl Format {
    /// Whether MP4 files are made.
    #[must_use]
    pub fn has_mp4(self) -> bool {
        matches!(self, Self::Mp4 | Self::Both | Self::BothTs)
    }

    /// Whether segments are stored, with playlists.
    #[must_use]
    pub fn has_hls(self) -> bool {
        self != Self::Mp4
    }

    /// Whether these segments are MPEG-TS.
    #[must_use]
    pub fn is_ts(self) -> bool {
        matches!(self, Self::HlsTs | Self::BothTs)
    }
}

impl Recording {
    /// A recording as MP4, with the usual segments.
    #[must_use]
    pub fn new(name: impl Into<String>, to: Storage, spool: PathBuf) -> Self {
        Self {
            name: name.into(),
            to,
            backup: None,
            format: Format::Mp4,
            overwrite: false,
            spool,
            spool_limit_bytes: default_spool_limit_bytes(),
            segment: default_segment(),
            split: default_split(),
            thumbnails: None,
            manifest: false,
            audio_only: false,
            upload_timeout: default_upload_timeout(),
            resume: false,
            receipt: None,
        }
    }

    /// A recording to one MP4 file: `talk.mp4` has its spool in `talk.mp4.spool`.
    #[must_use]
    pub fn to_file(path: PathBuf) -> Self {
        let mut spool = path.clone().into_os_string();
        spool.push(".spool");
        let stem = path.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
        let good = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = stem.chars().map(good).take(MAX_RECORDING_NAME_LEN).collect();
        let name = if name.is_empty() { "recording".to_owned() } else { name };
        Self::new(name, Storage::File(path), spool.into())
    }

    /// Time between two keyframes: a segment is a whole number of them.
    #[must_use]
    pub fn keyframe_interval(&self) -> Duration {
        let parts = self.segment.as_millis().div_ceil(KEYFRAME_INTERVAL.as_millis()).max(1);
        self.segment / u32::try_from(parts).unwrap_or(1)
    }

    /// Checks every value that the types leave open.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn validate(&self) -> Result<(), SpecError> {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name = &self.name;
        if name.is_empty()
            || name.len() > MAX_RECORDING_NAME_LEN
            || name.starts_with('.')
            || !name.chars().all(good)
        {
            return Err(SpecError::RecordingName(name.clone()));
        }
        for path in [Some(&self.spool), self.receipt.as_ref()].into_iter().flatten() {
            if path.to_str().is_none() {
                return Err(SpecError::Path(path.clone()));
            }
        }
        for storage in [Some(&self.to), self.backup.as_ref()].into_iter().flatten() {
            storage.validate()?;
            if matches!(storage, Storage::File(_)) && self.format != Format::Mp4 {
                return Err(SpecError::HlsToFile);
            }
        }
        let alone = |storage: &Storage| matches!(storage, Storage::File(_) | Storage::TencentVod(_));
        if self.backup.as_ref().is_some_and(|backup| alone(backup) || alone(&self.to)) {
            return Err(SpecError::Backup);
        }
        if matches!(self.to, Storage::TencentVod(_)) && (self.thumbnails.is_some() || self.manifest) {
            return Err(SpecError::VodMediaOnly);
        }
        if self.audio_only && self.thumbnails.is_some() {
            return Err(SpecError::ThumbnailsWithoutVideo);
        }
        validate_duration(Field::Segment, self.segment, &SEGMENT_DURATION_RANGE)?;
        validate_duration(Field::Split, self.split, &SPLIT_RANGE)?;
        validate_duration(Field::UploadTimeout, self.upload_timeout, &UPLOAD_TIMEOUT_RANGE)?;
        self.thumbnails
            .map_or(Ok(()), |every| validate_duration(Field::Thumbnails, every, &THUMBNAIL_INTERVAL_RANGE))?;
        let (low, high) = (*SPOOL_LIMIT_RANGE.start(), *SPOOL_LIMIT_RANGE.end());
        if SPOOL_LIMIT_RANGE.contains(&self.spool_limit_bytes) {
            Ok(())
        } else {
            Err(SpecError::NumberOutOfRange { field: Field::Spool, value: self.spool_limit_bytes, low, high })
        }
    }
}

fn default_spool_limit_bytes() -> u64 {
    50 << 30
}

fn default_segment() -> Duration {
    Duration::from_secs(4)
}

fn default_split() -> Duration {
    *SPLIT_RANGE.end()
}

fn default_upload_timeout() -> Duration {
    Duration::from_secs(600)
}
