//! Recording of a cast: format, files and storage.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::validate_duration;
use super::{Field, SpecError, Storage};

/// Range of the duration of a segment.
pub const SEGMENT_DURATION_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(60);
/// Range of the duration of an MP4 file.
pub const SPLIT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(86_400);
/// Largest MP4 file, in bytes: players and file systems with signed 32-bit sizes handle it. A file ends
/// before the segment that would exceed this.
pub const MAX_FILE_BYTES: u64 = 2 << 30;
/// Range of the interval of thumbnails.
pub const THUMBNAIL_INTERVAL_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);
/// Range of the time for uploads after the end of a cast.
pub const UPLOAD_TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(86_400);
/// Range of the size limit of a spool, in bytes.
pub const SPOOL_LIMIT_RANGE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;
/// Longest name of a recording, in characters.
pub const MAX_RECORDING_NAME_LEN: usize = 128;
/// Longest interval between two keyframes: viewers who join late wait for the next one.
pub const KEYFRAME_INTERVAL: Duration = Duration::from_secs(4);

/// A recording: a sequence of segments in a spool, uploaded as they close.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// Name of all files, as in `name_0.mp4` and `name.m3u8`: 1 to 128 of `a–z A–Z 0–9 . _ -`, without a
    /// leading dot.
    pub name: String,
    /// Storage of the recording.
    pub to: Storage,
    /// Storage for the whole recording if `to` fails; both must be folders or buckets. With a backup, nothing
    /// is removed from the spool before everything is stored.
    #[serde(default)]
    pub backup: Option<Storage>,
    /// File format.
    #[serde(default)]
    pub format: Format,
    /// Whether existing files may be replaced.
    #[serde(default)]
    pub overwrite: bool,
    /// Size limit of the spool in bytes, 1 MiB to 1 PiB: the folder for what is not stored yet. When it is
    /// reached, recording stops and the recorded part is kept.
    #[serde(default = "default_spool_limit_bytes")]
    pub spool_limit_bytes: u64,
    /// Duration of a segment, 1 to 60 s.
    #[serde(default = "default_segment")]
    pub segment: Duration,
    /// Duration of an MP4 file, 5 s to 24 h, exact to a frame. A new file starts at each multiple of it,
    /// counted from the start of the recording, and before a file would exceed [`MAX_FILE_BYTES`].
    #[serde(default = "default_split")]
    pub split: Duration,
    /// Interval of thumbnails (JPEG), 1 s to 1 h.
    #[serde(default)]
    pub thumbnails: Option<Duration>,
    /// Whether a list of all files is stored with them, as `name.json`.
    #[serde(default)]
    pub manifest: bool,
    /// Whether to record audio without video.
    #[serde(default)]
    pub audio_only: bool,
    /// Time for uploads after the end of the cast, 0 to 24 h. Data that is not stored by then stays in the
    /// spool.
    #[serde(default = "default_upload_timeout", alias = "patience")]
    pub upload_timeout: Duration,
    /// Whether to continue an interrupted recording: from its spool, or else from its ledger.
    #[serde(default)]
    pub resume: bool,
}

/// File format of a recording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// MP4 files with the index at the front.
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
    /// Whether the format includes MP4 files.
    #[must_use]
    pub fn has_mp4(self) -> bool {
        matches!(self, Self::Mp4 | Self::Both | Self::BothTs)
    }

    /// Whether the format includes HLS segments and playlists.
    #[must_use]
    pub fn has_hls(self) -> bool {
        self != Self::Mp4
    }

    /// Whether the HLS segments are MPEG-TS.
    #[must_use]
    pub fn is_ts(self) -> bool {
        matches!(self, Self::HlsTs | Self::BothTs)
    }
}

impl Recording {
    /// Creates an MP4 recording with default segments and limits.
    #[must_use]
    pub fn new(name: impl Into<String>, to: Storage) -> Self {
        Self {
            name: name.into(),
            to,
            backup: None,
            format: Format::Mp4,
            overwrite: false,
            spool_limit_bytes: default_spool_limit_bytes(),
            segment: default_segment(),
            split: default_split(),
            thumbnails: None,
            manifest: false,
            audio_only: false,
            upload_timeout: default_upload_timeout(),
            resume: false,
        }
    }

    /// Creates a recording to one MP4 file.
    #[must_use]
    pub fn to_file(path: PathBuf) -> Self {
        let stem = path.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
        let good = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = stem.chars().map(good).take(MAX_RECORDING_NAME_LEN).collect();
        let name = if name.is_empty() { "recording".to_owned() } else { name };
        Self::new(name, Storage::File(path))
    }

    /// Interval between two keyframes, of which each segment holds a whole number.
    #[must_use]
    pub fn keyframe_interval(&self) -> Duration {
        let parts = self.segment.as_millis().div_ceil(KEYFRAME_INTERVAL.as_millis()).max(1);
        self.segment / u32::try_from(parts).unwrap_or(1)
    }

    /// Validates every value that the types do not restrict.
    ///
    /// # Errors
    /// The first invalid value.
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
        for storage in [Some(&self.to), self.backup.as_ref()].into_iter().flatten() {
            storage.validate()?;
            if matches!(storage, Storage::File(_)) && self.format != Format::Mp4 {
                return Err(SpecError::HlsToFile);
            }
        }
        let has_no_backup = |storage: &Storage| matches!(storage, Storage::File(_) | Storage::TencentVod(_));
        if self.backup.as_ref().is_some_and(|backup| has_no_backup(backup) || has_no_backup(&self.to)) {
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
