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
    Attempt, Backlog, Cast, CastId, Claim, Command, Created, Error, Event, Filter, Fleet, Happening, Key,
    Load, NewCast, Notice, Page, Redelivered, Settled, State, Ticket, UnixMs, Vitals, WorkerId,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) fn now() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as UnixMs
}

/// A cast of some page.
pub(crate) fn cast(id: CastId, app: &str, origin: &str) -> Cast {
    let source = Source::new(SourceUrl::parse("http://example.com/").unwrap());
    Cast {
        id,
        app: app.into(),
        origin: origin.into(),
        key: None,
        request: Value::Null,
        spec: CastSpec::new(source),
        state: State::Live,
        end: None,
        created_ms: 0,
        started_ms: None,
        live_ms: None,
        ended_ms: None,
        stop_asked: false,
        closed: false,
        worker: None,
        epoch: 0,
        report: None,
        events_dropped: 0,
    }
}

/// One event in the outbox.
#[derive(Debug, Clone)]
struct Entry {
    event: Event,
    tries: u32,
    first_try_ms: Option<UnixMs>,
    parts_done: u32,
    at: UnixMs,
    settled: Option<Settled>,
}

#[derive(Debug, Default)]
struct Kept {
    casts: BTreeMap<CastId, (Cast, Vec<Entry>)>,
    attempts: Vec<(CastId, Attempt)>,
    /// Calls of `settle` that are to fail.
    fail_settles: u32,
}

/// A fleet of which only the outbox works.
#[derive(Debug)]
pub(crate) struct Outbox {
    kept: Mutex<Kept>,
    changed: watch::Sender<u64>,
    /// What `check` says, and the workers.
    pub(crate) broken: Mutex<bool>,
    pub(crate) loads: Mutex<Vec<(WorkerId, Load)>>,
}

impl Outbox {
    pub(crate) fn new() -> Arc<Self> {
        let (kept, changed) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { kept, changed, broken: Mutex::default(), loads: Mutex::default() })
    }

    /// Puts a cast with so many events in.
    pub(crate) fn put(&self, cast: Cast, events: u64) {
        let event = |seq| Event { seq, at_ms: 1000 + seq as UnixMs, what: Happening::Live };
        let entry = |seq| Entry {
            event: event(seq),
            tries: 0,
            first_try_ms: None,
            parts_done: 0,
            at: 0,
            settled: None,
        };
        let entries = (1..=events).map(entry).collect();
        self.kept.lock().unwrap().casts.insert(cast.id.clone(), (cast, entries));
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn fail_settles(&self, count: u32) {
        self.kept.lock().unwrap().fail_settles = count;
    }

    /// What became of the events of a cast.
    pub(crate) fn settled(&self, cast: &CastId) -> Vec<Option<Settled>> {
        let kept = self.kept.lock().unwrap();
        kept.casts[cast].1.iter().map(|entry| entry.settled).collect()
    }

    /// Waits until all events are settled.
    pub(crate) async fn empty(&self) {
        self.until(|outbox| {
            let kept = outbox.kept.lock().unwrap();
            kept.casts.values().all(|(_, entries)| entries.iter().all(|entry| entry.settled.is_some()))
        })
        .await;
    }

    pub(crate) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = async {
            while !holds(self) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
            panic!("it did not come to that in a minute: {:?}", self.kept.lock().unwrap());
        }
    }

    pub(crate) fn log(&self) -> Vec<(CastId, Attempt)> {
        self.kept.lock().unwrap().attempts.clone()
    }
}

#[async_trait]
impl Fleet for Outbox {
    async fn due(&self, limit: usize, skip: &HashSet<CastId>) -> Result<Vec<Notice>, Error> {
        let (kept, now) = (self.kept.lock().unwrap(), now());
        let first = |(cast, entries): &(Cast, Vec<Entry>)| {
            let entry = entries.iter().find(|entry| entry.settled.is_none())?;
            (entry.at <= now && !skip.contains(&cast.id)).then(|| Notice {
                cast: cast.clone(),
                event: entry.event.clone(),
                tries: entry.tries,
                age: entry.first_try_ms.map(|at| Duration::from_millis((now - at).unsigned_abs())),
                parts_done: entry.parts_done,
            })
        };
        Ok(kept.casts.values().filter_map(first).take(limit).collect())
    }

    async fn next_due(&self) -> Result<Option<Duration>, Error> {
        let (kept, now) = (self.kept.lock().unwrap(), now());
        let firsts = kept.casts.values().filter_map(|(_, e)| e.iter().find(|entry| entry.settled.is_none()));
        let next = firsts.map(|entry| entry.at).filter(|at| *at > now).min();
        Ok(next.map(|at| Duration::from_millis((at - now).unsigned_abs())))
    }

    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        settled: Settled,
        attempt: Option<Attempt>,
    ) -> Result<(), Error> {
        let mut kept = self.kept.lock().unwrap();
        if kept.fail_settles > 0 {
            kept.fail_settles -= 1;
            return Err(Error::Unavailable);
        }
        let (_, entries) = kept.casts.get_mut(cast).ok_or_else(|| Error::NoCast(cast.clone()))?;
        let entry = entries.iter_mut().find(|entry| entry.event.seq == seq).unwrap();
        // One that was killed may be heard of late.
        if entry.settled.is_some() {
            return Ok(());
        }
        entry.tries += u32::from(attempt.is_some());
        entry.first_try_ms = entry.first_try_ms.or(attempt.as_ref().map(|attempt| attempt.at_ms));
        match settled {
            Settled::Done | Settled::GivenUp => entry.settled = Some(settled),
            Settled::Again(pause) => entry.at = now() + pause.as_millis() as UnixMs,
            Settled::Part(done) => (entry.parts_done, entry.tries, entry.first_try_ms) = (done, 0, None),
        }
        kept.attempts.extend(attempt.map(|attempt| (cast.clone(), attempt)));
        drop(kept);
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn check(&self) -> Result<(), Error> {
        if *self.broken.lock().unwrap() { Err(Error::Unavailable) } else { Ok(()) }
    }

    async fn workers(&self) -> Vec<(WorkerId, Load)> {
        self.loads.lock().unwrap().clone()
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        Ok(Backlog::default())
    }

    async fn count(&self, _: Option<&str>) -> Result<Vec<(State, u64)>, Error> {
        Ok(vec![(State::Live, self.kept.lock().unwrap().casts.len() as u64)])
    }

    async fn list(&self, _: &Filter) -> Result<Page, Error> {
        let casts = self.kept.lock().unwrap().casts.values().map(|(cast, _)| cast.clone()).collect();
        Ok(Page { casts, more: false })
    }

    async fn vitals(&self, _: &CastId) -> Option<Vitals> {
        Some(Vitals::default())
    }

    async fn create(&self, _: NewCast) -> Result<Created, Error> {
        Err(Error::Unavailable)
    }
    async fn get(&self, _: &CastId) -> Result<Option<Cast>, Error> {
        Err(Error::Unavailable)
    }
    async fn find(&self, _: &Key) -> Result<Option<Cast>, Error> {
        Err(Error::Unavailable)
    }
    async fn order(&self, _: &CastId, _: Command) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn events(&self, _: &CastId, _: u64, _: usize) -> Result<Vec<Event>, Error> {
        Err(Error::Unavailable)
    }
    async fn snapshot(&self, _: &CastId) -> Option<(UnixMs, Bytes)> {
        None
    }
    async fn adopt(&self, _: &WorkerId) -> Result<(), Error> {
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
    async fn obeyed(&self, _: &Ticket, _: u64) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn report(&self, _: &Ticket, _: Happening) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn put_pushes(&self, _: &Ticket, _: Vec<Push>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn close(&self, _: &Ticket, _: Option<Happening>, _: Option<Value>) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    fn is_shared(&self) -> bool {
        false
    }
    async fn release(&self, _: &Ticket) -> Result<(), Error> {
        Err(Error::Unavailable)
    }
    async fn tell(&self, _: &Ticket, _: Vitals) {}
    async fn put_snapshot(&self, _: &Ticket, _: Bytes) {}
    async fn beat(&self, _: &WorkerId, _: Load) {}
    async fn attempts(&self, _: &CastId) -> Result<Vec<Attempt>, Error> {
        Err(Error::Unavailable)
    }
    async fn redeliver(&self, _: &CastId, _: Option<u64>) -> Result<Redelivered, Error> {
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
pub(crate) enum Act {
    Answer(u16),
    /// Sends it elsewhere.
    Redirect,
    /// Says nothing.
    Hang,
    /// Ends in the middle of its status line.
    Cut,
    /// Ends in the middle of its body, behind a good status.
    CutBody,
    /// Says 200 and then goes on for ever.
    Endless,
}

/// A message as it came: its head in lower case, the head as it was with names in lower case, its body, and
/// what was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) head: String,
    pub(crate) raw: String,
    pub(crate) body: String,
    pub(crate) act: Act,
}

/// A receiver on loopback that does what it is told to; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) addr: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    _running: JoinSet<()>,
}

/// The next things to do, and what to do after them.
#[derive(Debug)]
struct Acts {
    first: Vec<Act>,
    then: Act,
}

impl Hook {
    pub(crate) async fn start(first: &[Act], then: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, first, then)
    }

    pub(crate) fn on(listener: TcpListener, first: &[Act], then: Act) -> Self {
        let addr = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let acts = Arc::new(Mutex::new(Acts { first: first.to_vec(), then }));
        let (log, script) = (Arc::clone(&got), acts);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                connections.spawn(async move { while one(&mut stream, &log, &script).await.is_some() {} });
            }
        });
        Self { addr, got, _running: running }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?key=hidden", self.addr)
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn one(stream: &mut TcpStream, log: &Mutex<Vec<Got>>, script: &Mutex<Acts>) -> Option<()> {
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
    log.lock().unwrap().push(Got { head: raw.to_lowercase(), raw, body, act });
    answer(stream, act).await
}

fn lower_name(line: &str) -> String {
    line.split_once(": ")
        .map_or_else(|| line.into(), |(name, value)| format!("{}: {value}", name.to_lowercase()))
}

async fn answer(stream: &mut TcpStream, act: Act) -> Option<()> {
    let text = match act {
        Act::Answer(status) => format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok"),
        Act::Redirect => "HTTP/1.1 302 x\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".into(),
        Act::Cut => "HTTP/1.1 20".into(),
        Act::CutBody => "HTTP/1.1 200 x\r\nContent-Length: 50\r\n\r\nshort".into(),
        Act::Endless => "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        Act::Hang => String::new(),
    };
    stream.write_all(text.as_bytes()).await.ok()?;
    match act {
        Act::Answer(_) | Act::Redirect => Some(()),
        Act::Cut | Act::CutBody => None,
        Act::Endless => {
            let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            None
        }
        // Until the other end has had enough.
        Act::Hang => {
            let mut buffer = [0; 16];
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            None
        }
    }
}
