//! What goes back: always status 200, always this content type to the letter, always a request id. The vendor's SDKs read the code of
//! an error from nothing else.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::route::ApiRequest;
use crate::service;

/// SDKs name their requests with it, and look for it in answers.
const TRACE_ID_HEADER: HeaderName = HeaderName::from_static("x-tc-traceid");
/// Longest trace id that is sent back, in bytes.
const MAX_TRACE_ID_LEN: usize = 128;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    /// The vendor's code.
    pub code: &'static str,
    /// For people, without secrets.
    pub message: String,
}

impl ApiError {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A compulsory field that is not there.
    pub(super) fn missing_parameter(code: &'static str, field: &str) -> Self {
        Self::new(code, format!("the request is missing the required parameter `{field}`"))
    }

    /// A field of the wrong type.
    pub(super) fn wrong_type(field: &str, wanted: &str) -> Self {
        Self::new("InvalidParameter", format!("the parameter `{field}` must be {wanted}"))
    }

    /// A number beyond its range.
    pub(super) fn out_of_range(field: &str, given: i64, range: &std::ops::RangeInclusive<i64>) -> Self {
        let (low, high) = (range.start(), range.end());
        Self::new(
            "InvalidParameter.OutOfRange",
            format!("the parameter `{field}` is {given}: {low} to {high} are possible"),
        )
    }

    /// The task is unknown, somebody else's, or over.
    pub(super) fn task_not_found() -> Self {
        Self::new("FailedOperation.TaskNotExist", "task not exist")
    }
}

/// The answer to `call`.
pub(super) fn respond(call: &ApiRequest, result: Result<Map<String, Value>, ApiError>) -> Response {
    let mut inner = result.unwrap_or_else(|ApiError { code, message }| {
        let error = json!({ "Code": code, "Message": message });
        Map::from_iter([("Error".to_owned(), error)])
    });
    inner.insert("RequestId".to_owned(), service::request_id().into());
    let mut response = Response::new(Body::from(json!({ "Response": inner }).to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(trace) = call.headers.get(TRACE_ID_HEADER).filter(|trace| trace.len() <= MAX_TRACE_ID_LEN) {
        headers.insert(TRACE_ID_HEADER, trace.clone());
    }
    response
}
