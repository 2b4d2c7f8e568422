//! API of Tencent Cloud's web recording: `StartWebRecord`, `StopWebRecord` and `DescribeWebRecord` of TRTC,
//! version 2019-07-22.
//!
//! A request comes as JSON or as a form, by GET or by POST, signed by version 3 or 1 ([`signature`]); all
//! become the same parameters (`params`). Messages are in English, whatever `X-TC-Language` asks for: SDKs
//! send `zh-CN` by default, and operators could not search for such messages. Programs read the codes.

pub(crate) mod callback;
mod description;
mod error_code;
mod explorer;
mod params;
mod request;
mod response;
pub mod signature;
mod start;
mod storage;
mod task;

use std::sync::LazyLock;

use axum::response::Response;
use serde_json::{Map, Value};

use crate::Service;
use crate::auth_log::AuthFailure;
use crate::internal_error::{FLEET_RETRY_AFTER_S, FLEET_TIME_LIMIT, InternalError};
use crate::rate_limit::KeyedRateLimiter;
use crate::route::{ApiFrontend, ApiRequest, BodyError, MAX_BODY_LEN};
use error_code::ErrorCode;
pub(crate) use explorer::EXPLORER;
use request::matches;
use request::{Action, AuthenticatedRequest};
use response::ApiError;
pub use signature::sign_v3;

/// Version of the API.
const VERSION: &str = "2019-07-22";
/// Name of this API in casts, metrics and logs.
pub(crate) const API: &str = "tencent";
/// This API at `/`.
pub(crate) const FRONTEND: ApiFrontend = ApiFrontend {
    api: API,
    actions: &["StartWebRecord", "StopWebRecord", "DescribeWebRecord"],
    matches,
    max_body_len: MAX_BODY_LEN,
    handle: |service, call| Box::pin(handle(service, call)),
    body_error_response,
};
/// Most requests of a key in a second, for each action: the vendor's limit.
const MAX_REQUESTS_PER_SECOND: u32 = 20;

/// Only requests with a valid signature count, so that nobody can use up another key's share.
static RATE_LIMITS: LazyLock<KeyedRateLimiter> =
    LazyLock::new(|| KeyedRateLimiter::new(MAX_REQUESTS_PER_SECOND));

/// Answers a request of this API.
pub(crate) async fn handle(service: &Service, call: ApiRequest) -> Response {
    let result = tokio::time::timeout(FLEET_TIME_LIMIT, execute(service, &call, &RATE_LIMITS)).await;
    // Requests wait for nothing but the fleet's database.
    let timed_out = |_| {
        let message =
            format!("the request took longer than {} s: try again later", FLEET_TIME_LIMIT.as_secs());
        let error = ApiError::new(ErrorCode::InternalError, message);
        Err(ApiError { retry_after_s: Some(FLEET_RETRY_AFTER_S), ..error })
    };
    let result = result.unwrap_or_else(timed_out);
    if let Some(internal) = result.as_ref().err().and_then(|error| error.internal.as_ref()) {
        internal.log(API, &call.id);
    }
    let auth_failure = result.as_ref().err().map(|error| error.code).filter(|code| code.is_auth_failure());
    let mut response = response::respond(&call, result);
    if let Some(code) = auth_failure {
        let failure = AuthFailure::new(API, request::claimed_key_id(&call), code.as_str());
        response.extensions_mut().insert(failure);
    }
    response
}

/// Answers a request whose body could not be read.
pub(crate) fn body_error_response(call: &ApiRequest, error: BodyError) -> Response {
    let code = match error {
        BodyError::TimedOut | BodyError::ReadFailed => ErrorCode::InvalidRequest,
        BodyError::TooLarge(_) => ErrorCode::RequestSizeLimitExceeded,
    };
    response::respond(call, Err(ApiError::new(code, error.to_string())))
}

async fn execute(
    service: &Service,
    call: &ApiRequest,
    limits: &KeyedRateLimiter,
) -> Result<Map<String, Value>, ApiError> {
    let request = AuthenticatedRequest::authenticate(service, call)?;
    if !limits.check(&format!("{}/{}", request.action.as_str(), request.key_id), service.api_nodes()) {
        let message = format!(
            "the limit of {} is {MAX_REQUESTS_PER_SECOND} requests a second: try again later",
            request.action.as_str()
        );
        return Err(ApiError::new(ErrorCode::RequestLimitExceeded, message));
    }
    let params = request.params(call)?;
    match request.action {
        Action::Start => start::start(service, &request.apps, &params).await,
        Action::Stop => task::stop(service, &request.apps, &params).await,
        Action::Describe => task::describe(service, &request.apps, &params).await,
    }
}

/// Error of the fleet, of which the caller sees no details.
fn internal_error(error: &pagecast_fleet::Error) -> ApiError {
    ApiError {
        internal: Some(InternalError::new("access the fleet", error)),
        retry_after_s: Some(FLEET_RETRY_AFTER_S),
        ..ApiError::new(ErrorCode::InternalError, "an internal error occurred, try again later")
    }
}

#[cfg(test)]
mod tests;
