//! Schema of the database: creation, migration, and checks of the server and the key.

use tokio_postgres::{Client, Row, Transaction};

use super::sql::{TxError, execute, params, query_one};
use super::{Error, sweep};
use crate::sealing::KEY_CHECK_CONTEXT;
use crate::vault::Vault;

/// Migrations, each to the next schema version, with the oldest schema version whose programs can still use
/// the database. A migration first only adds; what it replaces is removed by a later one, when no program
/// uses it any more. So two versions of the program can run side by side during an upgrade.
const MIGRATIONS: &[(&str, i64)] =
    &[(include_str!("1.sql"), 1), (include_str!("2.sql"), 1), (include_str!("3.sql"), 1)];
/// Oldest supported version of PostgreSQL.
const MIN_SERVER_VERSION: i64 = 140_000;
/// Advisory lock of the process that migrates.
const MIGRATION_LOCK: i64 = 0x7061_6765_0002;

/// Creates the schema or migrates an older one, and checks whether this program can use the database.
pub(super) async fn prepare(client: &mut Client, vault: &Vault) -> Result<(), Error> {
    check_server(client).await?;
    let tx = client.transaction().await.map_err(Error::Database)?;
    query(tx.client(), "SELECT pg_advisory_xact_lock($1)", params![MIGRATION_LOCK], |_| Ok(())).await?;
    migrate(&tx, vault).await?;
    tx.commit().await.map_err(Error::Database)
}

/// Checks the version of the server, and that it is not a standby.
async fn check_server(client: &Client) -> Result<(), Error> {
    let sql = "SELECT current_setting('server_version_num')::bigint, current_setting('server_version'),
                      pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";
    let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let (number, version, read_only): (i64, String, bool) = query(client, sql, params![], read).await?;
    if number < MIN_SERVER_VERSION {
        return Err(Error::ServerTooOld(version));
    }
    if read_only { Err(Error::ReadOnly) } else { Ok(()) }
}

async fn migrate(tx: &Transaction<'_>, vault: &Vault) -> Result<(), Error> {
    let db = tx.client();
    let sql = "SELECT to_regclass('schema_version') IS NOT NULL,
                      EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = current_schema()::regnamespace
                              AND relkind IN ('r', 'p', 'v', 'm', 'f'))";
    let (is_ours, has_tables): (bool, bool) =
        query(db, sql, params![], |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?;
    if !is_ours {
        if has_tables {
            return Err(Error::UnknownDatabase);
        }
        let sql = "CREATE TABLE schema_version (version bigint NOT NULL, oldest_program bigint NOT NULL);
                   INSERT INTO schema_version VALUES (0, 0)";
        db.batch_execute(sql).await.map_err(Error::Database)?;
    }
    let sql = "SELECT version, oldest_program FROM schema_version";
    let (version, oldest_program): (i64, i64) =
        query(db, sql, params![], |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?;
    let known = MIGRATIONS.len() as i64;
    if oldest_program > known {
        return Err(Error::SchemaTooNew { found: version, known });
    }
    // Before any migration, which may need the right key.
    if version > 0 {
        verify_key(db, vault).await?;
    }
    let from = usize::try_from(version).unwrap_or(usize::MAX);
    for (number, (sql, oldest_program)) in (1_i64..).zip(MIGRATIONS).skip(from) {
        db.batch_execute(sql).await.map_err(Error::Database)?;
        let sql = "UPDATE schema_version SET version = $1, oldest_program = $2";
        execute(db, sql, params![number, *oldest_program]).await.map_err(Error::from_tx)?;
        tracing::info!(version = number, "database migrated");
    }
    verify_key(db, vault).await
}

/// Refuses a wrong key before anything is sealed with it.
async fn verify_key(db: &Client, vault: &Vault) -> Result<(), Error> {
    let insert = "INSERT INTO meta (name, value) VALUES ('vault', $1) ON CONFLICT DO NOTHING";
    let sealed = vault.seal(KEY_CHECK_CONTEXT, b"");
    execute(db, insert, params![sealed]).await.map_err(Error::from_tx)?;
    let sql = "SELECT value FROM meta WHERE name = 'vault'";
    let sealed: Vec<u8> = query(db, sql, params![], |row| Ok(row.try_get(0)?)).await?;
    vault.open(KEY_CHECK_CONTEXT, &sealed).map(drop).map_err(Error::WrongKey)
}

async fn query<T: Send>(
    db: &Client,
    sql: &str,
    params: &super::sql::Params<'_>,
    read: impl FnOnce(&Row) -> Result<T, TxError> + Send,
) -> Result<T, Error> {
    query_one(db, sql, params, read)
        .await
        .and_then(|row| row.ok_or(TxError::Conflict))
        .map_err(Error::from_tx)
}

/// Switches JIT compilation off for connections of this role that are opened from now on, those of a pooler
/// included. It takes 100 ms for each statement that the planner thinks is expensive, and all of ours are
/// short. Returns whether it was on. A parameter of the connection would not pass a pooler.
pub(super) async fn disable_jit(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT current_setting('jit')::boolean,
                      format('ALTER ROLE %I IN DATABASE %I SET jit = off', session_user, current_database())";
    let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let (is_on, alter): (bool, String) = query(client, sql, params![], read).await?;
    // Another process may do the same at this moment, or this role may not.
    if is_on && let Err(error) = client.batch_execute(&alter).await {
        tracing::debug!(%error, "cannot switch JIT compilation off");
    }
    Ok(is_on)
}

/// Creates the partitions that are needed now.
pub(super) async fn create_partitions(client: &mut Client, retention_ms: i64) -> Result<(), Error> {
    let tx = client.transaction().await.map_err(Error::Database)?;
    sweep::call_maintain_partitions(tx.client(), retention_ms).await.map_err(Error::from_tx)?;
    tx.commit().await.map_err(Error::Database)
}

/// Removes what an earlier process of this node left: its claims on deliveries.
pub(super) async fn release_deliveries(client: &Client, node: &str) -> Result<(), Error> {
    let sql = "UPDATE outbox SET claimed_by = NULL, claimed_until_ms = 0 WHERE claimed_by = $1";
    execute(client, sql, params![node]).await.map(drop).map_err(Error::from_tx)
}
