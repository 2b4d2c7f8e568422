//! Answers in Volcengine's envelope, and its error codes.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::SERVICE;
use crate::internal_error::{FLEET_RETRY_AFTER_S, InternalError};
use crate::request_id::RequestId;

/// Longest part of a request's value that an answer repeats, in characters.
const MAX_ECHO_CHARS: usize = 64;

/// Error code of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the vendor's codes, listed in `ErrorCode::details`")]
pub enum ErrorCode {
    MissingParameter,
    MissingAuthenticationToken,
    MissingRequestInfo,
    MissingSignature,
    InvalidTimestamp,
    ServiceNotFound,
    InvalidActionOrVersion,
    InvalidAccessKey,
    SignatureDoesNotMatch,
    InternalError,
    InternalServiceTimeout,
    MethodNotAllowed,
    InvalidParameter,
    BodyIsEmpty,
    Unmarshal,
    NotExistAppId,
    IllegalAppId,
    IllegalRoomId,
    AccountIdMismatch,
    TaskAlreadyExists,
    ErrorActiveTaskNotFound,
    TaskNumberOverLimit,
    QpsOverLimit,
    ServiceUnavailable,
}

impl ErrorCode {
    /// The vendor's code, its number if the vendor documents one, and the HTTP status.
    fn details(self) -> (&'static str, Option<u32>, StatusCode) {
        use StatusCode as S;
        match self {
            Self::MissingParameter => ("MissingParameter", Some(100_002), S::BAD_REQUEST),
            Self::MissingAuthenticationToken => {
                ("MissingAuthenticationToken", Some(100_003), S::UNAUTHORIZED)
            }
            Self::MissingRequestInfo => ("MissingRequestInfo", Some(100_004), S::BAD_REQUEST),
            Self::MissingSignature => ("MissingSignature", Some(100_005), S::UNAUTHORIZED),
            Self::InvalidTimestamp => ("InvalidTimestamp", Some(100_006), S::FORBIDDEN),
            Self::ServiceNotFound => ("ServiceNotFound", Some(100_007), S::NOT_FOUND),
            Self::InvalidActionOrVersion => ("InvalidActionOrVersion", Some(100_008), S::NOT_FOUND),
            Self::InvalidAccessKey => ("InvalidAccessKey", Some(100_009), S::UNAUTHORIZED),
            Self::SignatureDoesNotMatch => ("SignatureDoesNotMatch", Some(100_010), S::UNAUTHORIZED),
            Self::InternalError => ("InternalError", None, S::INTERNAL_SERVER_ERROR),
            Self::InternalServiceTimeout => ("InternalServiceTimeout", None, S::GATEWAY_TIMEOUT),
            Self::MethodNotAllowed => ("MethodNotAllowed", None, S::METHOD_NOT_ALLOWED),
            Self::InvalidParameter => ("InvalidParameter", None, S::BAD_REQUEST),
            Self::BodyIsEmpty => ("InvalidParameter.BodyIsEmpty", None, S::BAD_REQUEST),
            Self::Unmarshal => ("InvalidParameter.Unmarshal", None, S::BAD_REQUEST),
            Self::NotExistAppId => ("InvalidParameter.NotExistAppId", None, S::BAD_REQUEST),
            Self::IllegalAppId => ("InvalidParameter.IllegalAppId", None, S::BAD_REQUEST),
            Self::IllegalRoomId => ("InvalidParameter.IllegalRoomID", None, S::BAD_REQUEST),
            Self::AccountIdMismatch => ("InvalidParameter.AccountIdMismatch", None, S::BAD_REQUEST),
            Self::TaskAlreadyExists => ("InvalidParameter.TaskAlreadyExists", None, S::BAD_REQUEST),
            Self::ErrorActiveTaskNotFound => {
                ("InvalidParameter.ErrorActiveTaskNotFound", None, S::BAD_REQUEST)
            }
            Self::TaskNumberOverLimit => {
                ("FlowLimitExceeded.TaskNumberOverLimit", None, S::TOO_MANY_REQUESTS)
            }
            Self::QpsOverLimit => ("FlowLimitExceeded.QPSOverLimit", None, S::TOO_MANY_REQUESTS),
            Self::ServiceUnavailable => ("ServiceUnavailableTemp", None, S::SERVICE_UNAVAILABLE),
        }
    }
}

impl ErrorCode {
    /// The vendor's code.
    pub(super) fn as_str(self) -> &'static str {
        self.details().0
    }

    /// Whether the code means that authentication failed.
    pub(super) fn is_auth_failure(self) -> bool {
        matches!(
            self,
            Self::MissingAuthenticationToken
                | Self::MissingRequestInfo
                | Self::MissingSignature
                | Self::InvalidTimestamp
                | Self::InvalidAccessKey
                | Self::SignatureDoesNotMatch
        )
    }
}

/// Error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Code, for programs.
    pub code: ErrorCode,
    /// Sentence for people: what is wrong, and what to do.
    pub message: String,
    /// Cause for the log, which the caller does not see.
    pub(crate) internal: Option<InternalError>,
    /// Value of the header `Retry-After`, if it is sent, in seconds.
    pub(crate) retry_after_s: Option<u64>,
}

impl ApiError {
    /// An error without an internal cause.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), internal: None, retry_after_s: None }
    }

    /// A failure that the caller can do nothing about; the cause only goes to the log.
    #[must_use]
    pub(super) fn internal(cause: InternalError) -> Self {
        let message = "the service cannot do this at the moment: try again later";
        Self { internal: Some(cause), ..Self::new(ErrorCode::InternalError, message) }
    }

    /// The fleet's database is away: the caller may try again.
    #[must_use]
    pub(super) fn unavailable(cause: Option<InternalError>) -> Self {
        let message = "the service is not available at the moment: try again later";
        Self {
            internal: cause,
            retry_after_s: Some(FLEET_RETRY_AFTER_S),
            ..Self::new(ErrorCode::ServiceUnavailable, message)
        }
    }
}

/// The parts of the envelope that repeat the request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RequestMetadata {
    pub(super) request_id: String,
    pub(super) action: String,
    pub(super) version: String,
    pub(super) service: &'static str,
    pub(super) region: String,
}

impl RequestMetadata {
    pub(super) fn new(id: &RequestId, action: &str, version: &str, region: &str) -> Self {
        let truncate = |text: &str| text.chars().take(MAX_ECHO_CHARS).collect();
        Self {
            request_id: id.to_string(),
            action: truncate(action),
            version: truncate(version),
            service: SERVICE,
            region: region.to_owned(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope<'a> {
    response_metadata: ResponseMetadata<'a>,
    // The Go SDK would not read the error beside an empty object.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ResponseMetadata<'a> {
    #[serde(flatten)]
    request: &'a RequestMetadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorBody<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code_n: Option<u32>,
}

/// Builds the answer.
pub(super) fn respond(metadata: &RequestMetadata, result: &Result<Value, ApiError>) -> Response {
    let result_error = result.as_ref().err();
    let (status, result, error) = match result {
        Ok(value) => (StatusCode::OK, Some(value), None),
        Err(ApiError { code, message, .. }) => {
            let (code, code_n, status) = code.details();
            (status, None, Some(ErrorBody { code, message, code_n }))
        }
    };
    let retry_after_s = result_error.and_then(|error| error.retry_after_s);
    let envelope = Envelope { response_metadata: ResponseMetadata { request: metadata, error }, result };
    let mut response = Response::new(Body::from(serde_json::to_vec(&envelope).unwrap_or_default()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Ok(id) = HeaderValue::from_str(&metadata.request_id) {
        headers.insert("x-tt-logid", id);
    }
    if let Some(seconds) = retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Quotes a value of the request, cut to [`MAX_ECHO_CHARS`].
pub(super) fn quote_truncated(text: &str) -> String {
    let truncate: String = text.chars().take(MAX_ECHO_CHARS).collect();
    format!("{truncate:?}{}", if truncate.len() < text.len() { "…" } else { "" })
}
