//! Tencent Cloud's web recording: `StartWebRecord`, `StopWebRecord` and `DescribeWebRecord` of TRTC, version
//! 2019-07-22.
//!
//! A request comes as JSON or as a form, by GET or by POST, signed by version 3 or 1 (`sign`); all of them
//! become the same parameters (`params`). Messages are in English, whatever `X-TC-Language` asks for: the
//! SDKs send `zh-CN` unless they are told otherwise, and those who run this service could not look such
//! messages up. Codes are what programs read.

pub(crate) mod callback;
mod params;
mod request;
mod response;
pub mod signature;
mod start;
mod storage;
mod task;

use std::sync::LazyLock;
use std::time::Duration;

use axum::response::Response;
use serde_json::{Map, Value};

use crate::Service;
use crate::auth_log::AuthFailure;
use crate::rate_limit::KeyedRateLimiter;
use crate::route::{ApiRequest, BodyError};
pub(crate) use request::matches;
use request::{Action, AuthenticatedRequest};
use response::ApiError;
pub use signature::sign_v3;

/// The version of the API.
const VERSION: &str = "2019-07-22";
/// Casts that come by this API.
pub(crate) const ORIGIN: &str = "tencent";
/// No request takes longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests a second, of each key and for each action.
const MAX_REQUESTS_PER_SECOND: u32 = 20;

/// Only keys that proved themselves are counted, so that nobody uses up another's share.
static RATE_LIMITS: LazyLock<KeyedRateLimiter> =
    LazyLock::new(|| KeyedRateLimiter::new(MAX_REQUESTS_PER_SECOND));

/// Answers a request of this dialect.
pub(crate) async fn handle(service: &Service, call: ApiRequest) -> Response {
    let result = tokio::time::timeout(REQUEST_TIMEOUT, execute(service, &call, &RATE_LIMITS)).await;
    let late = || Err(ApiError::new("InternalError", "this takes too long: try again later"));
    let result = result.unwrap_or_else(|_| late());
    let refused =
        result.as_ref().err().map(|fault| fault.code).filter(|code| code.starts_with("AuthFailure."));
    let mut response = response::respond(&call, result);
    if let Some(code) = refused {
        response.extensions_mut().insert(AuthFailure::new(ORIGIN, request::claimed_key_id(&call), code));
    }
    response
}

/// Answers one whose body did not come, or not whole.
pub(crate) fn body_error_response(call: &ApiRequest, lost: BodyError) -> Response {
    let code = match lost {
        BodyError::TimedOut | BodyError::ReadFailed => "InvalidRequest",
        BodyError::TooLarge(_) => "RequestSizeLimitExceeded",
    };
    response::respond(call, Err(ApiError::new(code, lost.to_string())))
}

async fn execute(
    service: &Service,
    call: &ApiRequest,
    limits: &KeyedRateLimiter,
) -> Result<Map<String, Value>, ApiError> {
    let asked = AuthenticatedRequest::authenticate(service, call)?;
    if !limits.check(&format!("{}/{}", asked.action.as_str(), asked.key_id)) {
        let words =
            format!("{} can be called {MAX_REQUESTS_PER_SECOND} times a second", asked.action.as_str());
        return Err(ApiError::new("RequestLimitExceeded", words));
    }
    let params = asked.params(call)?;
    match asked.action {
        Action::Start => start::start(service, &asked.apps, &params).await,
        Action::Stop => task::stop(service, &asked.apps, &params).await,
        Action::Describe => task::describe(service, &asked.apps, &params).await,
    }
}

/// The fleet fails: callers are told no details.
fn internal_error(error: pagecast_fleet::Error) -> ApiError {
    tracing::warn!(error = &error as &dyn std::error::Error, "a request could not be served");
    ApiError::new("InternalError", "an internal error occurred, try again later")
}

#[cfg(test)]
mod tests;
