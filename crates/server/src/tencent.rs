//! Tencent Cloud's web recording: `StartWebRecord`, `StopWebRecord` and `DescribeWebRecord` of TRTC, version
//! 2019-07-22.
//!
//! A request comes as JSON or as a form, by GET or by POST, signed by version 3 or 1 (`sign`); all of them
//! become the same parameters (`params`). Messages are in English, whatever `X-TC-Language` asks for: the
//! SDKs send `zh-CN` unless they are told otherwise, and those who run this service could not look such
//! messages up. Codes are what programs read.

mod answer;
pub(crate) mod callback;
mod params;
mod request;
pub mod sign;
mod start;
mod storage;
mod task;

use std::sync::LazyLock;
use std::time::Duration;

use axum::response::Response;
use serde_json::{Map, Value};

use crate::Service;
use crate::limit::Limits;
use crate::refused::RefusedAuth;
use crate::route::{Call, Lost};
use answer::Fault;
pub(crate) use request::claims;
use request::{Action, Asked};
pub use sign::sign_v3;

/// The version of the API.
const VERSION: &str = "2019-07-22";
/// Casts that come by this API.
pub(crate) const ORIGIN: &str = "tencent";
/// No request takes longer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Requests a second, of each key and for each action.
const PER_SECOND: u32 = 20;

/// Only keys that proved themselves are counted, so that nobody uses up another's share.
static LIMITS: LazyLock<Limits> = LazyLock::new(|| Limits::new(PER_SECOND));

/// Answers a request of this dialect.
pub(crate) async fn handle(service: &Service, call: Call) -> Response {
    let result = tokio::time::timeout(DEADLINE, act(service, &call, &LIMITS)).await;
    let late = || Err(Fault::new("InternalError", "this takes too long: try again later"));
    let result = result.unwrap_or_else(|_| late());
    let refused =
        result.as_ref().err().map(|fault| fault.code).filter(|code| code.starts_with("AuthFailure."));
    let mut response = answer::respond(&call, result);
    if let Some(code) = refused {
        response.extensions_mut().insert(RefusedAuth::new(ORIGIN, request::claimed_key(&call), code));
    }
    response
}

/// Answers one whose body did not come, or not whole.
pub(crate) fn refuse(call: &Call, lost: Lost) -> Response {
    let code = match lost {
        Lost::Late | Lost::Broken => "InvalidRequest",
        Lost::TooLong(_) => "RequestSizeLimitExceeded",
    };
    answer::respond(call, Err(Fault::new(code, lost.to_string())))
}

async fn act(service: &Service, call: &Call, limits: &Limits) -> Result<Map<String, Value>, Fault> {
    let asked = Asked::read(service, call)?;
    if !limits.check(&format!("{}/{}", asked.action.word(), asked.key_id)) {
        let words = format!("{} can be called {PER_SECOND} times a second", asked.action.word());
        return Err(Fault::new("RequestLimitExceeded", words));
    }
    let params = asked.params(call)?;
    match asked.action {
        Action::Start => start::start(service, &asked.apps, &params).await,
        Action::Stop => task::stop(service, &asked.apps, &params).await,
        Action::Describe => task::describe(service, &asked.apps, &params).await,
    }
}

/// The fleet fails: callers are told no details.
fn unavailable(error: pagecast_fleet::Error) -> Fault {
    tracing::warn!(error = &error as &dyn std::error::Error, "a request could not be served");
    Fault::new("InternalError", "an internal error occurred, try again later")
}

#[cfg(test)]
mod tests;
