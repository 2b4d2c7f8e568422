//! The API of Volcengine's RTC webcast: `StartWebcast`, `StopWebcast`, `GetWebCastTask`.
//!
//! A call's signature is checked ([`signature`]), then how often its key asked; its parameters are read
//! ([`request`]), and a task becomes a cast or is found again. Everything is answered in the vendor's
//! envelope ([`answer`]). What happens to a task is told by [`callback`]. Where the vendor's documents are
//! silent, what is chosen is said where it is done.

pub mod callback;
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
use std::time::Duration;

use axum::http::{Method, header};
use axum::response::Response;
use pagecast_core::spec::Secret;
use pagecast_fleet::UnixMs;
use serde_json::{Map, Value};

use crate::app::Application;
use crate::auth_log::AuthFailure;
use crate::rate_limit::KeyedRateLimiter;
use crate::route::{ApiRequest, BodyError};
use crate::service::{Service, request_id};
use replay::SeenSignatures;
use response::{ApiError, ErrorCode, RequestMetadata, quote_truncated};
use signature::{VerifiedRequest, query_param};

/// What the vendor calls this.
const SERVICE: &str = "rtc";
/// What answers name when a call does not tell its region.
const DEFAULT_REGION: &str = "cn-north-1";
/// An answer is sent by then, whatever it says.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The version in which a task that runs already is a success in all documents.
const VERSION_2023: &str = "2023-11-01";
const VERSIONS: [&str; 2] = ["2020-12-01", VERSION_2023];

/// What can be asked for. The vendor's own pages differ in how they write the names, so their case does not
/// matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Start,
    Stop,
    Get,
}

impl Action {
    const ALL: [Self; 3] = [Self::Start, Self::Stop, Self::Get];

    /// Its name, and how often a second a key may ask for it.
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

/// Whether a request to `/` speaks this dialect.
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

/// Answers one whose body did not come, or not whole.
pub(crate) fn body_error_response(call: &ApiRequest, lost: BodyError) -> Response {
    let code = match lost {
        BodyError::TimedOut => ErrorCode::InternalServiceTimeout,
        BodyError::ReadFailed => ErrorCode::Unmarshal,
        BodyError::TooLarge(_) => ErrorCode::InvalidParameter,
    };
    response::respond(&request_metadata(call, DEFAULT_REGION), &Err(ApiError::new(code, lost.to_string())))
}

/// What answers say about this request.
fn request_metadata(call: &ApiRequest, region: &str) -> RequestMetadata {
    let query = signature::parse_query(&call.query);
    let named = |name| query.as_ref().ok().and_then(|query| query_param(query, name)).unwrap_or_default();
    RequestMetadata::new(request_id(), named("Action"), named("Version"), region)
}

/// What a key may ask for, it may ask for of the whole process.
static REQUEST_GATE: LazyLock<RequestGate> = LazyLock::new(RequestGate::default);

/// Answers a request that [`matches`] took.
pub async fn handle(service: &Service, call: ApiRequest) -> Response {
    REQUEST_GATE.handle(service, &call).await
}

/// Has this process remember which requests were answered, over restarts: by files in the data folder.
///
/// # Errors
/// The files cannot be read or written.
pub fn open_signature_log(data: &Path, now: UnixMs) -> io::Result<()> {
    *REQUEST_GATE.seen_signatures.lock().unwrap_or_else(PoisonError::into_inner) =
        SeenSignatures::open(data, now)?;
    Ok(())
}

/// What is remembered from call to call.
#[derive(Debug)]
struct RequestGate {
    /// In the order of [`Action::ALL`].
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
        let mut about = request_metadata(call, region);
        let result = match self.admit(service, call, &mut about) {
            Ok(asked) => match tokio::time::timeout(REQUEST_TIMEOUT, execute(service, call, &asked)).await {
                Ok(result) => result,
                Err(_) => Err(ApiError::new(
                    ErrorCode::InternalServiceTimeout,
                    "this takes too long: try again later",
                )),
            },
            Err(fault) => Err(fault),
        };
        let mut response = response::respond(&about, &result);
        if let Err(fault) = &result {
            tracing::debug!(request = about.request_id, action = about.action, code = ?fault.code, "refused");
            if fault.code.is_auth_failure() {
                let refused =
                    AuthFailure::new("volcengine", signature::claimed_key_id(call), fault.code.as_str());
                response.extensions_mut().insert(refused);
            }
        }
        response
    }

    /// Everything that is checked before anything is read or done.
    fn admit(
        &self,
        service: &Service,
        call: &ApiRequest,
        about: &mut RequestMetadata,
    ) -> Result<AdmittedRequest, ApiError> {
        for (name, given) in [("Action", &about.action), ("Version", &about.version)] {
            if given.is_empty() {
                return Err(ApiError::new(ErrorCode::MissingParameter, format!("the query lacks {name}")));
            }
        }
        let now = service.now();
        let regions = &service.config.volcengine.regions;
        let verified = signature::verify(call, now, regions, |id| key_secrets(service, id))?;
        reject_temporary_key(call, &verified)?;
        about.region.clear();
        about.region.extend(verified.region.chars().take(64));
        let (action, version) = parse_action(&verified)?;
        if call.method != action.method() {
            let message = format!(
                "{} is asked for with {}, not {}",
                action.name_and_rate().0,
                action.method(),
                call.method
            );
            return Err(ApiError::new(ErrorCode::MethodNotAllowed, message));
        }
        let (name, rate) = action.name_and_rate();
        if !self.rate_limits[action as usize].check(&verified.key_id) {
            let message = format!("{name} may be asked for {rate} times a second: try again later");
            return Err(ApiError::new(ErrorCode::QpsOverLimit, message));
        }
        let mut seen = self.seen_signatures.lock().unwrap_or_else(PoisonError::into_inner);
        if action != Action::Get && !seen.admit(verified.signature, now) {
            let message = "this very request was answered before: sign each one anew";
            return Err(ApiError::new(ErrorCode::InvalidTimestamp, message));
        }
        Ok(AdmittedRequest { action, version, verified })
    }
}

/// Refuses the token of a temporary key, as Tencent's API does: this service issues none, so nothing could
/// say whether the token is good, or until when. An empty one is none.
fn reject_temporary_key(call: &ApiRequest, verified: &VerifiedRequest) -> Result<(), ApiError> {
    let has_text = |token: Option<&str>| token.is_some_and(|token| !token.trim().is_empty());
    if !has_text(call.header("x-security-token"))
        && !has_text(query_param(&verified.query, "X-Security-Token"))
    {
        return Ok(());
    }
    let message = "there are no temporary keys here: use an access key of the application, and leave out X-Security-Token";
    Err(ApiError::new(ErrorCode::InvalidAccessKey, message))
}

/// A call that may be carried out.
#[derive(Debug)]
struct AdmittedRequest {
    action: Action,
    version: &'static str,
    verified: VerifiedRequest,
}

fn parse_action(verified: &VerifiedRequest) -> Result<(Action, &'static str), ApiError> {
    let given = |name| query_param(&verified.query, name).unwrap_or_default();
    let (action, version) = (given("Action"), given("Version"));
    match (Action::parse(action), VERSIONS.into_iter().find(|known| *known == version)) {
        (Some(action), Some(version)) => Ok((action, version)),
        _ => {
            let (action, version) = (quote_truncated(action), quote_truncated(version));
            let message = format!(
                "there is no action {action} of version {version}: StartWebcast, StopWebcast and GetWebCastTask are possible, of 2020-12-01 and 2023-11-01"
            );
            Err(ApiError::new(ErrorCode::InvalidActionOrVersion, message))
        }
    }
}

async fn execute(service: &Service, call: &ApiRequest, asked: &AdmittedRequest) -> Result<Value, ApiError> {
    let fields = match asked.action {
        Action::Get => request::query_fields(&asked.verified.query),
        Action::Start | Action::Stop => request::parse_body(&call.body)?,
    };
    let owner = |fields: &Map<String, Value>| -> Result<_, ApiError> {
        let task = request::TaskRef::parse(fields)?;
        Ok((find_application(service, &asked.verified, &task.app_id)?, task))
    };
    match asked.action {
        Action::Start => {
            let start = request::StartRequest::parse(&fields)?;
            let (app, _) = owner(&fields)?;
            let strict = service.config.volcengine.strict_repeat && asked.version != VERSION_2023;
            start::start(service, &app, &start, strict).await
        }
        Action::Stop => {
            let (app, task) = owner(&fields)?;
            task::stop(service, &app, &task).await
        }
        Action::Get => {
            let (app, task) = owner(&fields)?;
            task::get(service, &app, &task).await
        }
    }
}

/// The secrets of an access key. Applications that share a key have the same one, unless somebody made a
/// mistake.
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

/// The application of this `AppId`, if the key that signed is one of its own.
fn find_application(
    service: &Service,
    by: &VerifiedRequest,
    app_id: &str,
) -> Result<Arc<Application>, ApiError> {
    let named = |app: &Arc<Application>| app.app_id.as_deref() == Some(app_id);
    let may = |app: &Arc<Application>| {
        app.keys.iter().any(|key| key.id == by.key_id && !key.disabled && key.secret == by.secret)
    };
    let named: Vec<Arc<Application>> = service.apps.all().into_iter().filter(named).collect();
    let known = !named.is_empty();
    named.into_iter().find(may).ok_or_else(|| {
        let app_id = quote_truncated(app_id);
        if known {
            let message = format!("the application {app_id} is not one of this access key");
            ApiError::new(ErrorCode::AccountIdMismatch, message)
        } else {
            ApiError::new(ErrorCode::NotExistAppId, format!("there is no application {app_id}"))
        }
    })
}

/// Something that is not the caller's fault, who is told nothing about it.
fn internal_error(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> ApiError {
    let cause = error.source().map(tracing::field::display);
    tracing::warn!(doing, %error, cause, "a call failed");
    ApiError::internal()
}

#[cfg(test)]
mod tests;
