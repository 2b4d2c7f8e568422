//! Answers in Tencent's envelope. The status is always 200, the content type always exactly
//! `application/json`, and there is always a request id: the vendor's SDKs read errors from nothing but the
//! code.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::error_code::ErrorCode;
use crate::internal_error::InternalError;
use crate::route::ApiRequest;

/// Header with the trace id of an SDK, which the answer repeats.
const TRACE_ID_HEADER: HeaderName = HeaderName::from_static("x-tc-traceid");
/// Longest trace id that is repeated, in bytes: SDKs send UUIDs.
const MAX_TRACE_ID_LEN: usize = 128;

/// Error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    /// Code, for programs.
    pub code: ErrorCode,
    /// Sentence for people, without secrets.
    pub message: String,
    /// Cause for the log, which the caller does not see.
    pub internal: Option<InternalError>,
    /// Value of the header `Retry-After`, if it is sent, in seconds.
    pub retry_after_s: Option<u64>,
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), internal: None, retry_after_s: None }
    }

    /// A required parameter is missing.
    pub(super) fn missing_parameter(code: ErrorCode, field: &str) -> Self {
        Self::new(code, format!("the request is missing the required parameter `{field}`"))
    }

    /// A parameter has the wrong type.
    pub(super) fn wrong_type(field: &str, expected: &str) -> Self {
        Self::new(ErrorCode::InvalidParameter, format!("the parameter `{field}` must be {expected}"))
    }

    /// A number is outside its range.
    pub(super) fn out_of_range(field: &str, value: i64, range: &std::ops::RangeInclusive<i64>) -> Self {
        let (low, high) = (range.start(), range.end());
        Self::new(
            ErrorCode::OutOfRange,
            format!("the parameter `{field}` is {value}: it must be {low} to {high}"),
        )
    }

    /// The task is unknown, belongs to another application, or has ended.
    pub(super) fn task_not_found() -> Self {
        Self::new(ErrorCode::TaskNotExist, "task not exist")
    }
}

/// Builds the answer to `call`.
pub(super) fn respond(call: &ApiRequest, result: Result<Map<String, Value>, ApiError>) -> Response {
    let retry_after_s = result.as_ref().err().and_then(|error| error.retry_after_s);
    let mut inner = result.unwrap_or_else(|ApiError { code, message, .. }| {
        let error = json!({ "Code": code.as_str(), "Message": message });
        Map::from_iter([("Error".to_owned(), error)])
    });
    inner.insert("RequestId".to_owned(), call.id.as_str().into());
    let mut response = Response::new(Body::from(json!({ "Response": inner }).to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(trace) = call.headers.get(TRACE_ID_HEADER).filter(|trace| trace.len() <= MAX_TRACE_ID_LEN) {
        headers.insert(TRACE_ID_HEADER, trace.clone());
    }
    if let Some(seconds) = retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
