//! Applications, for the administrator. Applications of the configuration file are shown but cannot be
//! changed here.

use std::collections::HashSet;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use pagecast_fleet::{CastState, Filter};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::audit::Created;
use super::{Administrator, ApiError, ErrorCode, Json, RestState, json_response};
use crate::app::store::{self, StoreError, StoredApplication};
use crate::app::{Application, Settings};
use crate::internal_error::InternalError;
use crate::service::Service;

pub(super) mod callback_test;
pub(super) mod keys;
pub(super) mod storage_test;
pub(super) mod tokens;

/// Most applications in the fleet: all of them are held in memory.
const MAX_APPLICATIONS: usize = 10_000;
/// Most ended casts that are checked for unfinished uploads before an application is removed: it bounds the
/// query.
const MAX_CHECKED_CASTS: usize = 1000;

/// Application to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateApplicationRequest {
    /// Name of the application.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$")]
    name: String,
    /// Settings; absent ones have their defaults.
    #[serde(default)]
    settings: Settings,
}

/// Application with its settings, keys and tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = Application)]
pub(super) struct ApplicationView {
    /// Name of the application.
    name: String,
    /// Where the application is defined. Only those that were created by this API can be changed.
    defined_in: DefinedIn,
    /// Settings. Secrets are shown as `…`.
    settings: Settings,
    /// Access keys for the vendors' APIs, without their secrets.
    keys: Vec<keys::KeyView>,
    /// Tokens for this API, by their ids.
    tokens: Vec<tokens::TokenView>,
}

/// Where an application is defined.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = DefinedIn)]
enum DefinedIn {
    Configuration,
    Api,
}

/// All applications.
#[derive(Serialize, ToSchema)]
pub(super) struct ApplicationList {
    /// The applications, sorted by name.
    applications: Vec<ApplicationView>,
}

impl ApplicationView {
    fn new(app: &Application, configured: &HashSet<String>) -> Self {
        let defined_in =
            if configured.contains(&app.name) { DefinedIn::Configuration } else { DefinedIn::Api };
        Self {
            name: app.name.clone(),
            defined_in,
            settings: app.settings.redacted(),
            keys: app.keys.iter().map(keys::KeyView::new).collect(),
            tokens: app.tokens.iter().map(tokens::TokenView::new).collect(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Invalid(mut error) => {
                // In a body, settings are below `settings`; name, keys and tokens are not.
                if !Application::OWN_FIELDS.iter().any(|own| error.field.starts_with(own)) {
                    error.field = format!("settings.{}", error.field);
                }
                error.into()
            }
            StoreError::Fleet(pagecast_fleet::Error::DocumentChanged(_)) => {
                let message = "another request changed the application at the same time, try again";
                Self::retry_later(ErrorCode::Unavailable, message, 1)
            }
            StoreError::Fleet(error) => error.into(),
            StoreError::Json(error) => Self::internal(
                InternalError::new("serialize application", &error),
                "the application cannot be stored",
            ),
        }
    }
}

/// The settings with the secrets of `old` where `…` was sent.
fn restored(mut settings: Settings, old: Settings) -> Result<Settings, ApiError> {
    settings.restore_secrets(old).map_err(|path| {
        let message = "… keeps the old secret, but there is none: send the secret";
        ApiError::invalid_parameter(format!("settings.{path}"), message)
    })?;
    Ok(settings)
}

fn no_such_application() -> ApiError {
    ApiError::new(ErrorCode::NoSuchApplication, "there is no application with this name")
}

/// Finds an application that is not defined in the configuration.
async fn find_editable(service: &Service, name: &str) -> Result<StoredApplication, ApiError> {
    if store::configured_names(service).contains(name) {
        let message = "this application is defined in the configuration file: change it there";
        return Err(ApiError::new(ErrorCode::DefinedInConfiguration, message));
    }
    store::read(service)
        .await?
        .into_iter()
        .find(|stored| stored.application.name == name)
        .ok_or_else(no_such_application)
}

/// Changes an application while no other request can.
async fn edit<T>(
    rest: &RestState,
    name: &str,
    change: impl FnOnce(&mut Application) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let _guard = rest.edit_lock.lock().await;
    let mut stored = find_editable(&rest.service, name).await?;
    let outcome = change(&mut stored.application)?;
    stored.updated_ms = rest.service.now();
    store::put(&rest.service, &stored).await?;
    Ok(outcome)
}

fn find_application(rest: &RestState, name: &str) -> Result<std::sync::Arc<Application>, ApiError> {
    rest.service.apps.by_name(name).ok_or_else(no_such_application)
}

fn application_view(rest: &RestState, name: &str) -> Result<ApplicationView, ApiError> {
    Ok(ApplicationView::new(&*find_application(rest, name)?, &store::configured_names(&rest.service)))
}

/// List all applications.
#[utoipa::path(get, path = "/v1/applications", tag = "applications", operation_id = "listApplications",
    responses((status = 200, description = "The applications.", body = ApplicationList)))]
pub(super) async fn list(State(rest): State<RestState>, _: Administrator) -> Response {
    let configured = store::configured_names(&rest.service);
    let mut applications: Vec<_> =
        rest.service.apps.all().iter().map(|app| ApplicationView::new(app, &configured)).collect();
    applications.sort_by(|a, b| a.name.cmp(&b.name));
    json_response(StatusCode::OK, &ApplicationList { applications })
}

/// Create an application, without keys and tokens.
#[utoipa::path(post, path = "/v1/applications", tag = "applications", operation_id = "createApplication",
    request_body = CreateApplicationRequest,
    responses(
        (status = 201, description = "The application was created.", body = ApplicationView,
            headers(("Location" = String, description = "Path of the application."))),
        (status = 409, description = "`already-exists`: another application has this name or another \
                                      unique value, or casts of a removed application with this name still \
                                      exist; `too-many-applications`.", body = super::error::ErrorResponse),
    ))]
pub(super) async fn create(
    State(rest): State<RestState>,
    _: Administrator,
    Json { value, .. }: Json<CreateApplicationRequest>,
) -> Result<Response, ApiError> {
    let _guard = rest.edit_lock.lock().await;
    let CreateApplicationRequest { name, settings } = value;
    let all = store::read(&rest.service).await?;
    let is_taken = all.iter().any(|stored| stored.application.name == name);
    if is_taken || store::configured_names(&rest.service).contains(&name) {
        return Err(ApiError::new(ErrorCode::AlreadyExists, "an application with this name already exists")
            .with_field("name"));
    }
    // Casts and undelivered callbacks refer to the application by name.
    if rest.service.fleet.count(Some(&name)).await?.iter().any(|(_, casts)| *casts > 0) {
        let message = "casts of a removed application with this name still exist: use another name, or \
                       wait until their history is deleted";
        return Err(ApiError::new(ErrorCode::AlreadyExists, message).with_field("name"));
    }
    if all.len() >= MAX_APPLICATIONS {
        return Err(ApiError::new(
            ErrorCode::TooManyApplications,
            "there are already 10000 applications, the most possible",
        ));
    }
    let now = rest.service.now();
    let application =
        Application { settings: restored(settings, Settings::default())?, ..Application::new(&name) };
    store::put(
        &rest.service,
        &StoredApplication { application, created_ms: now, updated_ms: now, version: 0 },
    )
    .await?;
    let mut response = json_response(StatusCode::CREATED, &application_view(&rest, &name)?);
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/applications/{name}")) {
        response.headers_mut().insert(axum::http::header::LOCATION, location);
    }
    response.extensions_mut().insert(Created { id: name.clone(), app: Some(name) });
    Ok(response)
}

/// Get an application.
#[utoipa::path(get, path = "/v1/applications/{name}", tag = "applications", operation_id = "getApplication",
    params(("name" = String, Path, description = "Name of the application.")),
    responses((status = 200, description = "The application.", body = ApplicationView),
        (status = 404, description = "`no-such-application`.", body = super::error::ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    Ok(json_response(StatusCode::OK, &application_view(&rest, &name)?))
}

/// Replace all settings of an application; keys and tokens stay.
///
/// A secret sent as `…` keeps its value.
#[utoipa::path(put, path = "/v1/applications/{name}", tag = "applications",
    operation_id = "replaceApplication",
    params(("name" = String, Path, description = "Name of the application.")),
    request_body = Settings,
    responses((status = 200, description = "The application after the change.", body = ApplicationView),
        (status = 404, description = "`no-such-application`.", body = super::error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`, \
                                      `already-exists`.", body = super::error::ErrorResponse)))]
pub(super) async fn replace(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
    Json { value, .. }: Json<Settings>,
) -> Result<Response, ApiError> {
    let changed = edit(&rest, &name, |app| {
        app.settings = restored(value, app.settings.clone())?;
        Ok(())
    });
    changed.await.map_err(|error| error.strip_field_prefix("settings"))?;
    Ok(json_response(StatusCode::OK, &application_view(&rest, &name)?))
}

/// Remove an application that has no running casts.
#[utoipa::path(delete, path = "/v1/applications/{name}", tag = "applications",
    operation_id = "removeApplication",
    params(("name" = String, Path, description = "Name of the application.")),
    responses((status = 204, description = "The application was removed."),
        (status = 404, description = "`no-such-application`.", body = super::error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`, \
                                      `has-casts`.", body = super::error::ErrorResponse)))]
pub(super) async fn remove(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let _guard = rest.edit_lock.lock().await;
    find_editable(&rest.service, &name).await?;
    let counts = rest.service.fleet.count(Some(&name)).await?;
    if counts.iter().any(|(state, casts)| *state != CastState::Ended && *casts > 0) {
        return Err(ApiError::new(
            ErrorCode::HasCasts,
            "this application has casts that run or are queued: stop them first",
        ));
    }
    // Callbacks about recordings that are still being uploaded would have no receiver.
    let filter = Filter {
        app: Some(name.clone()),
        states: vec![CastState::Ended],
        limit: MAX_CHECKED_CASTS,
        ..Filter::default()
    };
    if rest.service.fleet.list(&filter).await?.casts.iter().any(|cast| !cast.closed) {
        return Err(ApiError::new(
            ErrorCode::HasCasts,
            "recordings of this application are still being uploaded: try again later",
        ));
    }
    store::remove(&rest.service, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
