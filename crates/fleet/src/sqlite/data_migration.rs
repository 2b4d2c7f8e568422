//! Migration steps that SQL cannot do, because values are sealed.

use pagecast_core::CastSpec;
use rusqlite::{Connection, params};

use crate::CastId;
use crate::injected::Injected;
use crate::sealing::cast_context;
use crate::vault::Vault;

/// Migrates data to schema 2: injected data moves to its own table, casts get their weight, and bytes are
/// counted. It reads one cast at a time, because all together may not fit into memory. A cast that cannot be
/// read is left as it is; later operations report it.
pub(super) fn split_injected(db: &Connection, vault: &Vault) -> rusqlite::Result<()> {
    let mut after = i64::MIN;
    while let Some((n, id, sealed, closed)) = next_cast(db, after)? {
        after = n;
        let Ok(id) = CastId::parse(&id) else { continue };
        let opened = vault.open(&cast_context(&id, "spec"), &sealed).ok();
        let Some(mut spec) = opened.and_then(|json| serde_json::from_slice::<CastSpec>(&json).ok()) else {
            continue;
        };
        db.prepare_cached("UPDATE casts SET weight = ? WHERE n = ?")?
            .execute(params![crate::cast::weight(&spec), n])?;
        let Some(injected) = Injected::take_from(&mut spec) else { continue };
        let (Ok(spec), Ok(injected)) = (serde_json::to_vec(&spec), serde_json::to_vec(&injected)) else {
            continue;
        };
        let spec = vault.seal(&cast_context(&id, "spec"), &spec);
        db.prepare_cached("UPDATE casts SET spec = ? WHERE n = ?")?.execute(params![spec, n])?;
        if !closed {
            let injected = vault.seal(&cast_context(&id, "injected"), &injected);
            db.prepare_cached("INSERT INTO injected VALUES (?, ?)")?.execute(params![n, injected])?;
        }
    }
    db.execute_batch(
        "UPDATE casts SET bytes = length(request) + length(spec) + ifnull(length(report), 0)
             + (SELECT ifnull(sum(length(what)), 0) FROM injected WHERE whose = n)
             + (SELECT ifnull(sum(length(what)), 0) FROM events WHERE whose = n)
             + (SELECT ifnull(sum(length(attempt)), 0) FROM attempts WHERE whose = n);
         UPDATE tally SET weight = (SELECT ifnull(sum(c.weight), 0) FROM casts c
                                    WHERE c.state = tally.state AND c.app = tally.app);",
    )
}

/// Row, id and sealed description of a cast, and whether it is closed.
type UnsplitCast = (i64, String, Vec<u8>, bool);

fn next_cast(db: &Connection, after: i64) -> rusqlite::Result<Option<UnsplitCast>> {
    let sql = "SELECT n, id, spec, closed FROM casts WHERE n > ? ORDER BY n LIMIT 1";
    let mut select = db.prepare_cached(sql)?;
    let mut rows = select.query([after])?;
    rows.next()?.map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).transpose()
}
