//! `StopWebRecord` and `DescribeWebRecord`.

use std::sync::Arc;

use pagecast_fleet::{Cast, CastId, CastState, Command, Error};
use serde_json::{Map, Value};

use super::error_code::ErrorCode;
use super::params::{Object, Params};
use super::response::ApiError;
use super::{API, internal_error, start};
use crate::Service;
use crate::app::Application;

/// Longest `TaskId` that is looked up, in bytes: somewhat more than the vendor's own have.
pub(super) const MAX_TASK_ID_LEN: usize = 256;
/// The only value of `Status`.
const STATUS_RECORDING: u64 = 1;

/// Stops a task. Stopping it again succeeds as long as it has not ended.
pub(super) async fn stop(
    service: &Service,
    apps: &[Arc<Application>],
    params: &Params,
) -> Result<Map<String, Value>, ApiError> {
    let root = params.root();
    let cast =
        find_running_by_id(service, apps, root.required_text("TaskId", ErrorCode::MissingTaskId)?).await?;
    if !cast.stop_requested {
        match service.fleet.send_command(&cast.id, Command::Stop).await {
            Ok(()) => {}
            Err(Error::CastNotFound(_) | Error::CastEnded(_)) => return Err(ApiError::task_not_found()),
            Err(error) => return Err(internal_error(&error)),
        }
    }
    Ok(Map::new())
}

/// Describes a running task.
pub(super) async fn describe(
    service: &Service,
    apps: &[Arc<Application>],
    params: &Params,
) -> Result<Map<String, Value>, ApiError> {
    let root = params.root();
    let mut answer = Map::from_iter([("Status".to_owned(), STATUS_RECORDING.into())]);
    if let Some(id) = root.non_empty_text("TaskId")? {
        let cast = find_running_by_id(service, apps, id).await?;
        if let Some(record_id) = cast.request.get("RecordId") {
            answer.insert("RecordId".to_owned(), record_id.clone());
        }
        return Ok(answer);
    }
    let (sdk_app_id, record_id) = record_of(&root)?;
    let found = service
        .fleet
        .find_by_key(&start::record_key(sdk_app_id, record_id))
        .await
        .map_err(|error| internal_error(&error))?;
    let cast = require_running(found, apps)?;
    answer.insert("TaskId".to_owned(), cast.id.as_str().into());
    Ok(answer)
}

async fn find_running_by_id(
    service: &Service,
    apps: &[Arc<Application>],
    id: &str,
) -> Result<Cast, ApiError> {
    check_task_id(id)?;
    let Ok(id) = CastId::parse(id) else { return Err(ApiError::task_not_found()) };
    require_running(service.fleet.get(&id).await.map_err(|error| internal_error(&error))?, apps)
}

fn check_task_id(id: &str) -> Result<(), ApiError> {
    // Ids are opaque to callers: a valid id of the vendor's is an unknown task, not a malformed one.
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"+/=-_.".contains(&b);
    if id.len() <= MAX_TASK_ID_LEN && id.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::InvalidTaskId, "the parameter `TaskId` is not a task id"))
}

/// Checks the parameters of `StopWebRecord`, without looking for the task.
pub(super) fn check_stop_params(params: &Params) -> Result<(), ApiError> {
    check_task_id(params.root().required_text("TaskId", ErrorCode::MissingTaskId)?)
}

/// Checks the parameters of `DescribeWebRecord`, without looking for the task.
pub(super) fn check_describe_params(params: &Params) -> Result<(), ApiError> {
    let root = params.root();
    if let Some(id) = root.non_empty_text("TaskId")? {
        return check_task_id(id);
    }
    record_of(&root).map(drop)
}

/// `SdkAppId` and `RecordId`, which name a task without its id.
fn record_of<'a>(root: &Object<'a>) -> Result<(u64, &'a str), ApiError> {
    let Some(record_id) = root.non_empty_text("RecordId")? else {
        return Err(ApiError::missing_parameter(ErrorCode::MissingTaskId, "TaskId"));
    };
    let missing = || ApiError::missing_parameter(ErrorCode::MissingSdkAppId, "SdkAppId");
    Ok((start::sdk_app_id(root)?.ok_or_else(missing)?, record_id))
}

/// Requires a task that has not ended, of an application of the caller's key.
fn require_running(found: Option<Cast>, apps: &[Arc<Application>]) -> Result<Cast, ApiError> {
    let is_own = |cast: &Cast| cast.api == API && apps.iter().any(|app| app.name == cast.app);
    found.filter(|cast| is_own(cast) && cast.state != CastState::Ended).ok_or_else(ApiError::task_not_found)
}
