//! Events that are still to be delivered to the receivers of callbacks.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Cast, CastId, Error, Event, UnixMs};

/// Longest delay between two delivery attempts of an event. Longer ones are shortened to it, so that no entry
/// waits unreasonably long after a clock was set.
pub const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);

/// An event that is due for delivery.
#[derive(Debug, Clone)]
pub struct OutboxEntry {
    /// Cast of the event, without the data that is injected into its page.
    pub cast: Cast,
    /// Event to deliver.
    pub event: Event,
    /// Number of failed attempts so far.
    pub attempts: u32,
    /// Time since the first attempt, independent of changes of the system clock.
    pub since_first_attempt: Option<Duration>,
    /// Number of messages already delivered; an event may consist of several.
    pub parts_delivered: u32,
}

/// Outcome of a delivery attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// All messages were delivered, or there was none to send.
    Delivered,
    /// This many messages were delivered; the next one can be sent at once.
    PartDelivered(u32),
    /// The attempt failed: retry after this delay, at most [`MAX_RETRY_DELAY`].
    RetryAfter(Duration),
    /// The attempt failed: do not retry unless requested.
    GivenUp,
}

/// Result of a request to redeliver events of a cast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RedeliverOutcome {
    /// Number of events queued for redelivery.
    pub requeued: u64,
    /// Number of pending events of the cast, including those.
    pub pending: u64,
    /// Time until the first of them is due.
    pub next_due_in: Option<Duration>,
}

/// A delivery attempt: one entry of the delivery log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    /// Number of the event.
    pub seq: u64,
    /// Number of the message within the event, from 0.
    pub part: u32,
    /// Start of the attempt.
    pub at_ms: UnixMs,
    /// Duration of the attempt, in milliseconds.
    pub took_ms: u64,
    /// Address of the receiver: scheme, host and path.
    pub url: String,
    /// HTTP status of the response, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Beginning of the response's body, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Error, if the message was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Summary of the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Number of pending events.
    pub pending: u64,
    /// Time of the oldest pending event.
    pub oldest_event_ms: Option<UnixMs>,
    /// Number of stored events whose delivery was given up.
    pub given_up: u64,
}

/// Events to be delivered to the receivers of callbacks, for dispatchers.
#[async_trait]
pub trait Outbox: Debug + Send + Sync {
    /// Returns entries that are due, the longest waiting first: at most the first pending event of each cast
    /// that is not in `skip`. There may be fewer than `limit` if they are large; an empty result means that
    /// no entry is due.
    ///
    /// If several nodes share the fleet, this node claims the entries for half a minute. Meanwhile no other
    /// node gets an event of the same casts, and this one gets them again.
    async fn due_entries(&self, limit: usize, skip: &HashSet<CastId>) -> Result<Vec<OutboxEntry>, Error>;

    /// Returns the time until the next entry becomes due, not counting those that are due already.
    async fn next_due_in(&self) -> Result<Option<Duration>, Error>;

    /// Records the outcome of a delivery, and the attempt if a message was sent. The outcome is ignored if
    /// another node has claimed the event since.
    ///
    /// # Errors
    /// [`Error::CastNotFound`].
    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        outcome: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) -> Result<(), Error>;

    /// Returns the last 1000 delivery attempts of a cast, in order.
    ///
    /// # Errors
    /// [`Error::CastNotFound`].
    async fn attempts(&self, cast: &CastId) -> Result<Vec<DeliveryAttempt>, Error>;

    /// Queues an event for redelivery, as if it had never been attempted. Without `seq`, it does so for all
    /// events that were given up, and makes events that wait for a retry due at once.
    ///
    /// # Errors
    /// [`Error::CastNotFound`].
    async fn redeliver(&self, cast: &CastId, seq: Option<u64>) -> Result<RedeliverOutcome, Error>;

    /// Returns a summary of the outbox.
    async fn backlog(&self) -> Result<Backlog, Error>;
}
