//! From the outbox to receivers: many casts at once, each cast's events in order, a slow receiver holding up
//! nobody else's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pagecast_fleet::{CastId, DeliveryAttempt, DeliveryOutcome, Error, MAX_RETRY_DELAY, OutboxEntry};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::client::{self, SendError, WebhookClient};
use super::{CallbackFormat, WebhookMessage, retry};
use crate::app::{Application, CallbackReceiver};
use crate::metrics::Metrics;
use crate::service::Service;

/// Casts that are told about at once. Full: others wait.
const MAX_CONCURRENT_DELIVERIES: usize = 64;
/// Of them, those of one receiver: slow ones leave room for others.
const MAX_DELIVERIES_PER_HOST: usize = 8;
/// Events that are read at once, with their casts: a few kilobytes each.
const BATCH_SIZE: usize = 2 * MAX_CONCURRENT_DELIVERIES;
/// Events that are looked through for one that can go; behind so many that wait for a slow receiver, others
/// wait too.
const MAX_SCANNED_EVENTS: usize = 4096;
/// When the outbox is looked at though nothing was heard.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// How soon it is looked at again because something was due in the meantime.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Pause while the fleet's storage fails.
const STORAGE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Tries to note what became of a message that was sent: one that is not noted is sent again.
const MAX_SETTLE_ATTEMPTS: u32 = 30;
/// When an event is tried again that could not even be put in words, by a bug of ours.
const PANIC_RETRY_DELAY: Duration = MAX_RETRY_DELAY;
/// What is on its way has so long to arrive when the service ends; what is not known to have arrived is sent
/// again by the next one.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells receivers what is in the outbox.
#[derive(Debug)]
pub struct WebhookDispatcher {
    service: Service,
    formats: &'static [CallbackFormat],
    metrics: Arc<Metrics>,
    client: Arc<WebhookClient>,
    /// Usually [`DRAIN_TIMEOUT`].
    pub(super) drain_timeout: Duration,
}

/// A place in the air.
#[derive(Debug)]
struct Delivery {
    cast: CastId,
    seq: u64,
    host: String,
}

/// What is being told.
#[derive(Debug, Default)]
struct Deliveries {
    tasks: JoinSet<()>,
    by_task: HashMap<Id, Delivery>,
    casts: HashSet<CastId>,
    per_host: HashMap<String, usize>,
}

/// What is to be done about an event.
enum DeliveryPlan {
    Skip,
    Send { app: Arc<Application>, receiver: CallbackReceiver, format: &'static CallbackFormat },
}

impl WebhookDispatcher {
    /// Tells what casts of all dialects have to tell.
    #[must_use]
    pub fn new(service: Service, metrics: Arc<Metrics>) -> Self {
        Self::with_formats(service, metrics, crate::route::DIALECTS)
    }

    /// The same in these words.
    pub(crate) fn with_formats(
        service: Service,
        metrics: Arc<Metrics>,
        dialects: &'static [CallbackFormat],
    ) -> Self {
        Self { service, formats: dialects, metrics, client: Arc::default(), drain_timeout: DRAIN_TIMEOUT }
    }

    /// Works until told to stop. Whatever is not settled by then is told by the next one.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let courier = Arc::new(self);
        let mut changes = courier.service.fleet.changes();
        let mut flights = Deliveries::default();
        loop {
            let until = Instant::now() + courier.start_due(&mut flights).await;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(landed) = flights.tasks.join_next_with_id(), if !flights.tasks.is_empty() => {
                    courier.on_task_done(&mut flights, landed);
                }
                changed = changes.changed(), if flights.has_capacity() => if changed.is_err() { break },
                () = sleep_until(until) => {}
            }
        }
        let drained = async { while flights.tasks.join_next().await.is_some() {} };
        let _late_ones_are_told_again = timeout(courier.drain_timeout, drained).await;
        flights.tasks.shutdown().await;
    }

    /// Begins to tell whatever can be told, and says how long nothing more will be due.
    async fn start_due(self: &Arc<Self>, flights: &mut Deliveries) -> Duration {
        if !flights.has_capacity() {
            return POLL_INTERVAL;
        }
        let fleet = &self.service.fleet;
        // Never two messages about one cast at a time; and those that wait for their receiver are looked at
        // once.
        let mut seen = flights.casts.clone();
        while flights.has_capacity() && seen.len() < MAX_SCANNED_EVENTS {
            let due = match fleet.due_entries(BATCH_SIZE, &seen).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(%error, "cannot look for callbacks that are due");
                    return STORAGE_RETRY_DELAY;
                }
            };
            if due.is_empty() {
                break;
            }
            for notice in due {
                if !flights.has_capacity() {
                    break;
                }
                seen.insert(notice.cast.id.clone());
                self.start_delivery(flights, notice);
            }
        }
        match fleet.next_due_in().await {
            Ok(next) => next.map_or(POLL_INTERVAL, |wait| wait.clamp(MIN_POLL_INTERVAL, POLL_INTERVAL)),
            Err(error) => {
                tracing::warn!(%error, "cannot look for when callbacks will be due");
                STORAGE_RETRY_DELAY
            }
        }
    }

    /// Begins to tell an event, unless its receiver has enough to do.
    fn start_delivery(self: &Arc<Self>, flights: &mut Deliveries, notice: OutboxEntry) {
        let plan = self.plan(&notice);
        let host = match &plan {
            DeliveryPlan::Skip => String::new(),
            DeliveryPlan::Send { receiver, .. } => client::host_and_port(&receiver.url),
        };
        if !host.is_empty() && flights.per_host.get(&host).is_some_and(|n| *n >= MAX_DELIVERIES_PER_HOST) {
            return;
        }
        *flights.per_host.entry(host.clone()).or_default() += 1;
        let flight = Delivery { cast: notice.cast.id.clone(), seq: notice.event.seq, host };
        flights.casts.insert(flight.cast.clone());
        let courier = Arc::clone(self);
        let task = flights.tasks.spawn(async move { courier.deliver(notice, plan).await });
        flights.by_task.insert(task.id(), flight);
    }

    fn plan(&self, notice: &OutboxEntry) -> DeliveryPlan {
        let cast = &notice.cast;
        let dialect = self.formats.iter().find(|dialect| dialect.api == cast.api);
        let (Some(dialect), Some(app)) = (dialect, self.service.apps.by_name(&cast.app)) else {
            return DeliveryPlan::Skip;
        };
        match (dialect.receiver)(&app, cast) {
            Some(receiver) => DeliveryPlan::Send { app, receiver, format: dialect },
            None => DeliveryPlan::Skip,
        }
    }

    /// Tells the next message of an event and settles what came of it.
    async fn deliver(&self, notice: OutboxEntry, plan: DeliveryPlan) {
        let (settled, attempt) = match plan {
            DeliveryPlan::Skip => (DeliveryOutcome::Delivered, None),
            DeliveryPlan::Send { app, receiver, format: dialect } => {
                let messages = (dialect.render)(&receiver, &notice.cast, &notice.event);
                let part = notice.parts_delivered;
                let next = messages.into_iter().skip(part as usize).collect::<Vec<_>>();
                let more = next.len() > 1;
                match next.into_iter().next() {
                    None => (DeliveryOutcome::Delivered, None),
                    Some(message) => {
                        let (done, attempt) = self.attempt(&notice, &app, &receiver, dialect, message).await;
                        let settled = match done {
                            Ok(()) if more => DeliveryOutcome::PartDelivered(part + 1),
                            Ok(()) => DeliveryOutcome::Delivered,
                            Err(fault) => {
                                Self::retry_or_give_up(&fault, &notice, attempt.took_ms, &receiver, dialect)
                            }
                        };
                        (settled, Some(attempt))
                    }
                }
            }
        };
        self.settle(&notice.cast.id, notice.event.seq, settled, attempt).await;
    }

    async fn attempt(
        &self,
        notice: &OutboxEntry,
        app: &Application,
        receiver: &CallbackReceiver,
        dialect: &CallbackFormat,
        message: WebhookMessage,
    ) -> (Result<(), SendError>, DeliveryAttempt) {
        let (at_ms, begun) = (self.service.now(), Instant::now());
        let span = span(notice, dialect);
        let sent =
            self.client.send(&receiver.url, message, &dialect.policy, &app.network, dialect.is_success);
        let (status, done) = sent.instrument(span.clone()).await;
        let outcome = done.as_ref().err().map_or(super::AttemptOutcome::Delivered, SendError::outcome);
        span.record("outcome", outcome.as_str());
        span.record("status", status);
        if done.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        self.metrics.record_callback(dialect.api, outcome);
        let attempt = DeliveryAttempt {
            seq: notice.event.seq,
            part: notice.parts_delivered,
            at_ms,
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            url: client::redacted_url(&receiver.url),
            status,
            error: done.as_ref().err().map(ToString::to_string),
        };
        (done, attempt)
    }

    /// What to do about a message that did not arrive.
    fn retry_or_give_up(
        fault: &SendError,
        notice: &OutboxEntry,
        took_ms: u64,
        receiver: &CallbackReceiver,
        dialect: &CallbackFormat,
    ) -> DeliveryOutcome {
        // Told by clocks that nobody sets.
        let age =
            notice.since_first_attempt.unwrap_or_default().saturating_add(Duration::from_millis(took_ms));
        let tries = notice.attempts.saturating_add(1);
        let (cast, event, to) = (&notice.cast.id, notice.event.seq, client::redacted_url(&receiver.url));
        let patience = Duration::from_secs(receiver.retry_s);
        let Some(pause) = retry::retry_delay(&dialect.policy, patience, tries, age) else {
            tracing::warn!(%cast, event, to, tries, why = %fault, "a callback is given up");
            return DeliveryOutcome::GivenUp;
        };
        tracing::debug!(%cast, event, to, tries, why = %fault, "a callback did not arrive");
        DeliveryOutcome::RetryAfter(pause)
    }

    /// Keeps what came of an event; until that is done, its cast is told nothing more.
    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        settled: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) {
        for _ in 0..MAX_SETTLE_ATTEMPTS {
            match self.service.fleet.settle(cast, seq, settled, attempt.clone()).await {
                Ok(()) | Err(Error::CastNotFound(_)) => return,
                Err(error) => {
                    tracing::warn!(%cast, event = seq, %error, "cannot note what a callback came to");
                }
            }
            sleep(STORAGE_RETRY_DELAY).await;
        }
    }

    fn on_task_done(self: &Arc<Self>, flights: &mut Deliveries, landed: Result<(Id, ()), JoinError>) {
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
            courier.settle(&cast, seq, DeliveryOutcome::RetryAfter(PANIC_RETRY_DELAY), None).await;
        });
        flights.by_task.insert(task.id(), Delivery { host: String::new(), ..flight });
    }
}

impl Deliveries {
    fn has_capacity(&self) -> bool {
        self.tasks.len() < MAX_CONCURRENT_DELIVERIES
    }
}

/// A try, for traces.
fn span(notice: &OutboxEntry, dialect: &CallbackFormat) -> Span {
    tracing::debug_span!(
        "callback",
        otel.kind = "client",
        otel.status_code = Empty,
        api = dialect.api,
        cast = %notice.cast.id,
        event = notice.event.seq,
        part = notice.parts_delivered,
        tries = notice.attempts,
        outcome = Empty,
        status = Empty,
    )
}
