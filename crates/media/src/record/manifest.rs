//! The manifest of a recording, `NAME.json` beside its files, for programs.

use pagecast_core::MediaTime;
use serde::{Deserialize, Serialize};

use super::playlist::format_date_time;

/// A file of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// File name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Time of day at its start, in ms since 1970.
    pub start_unix_ms: i64,
    /// Time of day at its end, in ms since 1970.
    pub end_unix_ms: i64,
    /// Id of the asset in video on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    /// Playback address in video on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The time of one run. Between two runs the recording was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RunSpan {
    /// Time of day of the start (RFC 3339).
    pub(super) started_at: String,
    /// Start in the recording, in ms.
    pub(super) start_ms: i64,
    pub(super) duration_ms: i64,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) duration_ms: i64,
    pub(super) runs: Vec<RunSpan>,
    /// The MP4 files.
    pub(super) files: Vec<RecordedFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) playlist: Option<String>,
    pub(super) segments: usize,
    pub(super) thumbnails: Vec<ThumbnailEntry>,
}

/// A thumbnail of the recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ThumbnailEntry {
    pub(super) name: String,
    /// Time in the recording, in ms.
    pub(super) at_ms: i64,
}

impl RunSpan {
    pub(super) fn new(unix_ms: i64, at: MediaTime, duration: MediaTime) -> Self {
        Self {
            started_at: format_date_time(unix_ms),
            start_ms: at.as_millis(),
            duration_ms: duration.as_millis(),
        }
    }
}
