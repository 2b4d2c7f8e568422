//! Small documents under a kind and a name.

use rusqlite::{Connection, params};
use serde_json::Value;

use super::Shared;
use super::row::{Fail, all, execute};
use super::writer::Tx;

/// With the length of the kind, so that no two documents have the same place.
fn place(kind: &str, name: &str) -> String {
    format!("document/{}/{kind}/{name}", kind.len())
}

pub(super) fn put(tx: &mut Tx<'_>, kind: &str, name: &str, document: Option<&Value>) -> Result<(), Fail> {
    match document {
        Some(document) => {
            let sealed = tx.shared.seal(&place(kind, name), document)?;
            execute(tx.db, "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", params![kind, name, sealed])?
        }
        None => execute(tx.db, "DELETE FROM documents WHERE kind = ? AND name = ?", [kind, name])?,
    };
    tx.news();
    Ok(())
}

pub(super) fn all_of(db: &Connection, shared: &Shared, kind: &str) -> Result<Vec<(String, Value)>, Fail> {
    all(db, "SELECT name, document FROM documents WHERE kind = ? ORDER BY name", [kind], |row| {
        let (name, sealed): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let document = shared.open(&place(kind, &name), &sealed)?;
        Ok((name, document))
    })
}
