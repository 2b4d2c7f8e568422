//! Events that somebody has yet to be told of.

use serde::{Deserialize, Serialize};

use crate::{Cast, Event, UnixMs};

/// An event whose time to be told has come.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Whose.
    pub cast: Cast,
    /// Which.
    pub event: Event,
    /// How often it was tried.
    pub tries: u32,
    /// When it was tried for the first time.
    pub first_try_ms: Option<UnixMs>,
    /// Messages of it that arrived already: an event may be several.
    pub parts_done: u32,
}

/// What came of telling an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// All of it arrived, or there was nothing to tell.
    Done,
    /// This many messages of it arrived; the next one can go at once.
    Part(u32),
    /// It is to be tried again at this time.
    Again(UnixMs),
    /// Nobody tries again, unless asked to.
    GivenUp,
}

/// One try to tell somebody: an entry of the delivery log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which event.
    pub seq: u64,
    /// Which of its messages, from 0.
    pub part: u32,
    /// When.
    pub at_ms: UnixMs,
    /// How long it took.
    pub took_ms: u64,
    /// Where to: scheme, host and path.
    pub url: String,
    /// What the receiver answered, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it did not arrive, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What waits to be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events not settled.
    pub waiting: u64,
    /// When the oldest of them happened.
    pub oldest_ms: Option<UnixMs>,
    /// Events given up that are remembered.
    pub given_up: u64,
}
