//! The manifest of a recording, `NAME.json` beside its files, for programs.

use pagecast_core::MediaTime;
pub use pagecast_core::ledger::RecordedFile;
use serde::{Deserialize, Serialize};

use super::playlist::format_date_time;

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

/// Whether a stored manifest lists files or runs that the own one does not.
pub(super) fn lists_more(stored: &[u8], own: &[u8]) -> bool {
    /// What both manifests are compared by.
    #[derive(Deserialize)]
    struct Listed {
        #[serde(default)]
        runs: Vec<StartedRun>,
        #[serde(default)]
        files: Vec<NamedFile>,
    }
    /// A run, which is known by its start.
    #[derive(PartialEq, Deserialize)]
    struct StartedRun {
        started_at: String,
    }
    /// A file, which is known by its name.
    #[derive(PartialEq, Deserialize)]
    struct NamedFile {
        name: String,
    }
    let parse = |text: &[u8]| serde_json::from_slice::<Listed>(text).ok();
    let (Some(stored), Some(own)) = (parse(stored), parse(own)) else { return false };
    stored.runs.iter().any(|run| !own.runs.contains(run))
        || stored.files.iter().any(|file| !own.files.contains(file))
}

#[cfg(test)]
mod tests {
    use super::lists_more;

    #[test]
    fn a_manifest_with_more_runs_or_files_is_another_owners() {
        let own = br#"{"runs": [{"started_at": "a"}], "files": [{"name": "rec_0.mp4", "bytes": 1}]}"#;
        assert!(!lists_more(own, own) && !lists_more(b"", own) && !lists_more(b"{}", own));
        assert!(!lists_more(br#"{"runs": [], "files": [{"name": "rec_0.mp4", "bytes": 2}]}"#, own));
        assert!(lists_more(br#"{"runs": [{"started_at": "a"}, {"started_at": "b"}]}"#, own));
        assert!(lists_more(br#"{"files": [{"name": "rec_1.mp4"}]}"#, own));
    }
}
