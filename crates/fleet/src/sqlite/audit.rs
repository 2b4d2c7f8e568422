//! Record of requests: the [`crate::AuditTrail`] part of the backend.

use rusqlite::{Connection, params};

use super::Shared;
use super::row::{TxError, execute, query_all};
use super::writer::Tx;
use crate::audit::{MAX_AUDIT_ENTRIES, app_column, owners};
use crate::retention::AUDIT_SWEEP_BATCH;
use crate::sealing::AUDIT_CONTEXT;
use crate::{AuditEntry, AuditFilter, AuditPage, Error};

pub(super) fn append(tx: &Tx<'_>, entries: &[AuditEntry]) -> Result<(), TxError> {
    for entry in entries {
        let sealed = tx.shared.seal(AUDIT_CONTEXT, entry)?;
        let sql = "INSERT INTO audit (at_ms, role, app, entry) VALUES (?, ?, ?, ?)";
        execute(tx.db, sql, params![entry.at_ms, entry.role.to_number(), app_column(entry), sealed])?;
    }
    let sql = "DELETE FROM audit WHERE role = ?1 AND app = ?2 AND n <= (
                   SELECT n FROM audit INDEXED BY audit_by_owner WHERE role = ?1 AND app = ?2
                   ORDER BY n DESC LIMIT 1 OFFSET ?3)";
    for (role, app) in owners(entries) {
        execute(tx.db, sql, params![role, app, MAX_AUDIT_ENTRIES])?;
    }
    Ok(())
}

pub(super) fn list(db: &Connection, shared: &Shared, filter: &AuditFilter) -> Result<AuditPage, TxError> {
    let of_app = if filter.app.is_some() { "app = ?1" } else { "?1 IS NULL" };
    let sql = format!("SELECT n, entry FROM audit WHERE {of_app} AND n < ?2 ORDER BY n DESC LIMIT ?3");
    let read = query_all(db, &sql, params![filter.app, filter.before(), filter.read_limit()], |row| {
        let (n, sealed): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        match shared.open::<AuditEntry>(AUDIT_CONTEXT, &sealed) {
            Ok(entry) => Ok(Some(AuditEntry { id: n.unsigned_abs(), ..entry })),
            Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
                tracing::warn!(entry = n, %error, "audit entry unreadable, left out");
                Ok(None)
            }
            Err(other) => Err(other),
        }
    })?;
    Ok(AuditPage::new(read, filter))
}

/// Deletes entries from before this time, and returns whether there may be more.
pub(super) fn delete_before(tx: &Tx<'_>, before_ms: i64) -> Result<bool, TxError> {
    let sql = "DELETE FROM audit WHERE n IN (
                   SELECT n FROM audit INDEXED BY audit_at WHERE at_ms < ? ORDER BY at_ms LIMIT ?)";
    Ok(execute(tx.db, sql, params![before_ms, AUDIT_SWEEP_BATCH])? as i64 == AUDIT_SWEEP_BATCH)
}
