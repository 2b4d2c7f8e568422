//! What happens to casts.

use pagecast_core::cast::{EndReason, HealthFault, LoadError, Warning};
use pagecast_core::connection;
use serde::{Deserialize, Serialize};

use crate::{CastId, UnixMs};

/// One step in the history of a cast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// From 1, without a gap within its cast.
    pub seq: u64,
    /// When.
    pub at_ms: UnixMs,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Event {
    /// Names it among all events of all casts, for ever: who hears it twice can tell.
    #[must_use]
    pub fn id(&self, cast: &CastId) -> String {
        format!("{cast}-{}", self.seq)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// It was asked for.
    Queued,
    /// A worker took it for the first time.
    Started,
    /// The page is in the outputs for the first time.
    Live,
    /// The page is loaded again.
    Reloaded {
        /// What was wrong with it.
        fault: HealthFault,
    },
    /// The page gets a fresh browser.
    Moved {
        /// What was wrong with it.
        fault: HealthFault,
    },
    /// Its process died, and another one goes on.
    Restarted,
    /// The service that ran it is gone, and another one, or the same again, goes on.
    Resumed,
    /// Nothing is recorded any more, though it goes on.
    RecordingStopped,
    /// A push of it is in another state, or still in the same.
    Push {
        /// Its number within the cast, from 1; the first ones are those of the description, in their order.
        id: u32,
        /// Where the stream is sent, without its key.
        url: String,
        /// Where it stands.
        state: connection::State,
        /// Why it does not run, if that is so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Its room is in another state.
    Room {
        /// Where the connection stands.
        state: connection::State,
        /// Why it does not run, if that is so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Storing its recording has been failing for a while, or gets on again.
    Upload {
        /// Whether it is failing.
        failing: bool,
        /// Files that wait.
        pending: usize,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Its owner should know this; it goes on.
    Warning {
        /// What.
        warning: Warning,
    },
    /// It is over.
    Ended {
        /// Why, in a word.
        reason: EndReason,
        /// For people, without secrets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// Why its page could not be loaded, if that is why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<LoadError>,
    },
    /// What was recorded is stored, or will not be.
    Stored {
        /// The files that players open.
        files: Vec<StoredFile>,
        /// Whether all of them are where they should be.
        complete: bool,
        /// Whether they are in the backup instead.
        backup: bool,
        /// Why not, if not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

/// A file that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Its name, without folders.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// When its first frame was shown.
    pub begin_ms: UnixMs,
    /// When its last one was.
    pub end_ms: UnixMs,
    /// The id that video on demand gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_id: Option<String>,
    /// Its address, if the storage told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}
