//! Fakes for tests of callbacks: a fleet that has only an outbox, and a receiver.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_core::CastSpec;
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::{Push, Source, SourceUrl};
use pagecast_fleet::{
    Accounting, AuditEntry, AuditFilter, AuditPage, AuditTrail, Backlog, Cast, CastId, CastKey, CastPage,
    CastState, CastStats, Casts, Claim, Command, CreateOutcome, DailyUse, DeliveryAttempt, DeliveryOutcome,
    DocumentList, Documents, Error, Event, EventKind, ExpiredLease, Filter, Fits, HeartbeatResponse, Leases,
    NewCast, NodeInfo, Outbox, OutboxEntry, QueueState, RedeliverOutcome, Renewal, Telemetry, Ticket, UnixMs,
    WorkerId, WorkerStatus,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) fn unix_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as UnixMs
}

/// A live cast.
pub(crate) fn cast(id: CastId, app: &str, api: &str) -> Cast {
    let source = Source::new(SourceUrl::parse("http://example.com/").unwrap());
    Cast {
        id,
        app: app.into(),
        api: api.into(),
        key: None,
        request: Value::Null,
        spec: CastSpec::new(source),
        state: CastState::Live,
        end: None,
        created_ms: 0,
        started_ms: None,
        live_ms: None,
        ended_ms: None,
        stop_requested: false,
        closed: false,
        worker: None,
        epoch: 0,
        report: None,
        events_dropped: 0,
    }
}

/// One event in the outbox.
#[derive(Debug, Clone)]
struct FakeEntry {
    event: Event,
    attempts: u32,
    first_attempt_ms: Option<UnixMs>,
    parts_delivered: u32,
    due_ms: UnixMs,
    outcome: Option<DeliveryOutcome>,
}

#[derive(Debug, Default)]
struct FakeState {
    casts: BTreeMap<CastId, (Cast, Vec<FakeEntry>)>,
    attempts: Vec<(CastId, DeliveryAttempt)>,
    /// Number of calls of `settle` that will fail.
    fail_settles: u32,
}

/// A fleet that has only an outbox.
#[derive(Debug)]
pub(crate) struct FakeFleet {
    state: Mutex<FakeState>,
    changed: watch::Sender<u64>,
    /// Makes `check_writable` fail.
    pub(crate) is_unavailable: Mutex<bool>,
    /// Status of each worker.
    pub(crate) worker_statuses: Mutex<Vec<(WorkerId, WorkerStatus)>>,
}

impl FakeFleet {
    pub(crate) fn new() -> Arc<Self> {
        let (state, changed) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { state, changed, is_unavailable: Mutex::default(), worker_statuses: Mutex::default() })
    }

    /// Adds a cast with this many events.
    pub(crate) fn put(&self, cast: Cast, events: u64) {
        let event = |seq| Event { seq, at_ms: 1000 + seq as UnixMs, kind: EventKind::Live };
        let entry = |seq| FakeEntry {
            event: event(seq),
            attempts: 0,
            first_attempt_ms: None,
            parts_delivered: 0,
            due_ms: 0,
            outcome: None,
        };
        let entries = (1..=events).map(entry).collect();
        self.state.lock().unwrap().casts.insert(cast.id.clone(), (cast, entries));
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn fail_settles(&self, count: u32) {
        self.state.lock().unwrap().fail_settles = count;
    }

    /// Outcomes of the events of a cast.
    pub(crate) fn outcomes(&self, cast: &CastId) -> Vec<Option<DeliveryOutcome>> {
        let state = self.state.lock().unwrap();
        state.casts[cast].1.iter().map(|entry| entry.outcome).collect()
    }

    /// Waits until all events are settled.
    pub(crate) async fn wait_until_settled(&self) {
        self.wait_until(|outbox| {
            let state = outbox.state.lock().unwrap();
            state.casts.values().all(|(_, entries)| entries.iter().all(|entry| entry.outcome.is_some()))
        })
        .await;
    }

    pub(crate) async fn wait_until(&self, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = async {
            while !holds(self) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
            panic!("the condition did not hold within a minute: {:?}", self.state.lock().unwrap());
        }
    }

    pub(crate) fn attempt_log(&self) -> Vec<(CastId, DeliveryAttempt)> {
        self.state.lock().unwrap().attempts.clone()
    }
}

#[async_trait]
impl Casts for FakeFleet {
    async fn create(&self, _: NewCast) -> Result<CreateOutcome, Error> {
        Err(Error::Unavailable)
    }
    async fn get(&self, _: &CastId) -> Result<Option<Cast>, Error> {
        Err(Error::Unavailable)
    }
    async fn find_by_key(&self, _: &CastKey) -> Result<Option<Cast>, Error> {
        Err(Error::Unavailable)
    }

    async fn list(&self, _: &Filter) -> Result<CastPage, Error> {
        let casts = self.state.lock().unwrap().casts.values().map(|(cast, _)| cast.clone()).collect();
        Ok(CastPage { casts, has_more: false })
    }

    async fn count(&self, _: Option<&str>) -> Result<Vec<(CastState, u64)>, Error> {
        Ok(vec![(CastState::Live, self.state.lock().unwrap().casts.len() as u64)])
    }
    async fn queue(&self) -> Result<QueueState, Error> {
        Ok(QueueState::default())
    }
    async fn send_command(&self, _: &CastId, _: Command) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn events(&self, _: &CastId, _: u64, _: usize) -> Result<Vec<Event>, Error> {
        Err(Error::Unavailable)
    }
    async fn sweep(&self) -> Result<(), Error> {
        Ok(())
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
    async fn check_writable(&self) -> Result<(), Error> {
        if *self.is_unavailable.lock().unwrap() { Err(Error::Unavailable) } else { Ok(()) }
    }
}

#[async_trait]
impl Leases for FakeFleet {
    async fn register_worker(&self, _: &WorkerId, _: &NodeInfo) -> Result<(), Error> {
        Err(Error::Unavailable)
    }

    async fn expired_leases(&self, _: &WorkerId, _: &NodeInfo) -> Result<Vec<ExpiredLease>, Error> {
        Err(Error::Unavailable)
    }

    async fn take_over(
        &self,
        _: &WorkerId,
        _: &NodeInfo,
        _: Duration,
        _: &CastId,
    ) -> Result<Option<Claim>, Error> {
        Err(Error::Unavailable)
    }

    async fn claim_queued(
        &self,
        _: &WorkerId,
        _: &NodeInfo,
        _: Duration,
        _: usize,
        _: &Fits<'_>,
    ) -> Result<Vec<Claim>, Error> {
        Err(Error::Unavailable)
    }

    async fn fail_queued(&self, _: &CastId, _: &str) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn renew_all(&self, _: &[Ticket], _: Duration) -> Result<Vec<Renewal>, Error> {
        Err(Error::Unavailable)
    }
    async fn ack_commands(&self, _: &Ticket, _: u64) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn report_event(&self, _: &Ticket, _: EventKind) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn report_stored_later(&self, _: &CastId, _: EventKind) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn put_pushes(&self, _: &Ticket, _: Vec<Push>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn put_ledger(&self, _: &Ticket, _: Vec<LedgerRow>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn ledger(&self, _: &Ticket) -> Result<Vec<LedgerRow>, Error> {
        Err(Error::Unavailable)
    }
    async fn close(&self, _: &Ticket, _: Option<EventKind>, _: Option<Value>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn release(&self, _: &Ticket) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    fn is_shared(&self) -> bool {
        false
    }
}

#[async_trait]
impl Outbox for FakeFleet {
    async fn due_entries(&self, limit: usize, skip: &HashSet<CastId>) -> Result<Vec<OutboxEntry>, Error> {
        let (state, now) = (self.state.lock().unwrap(), unix_ms());
        let first = |(cast, entries): &(Cast, Vec<FakeEntry>)| {
            let entry = entries.iter().find(|entry| entry.outcome.is_none())?;
            (entry.due_ms <= now && !skip.contains(&cast.id)).then(|| OutboxEntry {
                cast: cast.clone(),
                event: entry.event.clone(),
                attempts: entry.attempts,
                since_first_attempt: entry
                    .first_attempt_ms
                    .map(|at| Duration::from_millis((now - at).unsigned_abs())),
                parts_delivered: entry.parts_delivered,
            })
        };
        Ok(state.casts.values().filter_map(first).take(limit).collect())
    }

    async fn next_due_in(&self) -> Result<Option<Duration>, Error> {
        let (state, now) = (self.state.lock().unwrap(), unix_ms());
        let firsts = state.casts.values().filter_map(|(_, e)| e.iter().find(|entry| entry.outcome.is_none()));
        let next = firsts.map(|entry| entry.due_ms).filter(|at| *at > now).min();
        Ok(next.map(|at| Duration::from_millis((at - now).unsigned_abs())))
    }

    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        outcome: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap();
        if state.fail_settles > 0 {
            state.fail_settles -= 1;
            return Err(Error::Unavailable);
        }
        let (_, entries) = state.casts.get_mut(cast).ok_or_else(|| Error::CastNotFound(cast.clone()))?;
        let entry = entries.iter_mut().find(|entry| entry.event.seq == seq).unwrap();
        // A killed dispatcher may settle late.
        if entry.outcome.is_some() {
            return Ok(());
        }
        entry.attempts += u32::from(attempt.is_some());
        entry.first_attempt_ms = entry.first_attempt_ms.or(attempt.as_ref().map(|attempt| attempt.at_ms));
        match outcome {
            DeliveryOutcome::Delivered | DeliveryOutcome::GivenUp => entry.outcome = Some(outcome),
            DeliveryOutcome::RetryAfter(delay) => entry.due_ms = unix_ms() + delay.as_millis() as UnixMs,
            DeliveryOutcome::PartDelivered(parts) => {
                (entry.parts_delivered, entry.attempts, entry.first_attempt_ms) = (parts, 0, None);
            }
        }
        state.attempts.extend(attempt.map(|attempt| (cast.clone(), attempt)));
        drop(state);
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    async fn attempts(&self, _: &CastId) -> Result<Vec<DeliveryAttempt>, Error> {
        Err(Error::Unavailable)
    }
    async fn redeliver(&self, _: &CastId, _: Option<u64>) -> Result<RedeliverOutcome, Error> {
        Err(Error::Unavailable)
    }
    async fn backlog(&self) -> Result<Backlog, Error> {
        Ok(Backlog::default())
    }
}

#[async_trait]
impl Documents for FakeFleet {
    async fn put_document(&self, _: &str, _: &str, _: Option<u64>, _: Option<Value>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn documents(&self, _: &str) -> Result<DocumentList, Error> {
        Err(Error::Unavailable)
    }
    async fn documents_version(&self) -> Result<u64, Error> {
        Err(Error::Unavailable)
    }
}

#[async_trait]
impl AuditTrail for FakeFleet {
    async fn append_audit(&self, _: Vec<AuditEntry>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn audit_entries(&self, _: &AuditFilter) -> Result<AuditPage, Error> {
        Err(Error::Unavailable)
    }
}

#[async_trait]
impl Accounting for FakeFleet {
    async fn daily_use(&self, _: Option<&str>, _: RangeInclusive<i64>) -> Result<Vec<DailyUse>, Error> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Telemetry for FakeFleet {
    async fn stats(&self, _: &CastId) -> Option<CastStats> {
        Some(CastStats::default())
    }
    async fn snapshot(&self, _: &CastId) -> Option<(UnixMs, Bytes)> {
        None
    }
    async fn workers(&self) -> Vec<(WorkerId, WorkerStatus)> {
        self.worker_statuses.lock().unwrap().clone()
    }
    async fn put_stats(&self, _: &Ticket, _: CastStats) {}
    async fn put_snapshot(&self, _: &Ticket, _: Bytes) {}
    async fn heartbeat(&self, _: &WorkerId, _: WorkerStatus) -> Result<HeartbeatResponse, Error> {
        Ok(HeartbeatResponse::default())
    }
    async fn request_drain(&self, _: &WorkerId) -> Result<bool, Error> {
        Err(Error::Unavailable)
    }
}

/// Response of a fake receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FakeResponse {
    Status(u16),
    /// Redirects to another path.
    Redirect,
    /// Sends no response.
    Hang,
    /// Closes the connection in the middle of the status line.
    TruncatedHead,
    /// Closes the connection in the middle of the body, after status 200.
    TruncatedBody,
    /// Sends status 200 with a body that never ends.
    EndlessBody,
}

/// A received request: its head in lower case, its head with only the names in lower case, its body, and the
/// response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReceivedRequest {
    pub(crate) head: String,
    pub(crate) raw_head: String,
    pub(crate) body: String,
    pub(crate) response: FakeResponse,
}

/// A receiver on loopback that sends scripted responses. It stops when dropped.
#[derive(Debug)]
pub(crate) struct FakeReceiver {
    pub(crate) addr: SocketAddr,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    _running: JoinSet<()>,
}

/// The next responses, and the response to all later requests.
#[derive(Debug)]
struct ResponseScript {
    first: Vec<FakeResponse>,
    then: FakeResponse,
}

impl FakeReceiver {
    pub(crate) async fn start(first: &[FakeResponse], then: FakeResponse) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on_listener(listener, first, then)
    }

    pub(crate) fn on_listener(listener: TcpListener, first: &[FakeResponse], then: FakeResponse) -> Self {
        let addr = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(ResponseScript { first: first.to_vec(), then }));
        let log = Arc::clone(&received);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                connections
                    .spawn(async move { while serve_request(&mut stream, &log, &script).await.is_some() {} });
            }
        });
        Self { addr, received, _running: running }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?key=hidden", self.addr)
    }

    pub(crate) fn received(&self) -> Vec<ReceivedRequest> {
        self.received.lock().unwrap().clone()
    }
}

async fn serve_request(
    stream: &mut TcpStream,
    log: &Mutex<Vec<ReceivedRequest>>,
    script: &Mutex<ResponseScript>,
) -> Option<()> {
    let mut read = Vec::new();
    let (raw, body) = loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        read.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head: Vec<_> = head.lines().map(lower_name).collect();
        let len = head.iter().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
        if body.len() >= len {
            break (head.join("\n"), body.to_owned());
        }
    };
    let response = {
        let mut script = script.lock().unwrap();
        if script.first.is_empty() { script.then } else { script.first.remove(0) }
    };
    log.lock().unwrap().push(ReceivedRequest { head: raw.to_lowercase(), raw_head: raw, body, response });
    respond(stream, response).await
}

fn lower_name(line: &str) -> String {
    line.split_once(": ")
        .map_or_else(|| line.into(), |(name, value)| format!("{}: {value}", name.to_lowercase()))
}

async fn respond(stream: &mut TcpStream, response: FakeResponse) -> Option<()> {
    let text = match response {
        FakeResponse::Status(status) => format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok"),
        FakeResponse::Redirect => {
            "HTTP/1.1 302 x\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".into()
        }
        FakeResponse::TruncatedHead => "HTTP/1.1 20".into(),
        FakeResponse::TruncatedBody => "HTTP/1.1 200 x\r\nContent-Length: 50\r\n\r\nshort".into(),
        FakeResponse::EndlessBody => "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        FakeResponse::Hang => String::new(),
    };
    stream.write_all(text.as_bytes()).await.ok()?;
    match response {
        FakeResponse::Status(_) | FakeResponse::Redirect => Some(()),
        FakeResponse::TruncatedHead | FakeResponse::TruncatedBody => None,
        FakeResponse::EndlessBody => {
            let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            None
        }
        // Until the client gives up.
        FakeResponse::Hang => {
            let mut buffer = [0; 16];
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            None
        }
    }
}
