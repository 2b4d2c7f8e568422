//! Delivers the events of the outbox: those of many casts at once, those of one cast in order, with a limit
//! per receiver so that a slow one does not delay others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pagecast_fleet::{CastId, DeliveryAttempt, DeliveryOutcome, Error, MAX_RETRY_DELAY, OutboxEntry};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::client::{self, SendError, Sent, WebhookClient};
use super::{CallbackFormat, WebhookMessage, retry};
use crate::app::{Application, CallbackReceiver};
use crate::metrics::Metrics;
use crate::service::Service;

/// Most deliveries at once: some 60 events per second to receivers that take a second each. Further events
/// wait in the outbox.
const MAX_CONCURRENT_DELIVERIES: usize = 64;
/// Most deliveries at once to one receiver, so that a slow one leaves most slots to others.
const MAX_DELIVERIES_PER_HOST: usize = 8;
/// Events read from the outbox at once, with their casts: a few kilobytes each.
const BATCH_SIZE: usize = 2 * MAX_CONCURRENT_DELIVERIES;
/// Most events examined per round. It bounds the work while a slow receiver has a long backlog; events behind
/// so many wait for it as well.
const MAX_SCANNED_EVENTS: usize = 4096;
/// Longest time between two reads of the outbox, in case a change notification was missed.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// Shortest time between two reads of the outbox, which bounds the load of events that become due all the
/// time.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Delay before the fleet's database is used again after an error.
const STORAGE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Most attempts to settle a delivery: half a minute. A delivery that is not settled is repeated.
const MAX_SETTLE_ATTEMPTS: u32 = 30;
/// Delay before an event is rendered again after a panic. It is the longest one, because the panic will
/// recur.
const PANIC_RETRY_DELAY: Duration = MAX_RETRY_DELAY;
/// Time for running deliveries to finish at shutdown. Unsettled ones are repeated after the next start.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Delivers the events of the outbox to their receivers.
#[derive(Debug)]
pub struct WebhookDispatcher {
    service: Service,
    formats: &'static [CallbackFormat],
    metrics: Arc<Metrics>,
    client: Arc<WebhookClient>,
    /// Time for running deliveries to finish; [`DRAIN_TIMEOUT`] outside tests.
    pub(super) drain_timeout: Duration,
}

/// A running delivery.
#[derive(Debug)]
struct Delivery {
    cast: CastId,
    seq: u64,
    host: String,
}

/// All running deliveries.
#[derive(Debug, Default)]
struct Deliveries {
    tasks: JoinSet<()>,
    by_task: HashMap<Id, Delivery>,
    casts: HashSet<CastId>,
    per_host: HashMap<String, usize>,
}

/// What to do with an event.
enum DeliveryPlan {
    /// There is no receiver: the event counts as delivered.
    Skip,
    Send {
        app: Arc<Application>,
        receiver: CallbackReceiver,
        format: &'static CallbackFormat,
    },
}

impl WebhookDispatcher {
    /// Creates a dispatcher for the formats of all dialects.
    #[must_use]
    pub fn new(service: Service, metrics: Arc<Metrics>) -> Self {
        Self::with_formats(service, metrics, crate::route::DIALECTS)
    }

    /// Creates a dispatcher for these formats.
    pub(crate) fn with_formats(
        service: Service,
        metrics: Arc<Metrics>,
        formats: &'static [CallbackFormat],
    ) -> Self {
        Self { service, formats, metrics, client: Arc::default(), drain_timeout: DRAIN_TIMEOUT }
    }

    /// Runs until `stop` is true. Unsettled events are delivered after the next start.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let dispatcher = Arc::new(self);
        let mut changes = dispatcher.service.fleet.changes();
        let mut deliveries = Deliveries::default();
        loop {
            let until = Instant::now() + dispatcher.start_due(&mut deliveries).await;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(finished) = deliveries.tasks.join_next_with_id(), if !deliveries.tasks.is_empty() => {
                    dispatcher.on_task_done(&mut deliveries, finished);
                }
                changed = changes.changed(), if deliveries.has_capacity() => if changed.is_err() { break },
                () = sleep_until(until) => {}
            }
        }
        let drained = async { while deliveries.tasks.join_next().await.is_some() {} };
        let _unfinished_ones_are_repeated = timeout(dispatcher.drain_timeout, drained).await;
        deliveries.tasks.shutdown().await;
    }

    /// Starts all possible deliveries and returns the time until the next event is due.
    async fn start_due(self: &Arc<Self>, deliveries: &mut Deliveries) -> Duration {
        if !deliveries.has_capacity() {
            return POLL_INTERVAL;
        }
        let fleet = &self.service.fleet;
        // Usually nothing is due.
        match fleet.pending_work().await.map(|work| work.next_delivery_in) {
            Ok(Some(wait)) if wait.is_zero() => {}
            Ok(next) => return poll_delay(next),
            Err(error) => {
                tracing::warn!(%error, "cannot look for due outbox entries");
                return STORAGE_RETRY_DELAY;
            }
        }
        // A cast has one delivery at a time; a cast whose receiver is busy is examined once per round.
        let mut seen = deliveries.casts.clone();
        while deliveries.has_capacity() && seen.len() < MAX_SCANNED_EVENTS {
            let due = match fleet.due_entries(BATCH_SIZE, &seen).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(%error, "cannot read due outbox entries");
                    return STORAGE_RETRY_DELAY;
                }
            };
            if due.is_empty() {
                break;
            }
            for entry in due {
                if !deliveries.has_capacity() {
                    break;
                }
                seen.insert(entry.cast.id.clone());
                self.start_delivery(deliveries, entry);
            }
        }
        match fleet.next_due_in().await {
            Ok(next) => poll_delay(next),
            Err(error) => {
                tracing::warn!(%error, "cannot read next due time");
                STORAGE_RETRY_DELAY
            }
        }
    }

    /// Starts the delivery of an event, unless its receiver has as many as allowed.
    fn start_delivery(self: &Arc<Self>, deliveries: &mut Deliveries, entry: OutboxEntry) {
        let plan = self.plan(&entry);
        let host = match &plan {
            DeliveryPlan::Skip => String::new(),
            DeliveryPlan::Send { receiver, .. } => client::host_and_port(&receiver.url),
        };
        if !host.is_empty() && deliveries.per_host.get(&host).is_some_and(|n| *n >= MAX_DELIVERIES_PER_HOST) {
            return;
        }
        *deliveries.per_host.entry(host.clone()).or_default() += 1;
        let delivery = Delivery { cast: entry.cast.id.clone(), seq: entry.event.seq, host };
        deliveries.casts.insert(delivery.cast.clone());
        let dispatcher = Arc::clone(self);
        let task = deliveries.tasks.spawn(async move { dispatcher.deliver(entry, plan).await });
        deliveries.by_task.insert(task.id(), delivery);
    }

    fn plan(&self, entry: &OutboxEntry) -> DeliveryPlan {
        let cast = &entry.cast;
        let format = self.formats.iter().find(|format| format.api == cast.api);
        let (Some(format), Some(app)) = (format, self.service.apps.by_name(&cast.app)) else {
            return DeliveryPlan::Skip;
        };
        match (format.receiver)(&app, cast) {
            Some(receiver) => DeliveryPlan::Send { app, receiver, format },
            None => DeliveryPlan::Skip,
        }
    }

    /// Sends the next message of an event and settles the outcome.
    async fn deliver(&self, entry: OutboxEntry, plan: DeliveryPlan) {
        let (outcome, attempt) = match plan {
            DeliveryPlan::Skip => (DeliveryOutcome::Delivered, None),
            DeliveryPlan::Send { app, receiver, format } => {
                let messages = (format.render)(&receiver, &entry.cast, &entry.event);
                let part = entry.parts_delivered;
                let next = messages.into_iter().skip(part as usize).collect::<Vec<_>>();
                let more = next.len() > 1;
                match next.into_iter().next() {
                    None => (DeliveryOutcome::Delivered, None),
                    Some(message) => {
                        let (result, attempt) = self.attempt(&entry, &app, &receiver, format, message).await;
                        let outcome = match result {
                            Ok(()) if more => DeliveryOutcome::PartDelivered(part + 1),
                            Ok(()) => DeliveryOutcome::Delivered,
                            Err(error) => {
                                Self::retry_or_give_up(&error, &entry, attempt.took_ms, &receiver, format)
                            }
                        };
                        (outcome, Some(attempt))
                    }
                }
            }
        };
        self.settle(&entry.cast.id, entry.event.seq, outcome, attempt).await;
    }

    async fn attempt(
        &self,
        entry: &OutboxEntry,
        app: &Application,
        receiver: &CallbackReceiver,
        format: &CallbackFormat,
        message: WebhookMessage,
    ) -> (Result<(), SendError>, DeliveryAttempt) {
        let (at_ms, started) = (self.service.now(), Instant::now());
        let span = span(entry, format);
        let sent = self.client.send(
            &receiver.url,
            message,
            &format.policy,
            &app.settings.network,
            format.is_success,
        );
        let Sent { status, answer, result } = sent.instrument(span.clone()).await;
        let outcome = result.as_ref().err().map_or(super::AttemptOutcome::Delivered, SendError::outcome);
        span.record("outcome", outcome.as_str());
        span.record("status", status);
        if result.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        self.metrics.record_callback(format.api, outcome);
        let attempt = DeliveryAttempt {
            seq: entry.event.seq,
            part: entry.parts_delivered,
            at_ms,
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            url: client::redacted_url(&receiver.url),
            status,
            answer,
            error: result.as_ref().err().map(ToString::to_string),
        };
        (result, attempt)
    }

    /// Decides what follows a failed attempt.
    fn retry_or_give_up(
        error: &SendError,
        entry: &OutboxEntry,
        took_ms: u64,
        receiver: &CallbackReceiver,
        format: &CallbackFormat,
    ) -> DeliveryOutcome {
        // Measured by monotonic clocks, which are never set.
        let age =
            entry.since_first_attempt.unwrap_or_default().saturating_add(Duration::from_millis(took_ms));
        let attempts = entry.attempts.saturating_add(1);
        let (cast, event, url) = (&entry.cast.id, entry.event.seq, client::redacted_url(&receiver.url));
        let max_age = Duration::from_secs(receiver.extra_retry_s);
        let Some(delay) = retry::retry_delay(&format.policy, max_age, attempts, age) else {
            tracing::warn!(%cast, event, url, attempts, reason = %error, "webhook delivery given up");
            return DeliveryOutcome::GivenUp;
        };
        tracing::debug!(%cast, event, url, attempts, reason = %error, "webhook delivery failed, retrying");
        DeliveryOutcome::RetryAfter(delay)
    }

    /// Stores the outcome of a delivery. Until then, no further event of the cast is delivered.
    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        outcome: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) {
        for _ in 0..MAX_SETTLE_ATTEMPTS {
            match self.service.fleet.settle(cast, seq, outcome, attempt.clone()).await {
                Ok(()) | Err(Error::CastNotFound(_)) => return,
                Err(error) => {
                    tracing::warn!(%cast, event = seq, %error, "cannot settle webhook delivery");
                }
            }
            sleep(STORAGE_RETRY_DELAY).await;
        }
    }

    fn on_task_done(self: &Arc<Self>, deliveries: &mut Deliveries, finished: Result<(Id, ()), JoinError>) {
        let (id, failed) = match finished {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(delivery) = deliveries.by_task.remove(&id) else { return };
        if let Some(left) = deliveries.per_host.get_mut(&delivery.host) {
            *left -= 1;
            if *left == 0 {
                deliveries.per_host.remove(&delivery.host);
            }
        }
        let Some(error) = failed else {
            deliveries.casts.remove(&delivery.cast);
            return;
        };
        tracing::error!(cast = %delivery.cast, event = delivery.seq, %error, "webhook delivery panicked");
        // Settle it with a delay: an immediate retry would panic in a loop.
        let (dispatcher, cast, seq) = (Arc::clone(self), delivery.cast.clone(), delivery.seq);
        *deliveries.per_host.entry(String::new()).or_default() += 1;
        let task = deliveries.tasks.spawn(async move {
            dispatcher.settle(&cast, seq, DeliveryOutcome::RetryAfter(PANIC_RETRY_DELAY), None).await;
        });
        deliveries.by_task.insert(task.id(), Delivery { host: String::new(), ..delivery });
    }
}

impl Deliveries {
    fn has_capacity(&self) -> bool {
        self.tasks.len() < MAX_CONCURRENT_DELIVERIES
    }
}

/// How long to wait for an entry that is due after this time.
fn poll_delay(next_due_in: Option<Duration>) -> Duration {
    next_due_in.map_or(POLL_INTERVAL, |wait| wait.clamp(MIN_POLL_INTERVAL, POLL_INTERVAL))
}

/// Span of an attempt.
fn span(entry: &OutboxEntry, format: &CallbackFormat) -> Span {
    tracing::debug_span!(
        "callback",
        otel.kind = "client",
        otel.status_code = Empty,
        api = format.api,
        cast = %entry.cast.id,
        event = entry.event.seq,
        part = entry.parts_delivered,
        attempts = entry.attempts,
        outcome = Empty,
        status = Empty,
    )
}
