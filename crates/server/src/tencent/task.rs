//! `StopWebRecord` and `DescribeWebRecord`.

use std::sync::Arc;

use pagecast_fleet::{Cast, CastId, CastState, Command, Error};
use serde_json::{Map, Value};

use super::params::Params;
use super::response::ApiError;
use super::{ORIGIN, internal_error, start};
use crate::Service;
use crate::app::Application;

/// Longest id that the vendor gives its tasks, and somewhat more, in bytes.
const MAX_TASK_ID_LEN: usize = 256;
/// The only `Status` there is.
const STATUS_RECORDING: u64 = 1;

/// Stops a task. One that is being stopped is stopped.
pub(super) async fn stop(
    service: &Service,
    apps: &[Arc<Application>],
    params: &Params,
) -> Result<Map<String, Value>, ApiError> {
    let root = params.root();
    let cast =
        find_running_by_id(service, apps, root.required_text("TaskId", "MissingParameter.TaskId")?).await?;
    if !cast.stop_requested {
        match service.fleet.send_command(&cast.id, Command::Stop).await {
            Ok(()) => {}
            Err(Error::CastNotFound(_) | Error::CastEnded(_)) => return Err(ApiError::task_not_found()),
            Err(error) => return Err(internal_error(error)),
        }
    }
    Ok(Map::new())
}

/// Tells whether a task runs.
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
    let Some(record_id) = root.non_empty_text("RecordId")? else {
        return Err(ApiError::missing_parameter("MissingParameter.TaskId", "TaskId"));
    };
    let missing = || ApiError::missing_parameter("MissingParameter.SdkAppId", "SdkAppId");
    let sdk_app_id = start::sdk_app_id(&root)?.ok_or_else(missing)?;
    let found =
        service.fleet.find_by_key(&start::record_key(sdk_app_id, record_id)).await.map_err(internal_error)?;
    let cast = require_running(found, apps)?;
    answer.insert("TaskId".to_owned(), cast.id.as_str().into());
    Ok(answer)
}

async fn find_running_by_id(
    service: &Service,
    apps: &[Arc<Application>],
    id: &str,
) -> Result<Cast, ApiError> {
    // To callers, ids have no meaning: one that the vendor could have made is of no task.
    let possible = |b: u8| b.is_ascii_alphanumeric() || b"+/=-_.".contains(&b);
    if id.len() > MAX_TASK_ID_LEN || !id.bytes().all(possible) {
        return Err(ApiError::new(
            "InvalidParameter.TaskId",
            "the parameter `TaskId` is not the id of a task",
        ));
    }
    let Ok(id) = CastId::parse(id) else { return Err(ApiError::task_not_found()) };
    require_running(service.fleet.get(&id).await.map_err(internal_error)?, apps)
}

/// A task that has not ended, of an application that the caller may act for.
fn require_running(found: Option<Cast>, apps: &[Arc<Application>]) -> Result<Cast, ApiError> {
    let own = |cast: &Cast| cast.api == ORIGIN && apps.iter().any(|app| app.name == cast.app);
    found.filter(|cast| own(cast) && cast.state != CastState::Ended).ok_or_else(ApiError::task_not_found)
}
