//! Dry runs: a page is opened once without outputs, and the answer says what was found.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_core::CastSpec;
use pagecast_core::dry_run::DryRunReport;
use pagecast_fleet::{CastState, QueueState, WorkerId, WorkerStatus, cast};
use serde::Serialize;
use utoipa::ToSchema;

use super::create_cast::{CreateCastRequest, CreateContext};
use super::error::ErrorResponse;
use super::{ApiError, Caller, ErrorCode, Json, RestState, json_response};
use crate::app::Application;
use crate::config;
use crate::internal_error::InternalError;
use crate::service::Service;

/// Most checks at once on this node: each is a browser that no admission has counted.
const MAX_CHECKS: usize = 2;
/// Value of `Retry-After` when no check can begin, in seconds: how long one takes.
const RETRY_AFTER_S: u64 = 8;
/// Estimated cores of a cast of 1280x720 at 30 fps, encoders included, before its node has measured any.
const ESTIMATED_CORES: f64 = 0.5;

/// Applications with a running check.
#[derive(Debug, Default)]
pub(super) struct CheckLimiter(Mutex<HashSet<String>>);

/// Permission for one check; dropping it frees it.
struct CheckPermit {
    limiter: Arc<CheckLimiter>,
    app: String,
}

impl CheckLimiter {
    /// Takes a permit for an application, which has one at a time.
    fn try_acquire(self: &Arc<Self>, app: &str) -> Option<CheckPermit> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() >= MAX_CHECKS || !running.insert(app.to_owned()) {
            return None;
        }
        Some(CheckPermit { limiter: Arc::clone(self), app: app.to_owned() })
    }
}

impl Drop for CheckPermit {
    fn drop(&mut self) {
        self.limiter.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.app);
    }
}

/// What opening a page once showed.
#[derive(Debug, Serialize, ToSchema)]
pub struct PageCheck {
    /// Whether a cast would show this page. Warnings and failed requests do not count.
    ok: bool,
    /// Address of the page, without its query.
    #[schema(example = "https://example.com/talk")]
    url: String,
    /// Title of the page, at most 300 characters.
    title: String,
    /// HTTP status of the page; null if no server answered.
    http_status: Option<u16>,
    /// Time until the page and its resources were loaded, in milliseconds; null if they were not.
    load_ms: Option<u64>,
    /// Time until the page was ready to be shown (`ready`), in milliseconds; null if it was not.
    ready_ms: Option<u64>,
    /// Why a cast of the page would fail; null if it would not.
    problem: Option<CheckProblem>,
    /// Picture of the page at the end, as a `data:` URL of a JPEG file that is at most 640 pixels wide; null
    /// if there is no page.
    picture: Option<String>,
    /// Requests of the page that failed, at most the first 50.
    failed_requests: Vec<FailedRequestView>,
    /// Last messages of the page's console, at most 100.
    console: Vec<ConsoleMessageView>,
    /// Formats that the browser plays.
    codecs: CodecsView,
    /// Playing without a click.
    autoplay: AutoplayView,
    /// Sound that the page played.
    sound: SoundView,
    /// Changed pictures per second.
    fps: f64,
    /// CPU use of the page, in cores. The encoders of a cast come on top.
    cpu_cores: f64,
    /// Memory of the page's browser, in bytes.
    memory_bytes: u64,
    /// What the page's owner should know.
    warnings: Vec<CheckWarning>,
}

/// Reason why a cast of a page would fail.
#[derive(Debug, Serialize, ToSchema)]
struct CheckProblem {
    /// Stable identifier: `name-not-found`, `connection-refused`, `connection-reset`, `timed-out`,
    /// `unreachable`, `http-status`, `certificate`, `not-public`, `denied`, `other` (the page cannot be
    /// loaded), `not-ready`, `crashed`, `memory-limit`, `disk-limit`, `video-too-large`, `unresponsive`,
    /// `invalid-value` (a time zone, locale, user agent or selector), `browser`.
    #[schema(example = "name-not-found")]
    kind: String,
    /// Explanation in English.
    message: String,
}

/// Request of a page that failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FailedRequest)]
struct FailedRequestView {
    /// Address without its query, at most 500 characters.
    url: String,
    /// Explanation in English, with the browser's error code.
    reason: String,
    /// HTTP status; null if no server answered.
    status: Option<u16>,
    /// Kind of the resource: `script`, `stylesheet`, `image`, `media`, `font`, `fetch`, `xhr`, `document` (of
    /// a frame), `websocket` …
    #[serde(rename = "type")]
    #[schema(example = "script")]
    resource_type: String,
}

/// Message of a page's console.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConsoleMessage)]
struct ConsoleMessageView {
    /// Level: `log`, `info`, `warning`, `error` …, or `exception` for an uncaught exception.
    #[schema(example = "error")]
    level: String,
    /// Text, at most 1000 characters.
    text: String,
}

/// Formats that the browser plays.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Codecs)]
struct CodecsView {
    /// Whether it plays H.264 video in MP4.
    h264: bool,
    /// Whether it plays VP8 video in WebM.
    vp8: bool,
    /// Whether it plays VP9 video in WebM.
    vp9: bool,
    /// Whether it plays AV1 video in MP4.
    av1: bool,
    /// Whether it plays AAC sound in MP4.
    aac: bool,
    /// Whether it plays Opus sound in WebM.
    opus: bool,
}

/// Playing without a click.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Autoplay)]
struct AutoplayView {
    /// Whether the page may play sound by itself. Pages can forbid it to themselves, by `Permissions-Policy`.
    allowed: bool,
}

/// Sound of a page.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sound)]
struct SoundView {
    /// Most streams that played at the same time.
    streams: u32,
    /// Loudest sample, left and right: 1 is full scale, louder is possible.
    #[schema(min_items = 2, max_items = 2)]
    peak: [f32; 2],
}

/// Something that the page's owner should know.
#[derive(Debug, Serialize, ToSchema)]
struct CheckWarning {
    /// Stable identifier: `blank`, `still-loading`, `unresponsive`, `network-denied`, `page-ended`,
    /// `many-failed-requests`, `webrtc-without-udp`, `insecure-tls`.
    #[schema(example = "blank")]
    kind: String,
    /// Explanation in English.
    message: String,
}

impl From<DryRunReport> for PageCheck {
    fn from(report: DryRunReport) -> Self {
        let problem =
            report.problem.map(|problem| CheckProblem { kind: problem.kind, message: problem.message });
        let failed = report.failed_requests.into_iter().map(|request| FailedRequestView {
            url: request.url,
            reason: request.reason,
            status: request.status,
            resource_type: request.resource_type,
        });
        let console = report.console.into_iter();
        let warnings = report.warnings.into_iter();
        let pagecast_core::dry_run::Codecs { h264, vp8, vp9, av1, aac, opus } = report.codecs;
        Self {
            ok: problem.is_none(),
            url: report.url,
            title: report.title,
            http_status: report.http_status,
            load_ms: report.load_ms,
            ready_ms: report.ready_ms,
            problem,
            picture: report.picture,
            failed_requests: failed.collect(),
            console: console.map(|m| ConsoleMessageView { level: m.level, text: m.text }).collect(),
            codecs: CodecsView { h264, vp8, vp9, av1, aac, opus },
            autoplay: AutoplayView { allowed: report.autoplay },
            sound: SoundView { streams: report.sound.streams, peak: report.sound.peak },
            fps: report.fps,
            cpu_cores: report.cpu_cores,
            memory_bytes: report.memory_bytes,
            warnings: warnings.map(|w| CheckWarning { kind: w.kind, message: w.message }).collect(),
        }
    }
}

/// What a dry run found.
#[derive(Serialize, ToSchema)]
pub(super) struct CheckResult {
    #[serde(flatten)]
    page: PageCheck,
    /// Node that opened the page.
    node: String,
    /// Whether a node would probably claim such a cast at once, by the load of all nodes when the check
    /// began.
    fits_now: bool,
    /// Why the cast would wait or be refused; null if it would not.
    fits_reason: Option<String>,
    /// Duration of the check, in milliseconds.
    took_ms: u64,
}

/// Queue and nodes when a check began.
struct Capacity {
    queue: QueueState,
    workers: Vec<(WorkerId, WorkerStatus)>,
    /// Casts of the application that have not ended.
    open_casts: u64,
}

impl Capacity {
    async fn load(service: &Service, app: &Application) -> Result<Self, ApiError> {
        let counts = service.fleet.count(Some(&app.name)).await?;
        let open = counts.into_iter().filter(|(state, _)| *state != CastState::Ended);
        Ok(Self {
            queue: service.fleet.queue().await?,
            workers: service.fleet.workers().await,
            open_casts: open.map(|(_, count)| count).sum(),
        })
    }

    /// Why a cast that needs so many cores and so much memory would wait or be refused.
    fn missing(
        &self,
        config: &config::Casts,
        max_casts: u32,
        spec: &CastSpec,
        (cores, memory_bytes): (f64, u64),
    ) -> Option<String> {
        if self.open_casts >= u64::from(max_casts) {
            return Some(format!("the application's limit of {max_casts} casts at the same time is reached"));
        }
        let nodes = || {
            let all = self.workers.iter().map(|(_, status)| status);
            all.filter(|status| status.node.runs_casts() && !status.draining)
        };
        if nodes().next().is_none() {
            return Some("no node runs casts".to_owned());
        }
        let labels = &spec.placement.labels;
        if !nodes().any(|status| status.node.has_labels(labels)) {
            return Some("no node has all labels of placement.labels".to_owned());
        }
        if self.queue.casts > 0 {
            return Some(format!("{} casts are in the queue", self.queue.casts));
        }
        let estimate = ESTIMATED_CORES * f64::from(cast::weight(spec)) / 1000.0;
        let cores = cores.max(estimate);
        let has_room = |status: &WorkerStatus| {
            let free = status.memory_free_bytes.saturating_sub(config.reserved_memory_mib << 20);
            // One cast is always admitted, whatever other programs use of the cores.
            let is_alone = status.casts == 0;
            let has_cores = is_alone || status.cores_used + cores <= status.cores * config.cpu_share;
            status.casts < config.max_running as usize && memory_bytes <= free && has_cores
        };
        let fits = nodes().any(|status| status.node.has_labels(labels) && has_room(status));
        (!fits).then(|| {
            let mib = memory_bytes >> 20;
            format!("no node has {cores:.1} cores and {mib} MiB of memory free for a cast")
        })
    }
}

/// Try a page: open it once without outputs.
///
/// Opens the page for some seconds with the same browser, network and limits as a cast, and says what was
/// found. The body is that of `POST /v1/casts`; outputs are checked, but may be absent, and nothing is sent
/// to them. It takes about 8 s, at most 25 s. Each application has one check at a time, each node two.
#[utoipa::path(post, path = "/v1/casts/check", tag = "casts", operation_id = "checkCast",
    request_body = CreateCastRequest,
    responses(
        (status = 200, description = "What was found, also if the page cannot be opened.",
            body = CheckResult),
        (status = 400, description = "`invalid-json`, `invalid-parameter`.", body = ErrorResponse),
        (status = 409, description = "`rooms-disabled`.", body = ErrorResponse),
        (status = 429, description = "`too-many-checks`, `too-many-requests`.", body = ErrorResponse,
            headers(("Retry-After" = u64, description = "Time after which to try again, in seconds."))),
        (status = 503, description = "`no-worker`: this node runs no casts; \
                                      `unavailable`.", body = ErrorResponse),
    ))]
pub(super) async fn check(
    State(rest): State<RestState>,
    caller: Caller,
    Json { value: mut body, .. }: Json<CreateCastRequest>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let app = caller.resolve_application(service, body.app.as_deref())?;
    if let Some(callback) = body.callback.take() {
        callback.into_receiver(&app)?;
    }
    body.queue_timeout(service)?;
    let id = service.new_cast_id();
    let is_administrator = caller.is_administrator();
    let context = CreateContext { service, app: &app, id: &id, is_administrator, is_dry_run: true };
    let mut spec = body.into_spec(&context)?;
    (spec.room, spec.recording, spec.pushes) = (None, None, Vec::new());
    let checker = service.page_checker.clone().filter(|_| !service.is_draining()).ok_or_else(|| {
        let message = "this node runs no casts, so it cannot open pages: send the request to a node with \
                       the role worker";
        ApiError::new(ErrorCode::NoWorker, message)
    })?;
    let permit = rest.checks.try_acquire(&app.name).ok_or_else(|| {
        let message = "the application or this node has too many running checks: try again later";
        ApiError::retry_later(ErrorCode::TooManyChecks, message, RETRY_AFTER_S)
    })?;
    let capacity = Capacity::load(service, &app).await?;
    let started = Instant::now();
    let checked = spec.clone();
    // The permit is held until the page is closed, whether or not the client waits.
    let task = tokio::spawn(async move {
        let result = checker.check(checked).await;
        drop(permit);
        result
    });
    let report = task.await.map_err(std::io::Error::other).flatten().map_err(|error| {
        let message = "the page could not be opened: the service's log has the cause under this request id";
        ApiError::internal(InternalError::new("check a page", &error), message)
    })?;
    let needed = (report.cpu_cores, report.memory_bytes);
    let fits_reason = capacity.missing(&service.config.casts, app.settings.max_casts, &spec, needed);
    let result = CheckResult {
        page: report.into(),
        node: service.node.0.clone(),
        fits_now: fits_reason.is_none(),
        fits_reason,
        took_ms: millis(started.elapsed()),
    };
    Ok(json_response(StatusCode::OK, &result))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::{Source, SourceUrl};
    use pagecast_fleet::NodeInfo;

    use super::*;

    #[test]
    fn each_application_has_one_check_and_each_node_two() {
        let limiter = Arc::new(CheckLimiter::default());
        let one = limiter.try_acquire("one").unwrap();
        assert!(limiter.try_acquire("one").is_none());
        let _two = limiter.try_acquire("two").unwrap();
        assert!(limiter.try_acquire("three").is_none());
        drop(one);
        assert!(limiter.try_acquire("three").is_some());
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut spec = CastSpec::new(Source::new(SourceUrl::parse("http://a.example/").unwrap()));
        spec.placement.labels = vec!["gpu".to_owned()];
        let config = config::Casts { cpu_share: 0.9, reserved_memory_mib: 512, ..config::Casts::default() };
        let node = |label: &str, casts, cores_used, free_mib: u64| {
            let node = NodeInfo { labels: vec![label.to_owned()], ..NodeInfo::default() };
            let status = WorkerStatus {
                cores: 4.0,
                cores_used,
                memory_free_bytes: free_mib << 20,
                casts,
                node,
                ..WorkerStatus::default()
            };
            (WorkerId(label.to_owned()), status)
        };
        let missing = |workers, queued, open_casts, needed| {
            let queue = QueueState { casts: queued, ..QueueState::default() };
            Capacity { queue, workers, open_casts }.missing(&config, 5, &spec, needed)
        };
        let (little, much) = ((0.1, 300 << 20), (2.0, 300 << 20));
        let idle = || vec![node("none", 0, 0.0, 9000), node("gpu", 1, 2.0, 9000)];
        assert_eq!(missing(idle(), 0, 4, little), None);
        for (why, workers, queued, open_casts, needed) in [
            ("limit of 5 casts", idle(), 0, 5, little),
            ("no node runs casts", Vec::new(), 0, 0, little),
            ("no node has all labels", vec![node("none", 0, 0.0, 9000)], 0, 0, little),
            ("3 casts are in the queue", idle(), 3, 3, little),
            ("no node has 2.0 cores and 300 MiB", idle(), 0, 0, much),
            ("no node has 0.5 cores and 300 MiB", vec![node("gpu", 1, 3.2, 9000)], 0, 0, little),
            ("no node has 0.5 cores and 300 MiB", vec![node("gpu", 0, 0.0, 600)], 0, 0, little),
        ] {
            let reason = missing(workers, queued, open_casts, needed).unwrap_or_default();
            assert!(reason.contains(why), "{why}: {reason}");
        }
        let alone = vec![node("gpu", 0, 4.0, 900)];
        assert_eq!(missing(alone, 0, 0, much), None, "one cast is always admitted");
    }
}
