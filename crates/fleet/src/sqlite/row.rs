//! Rows of casts, sealing of values, and helpers for statements.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Shared;
use crate::sealing::{self, cast_context};
use crate::{Cast, CastId, CastKey, CastState, Error, UnixMs, WorkerId};

/// Error within a transaction.
#[derive(Debug)]
pub(super) enum TxError {
    /// SQLite failed.
    Sql(rusqlite::Error),
    /// A value cannot be serialized.
    Json(serde_json::Error),
    /// The operation is refused, with this error for the caller.
    Fleet(Error),
}

impl TxError {
    /// Converts the error for the caller of an operation.
    pub(super) fn into_fleet_error(self, operation: &'static str) -> Error {
        match self {
            Self::Sql(source) => Error::Storage { operation, source: source.into() },
            Self::Json(source) => Error::Storage { operation, source: source.into() },
            Self::Fleet(error) => error,
        }
    }
}

impl From<rusqlite::Error> for TxError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for TxError {
    fn from(error: Error) -> Self {
        Self::Fleet(error)
    }
}

impl ToSql for CastState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.to_number()))
    }
}

impl FromSql for CastState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        Self::from_number(number).ok_or(FromSqlError::OutOfRange(number))
    }
}

impl Shared {
    /// Serializes a value and seals it in a context.
    pub(super) fn seal(&self, context: &str, value: &impl Serialize) -> Result<Vec<u8>, TxError> {
        sealing::seal(&self.vault, context, value).map_err(TxError::Json)
    }

    /// Opens a value that was sealed in this context, and deserializes it.
    pub(super) fn open<T: DeserializeOwned>(&self, context: &str, sealed: &[u8]) -> Result<T, TxError> {
        sealing::open(&self.vault, context, sealed).map_err(TxError::Fleet)
    }
}

/// Columns of table `casts` for [`read_cast`].
pub(super) const CAST_COLUMNS: &str = "n, id, app, origin, key, request, spec, state, reason, created_ms, \
     started_ms, live_ms, ended_ms, stop_asked, closed, worker, epoch, report, events_dropped";
/// The same columns without the worker's report, which may be long: for the outbox.
pub(super) const OUTBOX_CAST_COLUMNS: &str = "n, id, app, origin, key, request, spec, state, reason, \
    created_ms, started_ms, live_ms, ended_ms, stop_asked, closed, worker, epoch, NULL AS report, \
    events_dropped";
/// The same columns without the request either, which may be long, too: for lists and the queue.
pub(super) const LISTED_CAST_COLUMNS: &str = "n, id, app, origin, key, NULL AS request, spec, state, reason, \
    created_ms, started_ms, live_ms, ended_ms, stop_asked, closed, worker, epoch, NULL AS report, \
    events_dropped";

/// Reads a cast from [`CAST_COLUMNS`], [`OUTBOX_CAST_COLUMNS`] or [`LISTED_CAST_COLUMNS`], without its
/// injected data.
pub(super) fn read_cast(shared: &Shared, row: &Row<'_>) -> Result<Cast, TxError> {
    let id = read_cast_id(row)?;
    let sealed = |column: &str| -> Result<Option<Vec<u8>>, TxError> { Ok(row.get(column)?) };
    Ok(Cast {
        app: row.get("app")?,
        api: row.get("origin")?,
        key: row.get::<_, Option<String>>("key")?.map(CastKey),
        request: sealed("request")?
            .map(|request| shared.open(&cast_context(&id, "request"), &request))
            .transpose()?
            .unwrap_or_default(),
        spec: shared.open(&cast_context(&id, "spec"), &sealed("spec")?.unwrap_or_default())?,
        state: row.get("state")?,
        end: sealed("reason")?.map(|end| shared.open(&cast_context(&id, "end"), &end)).transpose()?,
        created_ms: row.get("created_ms")?,
        started_ms: row.get("started_ms")?,
        live_ms: row.get("live_ms")?,
        ended_ms: row.get("ended_ms")?,
        stop_requested: row.get("stop_asked")?,
        closed: row.get("closed")?,
        worker: row.get::<_, Option<String>>("worker")?.map(WorkerId),
        epoch: row.get::<_, i64>("epoch")?.unsigned_abs(),
        report: sealed("report")?
            .map(|report| shared.open(&cast_context(&id, "report"), &report))
            .transpose()?,
        events_dropped: row.get::<_, i64>("events_dropped")?.unsigned_abs(),
        id,
    })
}

/// Reads the id of a cast from the column `id`.
pub(super) fn read_cast_id(row: &Row<'_>) -> Result<CastId, TxError> {
    let text: String = row.get("id")?;
    CastId::parse(&text).map_err(|bad| {
        TxError::Fleet(Error::Unreadable { what: "the id of a cast".to_owned(), why: bad.to_string() })
    })
}

/// Reads the cast in this row.
pub(super) fn get_by_rowid(db: &Connection, shared: &Shared, n: i64) -> Result<Option<Cast>, TxError> {
    query_one(db, &format!("SELECT {CAST_COLUMNS} FROM casts WHERE n = ?"), [n], |row| read_cast(shared, row))
}

/// Reads the cast in this row as for lists.
pub(super) fn get_listed(db: &Connection, shared: &Shared, n: i64) -> Result<Option<Cast>, TxError> {
    query_one(db, &format!("SELECT {LISTED_CAST_COLUMNS} FROM casts WHERE n = ?"), [n], |row| {
        read_cast(shared, row)
    })
}

/// Runs a query and reads its first row, if any.
pub(super) fn query_one<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, TxError>,
) -> Result<Option<T>, TxError> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// Runs a query and reads all rows.
pub(super) fn query_all<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, TxError>,
) -> Result<Vec<T>, TxError> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

/// Runs a statement and returns the number of changed rows.
pub(super) fn execute(db: &Connection, sql: &str, params: impl Params) -> Result<usize, TxError> {
    Ok(db.prepare_cached(sql)?.execute(params)?)
}

/// The part of a cast's row that decides which operations are allowed.
pub(super) struct CastRow {
    /// Row number.
    pub rowid: i64,
    /// Id of the cast.
    pub id: CastId,
    /// Whether the cast's events are added to the outbox.
    pub notify: bool,
    /// State of the cast.
    pub state: CastState,
    /// Time until which the cast holds its key at least.
    pub key_until_ms: Option<UnixMs>,
}

impl CastRow {
    /// Columns of table `casts` for [`Self::from_row`].
    pub(super) const COLUMNS: &str = "n, id, notify, state, key_until_ms";

    /// Reads the columns [`Self::COLUMNS`].
    pub(super) fn from_row(row: &Row<'_>) -> Result<Self, TxError> {
        Ok(Self {
            rowid: row.get("n")?,
            id: read_cast_id(row)?,
            notify: row.get("notify")?,
            state: row.get("state")?,
            key_until_ms: row.get("key_until_ms")?,
        })
    }

    /// Finds a cast by its id; fails with [`Error::CastNotFound`].
    pub(super) fn find(db: &Connection, id: &CastId) -> Result<Self, TxError> {
        let sql = format!("SELECT {} FROM casts WHERE id = ?", Self::COLUMNS);
        query_one(db, &sql, [id.as_str()], Self::from_row)?
            .ok_or_else(|| Error::CastNotFound(id.clone()).into())
    }
}

/// Finds the row of a cast; fails with [`Error::CastNotFound`].
pub(super) fn rowid_of(db: &Connection, id: &CastId) -> Result<i64, TxError> {
    let mut find = db.prepare_cached("SELECT n FROM casts WHERE id = ?")?;
    let n = find.query_row([id.as_str()], |row| row.get(0)).optional()?;
    n.ok_or_else(|| Error::CastNotFound(id.clone()).into())
}

/// Converts a number to SQLite's signed integers, capped.
pub(super) fn to_sql_integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
