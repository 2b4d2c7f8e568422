//! `StartWebcast`: creates a cast for a task.

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
use super::{API, fleet_error, internal_error, task};
use crate::app::Application;
use crate::new_cast::CastDraft;
use crate::service::Service;

/// Longest wait for the end of a stopping task of the same name: well below
/// [`FLEET_TIME_LIMIT`](crate::internal_error::FLEET_TIME_LIMIT), which holds for the whole call.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Shortest time between two checks for that end: the fleet reports changes of all casts.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The vendor's result for a task that runs already.
const ALREADY_STARTED: &str =
    "The task has been started. Please do not call the startup task interface repeatedly";

/// Starts a task. A task that runs already is a success unless `strict`, because SDKs repeat requests that
/// got no answer.
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
        let other = match created.map_err(|error| fleet_error("start task", &error))? {
            CreateOutcome::New(cast) => {
                tracing::info!(cast = %cast.id, app = app.name, "cast started");
                return Ok(Value::from("ok"));
            }
            CreateOutcome::QueueFull if service.is_draining() => {
                let message = "the service is shutting down: try again later";
                return Err(ApiError::new(ErrorCode::ServiceUnavailable, message));
            }
            CreateOutcome::QuotaExceeded | CreateOutcome::QueueFull => {
                let message = "the limit of tasks at the same time is reached: stop one, or try again later";
                return Err(ApiError::new(ErrorCode::TaskNumberOverLimit, message));
            }
            CreateOutcome::BytesExceeded(kept) => {
                return Err(ApiError::new(ErrorCode::TaskNumberOverLimit, app.quota_exceeded_message(kept)));
            }
            CreateOutcome::Exists(other) => other,
        };
        if other.app != app.name {
            // The `AppId` belonged to another application before, and one of its tasks still runs; the caller
            // learns nothing about it.
            let message = "the task cannot be started under this TaskId at the moment: try again later, or \
                           use another TaskId";
            return Err(ApiError::new(ErrorCode::TaskAlreadyExists, message));
        }
        if !other.stop_requested && strict {
            return Err(ApiError::new(ErrorCode::TaskAlreadyExists, "the task runs already"));
        }
        if !other.stop_requested {
            return Ok(Value::from(ALREADY_STARTED));
        }
        // A success would be wrong: the running task ends, and no new one starts.
        if !timeout_at(deadline, wait_until_ended(service, &other)).await.unwrap_or(Ok(false))? {
            let message = "the task is stopping and has not ended yet: try again later";
            return Err(ApiError::new(ErrorCode::TaskAlreadyExists, message));
        }
    }
}

/// Waits until a cast has ended. `false` if the fleet reports no more changes.
async fn wait_until_ended(service: &Service, cast: &pagecast_fleet::Cast) -> Result<bool, ApiError> {
    let mut changes = service.fleet.changes();
    loop {
        let current =
            service.fleet.get(&cast.id).await.map_err(|error| fleet_error("wait for task", &error))?;
        if current.is_none_or(|cast| cast.state == CastState::Ended) {
            return Ok(true);
        }
        if changes.changed().await.is_err() {
            return Ok(false);
        }
        // Most changes are of other casts.
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Builds the cast of a task.
fn new_cast(service: &Service, app: &Application, start: &StartRequest) -> Result<NewCast, ApiError> {
    let layers = layers(&start.video_solutions)?;
    let Some(largest) = layers.first() else {
        return Err(invalid_parameter("VideoSolutions is empty".to_owned()));
    };
    let fps = layers.iter().map(|layer| layer.fps).max_by_key(|fps| fps.get()).unwrap_or(largest.fps);
    let source = Source { size: largest.size, fps, ..Source::new(start.page_url()?) };
    let id = service.new_cast_id();
    let mut spec = service.new_cast_spec(app, source);
    let ids = RoomIds {
        app: start.task.app_id.clone(),
        room: start.task.room_id.clone(),
        user: start.user_id.clone(),
        task: start.task.task_id.clone(),
    };
    let room = service.new_room(app, ids, layers);
    spec.room = Some(room.map_err(|error| internal_error("choose room", &error))?);
    let seconds = |count: u32| Duration::from_secs(count.into());
    // The operator's limit holds as well.
    spec.limits.max_time = seconds(start.max_running_time).min(spec.limits.max_time);
    let optional_interval = |interval: u32| (interval > 0).then(|| seconds(interval));
    spec.checks = HealthChecks {
        freeze: optional_interval(start.monitor_config.freeze_check_interval),
        blank: optional_interval(start.monitor_config.blank_check_interval),
        crash: optional_interval(start.monitor_config.crash_check_interval),
    };
    let EventNotifyConfig { enable_event_notify, start_timeout } = start.event_notify_config;
    if enable_event_notify {
        let timeout = seconds(start_timeout);
        spec.readiness = Readiness { signal: ReadySignal::Webcast, timeout, ..Readiness::default() };
    }
    spec.validate().map_err(|error| match error {
        // The address of the application's rooms cannot hold these identifiers.
        SpecError::Room { .. } => invalid_parameter(format!("AppId, RoomId, UserId and TaskId: {error}")),
        // The parameters were checked before, so any other error is ours.
        _ => internal_error("build cast", &error),
    })?;
    let draft = CastDraft {
        id,
        api: API,
        key: Some((task::task_key(&start.task), KeyRetention::UntilEnded)),
        request: serde_json::to_value(start).map_err(|error| internal_error("build cast", &error))?,
        spec,
        queue_timeout: None,
        notify: app.settings.callbacks.volcengine.is_some(),
    };
    Ok(draft.into_new_cast(service, app))
}

/// Layers of a stream, the larger one first. Two solutions of the same size become one layer with the higher
/// frame rate and bitrate, because a second stream of the same picture has no use.
fn layers(solutions: &[VideoSolution]) -> Result<Vec<Layer>, ApiError> {
    let mut layers = Vec::with_capacity(solutions.len());
    for solution in solutions {
        let size = Size::new(solution.width, solution.height);
        let (Ok(size), Some(fps)) = (size, Fps::new(solution.frame_rate)) else {
            return Err(invalid_parameter(format!(
                "VideoSolutions: {}x{} at {} frames per second is not a valid picture",
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
            // The second layer has the proportions of the first, because both show the same page.
            let size = first.size.fit_within(second.size);
            return Ok(vec![first, Layer { size, ..second }]);
        }
    }
    Ok(layers)
}
