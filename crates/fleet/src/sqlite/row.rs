//! Rows of casts, sealing of values, and helpers for statements.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Shared;
use crate::{Cast, CastId, CastKey, CastState, Error, WorkerId};

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
        Ok(ToSqlOutput::from(match self {
            Self::Queued => 0_i64,
            Self::Starting => 1,
            Self::Live => 2,
            Self::Ended => 3,
        }))
    }
}

impl FromSql for CastState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_i64()? {
            0 => Ok(Self::Queued),
            1 => Ok(Self::Starting),
            2 => Ok(Self::Live),
            3 => Ok(Self::Ended),
            other => Err(FromSqlError::OutOfRange(other)),
        }
    }
}

impl Shared {
    /// Serializes a value and seals it in a context.
    pub(super) fn seal(&self, context: &str, value: &impl Serialize) -> Result<Vec<u8>, TxError> {
        Ok(self.vault.seal(context, &serde_json::to_vec(value).map_err(TxError::Json)?))
    }

    /// Opens a value that was sealed in this context, and deserializes it.
    pub(super) fn open<T: DeserializeOwned>(&self, context: &str, sealed: &[u8]) -> Result<T, TxError> {
        let unreadable = |why: String| TxError::Fleet(Error::Unreadable { what: context.to_owned(), why });
        let json = self.vault.open(context, sealed).map_err(|error| unreadable(error.to_string()))?;
        // The parser's message is omitted, because it may quote secrets.
        serde_json::from_slice(&json).map_err(|error| {
            unreadable(format!(
                "this version of pagecast does not understand it at column {}",
                error.column()
            ))
        })
    }
}

/// Context in which a value of a cast is sealed.
pub(super) fn seal_context(id: &CastId, what: &str) -> String {
    format!("cast/{id}/{what}")
}

/// Columns of table `casts` for [`read_cast`].
pub(super) const CAST_COLUMNS: &str = "n, id, app, origin, key, request, spec, state, reason, created_ms, \
     started_ms, live_ms, ended_ms, stop_asked, closed, worker, epoch, report, events_dropped";
/// The same columns without the worker's report, which may be long: for lists and the outbox.
pub(super) const LISTED_CAST_COLUMNS: &str = "n, id, app, origin, key, request, spec, state, reason, \
     created_ms, started_ms, live_ms, ended_ms, stop_asked, closed, worker, epoch, NULL AS report, \
    events_dropped";

/// Reads a cast from [`CAST_COLUMNS`] or [`LISTED_CAST_COLUMNS`], without its injected data.
pub(super) fn read_cast(shared: &Shared, row: &Row<'_>) -> Result<Cast, TxError> {
    let id = read_cast_id(row)?;
    let sealed = |column: &str| -> Result<Option<Vec<u8>>, TxError> { Ok(row.get(column)?) };
    let whole = |column: &str| Ok::<_, TxError>(sealed(column)?.unwrap_or_default());
    Ok(Cast {
        app: row.get("app")?,
        api: row.get("origin")?,
        key: row.get::<_, Option<String>>("key")?.map(CastKey),
        request: shared.open(&seal_context(&id, "request"), &whole("request")?)?,
        spec: shared.open(&seal_context(&id, "spec"), &whole("spec")?)?,
        state: row.get("state")?,
        end: sealed("reason")?.map(|end| shared.open(&seal_context(&id, "end"), &end)).transpose()?,
        created_ms: row.get("created_ms")?,
        started_ms: row.get("started_ms")?,
        live_ms: row.get("live_ms")?,
        ended_ms: row.get("ended_ms")?,
        stop_requested: row.get("stop_asked")?,
        closed: row.get("closed")?,
        worker: row.get::<_, Option<String>>("worker")?.map(WorkerId),
        epoch: row.get::<_, i64>("epoch")?.unsigned_abs(),
        report: sealed("report")?
            .map(|report| shared.open(&seal_context(&id, "report"), &report))
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

/// Reads the cast in this row without the worker's report.
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
}

impl CastRow {
    /// Columns of table `casts` for [`Self::from_row`].
    pub(super) const COLUMNS: &str = "n, id, notify, state";

    /// Reads the columns [`Self::COLUMNS`].
    pub(super) fn from_row(row: &Row<'_>) -> Result<Self, TxError> {
        Ok(Self {
            rowid: row.get("n")?,
            id: read_cast_id(row)?,
            notify: row.get("notify")?,
            state: row.get("state")?,
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
