//! Creation and queries of casts, and commands: the [`crate::Casts`] part of the backend.

use std::cmp::Reverse;

use pagecast_core::CastSpec;
use pagecast_core::cast::EndReason;
use pagecast_core::spec::Push;
use rusqlite::{Connection, params};

use super::Shared;
use super::claims::{self, mark_closed};
use super::history::{append_event, end_cast};
use super::row::{
    CAST_COLUMNS, CastRow, TxError, execute, get_by_rowid, get_listed, query_all, query_one, read_cast,
    seal_context,
};
use super::sweep;
use super::writer::Tx;
use crate::cast::weight;
use crate::injected::Injected;
use crate::{
    Cast, CastEnd, CastId, CastKey, CastPage, CastState, Command, CreateOutcome, Error, EventKind, Filter,
    KeyRetention, MAX_COMMANDS, NewCast, Ticket, UnixMs,
};

/// Maximum number of casts on a page of a list.
const MAX_PAGE_CASTS: usize = 1000;

/// Maximum number of bytes of descriptions and requests on a page: 1000 typical casts take 2 MB. A larger
/// cast is a page by itself.
const MAX_PAGE_BYTES: i64 = 8 << 20;
/// How long a cast that ended before it was claimed counts towards the quota, in milliseconds. This limits
/// clients that create casts without a queue timeout, or stop them at once.
const UNSTARTED_QUOTA_WINDOW_MS: i64 = 60_000;

/// A new cast whose values are already sealed, so that the transaction is short.
pub(super) struct SealedCast {
    new: NewCast,
    request: Vec<u8>,
    spec: Vec<u8>,
    injected: Option<Vec<u8>>,
}

impl SealedCast {
    pub(super) fn new(shared: &Shared, mut new: NewCast) -> Result<Self, TxError> {
        let injected = Injected::take_from(&mut new.spec);
        let request = shared.seal(&seal_context(&new.id, "request"), &new.request)?;
        let spec = shared.seal(&seal_context(&new.id, "spec"), &new.spec)?;
        let seal = |injected| shared.seal(&seal_context(&new.id, "injected"), &injected);
        let injected = injected.map(seal).transpose()?;
        Ok(Self { new, request, spec, injected })
    }

    fn bytes(&self) -> usize {
        self.request.len() + self.spec.len() + self.injected.as_ref().map_or(0, Vec::len)
    }
}

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
    let until = match (&new.key, new.key_retention) {
        (Some(_), KeyRetention::Until(until)) => Some(until),
        (Some(_), KeyRetention::UntilEnded) | (None, _) => None,
    };
    execute(
        tx.db,
        "INSERT INTO casts (id, app, origin, key, key_until_ms, held, notify, request, spec, \
        queue_until_ms, created_ms,
                            queued_ms, weight, bytes)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            new.id.as_str(),
            new.app,
            new.api,
            new.key.as_ref().map(|key| &key.0),
            until,
            new.key.is_some(),
            new.notify,
            request,
            spec,
            claims::deadline_after(tx.fleet_now, new.queue_timeout),
            tx.now,
            tx.fleet_now,
            weight(&new.spec),
            bytes
        ],
    )?;
    let n = tx.db.last_insert_rowid();
    if let Some(injected) = injected {
        execute(tx.db, "INSERT INTO injected VALUES (?, ?)", params![n, injected])?;
    }
    let row = CastRow { rowid: n, id: new.id.clone(), notify: new.notify, state: CastState::Queued };
    append_event(tx, &row, &EventKind::Queued)?;
    Ok(CreateOutcome::New(Cast {
        id: new.id,
        app: new.app,
        api: new.api,
        key: new.key,
        request: new.request,
        spec: new.spec,
        state: CastState::Queued,
        end: None,
        created_ms: tx.now,
        started_ms: None,
        live_ms: None,
        ended_ms: None,
        stop_requested: false,
        closed: false,
        worker: None,
        epoch: 0,
        report: None,
        events_dropped: 0,
    }))
}

/// The outcome that refuses a cast, if it would exceed a limit.
fn exceeded_limit(tx: &Tx<'_>, sealed: &SealedCast) -> Result<Option<CreateOutcome>, TxError> {
    let new = &sealed.new;
    let sum = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        let found = query_one(tx.db, sql, params, |row| Ok(row.get::<_, i64>(0)?))?;
        Ok::<_, TxError>(found.unwrap_or(0))
    };
    let quota = i64::from(new.quota);
    let open = sum("SELECT ifnull(sum(n), 0) FROM tally WHERE state < 3 AND app = ?", &[&new.app])?;
    let max = quota.saturating_mul(2);
    let unstarted = "SELECT count(*) FROM (SELECT 1 FROM casts INDEXED BY casts_unbegun
                  WHERE app = ? AND queued_ms > ? AND state = 3 AND started_ms IS NULL LIMIT ?)";
    let since = tx.fleet_now.saturating_sub(UNSTARTED_QUOTA_WINDOW_MS);
    if open >= quota || open + sum(unstarted, &[&new.app, &since, &max])? >= max {
        return Ok(Some(CreateOutcome::QuotaExceeded));
    }
    let queued = sum("SELECT ifnull(sum(n), 0) FROM tally WHERE state = 0", &[])?;
    if queued >= i64::from(new.queue_limit) {
        return Ok(Some(CreateOutcome::QueueFull));
    }
    let max = new.max_bytes.saturating_sub(sealed.bytes() as u64);
    let fits = new.max_bytes >= sealed.bytes() as u64 && sweep::free_app_bytes(tx, &new.app, max)?;
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
    let (before, id) = page_start(db, filter)?;
    let (by_app, app) = match &filter.app {
        Some(app) => ("app = ?1", app.as_str()),
        None => ("?1 = ''", ""),
    };
    let sql = format!(
        "SELECT created_ms, id, n, length(request) + length(spec) FROM casts WHERE {by_app} AND state = ?2 \
        AND created_ms >= ?3
         AND (created_ms, id) < (?4, ?5) AND (?6 IS NULL OR origin = ?6)
         ORDER BY created_ms DESC, id DESC LIMIT ?7",
    );
    // One query per state, so that an index returns them in order.
    let states =
        CastState::ALL.iter().filter(|state| filter.states.is_empty() || filter.states.contains(state));
    let mut found: Vec<(i64, String, i64, i64)> = Vec::new();
    for state in states {
        let since = filter.since_ms.unwrap_or(i64::MIN);
        let params = params![app, state, since, before, id, filter.api, limit as i64 + 1];
        found.extend(query_all(db, &sql, params, |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?);
    }
    found.sort_unstable_by(|a, b| Reverse((a.0, &a.1)).cmp(&Reverse((b.0, &b.1))));
    let mut bytes = 0;
    let fit = found.iter().take(limit).take_while(|(.., size)| {
        let first = bytes == 0;
        bytes += size.max(&1);
        first || bytes <= MAX_PAGE_BYTES
    });
    let fit = fit.count();
    let more = found.len() > fit;
    let mut casts = Vec::with_capacity(fit);
    for (_, id, n, _) in found.iter().take(fit) {
        match get_listed(db, shared, *n) {
            Ok(cast) => casts.extend(cast),
            Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
                tracing::warn!(cast = id, %error, "cast unreadable, left out of list");
            }
            Err(other) => return Err(other),
        }
    }
    Ok(CastPage { casts, has_more: more })
}

/// Exclusive upper bound of a page: casts created before this time, or at this time with a smaller id.
fn page_start(db: &Connection, filter: &Filter) -> Result<(UnixMs, String), TxError> {
    let before = (filter.before_ms.unwrap_or(i64::MAX), String::new());
    let Some(after) = &filter.after else {
        return Ok(before);
    };
    let sql = "SELECT created_ms FROM casts WHERE id = ?";
    let at = query_one(db, sql, [after.as_str()], |row| Ok(row.get(0)?))?;
    // The id of a deleted cast still contains its creation time.
    let at = at.or_else(|| i64::from_str_radix(&after.as_str()[..12], 16).ok());
    Ok(before.min((at.unwrap_or(i64::MAX), after.as_str().to_owned())))
}

pub(super) fn count(db: &Connection, app: Option<&str>) -> Result<Vec<(CastState, u64)>, TxError> {
    let sql = "SELECT state, sum(n) FROM tally WHERE ?1 IS NULL OR app = ?1 GROUP BY state";
    let found: Vec<(CastState, i64)> = query_all(db, sql, [app], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let of = |state| found.iter().find(|(other, _)| *other == state).map_or(0, |(_, n)| n.unsigned_abs());
    Ok(CastState::ALL.map(|state| (state, of(state))).to_vec())
}

pub(super) fn send_command(tx: &mut Tx<'_>, id: &CastId, command: &Command) -> Result<(), TxError> {
    let row = CastRow::find(tx.db, id)?;
    let stop = *command == Command::Stop;
    match row.state {
        CastState::Ended => return Err(Error::CastEnded(id.clone()).into()),
        CastState::Queued if stop => {
            execute(tx.db, "UPDATE casts SET stop_asked = 1 WHERE n = ?", [row.rowid])?;
            end_cast(tx, &row, CastEnd { reason: EndReason::Stopped, message: None, cause: None })?;
            return mark_closed(tx, &row, None);
        }
        CastState::Queued | CastState::Starting | CastState::Live => {}
    }
    if stop {
        if execute(tx.db, "UPDATE casts SET stop_asked = 1 WHERE n = ? AND stop_asked = 0", [row.rowid])? == 0
        {
            return Ok(());
        }
    } else {
        let sql = "SELECT count(*) FROM commands WHERE whose = ?";
        let pending = query_one(tx.db, sql, [row.rowid], |row| Ok(row.get::<_, i64>(0)?))?;
        if pending.unwrap_or(0) >= MAX_COMMANDS as i64 {
            return Err(Error::TooManyCommands(id.clone()).into());
        }
    }
    let sealed = tx.shared.seal(&seal_context(id, "command"), command)?;
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
    let context = seal_context(&row.id, "spec");
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
