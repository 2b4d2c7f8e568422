//! Casts that outlive processes: who wants them, who runs them, what happened to them, and who has yet to be
//! told.
//!
//! A server puts casts in ([`Fleet::create`]), workers take them out ([`Fleet::claim`]) and report what
//! happens ([`Fleet::report_event`]); each report is one step of the cast's history and one entry of the outbox,
//! written together. A worker owns a cast by a lease with an epoch: who lost it is refused from then on, so
//! that there is one owner at a time.
//!
//! [`sqlite`] is the embedded backend; `tests/contract.rs` says what any other must do.
//!
//! Deliberately absent: pages, media, HTTP, and whatever a vendor calls things.

pub mod cast;
pub mod event;
mod injected;
pub mod outbox;
pub mod sqlite;
pub mod vault;

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

pub use cast::{
    Cast, CastEnd, CastId, CastKey, CastPage, CastState, CreateOutcome, Filter, KeyRetention, NewCast,
};
pub use event::{Event, EventKind, StoredFile};
pub use outbox::{Backlog, DeliveryAttempt, DeliveryOutcome, MAX_RETRY_DELAY, OutboxEntry, RedeliverOutcome};

/// Milliseconds since 1970, UTC.
pub type UnixMs = i64;

/// Largest picture that is kept as a snapshot, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 8 << 20;
/// Commands that wait for the owner of a cast. Full: more are refused, but for one to stop.
pub const MAX_COMMANDS: usize = 64;

/// Events that are kept of one cast. What happens after them is counted, but for its end and what was stored:
/// a push that comes and goes every second for a day is 86 400.
pub const MAX_EVENTS: usize = 10_000;

/// What a server wants of a cast that runs, or will.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// End it.
    Stop,
    /// Send the stream there too.
    AddPush(pagecast_core::spec::Push),
    /// Send it there no longer.
    RemovePush(pagecast_core::spec::PushUrl),
    /// Take a picture of it ([`Fleet::put_snapshot`]).
    Snapshot,
}

/// A worker that takes casts: one process of `pagecast serve`. The same name is never used by two at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct WorkerId(pub String);

/// The right to report about a cast, until somebody else gets a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Which cast.
    pub cast: CastId,
    /// Whose.
    pub worker: WorkerId,
    /// Grows with each owner.
    pub epoch: u64,
}

/// A cast that a worker has taken.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The right to report about it.
    pub ticket: Ticket,
    /// As it stands, with what is put into its page. One that ended already has only a recording left to be
    /// stored.
    pub cast: Cast,
}

/// How a cast gets on at the moment. Not kept: a new owner begins anew.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CastStats {
    /// When this was true.
    pub at_ms: UnixMs,
    /// Length of the output so far, in milliseconds.
    pub elapsed_ms: u64,
    /// Changed pictures a second, lately.
    pub fps: f64,
    /// Ticks that brought a changed picture.
    pub frames_captured: u64,
    /// Frames encoded.
    pub frames_encoded: u64,
    /// Ticks that brought no change.
    pub frames_unchanged: u64,
    /// Changes that were told with a later tick.
    pub frames_dropped: u64,
    /// Bytes encoded.
    pub bytes: u64,
    /// Loudest sample lately, 0 to 1 and beyond: left, right.
    pub peak: [f32; 2],
    /// Cores that it takes, lately: browser and everything else.
    pub cpu_cores: f64,
    /// Memory that it takes, in bytes: browser and everything else.
    pub memory_bytes: u64,
    /// Files that wait to be stored, or are being stored.
    pub upload_pending: usize,
    /// Why storing them failed lately, if it did.
    pub upload_error: Option<String>,
    /// Its pushes: number within the cast, and state.
    pub pushes: Vec<(u32, pagecast_core::connection::State)>,
    /// Its room, if it has one.
    pub room: Option<RoomStats>,
}

/// How a room gets on at the moment.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RoomStats {
    /// Where the connection stands.
    pub state: pagecast_core::connection::State,
    /// What is sent, picture and sound, in kbit/s.
    pub bitrate_kbps: u32,
    /// The time a packet takes there and back, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Largest part of packets that a layer lost lately, 0 to 1.
    pub loss: f32,
}

/// What a worker has to give.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct WorkerStatus {
    /// When this was true.
    pub at_ms: UnixMs,
    /// Cores of the machine, or of the part that is ours.
    pub cores: f64,
    /// Cores in use by anybody.
    pub cores_used: f64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory that can still be had, in bytes.
    pub memory_free_bytes: u64,
    /// Casts that it runs.
    pub casts: usize,
    /// Whether it takes no more casts, because it is going.
    pub draining: bool,
}

/// Why the fleet cannot do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such cast, or it is forgotten.
    #[error("there is no cast {0}")]
    CastNotFound(CastId),
    /// It has ended.
    #[error("the cast {0} is over")]
    CastEnded(CastId),
    /// It has more commands waiting than there may be.
    #[error("the cast {0} has too many commands waiting")]
    TooManyCommands(CastId),
    /// Somebody else owns the cast now.
    #[error("the cast {0} has another owner now")]
    Fenced(CastId),
    /// What was stored cannot be read: another key, another version, or damage.
    #[error("{what} cannot be read: {why}")]
    Unreadable {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// The storage of the fleet fails.
    #[error("the fleet's storage fails while {operation}")]
    Storage {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is closed, or so busy that it takes nothing more.
    #[error("the fleet is not available")]
    Unavailable,
}

/// All casts, and all workers.
///
/// Whatever returned without an error is kept, whoever dies next.
#[async_trait]
pub trait Fleet: Debug + Send + Sync {
    // --- for servers

    /// Takes a cast, queued; with it the event [`EventKind::Queued`].
    async fn create(&self, new: NewCast) -> Result<CreateOutcome, Error>;
    /// A cast by its id.
    async fn get(&self, id: &CastId) -> Result<Option<Cast>, Error>;
    /// The cast that has this key now, or had it last.
    async fn find_by_key(&self, key: &CastKey) -> Result<Option<Cast>, Error>;
    /// Casts, the newest first, without their reports. One that cannot be read is left out.
    async fn list(&self, filter: &Filter) -> Result<CastPage, Error>;
    /// How many casts are in each state; those of one application, or all. Ended ones that are remembered
    /// count too.
    async fn count(&self, app: Option<&str>) -> Result<Vec<(CastState, u64)>, Error>;
    /// Hands a command to whoever owns the cast, now or later. One that is still queued and is to stop ends
    /// at once, as [`pagecast_core::read_cast::EndReason::Stopped`]. [`ErrorBody::CastNotFound`], [`ErrorBody::CastEnded`],
    /// [`ErrorBody::TooManyCommands`].
    async fn send_command(&self, id: &CastId, command: Command) -> Result<(), Error>;
    /// What happened to a cast after this event (0: from the beginning), in order, at most `limit`.
    /// [`ErrorBody::CastNotFound`].
    async fn events(&self, id: &CastId, after: u64, limit: usize) -> Result<Vec<Event>, Error>;
    /// How it gets on, if somebody runs it.
    async fn stats(&self, id: &CastId) -> Option<CastStats>;
    /// The newest picture of it (JPEG), if one was taken, and when.
    async fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)>;
    /// The workers that were heard of lately.
    async fn workers(&self) -> Vec<(WorkerId, WorkerStatus)>;

    // --- for workers

    /// A worker of this name begins: all that an earlier one of the same name owned is free at once.
    async fn register_worker(&self, worker: &WorkerId) -> Result<(), Error>;
    /// Takes a cast: one whose owner's lease is over (also of a cast that ended and is not closed), without
    /// asking; else one that nobody began and that `fits`. Those are asked about fairly: first those of the
    /// application whose casts take the least at the moment ([`read_cast::weight`]), the older ones first. One
    /// that `fits` refuses is left where it is, and holds up nobody. A worker never gets what it owns itself,
    /// however late it is: [`Self::adopt`] and [`Self::release`] free that. The ticket is good for `lease`.
    async fn claim(
        &self,
        worker: &WorkerId,
        lease: Duration,
        fits: &(dyn for<'a> Fn(&'a Cast) -> bool + Sync),
    ) -> Result<Option<Claim>, Error>;
    /// Ends a queued cast that no worker can ever take, as [`pagecast_core::read_cast::EndReason::StartFailed`]
    /// with this message. Nothing happens to one that is not queued. [`ErrorBody::CastNotFound`].
    async fn fail_queued(&self, id: &CastId, message: &str) -> Result<(), Error>;
    /// Keeps a ticket good for `lease` from now on. [`ErrorBody::Fenced`].
    async fn renew(&self, ticket: &Ticket, lease: Duration) -> Result<(), Error>;
    /// Commands for the owner, in order, each until it is [`Self::obeyed`]. [`ErrorBody::Fenced`].
    async fn commands(&self, ticket: &Ticket) -> Result<Vec<(u64, Command)>, Error>;
    /// The commands up to this one are carried out. [`ErrorBody::Fenced`].
    async fn ack_commands(&self, ticket: &Ticket, upto: u64) -> Result<(), Error>;
    /// What happened: history, state and outbox change together. Beyond [`MAX_EVENTS`] it is only counted.
    /// What happens after [`EventKind::Ended`] changes no state, and a second end, or being live a second
    /// time, is no event. [`ErrorBody::Fenced`].
    async fn report_event(&self, ticket: &Ticket, happening: EventKind) -> Result<(), Error>;
    /// Replaces the pushes in the description of the cast. [`ErrorBody::Fenced`].
    async fn put_pushes(&self, ticket: &Ticket, pushes: Vec<pagecast_core::spec::Push>) -> Result<(), Error>;
    /// Nothing is left to do for a cast that ended: nobody takes it up again. What happened last, if anything
    /// did, is reported in the same step, and what became of it, in the worker's words, is kept. One that has
    /// not ended ends, as [`pagecast_core::read_cast::EndReason::OutputFailed`]. [`ErrorBody::Fenced`].
    async fn close(
        &self,
        ticket: &Ticket,
        last: Option<EventKind>,
        report: Option<Value>,
    ) -> Result<(), Error>;
    /// Gives a ticket back before its time: it is no good any more, and anybody may go on with the cast, at
    /// once. [`ErrorBody::Fenced`].
    async fn release(&self, ticket: &Ticket) -> Result<(), Error>;
    /// How a cast gets on. Not kept over a restart; nothing happens if the ticket is no good.
    async fn put_stats(&self, ticket: &Ticket, vitals: CastStats);
    /// A picture of it (JPEG), at most [`MAX_SNAPSHOT_BYTES`]. Not kept over a restart.
    async fn put_snapshot(&self, ticket: &Ticket, jpeg: Bytes);
    /// What this worker has to give. Not kept over a restart.
    async fn heartbeat(&self, worker: &WorkerId, load: WorkerStatus);

    // --- for callbacks

    /// Of each cast that has any and is not to be skipped, the first event that is not settled, if its time
    /// has come; the longest waiting first. Fewer than `limit`, if they are large: none means that there are
    /// no more.
    async fn due_entries(&self, limit: usize, skip: &HashSet<CastId>) -> Result<Vec<OutboxEntry>, Error>;
    /// How long it is until the next event is due that is not yet.
    async fn next_due_in(&self) -> Result<Option<Duration>, Error>;
    /// What came of telling an event; with it an entry of the log, if something was sent. [`ErrorBody::CastNotFound`].
    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        settled: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) -> Result<(), Error>;
    /// What was sent for a cast, in order, at most the last 1000 attempts. [`ErrorBody::CastNotFound`].
    async fn attempts(&self, cast: &CastId) -> Result<Vec<DeliveryAttempt>, Error>;
    /// Has an event told again, or all that were given up, as if never tried; then what waits for another try
    /// is told at once, too. [`ErrorBody::CastNotFound`].
    async fn redeliver(&self, cast: &CastId, seq: Option<u64>) -> Result<RedeliverOutcome, Error>;
    /// What waits to be told.
    async fn backlog(&self) -> Result<Backlog, Error>;

    // --- for everybody

    /// Keeps a small document, sealed, under a kind and a name; `None` removes it.
    async fn put_document(&self, kind: &str, name: &str, document: Option<Value>) -> Result<(), Error>;
    /// All documents of a kind, with their names, in order.
    async fn documents(&self, kind: &str) -> Result<Vec<(String, Value)>, Error>;
    /// Ends queued casts whose deadline is over, and forgets what is older than the retention, or too much.
    /// Call it about once a second.
    async fn sweep(&self) -> Result<(), Error>;
    /// Changes whenever there is something new: a cast, a command, an event. Values mean nothing.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Whether workers elsewhere can take casts from it: then a lease that cannot be renewed is as good as
    /// lost.
    fn is_shared(&self) -> bool;
    /// Whether it can store anything right now: for `/readyz`.
    async fn check_writable(&self) -> Result<(), Error>;
}
