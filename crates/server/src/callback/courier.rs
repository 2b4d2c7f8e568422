//! From the outbox to receivers: many casts at once, each cast's events in order, a slow receiver holding up
//! nobody else's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pagecast_fleet::{Attempt, CastId, Error, MAX_RETRY_PAUSE, Notice, Settled};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::send::{self, Fault, Sender};
use super::{Dialect, Message, retry};
use crate::app::{Application, Receiver};
use crate::metrics::Metrics;
use crate::service::Service;

/// Casts that are told about at once. Full: others wait.
const MAX_AT_ONCE: usize = 64;
/// Of them, those of one receiver: slow ones leave room for others.
const MAX_PER_HOST: usize = 8;
/// Events that are read at once, with their casts: a few kilobytes each.
const AT_ONCE: usize = 2 * MAX_AT_ONCE;
/// Events that are looked through for one that can go; behind so many that wait for a slow receiver, others
/// wait too.
const MAX_LOOKED_AT: usize = 4096;
/// When the outbox is looked at though nothing was heard.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// How soon it is looked at again because something was due in the meantime.
const AT_MOST_EVERY: Duration = Duration::from_millis(20);
/// Pause while the fleet's storage fails.
const STORAGE_PAUSE: Duration = Duration::from_secs(1);
/// Tries to note what became of a message that was sent: one that is not noted is sent again.
const MAX_NOTES: u32 = 30;
/// When an event is tried again that could not even be put in words, by a bug of ours.
const AFTER_A_BUG: Duration = MAX_RETRY_PAUSE;
/// What is on its way has so long to arrive when the service ends; what is not known to have arrived is sent
/// again by the next one.
const DRAIN: Duration = Duration::from_secs(2);

/// Tells receivers what is in the outbox.
#[derive(Debug)]
pub struct Courier {
    service: Service,
    dialects: &'static [Dialect],
    metrics: Arc<Metrics>,
    sender: Arc<Sender>,
    /// Usually [`DRAIN`].
    pub(super) drain: Duration,
}

/// A place in the air.
#[derive(Debug)]
struct Flight {
    cast: CastId,
    seq: u64,
    host: String,
}

/// What is being told.
#[derive(Debug, Default)]
struct Flights {
    tasks: JoinSet<()>,
    by_task: HashMap<Id, Flight>,
    casts: HashSet<CastId>,
    per_host: HashMap<String, usize>,
}

/// What is to be done about an event.
enum Plan {
    Nothing,
    Tell { app: Arc<Application>, receiver: Receiver, dialect: &'static Dialect },
}

impl Courier {
    /// Tells what casts of all dialects have to tell.
    #[must_use]
    pub fn new(service: Service, metrics: Arc<Metrics>) -> Self {
        Self::speaking(service, metrics, crate::route::DIALECTS)
    }

    /// The same in these words.
    pub(crate) fn speaking(service: Service, metrics: Arc<Metrics>, dialects: &'static [Dialect]) -> Self {
        Self { service, dialects, metrics, sender: Arc::default(), drain: DRAIN }
    }

    /// Works until told to stop. Whatever is not settled by then is told by the next one.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let courier = Arc::new(self);
        let mut changes = courier.service.fleet.changes();
        let mut flights = Flights::default();
        loop {
            let until = Instant::now() + courier.round(&mut flights).await;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(landed) = flights.tasks.join_next_with_id(), if !flights.tasks.is_empty() => {
                    courier.landed(&mut flights, landed);
                }
                changed = changes.changed(), if flights.has_room() => if changed.is_err() { break },
                () = sleep_until(until) => {}
            }
        }
        let drained = async { while flights.tasks.join_next().await.is_some() {} };
        let _late_ones_are_told_again = timeout(courier.drain, drained).await;
        flights.tasks.shutdown().await;
    }

    /// Begins to tell whatever can be told, and says how long nothing more will be due.
    async fn round(self: &Arc<Self>, flights: &mut Flights) -> Duration {
        if !flights.has_room() {
            return LOOK_AFTER;
        }
        let fleet = &self.service.fleet;
        // Never two messages about one cast at a time; and those that wait for their receiver are looked at
        // once.
        let mut seen = flights.casts.clone();
        while flights.has_room() && seen.len() < MAX_LOOKED_AT {
            let due = match fleet.due(AT_ONCE, &seen).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(%error, "cannot look for callbacks that are due");
                    return STORAGE_PAUSE;
                }
            };
            if due.is_empty() {
                break;
            }
            for notice in due {
                if !flights.has_room() {
                    break;
                }
                seen.insert(notice.cast.id.clone());
                self.begin(flights, notice);
            }
        }
        match fleet.next_due().await {
            Ok(next) => next.map_or(LOOK_AFTER, |wait| wait.clamp(AT_MOST_EVERY, LOOK_AFTER)),
            Err(error) => {
                tracing::warn!(%error, "cannot look for when callbacks will be due");
                STORAGE_PAUSE
            }
        }
    }

    /// Begins to tell an event, unless its receiver has enough to do.
    fn begin(self: &Arc<Self>, flights: &mut Flights, notice: Notice) {
        let plan = self.plan(&notice);
        let host = match &plan {
            Plan::Nothing => String::new(),
            Plan::Tell { receiver, .. } => send::host(&receiver.url),
        };
        if !host.is_empty() && flights.per_host.get(&host).is_some_and(|n| *n >= MAX_PER_HOST) {
            return;
        }
        *flights.per_host.entry(host.clone()).or_default() += 1;
        let flight = Flight { cast: notice.cast.id.clone(), seq: notice.event.seq, host };
        flights.casts.insert(flight.cast.clone());
        let courier = Arc::clone(self);
        let task = flights.tasks.spawn(async move { courier.tell(notice, plan).await });
        flights.by_task.insert(task.id(), flight);
    }

    fn plan(&self, notice: &Notice) -> Plan {
        let cast = &notice.cast;
        let dialect = self.dialects.iter().find(|dialect| dialect.origin == cast.origin);
        let (Some(dialect), Some(app)) = (dialect, self.service.apps.named(&cast.app)) else {
            return Plan::Nothing;
        };
        match (dialect.receiver)(&app, cast) {
            Some(receiver) => Plan::Tell { app, receiver, dialect },
            None => Plan::Nothing,
        }
    }

    /// Tells the next message of an event and settles what came of it.
    async fn tell(&self, notice: Notice, plan: Plan) {
        let (settled, attempt) = match plan {
            Plan::Nothing => (Settled::Done, None),
            Plan::Tell { app, receiver, dialect } => {
                let messages = (dialect.render)(&receiver, &notice.cast, &notice.event);
                let part = notice.parts_done;
                let next = messages.into_iter().skip(part as usize).collect::<Vec<_>>();
                let more = next.len() > 1;
                match next.into_iter().next() {
                    None => (Settled::Done, None),
                    Some(message) => {
                        let (done, attempt) = self.attempt(&notice, &app, &receiver, dialect, message).await;
                        let settled = match done {
                            Ok(()) if more => Settled::Part(part + 1),
                            Ok(()) => Settled::Done,
                            Err(fault) => Self::after(&fault, &notice, attempt.took_ms, &receiver, dialect),
                        };
                        (settled, Some(attempt))
                    }
                }
            }
        };
        self.note(&notice.cast.id, notice.event.seq, settled, attempt).await;
    }

    async fn attempt(
        &self,
        notice: &Notice,
        app: &Application,
        receiver: &Receiver,
        dialect: &Dialect,
        message: Message,
    ) -> (Result<(), Fault>, Attempt) {
        let (at_ms, begun) = (self.service.now(), Instant::now());
        let span = span(notice, dialect);
        let sent = self.sender.send(&receiver.url, message, &dialect.rule, &app.network, dialect.arrived);
        let (status, done) = sent.instrument(span.clone()).await;
        let outcome = done.as_ref().err().map_or(super::Outcome::Delivered, Fault::outcome);
        span.record("outcome", outcome.word());
        span.record("status", status);
        if done.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        self.metrics.callback(dialect.origin, outcome);
        let attempt = Attempt {
            seq: notice.event.seq,
            part: notice.parts_done,
            at_ms,
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            url: send::shown(&receiver.url),
            status,
            error: done.as_ref().err().map(ToString::to_string),
        };
        (done, attempt)
    }

    /// What to do about a message that did not arrive.
    fn after(
        fault: &Fault,
        notice: &Notice,
        took_ms: u64,
        receiver: &Receiver,
        dialect: &Dialect,
    ) -> Settled {
        // Told by clocks that nobody sets.
        let age = notice.age.unwrap_or_default().saturating_add(Duration::from_millis(took_ms));
        let tries = notice.tries.saturating_add(1);
        let (cast, event, to) = (&notice.cast.id, notice.event.seq, send::shown(&receiver.url));
        let patience = Duration::from_secs(receiver.retry_s);
        let Some(pause) = retry::pause(&dialect.rule, patience, tries, age) else {
            tracing::warn!(%cast, event, to, tries, why = %fault, "a callback is given up");
            return Settled::GivenUp;
        };
        tracing::debug!(%cast, event, to, tries, why = %fault, "a callback did not arrive");
        Settled::Again(pause)
    }

    /// Keeps what came of an event; until that is done, its cast is told nothing more.
    async fn note(&self, cast: &CastId, seq: u64, settled: Settled, attempt: Option<Attempt>) {
        for _ in 0..MAX_NOTES {
            match self.service.fleet.settle(cast, seq, settled, attempt.clone()).await {
                Ok(()) | Err(Error::NoCast(_)) => return,
                Err(error) => {
                    tracing::warn!(%cast, event = seq, %error, "cannot note what a callback came to");
                }
            }
            sleep(STORAGE_PAUSE).await;
        }
    }

    fn landed(self: &Arc<Self>, flights: &mut Flights, landed: Result<(Id, ()), JoinError>) {
        let (id, failed) = match landed {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(flight) = flights.by_task.remove(&id) else { return };
        if let Some(left) = flights.per_host.get_mut(&flight.host) {
            *left -= 1;
            if *left == 0 {
                flights.per_host.remove(&flight.host);
            }
        }
        let Some(error) = failed else {
            flights.casts.remove(&flight.cast);
            return;
        };
        tracing::error!(cast = %flight.cast, event = flight.seq, %error, "a callback could not be told");
        // Not at once, or it would go round and round.
        let (courier, cast, seq) = (Arc::clone(self), flight.cast.clone(), flight.seq);
        *flights.per_host.entry(String::new()).or_default() += 1;
        let task = flights.tasks.spawn(async move {
            courier.note(&cast, seq, Settled::Again(AFTER_A_BUG), None).await;
        });
        flights.by_task.insert(task.id(), Flight { host: String::new(), ..flight });
    }
}

impl Flights {
    fn has_room(&self) -> bool {
        self.tasks.len() < MAX_AT_ONCE
    }
}

/// A try, for traces.
fn span(notice: &Notice, dialect: &Dialect) -> Span {
    tracing::debug_span!(
        "callback",
        otel.kind = "client",
        otel.status_code = Empty,
        api = dialect.origin,
        cast = %notice.cast.id,
        event = notice.event.seq,
        part = notice.parts_done,
        tries = notice.tries,
        outcome = Empty,
        status = Empty,
    )
}
