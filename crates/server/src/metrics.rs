//! What is measured, for Prometheus. [`METRICS`] says all of it; `docs/reference/metrics.md` is made from it.
//!
//! What the fleet knows is asked for when somebody scrapes; what passes by (requests, callbacks) is counted as it does. Labels are
//! bounded: casts by how many run, codes and actions by [`MAX_SERIES`].

mod scrape;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::callback::AttemptOutcome;

pub(crate) use scrape::{CONTENT_TYPE, scrape};

/// Combinations of API, action and code that are told apart. Full: the code of a new one is `other`, and then its action too.
const MAX_SERIES: usize = 500;
/// Upper bounds of the time that requests take, in seconds.
const DURATION_BUCKETS_S: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0];

/// Names and values, as they stand behind a metric.
type Labels = Vec<(&'static str, String)>;

/// What kind of number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Gauge,
    /// `_total` stands behind its name.
    Counter,
    Histogram,
}

/// One metric.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    kind: MetricKind,
    labels: &'static [&'static str],
    help: &'static str,
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(static $id: Metric = Metric { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        static METRICS: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    CASTS Gauge "pagecast_casts" ["state"] "Casts in each state; ended ones for as long as they are remembered";
    CAST_FPS Gauge "pagecast_cast_fps" ["cast", "app"] "Changed pictures a second, lately";
    CAST_UNCHANGED Gauge "pagecast_cast_unchanged_ratio" ["cast", "app"] "Part of all ticks that brought no change, which cost nothing";
    CAST_DROPPED Counter "pagecast_cast_frames_dropped" ["cast", "app"] "Changes that were told with a later tick";
    CAST_ENCODED Counter "pagecast_cast_frames_encoded" ["cast", "app"] "Frames encoded";
    CAST_BYTES Counter "pagecast_cast_encoded_bytes" ["cast", "app"] "Bytes encoded";
    CAST_ELAPSED Gauge "pagecast_cast_elapsed_seconds" ["cast", "app"] "Length of the output so far";
    CAST_PEAK Gauge "pagecast_cast_audio_peak_ratio" ["cast", "app", "channel"] "Loudest sample lately, 0 to 1 and beyond";
    CAST_CPU Gauge "pagecast_cast_cpu_cores" ["cast", "app"] "Cores that it takes, lately, browser included";
    CAST_MEMORY Gauge "pagecast_cast_memory_bytes" ["cast", "app"] "Memory that it takes, browser included";
    CAST_UPLOADS Gauge "pagecast_cast_upload_backlog_files" ["cast", "app"] "Files that wait to be stored, or are being stored";
    CAST_UPLOAD_FAILING Gauge "pagecast_cast_upload_failing" ["cast", "app"] "1 while storing them fails";
    CAST_PUSHES Gauge "pagecast_cast_pushes" ["cast", "app", "state"] "Pushes in each state that any is in";
    ROOM_CONNECTED Gauge "pagecast_room_connected" ["cast", "app"] "1 while the room takes the stream, otherwise 0; only casts with a room";
    ROOM_BITRATE Gauge "pagecast_room_bitrate_bps" ["cast", "app"] "What is sent to the room, picture and sound, in bit/s";
    ROOM_RTT Gauge "pagecast_room_rtt_seconds" ["cast", "app"] "The time a packet takes to the room and back";
    ROOM_LOSS Gauge "pagecast_room_loss_ratio" ["cast", "app"] "Largest part of packets that a layer lost lately, 0 to 1";
    WORKER_SEEN Gauge "pagecast_worker_heard_seconds" ["worker"] "Time since a worker was heard of";
    WORKER_CORES Gauge "pagecast_worker_cores" ["worker"] "Cores of a worker's machine, or of the part that is ours";
    WORKER_USED Gauge "pagecast_worker_used_cores" ["worker"] "Cores in use by anybody";
    WORKER_MEMORY Gauge "pagecast_worker_memory_bytes" ["worker"] "Memory of a worker's machine, or of the part that is ours";
    WORKER_FREE Gauge "pagecast_worker_memory_free_bytes" ["worker"] "Memory that can still be had";
    WORKER_CASTS Gauge "pagecast_worker_casts" ["worker"] "Casts that a worker runs";
    WORKER_DRAINING Gauge "pagecast_worker_draining" ["worker"] "1 if it takes no more casts because it is going";
    CALLBACKS_WAITING Gauge "pagecast_callbacks_waiting" [] "Events that somebody has yet to be told of";
    CALLBACKS_OLDEST Gauge "pagecast_callbacks_oldest_seconds" [] "Age of the oldest of them; 0 if there is none";
    CALLBACKS_GIVEN_UP Gauge "pagecast_callbacks_given_up" [] "Events given up that are remembered and can be told again";
    CALLBACK_ATTEMPTS Counter "pagecast_callback_attempts" ["api", "outcome"] "Tries to tell a receiver: delivered, refused (another status), timeout, unreachable, forbidden (by the network policy)";
    API_SECONDS Histogram "pagecast_api_request_duration_seconds" ["api", "action", "code"] "Time from a request's last byte to its answer; code is the vendor's, or the status";
}

/// What is counted as it passes by.
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
    /// A request was answered.
    pub(crate) fn record_request(&self, api: &'static str, action: &str, code: &str, took: Duration) {
        let [api, action, code] = self.bound_labels([api.into(), action.into(), code.into()]);
        let labels = vec![("api", api), ("action", action), ("code", code)];
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    fn bound_labels(&self, wanted: [String; 3]) -> [String; 3] {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let [api, action, _] = wanted.clone();
        // What is kept for the rest of a known action comes on top, and there are only so many of these.
        let other = || "other".to_owned();
        let without_code = [api.clone(), action, other()];
        if series.contains(&wanted) || series.len() < MAX_SERIES {
            series.insert(wanted.clone());
            wanted
        } else if series.contains(&without_code) || series.len() < 2 * MAX_SERIES {
            series.insert(without_code.clone());
            without_code
        } else {
            [api, other(), other()]
        }
    }

    /// A receiver was told, or should have been.
    pub(crate) fn record_callback(&self, api: &'static str, outcome: AttemptOutcome) {
        let labels = vec![("api", api.to_owned()), ("outcome", outcome.as_str().to_owned())];
        self.callbacks.get_or_create(&labels).inc();
    }
}
