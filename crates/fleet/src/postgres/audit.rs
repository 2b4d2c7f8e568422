//! Record of requests: the [`crate::AuditTrail`] part of the backend.

use super::sql::{TxError, execute, params, query_all};
use super::transaction::{Db, Tx};
use crate::audit::{MAX_AUDIT_ENTRIES, app_column, owners};
use crate::retention::AUDIT_SWEEP_BATCH;
use crate::sealing::AUDIT_CONTEXT;
use crate::{AuditEntry, AuditFilter, AuditPage, Error};

pub(super) async fn append(tx: &Tx<'_>, entries: &[AuditEntry]) -> Result<(), TxError> {
    let times: Vec<i64> = entries.iter().map(|entry| entry.at_ms).collect();
    let roles: Vec<i16> = entries.iter().map(|entry| entry.role.to_number()).collect();
    let apps: Vec<&str> = entries.iter().map(app_column).collect();
    let sealed = entries.iter().map(|entry| tx.shared.seal(AUDIT_CONTEXT, entry));
    let sealed: Vec<Vec<u8>> = sealed.collect::<Result<_, _>>()?;
    let sql = "INSERT INTO audit (at_ms, role, app, content)
               SELECT at_ms, role, app, content FROM unnest($1, $2, $3, $4)
               WITH ORDINALITY AS new (at_ms, role, app, content, place) ORDER BY place";
    execute(tx.db(), sql, params![times, roles, apps, sealed]).await?;
    let sql = "DELETE FROM audit WHERE role = $1 AND app = $2 AND n <= (
                   SELECT n FROM audit WHERE role = $1 AND app = $2 ORDER BY n DESC LIMIT 1 OFFSET $3)";
    for (role, app) in owners(entries) {
        execute(tx.db(), sql, params![role, app, MAX_AUDIT_ENTRIES]).await?;
    }
    Ok(())
}

pub(super) async fn list(db: &Db<'_>, filter: &AuditFilter) -> Result<AuditPage, TxError> {
    let of_app = if filter.app.is_some() { "app = $1" } else { "$1 IS NULL" };
    let sql = format!("SELECT n, content FROM audit WHERE {of_app} AND n < $2 ORDER BY n DESC LIMIT $3");
    let params = params![filter.app.as_deref(), filter.before(), filter.read_limit()];
    let read = query_all(db.client, &sql, params, |row| {
        let n: i64 = row.try_get(0)?;
        match db.shared.open::<AuditEntry>(AUDIT_CONTEXT, row.try_get(1)?) {
            Ok(entry) => Ok(Some(AuditEntry { id: n.unsigned_abs(), ..entry })),
            Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
                tracing::warn!(entry = n, %error, "audit entry unreadable, left out");
                Ok(None)
            }
            Err(other) => Err(other),
        }
    })
    .await?;
    Ok(AuditPage::new(read, filter))
}

/// Deletes entries from before this time, and returns whether there may be more.
pub(super) async fn delete_before(tx: &Tx<'_>, before_ms: i64) -> Result<bool, TxError> {
    let sql = "DELETE FROM audit WHERE n IN (
                   SELECT n FROM audit WHERE at_ms < $1 ORDER BY at_ms LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let deleted = execute(tx.db(), sql, params![before_ms, AUDIT_SWEEP_BATCH]).await?;
    Ok(i64::try_from(deleted) == Ok(AUDIT_SWEEP_BATCH))
}
