//! Ownership of casts by workers: claims, leases, commands and reports.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::{Push, PushUrl};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Cast, CastId, Error, EventKind, Fits, NodeInfo, QueuedCast};

/// Maximum number of pending commands of a cast. Beyond it, commands other than [`Command::Stop`] are
/// refused. A worker that runs acknowledges each within moments, so more are pending only if nobody runs the
/// cast.
pub const MAX_COMMANDS: usize = 64;

/// Most casts that [`Leases::expired_leases`] returns: more than a node takes over in one turn.
pub const MAX_EXPIRED: usize = 100;

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
    /// Release the cast for another worker, if there is one that runs casts.
    Move,
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
    /// Random number of this claim, or 0 from a storage that never forgets a claim that it confirmed. After a
    /// failover, a database may have forgotten the newest epochs and give them out again.
    pub nonce: u64,
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

/// A started cast that may be taken over: its lease has expired, or it has no owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredLease {
    /// The cast.
    pub cast: CastId,
    /// Owner of the expired lease and epoch of its ticket, if there is one.
    pub owner: Option<(WorkerId, u64)>,
    /// Expected resource use of the cast ([`crate::cast::weight`]).
    pub weight: u32,
}

/// Result of a ticket in [`Leases::renew_all`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The lease was extended.
    Renewed {
        /// Pending commands of the cast with their numbers, in order. Each stays pending until
        /// [`Leases::ack_commands`].
        commands: Vec<(u64, Command)>,
    },
    /// The ticket is no longer valid.
    Lost,
}

/// Ownership of casts, for workers. Every method with a ticket fails with [`Error::Fenced`] if the ticket is
/// no longer valid.
#[async_trait]
pub trait Leases: Debug + Send + Sync {
    /// Registers a worker that starts, and frees all casts that an earlier process of the same name owned.
    /// From now on, a process of this name with another [`NodeInfo::instance`] gets [`Error::Replaced`] when
    /// it claims casts or sends a heartbeat.
    async fn register_worker(&self, worker: &WorkerId, node: &NodeInfo) -> Result<(), Error>;

    /// Returns started casts that a worker may take over, those whose leases ended first before the others,
    /// at most [`MAX_EXPIRED`]. All are casts whose [labels](pagecast_core::spec::Placement::labels) the node
    /// has. It never returns casts that the worker owns itself, however late it is: [`Self::register_worker`]
    /// and [`Self::release`] free those.
    async fn expired_leases(&self, worker: &WorkerId, node: &NodeInfo) -> Result<Vec<ExpiredLease>, Error>;

    /// Claims a started cast for `lease`, unless its owner has renewed the lease, or another worker was
    /// faster. A cast that has ended but is not closed can be taken over, too.
    ///
    /// # Errors
    /// [`Error::Replaced`].
    async fn take_over(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
        lease: Duration,
        cast: &CastId,
    ) -> Result<Option<Claim>, Error>;

    /// Claims queued casts for `lease`, at most `limit`, all of whose labels the node has. Casts for other
    /// nodes cost nothing and delay nobody.
    ///
    /// `fits` decides whether the worker takes a cast, given those that it takes already in this call. Casts
    /// are offered fairly: first those of the application whose casts have the least total
    /// [`crate::cast::weight`] at the moment, and the oldest first within it. Each cast that is taken counts
    /// at once, so the order is that of single claims. A cast that does not fit is skipped and delays no
    /// other; it is not offered again in the same call.
    ///
    /// There may be fewer claims than `limit` although more casts would fit, if other workers claim casts at
    /// the same time, or the queue is very long.
    ///
    /// # Errors
    /// [`Error::Replaced`].
    async fn claim_queued(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
        lease: Duration,
        limit: usize,
        fits: &Fits<'_>,
    ) -> Result<Vec<Claim>, Error>;

    /// Takes over a cast, or else claims a queued one.
    ///
    /// # Errors
    /// [`Error::Replaced`].
    async fn claim(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
        lease: Duration,
        fits: &(dyn for<'a> Fn(&'a QueuedCast) -> bool + Sync),
    ) -> Result<Option<Claim>, Error> {
        for expired in self.expired_leases(worker, node).await? {
            if let Some(claim) = self.take_over(worker, node, lease, &expired.cast).await? {
                return Ok(Some(claim));
            }
        }
        let claims = self.claim_queued(worker, node, lease, 1, &|_, cast| fits(cast)).await?;
        Ok(claims.into_iter().next())
    }

    /// Ends a queued cast that no worker can ever run, with [`pagecast_core::cast::EndReason::StartFailed`]
    /// and this message. It does nothing to a cast in another state.
    ///
    /// # Errors
    /// [`Error::CastNotFound`].
    async fn fail_queued(&self, id: &CastId, message: &str) -> Result<(), Error>;

    /// Extends the leases of all tickets of a worker to `lease` from now, and returns their pending commands,
    /// in the order of the tickets. A lease of which less than a third is over may stay as it is. It costs
    /// about as much for many tickets as for one; a ticket that is no longer valid affects no other.
    async fn renew_all(&self, tickets: &[Ticket], lease: Duration) -> Result<Vec<Renewal>, Error>;

    /// Acknowledges the commands up to this number, which are then removed.
    async fn ack_commands(&self, ticket: &Ticket, upto: u64) -> Result<(), Error>;

    /// Reports an event: history, state and outbox change in one transaction. Events beyond
    /// [`crate::MAX_EVENTS`] are only counted. Events after [`EventKind::Ended`] do not change the state. A
    /// second end, and a second [`EventKind::Live`], are ignored.
    async fn report_event(&self, ticket: &Ticket, event: EventKind) -> Result<(), Error>;

    /// Replaces the pushes in the description of the cast.
    async fn put_pushes(&self, ticket: &Ticket, pushes: Vec<Push>) -> Result<(), Error>;

    /// Adds rows to the ledger of the cast's recording. A row replaces an earlier one with the same
    /// [key](LedgerRow::key). The ledger is deleted when the cast is closed.
    async fn put_ledger(&self, ticket: &Ticket, rows: Vec<LedgerRow>) -> Result<(), Error>;

    /// Returns the ledger of the cast's recording, ordered by key, for an owner that continues it.
    async fn ledger(&self, ticket: &Ticket) -> Result<Vec<LedgerRow>, Error>;

    /// Closes a cast for which nothing is left to do, so that nobody claims it again. The `last` event, if
    /// any, is reported in the same transaction, and `report`, the worker's summary, is stored. A cast that
    /// has not ended ends with [`pagecast_core::cast::EndReason::OutputFailed`].
    async fn close(
        &self,
        ticket: &Ticket,
        last: Option<EventKind>,
        report: Option<Value>,
    ) -> Result<(), Error>;

    /// Reports what a worker stored of the recording of a cast that is closed: it had been away with a part
    /// of the recording. Does nothing if the cast is not closed, or the event is no [`EventKind::Stored`].
    ///
    /// # Errors
    /// [`Error::CastNotFound`].
    async fn report_stored_later(&self, id: &CastId, event: EventKind) -> Result<(), Error>;

    /// Releases a cast before its lease expires: the ticket becomes invalid, and any worker may claim the
    /// cast at once.
    async fn release(&self, ticket: &Ticket) -> Result<(), Error>;

    /// Whether workers of other processes can claim casts. If so, a worker that cannot renew a lease must
    /// treat it as lost.
    fn is_shared(&self) -> bool;
}
