//! Tests of an application's storages: whether recordings could be stored there.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{ApiError, Caller, ErrorCode, Json, RestState, error, json_response};
use crate::app::StorageLocation;
use crate::service::{StorageTestStep, local_storage};

/// Storage to test.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::rest) struct TestStorageRequest {
    /// Which of the application's storages.
    storage: ApplicationStorage,
}

/// Storage of an application: `settings.storage.default` or `settings.storage.backup`.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum ApplicationStorage {
    Default,
    Backup,
}

/// What came of a test.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct TestStorageResponse {
    /// Whether all steps succeeded.
    ok: bool,
    /// The steps in order: `write`, `read`, `remove`. Without the first, the others are left out.
    steps: Vec<StepView>,
}

/// Step of a test.
#[derive(Serialize, ToSchema)]
#[schema(as = StorageTestStep)]
struct StepView {
    /// Name of the step.
    #[schema(example = "write")]
    step: &'static str,
    /// Whether it succeeded.
    ok: bool,
    /// Why it failed; null if it did not.
    #[schema(required = true)]
    message: Option<String>,
    /// Time that it took, in milliseconds.
    duration_ms: u64,
}

impl From<StorageTestStep> for StepView {
    fn from(StorageTestStep { step, error, duration }: StorageTestStep) -> Self {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { step, ok: error.is_none(), message: error, duration_ms }
    }
}

/// Test a storage of an application: write, read and remove a small object.
///
/// The node that answers the request does it, by the same code and with the same keys as recordings are
/// stored. Without `settings.storage.default`, it tests its own data folder.
#[utoipa::path(post, path = "/v1/applications/{name}/storage/test", tag = "applications",
    operation_id = "testStorage",
    params(("name" = String, Path, description = "Name of the application. A token of an application may \
        name its own.")),
    request_body = TestStorageRequest,
    responses((status = 200, description = "What came of the test.", body = TestStorageResponse),
        (status = 403, description = "`forbidden`: another application.", body = error::ErrorResponse),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse),
        (status = 409, description = "`no-storage`: the application has no such storage.",
            body = error::ErrorResponse),
        (status = 429, description = "`too-many-requests`, also if the service is busy with other tests.",
            body = error::ErrorResponse)))]
pub(in crate::rest) async fn test(
    State(rest): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
    Json { value, .. }: Json<TestStorageRequest>,
) -> Result<Response, ApiError> {
    let app = caller.find_application(&rest.service, &name)?;
    let no_storage = || ApiError::new(ErrorCode::NoStorage, "the application has no such storage");
    let tester = rest.service.storage_tester.as_ref().ok_or_else(no_storage)?;
    let storages = &app.settings.storage;
    let storage = match value.storage {
        ApplicationStorage::Default => {
            storages.default.as_ref().map_or_else(|| local_storage(None), StorageLocation::to_spec)
        }
        ApplicationStorage::Backup => storages.backup.as_ref().ok_or_else(no_storage)?.to_spec(),
    };
    let _slot = rest.acquire_test_slot()?;
    let steps = tester.test(&storage).await;
    let ok = steps.iter().all(|step| step.error.is_none());
    let steps = steps.into_iter().map(StepView::from).collect();
    Ok(json_response(StatusCode::OK, &TestStorageResponse { ok, steps }))
}
