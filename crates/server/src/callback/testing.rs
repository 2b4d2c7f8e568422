//! A fleet that has nothing but an outbox, and receivers.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_core::CastSpec;
use pagecast_core::spec::{Push, Source, SourceUrl};
use pagecast_fleet::{
    Backlog, Cast, CastId, CastKey, CastPage, CastState, CastStats, Claim, Command, CreateOutcome,
    DeliveryAttempt, DeliveryOutcome, Error, Event, EventKind, Filter, Fleet, NewCast, OutboxEntry,
    RedeliverOutcome, Ticket, UnixMs, WorkerId, WorkerStatus,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) fn unix_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as UnixMs
}

/// A cast of some page.
pub(crate) fn cast(id: CastId, app: &str, origin: &str) -> Cast {
    let source = Source::new(SourceUrl::parse("http://example.com/").unwrap());
    Cast {
        id,
        app: app.into(),
        api: origin.into(),
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
    /// Calls of `settle` that are to fail.
    fail_settles: u32,
}

/// A fleet of which only the outbox works.
#[derive(Debug)]
pub(crate) struct FakeFleet {
    state: Mutex<FakeState>,
    changed: watch::Sender<u64>,
    /// What `check` says, and the workers.
    pub(crate) is_unavailable: Mutex<bool>,
    pub(crate) worker_statuses: Mutex<Vec<(WorkerId, WorkerStatus)>>,
}

impl FakeFleet {
    pub(crate) fn new() -> Arc<Self> {
        let (kept, changed) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self {
            state: kept,
            changed,
            is_unavailable: Mutex::default(),
            worker_statuses: Mutex::default(),
        })
    }

    /// Puts a cast with so many events in.
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

    /// What became of the events of a cast.
    pub(crate) fn outcomes(&self, cast: &CastId) -> Vec<Option<DeliveryOutcome>> {
        let kept = self.state.lock().unwrap();
        kept.casts[cast].1.iter().map(|entry| entry.outcome).collect()
    }

    /// Waits until all events are settled.
    pub(crate) async fn wait_until_settled(&self) {
        self.wait_until(|outbox| {
            let kept = outbox.state.lock().unwrap();
            kept.casts.values().all(|(_, entries)| entries.iter().all(|entry| entry.outcome.is_some()))
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
            panic!("it did not come to that in a minute: {:?}", self.state.lock().unwrap());
        }
    }

    pub(crate) fn attempt_log(&self) -> Vec<(CastId, DeliveryAttempt)> {
        self.state.lock().unwrap().attempts.clone()
    }
}

#[async_trait]
impl Fleet for FakeFleet {
    async fn due_entries(&self, limit: usize, skip: &HashSet<CastId>) -> Result<Vec<OutboxEntry>, Error> {
        let (kept, now) = (self.state.lock().unwrap(), unix_ms());
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
        Ok(kept.casts.values().filter_map(first).take(limit).collect())
    }

    async fn next_due_in(&self) -> Result<Option<Duration>, Error> {
        let (kept, now) = (self.state.lock().unwrap(), unix_ms());
        let firsts = kept.casts.values().filter_map(|(_, e)| e.iter().find(|entry| entry.outcome.is_none()));
        let next = firsts.map(|entry| entry.due_ms).filter(|at| *at > now).min();
        Ok(next.map(|at| Duration::from_millis((at - now).unsigned_abs())))
    }

    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        settled: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) -> Result<(), Error> {
        let mut kept = self.state.lock().unwrap();
        if kept.fail_settles > 0 {
            kept.fail_settles -= 1;
            return Err(Error::Unavailable);
        }
        let (_, entries) = kept.casts.get_mut(cast).ok_or_else(|| Error::CastNotFound(cast.clone()))?;
        let entry = entries.iter_mut().find(|entry| entry.event.seq == seq).unwrap();
        // One that was killed may be heard of late.
        if entry.outcome.is_some() {
            return Ok(());
        }
        entry.attempts += u32::from(attempt.is_some());
        entry.first_attempt_ms = entry.first_attempt_ms.or(attempt.as_ref().map(|attempt| attempt.at_ms));
        match settled {
            DeliveryOutcome::Delivered | DeliveryOutcome::GivenUp => entry.outcome = Some(settled),
            DeliveryOutcome::RetryAfter(pause) => entry.due_ms = unix_ms() + pause.as_millis() as UnixMs,
            DeliveryOutcome::PartDelivered(done) => {
                (entry.parts_delivered, entry.attempts, entry.first_attempt_ms) = (done, 0, None);
            }
        }
        kept.attempts.extend(attempt.map(|attempt| (cast.clone(), attempt)));
        drop(kept);
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn check_writable(&self) -> Result<(), Error> {
        if *self.is_unavailable.lock().unwrap() { Err(Error::Unavailable) } else { Ok(()) }
    }

    async fn workers(&self) -> Vec<(WorkerId, WorkerStatus)> {
        self.worker_statuses.lock().unwrap().clone()
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        Ok(Backlog::default())
    }

    async fn count(&self, _: Option<&str>) -> Result<Vec<(CastState, u64)>, Error> {
        Ok(vec![(CastState::Live, self.state.lock().unwrap().casts.len() as u64)])
    }

    async fn list(&self, _: &Filter) -> Result<CastPage, Error> {
        let casts = self.state.lock().unwrap().casts.values().map(|(cast, _)| cast.clone()).collect();
        Ok(CastPage { casts, has_more: false })
    }

    async fn stats(&self, _: &CastId) -> Option<CastStats> {
        Some(CastStats::default())
    }

    async fn create(&self, _: NewCast) -> Result<CreateOutcome, Error> {
        Err(Error::Unavailable)
    }
    async fn get(&self, _: &CastId) -> Result<Option<Cast>, Error> {
        Err(Error::Unavailable)
    }
    async fn find_by_key(&self, _: &CastKey) -> Result<Option<Cast>, Error> {
        Err(Error::Unavailable)
    }
    async fn send_command(&self, _: &CastId, _: Command) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn events(&self, _: &CastId, _: u64, _: usize) -> Result<Vec<Event>, Error> {
        Err(Error::Unavailable)
    }
    async fn snapshot(&self, _: &CastId) -> Option<(UnixMs, Bytes)> {
        None
    }
    async fn register_worker(&self, _: &WorkerId) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn claim(
        &self,
        _: &WorkerId,
        _: Duration,
        _: &(dyn for<'a> Fn(&'a Cast) -> bool + Sync),
    ) -> Result<Option<Claim>, Error> {
        Err(Error::Unavailable)
    }
    async fn fail_queued(&self, _: &CastId, _: &str) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn renew(&self, _: &Ticket, _: Duration) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn commands(&self, _: &Ticket) -> Result<Vec<(u64, Command)>, Error> {
        Err(Error::Unavailable)
    }
    async fn ack_commands(&self, _: &Ticket, _: u64) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn report_event(&self, _: &Ticket, _: EventKind) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn put_pushes(&self, _: &Ticket, _: Vec<Push>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn close(&self, _: &Ticket, _: Option<EventKind>, _: Option<Value>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    fn is_shared(&self) -> bool {
        false
    }
    async fn release(&self, _: &Ticket) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn put_stats(&self, _: &Ticket, _: CastStats) {}
    async fn put_snapshot(&self, _: &Ticket, _: Bytes) {}
    async fn heartbeat(&self, _: &WorkerId, _: WorkerStatus) {}
    async fn attempts(&self, _: &CastId) -> Result<Vec<DeliveryAttempt>, Error> {
        Err(Error::Unavailable)
    }
    async fn redeliver(&self, _: &CastId, _: Option<u64>) -> Result<RedeliverOutcome, Error> {
        Err(Error::Unavailable)
    }
    async fn put_document(&self, _: &str, _: &str, _: Option<Value>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn documents(&self, _: &str) -> Result<Vec<(String, Value)>, Error> {
        Err(Error::Unavailable)
    }
    async fn sweep(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// What a receiver does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FakeResponse {
    Status(u16),
    /// Sends it elsewhere.
    Redirect,
    /// Says nothing.
    Hang,
    /// Ends in the middle of its status line.
    TruncatedHead,
    /// Ends in the middle of its body, behind a good status.
    TruncatedBody,
    /// Says 200 and then goes on for ever.
    EndlessBody,
}

/// A message as it came: its head in lower case, the head as it was with names in lower case, its body, and
/// what was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReceivedRequest {
    pub(crate) head: String,
    pub(crate) raw_head: String,
    pub(crate) body: String,
    pub(crate) response: FakeResponse,
}

/// A receiver on loopback that does what it is told to; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct FakeReceiver {
    pub(crate) addr: SocketAddr,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
    _running: JoinSet<()>,
}

/// The next things to do, and what to do after them.
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
        let got = Arc::new(Mutex::new(Vec::new()));
        let acts = Arc::new(Mutex::new(ResponseScript { first: first.to_vec(), then }));
        let (log, script) = (Arc::clone(&got), acts);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                connections
                    .spawn(async move { while serve_request(&mut stream, &log, &script).await.is_some() {} });
            }
        });
        Self { addr, received: got, _running: running }
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
    let act = {
        let mut acts = script.lock().unwrap();
        if acts.first.is_empty() { acts.then } else { acts.first.remove(0) }
    };
    log.lock().unwrap().push(ReceivedRequest {
        head: raw.to_lowercase(),
        raw_head: raw,
        body,
        response: act,
    });
    respond(stream, act).await
}

fn lower_name(line: &str) -> String {
    line.split_once(": ")
        .map_or_else(|| line.into(), |(name, value)| format!("{}: {value}", name.to_lowercase()))
}

async fn respond(stream: &mut TcpStream, act: FakeResponse) -> Option<()> {
    let text = match act {
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
    match act {
        FakeResponse::Status(_) | FakeResponse::Redirect => Some(()),
        FakeResponse::TruncatedHead | FakeResponse::TruncatedBody => None,
        FakeResponse::EndlessBody => {
            let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            None
        }
        // Until the other end has had enough.
        FakeResponse::Hang => {
            let mut buffer = [0; 16];
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            None
        }
    }
}
