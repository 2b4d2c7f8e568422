//! `StopWebcast` and `GetWebCastTask`: a task is found again.

use pagecast_core::cast::EndReason;
use pagecast_fleet::{Cast, CastKey, CastState, Command, Error};
use serde_json::{Map, Value, json};

use super::internal_error;
use super::request::TaskRef;
use super::response::{ApiError, ErrorCode};
use crate::app::Application;
use crate::service::Service;

/// How long ago a task may have been started to be found, in milliseconds.
const TASK_RETENTION_MS: i64 = 72 * 3_600_000;
/// What is repeated of the request.
const ECHOED_FIELDS: [&str; 6] =
    ["UserId", "SourceURL", "MaxRunningTime", "VideoSolutions", "MonitorConfig", "EventNotifyConfig"];

/// How the vendor sees an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndStatus {
    /// Whether it is a failure.
    pub(super) failed: bool,
    /// `StopReason`.
    pub(super) reason: &'static str,
}

/// Four words are all there are; what none of them fits is unknown.
pub(super) fn end_status(reason: EndReason, was_live: bool) -> EndStatus {
    let (failed, reason) = match reason {
        EndReason::Stopped => (false, "StopByAPI"),
        EndReason::MaxTime => (false, "ExceedMaxRunningTime"),
        EndReason::PageEnded | EndReason::Complete | EndReason::LargeVideo => (false, "UnknownStopReason"),
        EndReason::StartFailed => (true, "StartTaskFailed"),
        EndReason::GaveUp(_) | EndReason::OutputFailed if !was_live => (true, "StartTaskFailed"),
        EndReason::GaveUp(_) | EndReason::OutputFailed => (true, "UnknownStopReason"),
    };
    EndStatus { failed, reason }
}

/// What only one task that runs has.
pub(super) fn task_key(task: &TaskRef) -> CastKey {
    // None of them contains a slash.
    CastKey(format!("webcast/{}/{}/{}", task.app_id, task.room_id, task.task_id))
}

fn not_found() -> ApiError {
    ApiError::new(ErrorCode::ErrorActiveTaskNotFound, "there is no such task, or it is over")
}

/// A task of this application. Another one's is not found, though it had the same `AppId` once.
async fn find(service: &Service, app: &Application, task: &TaskRef) -> Result<Cast, ApiError> {
    let found = service
        .fleet
        .find_by_key(&task_key(task))
        .await
        .map_err(|error| internal_error("finding a task", &error))?;
    found.filter(|cast| cast.app == app.name).ok_or_else(not_found)
}

/// Ends a task that runs. One that was told so before is told so again as long as it has not ended.
pub(super) async fn stop(service: &Service, app: &Application, task: &TaskRef) -> Result<Value, ApiError> {
    let cast = find(service, app, task).await?;
    if cast.state == CastState::Ended {
        return Err(not_found());
    }
    if !cast.stop_requested {
        match service.fleet.send_command(&cast.id, Command::Stop).await {
            Ok(()) => {}
            Err(Error::CastNotFound(_) | Error::CastEnded(_)) => return Err(not_found()),
            Err(error) => return Err(internal_error("stopping a task", &error)),
        }
    }
    Ok(Value::from("ok"))
}

/// How a task stands that was started within the last 72 hours.
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
            let verdict = end_status(end.reason, cast.live_ms.is_some());
            (if verdict.failed { 4 } else { 3 }, verdict.reason)
        }
    };
    let mut said: Map<String, Value> = ECHOED_FIELDS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), cast.request.get(name)?.clone())))
        .collect();
    said.insert("StartTime".to_owned(), cast.started_ms.unwrap_or(cast.created_ms).into());
    said.insert("EndTime".to_owned(), cast.ended_ms.unwrap_or(0).into());
    said.insert("Status".to_owned(), status.into());
    said.insert("StopReason".to_owned(), reason.into());
    said
}

#[cfg(test)]
mod tests {
    use pagecast_core::cast::HealthFault;

    use super::*;

    #[test]
    fn every_end_has_a_stop_reason() {
        let gave_up = EndReason::GaveUp(HealthFault::Freeze);
        for (end, was_live, failed, reason) in [
            (EndReason::Stopped, true, false, "StopByAPI"),
            (EndReason::Stopped, false, false, "StopByAPI"),
            (EndReason::PageEnded, true, false, "UnknownStopReason"),
            (EndReason::MaxTime, true, false, "ExceedMaxRunningTime"),
            (EndReason::Complete, true, false, "UnknownStopReason"),
            (EndReason::LargeVideo, true, false, "UnknownStopReason"),
            (EndReason::StartFailed, false, true, "StartTaskFailed"),
            (gave_up, true, true, "UnknownStopReason"),
            (gave_up, false, true, "StartTaskFailed"),
            (EndReason::OutputFailed, true, true, "UnknownStopReason"),
        ] {
            assert_eq!(end_status(end, was_live), EndStatus { failed, reason }, "{end:?}, {was_live}");
        }
    }
}
