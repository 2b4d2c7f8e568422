//! What is kept of a cast, and how it is sealed.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Shared;
use crate::{Cast, CastId, Error, Key, State, WorkerId};

/// Why something fails within a transaction.
#[derive(Debug)]
pub(super) enum Fail {
    /// The database.
    Sql(rusqlite::Error),
    /// What cannot be written down.
    Json(serde_json::Error),
    /// An answer.
    Told(Error),
}

impl Fail {
    /// As the caller hears it.
    pub(super) fn told(self, doing: &'static str) -> Error {
        match self {
            Self::Sql(source) => Error::Storage { doing, source: source.into() },
            Self::Json(source) => Error::Storage { doing, source: source.into() },
            Self::Told(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Fail {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

impl ToSql for State {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(match self {
            Self::Queued => 0_i64,
            Self::Starting => 1,
            Self::Live => 2,
            Self::Ended => 3,
        }))
    }
}

impl FromSql for State {
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
    /// A value, sealed for its place.
    pub(super) fn seal(&self, place: &str, value: &impl Serialize) -> Result<Vec<u8>, Fail> {
        Ok(self.vault.seal(place, &serde_json::to_vec(value).map_err(Fail::Json)?))
    }

    /// What was sealed for this place.
    pub(super) fn open<T: DeserializeOwned>(&self, place: &str, sealed: &[u8]) -> Result<T, Fail> {
        let unreadable = |why: String| Fail::Told(Error::Unreadable { what: place.to_owned(), why });
        let json = self.vault.open(place, sealed).map_err(|error| unreadable(error.to_string()))?;
        // Without the parser's words: they may quote what is secret.
        serde_json::from_slice(&json).map_err(|error| {
            unreadable(format!(
                "column {} of it is not as this version of pagecast would have written it",
                error.column()
            ))
        })
    }
}

/// Where something of a cast is sealed.
pub(super) fn place(id: &CastId, what: &str) -> String {
    format!("cast/{id}/{what}")
}

/// Columns of `casts` for [`cast`].
pub(super) const CAST: &str = "n, id, app, origin, key, request, spec, state, reason, created_ms, started_ms, \
     live_ms, ended_ms, stop_asked, closed, worker, epoch, report, events_dropped";
/// The same without the worker's report, which may be long, for lists and the outbox.
pub(super) const LISTED: &str = "n, id, app, origin, key, request, spec, state, reason, created_ms, started_ms, \
     live_ms, ended_ms, stop_asked, closed, worker, epoch, NULL AS report, events_dropped";

/// A cast from [`CAST`] or [`LISTED`], without what is put into its page.
pub(super) fn cast(shared: &Shared, row: &Row<'_>) -> Result<Cast, Fail> {
    let id = id(row)?;
    let sealed = |column: &str| -> Result<Option<Vec<u8>>, Fail> { Ok(row.get(column)?) };
    let whole = |column: &str| Ok::<_, Fail>(sealed(column)?.unwrap_or_default());
    Ok(Cast {
        app: row.get("app")?,
        origin: row.get("origin")?,
        key: row.get::<_, Option<String>>("key")?.map(Key),
        request: shared.open(&place(&id, "request"), &whole("request")?)?,
        spec: shared.open(&place(&id, "spec"), &whole("spec")?)?,
        state: row.get("state")?,
        end: sealed("reason")?.map(|end| shared.open(&place(&id, "end"), &end)).transpose()?,
        created_ms: row.get("created_ms")?,
        started_ms: row.get("started_ms")?,
        live_ms: row.get("live_ms")?,
        ended_ms: row.get("ended_ms")?,
        stop_asked: row.get("stop_asked")?,
        closed: row.get("closed")?,
        worker: row.get::<_, Option<String>>("worker")?.map(WorkerId),
        epoch: row.get::<_, i64>("epoch")?.unsigned_abs(),
        report: sealed("report")?.map(|report| shared.open(&place(&id, "report"), &report)).transpose()?,
        events_dropped: row.get::<_, i64>("events_dropped")?.unsigned_abs(),
        id,
    })
}

/// The id of a cast from its column.
pub(super) fn id(row: &Row<'_>) -> Result<CastId, Fail> {
    let text: String = row.get("id")?;
    CastId::parse(&text).map_err(|bad| {
        Fail::Told(Error::Unreadable { what: "the id of a cast".to_owned(), why: bad.to_string() })
    })
}

/// A cast by its number.
pub(super) fn by_number(db: &Connection, shared: &Shared, n: i64) -> Result<Option<Cast>, Fail> {
    one(db, &format!("SELECT {CAST} FROM casts WHERE n = ?"), [n], |row| cast(shared, row))
}

/// The same without the worker's report.
pub(super) fn listed(db: &Connection, shared: &Shared, n: i64) -> Result<Option<Cast>, Fail> {
    one(db, &format!("SELECT {LISTED} FROM casts WHERE n = ?"), [n], |row| cast(shared, row))
}

/// The first row, if there is one.
pub(super) fn one<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T, Fail>,
) -> Result<Option<T>, Fail> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// All rows.
pub(super) fn all<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, Fail>,
) -> Result<Vec<T>, Fail> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

/// How many rows it changed.
pub(super) fn execute(db: &Connection, sql: &str, params: impl Params) -> Result<usize, Fail> {
    Ok(db.prepare_cached(sql)?.execute(params)?)
}

/// What of a cast says what may happen to it.
pub(super) struct Known {
    /// Its row.
    pub n: i64,
    /// Its id.
    pub id: CastId,
    /// Whether its events go to the outbox.
    pub notify: bool,
    /// Where it stands.
    pub state: State,
}

impl Known {
    /// Columns of `casts` for [`Self::read`].
    pub(super) const COLUMNS: &str = "n, id, notify, state";

    /// From [`Self::COLUMNS`].
    pub(super) fn read(row: &Row<'_>) -> Result<Self, Fail> {
        Ok(Self { n: row.get("n")?, id: id(row)?, notify: row.get("notify")?, state: row.get("state")? })
    }

    /// The cast of this id, or [`Error::NoCast`].
    pub(super) fn find(db: &Connection, id: &CastId) -> Result<Self, Fail> {
        let sql = format!("SELECT {} FROM casts WHERE id = ?", Self::COLUMNS);
        one(db, &sql, [id.as_str()], Self::read)?.ok_or_else(|| Error::NoCast(id.clone()).into())
    }
}

/// The row of a cast, or [`Error::NoCast`].
pub(super) fn number(db: &Connection, id: &CastId) -> Result<i64, Fail> {
    let mut find = db.prepare_cached("SELECT n FROM casts WHERE id = ?")?;
    let n = find.query_row([id.as_str()], |row| row.get(0)).optional()?;
    n.ok_or_else(|| Error::NoCast(id.clone()).into())
}

/// A number of the interface as SQLite has them.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
