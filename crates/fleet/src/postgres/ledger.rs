//! Ledgers of recordings: the rows that owners of casts report.

use pagecast_core::ledger::LedgerRow;

use super::claims::lock_owned;
use super::sql::{TxError, execute, params, query_all};
use super::transaction::Tx;
use crate::sealing::ledger_context;
use crate::{Error, Ticket};

/// Rows that the owner of a cast adds to its ledger.
pub(super) struct Put {
    pub ticket: Ticket,
    pub rows: Vec<LedgerRow>,
}

pub(super) async fn put(tx: &Tx<'_>, args: &Put) -> Result<(), TxError> {
    let cast = lock_owned(tx, &args.ticket).await?;
    let (mut kinds, mut numbers, mut contents) = (Vec::new(), Vec::new(), Vec::new());
    // A statement can replace a row only once.
    let newest: std::collections::BTreeMap<_, _> = args.rows.iter().map(|row| (row.key(), row)).collect();
    for ((kind, number), row) in newest {
        kinds.push(i64::from(kind));
        numbers.push(i64::from(number));
        contents.push(tx.shared.seal(&ledger_context(&cast.id, (kind, number)), row)?);
    }
    let sql = "INSERT INTO ledger (cast_n, kind, number, content)
               SELECT $1, kind, number, content FROM unnest($2, $3, $4) AS rows (kind, number, content)
               ON CONFLICT (cast_n, kind, number) DO UPDATE SET content = excluded.content";
    execute(tx.db(), sql, params![cast.n, kinds, numbers, contents]).await?;
    Ok(())
}

/// Reads the ledger within a write, so that the ticket is checked on the locked row.
pub(super) async fn read(tx: &Tx<'_>, ticket: &Ticket) -> Result<Vec<LedgerRow>, TxError> {
    let cast = lock_owned(tx, ticket).await?;
    let sql = "SELECT kind, number, content FROM ledger WHERE cast_n = $1 ORDER BY kind, number";
    query_all(tx.db(), sql, params![cast.n], |row| {
        let (kind, number) = (row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?);
        let (Ok(kind), Ok(number)) = (u8::try_from(kind), u32::try_from(number)) else {
            let what = format!("row {kind}/{number} of the ledger of {}", cast.id);
            return Err(Error::Unreadable { what, why: "its key is out of range".into() }.into());
        };
        tx.shared.open(&ledger_context(&cast.id, (kind, number)), row.try_get(2)?)
    })
    .await
}
