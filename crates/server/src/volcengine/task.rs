//! `StopWebcast` and `GetWebCastTask`: find a task and its cast.

use pagecast_core::cast::EndReason;
use pagecast_fleet::{Cast, CastKey, CastState, Command, Error};
use serde_json::{Map, Value, json};

use super::fleet_error;
use super::request::TaskRef;
use super::response::{ApiError, ErrorCode};
use crate::app::Application;
use crate::service::Service;

/// Age of the oldest task that `GetWebCastTask` finds, in milliseconds: 72 hours, as the vendor documents.
const TASK_RETENTION_MS: i64 = 72 * 3_600_000;
/// Fields of the request that the answer repeats.
const ECHOED_FIELDS: [&str; 6] =
    ["UserId", "SourceURL", "MaxRunningTime", "VideoSolutions", "MonitorConfig", "EventNotifyConfig"];

/// End of a task in the vendor's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndStatus {
    /// Whether the task failed.
    pub(super) failed: bool,
    /// The vendor's `StopReason`.
    pub(super) reason: &'static str,
}

/// Maps the reason of an end to the vendor's `StopReason`, which is `UnknownStopReason` where none fits.
pub(super) fn end_status(reason: EndReason, was_live: bool) -> EndStatus {
    let (failed, reason) = match reason {
        EndReason::Stopped => (false, "StopByAPI"),
        EndReason::MaxTime => (false, "ExceedMaxRunningTime"),
        EndReason::PageEnded | EndReason::Complete | EndReason::VideoTooLarge => (false, "UnknownStopReason"),
        EndReason::StartFailed => (true, "StartTaskFailed"),
        EndReason::PageFailed(_) | EndReason::OutputFailed if !was_live => (true, "StartTaskFailed"),
        EndReason::PageFailed(_) | EndReason::OutputFailed => (true, "UnknownStopReason"),
    };
    EndStatus { failed, reason }
}

/// Key that only one running task can have.
pub(super) fn task_key(task: &TaskRef) -> CastKey {
    // No identifier contains a slash.
    CastKey(format!("webcast/{}/{}/{}", task.app_id, task.room_id, task.task_id))
}

fn not_found() -> ApiError {
    ApiError::new(ErrorCode::ErrorActiveTaskNotFound, "there is no such task, or it has ended")
}

/// Finds a task of this application. A task of another application is not found, even if that had the same
/// `AppId` before.
async fn find(service: &Service, app: &Application, task: &TaskRef) -> Result<Cast, ApiError> {
    let found =
        service.fleet.find_by_key(&task_key(task)).await.map_err(|error| fleet_error("find task", &error))?;
    found.filter(|cast| cast.app == app.name).ok_or_else(not_found)
}

/// Stops a running task. Stopping it again succeeds as long as it has not ended.
pub(super) async fn stop(service: &Service, app: &Application, task: &TaskRef) -> Result<Value, ApiError> {
    let cast = find(service, app, task).await?;
    if cast.state == CastState::Ended {
        return Err(not_found());
    }
    if !cast.stop_requested {
        match service.fleet.send_command(&cast.id, Command::Stop).await {
            Ok(()) => {}
            Err(Error::CastNotFound(_) | Error::CastEnded(_)) => return Err(not_found()),
            Err(error) => return Err(fleet_error("stop task", &error)),
        }
    }
    Ok(Value::from("ok"))
}

/// Describes a task that was started within the last 72 hours.
pub(super) async fn get(service: &Service, app: &Application, task: &TaskRef) -> Result<Value, ApiError> {
    let cast = find(service, app, task).await?;
    if cast.created_ms < service.now().saturating_sub(TASK_RETENTION_MS) {
        return Err(not_found());
    }
    Ok(json!({ "WebCastTask": describe(&cast) }))
}

fn describe(cast: &Cast) -> Map<String, Value> {
    let (status, reason) = match (cast.state, &cast.end) {
        (CastState::Queued | CastState::Starting, _) => (1, ""),
        (CastState::Live, _) => (2, ""),
        (CastState::Ended, None) => (0, "UnknownStopReason"),
        (CastState::Ended, Some(end)) => {
            let end = end_status(end.reason, cast.live_ms.is_some());
            (if end.failed { 4 } else { 3 }, end.reason)
        }
    };
    let mut answer: Map<String, Value> = ECHOED_FIELDS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), cast.request.get(name)?.clone())))
        .collect();
    answer.insert("StartTime".to_owned(), cast.started_ms.unwrap_or(cast.created_ms).into());
    answer.insert("EndTime".to_owned(), cast.ended_ms.unwrap_or(0).into());
    answer.insert("Status".to_owned(), status.into());
    answer.insert("StopReason".to_owned(), reason.into());
    answer
}

#[cfg(test)]
mod tests {
    use pagecast_core::cast::HealthFault;

    use super::*;

    #[test]
    fn every_end_has_a_stop_reason() {
        let gave_up = EndReason::PageFailed(HealthFault::Freeze);
        for (end, was_live, failed, reason) in [
            (EndReason::Stopped, true, false, "StopByAPI"),
            (EndReason::Stopped, false, false, "StopByAPI"),
            (EndReason::PageEnded, true, false, "UnknownStopReason"),
            (EndReason::MaxTime, true, false, "ExceedMaxRunningTime"),
            (EndReason::Complete, true, false, "UnknownStopReason"),
            (EndReason::VideoTooLarge, true, false, "UnknownStopReason"),
            (EndReason::StartFailed, false, true, "StartTaskFailed"),
            (gave_up, true, true, "UnknownStopReason"),
            (gave_up, false, true, "StartTaskFailed"),
            (EndReason::OutputFailed, true, true, "UnknownStopReason"),
        ] {
            assert_eq!(end_status(end, was_live), EndStatus { failed, reason }, "{end:?}, {was_live}");
        }
    }
}
