//! Schema of the database: creation, migration, and checks of version and key.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::clock::SavedClocks;
use super::row::TxError;
use super::writer::Tx;
use super::{Error, Shared, data_migration};
use crate::MAX_RETRY_DELAY;
use crate::sealing::KEY_CHECK_CONTEXT;
use crate::vault::Vault;

/// Migrations, each to the next schema version. Some include steps that SQL cannot do, see [`migrate`].
const MIGRATIONS: &[&str] =
    &[include_str!("1.sql"), include_str!("2.sql"), include_str!("3.sql"), include_str!("4.sql")];
/// Number of prepared statements cached per connection: more than the program has.
const STATEMENT_CACHE_SIZE: usize = 128;
/// Longest wait for a lock that another program holds, such as a backup or the `sqlite3` shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A database with the current schema.
pub(super) struct OpenedDatabase {
    /// Connection for the writer.
    pub(super) db: Connection,
    /// Whether the database was just created.
    pub(super) is_new: bool,
    /// Clocks saved by the last run.
    pub(super) saved_clocks: Option<SavedClocks>,
}

/// Opens or creates the database, and migrates an older schema.
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
    // Before any migration, which needs the right key.
    if found > 0 {
        verify_key(&db, path, vault)?;
    }
    for (number, sql) in (1..).zip(MIGRATIONS).skip(found as usize) {
        migrate(&mut db, number, sql, vault).map_err(failed)?;
    }
    verify_key(&db, path, vault)?;
    let saved_clocks = load_clocks(&db).map_err(failed)?;
    Ok(OpenedDatabase { db, is_new: found == 0, saved_clocks })
}

/// Opens a connection in WAL mode.
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

/// Refuses a wrong key before anything is sealed with it.
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

/// Saves the clocks, from which the next run continues.
pub(super) fn save_clocks(db: &Connection, clocks: SavedClocks) -> rusqlite::Result<()> {
    let mut save = db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('clocks', ?)")?;
    save.execute([clocks.to_bytes()]).map(drop)
}

/// Moves deadlines that are implausibly far ahead to now. Earlier versions measured deadlines by the wall
/// clock, which may have been set back since.
pub(super) fn clamp_future_times(db: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let now = shared.clock.fleet_ms();
    let latest = now.saturating_add(MAX_RETRY_DELAY.as_millis() as i64);
    db.execute("UPDATE outbox SET next_ms = ?1 WHERE next_ms > ?2", [now, latest])?;
    db.execute("UPDATE outbox SET first_try_ms = ?1 WHERE first_try_ms > ?1", [now])?;
    let queue = "UPDATE casts SET queue_until_ms = ?1 + (queue_until_ms - queued_ms), queued_ms = ?1
                 WHERE queued_ms > ?1 AND (state = 0 OR state = 3 AND started_ms IS NULL)";
    db.execute(queue, [now]).map(drop)
}

/// Writes a value, to check that the database is writable.
pub(super) fn write_probe(tx: &mut Tx<'_>) -> Result<(), TxError> {
    let mut write = tx.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('touched', ?)")?;
    write.execute(params![tx.now.to_be_bytes().as_slice()])?;
    Ok(())
}
