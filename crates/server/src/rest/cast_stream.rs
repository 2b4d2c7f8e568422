//! Stream of all casts that are not closed, for pages that show them: a client gets all of them once, and
//! then what changes.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{Stream, unfold};
use pagecast_fleet::{Cast, CastId, CastState, Filter};
use serde::Serialize;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::queue::QueueSnapshot;
use super::session::SessionId;
use super::stream_limit::StreamPermit;
use super::view::{CastView, OutputStates};
use super::{ApiError, Caller, RestState};
use crate::service::Service;

/// Shortest time between two events of a stream, and between two reads of the fleet for all streams: what a
/// person sees at once.
const MIN_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1000 });
/// Longest time between two reads: statistics change without notice.
const MAX_INTERVAL: Duration = Duration::from_secs(2);
/// Time between keep-alive comments: shorter than the idle timeouts of usual proxies.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// When clients connect again after an interruption: a service that restarts needs about so long.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Most casts of a stream, the newest ones: about 6 MB of JSON.
const MAX_CASTS: usize = 5000;
/// Casts that are read at once.
const PAGE_LEN: usize = 1000;
/// Most ended casts of a stream that are read again in one turn, until they are closed.
const MAX_ENDED_PER_TURN: usize = 50;

/// A cast, as streams show it.
#[derive(Debug, Clone)]
struct Shown {
    id: CastId,
    app: String,
    state: CastState,
    json: Arc<str>,
}

/// What all streams see at one moment.
#[derive(Debug)]
struct Snapshot {
    read_at: Instant,
    /// The casts that are queued, starting or live, newest first.
    open: Vec<Shown>,
    /// Number of ended casts of each application that has asked; `None` means all applications.
    ended: Mutex<HashMap<Option<String>, u64>>,
}

impl Snapshot {
    /// Counts the ended casts of an application, or of all.
    async fn count_ended(&self, service: &Service, app: Option<&str>) -> Result<u64, ApiError> {
        let mut all = self.ended.lock().await;
        let app = app.map(str::to_owned);
        if let Some(count) = all.get(&app) {
            return Ok(*count);
        }
        let stored = service.fleet.count(app.as_deref()).await?;
        let ended = stored.iter().filter(|(state, _)| *state == CastState::Ended);
        let count = ended.map(|(_, count)| count).sum();
        all.insert(app, count);
        Ok(count)
    }
}

/// Reads the casts for all streams together, so that a second stream costs the fleet nothing.
#[derive(Debug, Default)]
pub(super) struct CastFeed(Mutex<Option<Arc<Snapshot>>>);

impl CastFeed {
    /// The casts, as they were within the last [`MIN_INTERVAL`].
    async fn read(&self, service: &Service) -> Result<Arc<Snapshot>, ApiError> {
        let mut last = self.0.lock().await;
        if let Some(snapshot) = last.as_ref()
            && snapshot.read_at.elapsed() < MIN_INTERVAL
        {
            return Ok(Arc::clone(snapshot));
        }
        let read_at = Instant::now();
        let open = read_open_casts(service).await?;
        let snapshot = Arc::new(Snapshot { read_at, open, ended: Mutex::default() });
        *last = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }
}

async fn read_open_casts(service: &Service) -> Result<Vec<Shown>, ApiError> {
    let mut filter = Filter {
        states: vec![CastState::Queued, CastState::Starting, CastState::Live],
        limit: PAGE_LEN,
        ..Filter::default()
    };
    let mut shown = Vec::new();
    loop {
        let page = service.fleet.list(&filter).await?;
        filter.after = page.casts.last().map(|cast| cast.id.clone());
        shown.extend(show(service, &page.casts).await?);
        if !page.has_more || shown.len() >= MAX_CASTS {
            return Ok(shown);
        }
    }
}

/// Describes casts.
async fn show(service: &Service, casts: &[Cast]) -> Result<Vec<Shown>, ApiError> {
    let queue = QueueSnapshot::load(service, &casts.iter().collect::<Vec<_>>()).await?;
    let ids: Vec<CastId> = casts.iter().map(|cast| cast.id.clone()).collect();
    let stats = service.fleet.stats_of(&ids).await;
    let shown = casts.iter().map(|cast| {
        let place = queue.as_ref().and_then(|queue| queue.place(cast));
        let view = CastView::new(service, cast, stats.get(&cast.id), OutputStates::default(), place);
        let json = serde_json::to_string(&view).unwrap_or_default().into();
        Shown { id: cast.id.clone(), app: cast.app.clone(), state: cast.state, json }
    });
    Ok(shown.collect())
}

/// Number of casts in each state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Counts {
    queued: u64,
    starting: u64,
    live: u64,
    ended: u64,
}

/// What a client has been sent.
struct CastReader {
    rest: RestState,
    caller: Caller,
    session: Option<SessionId>,
    /// Application whose casts are shown; `None` means all.
    app: Option<String>,
    sent: HashMap<CastId, Arc<str>>,
    /// Casts that have left the open ones, until they are closed.
    ended: VecDeque<CastId>,
    counts: Option<Counts>,
    changes: watch::Receiver<u64>,
    last_turn: Option<Instant>,
    _permit: StreamPermit,
}

impl CastReader {
    /// Data of the next event. `None` when the stream ends, and when the fleet fails: then the client
    /// connects again.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(last) = self.last_turn {
                sleep_until(last + MIN_INTERVAL).await;
                let rest_of_interval = MAX_INTERVAL.saturating_sub(last.elapsed());
                if let Ok(Err(_)) = timeout(rest_of_interval, self.changes.changed()).await {
                    return None;
                }
            }
            if !self.may_go_on().await {
                return None;
            }
            self.last_turn = Some(Instant::now());
            self.changes.borrow_and_update();
            if let Some(data) = self.turn().await.ok()? {
                return Some(data);
            }
        }
    }

    /// On shutdown, after a change of its application and when it has signed out, the client connects again,
    /// and is authenticated.
    async fn may_go_on(&self) -> bool {
        let service = &self.rest.service;
        let has_session = match &self.session {
            Some(session) => self.rest.sessions.is_valid(service, session).await,
            None => true,
        };
        has_session && !service.is_draining() && self.caller.is_unchanged(service)
    }

    /// Collects what has changed. `None` if nothing has.
    async fn turn(&mut self) -> Result<Option<String>, ApiError> {
        let snapshot = self.rest.cast_feed.read(&self.rest.service).await?;
        let is_shown = |cast: &&Shown| self.app.as_ref().is_none_or(|app| *app == cast.app);
        let open: HashMap<&CastId, &Shown> =
            snapshot.open.iter().filter(is_shown).map(|cast| (&cast.id, cast)).collect();
        let counts = self.count(&snapshot, open.values().map(|cast| cast.state)).await?;
        let is_new = |cast: &&&Shown| self.sent.get(&cast.id) != Some(&cast.json);
        let mut changed: Vec<Shown> = open.values().filter(is_new).map(|cast| (*cast).clone()).collect();
        changed.sort_by(|a, b| b.id.cmp(&a.id));
        let is_left = |id: &&CastId| !open.contains_key(id) && !self.ended.contains(id);
        let left: Vec<CastId> = self.sent.keys().filter(is_left).cloned().collect();
        self.ended.extend(left);
        let gone = self.read_ended(&mut changed).await?;
        if changed.is_empty() && gone.is_empty() && self.counts == Some(counts) {
            return Ok(None);
        }
        self.counts = Some(counts);
        for cast in &changed {
            self.sent.insert(cast.id.clone(), Arc::clone(&cast.json));
        }
        // Only now, as a closed cast is among those that changed.
        self.sent.retain(|id, _| open.contains_key(id) || self.ended.contains(id));
        Ok(Some(event_data(&changed, &gone, counts)))
    }

    /// Reads casts that have left the open ones: adds those that changed, and forgets those that are closed.
    /// Returns those that no longer exist.
    async fn read_ended(&mut self, changed: &mut Vec<Shown>) -> Result<Vec<CastId>, ApiError> {
        let mut gone = Vec::new();
        for _ in 0..self.ended.len().min(MAX_ENDED_PER_TURN) {
            let Some(id) = self.ended.pop_front() else { break };
            let Some(cast) = self.rest.service.fleet.get(&id).await? else {
                gone.push(id);
                continue;
            };
            let shown = show(&self.rest.service, std::slice::from_ref(&cast)).await?;
            changed.extend(shown.into_iter().filter(|shown| self.sent.get(&shown.id) != Some(&shown.json)));
            // One that is open has newer casts before it than a stream shows.
            if cast.state == CastState::Ended && !cast.closed {
                self.ended.push_back(id);
            }
        }
        Ok(gone)
    }

    /// Counts the casts in each state.
    async fn count(
        &self,
        snapshot: &Snapshot,
        open: impl Iterator<Item = CastState>,
    ) -> Result<Counts, ApiError> {
        let mut counts = Counts::default();
        for state in open {
            match state {
                CastState::Queued => counts.queued += 1,
                CastState::Starting => counts.starting += 1,
                CastState::Live => counts.live += 1,
                CastState::Ended => {}
            }
        }
        counts.ended = snapshot.count_ended(&self.rest.service, self.app.as_deref()).await?;
        Ok(counts)
    }
}

/// Data of an event: `{"casts": […], "gone": […], "counts": {…}}`.
fn event_data(changed: &[Shown], gone: &[CastId], counts: Counts) -> String {
    let casts: Vec<&str> = changed.iter().map(|cast| &*cast.json).collect();
    let gone = serde_json::to_string(gone).unwrap_or_default();
    let counts = serde_json::to_string(&counts).unwrap_or_default();
    format!("{{\"casts\":[{}],\"gone\":{gone},\"counts\":{counts}}}", casts.join(","))
}

/// Answers a request for the stream.
pub(super) fn response(
    rest: RestState,
    caller: Caller,
    session: Option<SessionId>,
    app: Option<String>,
    permit: StreamPermit,
) -> Response {
    let reader = CastReader {
        changes: rest.service.fleet.changes(),
        rest,
        caller,
        session,
        app,
        sent: HashMap::new(),
        ended: VecDeque::new(),
        counts: None,
        last_turn: None,
        _permit: permit,
    };
    let alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL).text("keep-alive");
    super::events::unbuffered(Sse::new(sse_events(reader)).keep_alive(alive).into_response())
}

fn sse_events(reader: CastReader) -> impl Stream<Item = Result<Sent, Infallible>> {
    unfold(reader, |mut reader| async {
        let data = reader.next().await?;
        Some((Ok(Sent::default().event("casts").retry(RECONNECT_DELAY).data(data)), reader))
    })
}
