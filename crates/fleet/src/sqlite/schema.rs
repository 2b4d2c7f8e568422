//! The file: made, brought up to date, and refused if it is somebody else's.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::clock::SavedClocks;
use super::row::TxError;
use super::writer::Tx;
use super::{Error, Shared, data_migration};
use crate::MAX_RETRY_DELAY;
use crate::vault::Vault;

/// Each brings the schema one number up. With some goes work that SQL cannot do, because values are sealed:
/// see [`migrate`].
const MIGRATIONS: &[&str] = &[include_str!("1.sql"), include_str!("2.sql")];
/// Statements that are kept ready in each connection.
const STATEMENT_CACHE_SIZE: usize = 128;
/// How long is waited for somebody else who looks into the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Where the vault's key is tried.
const KEY_CHECK_CONTEXT: &str = "meta/vault";

/// A database that is as this version wants it.
pub(super) struct OpenedDatabase {
    /// The connection that writes.
    pub(super) db: Connection,
    /// Whether there was nothing before.
    pub(super) is_new: bool,
    /// The clocks, as the last run noted them.
    pub(super) saved_clocks: Option<SavedClocks>,
}

/// Opens the database, makes it if there is none, and brings an older one up to date.
pub(super) fn open(path: &Path, vault: &Vault) -> Result<OpenedDatabase, Error> {
    let failed = |source| Error::Database { path: path.to_owned(), source };
    let mut db = connect(path)?;
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let known = MIGRATIONS.len() as i64;
    if found > known || found < 0 {
        return Err(Error::SchemaTooNew { path: path.to_owned(), found, known });
    }
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if found == 0 && tables > 0 {
        return Err(Error::UnknownDatabase(path.to_owned()));
    }
    // First: with another key nothing could be moved.
    if found > 0 {
        verify_key(&db, path, vault)?;
    }
    for (number, sql) in (1..).zip(MIGRATIONS).skip(found as usize) {
        migrate(&mut db, number, sql, vault).map_err(failed)?;
    }
    verify_key(&db, path, vault)?;
    let noted = load_clocks(&db).map_err(failed)?;
    Ok(OpenedDatabase { db, is_new: found == 0, saved_clocks: noted })
}

/// A connection.
pub(super) fn connect(path: &Path) -> Result<Connection, Error> {
    let failed = |source| Error::Database { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(Error::WalUnsupported(path.to_owned()));
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
    db.set_prepared_statement_cache_capacity(STATEMENT_CACHE_SIZE);
    Ok(db)
}

fn migrate(db: &mut Connection, number: i64, sql: &str, vault: &Vault) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    tx.execute_batch(sql)?;
    if number == 2 {
        data_migration::split_injected(&tx, vault)?;
    }
    tx.pragma_update(None, "user_version", number)?;
    tx.commit()
}

/// Refuses a key that opens nothing here, before anything is sealed with it.
fn verify_key(db: &Connection, path: &Path, vault: &Vault) -> Result<(), Error> {
    let failed = |source| Error::Database { path: path.to_owned(), source };
    let sealed: Option<Vec<u8>> = db
        .query_row("SELECT value FROM meta WHERE name = 'vault'", [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    match sealed {
        Some(sealed) => {
            let opened = vault.open(KEY_CHECK_CONTEXT, &sealed).map(drop);
            opened.map_err(|source| Error::WrongKey { path: path.to_owned(), source })
        }
        None => db
            .execute("INSERT INTO meta VALUES ('vault', ?)", [vault.seal(KEY_CHECK_CONTEXT, b"")])
            .map(drop)
            .map_err(failed),
    }
}

fn load_clocks(db: &Connection) -> rusqlite::Result<Option<SavedClocks>> {
    let sql = "SELECT value FROM meta WHERE name = 'clocks'";
    let bytes: Option<Vec<u8>> = db.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(bytes.and_then(|bytes| SavedClocks::from_bytes(&bytes)))
}

/// Notes the clocks, so that the next run goes on from there.
pub(super) fn save_clocks(db: &Connection, noted: SavedClocks) -> rusqlite::Result<()> {
    let mut note = db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('clocks', ?)")?;
    note.execute([noted.to_bytes()]).map(drop)
}

/// Pulls in what waits for a time that is too far ahead to be meant, as in a database of a version that
/// waited by a clock that was set back since.
pub(super) fn clamp_future_times(db: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let now = shared.clock.fleet_ms();
    let latest = now.saturating_add(MAX_RETRY_DELAY.as_millis() as i64);
    db.execute("UPDATE outbox SET next_ms = ?1 WHERE next_ms > ?2", [now, latest])?;
    db.execute("UPDATE outbox SET first_try_ms = ?1 WHERE first_try_ms > ?1", [now])?;
    let until = "UPDATE casts SET queue_until_ms = ?1 + (queue_until_ms - queued_ms), queued_ms = ?1
                 WHERE queued_ms > ?1 AND (state = 0 OR state = 3 AND started_ms IS NULL)";
    db.execute(until, [now]).map(drop)
}

/// Writes something.
pub(super) fn write_probe(tx: &mut Tx<'_>) -> Result<(), TxError> {
    let mut touch = tx.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('touched', ?)")?;
    touch.execute(params![tx.now.to_be_bytes().as_slice()])?;
    Ok(())
}
