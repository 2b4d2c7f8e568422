//! Ownership of casts by workers: claims, leases, commands and reports.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use pagecast_core::spec::{Push, PushUrl};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Cast, CastId, Error, EventKind};

/// Maximum number of pending commands of a cast. Beyond it, commands other than [`Command::Stop`] are
/// refused. A worker that runs acknowledges each within moments, so more are pending only if nobody runs the
/// cast.
pub const MAX_COMMANDS: usize = 64;

/// A command for the owner of a cast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// End the cast.
    Stop,
    /// Start pushing the stream to another server.
    AddPush(Push),
    /// Stop pushing the stream to this server.
    RemovePush(PushUrl),
    /// Take a snapshot ([`crate::Telemetry::put_snapshot`]).
    Snapshot,
}

/// Name of a worker: one process of `pagecast serve`. No two live workers have the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub String);

/// Proof of ownership of a cast, valid until another worker gets a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Owned cast.
    pub cast: CastId,
    /// Worker that owns the lease.
    pub worker: WorkerId,
    /// Number that grows with each change of the owner.
    pub epoch: u64,
}

/// A cast that a worker has claimed.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Proof of ownership.
    pub ticket: Ticket,
    /// The cast, including the data that is injected into its page. If it has ended already, only its
    /// recording is left to be stored.
    pub cast: Cast,
}

/// Ownership of casts, for workers. Every method with a ticket fails with [`Error::Fenced`] if the ticket is
/// no longer valid.
#[async_trait]
pub trait Leases: Debug + Send + Sync {
    /// Registers a worker that starts, and frees all casts that an earlier process of the same name owned.
    async fn register_worker(&self, worker: &WorkerId) -> Result<(), Error>;

    /// Claims a cast for `lease`.
    ///
    /// Casts whose owner's lease has expired come first, including those that ended but are not closed, and
    /// without asking `fits`. Queued casts follow, for which `fits` decides. They are offered fairly: first
    /// those of the application whose casts have the least total [`crate::cast::weight`] at the moment, and
    /// the oldest first within it. A cast that does not fit is skipped and delays no other. A worker never
    /// gets a cast that it owns itself, however late it is: [`Self::register_worker`] and [`Self::release`]
    /// free those.
    async fn claim(
        &self,
        worker: &WorkerId,
        lease: Duration,
        fits: &(dyn for<'a> Fn(&'a Cast) -> bool + Sync),
    ) -> Result<Option<Claim>, Error>;

    /// Ends a queued cast that no worker can ever run, with [`pagecast_core::cast::EndReason::StartFailed`]
    /// and this message. It does nothing to a cast in another state.
    ///
    /// # Errors
    /// [`Error::CastNotFound`].
    async fn fail_queued(&self, id: &CastId, message: &str) -> Result<(), Error>;

    /// Extends the lease of a ticket to `lease` from now.
    async fn renew(&self, ticket: &Ticket, lease: Duration) -> Result<(), Error>;

    /// Returns the pending commands with their numbers, in order. Each stays pending until
    /// [`Self::ack_commands`].
    async fn commands(&self, ticket: &Ticket) -> Result<Vec<(u64, Command)>, Error>;

    /// Acknowledges the commands up to this number, which are then removed.
    async fn ack_commands(&self, ticket: &Ticket, upto: u64) -> Result<(), Error>;

    /// Reports an event: history, state and outbox change in one transaction. Events beyond
    /// [`crate::MAX_EVENTS`] are only counted. Events after [`EventKind::Ended`] do not change the state. A
    /// second end, and a second [`EventKind::Live`], are ignored.
    async fn report_event(&self, ticket: &Ticket, event: EventKind) -> Result<(), Error>;

    /// Replaces the pushes in the description of the cast.
    async fn put_pushes(&self, ticket: &Ticket, pushes: Vec<Push>) -> Result<(), Error>;

    /// Closes a cast for which nothing is left to do, so that nobody claims it again. The `last` event, if
    /// any, is reported in the same transaction, and `report`, the worker's summary, is stored. A cast that
    /// has not ended ends with [`pagecast_core::cast::EndReason::OutputFailed`].
    async fn close(
        &self,
        ticket: &Ticket,
        last: Option<EventKind>,
        report: Option<Value>,
    ) -> Result<(), Error>;

    /// Releases a cast before its lease expires: the ticket becomes invalid, and any worker may claim the
    /// cast at once.
    async fn release(&self, ticket: &Ticket) -> Result<(), Error>;

    /// Whether workers of other processes can claim casts. If so, a worker that cannot renew a lease must
    /// treat it as lost.
    fn is_shared(&self) -> bool;
}
