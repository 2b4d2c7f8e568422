//! Events of casts.

use pagecast_core::cast::{EndReason, HealthFault, LoadError, Warning};
use pagecast_core::connection;
use serde::{Deserialize, Serialize};

use crate::{CastId, UnixMs};

/// Maximum number of events stored per cast. Later events are only counted, except for the end and stored
/// files. A push that connects and disconnects every second produces 86 400 a day.
pub const MAX_EVENTS: usize = 10_000;

/// One entry in the history of a cast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number within the cast, from 1, without gaps.
    pub seq: u64,
    /// Time of the event.
    pub at_ms: UnixMs,
    /// Kind of the event and its data.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// Id of the event, unique among all events of all casts, by which receivers recognise duplicates.
    #[must_use]
    pub fn id(&self, cast: &CastId) -> String {
        format!("{cast}-{}", self.seq)
    }
}

/// Kind of an event and its data. The aliases are names that earlier versions stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// The cast was created.
    Queued,
    /// A worker claimed the cast for the first time.
    Started,
    /// The page is in the outputs for the first time.
    Live,
    /// The page is being reloaded.
    Reloaded {
        /// Reason of the reload.
        #[serde(alias = "trouble")]
        fault: HealthFault,
    },
    /// The page moves to a fresh browser.
    Moved {
        /// Reason of the move.
        #[serde(alias = "trouble")]
        fault: HealthFault,
    },
    /// The cast's process died and was replaced.
    Restarted,
    /// The node that ran the cast was lost: its lease expired.
    LostNode {
        /// Name of the lost node.
        node: String,
    },
    /// The cast resumed after its service instance was lost.
    #[serde(alias = "taken-up")]
    Resumed {
        /// Name of the node that goes on; earlier versions did not store it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// The recording stopped, but the cast continues.
    #[serde(alias = "unrecorded")]
    RecordingStopped,
    /// A push changed its state, or is still not running.
    Push {
        /// Number within the cast, from 1; the pushes of the description come first, in their order.
        id: u32,
        /// Address of the server, without its key.
        url: String,
        /// State of the connection.
        state: connection::State,
        /// Error, if the push is not running because of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The room changed its state.
    Room {
        /// State of the connection.
        state: connection::State,
        /// Error, if the room is not connected because of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Uploads of the recording have been failing for a while, or work again.
    #[serde(alias = "storing")]
    Upload {
        /// Whether uploads are failing.
        #[serde(alias = "stuck")]
        failing: bool,
        /// Number of files waiting to be uploaded.
        pending: usize,
        /// Error, if uploads are failing.
        #[serde(default, skip_serializing_if = "Option::is_none", alias = "problem")]
        error: Option<String>,
    },
    /// A problem that the owner should know about, and that does not end the cast.
    Warning {
        /// Kind of the warning.
        warning: Warning,
    },
    /// The cast ended.
    Ended {
        /// Reason of the end.
        reason: EndReason,
        /// Explanation for users, without secrets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// Error of the page load, if that is the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<LoadError>,
    },
    /// The recording was stored, or storing it was given up.
    Stored {
        /// Files that players open.
        files: Vec<StoredFile>,
        /// Whether all files were stored.
        complete: bool,
        /// Whether they were stored in the backup.
        backup: bool,
        /// Error, if not all files were stored.
        #[serde(default, skip_serializing_if = "Option::is_none", alias = "problem")]
        error: Option<String>,
    },
}

/// A stored file of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Name without folders.
    pub name: String,
    /// Size, in bytes.
    pub bytes: u64,
    /// Time at which the first frame was shown.
    pub begin_ms: UnixMs,
    /// Time at which the last frame was shown.
    pub end_ms: UnixMs,
    /// Id assigned by video on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_id: Option<String>,
    /// Address of the file, if the storage returned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_earlier_versions_are_read() {
        let ended = |reason| EventKind::Ended { reason, message: None, cause: None };
        for (old, new) in [
            (r#"{"event":"taken-up"}"#, EventKind::Resumed { node: None }),
            (r#"{"event":"resumed"}"#, EventKind::Resumed { node: None }),
            (r#"{"event":"unrecorded"}"#, EventKind::RecordingStopped),
            (r#"{"event":"moved","trouble":"crash"}"#, EventKind::Moved { fault: HealthFault::Crash }),
            (
                r#"{"event":"storing","stuck":true,"pending":2,"problem":"full"}"#,
                EventKind::Upload { failing: true, pending: 2, error: Some("full".to_owned()) },
            ),
            (r#"{"event":"ended","reason":"large-video"}"#, ended(EndReason::VideoTooLarge)),
            (
                r#"{"event":"ended","reason":{"gave-up":"crash"}}"#,
                ended(EndReason::PageFailed(HealthFault::Crash)),
            ),
        ] {
            assert_eq!(serde_json::from_str::<EventKind>(old).unwrap(), new, "{old}");
        }
    }
}
