//! Casts as servers use them: creation, queries, commands, and upkeep of the storage.

use std::fmt::Debug;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    Cast, CastId, CastKey, CastPage, CastState, Command, CreateOutcome, Error, Event, Filter, NewCast,
    PendingWork, QueueState,
};

/// Creation and queries of casts, for servers.
#[async_trait]
pub trait Casts: Debug + Send + Sync {
    /// Creates a queued cast, together with its event [`crate::EventKind::Queued`].
    async fn create(&self, new: NewCast) -> Result<CreateOutcome, Error>;

    /// Returns the cast with this id.
    async fn get(&self, id: &CastId) -> Result<Option<Cast>, Error>;

    /// Returns the cast that holds this key, or else the last one that held it.
    async fn find_by_key(&self, key: &CastKey) -> Result<Option<Cast>, Error>;

    /// Lists casts without their requests and reports, newest first. A cast that cannot be read is left out.
    async fn list(&self, filter: &Filter) -> Result<CastPage, Error>;

    /// Counts the casts in each state, including stored casts that have ended; `app` restricts it to one
    /// application.
    async fn count(&self, app: Option<&str>) -> Result<Vec<(CastState, u64)>, Error>;

    /// Returns size and order of the queue.
    async fn queue(&self) -> Result<QueueState, Error>;

    /// Queues a command for the current or next owner of the cast. [`Command::Stop`] ends a queued cast at
    /// once with [`pagecast_core::cast::EndReason::Stopped`].
    ///
    /// # Errors
    /// [`Error::CastNotFound`], [`Error::CastEnded`], [`Error::TooManyCommands`].
    async fn send_command(&self, id: &CastId, command: Command) -> Result<(), Error>;

    /// Returns at most `limit` events of a cast in order, starting behind number `after`; 0 means from the
    /// beginning.
    ///
    /// # Errors
    /// [`Error::CastNotFound`].
    async fn events(&self, id: &CastId, after: u64, limit: usize) -> Result<Vec<Event>, Error>;

    /// Fails queued casts whose queue timeout has passed, and deletes casts that are older than the retention
    /// or exceed the size limit of the storage. Call it about once a second, if [`Self::pending_work`] says
    /// so.
    async fn sweep(&self) -> Result<(), Error>;

    /// Notifies of new casts, commands and events, and every few seconds anyway if other processes use the
    /// fleet. The values have no meaning.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Returns what there may be to do for this process, as of the last notification of [`Self::changes`] or
    /// later. All loops of the process share what one statement finds.
    ///
    /// The default knows nothing, so that each loop looks by itself, which costs little if the database is in
    /// the same process.
    async fn pending_work(&self) -> Result<PendingWork, Error> {
        Ok(PendingWork::UNKNOWN)
    }

    /// Checks that the storage is writable, for `/readyz`.
    async fn check_writable(&self) -> Result<(), Error>;
}
