//! Small documents: the [`crate::Documents`] part of the backend.

use serde_json::Value;

use super::sql::{TxError, execute, params, query_all, query_one};
use super::transaction::{Db, Tx};
use crate::sealing::document_context;
use crate::{Document, DocumentList, Error};

/// A document to be stored, or removed if it has no content.
pub(super) struct Put {
    pub kind: String,
    pub name: String,
    pub expected: Option<u64>,
    pub content: Option<Value>,
}

pub(super) async fn put(tx: &mut Tx<'_>, args: &Put) -> Result<(), TxError> {
    let (kind, name) = (args.kind.as_str(), args.name.as_str());
    // The lock of this row lets changes take turns.
    let sql = "UPDATE document_version SET version = version + 1 RETURNING version";
    let version: Option<i64> = query_one(tx.db(), sql, params![], |row| Ok(row.try_get(0)?)).await?;
    let version = version.ok_or(TxError::Conflict)?;
    if let Some(expected) = args.expected {
        let sql = "SELECT version FROM documents WHERE kind = $1 AND name = $2";
        let found: Option<i64> =
            query_one(tx.db(), sql, params![kind, name], |row| Ok(row.try_get(0)?)).await?;
        if found.unwrap_or(0).unsigned_abs() != expected {
            return Err(Error::DocumentChanged(args.name.clone()).into());
        }
    }
    match &args.content {
        Some(content) => {
            let sealed = tx.shared.seal(&document_context(kind, name), content)?;
            let sql = "INSERT INTO documents (kind, name, content, version) VALUES ($1, $2, $3, $4)
                       ON CONFLICT (kind, name)
                       DO UPDATE SET content = excluded.content, version = excluded.version";
            execute(tx.db(), sql, params![kind, name, sealed, version]).await?;
        }
        None => {
            let sql = "DELETE FROM documents WHERE kind = $1 AND name = $2";
            execute(tx.db(), sql, params![kind, name]).await?;
        }
    }
    tx.notify_changes();
    Ok(())
}

pub(super) async fn list(db: &Db<'_>, kind: &str) -> Result<DocumentList, TxError> {
    // One statement, so that the list and its version belong together.
    let sql = "SELECT document_version.version AS list_version, name, documents.version, content
               FROM document_version LEFT JOIN documents ON kind = $1 ORDER BY name";
    let mut list = DocumentList::default();
    let rows = query_all(db.client, sql, params![kind], |row| {
        let list_version = row.try_get::<_, i64>("list_version")?.unsigned_abs();
        let Some(name) = row.try_get::<_, Option<String>>("name")? else { return Ok((list_version, None)) };
        let version = row.try_get::<_, i64>("version")?.unsigned_abs();
        let content = db.shared.open(&document_context(kind, &name), row.try_get("content")?)?;
        Ok((list_version, Some(Document { name, version, content })))
    })
    .await?;
    for (version, document) in rows {
        list.version = version;
        list.documents.extend(document);
    }
    Ok(list)
}

pub(super) async fn version(db: &Db<'_>, _: &()) -> Result<u64, TxError> {
    let sql = "SELECT version FROM document_version";
    let version: Option<i64> = query_one(db.client, sql, params![], |row| Ok(row.try_get(0)?)).await?;
    Ok(version.unwrap_or(0).unsigned_abs())
}
