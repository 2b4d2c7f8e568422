//! Metrics for Prometheus. [`METRICS`] lists all of them; `docs/reference/metrics.md` is generated from it.
//!
//! Values of the fleet are read at each scrape; requests and callbacks are counted as they happen. The number
//! of label values is bounded: casts by how many run, actions and codes by [`MAX_SERIES`].

mod scrape;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::callback::AttemptOutcome;

pub(crate) use scrape::{CONTENT_TYPE, scrape};

/// Most combinations of API, action and code, which clients can choose. Further ones get the code `other`;
/// when as many of those exist, their action is `other` as well.
const MAX_SERIES: usize = 500;
/// Upper bounds of the buckets for request durations, in seconds.
const DURATION_BUCKETS_S: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0];

/// Names and values of labels.
type Labels = Vec<(&'static str, String)>;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Gauge,
    /// Exported with the suffix `_total`.
    Counter,
    Histogram,
}

/// The description of a metric.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    kind: MetricKind,
    labels: &'static [&'static str],
    help: &'static str,
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(static $id: Metric =
            Metric { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help };)*
        /// All metrics.
        static METRICS: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    CASTS Gauge "pagecast_casts" ["state"] "Casts by state; ended ones until they are deleted";
    QUEUE_OLDEST Gauge "pagecast_queue_oldest_age_seconds" []
        "Time that the oldest queued cast has waited, in seconds; 0 if none is queued";
    QUEUE_CORES Gauge "pagecast_queue_cores" []
        "CPU cores that the queued casts need, estimated from the running ones";
    QUEUE_CORE_SECONDS Gauge "pagecast_queue_core_seconds" []
        "CPU time that the queued casts need if each runs for as long as it may, in core-seconds, estimated";
    CAST_FPS Gauge "pagecast_cast_fps" ["cast", "app"] "Changed frames per second, recently";
    CAST_UNCHANGED Gauge "pagecast_cast_unchanged_ratio" ["cast", "app"]
        "Share of ticks without a change, which need no encoding, 0 to 1";
    CAST_DROPPED Counter "pagecast_cast_frames_dropped" ["cast", "app"] "Changes merged into a later tick";
    CAST_ENCODED Counter "pagecast_cast_frames_encoded" ["cast", "app"] "Encoded frames";
    CAST_BYTES Counter "pagecast_cast_encoded_bytes" ["cast", "app"] "Encoded bytes";
    CAST_ELAPSED Gauge "pagecast_cast_elapsed_seconds" ["cast", "app"]
        "Length of the output so far, in seconds";
    CAST_PEAK Gauge "pagecast_cast_audio_peak_ratio" ["cast", "app", "channel"]
        "Recent peak sample; 1 is full scale, higher values clip";
    CAST_CPU Gauge "pagecast_cast_cpu_cores" ["cast", "app"]
        "CPU cores used by the cast recently, including its browser";
    CAST_MEMORY Gauge "pagecast_cast_memory_bytes" ["cast", "app"]
        "Memory used by the cast, including its browser";
    CAST_UPLOADS Gauge "pagecast_cast_upload_backlog_files" ["cast", "app"]
        "Files waiting for upload or being uploaded";
    CAST_UPLOAD_FAILING Gauge "pagecast_cast_upload_failing" ["cast", "app"]
        "1 while uploads fail, otherwise 0";
    CAST_PUSHES Gauge "pagecast_cast_pushes" ["cast", "app", "state"]
        "Pushes by state; states without a push are left out";
    ROOM_CONNECTED Gauge "pagecast_room_connected" ["cast", "app"]
        "1 while the room accepts the stream, otherwise 0; only casts with a room";
    ROOM_BITRATE Gauge "pagecast_room_bitrate_bps" ["cast", "app"]
        "Bitrate sent to the room, video and audio, in bit/s";
    ROOM_RTT Gauge "pagecast_room_rtt_seconds" ["cast", "app"] "Round-trip time to the room, in seconds";
    ROOM_LOSS Gauge "pagecast_room_loss_ratio" ["cast", "app"]
        "Recent packet loss of the layer that lost most, 0 to 1";
    WORKER_HEARTBEAT_AGE Gauge "pagecast_worker_heartbeat_age_seconds" ["worker"]
        "Time since the worker's last heartbeat, in seconds";
    WORKER_CORES Gauge "pagecast_worker_cores" ["worker"] "CPU cores available to the worker";
    WORKER_USED Gauge "pagecast_worker_used_cores" ["worker"] "CPU cores in use by any program";
    WORKER_FREE_CORES Gauge "pagecast_worker_free_cores" ["worker"] "CPU cores that no program uses";
    WORKER_MEMORY Gauge "pagecast_worker_memory_bytes" ["worker"]
        "Memory available to the worker, used or not";
    WORKER_FREE Gauge "pagecast_worker_memory_free_bytes" ["worker"] "Memory that is still available";
    WORKER_CASTS Gauge "pagecast_worker_casts" ["worker"] "Casts running on the worker";
    WORKER_DRAINING Gauge "pagecast_worker_draining" ["worker"]
        "1 if the worker is shutting down and starts no more casts, otherwise 0";
    WORKER_LEASE_AGE Gauge "pagecast_worker_lease_renewal_age_seconds" ["worker"]
        "Time since the worker last renewed the leases of its casts, in seconds; absent without casts. When \
         it reaches fleet.lease_s, other workers take over the casts";
    DATABASE_UP Gauge "pagecast_database_up" []
        "1 if the fleet's database accepts writes, otherwise 0; all other values of the fleet are absent \
         then";
    DATABASE_LATENCY Gauge "pagecast_database_latency_seconds" []
        "Time that the database took for one write, in seconds";
    CALLBACKS_PENDING Gauge "pagecast_callbacks_pending" [] "Events not yet delivered to their receiver";
    CALLBACKS_OLDEST Gauge "pagecast_callbacks_oldest_pending_age_seconds" []
        "Age of the oldest pending event, in seconds; 0 if there is none";
    CALLBACKS_GIVEN_UP Gauge "pagecast_callbacks_given_up" []
        "Events whose delivery was given up; they are kept and can be redelivered";
    CALLBACK_ATTEMPTS Counter "pagecast_callback_attempts" ["api", "outcome"]
        "Webhook delivery attempts by outcome: delivered, refused (another status), timeout, unreachable, \
         forbidden (by the network policy)";
    API_SECONDS Histogram "pagecast_api_request_duration_seconds" ["api", "action", "code"]
        "Time from the last byte of a request to its response, in seconds; code is the vendor's error code \
         or the HTTP status";
}

/// Counters of requests and callback attempts.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<Labels, Histogram, fn() -> Histogram>,
    series: Mutex<HashSet<[String; 3]>>,
    callbacks: Family<Labels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(DURATION_BUCKETS_S);
        Self {
            requests: Family::new_with_constructor(histogram),
            series: Mutex::default(),
            callbacks: Family::default(),
        }
    }
}

impl Metrics {
    /// Records an answered request.
    pub(crate) fn record_request(&self, api: &'static str, action: &str, code: &str, duration: Duration) {
        let [api, action, code] = self.bound_labels([api.into(), action.into(), code.into()]);
        let labels = vec![("api", api), ("action", action), ("code", code)];
        self.requests.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    fn bound_labels(&self, labels: [String; 3]) -> [String; 3] {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let [api, action, _] = labels.clone();
        // Combinations with the code `other` have a limit of their own, of the same size.
        let other = || "other".to_owned();
        let without_code = [api.clone(), action, other()];
        if series.contains(&labels) || series.len() < MAX_SERIES {
            series.insert(labels.clone());
            labels
        } else if series.contains(&without_code) || series.len() < 2 * MAX_SERIES {
            series.insert(without_code.clone());
            without_code
        } else {
            [api, other(), other()]
        }
    }

    /// Records an attempt to deliver a callback.
    pub(crate) fn record_callback(&self, api: &'static str, outcome: AttemptOutcome) {
        let labels = vec![("api", api.to_owned()), ("outcome", outcome.as_str().to_owned())];
        self.callbacks.get_or_create(&labels).inc();
    }
}
