//! Creation and queries of casts, and commands: the [`crate::Casts`] part of the backend.

use pagecast_core::CastSpec;
use pagecast_core::spec::Push;
use tokio_postgres::{Client, Row};

use super::claims::{lock_owned, mark_closed};
use super::history::end_cast;
use super::row::{CAST_COLUMNS, CastRow, read_cast, read_casts};
use super::sql::{TxError, execute, params, query_all, query_one};
use super::sweep;
use super::transaction::{Db, Tx};
use crate::cast::weight;
use crate::delivery::deadline_after;
use crate::lifecycle::{CommandEffect, on_command, stopped_end};
use crate::paging::{self, Listed, MAX_PAGE_CASTS};
use crate::queue::stored_labels;
use crate::quota::{self, CastCounts, UNSTARTED_QUOTA_WINDOW_MS};
use crate::sealing::{SealedCast, cast_context, event_context};
use crate::{
    Cast, CastId, CastKey, CastPage, CastState, Command, CreateOutcome, Error, EventKind, Filter, NewCast,
    Ticket,
};

/// Creates a cast, unless its key is held or a limit is exceeded.
pub(super) async fn create(tx: &mut Tx<'_>, sealed: &SealedCast) -> Result<CreateOutcome, TxError> {
    let new = &sealed.new;
    // Sent together, so that they take one round trip. From the first one on, creations of an application
    // take turns.
    let (tally, existing, counts) =
        tokio::join!(biased; lock_tally(tx.db(), &new.app), find_existing(tx, new), count_limited(tx, new));
    let (tally, existing, counts) = (tally?, existing?, counts?);
    // A new tally was not locked by anybody before, so nothing changed since.
    let tally = match tally {
        Some(tally) => tally,
        None => create_tally(tx.db(), &new.app).await?,
    };
    if let Some(existing) = existing {
        return Ok(CreateOutcome::Exists(existing));
    }
    if let Some(refused) = exceeded_limit(tx, sealed, tally, counts).await? {
        return Ok(refused);
    }
    if !insert(tx, sealed).await? {
        // A cast of another application got the key or the id at the same moment.
        let existing = find_existing(tx, new).await?;
        return existing.map(CreateOutcome::Exists).ok_or(TxError::Conflict);
    }
    tx.notify_changes();
    Ok(CreateOutcome::New(new.clone().into_queued(tx.now)))
}

/// Numbers of an application's casts.
struct Tally {
    /// Casts that have not ended.
    open: i64,
    /// Casts that are queued.
    queued: i64,
    /// Bytes stored for the casts.
    bytes: i64,
}

/// Locks the tally of an application, if it has one.
async fn lock_tally(db: &Client, app: &str) -> Result<Option<Tally>, TxError> {
    let sql = "SELECT queued + starting + live AS open, queued, bytes FROM tallies WHERE app = $1 FOR UPDATE";
    let read = |row: &Row| {
        let (open, queued) = (row.try_get("open")?, row.try_get("queued")?);
        Ok(Tally { open, queued, bytes: row.try_get("bytes")? })
    };
    query_one(db, sql, params![app], read).await
}

/// Creates and locks the tally of an application.
///
/// # Errors
/// [`TxError::Conflict`]: another transaction has just created it.
async fn create_tally(db: &Client, app: &str) -> Result<Tally, TxError> {
    let sql = "INSERT INTO tallies (app) VALUES ($1) ON CONFLICT DO NOTHING";
    match execute(db, sql, params![app]).await? {
        0 => Err(TxError::Conflict),
        _ => Ok(Tally { open: 0, queued: 0, bytes: 0 }),
    }
}

/// Counts the casts of the application that ended lately without being started, and all queued casts. The
/// limit of the queue may be exceeded by casts that other applications create at the same moment.
async fn count_limited(tx: &Tx<'_>, new: &NewCast) -> Result<(i64, i64), TxError> {
    let sql = "SELECT (SELECT count(*) FROM (SELECT 1 FROM casts WHERE app = $1 AND queued_ms > $2
                       AND state = 3 AND started_ms IS NULL LIMIT $3) lately),
                      (SELECT coalesce(sum(queued), 0)::bigint FROM tallies)";
    let since = tx.fleet_now.saturating_sub(UNSTARTED_QUOTA_WINDOW_MS);
    let params = params![new.app.as_str(), since, quota::max_unstarted(new)];
    let counted = query_one(tx.db(), sql, params, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?;
    counted.ok_or(TxError::Conflict)
}

/// The outcome that refuses a cast, if it would exceed a limit.
async fn exceeded_limit(
    tx: &Tx<'_>,
    sealed: &SealedCast,
    tally: Tally,
    (unstarted, queued): (i64, i64),
) -> Result<Option<CreateOutcome>, TxError> {
    let new = &sealed.new;
    let counts = CastCounts { open: tally.open, unstarted, own_queued: tally.queued, queued };
    if let Some(refused) = quota::refusal(new, counts) {
        return Ok(Some(refused));
    }
    let used = match quota::bytes_left(new, sealed.bytes()) {
        Some(max) => sweep::free_app_bytes(tx, &new.app, tally.bytes.max(0).unsigned_abs(), max).await?,
        None => Err(tally.bytes.max(0).unsigned_abs()),
    };
    Ok(used.err().map(CreateOutcome::BytesExceeded))
}

/// The cast that holds the key, or has the id, of a new cast. Frees the key if its time has passed.
async fn find_existing(tx: &Tx<'_>, new: &NewCast) -> Result<Option<Cast>, TxError> {
    let sql = format!(
        "WITH freed AS (UPDATE casts SET held = false
                        WHERE key = $1 AND held AND state = 3 AND coalesce(key_until_ms, 0) <= $3 RETURNING n)
         SELECT {CAST_COLUMNS} FROM casts
         WHERE id = $2 OR key = $1 AND held AND n NOT IN (SELECT n FROM freed)
         ORDER BY id = $2 LIMIT 1"
    );
    let key = new.key.as_ref().map(|key| key.0.as_str());
    let params = params![key, new.id.as_str(), tx.now];
    query_one(tx.db(), &sql, params, |row| read_cast(tx.shared, row)).await
}

/// Inserts a cast with its event; returns false if its key or id is taken.
async fn insert(tx: &Tx<'_>, sealed: &SealedCast) -> Result<bool, TxError> {
    let SealedCast { new, request, spec, injected } = sealed;
    let event = tx.shared.seal(&event_context(&new.id, 1), &EventKind::Queued)?;
    let sql = "WITH new AS (
            INSERT INTO casts (id, app, api, key, key_until_ms, held, notify, request, spec, queue_until_ms,
                               queued_ms, created_ms, last_seq, weight, bytes, labels)
            VALUES ($1, $2, $3, $4, $5, $4 IS NOT NULL, $6, $7, $8, $9, $10, $11, 1, $12, $13, $16)
            ON CONFLICT DO NOTHING RETURNING n),
        data AS (INSERT INTO injected SELECT n, $14 FROM new WHERE $14 IS NOT NULL),
        event AS (INSERT INTO events SELECT n, 1, $11, $15 FROM new),
        entry AS (INSERT INTO outbox (cast_n, seq, at_ms, next_ms) SELECT n, 1, $11, $10 FROM new WHERE $6)
        SELECT n FROM new";
    let params = params![
        new.id.as_str(),
        new.app.as_str(),
        new.api.as_str(),
        new.key.as_ref().map(|key| key.0.as_str()),
        new.key_until_ms(),
        new.notify,
        request,
        spec,
        deadline_after(tx.fleet_now, new.queue_timeout),
        tx.fleet_now,
        tx.now,
        i64::from(weight(&new.spec)),
        (sealed.bytes() + event.len()) as i64,
        injected.as_ref(),
        event,
        stored_labels(&new.spec.placement),
    ];
    Ok(query_one(tx.db(), sql, params, |_| Ok(())).await?.is_some())
}

pub(super) async fn get(db: &Db<'_>, id: &CastId) -> Result<Option<Cast>, TxError> {
    let sql = format!("SELECT {CAST_COLUMNS} FROM casts WHERE id = $1");
    query_one(db.client, &sql, params![id.as_str()], |row| read_cast(db.shared, row)).await
}

/// Finds the latest cast with this key: its holder got the key after all earlier holders.
pub(super) async fn find_by_key(db: &Db<'_>, key: &CastKey) -> Result<Option<Cast>, TxError> {
    let sql = format!("SELECT {CAST_COLUMNS} FROM casts WHERE key = $1 ORDER BY n DESC LIMIT 1");
    query_one(db.client, &sql, params![key.0.as_str()], |row| read_cast(db.shared, row)).await
}

pub(super) async fn list(db: &Db<'_>, filter: &Filter) -> Result<CastPage, TxError> {
    let limit = filter.limit.clamp(1, MAX_PAGE_CASTS);
    let created_ms = match &filter.after {
        Some(after) => {
            let sql = "SELECT created_ms FROM casts WHERE id = $1";
            query_one(db.client, sql, params![after.as_str()], |row| Ok(row.try_get(0)?)).await?
        }
        None => None,
    };
    let (before, id) = paging::page_start(filter, created_ms);
    let (by_app, app) = match &filter.app {
        Some(app) => ("app = $1", app.as_str()),
        None => ("$1 = ''", ""),
    };
    let sql = format!(
        "SELECT created_ms, id, n, octet_length(spec)::bigint FROM casts
         WHERE {by_app} AND state = $2 AND created_ms >= $3 AND (created_ms, id) < ($4, $5)
           AND ($6 IS NULL OR api = $6)
         ORDER BY created_ms DESC, id DESC LIMIT $7"
    );
    let mut found = Vec::new();
    for state in paging::states(filter) {
        let since = filter.since_ms.unwrap_or(i64::MIN);
        let params = params![
            app,
            state.to_number(),
            since,
            before,
            id.as_str(),
            filter.api.as_deref(),
            limit as i64 + 1
        ];
        found.extend(query_all(db.client, &sql, params, read_listed).await?);
    }
    let (page, has_more) = paging::page(found, limit);
    let mut read = read_casts(db.client, db.shared, page.iter().map(|listed| listed.n).collect()).await?;
    let mut casts = Vec::with_capacity(page.len());
    for Listed { id, n, .. } in page {
        // A cast that was deleted meanwhile is left out.
        let Some(at) = read.iter().position(|(of, _)| *of == n) else { continue };
        match read.swap_remove(at).1 {
            Ok(cast) => casts.push(cast),
            Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
                tracing::warn!(cast = id, %error, "cast unreadable, left out of list");
            }
            Err(other) => return Err(other),
        }
    }
    Ok(CastPage { casts, has_more })
}

fn read_listed(row: &Row) -> Result<Listed, TxError> {
    let (created_ms, id) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Listed { created_ms, id, n: row.try_get(2)?, bytes: row.try_get(3)? })
}

pub(super) async fn count(db: &Db<'_>, app: &Option<String>) -> Result<Vec<(CastState, u64)>, TxError> {
    let sql = "SELECT coalesce(sum(queued), 0)::bigint, coalesce(sum(starting), 0)::bigint,
                      coalesce(sum(live), 0)::bigint, coalesce(sum(ended), 0)::bigint
               FROM tallies WHERE $1 IS NULL OR app = $1";
    let counts = query_one(db.client, sql, params![app.as_deref()], |row| {
        let count = |(n, state)| Ok::<_, TxError>((state, row.try_get::<_, i64>(n)?.unsigned_abs()));
        CastState::ALL.into_iter().enumerate().map(count).collect()
    })
    .await?;
    Ok(counts.unwrap_or_default())
}

/// A command for a cast.
pub(super) struct SendCommand {
    pub id: CastId,
    pub command: Command,
}

pub(super) async fn send_command(tx: &mut Tx<'_>, args: &SendCommand) -> Result<(), TxError> {
    let SendCommand { id, command } = args;
    let sql = format!(
        "SELECT {}, stop_requested, (SELECT count(*) FROM commands WHERE commands.id = casts.id) AS pending
         FROM casts WHERE id = $1 FOR NO KEY UPDATE",
        CastRow::COLUMNS
    );
    let found = query_one(tx.db(), &sql, params![id.as_str()], |row| {
        let pending: i64 = row.try_get("pending")?;
        Ok((CastRow::from_row(row)?, row.try_get("stop_requested")?, usize::try_from(pending).unwrap_or(0)))
    })
    .await?;
    let (mut row, stop_requested, pending) = found.ok_or_else(|| Error::CastNotFound(id.clone()))?;
    let effect = on_command(id, row.state, stop_requested, pending, command)?;
    if effect == CommandEffect::Ignored {
        return Ok(());
    }
    if *command == Command::Stop {
        execute(tx.db(), "UPDATE casts SET stop_requested = true WHERE n = $1", params![row.n]).await?;
    }
    if effect == CommandEffect::EndsCast {
        end_cast(tx, &mut row, stopped_end()).await?;
        return mark_closed(tx, &row, None, None).await;
    }
    let sealed = tx.shared.seal(&cast_context(id, "command"), command)?;
    let sql = "INSERT INTO commands (id, content) VALUES ($1, $2)";
    execute(tx.db(), sql, params![id.as_str(), sealed]).await?;
    tx.notify_changes();
    Ok(())
}

/// New pushes of a cast.
pub(super) struct PutPushes {
    pub ticket: Ticket,
    pub pushes: Vec<Push>,
}

pub(super) async fn put_pushes(tx: &mut Tx<'_>, args: &PutPushes) -> Result<(), TxError> {
    let row = lock_owned(tx, &args.ticket).await?;
    let context = cast_context(&row.id, "spec");
    let sql = "SELECT spec FROM casts WHERE n = $1";
    let before: Option<Vec<u8>> = query_one(tx.db(), sql, params![row.n], |row| Ok(row.try_get(0)?)).await?;
    let before = before.unwrap_or_default();
    let mut spec: CastSpec = tx.shared.open(&context, &before)?;
    spec.pushes.clone_from(&args.pushes);
    let sealed = tx.shared.seal(&context, &spec)?;
    let grown = sealed.len() as i64 - before.len() as i64;
    let sql = "UPDATE casts SET bytes = bytes + $1, spec = $2 WHERE n = $3";
    execute(tx.db(), sql, params![grown, sealed, row.n]).await?;
    tx.notify_changes();
    Ok(())
}
