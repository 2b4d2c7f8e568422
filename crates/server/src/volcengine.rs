//! API of Volcengine's RTC webcast: `StartWebcast`, `StopWebcast`, `GetWebCastTask`.
//!
//! [`signature`] verifies a call, the rate limit of its key is checked, [`request`] parses its parameters,
//! and a task becomes a cast or is found again. [`response`] wraps every answer in the vendor's envelope.
//! [`callback`] reports events of a task. Where the vendor's documents are silent, the choice is explained
//! beside the code.

pub mod callback;
mod explorer;
mod replay;
pub mod request;
pub mod response;
pub mod signature;
mod start;
mod task;
pub mod token;

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::http::{Method, header};
use axum::response::Response;
use pagecast_core::spec::Secret;
use pagecast_fleet::{AnsweredRequests, UnixMs};
use serde_json::{Map, Value};

use crate::app::Application;
use crate::auth_log::AuthFailure;
use crate::internal_error::{FLEET_TIME_LIMIT, InternalError};
use crate::rate_limit::KeyedRateLimiter;
use crate::route::{ApiFrontend, ApiRequest, BodyError};
use crate::service::{Clock, Service};
pub(crate) use explorer::EXPLORER;
use replay::{Admission, SeenSignatures, sharing};
use response::{ApiError, ErrorCode, RequestMetadata, quote_truncated};
use signature::{QueryParam, VerifiedRequest, query_param};

/// Name of this API in casts, metrics and logs.
pub(crate) const API: &str = "volcengine";
/// This API at `/`.
pub(crate) const FRONTEND: ApiFrontend = ApiFrontend {
    api: API,
    actions: &["StartWebcast", "StopWebcast", "GetWebCastTask"],
    matches,
    max_body_len: signature::MAX_BODY_LEN,
    handle: |service, call| Box::pin(handle(service, call)),
    body_error_response,
};
/// Name of the service in credentials and answers.
const SERVICE: &str = "rtc";
/// Region in answers to a call without a valid one.
const DEFAULT_REGION: &str = "cn-north-1";
/// First version whose documents all say that starting a running task is a success.
const VERSION_2023: &str = "2023-11-01";
/// All versions that are served.
const VERSIONS: [&str; 2] = [CALL_VERSION, VERSION_2023];
/// Version that our own calls name.
const CALL_VERSION: &str = "2020-12-01";

/// Action of a call. The vendor's own pages disagree about the case of the names, so case does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Start,
    Stop,
    Get,
}

impl Action {
    const ALL: [Self; 3] = [Self::Start, Self::Stop, Self::Get];

    /// Name, and most calls of a key in a second.
    fn name_and_rate(self) -> (&'static str, u32) {
        match self {
            Self::Start => ("StartWebcast", 150),
            Self::Stop => ("StopWebcast", 150),
            Self::Get => ("GetWebCastTask", 60),
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Start | Self::Stop => Method::POST,
            Self::Get => Method::GET,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name_and_rate().0.eq_ignore_ascii_case(name))
    }
}

/// Whether a request to `/` is meant for this API.
#[must_use]
pub fn matches(call: &ApiRequest) -> bool {
    let authorization = call.header(header::AUTHORIZATION.as_str()).unwrap_or_default();
    if authorization.starts_with("HMAC-SHA256") {
        return true;
    }
    let query = signature::parse_query(&call.query).unwrap_or_default();
    let theirs = authorization.starts_with("TC3-")
        || call.headers.keys().any(|name| name.as_str().starts_with("x-tc-"))
        || query_param(&query, "SecretId").is_some()
        || query_param(&query, "Version") == Some("2019-07-22");
    let ours = call.headers.contains_key("x-date")
        || ["X-Credential", "X-Algorithm"].iter().any(|name| query_param(&query, name).is_some())
        || query_param(&query, "Action").is_some_and(|name| Action::parse(name).is_some())
        || query_param(&query, "Version").is_some_and(|version| VERSIONS.contains(&version));
    ours && !theirs
}

/// Answers a request whose body could not be read.
pub(crate) fn body_error_response(call: &ApiRequest, error: BodyError) -> Response {
    let code = match error {
        BodyError::TimedOut => ErrorCode::InternalServiceTimeout,
        BodyError::ReadFailed => ErrorCode::Unmarshal,
        BodyError::TooLarge(_) => ErrorCode::InvalidParameter,
    };
    response::respond(&request_metadata(call, DEFAULT_REGION), &Err(ApiError::new(code, error.to_string())))
}

/// The parts of the envelope that repeat the request.
fn request_metadata(call: &ApiRequest, region: &str) -> RequestMetadata {
    let query = signature::parse_query(&call.query);
    let param = |name| query.as_ref().ok().and_then(|query| query_param(query, name)).unwrap_or_default();
    RequestMetadata::new(&call.id, param("Action"), param("Version"), region)
}

/// Rate limits and replay protection hold for the process, whatever router a call comes through.
static REQUEST_GATE: LazyLock<RequestGate> = LazyLock::new(RequestGate::default);

/// Answers a request for which [`matches()`] is true.
pub async fn handle(service: &Service, call: ApiRequest) -> Response {
    REQUEST_GATE.handle(service, &call).await
}

/// Keeps the signatures of accepted requests in files below `data`, so that replay protection survives a
/// restart. A node of a fleet also shares them ([`share_signatures`]).
///
/// If the files cannot be read or written.
pub fn open_signature_log(data: &Path, now: UnixMs, is_shared: bool) -> io::Result<()> {
    let mut seen = SeenSignatures::open(data, now)?;
    if is_shared {
        seen.share(now);
    }
    *REQUEST_GATE.seen_signatures.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    Ok(())
}

/// Learns which requests the other nodes of the fleet have answered; until then, requests that change
/// something are refused. Starts a task that goes on with it, and tells them what this node has answered.
pub async fn share_signatures(table: Arc<dyn AnsweredRequests>, clock: Clock) {
    let mut sharing = sharing::Sharing::new(&REQUEST_GATE.seen_signatures, table, clock);
    sharing.exchange_or_log().await;
    tokio::spawn(sharing.run());
}

/// State that outlives a call.
#[derive(Debug)]
struct RequestGate {
    /// One limiter for each action, in the order of [`Action::ALL`].
    rate_limits: [KeyedRateLimiter; 3],
    seen_signatures: Mutex<SeenSignatures>,
}

impl Default for RequestGate {
    fn default() -> Self {
        Self {
            rate_limits: Action::ALL.map(|action| KeyedRateLimiter::new(action.name_and_rate().1)),
            seen_signatures: Mutex::default(),
        }
    }
}

impl RequestGate {
    async fn handle(&self, service: &Service, call: &ApiRequest) -> Response {
        let region = service.config.volcengine.regions.first().map_or(DEFAULT_REGION, String::as_str);
        let mut metadata = request_metadata(call, region);
        let result = match self.admit(service, call, &mut metadata) {
            Ok(admitted) => {
                match tokio::time::timeout(FLEET_TIME_LIMIT, execute(service, call, &admitted)).await {
                    Ok(result) => result,
                    // Requests wait for nothing but the fleet's database.
                    Err(_) => Err(ApiError::unavailable(None)),
                }
            }
            Err(error) => Err(error),
        };
        let mut response = response::respond(&metadata, &result);
        if let Err(error) = &result {
            if let Some(internal) = &error.internal {
                internal.log(API, &call.id);
            }
            if error.code.is_auth_failure() {
                let key_id = signature::claimed_key_id(call);
                response.extensions_mut().insert(AuthFailure::new(API, key_id, error.code.as_str()));
            }
        }
        response
    }

    /// Verifies signature, action, rate and replay, before any parameter is read.
    fn admit(
        &self,
        service: &Service,
        call: &ApiRequest,
        metadata: &mut RequestMetadata,
    ) -> Result<AdmittedRequest, ApiError> {
        for (name, given) in [("Action", &metadata.action), ("Version", &metadata.version)] {
            if given.is_empty() {
                return Err(ApiError::new(ErrorCode::MissingParameter, format!("the query lacks {name}")));
            }
        }
        let now = service.now();
        let regions = &service.config.volcengine.regions;
        let verified = signature::verify(call, now, regions, |id| key_secrets(service, id))?;
        reject_temporary_key(call, &verified.query)?;
        metadata.region.clear();
        metadata.region.extend(verified.region.chars().take(64));
        let (action, version) = parse_action(&verified.query)?;
        check_method(action, call)?;
        let (name, rate) = action.name_and_rate();
        if !self.rate_limits[action as usize].check(&verified.key_id, service.api_nodes()) {
            let message = format!(
                "this access key has sent more than {rate} {name} requests in a second: try again later"
            );
            return Err(ApiError::new(ErrorCode::QpsOverLimit, message));
        }
        let mut seen = self.seen_signatures.lock().unwrap_or_else(PoisonError::into_inner);
        // A GET changes nothing.
        let admission = match action {
            Action::Get => Admission::Admitted,
            Action::Start | Action::Stop => seen.admit(verified.signature, now),
        };
        match admission {
            Admission::Admitted => Ok(AdmittedRequest { action, version, verified }),
            Admission::Unknown => Err(ApiError::unavailable(None)),
            Admission::Replayed => {
                let message = "a request with this signature was answered before: sign each request anew";
                Err(ApiError::new(ErrorCode::InvalidTimestamp, message))
            }
        }
    }
}

/// Refuses security tokens of temporary keys, as Tencent's API does. This service issues none, so it cannot
/// check one. An empty token counts as absent.
fn reject_temporary_key(call: &ApiRequest, query: &[QueryParam]) -> Result<(), ApiError> {
    let has_text = |token: Option<&str>| token.is_some_and(|token| !token.trim().is_empty());
    if !has_text(call.header("x-security-token")) && !has_text(query_param(query, "X-Security-Token")) {
        return Ok(());
    }
    let message = "temporary keys are not supported: use an access key of the application, and leave out \
                   X-Security-Token";
    Err(ApiError::new(ErrorCode::InvalidAccessKey, message))
}

/// A call that passed all checks of [`RequestGate::admit`].
#[derive(Debug)]
struct AdmittedRequest {
    action: Action,
    version: &'static str,
    verified: VerifiedRequest,
}

fn check_method(action: Action, call: &ApiRequest) -> Result<(), ApiError> {
    if call.method == action.method() {
        return Ok(());
    }
    let (name, method) = (action.name_and_rate().0, action.method());
    let message = format!("{name} must be sent with {method}, not {}", call.method);
    Err(ApiError::new(ErrorCode::MethodNotAllowed, message))
}

fn parse_action(query: &[QueryParam]) -> Result<(Action, &'static str), ApiError> {
    let given = |name| query_param(query, name).unwrap_or_default();
    let (action, version) = (given("Action"), given("Version"));
    match (Action::parse(action), VERSIONS.into_iter().find(|known| *known == version)) {
        (Some(action), Some(version)) => Ok((action, version)),
        _ => {
            let (action, version) = (quote_truncated(action), quote_truncated(version));
            let message = format!(
                "there is no action {action} of version {version}: use StartWebcast, StopWebcast or \
                 GetWebCastTask of version 2020-12-01 or 2023-11-01"
            );
            Err(ApiError::new(ErrorCode::InvalidActionOrVersion, message))
        }
    }
}

async fn execute(
    service: &Service,
    call: &ApiRequest,
    admitted: &AdmittedRequest,
) -> Result<Value, ApiError> {
    let fields = match admitted.action {
        Action::Get => request::query_fields(&admitted.verified.query),
        Action::Start | Action::Stop => request::parse_body(&call.body)?,
    };
    let resolve = |fields: &Map<String, Value>| -> Result<_, ApiError> {
        let task = request::TaskRef::parse(fields)?;
        Ok((find_application(service, &admitted.verified, &task.app_id)?, task))
    };
    match admitted.action {
        Action::Start => {
            let start = request::StartRequest::parse(&fields)?;
            let (app, _) = resolve(&fields)?;
            let strict = service.config.volcengine.reject_running_task && admitted.version != VERSION_2023;
            start::start(service, &app, &start, strict).await
        }
        Action::Stop => {
            let (app, task) = resolve(&fields)?;
            task::stop(service, &app, &task).await
        }
        Action::Get => {
            let (app, task) = resolve(&fields)?;
            task::get(service, &app, &task).await
        }
    }
}

/// Secrets of an access key that is not disabled. Applications that share a key id normally have the same
/// secret.
fn key_secrets(service: &Service, id: &str) -> Vec<Secret> {
    let mut secrets: Vec<Secret> = Vec::new();
    for app in service.apps.by_key(id) {
        for key in app.keys.iter().filter(|key| key.id == id && !key.disabled) {
            if !secrets.contains(&key.secret) {
                secrets.push(key.secret.clone());
            }
        }
    }
    secrets
}

/// The application with this `AppId`, if it has the key that signed the call.
fn find_application(
    service: &Service,
    verified: &VerifiedRequest,
    app_id: &str,
) -> Result<Arc<Application>, ApiError> {
    let param = |app: &Arc<Application>| app.settings.app_id.as_deref() == Some(app_id);
    let has_key = |app: &Arc<Application>| {
        app.keys.iter().any(|key| key.id == verified.key_id && !key.disabled && key.secret == verified.secret)
    };
    let param: Vec<Arc<Application>> = service.apps.all().into_iter().filter(param).collect();
    let known = !param.is_empty();
    param.into_iter().find(has_key).ok_or_else(|| {
        let app_id = quote_truncated(app_id);
        if known {
            let message = format!("this access key does not belong to the application {app_id}");
            ApiError::new(ErrorCode::AccountIdMismatch, message)
        } else {
            ApiError::new(ErrorCode::NotExistAppId, format!("there is no application {app_id}"))
        }
    })
}

/// Error of the fleet, of which the caller sees no details.
fn fleet_error(operation: &'static str, error: &pagecast_fleet::Error) -> ApiError {
    use pagecast_fleet::Error;
    match error {
        Error::Storage { .. } | Error::Unavailable => {
            ApiError::unavailable(Some(InternalError::new(operation, error)))
        }
        error => internal_error(operation, error),
    }
}

/// A response without details; the error goes to the log.
fn internal_error(operation: &'static str, error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::internal(InternalError::new(operation, error))
}

#[cfg(test)]
mod tests;
