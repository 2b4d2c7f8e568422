//! The file: made, brought up to date, and refused if it is somebody else's.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::Error;
use super::row::Fail;
use super::writer::Tx;
use crate::vault::Vault;

/// Each brings the schema one number up.
const MIGRATIONS: &[&str] = &[include_str!("1.sql")];
/// Statements that are kept ready in each connection.
const STATEMENTS: usize = 128;
/// How long is waited for somebody else who looks into the file.
const BUSY: Duration = Duration::from_secs(5);
/// Where the vault's key is tried.
const PROOF: &str = "meta/vault";

/// The connection that writes, to a database that is as this version wants it.
pub(super) fn open(path: &Path, vault: &Vault) -> Result<Connection, Error> {
    let failed = |source| Error::Database { path: path.to_owned(), source };
    let mut db = connect(path)?;
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let known = MIGRATIONS.len() as i64;
    if found > known || found < 0 {
        return Err(Error::Newer { path: path.to_owned(), found, known });
    }
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if found == 0 && tables > 0 {
        return Err(Error::Foreign(path.to_owned()));
    }
    for (number, sql) in (1..).zip(MIGRATIONS).skip(found as usize) {
        migrate(&mut db, number, sql).map_err(failed)?;
    }
    prove(&db, path, vault)?;
    Ok(db)
}

/// A connection.
pub(super) fn connect(path: &Path) -> Result<Connection, Error> {
    let failed = |source| Error::Database { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(BUSY).map_err(failed)?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(Error::Wal(path.to_owned()));
    }
    for (name, value) in [
        ("synchronous", "FULL"),
        ("foreign_keys", "ON"),
        ("temp_store", "MEMORY"),
        ("trusted_schema", "OFF"),
        ("journal_size_limit", "67108864"),
    ] {
        db.pragma_update(None, name, value).map_err(failed)?;
    }
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

fn migrate(db: &mut Connection, number: i64, sql: &str) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    tx.execute_batch(sql)?;
    tx.pragma_update(None, "user_version", number)?;
    tx.commit()
}

/// Refuses a key that opens nothing here, before anything is sealed with it.
fn prove(db: &Connection, path: &Path, vault: &Vault) -> Result<(), Error> {
    let failed = |source| Error::Database { path: path.to_owned(), source };
    let sealed: Option<Vec<u8>> = db
        .query_row("SELECT value FROM meta WHERE name = 'vault'", [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    match sealed {
        Some(sealed) => {
            let opened = vault.open(PROOF, &sealed).map(drop);
            opened.map_err(|source| Error::Vault { path: path.to_owned(), source })
        }
        None => db
            .execute("INSERT INTO meta VALUES ('vault', ?)", [vault.seal(PROOF, b"")])
            .map(drop)
            .map_err(failed),
    }
}

/// Writes something.
pub(super) fn touch(tx: &mut Tx<'_>) -> Result<(), Fail> {
    let mut touch = tx.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('touched', ?)")?;
    touch.execute(params![tx.now.to_be_bytes().as_slice()])?;
    Ok(())
}
