//! `StopWebRecord` and `DescribeWebRecord`.

use std::sync::Arc;

use pagecast_fleet::{Cast, CastId, Command, Error, State};
use serde_json::{Map, Value};

use super::answer::Fault;
use super::params::Params;
use super::{ORIGIN, start, unavailable};
use crate::Service;
use crate::app::Application;

/// Longest id that the vendor gives its tasks, and somewhat more, in bytes.
const MAX_TASK_ID: usize = 256;
/// The only `Status` there is.
const RECORDING: u64 = 1;

/// Stops a task. One that is being stopped is stopped.
pub(super) async fn stop(
    service: &Service,
    apps: &[Arc<Application>],
    params: &Params,
) -> Result<Map<String, Value>, Fault> {
    let root = params.root();
    let cast = by_id(service, apps, root.needed("TaskId", "MissingParameter.TaskId")?).await?;
    if !cast.stop_asked {
        match service.fleet.order(&cast.id, Command::Stop).await {
            Ok(()) => {}
            Err(Error::NoCast(_) | Error::Over(_)) => return Err(Fault::no_task()),
            Err(error) => return Err(unavailable(error)),
        }
    }
    Ok(Map::new())
}

/// Tells whether a task runs.
pub(super) async fn describe(
    service: &Service,
    apps: &[Arc<Application>],
    params: &Params,
) -> Result<Map<String, Value>, Fault> {
    let root = params.root();
    let mut answer = Map::from_iter([("Status".to_owned(), RECORDING.into())]);
    if let Some(id) = root.word("TaskId")? {
        let cast = by_id(service, apps, id).await?;
        if let Some(record_id) = cast.request.get("RecordId") {
            answer.insert("RecordId".to_owned(), record_id.clone());
        }
        return Ok(answer);
    }
    let Some(record_id) = root.word("RecordId")? else {
        return Err(Fault::missing("MissingParameter.TaskId", "TaskId"));
    };
    let missing = || Fault::missing("MissingParameter.SdkAppId", "SdkAppId");
    let sdk_app_id = start::sdk_app_id(&root)?.ok_or_else(missing)?;
    let found = service.fleet.find(&start::key(sdk_app_id, record_id)).await.map_err(unavailable)?;
    let cast = running(found, apps)?;
    answer.insert("TaskId".to_owned(), cast.id.as_str().into());
    Ok(answer)
}

async fn by_id(service: &Service, apps: &[Arc<Application>], id: &str) -> Result<Cast, Fault> {
    // To callers, ids have no meaning: one that the vendor could have made is of no task.
    let possible = |b: u8| b.is_ascii_alphanumeric() || b"+/=-_.".contains(&b);
    if id.len() > MAX_TASK_ID || !id.bytes().all(possible) {
        return Err(Fault::new("InvalidParameter.TaskId", "the parameter `TaskId` is not the id of a task"));
    }
    let Ok(id) = CastId::parse(id) else { return Err(Fault::no_task()) };
    running(service.fleet.get(&id).await.map_err(unavailable)?, apps)
}

/// A task that has not ended, of an application that the caller may act for.
fn running(found: Option<Cast>, apps: &[Arc<Application>]) -> Result<Cast, Fault> {
    let own = |cast: &Cast| cast.origin == ORIGIN && apps.iter().any(|app| app.name == cast.app);
    found.filter(|cast| own(cast) && cast.state != State::Ended).ok_or_else(Fault::no_task)
}
