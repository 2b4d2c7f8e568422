//! Storage of casts that outlives processes: who requested them, who runs them, their history, and the events
//! that are still to be delivered.
//!
//! A server creates casts ([`Casts::create`]), workers claim them ([`Leases::claim`]) and report events
//! ([`Leases::report_event`]). Each report is one transaction: the cast's state, its history and its outbox
//! change together. A worker owns a cast by a lease with an epoch. A worker that lost its lease to another is
//! fenced from then on, so that a cast has one owner at a time.
//!
//! [`Fleet`] is the sum of the traits [`Casts`], [`Leases`], [`Outbox`], [`Documents`], [`Telemetry`],
//! [`AuditTrail`] and [`Accounting`].
//! [`sqlite`] is the embedded backend, for one machine, and [`postgres`] the backend for many. Both follow
//! the same decisions ([`lifecycle`], [`quota`], [`queue`], [`delivery`], [`clock`] …) and only store their
//! results; `tests/contract.rs` specifies what any backend must do. [`Rooms`] is the table of embedded rooms,
//! and [`AnsweredRequests`] that of requests that must not be answered again.
//!
//! Deliberately absent: pages, media, HTTP, and the vocabulary of the vendors' APIs.

mod answered;
mod audit;
pub mod cast;
mod casts;
mod clock;
mod daily_use;
mod database_state;
mod delivery;
mod documents;
pub mod event;
mod injected;
mod leases;
mod lifecycle;
pub mod outbox;
mod paging;
mod pending_work;
pub mod postgres;
mod queue;
mod quota;
mod retention;
mod rooms;
mod running_casts;
mod sealing;
pub mod sqlite;
mod telemetry;
mod telemetry_table;
mod time_limit;
pub mod vault;

pub use answered::{AnsweredCursor, AnsweredRequest, AnsweredRequests, MAX_ANSWERED};
pub use audit::{
    AuditEntry, AuditFilter, AuditPage, AuditRole, AuditTrail, MAX_AUDIT_APPEND, MAX_AUDIT_ENTRIES,
};
pub use cast::{
    Cast, CastEnd, CastId, CastKey, CastPage, CastState, CreateOutcome, Filter, KeyRetention, NewCast,
};
pub use casts::Casts;
pub use daily_use::{Accounting, DailyUse, USE_RETENTION_DAYS};
pub use database_state::DatabaseState;
pub use documents::{Document, DocumentList, Documents};
pub use event::{Event, EventKind, MAX_EVENTS, StoredFile};
pub use leases::{
    Claim, Command, ExpiredLease, Leases, MAX_COMMANDS, MAX_EXPIRED, Renewal, Ticket, WorkerId,
};
pub use outbox::{
    Backlog, DeliveryAttempt, DeliveryOutcome, MAX_RETRY_DELAY, Outbox, OutboxEntry, RedeliverOutcome,
};
pub use pending_work::PendingWork;
pub use queue::{Fits, QueueState, QueuedCast};
pub use rooms::Rooms;
pub use running_casts::{RunningCast, RunningCastGuard, RunningCasts};
pub use telemetry::{
    CastStats, HeartbeatResponse, MAX_SNAPSHOT_BYTES, NodeInfo, RoomStats, Telemetry, WorkerStatus,
    is_stats_history, stats_history_name,
};
pub use time_limit::with_time_limit;

/// Time in milliseconds since 1970-01-01, UTC.
pub type UnixMs = i64;

/// Reason why an operation of the fleet failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cast does not exist, or was deleted.
    #[error("there is no cast {0}")]
    CastNotFound(CastId),
    /// The cast has ended.
    #[error("the cast {0} has ended")]
    CastEnded(CastId),
    /// [`MAX_COMMANDS`] commands are pending for the cast.
    #[error("the cast {0} has too many pending commands")]
    TooManyCommands(CastId),
    /// The ticket is no longer valid, because another worker owns the cast or it is closed.
    #[error("the cast {0} has another owner now")]
    Fenced(CastId),
    /// A later process has registered under the name of this worker.
    #[error("another process has registered as {}: give each node a name of its own", .0.0)]
    Replaced(WorkerId),
    /// The document does not have the expected version.
    #[error("the document {0} was changed meanwhile")]
    DocumentChanged(String),
    /// A stored value cannot be read: it was sealed with another key, written by another version, or damaged.
    #[error("{what} cannot be read: {why}")]
    Unreadable {
        /// Name of the value.
        what: String,
        /// Reason why it cannot be read.
        why: String,
    },
    /// The storage of the fleet failed.
    #[error("fleet storage failed: {operation}")]
    Storage {
        /// Operation that failed.
        operation: &'static str,
        /// Error of the storage.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The fleet is closed, or too busy to accept the operation.
    #[error("the fleet is not available")]
    Unavailable,
}

/// The whole contract of a fleet. Every type that implements these traits implements it.
///
/// An operation that returned without an error is durable, whichever process or machine fails next.
pub trait Fleet: Casts + Leases + Outbox + Documents + Telemetry + AuditTrail + Accounting {}

impl<T: Casts + Leases + Outbox + Documents + Telemetry + AuditTrail + Accounting> Fleet for T {}
