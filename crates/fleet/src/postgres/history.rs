//! History of casts: each event is an entry of the history and of the outbox.

use tokio_postgres::Row;

use super::Shared;
use super::claims::lock_owned;
use super::row::{CastRow, row_of, to_bigint};
use super::sql::{TxError, execute, params, query_all, query_one};
use super::transaction::{Db, Tx};
use crate::lifecycle::{ReportEffect, ended_event, has_room_for, holds_key_after_end, on_report};
use crate::paging::MAX_READ_EVENTS;
use crate::sealing::{cast_context, event_context};
use crate::{CastEnd, CastId, Event, EventKind, Ticket};

/// Events of casts whose rows are locked, which are inserted together.
#[derive(Debug, Default)]
pub(super) struct NewEvents {
    casts: Vec<i64>,
    seqs: Vec<i64>,
    contents: Vec<Vec<u8>>,
    notify: Vec<bool>,
    /// Casts that have no room for an event, once for each.
    full: Vec<i64>,
}

impl NewEvents {
    /// Adds an event, and returns by how many bytes the cast grows. Beyond the limit, it is only counted.
    pub(super) fn add(&mut self, tx: &Tx<'_>, row: &mut CastRow, event: &EventKind) -> Result<i64, TxError> {
        let seq = row.last_seq + 1;
        if !has_room_for(seq, event) {
            self.full.push(row.n);
            return Ok(0);
        }
        let sealed = tx.shared.seal(&event_context(&row.id, seq), event)?;
        let bytes = sealed.len() as i64;
        self.casts.push(row.n);
        self.seqs.push(seq);
        self.contents.push(sealed);
        self.notify.push(row.notify);
        row.last_seq = seq;
        Ok(bytes)
    }
}

/// Inserts events into the history and the outbox. The caller changes the rows of their casts: number of the
/// last event, and bytes.
pub(super) async fn insert_events(tx: &Tx<'_>, new: &NewEvents) -> Result<(), TxError> {
    let NewEvents { casts, seqs, contents, notify, full } = new;
    if !full.is_empty() {
        let sql = "UPDATE casts SET events_dropped = events_dropped + dropped.count
                   FROM (SELECT n, count(*) FROM unnest($1) AS full_casts (n) GROUP BY n) AS dropped
                   WHERE casts.n = dropped.n";
        execute(tx.db(), sql, params![full]).await?;
    }
    if casts.is_empty() {
        return Ok(());
    }
    let sql = "WITH new AS (SELECT *, min(seq) OVER (PARTITION BY n) AS first
                            FROM unnest($1, $2, $3, $4) AS new (n, seq, content, notify)),
               entries AS (INSERT INTO outbox (cast_n, seq, at_ms, next_ms)
                           SELECT n, seq, $5,
                                  CASE WHEN seq = first AND NOT EXISTS (
                                      SELECT 1 FROM outbox WHERE cast_n = n AND NOT given_up) THEN $6 END
                           FROM new WHERE notify)
               INSERT INTO events (cast_n, seq, at_ms, content) SELECT n, seq, $5, content FROM new";
    execute(tx.db(), sql, params![casts, seqs, contents, notify, tx.now, tx.fleet_now]).await?;
    Ok(())
}

/// Appends an event to the history and the outbox. Beyond the limit, it is only counted.
pub(super) async fn append_event(
    tx: &mut Tx<'_>,
    row: &mut CastRow,
    event: &EventKind,
) -> Result<(), TxError> {
    let mut new = NewEvents::default();
    let grown = new.add(tx, row, event)?;
    let sql = "UPDATE casts SET last_seq = $2, bytes = bytes + $3 WHERE n = $1";
    let params = params![row.n, row.last_seq, grown];
    // Sent together, so that they take one round trip.
    let (changed, inserted) = tokio::join!(biased; execute(tx.db(), sql, params), insert_events(tx, &new));
    changed?;
    inserted?;
    tx.notify_changes();
    Ok(())
}

/// Ends a cast. All ends go through this function.
pub(super) async fn end_cast(tx: &mut Tx<'_>, row: &mut CastRow, end: CastEnd) -> Result<(), TxError> {
    let sealed = tx.shared.seal(&cast_context(&row.id, "end"), &end)?;
    let held = holds_key_after_end(row.key_until_ms, tx.now);
    let sql = "WITH gone AS (DELETE FROM commands WHERE id = $5)
               UPDATE casts SET state = 3, ending = $1, ended_ms = $2, held = $3 WHERE n = $4";
    execute(tx.db(), sql, params![sealed, tx.now, held, row.n, row.id.as_str()]).await?;
    append_event(tx, row, &ended_event(end)).await
}

/// An event that a worker reports.
pub(super) struct Report {
    pub ticket: Ticket,
    pub event: EventKind,
}

pub(super) async fn report_event(tx: &mut Tx<'_>, args: &Report) -> Result<(), TxError> {
    let mut row = lock_owned(tx, &args.ticket).await?;
    report_locked(tx, &mut row, &args.event).await
}

/// Records an event of a cast whose row is locked.
pub(super) async fn report_locked(
    tx: &mut Tx<'_>,
    row: &mut CastRow,
    event: &EventKind,
) -> Result<(), TxError> {
    match on_report(row.state, event) {
        ReportEffect::Ignored => Ok(()),
        ReportEffect::Appended => append_event(tx, row, event).await,
        ReportEffect::BecomesLive => {
            let sql = "UPDATE casts SET state = 2, live_ms = $1 WHERE n = $2";
            execute(tx.db(), sql, params![tx.now, row.n]).await?;
            append_event(tx, row, event).await
        }
        ReportEffect::Ends(end) => {
            end_cast(tx, row, end).await?;
            row.state = crate::CastState::Ended;
            Ok(())
        }
    }
}

/// What a worker stored of the recording of a cast that is closed.
pub(super) struct StoredLater {
    pub id: CastId,
    pub event: EventKind,
}

pub(super) async fn report_stored_later(tx: &mut Tx<'_>, args: &StoredLater) -> Result<(), TxError> {
    let mut row = CastRow::lock(tx.db(), &args.id).await?;
    let sql = "SELECT closed FROM casts WHERE n = $1";
    let closed = query_one(tx.db(), sql, params![row.n], |row| Ok(row.try_get::<_, bool>(0)?)).await?;
    let is_stored = matches!(args.event, EventKind::Stored { .. });
    if closed == Some(true) && is_stored { append_event(tx, &mut row, &args.event).await } else { Ok(()) }
}

/// Which events to read.
pub(super) struct ReadEvents {
    pub id: CastId,
    pub after: u64,
    pub limit: usize,
}

pub(super) async fn events(db: &Db<'_>, args: &ReadEvents) -> Result<Vec<Event>, TxError> {
    let n = row_of(db.client, &args.id).await?;
    let sql = "SELECT seq, at_ms, content FROM events WHERE cast_n = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let params = params![n, to_bigint(args.after), args.limit.min(MAX_READ_EVENTS) as i64];
    query_all(db.client, sql, params, |row| read_event(db.shared, &args.id, row)).await
}

/// Reads an event from the columns `seq`, `at_ms` and `content`.
pub(super) fn read_event(shared: &Shared, id: &CastId, row: &Row) -> Result<Event, TxError> {
    let seq: i64 = row.try_get("seq")?;
    let kind = shared.open(&event_context(id, seq), row.try_get("content")?)?;
    Ok(Event { seq: seq.unsigned_abs(), at_ms: row.try_get("at_ms")?, kind })
}
