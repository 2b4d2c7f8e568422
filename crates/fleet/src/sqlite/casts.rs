//! Creation and queries of casts, and commands: the [`crate::Casts`] part of the backend.

use pagecast_core::CastSpec;
use pagecast_core::spec::Push;
use rusqlite::{Connection, params};

use super::Shared;
use super::claims::{self, mark_closed};
use super::history::{append_event, end_cast};
use super::row::{
    CAST_COLUMNS, CastRow, TxError, execute, get_by_rowid, get_listed, query_all, query_one, read_cast,
};
use super::sweep;
use super::writer::Tx;
use crate::cast::weight;
use crate::delivery::deadline_after;
use crate::lifecycle::{CommandEffect, on_command, stopped_end};
use crate::paging::{self, Listed, MAX_PAGE_CASTS};
use crate::queue::stored_labels;
use crate::quota::{self, CastCounts, UNSTARTED_QUOTA_WINDOW_MS};
use crate::sealing::{SealedCast, cast_context};
use crate::{
    Cast, CastId, CastKey, CastPage, CastState, Command, CreateOutcome, Error, EventKind, Filter, NewCast,
    Ticket,
};

/// Creates a cast, unless its key is held or a limit is exceeded.
pub(super) fn create(tx: &mut Tx<'_>, sealed: SealedCast) -> Result<CreateOutcome, TxError> {
    if let Some(n) = find_existing(tx, &sealed.new)? {
        let holder = get_by_rowid(tx.db, tx.shared, n)?;
        return holder.map(CreateOutcome::Exists).ok_or_else(|| Error::CastNotFound(sealed.new.id).into());
    }
    if let Some(refused) = exceeded_limit(tx, &sealed)? {
        return Ok(refused);
    }
    let bytes = sealed.bytes() as i64;
    let SealedCast { new, request, spec, injected } = sealed;
    execute(
        tx.db,
        "INSERT INTO casts (id, app, origin, key, key_until_ms, held, notify, request, spec, \
        queue_until_ms, created_ms,
                            queued_ms, weight, labels, bytes)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            new.id.as_str(),
            new.app,
            new.api,
            new.key.as_ref().map(|key| &key.0),
            new.key_until_ms(),
            new.key.is_some(),
            new.notify,
            request,
            spec,
            deadline_after(tx.fleet_now, new.queue_timeout),
            tx.now,
            tx.fleet_now,
            weight(&new.spec),
            stored_labels(&new.spec.placement),
            bytes
        ],
    )?;
    let n = tx.db.last_insert_rowid();
    if let Some(injected) = injected {
        execute(tx.db, "INSERT INTO injected VALUES (?, ?)", params![n, injected])?;
    }
    let (id, key_until_ms) = (new.id.clone(), new.key_until_ms());
    let row = CastRow { rowid: n, id, notify: new.notify, state: CastState::Queued, key_until_ms };
    append_event(tx, &row, &EventKind::Queued)?;
    Ok(CreateOutcome::New(new.into_queued(tx.now)))
}

/// The outcome that refuses a cast, if it would exceed a limit.
fn exceeded_limit(tx: &Tx<'_>, sealed: &SealedCast) -> Result<Option<CreateOutcome>, TxError> {
    let new = &sealed.new;
    let sum = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        let found = query_one(tx.db, sql, params, |row| Ok(row.get::<_, i64>(0)?))?;
        Ok::<_, TxError>(found.unwrap_or(0))
    };
    let unstarted = "SELECT count(*) FROM (SELECT 1 FROM casts INDEXED BY casts_unbegun
                  WHERE app = ? AND queued_ms > ? AND state = 3 AND started_ms IS NULL LIMIT ?)";
    let since = tx.fleet_now.saturating_sub(UNSTARTED_QUOTA_WINDOW_MS);
    let counts = CastCounts {
        open: sum("SELECT ifnull(sum(n), 0) FROM tally WHERE state < 3 AND app = ?", &[&new.app])?,
        unstarted: sum(unstarted, &[&new.app, &since, &quota::max_unstarted(new)])?,
        own_queued: sum("SELECT ifnull(sum(n), 0) FROM tally WHERE state = 0 AND app = ?", &[&new.app])?,
        queued: sum("SELECT ifnull(sum(n), 0) FROM tally WHERE state = 0", &[])?,
    };
    if let Some(refused) = quota::refusal(new, counts) {
        return Ok(Some(refused));
    }
    let fits = match quota::bytes_left(new, sealed.bytes()) {
        Some(max) => sweep::free_app_bytes(tx, &new.app, max)?,
        None => false,
    };
    Ok(if fits { None } else { Some(CreateOutcome::BytesExceeded(sweep::app_bytes(tx, &new.app)?)) })
}

/// Row of the cast that holds the key, or has the id, of a new cast.
fn find_existing(tx: &Tx<'_>, new: &NewCast) -> Result<Option<i64>, TxError> {
    if let Some(key) = &new.key {
        let release = "UPDATE casts INDEXED BY casts_held SET held = 0 WHERE key = ? AND held = 1 AND state \
            = 3 AND ifnull(key_until_ms, 0) <= ?";
        execute(tx.db, release, params![key.0, tx.now])?;
        let held = "SELECT n FROM casts WHERE key = ? AND held = 1";
        if let Some(n) = query_one(tx.db, held, params![key.0], |row| Ok(row.get(0)?))? {
            return Ok(Some(n));
        }
    }
    query_one(tx.db, "SELECT n FROM casts WHERE id = ?", [new.id.as_str()], |row| Ok(row.get(0)?))
}

pub(super) fn get(db: &Connection, shared: &Shared, id: &CastId) -> Result<Option<Cast>, TxError> {
    query_one(db, &format!("SELECT {CAST_COLUMNS} FROM casts WHERE id = ?"), [id.as_str()], |row| {
        read_cast(shared, row)
    })
}

/// Finds the latest cast with this key: its holder got the key after all earlier holders.
pub(super) fn find_by_key(db: &Connection, shared: &Shared, key: &CastKey) -> Result<Option<Cast>, TxError> {
    let sql = format!("SELECT {CAST_COLUMNS} FROM casts WHERE key = ? ORDER BY n DESC LIMIT 1");
    query_one(db, &sql, [&key.0], |row| read_cast(shared, row))
}

pub(super) fn list(db: &Connection, shared: &Shared, filter: &Filter) -> Result<CastPage, TxError> {
    let limit = filter.limit.clamp(1, MAX_PAGE_CASTS);
    let created_ms = match &filter.after {
        Some(after) => {
            let sql = "SELECT created_ms FROM casts WHERE id = ?";
            query_one(db, sql, [after.as_str()], |row| Ok(row.get(0)?))?
        }
        None => None,
    };
    let (before, id) = paging::page_start(filter, created_ms);
    let (by_app, app) = match &filter.app {
        Some(app) => ("app = ?1", app.as_str()),
        None => ("?1 = ''", ""),
    };
    let sql = format!(
        "SELECT created_ms, id, n, length(spec) FROM casts WHERE {by_app} AND state = ?2 \
        AND created_ms >= ?3
         AND (created_ms, id) < (?4, ?5) AND (?6 IS NULL OR origin = ?6)
         ORDER BY created_ms DESC, id DESC LIMIT ?7",
    );
    let mut found = Vec::new();
    for state in paging::states(filter) {
        let since = filter.since_ms.unwrap_or(i64::MIN);
        let params = params![app, state, since, before, id, filter.api, limit as i64 + 1];
        found.extend(query_all(db, &sql, params, |row| {
            Ok(Listed { created_ms: row.get(0)?, id: row.get(1)?, n: row.get(2)?, bytes: row.get(3)? })
        })?);
    }
    let (page, has_more) = paging::page(found, limit);
    let mut casts = Vec::with_capacity(page.len());
    for Listed { id, n, .. } in page {
        match get_listed(db, shared, n) {
            Ok(cast) => casts.extend(cast),
            Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
                tracing::warn!(cast = id, %error, "cast unreadable, left out of list");
            }
            Err(other) => return Err(other),
        }
    }
    Ok(CastPage { casts, has_more })
}

pub(super) fn count(db: &Connection, app: Option<&str>) -> Result<Vec<(CastState, u64)>, TxError> {
    let sql = "SELECT state, sum(n) FROM tally WHERE ?1 IS NULL OR app = ?1 GROUP BY state";
    let found: Vec<(CastState, i64)> = query_all(db, sql, [app], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let of = |state| found.iter().find(|(other, _)| *other == state).map_or(0, |(_, n)| n.unsigned_abs());
    Ok(CastState::ALL.map(|state| (state, of(state))).to_vec())
}

pub(super) fn send_command(tx: &mut Tx<'_>, id: &CastId, command: &Command) -> Result<(), TxError> {
    let row = CastRow::find(tx.db, id)?;
    let sql =
        "SELECT stop_asked, (SELECT count(*) FROM commands WHERE whose = casts.n) FROM casts WHERE n = ?";
    let found = query_one(tx.db, sql, [row.rowid], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
    let (stop_requested, pending) = found.unwrap_or_default();
    let pending = usize::try_from(pending).unwrap_or(0);
    let effect = on_command(id, row.state, stop_requested, pending, command)?;
    if effect == CommandEffect::Ignored {
        return Ok(());
    }
    if *command == Command::Stop {
        execute(tx.db, "UPDATE casts SET stop_asked = 1 WHERE n = ?", [row.rowid])?;
    }
    if effect == CommandEffect::EndsCast {
        end_cast(tx, &row, stopped_end())?;
        return mark_closed(tx, &row, None);
    }
    let sealed = tx.shared.seal(&cast_context(id, "command"), command)?;
    execute(tx.db, "INSERT INTO commands (whose, command) VALUES (?, ?)", params![row.rowid, sealed])?;
    tx.notify_changes();
    Ok(())
}

/// Fails a cast that no worker can ever run, if it is still queued.
pub(super) fn fail_queued(tx: &mut Tx<'_>, id: &CastId, message: &str) -> Result<(), TxError> {
    let row = CastRow::find(tx.db, id)?;
    if row.state == CastState::Queued { claims::fail_and_close(tx, &row, message) } else { Ok(()) }
}

pub(super) fn put_pushes(tx: &mut Tx<'_>, ticket: &Ticket, pushes: Vec<Push>) -> Result<(), TxError> {
    let row = claims::verify_ticket(tx.db, ticket)?;
    let context = cast_context(&row.id, "spec");
    let sealed: Option<Vec<u8>> =
        query_one(tx.db, "SELECT spec FROM casts WHERE n = ?", [row.rowid], |row| Ok(row.get(0)?))?;
    let before = sealed.unwrap_or_default();
    let mut spec: CastSpec = tx.shared.open(&context, &before)?;
    spec.pushes = pushes;
    let sealed = tx.shared.seal(&context, &spec)?;
    let sql = "UPDATE casts SET bytes = bytes + ? - ?, spec = ? WHERE n = ?";
    execute(tx.db, sql, params![sealed.len() as i64, before.len() as i64, sealed, row.rowid])?;
    tx.notify_changes();
    Ok(())
}
