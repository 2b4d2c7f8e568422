//! Applications, for the administrator. Those of the configuration file are shown and not changed.

use std::collections::HashSet;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use pagecast_fleet::{CastState, Filter};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::settings::ApplicationSettings;
use super::{Administrator, ApiError, Json, RestState, json_response};
use crate::app::store::{self, StoreError, StoredApplication};
use crate::app::{Application, ValidationError};
use crate::service::Service;

pub(super) mod keys;
pub(super) mod tokens;

/// Most applications that are kept.
const MAX_APPLICATIONS: usize = 10_000;
/// Casts that ended lately that are looked at before an application is removed.
const MAX_CHECKED_CASTS: usize = 1000;

/// An application that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateApplicationRequest {
    /// Its name.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$")]
    name: String,
    /// What is to be set.
    #[serde(default)]
    settings: ApplicationSettings,
}

/// An application.
#[derive(Serialize, ToSchema)]
#[schema(as = Application)]
pub(super) struct ApplicationView {
    /// Its name.
    name: String,
    /// Where it is defined: only those of the fleet can be changed here.
    defined_in: DefinedIn,
    /// What is set. Secrets are shown as `…`.
    settings: ApplicationSettings,
    /// Pairs that sign requests, without their secrets.
    keys: Vec<keys::KeyView>,
    /// Tokens for this API, by their names.
    tokens: Vec<tokens::TokenView>,
}

/// Where an application is defined.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = DefinedIn)]
enum DefinedIn {
    Configuration,
    Fleet,
}

/// All applications.
#[derive(Serialize, ToSchema)]
pub(super) struct ApplicationList {
    /// By their names.
    applications: Vec<ApplicationView>,
}

impl ApplicationView {
    fn new(app: &Application, fixed: &HashSet<String>) -> Self {
        let defined_in = if fixed.contains(&app.name) { DefinedIn::Configuration } else { DefinedIn::Fleet };
        Self {
            name: app.name.clone(),
            defined_in,
            settings: ApplicationSettings::from_application(app),
            keys: app.keys.iter().map(keys::KeyView::new).collect(),
            tokens: app.tokens.iter().map(tokens::TokenView::new).collect(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Invalid(ValidationError { field, reason: why, is_duplicate: taken }) => {
                // Settings stand below one name in a body; the rest has its own.
                let inner = !["name", "keys", "tokens"].iter().any(|own| field.starts_with(own));
                let field = if inner { format!("settings.{field}") } else { field };
                if taken {
                    Self::conflict("taken", why).with_field(field)
                } else {
                    Self::invalid_parameter(field, why)
                }
            }
            StoreError::Fleet(error) => error.into(),
            StoreError::Json(error) => {
                tracing::error!(%error, "an application cannot be written");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the application cannot be kept")
            }
        }
    }
}

fn no_such_application() -> ApiError {
    ApiError::not_found("no-such-application", "there is no application of this name")
}

/// An application that can be changed here.
async fn find_editable(service: &Service, name: &str) -> Result<StoredApplication, ApiError> {
    if store::configured_names(service).contains(name) {
        let words = "this application is defined in the configuration file: change it there";
        return Err(ApiError::conflict("defined-in-configuration", words));
    }
    store::read(service)
        .await?
        .into_iter()
        .find(|kept| kept.application.name == name)
        .ok_or_else(no_such_application)
}

/// Changes an application, alone.
async fn edit<T>(
    rest: &RestState,
    name: &str,
    with: impl FnOnce(&mut Application) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let _alone = rest.edit_lock.lock().await;
    let mut kept = find_editable(&rest.service, name).await?;
    let outcome = with(&mut kept.application)?;
    kept.updated_ms = rest.service.now();
    store::put(&rest.service, &kept).await?;
    Ok(outcome)
}

fn find_application(rest: &RestState, name: &str) -> Result<std::sync::Arc<Application>, ApiError> {
    rest.service.apps.by_name(name).ok_or_else(no_such_application)
}

fn application_view(rest: &RestState, name: &str) -> Result<ApplicationView, ApiError> {
    Ok(ApplicationView::new(&*find_application(rest, name)?, &store::configured_names(&rest.service)))
}

/// All applications.
#[utoipa::path(get, path = "/v1/applications", tag = "applications", operation_id = "listApplications",
    responses((status = 200, description = "They.", body = ApplicationList)))]
pub(super) async fn list(State(rest): State<RestState>, _: Administrator) -> Response {
    let fixed = store::configured_names(&rest.service);
    let mut applications: Vec<_> =
        rest.service.apps.all().iter().map(|app| ApplicationView::new(app, &fixed)).collect();
    applications.sort_by(|a, b| a.name.cmp(&b.name));
    json_response(StatusCode::OK, &ApplicationList { applications })
}

/// Adds an application. It has no keys and no tokens yet.
#[utoipa::path(post, path = "/v1/applications", tag = "applications", operation_id = "createApplication",
    request_body = CreateApplicationRequest,
    responses(
        (status = 201, description = "It is added.", body = ApplicationView,
            headers(("Location" = String, description = "Where it is."))),
        (status = 409, description = "`taken`: its name, or something else that is its own, is another one's, or casts of a removed application of this name are remembered.", body = super::error::ErrorResponse),
    ))]
pub(super) async fn create(
    State(rest): State<RestState>,
    _: Administrator,
    Json { value, .. }: Json<CreateApplicationRequest>,
) -> Result<Response, ApiError> {
    let _alone = rest.edit_lock.lock().await;
    let CreateApplicationRequest { name, settings } = value;
    let all = store::read(&rest.service).await?;
    let taken = all.iter().any(|kept| kept.application.name == name);
    if taken || store::configured_names(&rest.service).contains(&name) {
        return Err(ApiError::conflict("taken", "there is an application of this name").with_field("name"));
    }
    // Its casts, and what is still to be told of them, are found by its name.
    if rest.service.fleet.count(Some(&name)).await?.iter().any(|(_, casts)| *casts > 0) {
        let words = "an application of this name was removed, and its casts are still remembered: take another name, or wait until they are forgotten";
        return Err(ApiError::conflict("taken", words).with_field("name"));
    }
    if all.len() >= MAX_APPLICATIONS {
        return Err(ApiError::conflict("too-many-applications", "there are 10000 applications already"));
    }
    let now = rest.service.now();
    let application =
        settings.into_application(name.clone(), None).map_err(|problem| problem.prefix_field("settings"))?;
    store::put(&rest.service, &StoredApplication { application, created_ms: now, updated_ms: now }).await?;
    let mut response = json_response(StatusCode::CREATED, &application_view(&rest, &name)?);
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/applications/{name}")) {
        response.headers_mut().insert(axum::http::header::LOCATION, location);
    }
    Ok(response)
}

/// An application.
#[utoipa::path(get, path = "/v1/applications/{name}", tag = "applications", operation_id = "getApplication",
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 200, description = "It.", body = ApplicationView),
        (status = 404, description = "`no-such-application`.", body = super::error::ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    Ok(json_response(StatusCode::OK, &application_view(&rest, &name)?))
}

/// Replaces all settings of an application; its keys and tokens stay.
///
/// A secret that is sent as `…` stays as it was.
#[utoipa::path(put, path = "/v1/applications/{name}", tag = "applications", operation_id = "replaceApplication",
    params(("name" = String, Path, description = "Its name.")),
    request_body = ApplicationSettings,
    responses((status = 200, description = "As it is now.", body = ApplicationView),
        (status = 404, description = "`no-such-application`.", body = super::error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`, or `taken`.", body = super::error::ErrorResponse)))]
pub(super) async fn replace(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
    Json { value, .. }: Json<ApplicationSettings>,
) -> Result<Response, ApiError> {
    let changed = edit(&rest, &name, |app| {
        *app = value.into_application(app.name.clone(), Some(app))?;
        Ok(())
    });
    changed.await.map_err(|problem| problem.strip_field_prefix("settings"))?;
    Ok(json_response(StatusCode::OK, &application_view(&rest, &name)?))
}

/// Removes an application that has no cast running.
#[utoipa::path(delete, path = "/v1/applications/{name}", tag = "applications", operation_id = "removeApplication",
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 204, description = "It is gone."),
        (status = 404, description = "`no-such-application`.", body = super::error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`, or `has-casts`.", body = super::error::ErrorResponse)))]
pub(super) async fn remove(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let _alone = rest.edit_lock.lock().await;
    find_editable(&rest.service, &name).await?;
    let counts = rest.service.fleet.count(Some(&name)).await?;
    if counts.iter().any(|(state, casts)| *state != CastState::Ended && *casts > 0) {
        return Err(ApiError::conflict(
            "has-casts",
            "casts of this application run, or wait: stop them first",
        ));
    }
    // Nobody could be told of what is still being stored.
    let filter = Filter {
        app: Some(name.clone()),
        states: vec![CastState::Ended],
        limit: MAX_CHECKED_CASTS,
        ..Filter::default()
    };
    if rest.service.fleet.list(&filter).await?.casts.iter().any(|cast| !cast.closed) {
        return Err(ApiError::conflict("has-casts", "recordings of this application are still being stored"));
    }
    store::remove(&rest.service, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
