//! Statements and errors. Every statement is unnamed and has typed parameters, so that it takes one round
//! trip and works through a connection pooler that changes the server between transactions.

use std::io;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::Error;

/// Parameters of a statement, each with its type.
pub(super) type Params<'a> = [(&'a (dyn ToSql + Sync), Type)];

/// A Rust type that is the parameter of a statement.
pub(super) trait SqlType {
    /// The type in PostgreSQL.
    fn sql_type(&self) -> Type;
}

macro_rules! sql_types {
    ($($sql:ident: $($rust:ty),+;)+) => {$($(
        impl SqlType for $rust {
            fn sql_type(&self) -> Type {
                Type::$sql
            }
        }
    )+)+};
}

sql_types! {
    BOOL: bool;
    BOOL_ARRAY: &Vec<bool>;
    BYTEA_ARRAY: Vec<Vec<u8>>, &Vec<Vec<u8>>;
    BYTEA: &[u8], Vec<u8>, &Vec<u8>, Option<Vec<u8>>, Option<&Vec<u8>>;
    INT2: i16;
    INT8: i64, Option<i64>;
    INT2_ARRAY: Vec<i16>;
    INT8_ARRAY: Vec<i64>, &Vec<i64>;
    TEXT: &str, String, &String, Option<&str>, Option<&String>, Option<String>;
    TEXT_ARRAY: Vec<String>, Vec<&str>;
}

/// Parameters of a statement; their types follow from the values.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$((
            &$value as &(dyn tokio_postgres::types::ToSql + Sync),
            $crate::postgres::sql::SqlType::sql_type(&$value),
        )),*]
    };
}
pub(super) use params;

/// Error within an attempt of an operation.
#[derive(Debug)]
pub(super) enum TxError {
    /// PostgreSQL failed, or the connection.
    Sql(tokio_postgres::Error),
    /// There is no connection.
    Pool(deadpool_postgres::PoolError),
    /// A value cannot be serialized.
    Json(serde_json::Error),
    /// Another transaction did something that was not seen in time: the next attempt sees it.
    Conflict,
    /// The database's clock jumped.
    ClockJumped,
    /// The operation is refused, with this error for the caller.
    Fleet(Error),
}

impl From<tokio_postgres::Error> for TxError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<deadpool_postgres::PoolError> for TxError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Pool(error)
    }
}

impl From<serde_json::Error> for TxError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

impl From<Error> for TxError {
    fn from(error: Error) -> Self {
        Self::Fleet(error)
    }
}

impl TxError {
    /// Converts the error for the caller of an operation.
    pub(super) fn into_fleet_error(self, operation: &'static str) -> Error {
        match self {
            Self::Sql(source) => Error::Storage { operation, source: source.into() },
            Self::Pool(source) => Error::Storage { operation, source: source.into() },
            Self::Json(source) => Error::Storage { operation, source: source.into() },
            Self::Conflict | Self::ClockJumped => Error::Unavailable,
            Self::Fleet(error) => error,
        }
    }

    /// Whether another attempt may succeed: the connection was lost, the server is restarting or has become a
    /// standby, or another transaction was in the way.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Sql(error) => is_transient(error),
            Self::Pool(_) | Self::Conflict | Self::ClockJumped => true,
            Self::Json(_) | Self::Fleet(_) => false,
        }
    }
}

/// Whether an error of PostgreSQL or its connection is a passing one.
pub(super) fn is_transient(error: &tokio_postgres::Error) -> bool {
    const TRANSIENT: [SqlState; 8] = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::QUERY_CANCELED,
    ];
    let source = std::error::Error::source(error);
    match error.code() {
        Some(code) => TRANSIENT.contains(code) || code.code().starts_with("08"),
        None => error.is_closed() || source.is_some_and(|source| source.is::<io::Error>()),
    }
}

/// Runs a query and reads all rows.
pub(super) async fn query_all<T: Send>(
    db: &Client,
    sql: &str,
    params: &Params<'_>,
    read: impl FnMut(&Row) -> Result<T, TxError> + Send,
) -> Result<Vec<T>, TxError> {
    let rows = db.query_typed(sql, params).await?;
    rows.iter().map(read).collect()
}

/// Runs a query and reads its first row, if any.
pub(super) async fn query_one<T: Send>(
    db: &Client,
    sql: &str,
    params: &Params<'_>,
    read: impl FnOnce(&Row) -> Result<T, TxError> + Send,
) -> Result<Option<T>, TxError> {
    let rows = db.query_typed(sql, params).await?;
    rows.first().map(read).transpose()
}

/// Runs a statement and returns the number of changed rows.
pub(super) async fn execute(db: &Client, sql: &str, params: &Params<'_>) -> Result<u64, TxError> {
    Ok(db.execute_typed(sql, params).await?)
}
