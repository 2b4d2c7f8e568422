//! Collects the current values for a scrape.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use pagecast_core::connection;
use pagecast_fleet::{
    Cast, CastState, CastStats, Error, Filter, QueueState, UnixMs, WorkerId, WorkerStatus, cast::weight,
};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::timeout;

use super::{
    API_SECONDS, CALLBACK_ATTEMPTS, CALLBACKS_GIVEN_UP, CALLBACKS_OLDEST, CALLBACKS_PENDING, CAST_BYTES,
    CAST_CPU, CAST_DROPPED, CAST_ELAPSED, CAST_ENCODED, CAST_FPS, CAST_MEMORY, CAST_PEAK, CAST_PUSHES,
    CAST_UNCHANGED, CAST_UPLOAD_FAILING, CAST_UPLOADS, CASTS, DATABASE_LATENCY, DATABASE_UP, Labels, METRICS,
    Metric, MetricKind, Metrics, QUEUE_CORE_SECONDS, QUEUE_CORES, QUEUE_OLDEST, ROOM_BITRATE, ROOM_CONNECTED,
    ROOM_LOSS, ROOM_RTT, WORKER_CASTS, WORKER_CORES, WORKER_DRAINING, WORKER_FREE, WORKER_FREE_CORES,
    WORKER_HEARTBEAT_AGE, WORKER_LEASE_AGE, WORKER_MEMORY, WORKER_USED,
};
use crate::rest::renewal_age;
use crate::service::Service;

/// Content type of the text that [`scrape`] returns.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Most casts with metrics of their own: the largest page that the fleet returns.
const MAX_CASTS: usize = 1000;
/// Time limit for the fleet, well below the usual scrape timeout of 10 s.
const FLEET_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which the database counts as away.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Estimated cores of a cast of weight 1000, before any was measured: the estimate of the workers.
const DEFAULT_CAST_CORES: f64 = 0.5;
/// Time after which the CPU use of a cast is one of a running page and not of its start, in milliseconds.
const STARTUP_TIME_MS: u64 = 10_000;

/// Returns all metrics in OpenMetrics text format. While the database is away, they say so, and have no other
/// values of the fleet.
///
/// # Errors
/// The fleet fails or does not answer in time, although its database is up.
pub(crate) async fn scrape(metrics: &Metrics, service: &Service) -> Result<String, Error> {
    let mut values = MetricValues::default();
    let started = Instant::now();
    let written = timeout(DATABASE_TIMEOUT, service.fleet.check_writable()).await;
    let is_up = matches!(written, Ok(Ok(())));
    values.add(&DATABASE_UP, [], bool_value(is_up));
    if is_up {
        values.add(&DATABASE_LATENCY, [], started.elapsed().as_secs_f64());
        let collected = timeout(FLEET_TIMEOUT, collect(&mut values, service)).await;
        collected.map_err(|_| Error::Unavailable)??;
    }
    Ok(metrics.to_openmetrics(&values))
}

/// Values of the gauges and counters that are read at a scrape.
#[derive(Debug, Default)]
struct MetricValues(Vec<(&'static Metric, Labels, f64)>);

impl MetricValues {
    /// Adds a value, with one value for each label of the metric.
    fn add<const N: usize>(&mut self, metric: &'static Metric, labels: [&str; N], value: f64) {
        debug_assert_eq!(metric.labels.len(), N, "{}", metric.name);
        let labels = metric.labels.iter().zip(labels).map(|(name, value)| (*name, value.to_owned()));
        self.0.push((metric, labels.collect(), value));
    }
}

async fn collect(values: &mut MetricValues, service: &Service) -> Result<(), Error> {
    let (fleet, now) = (&service.fleet, service.now());
    let counts = fleet.count(None).await?;
    for state in CastState::ALL {
        let count = counts.iter().find(|(counted, _)| *counted == state).map_or(0, |(_, count)| *count);
        values.add(&CASTS, [state.as_str()], count as f64);
    }
    let running =
        Filter { states: vec![CastState::Starting, CastState::Live], limit: MAX_CASTS, ..Filter::default() };
    let mut cost = CastCost::default();
    let casts = fleet.list(&running).await?.casts;
    let stats = fleet.stats_of(&casts.iter().map(|cast| cast.id.clone()).collect::<Vec<_>>()).await;
    for cast in &casts {
        if let Some(stats) = stats.get(&cast.id) {
            collect_cast(values, cast, stats);
            cost.add(cast, stats);
        }
    }
    let queue = fleet.queue().await?;
    let queued = match queue.casts {
        0 => Vec::new(),
        _ => fleet.list(&Filter { states: vec![CastState::Queued], ..running }).await?.casts,
    };
    collect_queue(values, &queue, &queued, cost.cores_per_weight(), now);
    for (worker, status) in fleet.workers().await {
        collect_worker(values, &worker, &status);
    }
    let backlog = fleet.backlog().await?;
    values.add(&CALLBACKS_PENDING, [], backlog.pending as f64);
    values.add(&CALLBACKS_OLDEST, [], backlog.oldest_event_ms.map_or(0.0, |at| seconds_since(at, now)));
    values.add(&CALLBACKS_GIVEN_UP, [], backlog.given_up as f64);
    Ok(())
}

/// Cost of running casts, from which that of queued ones is estimated.
#[derive(Debug, Default)]
struct CastCost {
    cores: f64,
    weight: f64,
}

impl CastCost {
    fn add(&mut self, cast: &Cast, stats: &CastStats) {
        if stats.elapsed_ms >= STARTUP_TIME_MS {
            self.cores += stats.cpu_cores;
            self.weight += f64::from(weight(&cast.spec));
        }
    }

    /// Cores of a cast by its weight, in thousandths of a cast of 1280x720 at 30 fps.
    fn cores_per_weight(&self) -> f64 {
        if self.weight > 0.0 { self.cores / self.weight } else { DEFAULT_CAST_CORES / 1000.0 }
    }
}

/// Adds values of the queue; `listed` are its casts, or the newest of a long queue.
fn collect_queue(
    values: &mut MetricValues,
    queue: &QueueState,
    listed: &[Cast],
    cores_per_weight: f64,
    now: UnixMs,
) {
    let seconds = |cast: &Cast| {
        let limit = cast.spec.limits.max_time;
        cast.spec.duration.map_or(limit, |duration| duration.min(limit)).as_secs_f64()
    };
    let of_cast = |cast: &Cast| f64::from(weight(&cast.spec));
    let weight_seconds: f64 = listed.iter().map(|cast| of_cast(cast) * seconds(cast)).sum();
    let listed_weight: f64 = listed.iter().map(of_cast).sum();
    // Casts that were not listed count like those that were.
    let mean_seconds = if listed_weight > 0.0 { weight_seconds / listed_weight } else { 0.0 };
    let cores = queue.weight as f64 * cores_per_weight;
    values.add(&QUEUE_OLDEST, [], queue.oldest_ms.map_or(0.0, |at| seconds_since(at, now)));
    values.add(&QUEUE_CORES, [], cores);
    values.add(&QUEUE_CORE_SECONDS, [], cores * mean_seconds);
}

fn collect_cast(values: &mut MetricValues, cast: &Cast, stats: &CastStats) {
    let labels = [cast.id.as_str(), cast.app.as_str()];
    let [id, app] = labels;
    let ticks = stats.frames_captured.saturating_add(stats.frames_unchanged).max(1);
    for (metric, value) in [
        (&CAST_FPS, stats.fps),
        (&CAST_UNCHANGED, stats.frames_unchanged as f64 / ticks as f64),
        (&CAST_DROPPED, stats.frames_dropped as f64),
        (&CAST_ENCODED, stats.frames_encoded as f64),
        (&CAST_BYTES, stats.bytes as f64),
        (&CAST_ELAPSED, stats.elapsed_ms as f64 / 1000.0),
        (&CAST_CPU, stats.cpu_cores),
        (&CAST_MEMORY, stats.memory_bytes as f64),
        (&CAST_UPLOADS, stats.upload_pending as f64),
        (&CAST_UPLOAD_FAILING, bool_value(stats.upload_error.is_some())),
    ] {
        values.add(metric, labels, value);
    }
    for (channel, peak) in ["left", "right"].into_iter().zip(stats.peak) {
        values.add(&CAST_PEAK, [id, app, channel], f64::from(peak));
    }
    for state in PUSH_STATES {
        let count = stats.pushes.iter().filter(|(_, found)| *found == state).count();
        if count > 0 {
            values.add(&CAST_PUSHES, [id, app, push_state_label(state)], count as f64);
        }
    }
    let Some(room) = &stats.room else { return };
    values.add(&ROOM_CONNECTED, labels, bool_value(room.state == connection::State::Running));
    values.add(&ROOM_BITRATE, labels, f64::from(room.bitrate_kbps) * 1000.0);
    if let Some(rtt) = room.rtt_ms {
        values.add(&ROOM_RTT, labels, rtt / 1000.0);
    }
    values.add(&ROOM_LOSS, labels, f64::from(room.loss));
}

fn collect_worker(values: &mut MetricValues, worker: &WorkerId, status: &WorkerStatus) {
    for (metric, value) in [
        (&WORKER_HEARTBEAT_AGE, status.heartbeat_age_ms as f64 / 1000.0),
        (&WORKER_CORES, status.cores),
        (&WORKER_USED, status.cores_used),
        (&WORKER_FREE_CORES, (status.cores - status.cores_used).max(0.0)),
        (&WORKER_MEMORY, status.memory_bytes as f64),
        (&WORKER_FREE, status.memory_free_bytes as f64),
        (&WORKER_CASTS, status.casts as f64),
        (&WORKER_DRAINING, bool_value(status.draining)),
    ] {
        values.add(metric, [worker.0.as_str()], value);
    }
    if let Some(age) = renewal_age(status) {
        values.add(&WORKER_LEASE_AGE, [worker.0.as_str()], age.as_secs_f64());
    }
}

fn bool_value(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn seconds_since(at: UnixMs, now: UnixMs) -> f64 {
    now.saturating_sub(at).max(0) as f64 / 1000.0
}

const PUSH_STATES: [connection::State; 6] = [
    connection::State::Idle,
    connection::State::Connecting,
    connection::State::Running,
    connection::State::Recovering,
    connection::State::Failed,
    connection::State::Disconnecting,
];

fn push_state_label(state: connection::State) -> &'static str {
    match state {
        connection::State::Idle => "idle",
        connection::State::Connecting => "connecting",
        connection::State::Running => "running",
        connection::State::Recovering => "recovering",
        connection::State::Failed => "failed",
        connection::State::Disconnecting => "disconnecting",
    }
}

impl Metrics {
    fn to_openmetrics(&self, values: &MetricValues) -> String {
        let mut registry = Registry::default();
        for metric in METRICS {
            let samples = || values.0.iter().filter(|(found, ..)| std::ptr::eq(*found, *metric));
            match metric.kind {
                MetricKind::Histogram => {
                    debug_assert_eq!(metric.name, API_SECONDS.name);
                    registry.register(metric.name, metric.help, self.requests.clone());
                }
                MetricKind::Counter if metric.name == CALLBACK_ATTEMPTS.name => {
                    registry.register(metric.name, metric.help, self.callbacks.clone());
                }
                MetricKind::Counter => {
                    let family = Family::<Labels, Counter<u64>>::default();
                    for (_, labels, value) in samples() {
                        family.get_or_create(labels).inc_by(*value as u64);
                    }
                    registry.register(metric.name, metric.help, family);
                }
                MetricKind::Gauge => {
                    let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
                    for (_, labels, value) in samples() {
                        family.get_or_create(labels).set(*value);
                    }
                    registry.register(metric.name, metric.help, family);
                }
            }
        }
        let mut text = String::new();
        if encode(&mut text, &registry).is_err() {
            tracing::error!("cannot encode metrics");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use crate::config::assert_golden_file;
    use pagecast_fleet::CastId;

    use super::*;

    #[test]
    fn the_reference_is_current() {
        let mut page = String::from(
            "# Metrics\n\nGenerated from the program's own table. `GET /metrics` returns them in \
             OpenMetrics text format. It \
             requires the administrator's token (`Authorization: Bearer …`). Without an administrator's \
             token, it is open to \
             direct requests to a service that listens on loopback.\n\n\
             | metric | type | labels | meaning |\n|---|---|---|---|\n",
        );
        for metric in METRICS {
            let total = if metric.kind == MetricKind::Counter { "_total" } else { "" };
            let labels = metric.labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ");
            let kind = format!("{:?}", metric.kind).to_lowercase();
            writeln!(page, "| `{}{total}` | {kind} | {labels} | {} |", metric.name, metric.help).unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");
        assert_golden_file(path, &page, "UPDATE=1 cargo test -p pagecast-server --lib metrics");
    }

    #[test]
    fn collected_values_are_exported() {
        let metrics = Metrics::default();
        metrics.record_request("volcengine", "StartWebcast", "ok", Duration::from_millis(3));
        metrics.record_callback("tencent", crate::callback::AttemptOutcome::Timeout);
        let mut values = MetricValues::default();
        let cast = crate::callback::testing::cast(CastId::new(1, [7; 10]), "demo", "v1");
        let room = pagecast_fleet::RoomStats {
            state: connection::State::Running,
            bitrate_kbps: 1200,
            rtt_ms: Some(20.0),
            loss: 0.25,
        };
        let stats = CastStats {
            fps: 29.5,
            frames_captured: 25,
            frames_unchanged: 75,
            frames_dropped: 3,
            peak: [0.5, 0.25],
            pushes: vec![
                (1, connection::State::Running),
                (2, connection::State::Running),
                (3, connection::State::Failed),
            ],
            room: Some(room),
            ..CastStats::default()
        };
        collect_cast(&mut values, &cast, &stats);
        collect_worker(
            &mut values,
            &WorkerId("a\"b".into()),
            &WorkerStatus {
                heartbeat_age_ms: 2500,
                renewal_age_ms: Some(500),
                cores: 2.0,
                cores_used: 0.5,
                ..WorkerStatus::default()
            },
        );
        let text = metrics.to_openmetrics(&values);
        let labels = format!("cast=\"{}\",app=\"demo\"", cast.id);
        for line in [
            format!("pagecast_cast_fps{{{labels}}} 29.5"),
            format!("pagecast_cast_unchanged_ratio{{{labels}}} 0.75"),
            format!("pagecast_cast_frames_dropped_total{{{labels}}} 3"),
            format!("pagecast_cast_audio_peak_ratio{{{labels},channel=\"right\"}} 0.25"),
            format!("pagecast_cast_pushes{{{labels},state=\"running\"}} 2.0"),
            format!("pagecast_room_bitrate_bps{{{labels}}} 1200000.0"),
            format!("pagecast_room_rtt_seconds{{{labels}}} 0.02"),
            "pagecast_worker_heartbeat_age_seconds{worker=\"a\\\"b\"} 2.5".into(),
            "pagecast_worker_lease_renewal_age_seconds{worker=\"a\\\"b\"} 3.0".into(),
            "pagecast_worker_free_cores{worker=\"a\\\"b\"} 1.5".into(),
            "pagecast_callback_attempts_total{api=\"tencent\",outcome=\"timeout\"} 1".into(),
            "pagecast_api_request_duration_seconds_count\
             {api=\"volcengine\",action=\"StartWebcast\",code=\"ok\"} 1"
                .into(),
            "# EOF".into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_queue_is_measured_in_cores_and_core_seconds() {
        let mut cast = crate::callback::testing::cast(CastId::new(1, [7; 10]), "demo", "v1");
        assert_eq!(weight(&cast.spec), 1000);
        let value = |cost: &CastCost, queue: &QueueState, listed: &[Cast], metric: &str| {
            let mut values = MetricValues::default();
            collect_queue(&mut values, queue, listed, cost.cores_per_weight(), 10_000);
            values.0.iter().find(|(found, ..)| found.name == metric).unwrap().2
        };
        let empty = |metric| value(&CastCost::default(), &QueueState::default(), &[], metric);
        assert_eq!(empty("pagecast_queue_oldest_age_seconds"), 0.0);
        assert_eq!(empty("pagecast_queue_core_seconds"), 0.0);
        cast.spec.duration = Some(Duration::from_secs(100));
        let mut other = cast.clone();
        (other.spec.duration, other.spec.limits.max_time) = (None, Duration::from_secs(300));
        // Two of four casts are listed.
        let queue = QueueState { casts: 4, weight: 4000, oldest_ms: Some(4000), order: Vec::new() };
        let listed = [cast.clone(), other];
        let measured = |cost: &CastCost, metric| value(cost, &queue, &listed, metric);
        let mut cost = CastCost::default();
        assert_eq!(measured(&cost, "pagecast_queue_oldest_age_seconds"), 6.0);
        assert_eq!(measured(&cost, "pagecast_queue_cores"), 2.0, "the default estimate");
        assert_eq!(measured(&cost, "pagecast_queue_core_seconds"), 2.0 * 200.0);
        cost.add(&cast, &CastStats { elapsed_ms: 9999, cpu_cores: 7.0, ..CastStats::default() });
        assert_eq!(measured(&cost, "pagecast_queue_cores"), 2.0, "a page that starts is no measure");
        cost.add(&cast, &CastStats { elapsed_ms: 10_000, cpu_cores: 0.25, ..CastStats::default() });
        assert_eq!(measured(&cost, "pagecast_queue_cores"), 1.0);
    }

    #[test]
    fn labels_are_bounded() {
        let metrics = Metrics::default();
        for n in 0..10_000 {
            metrics.record_request(
                "v1",
                &format!("action {}", n % 3000),
                &format!("code {n}"),
                Duration::ZERO,
            );
        }
        let series = metrics
            .to_openmetrics(&MetricValues::default())
            .lines()
            .filter(|line| line.contains("_count{"))
            .count();
        assert!((500..=1001).contains(&series), "{series}");
    }
}
