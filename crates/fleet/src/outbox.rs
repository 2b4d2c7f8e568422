//! Events that somebody has yet to be told of.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Cast, Event, UnixMs};

/// Longest pause between two tries to tell of an event: none lies further ahead than that, whatever clocks
/// do.
pub const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);

/// An event whose time to be told has come.
#[derive(Debug, Clone)]
pub struct OutboxEntry {
    /// Whose, without what is put into its page.
    pub cast: Cast,
    /// Which.
    pub event: Event,
    /// How often it was tried.
    pub attempts: u32,
    /// How long ago it was tried for the first time, whatever the system clock did since.
    pub since_first_attempt: Option<Duration>,
    /// Messages of it that arrived already: an event may be several.
    pub parts_delivered: u32,
}

/// What came of telling an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// All of it arrived, or there was nothing to tell.
    Delivered,
    /// This many messages of it arrived; the next one can go at once.
    PartDelivered(u32),
    /// It is to be tried again after this pause, or after [`MAX_RETRY_DELAY`].
    RetryAfter(Duration),
    /// Nobody tries again, unless asked to.
    GivenUp,
}

/// What comes of having events of a cast told again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RedeliverOutcome {
    /// Events that are told again.
    pub requeued: u64,
    /// Events of the cast that wait to be told, those included.
    pub pending: u64,
    /// How long it is until the first of them is due.
    pub next_due_in: Option<Duration>,
}

/// One try to tell somebody: an entry of the delivery log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
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
    pub pending: u64,
    /// When the oldest of them happened.
    pub oldest_event_ms: Option<UnixMs>,
    /// Events given up that are remembered.
    pub given_up: u64,
}
