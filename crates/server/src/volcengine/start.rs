//! `StartWebcast`: a task becomes a cast.

use std::time::Duration;

use pagecast_core::spec::{
    HealthChecks, LAYER_KBPS_RANGE, Layer, Readiness, ReadySignal, RoomIds, Size, Source,
};
use pagecast_core::{Fps, SpecError};
use pagecast_fleet::{CastState, CreateOutcome, KeyRetention, NewCast};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::request::{EventNotifyConfig, StartRequest, VideoSolution, invalid_parameter};
use super::response::{ApiError, ErrorCode};
use super::{internal_error, task};
use crate::app::Application;
use crate::service::Service;

/// How long the end of a task of the same name is waited for, that was told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Shortest time between two looks for it.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// What the vendor says if the task runs already.
const ALREADY_STARTED: &str =
    "The task has been started. Please do not call the startup task interface repeatedly";

/// Starts a task. One that runs already is a success, unless `strict`: SDKs repeat what they got no answer
/// to.
pub(super) async fn start(
    service: &Service,
    app: &Application,
    start: &StartRequest,
    strict: bool,
) -> Result<Value, ApiError> {
    let new = new_cast(service, app, start)?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        let created = service.create(new.clone()).await;
        let other = match created.map_err(|error| internal_error("starting a task", &error))? {
            CreateOutcome::New(cast) => {
                tracing::info!(cast = %cast.id, app = app.name, "task started");
                return Ok(Value::from("ok"));
            }
            CreateOutcome::QueueFull if service.is_draining() => {
                let message = "the service is ending: try again later";
                return Err(ApiError::new(ErrorCode::ServiceUnavailable, message));
            }
            CreateOutcome::QuotaExceeded | CreateOutcome::QueueFull => {
                let message = "as many tasks run as may: stop one, or try again later";
                return Err(ApiError::new(ErrorCode::TaskNumberOverLimit, message));
            }
            CreateOutcome::BytesExceeded(kept) => {
                return Err(ApiError::new(ErrorCode::TaskNumberOverLimit, app.quota_exceeded_message(kept)));
            }
            CreateOutcome::Exists(other) => other,
        };
        if other.app != app.name {
            // The `AppId` was another application's, and one of its tasks still runs: it is none of this
            // caller's business.
            let message = "the task cannot be started under this name at the moment: try again later, or take another TaskId";
            return Err(ApiError::new(ErrorCode::TaskAlreadyExists, message));
        }
        if !other.stop_requested && strict {
            return Err(ApiError::new(ErrorCode::TaskAlreadyExists, "the task runs already"));
        }
        if !other.stop_requested {
            return Ok(Value::from(ALREADY_STARTED));
        }
        // To say that it runs would be to lose this one.
        if !timeout_at(deadline, wait_until_ended(service, &other)).await.unwrap_or(Ok(false))? {
            let message = "the task was told to stop and is not over yet: try again later";
            return Err(ApiError::new(ErrorCode::TaskAlreadyExists, message));
        }
    }
}

/// Waits until a cast is over; `false` if nobody would tell.
async fn wait_until_ended(service: &Service, cast: &pagecast_fleet::Cast) -> Result<bool, ApiError> {
    let mut changes = service.fleet.changes();
    loop {
        let now = service
            .fleet
            .get(&cast.id)
            .await
            .map_err(|error| internal_error("waiting for a task", &error))?;
        if now.is_none_or(|cast| cast.state == CastState::Ended) {
            return Ok(true);
        }
        if changes.changed().await.is_err() {
            return Ok(false);
        }
        // Others change much more often than this one.
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The cast that a task is.
fn new_cast(service: &Service, app: &Application, start: &StartRequest) -> Result<NewCast, ApiError> {
    let layers = layers(&start.video_solutions)?;
    let Some(largest) = layers.first() else { return Err(ApiError::internal()) };
    let fps = layers.iter().map(|layer| layer.fps).max_by_key(|fps| fps.get()).unwrap_or(largest.fps);
    let source = Source { size: largest.size, fps, ..Source::new(start.page_url()?) };
    let id = service.new_cast_id();
    let mut spec = service.new_cast_spec(app, &id, source);
    let ids = RoomIds {
        app: start.task.app_id.clone(),
        room: start.task.room_id.clone(),
        user: start.user_id.clone(),
        task: start.task.task_id.clone(),
    };
    let room = service.new_room(app, ids, layers);
    spec.room = Some(room.map_err(|error| internal_error("finding a room for a task", &error))?);
    let seconds = |count: u32| Duration::from_secs(count.into());
    // What the operator allows is a limit, too.
    spec.limits.max_time = seconds(start.max_running_time).min(spec.limits.max_time);
    let every = |interval: u32| (interval > 0).then(|| seconds(interval));
    spec.checks = HealthChecks {
        freeze: every(start.monitor_config.freeze_check_interval),
        blank: every(start.monitor_config.blank_check_interval),
        crash: every(start.monitor_config.crash_check_interval),
    };
    let EventNotifyConfig { enable_event_notify, start_timeout } = start.event_notify_config;
    if enable_event_notify {
        let timeout = seconds(start_timeout);
        spec.readiness = Readiness { signal: ReadySignal::Webcast, timeout, ..Readiness::default() };
    }
    spec.validate().map_err(|error| match error {
        // Identifiers that the address of the application's rooms has no place for.
        SpecError::Room { .. } => invalid_parameter(format!("AppId, RoomId, UserId and TaskId: {error}")),
        // All else that a caller can get wrong was told before.
        _ => internal_error("describing a task", &error),
    })?;
    let casts = &service.config.casts;
    Ok(NewCast {
        id,
        app: app.name.clone(),
        api: "volcengine".to_owned(),
        key: Some(task::task_key(&start.task)),
        key_retention: KeyRetention::UntilEnded,
        request: serde_json::to_value(start).map_err(|error| internal_error("describing a task", &error))?,
        spec,
        queue_timeout: Duration::from_secs(casts.queue_s),
        quota: app.max_casts,
        max_bytes: app.max_kept_bytes(),
        queue_limit: casts.queue_limit,
        notify: app.callbacks.volcengine.is_some(),
    })
}

/// The layers of a stream, the larger one first. Two solutions of the same size are one layer that has the
/// better of both: a second stream of the same picture would help nobody.
fn layers(solutions: &[VideoSolution]) -> Result<Vec<Layer>, ApiError> {
    let mut layers = Vec::with_capacity(solutions.len());
    for solution in solutions {
        let size = Size::new(solution.width, solution.height);
        let (Ok(size), Some(fps)) = (size, Fps::new(solution.frame_rate)) else {
            return Err(invalid_parameter(format!(
                "VideoSolutions: {}x{} at {} frames per second cannot be shown",
                solution.width, solution.height, solution.frame_rate
            )));
        };
        let (low, high) = (*LAYER_KBPS_RANGE.start(), *LAYER_KBPS_RANGE.end());
        let bitrate_kbps = (solution.bitrate > 0).then(|| solution.bitrate.clamp(low, high));
        layers.push(Layer { size, fps, bitrate_kbps });
    }
    let area = |layer: &Layer| layer.size.width() * layer.size.height();
    layers.sort_by_key(|layer| std::cmp::Reverse(area(layer)));
    if let [first, second] = layers[..] {
        if first.size == second.size {
            let fps = if first.fps.get() < second.fps.get() { second.fps } else { first.fps };
            let bitrate_kbps = first.bitrate_kbps.zip(second.bitrate_kbps).map(|(a, b)| a.max(b));
            return Ok(vec![Layer { fps, bitrate_kbps, ..first }]);
        }
        if area(&first) == area(&second) {
            // As much of it as the page fills, whose proportions are those of the first.
            let size = first.size.fit_within(second.size);
            return Ok(vec![first, Layer { size, ..second }]);
        }
    }
    Ok(layers)
}
