//! Small documents: the [`crate::Documents`] part of the backend.

use rusqlite::{Connection, params};
use serde_json::Value;

use super::Shared;
use super::row::{TxError, execute, query_all};
use super::writer::Tx;

/// Context in which a document is sealed. It includes the length of the kind, so that it is unique.
fn seal_context(kind: &str, name: &str) -> String {
    format!("document/{}/{kind}/{name}", kind.len())
}

pub(super) fn put(tx: &mut Tx<'_>, kind: &str, name: &str, document: Option<&Value>) -> Result<(), TxError> {
    match document {
        Some(document) => {
            let sealed = tx.shared.seal(&seal_context(kind, name), document)?;
            execute(tx.db, "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", params![kind, name, sealed])?
        }
        None => execute(tx.db, "DELETE FROM documents WHERE kind = ? AND name = ?", [kind, name])?,
    };
    tx.notify_changes();
    Ok(())
}

pub(super) fn list(db: &Connection, shared: &Shared, kind: &str) -> Result<Vec<(String, Value)>, TxError> {
    query_all(db, "SELECT name, document FROM documents WHERE kind = ? ORDER BY name", [kind], |row| {
        let (name, sealed): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let document = shared.open(&seal_context(kind, &name), &sealed)?;
        Ok((name, document))
    })
}
