//! Transactions that are attempted until they are done or it is too late.
//!
//! The database may go away at any moment: because it is restarted, because another server takes over, or
//! because the network fails. An operation is then attempted again. If the connection is lost while a
//! transaction commits, nobody knows whether it did. Therefore each transaction first inserts the nonce of
//! its operation into the table `committed`; the next attempt inserts it again, which waits until the
//! earlier attempt is over and fails if that was committed.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use pagecast_core::backoff::Backoff;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::{Client, Row, SimpleQueryMessage, SimpleQueryRow};

use super::clock::{self, Reading};
use super::connections::retry_delays;
use super::sql::{Params, TxError, query_one};
use super::{PostgresFleet, Shared, random_bytes};
use crate::telemetry_table::Owner;
use crate::time_limit::OperationTimer;
use crate::{CastId, Error, UnixMs};

/// Longest time for an operation of a server: longer than a slow disk takes, and shorter than HTTP clients
/// wait.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time for the report of a worker, who would repeat it anyway: longer than a failover takes.
pub(super) const REPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// Time after which the server aborts a transaction whose client is silent, or waits for one statement, in
/// milliseconds. A client whose network failed without a trace would otherwise hold its locks for hours.
const ABANDONED_TIMEOUT_MS: u64 = 15_000;

/// A future on the heap.
pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// The statements of a transaction. They may run several times.
pub(super) type Write<T, A> = for<'a, 'b> fn(&'a mut Tx<'b>, &'a A) -> BoxFuture<'a, Result<T, TxError>>;
/// The statements of an operation that only reads.
pub(super) type Read<T, A> = for<'a> fn(&'a Db<'a>, &'a A) -> BoxFuture<'a, Result<T, TxError>>;

/// Context of a write.
pub(super) struct Tx<'a> {
    client: &'a Client,
    /// State shared by all operations.
    pub shared: &'a Shared,
    /// Wall time, in milliseconds since 1970.
    pub now: UnixMs,
    /// Fleet time, in milliseconds.
    pub fleet_now: i64,
    effects: Vec<Effect>,
    /// Whether nothing was changed that must be kept, so that a rollback does.
    is_unchanged: bool,
}

/// Effect of a write on this process, applied after the commit.
enum Effect {
    OwnerChanged(CastId, Owner),
    OwnerCleared(CastId),
    Changed,
}

impl Tx<'_> {
    /// The connection, within the transaction.
    pub(super) fn db(&self) -> &Client {
        self.client
    }

    /// Records that nothing was changed. The transaction then ends without writing to the disk.
    pub(super) fn set_unchanged(&mut self) {
        self.is_unchanged = true;
    }

    /// Records that a cast has another owner.
    pub(super) fn owner_changed(&mut self, id: CastId, owner: Owner) {
        self.effects.push(Effect::OwnerChanged(id, owner));
    }

    /// Records that a cast has no owner.
    pub(super) fn owner_cleared(&mut self, id: CastId) {
        self.effects.push(Effect::OwnerCleared(id));
    }

    /// Notifies all subscribers of [`crate::Casts::changes`].
    pub(super) fn notify_changes(&mut self) {
        self.effects.push(Effect::Changed);
    }
}

/// Context of a read.
pub(super) struct Db<'a> {
    /// The connection.
    pub client: &'a Client,
    /// State shared by all operations.
    pub shared: &'a Shared,
}

impl Db<'_> {
    /// Reads the database's clock.
    pub(super) async fn clock(&self) -> Result<Reading, TxError> {
        let before_ms = self.shared.clock.monotonic_ms();
        let reading = clock::read(self.client).await?;
        self.check_clock(reading, before_ms).await?;
        Ok(reading)
    }

    /// Reads the database's clock and these columns, which may depend on `wall_ms` and `fleet_ms`.
    pub(super) async fn clock_and<T: Send>(
        &self,
        columns: &str,
        params: &Params<'_>,
        read: impl FnOnce(&Row) -> Result<T, TxError> + Send,
    ) -> Result<(Reading, T), TxError> {
        // Columns of a subquery can be searched for in an index; a call of `wall_ms()` cannot.
        let sql = format!(
            "WITH clock_now AS MATERIALIZED (SELECT {} FROM clock),
                  now AS MATERIALIZED (SELECT *, wall_ms + offset_ms AS fleet_ms FROM clock_now)
             SELECT wall_ms, offset_ms, seen_ms, {columns} FROM now",
            Reading::COLUMNS
        );
        let before_ms = self.shared.clock.monotonic_ms();
        let found =
            query_one(self.client, &sql, params, |row| Ok((Reading::from_row(row)?, read(row)?))).await?;
        let (reading, value) = found.ok_or(TxError::Conflict)?;
        self.check_clock(reading, before_ms).await?;
        Ok((reading, value))
    }

    /// Checks a reading of the database's clock. `before_ms` is the monotonic time before the reading.
    ///
    /// # Errors
    /// [`TxError::ClockJumped`]: the operation is repeated after a correction.
    pub(super) async fn check_clock(&self, reading: Reading, before_ms: i64) -> Result<(), TxError> {
        if self.shared.clock.has_jumped(reading, before_ms) {
            return Err(TxError::ClockJumped);
        }
        clock::record_steady(self.client, reading).await
    }
}

impl PostgresFleet {
    /// Runs a transaction, and waits until it is committed. `None` means that an attempt was committed whose
    /// result was lost.
    pub(super) async fn write<T: Send, A: Sync>(
        &self,
        operation: &'static str,
        within: Duration,
        args: &A,
        work: Write<T, A>,
    ) -> Result<Option<T>, Error> {
        let nonce = random_bytes::<16>();
        let mut attempts = Attempts::new(operation, within);
        loop {
            let attempt = timeout_at(attempts.timer.deadline, self.try_write(&nonce, args, work)).await;
            if let Some(result) = attempts.conclude(attempt).await {
                return result;
            }
        }
    }

    async fn try_write<T: Send, A: Sync>(
        &self,
        nonce: &[u8],
        args: &A,
        work: Write<T, A>,
    ) -> Result<Option<T>, TxError> {
        let shared = &*self.shared;
        let mut connection = self.connections.get().await?;
        loop {
            let client: &Client = connection.client();
            let before_ms = shared.clock.monotonic_ms();
            let (reading, is_new) = begin(client, nonce).await?;
            if shared.clock.has_jumped(reading, before_ms) {
                client.batch_execute("ROLLBACK").await?;
                shared.clock.correct(connection.client()).await?;
                continue;
            }
            if !is_new {
                client.batch_execute("ROLLBACK").await?;
                connection.reuse();
                self.apply_effects(vec![Effect::Changed]);
                return Ok(None);
            }
            let (now, fleet_now) = (reading.wall_ms, reading.fleet_ms());
            let mut tx = Tx { client, shared, now, fleet_now, effects: Vec::new(), is_unchanged: false };
            let result = work(&mut tx, args).await;
            let Tx { effects, is_unchanged, .. } = tx;
            match result {
                Ok(done) => {
                    client.batch_execute(if is_unchanged { "ROLLBACK" } else { "COMMIT" }).await?;
                    self.apply_effects(effects);
                    // The commit is done, whatever becomes of this.
                    if clock::record_steady(connection.client(), reading).await.is_ok() {
                        connection.reuse();
                    }
                    return Ok(Some(done));
                }
                Err(error) => {
                    if client.batch_execute("ROLLBACK").await.is_ok() {
                        connection.reuse();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Runs statements that only read, or that may be repeated. Each is a transaction of its own.
    pub(super) async fn read<T: Send, A: Sync>(
        &self,
        operation: &'static str,
        args: &A,
        work: Read<T, A>,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::new(operation, OPERATION_TIMEOUT);
        loop {
            let attempt = timeout_at(attempts.timer.deadline, self.try_read(args, work)).await;
            if let Some(result) = attempts.conclude(attempt).await {
                return result;
            }
        }
    }

    async fn try_read<T: Send, A: Sync>(&self, args: &A, work: Read<T, A>) -> Result<T, TxError> {
        let shared = &*self.shared;
        let mut connection = self.connections.get().await?;
        loop {
            let result = work(&Db { client: connection.client(), shared }, args).await;
            match result {
                Err(TxError::ClockJumped) => shared.clock.correct(connection.client()).await?,
                Err(error @ (TxError::Sql(_) | TxError::Pool(_))) => return Err(error),
                result => {
                    connection.reuse();
                    return result;
                }
            }
        }
    }

    fn apply_effects(&self, effects: Vec<Effect>) {
        let mut changed = false;
        for effect in effects {
            match effect {
                Effect::OwnerChanged(id, owner) => self.shared.telemetry.set_owner(id, owner),
                Effect::OwnerCleared(id) => self.shared.telemetry.clear_owner(&id),
                Effect::Changed => changed = true,
            }
        }
        if changed {
            self.shared.wakeup.changed_here();
        }
    }
}

/// Attempts of an operation, until it is done, is refused, or the time is up.
struct Attempts {
    operation: &'static str,
    timer: OperationTimer,
    delays: Backoff,
}

impl Attempts {
    fn new(operation: &'static str, within: Duration) -> Self {
        Self { operation, timer: OperationTimer::start(within), delays: retry_delays() }
    }

    /// The result of the operation, if this attempt decides it. Otherwise waits until the next attempt.
    async fn conclude<T>(
        &mut self,
        attempt: Result<Result<T, TxError>, Elapsed>,
    ) -> Option<Result<T, Error>> {
        let error = match attempt {
            Ok(Ok(done)) => return Some(Ok(done)),
            Ok(Err(error)) => error,
            Err(_) => return Some(Err(Error::Unavailable)),
        };
        let delay = self.delays.next_delay();
        if !error.is_transient() || Instant::now() + delay >= self.timer.deadline {
            return Some(Err(error.into_fleet_error(self.operation)));
        }
        tracing::debug!(operation = self.operation, ?error, "database operation failed, retrying");
        sleep(delay).await;
        None
    }
}

/// Begins a transaction, inserts its nonce and reads the clock. Returns whether the nonce is new. It is one
/// message, so that it takes one round trip, and without `BEGIN` there is no nonce.
async fn begin(client: &Client, nonce: &[u8]) -> Result<(Reading, bool), TxError> {
    let nonce: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
    let sql = format!(
        "BEGIN;
         WITH new AS (INSERT INTO committed (nonce, at_ms)
                      SELECT '\\x{nonce}', wall_ms() + offset_ms FROM clock
                      ON CONFLICT DO NOTHING RETURNING 1)
         SELECT {}, (EXISTS (SELECT 1 FROM new))::integer AS is_new,
                set_config('idle_in_transaction_session_timeout', '{ABANDONED_TIMEOUT_MS}', true),
                set_config('statement_timeout', '{ABANDONED_TIMEOUT_MS}', true)
         FROM clock",
        Reading::COLUMNS
    );
    let answer = client.simple_query(&sql).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or(TxError::Conflict)?;
    Ok((Reading::from_text(row)?, read_number(row, "is_new")? == 1))
}

/// Reads a number of a row that is text.
pub(super) fn read_number(row: &SimpleQueryRow, column: &str) -> Result<i64, TxError> {
    let text = row.try_get(column)?;
    text.and_then(|text| text.parse().ok()).ok_or(TxError::Conflict)
}
