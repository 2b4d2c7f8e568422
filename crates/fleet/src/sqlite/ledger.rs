//! Ledgers of recordings: the rows that owners of casts report.

use pagecast_core::ledger::LedgerRow;
use rusqlite::{Connection, params};

use super::Shared;
use super::claims::verify_ticket;
use super::row::{TxError, execute, query_all};
use super::writer::Tx;
use crate::Ticket;
use crate::sealing::ledger_context;

pub(super) fn put(tx: &Tx<'_>, ticket: &Ticket, rows: &[LedgerRow]) -> Result<(), TxError> {
    let cast = verify_ticket(tx.db, ticket)?;
    for row in rows {
        let (kind, number) = row.key();
        let sealed = tx.shared.seal(&ledger_context(&cast.id, row.key()), row)?;
        let sql = "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?)";
        execute(tx.db, sql, params![cast.rowid, kind, number, sealed])?;
    }
    Ok(())
}

pub(super) fn read(db: &Connection, shared: &Shared, ticket: &Ticket) -> Result<Vec<LedgerRow>, TxError> {
    let cast = verify_ticket(db, ticket)?;
    let sql = "SELECT kind, number, what FROM ledger WHERE whose = ? ORDER BY kind, number";
    query_all(db, sql, [cast.rowid], |row| {
        let sealed: Vec<u8> = row.get(2)?;
        shared.open(&ledger_context(&cast.id, (row.get(0)?, row.get(1)?)), &sealed)
    })
}
