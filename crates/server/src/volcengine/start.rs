//! `StartWebcast`: a task becomes a cast.

use std::time::Duration;

use pagecast_core::spec::{Checks, LAYER_KBPS_RANGE, Layer, Readiness, RoomIds, Signal, Size, Source};
use pagecast_core::{Fps, SpecError};
use pagecast_fleet::{Created, Hold, NewCast, State};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::answer::{Code, Fault};
use super::request::{Notify, Solution, Start, invalid};
use super::{broken, task};
use crate::app::Application;
use crate::service::Service;

/// How long the end of a task of the same name is waited for, that was told to stop.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// Shortest time between two looks for it.
const BREATH: Duration = Duration::from_millis(100);
/// What the vendor says if the task runs already.
const REPEATED: &str = "The task has been started. Please do not call the startup task interface repeatedly";

/// Starts a task. One that runs already is a success, unless `strict`: SDKs repeat what they got no answer
/// to.
pub(super) async fn start(
    service: &Service,
    app: &Application,
    start: &Start,
    strict: bool,
) -> Result<Value, Fault> {
    let new = cast_of(service, app, start)?;
    let deadline = Instant::now() + STOP_WAIT;
    loop {
        let created = service.create(new.clone()).await;
        let other = match created.map_err(|error| broken("starting a task", &error))? {
            Created::New(cast) => {
                tracing::info!(cast = %cast.id, app = app.name, "task started");
                return Ok(Value::from("ok"));
            }
            Created::Full if service.is_draining() => {
                let message = "the service is ending: try again later";
                return Err(Fault::new(Code::ServiceUnavailable, message));
            }
            Created::TooMany | Created::Full => {
                let message = "as many tasks run as may: stop one, or try again later";
                return Err(Fault::new(Code::TaskNumberOverLimit, message));
            }
            Created::OverBytes(kept) => {
                return Err(Fault::new(Code::TaskNumberOverLimit, app.over_bytes(kept)));
            }
            Created::Exists(other) => other,
        };
        if other.app != app.name {
            // The `AppId` was another application's, and one of its tasks still runs: it is none of this
            // caller's business.
            let message = "the task cannot be started under this name at the moment: try again later, or take another TaskId";
            return Err(Fault::new(Code::TaskAlreadyExists, message));
        }
        if !other.stop_asked && strict {
            return Err(Fault::new(Code::TaskAlreadyExists, "the task runs already"));
        }
        if !other.stop_asked {
            return Ok(Value::from(REPEATED));
        }
        // To say that it runs would be to lose this one.
        if !timeout_at(deadline, ended(service, &other)).await.unwrap_or(Ok(false))? {
            let message = "the task was told to stop and is not over yet: try again later";
            return Err(Fault::new(Code::TaskAlreadyExists, message));
        }
    }
}

/// Waits until a cast is over; `false` if nobody would tell.
async fn ended(service: &Service, cast: &pagecast_fleet::Cast) -> Result<bool, Fault> {
    let mut changes = service.fleet.changes();
    loop {
        let now = service.fleet.get(&cast.id).await.map_err(|error| broken("waiting for a task", &error))?;
        if now.is_none_or(|cast| cast.state == State::Ended) {
            return Ok(true);
        }
        if changes.changed().await.is_err() {
            return Ok(false);
        }
        // Others change much more often than this one.
        tokio::time::sleep(BREATH).await;
    }
}

/// The cast that a task is.
fn cast_of(service: &Service, app: &Application, start: &Start) -> Result<NewCast, Fault> {
    let layers = layers(&start.video_solutions)?;
    let Some(largest) = layers.first() else { return Err(Fault::internal()) };
    let fps = layers.iter().map(|layer| layer.fps).max_by_key(|fps| fps.get()).unwrap_or(largest.fps);
    let source = Source { size: largest.size, fps, ..Source::new(start.page()?) };
    let id = service.cast_id();
    let mut spec = service.cast(app, &id, source);
    let ids = RoomIds {
        app: start.task.app_id.clone(),
        room: start.task.room_id.clone(),
        user: start.user_id.clone(),
        task: start.task.task_id.clone(),
    };
    let room = service.room(app, ids, layers);
    spec.room = Some(room.map_err(|error| broken("finding a room for a task", &error))?);
    let seconds = |count: u32| Duration::from_secs(count.into());
    // What the operator allows is a limit, too.
    spec.limits.max_time = seconds(start.max_running_time).min(spec.limits.max_time);
    let every = |interval: u32| (interval > 0).then(|| seconds(interval));
    spec.checks = Checks {
        freeze: every(start.monitor_config.freeze_check_interval),
        blank: every(start.monitor_config.blank_check_interval),
        crash: every(start.monitor_config.crash_check_interval),
    };
    let Notify { enable_event_notify, start_timeout } = start.event_notify_config;
    if enable_event_notify {
        let timeout = seconds(start_timeout);
        spec.readiness = Readiness { signal: Signal::Webcast, timeout, ..Readiness::default() };
    }
    spec.check().map_err(|error| match error {
        // Identifiers that the address of the application's rooms has no place for.
        SpecError::Room { .. } => invalid(format!("AppId, RoomId, UserId and TaskId: {error}")),
        // All else that a caller can get wrong was told before.
        _ => broken("describing a task", &error),
    })?;
    let casts = &service.config.casts;
    Ok(NewCast {
        id,
        app: app.name.clone(),
        origin: "volcengine".to_owned(),
        key: Some(task::key(&start.task)),
        hold: Hold::WhileLive,
        request: serde_json::to_value(start).map_err(|error| broken("describing a task", &error))?,
        spec,
        queue: Duration::from_secs(casts.queue_s),
        quota: app.max_casts,
        max_bytes: app.max_kept_bytes(),
        queue_limit: casts.queue_limit,
        notify: app.callbacks.volcengine.is_some(),
    })
}

/// The layers of a stream, the larger one first. Two solutions of the same size are one layer that has the
/// better of both: a second stream of the same picture would help nobody.
fn layers(solutions: &[Solution]) -> Result<Vec<Layer>, Fault> {
    let mut layers = Vec::with_capacity(solutions.len());
    for solution in solutions {
        let size = Size::new(solution.width, solution.height);
        let (Ok(size), Some(fps)) = (size, Fps::new(solution.frame_rate)) else {
            return Err(invalid(format!(
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
            let size = first.size.within(second.size);
            return Ok(vec![first, Layer { size, ..second }]);
        }
    }
    Ok(layers)
}
