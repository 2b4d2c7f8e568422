//! Small documents: the [`crate::Documents`] part of the backend.

use rusqlite::{Connection, params};
use serde_json::Value;

use super::Shared;
use super::row::{TxError, execute, query_all, query_one};
use super::writer::Tx;
use crate::sealing::document_context;
use crate::{Document, DocumentList, Error};

/// A document to be stored, or removed if it has no content.
pub(super) struct Put {
    pub kind: String,
    pub name: String,
    pub expected: Option<u64>,
    pub content: Option<Value>,
}

pub(super) fn put(tx: &mut Tx<'_>, put: &Put) -> Result<(), TxError> {
    let Put { kind, name, expected, content } = put;
    if let Some(expected) = *expected {
        let sql = "SELECT version FROM documents WHERE kind = ? AND name = ?";
        let found = query_one(tx.db, sql, [kind, name], |row| Ok(row.get::<_, i64>(0)?))?;
        if found.unwrap_or(0).unsigned_abs() != expected {
            return Err(Error::DocumentChanged(name.clone()).into());
        }
    }
    execute(tx.db, "UPDATE document_version SET version = version + 1", [])?;
    match content {
        Some(content) => {
            let sealed = tx.shared.seal(&document_context(kind, name), content)?;
            let sql = "INSERT OR REPLACE INTO documents (kind, name, document, version)
                       SELECT ?, ?, ?, version FROM document_version";
            execute(tx.db, sql, params![kind, name, sealed])?
        }
        None => execute(tx.db, "DELETE FROM documents WHERE kind = ? AND name = ?", [kind, name])?,
    };
    tx.notify_changes();
    Ok(())
}

pub(super) fn list(db: &Connection, shared: &Shared, kind: &str) -> Result<DocumentList, TxError> {
    let sql = "SELECT name, version, document FROM documents WHERE kind = ? ORDER BY name";
    let documents = query_all(db, sql, [kind], |row| {
        let (name, version): (String, i64) = (row.get(0)?, row.get(1)?);
        let content = shared.open(&document_context(kind, &name), &row.get::<_, Vec<u8>>(2)?)?;
        Ok(Document { name, version: version.unsigned_abs(), content })
    })?;
    Ok(DocumentList { version: version(db)?, documents })
}

pub(super) fn version(db: &Connection) -> Result<u64, TxError> {
    let version = query_one(db, "SELECT version FROM document_version", [], |row| Ok(row.get::<_, i64>(0)?))?;
    Ok(version.unwrap_or(0).unsigned_abs())
}
