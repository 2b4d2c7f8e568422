//! Rows of casts, and sealing of values.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::{Client, Row};

use super::Shared;
use super::sql::{TxError, params, query_all, query_one};
use crate::sealing::{self, cast_context};
use crate::{Cast, CastId, CastKey, CastState, Error, UnixMs, WorkerId};

impl Shared {
    /// Serializes a value and seals it in a context.
    pub(super) fn seal(&self, context: &str, value: &impl Serialize) -> Result<Vec<u8>, TxError> {
        Ok(sealing::seal(&self.vault, context, value)?)
    }

    /// Opens a value that was sealed in this context, and deserializes it.
    pub(super) fn open<T: DeserializeOwned>(&self, context: &str, sealed: &[u8]) -> Result<T, TxError> {
        Ok(sealing::open(&self.vault, context, sealed)?)
    }
}

/// Columns of table `casts` for [`read_cast`].
pub(super) const CAST_COLUMNS: &str = "n, id, app, api, key, request, spec, state, ending, created_ms, \
    started_ms, live_ms, ended_ms, stop_requested, closed, worker, epoch, nonce, report, events_dropped";
/// The same columns without the worker's report, which may be long: for the outbox.
pub(super) const OUTBOX_CAST_COLUMNS: &str = "n, id, app, api, key, request, spec, state, ending, \
    created_ms, started_ms, live_ms, ended_ms, stop_requested, closed, worker, epoch, nonce, \
    NULL::bytea AS report, events_dropped";
/// The same columns without the request either, which may be long, too: for lists and the queue.
pub(super) const LISTED_CAST_COLUMNS: &str = "n, id, app, api, key, NULL::bytea AS request, spec, state, \
    ending, created_ms, started_ms, live_ms, ended_ms, stop_requested, closed, worker, epoch, nonce, \
    NULL::bytea AS report, events_dropped";

/// Reads a cast from [`CAST_COLUMNS`], [`OUTBOX_CAST_COLUMNS`] or [`LISTED_CAST_COLUMNS`], without its
/// injected data.
pub(super) fn read_cast(shared: &Shared, row: &Row) -> Result<Cast, TxError> {
    let id = read_cast_id(row)?;
    let open_optional = |column: &str, what: &str| -> Result<Option<_>, TxError> {
        let sealed: Option<&[u8]> = row.try_get(column)?;
        sealed.map(|sealed| shared.open(&cast_context(&id, what), sealed)).transpose()
    };
    let ending: Option<&[u8]> = row.try_get("ending")?;
    Ok(Cast {
        app: row.try_get("app")?,
        api: row.try_get("api")?,
        key: row.try_get::<_, Option<String>>("key")?.map(CastKey),
        request: open_optional("request", "request")?.unwrap_or_default(),
        spec: shared.open(&cast_context(&id, "spec"), row.try_get("spec")?)?,
        state: read_state(row)?,
        end: ending.map(|sealed| shared.open(&cast_context(&id, "end"), sealed)).transpose()?,
        created_ms: row.try_get("created_ms")?,
        started_ms: row.try_get("started_ms")?,
        live_ms: row.try_get("live_ms")?,
        ended_ms: row.try_get("ended_ms")?,
        stop_requested: row.try_get("stop_requested")?,
        closed: row.try_get("closed")?,
        worker: row.try_get::<_, Option<String>>("worker")?.map(WorkerId),
        epoch: row.try_get::<_, i64>("epoch")?.unsigned_abs(),
        report: open_optional("report", "report")?,
        events_dropped: row.try_get::<_, i64>("events_dropped")?.unsigned_abs(),
        id,
    })
}

/// Reads the id of a cast from the column `id`.
pub(super) fn read_cast_id(row: &Row) -> Result<CastId, TxError> {
    let unreadable =
        |why: String| TxError::Fleet(Error::Unreadable { what: "the id of a cast".to_owned(), why });
    CastId::parse(row.try_get("id")?).map_err(|bad| unreadable(bad.to_string()))
}

fn read_state(row: &Row) -> Result<CastState, TxError> {
    let number: i16 = row.try_get("state")?;
    let unreadable = || Error::Unreadable { what: "the state of a cast".to_owned(), why: number.to_string() };
    CastState::from_number(number.into()).ok_or_else(|| unreadable().into())
}

/// Reads the casts in these rows in any order, as for lists.
pub(super) async fn read_casts(
    db: &Client,
    shared: &Shared,
    rows: Vec<i64>,
) -> Result<Vec<(i64, Result<Cast, TxError>)>, TxError> {
    let sql = format!("SELECT {LISTED_CAST_COLUMNS} FROM casts WHERE n = ANY($1)");
    query_all(db, &sql, params![rows], |row| Ok((row.try_get("n")?, read_cast(shared, row)))).await
}

/// The part of a cast's row that decides which operations are allowed. The row is locked.
#[derive(Debug)]
pub(super) struct CastRow {
    /// Row number.
    pub n: i64,
    /// Id of the cast.
    pub id: CastId,
    /// Whether the cast's events are added to the outbox.
    pub notify: bool,
    /// State of the cast.
    pub state: CastState,
    /// Time until which the cast holds its key at least.
    pub key_until_ms: Option<UnixMs>,
    /// Number of its last event.
    pub last_seq: i64,
}

impl CastRow {
    /// Columns of table `casts` for [`Self::from_row`].
    pub(super) const COLUMNS: &str = "n, id, notify, state, key_until_ms, last_seq";

    /// Reads the columns [`Self::COLUMNS`].
    pub(super) fn from_row(row: &Row) -> Result<Self, TxError> {
        Ok(Self {
            n: row.try_get("n")?,
            id: read_cast_id(row)?,
            notify: row.try_get("notify")?,
            state: read_state(row)?,
            key_until_ms: row.try_get("key_until_ms")?,
            last_seq: row.try_get("last_seq")?,
        })
    }

    /// Finds and locks a cast by its id; fails with [`Error::CastNotFound`].
    pub(super) async fn lock(db: &Client, id: &CastId) -> Result<Self, TxError> {
        let sql = format!("SELECT {} FROM casts WHERE id = $1 FOR NO KEY UPDATE", Self::COLUMNS);
        let found = query_one(db, &sql, params![id.as_str()], Self::from_row).await?;
        found.ok_or_else(|| Error::CastNotFound(id.clone()).into())
    }
}

/// Finds the row number of a cast; fails with [`Error::CastNotFound`].
pub(super) async fn row_of(db: &Client, id: &CastId) -> Result<i64, TxError> {
    let sql = "SELECT n FROM casts WHERE id = $1";
    let found = query_one(db, sql, params![id.as_str()], |row| Ok(row.try_get(0)?)).await?;
    found.ok_or_else(|| Error::CastNotFound(id.clone()).into())
}

/// Converts a number to PostgreSQL's signed integers, capped.
pub(super) fn to_bigint(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The bits of a ticket's nonce, as PostgreSQL stores them.
pub(super) fn nonce_to_bigint(nonce: u64) -> i64 {
    nonce.cast_signed()
}
