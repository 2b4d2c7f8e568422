//! What a recording consists of, for programs: `name.json` beside its files.

use pagecast_core::MediaTime;
use serde::{Deserialize, Serialize};

use super::playlist::format_date_time;

/// A file of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What time it was at its beginning and its end, in milliseconds since 1970.
    pub start_unix_ms: i64,
    /// See `start_unix_ms`.
    pub end_unix_ms: i64,
    /// What video on demand calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    /// Where video on demand shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A time in which one encoder ran; between two of them the recording was broken off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RunSpan {
    /// When it began, as a date.
    pub(super) started_at: String,
    /// Where it begins in the recording.
    pub(super) at_ms: i64,
    pub(super) duration_ms: i64,
}

/// The whole recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) duration_ms: i64,
    pub(super) runs: Vec<RunSpan>,
    /// MP4 files.
    pub(super) files: Vec<RecordedFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) playlist: Option<String>,
    pub(super) segments: usize,
    pub(super) thumbnails: Vec<ThumbnailEntry>,
}

/// A picture of the recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ThumbnailEntry {
    pub(super) name: String,
    /// When, in the recording.
    pub(super) at_ms: i64,
}

impl RunSpan {
    pub(super) fn new(unix_ms: i64, at: MediaTime, duration: MediaTime) -> Self {
        Self {
            started_at: format_date_time(unix_ms),
            at_ms: at.as_millis(),
            duration_ms: duration.as_millis(),
        }
    }
}
