//! Error answers of the REST API.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::API;
use super::applications::tokens;
pub(super) use super::error_code::ErrorCode;
use crate::app::ValidationError;
use crate::auth_log::AuthFailure;
use crate::internal_error::{FLEET_RETRY_AFTER_S, InternalError};
use crate::request_id::RequestId;

/// Longest message, in characters: messages of parsers repeat values of the request.
const MAX_MESSAGE_LEN: usize = 400;
/// Longest path of a field, in characters: names of fields come from the request.
const MAX_FIELD_LEN: usize = 200;

/// Error answer.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    code: ErrorCode,
    /// Message for the client.
    message: String,
    field: Option<String>,
    retry_after_s: Option<u64>,
    /// Cause for the log, which the client does not see.
    internal: Option<InternalError>,
}

/// Body of every error response.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorResponse {
    /// The error.
    error: ErrorDetail,
    /// Id of the request: the same as in the header `X-Request-Id` and in the log of the service.
    request_id: String,
}

/// What is wrong with a request, or with the service.
#[derive(Serialize, ToSchema)]
struct ErrorDetail {
    /// Stable code for programs, like `invalid-parameter`.
    #[schema(example = "invalid-parameter")]
    code: &'static str,
    /// Explanation in English.
    message: String,
    /// Field, parameter or header that the error is about, like `room.layers[0].width`.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let message = message.chars().take(MAX_MESSAGE_LEN).collect();
        Self { code, message, field: None, retry_after_s: None, internal: None }
    }

    /// The code, as clients read it.
    #[cfg(test)]
    pub(super) fn code(&self) -> ErrorCode {
        self.code
    }

    /// An invalid value, and the field that has it.
    pub(super) fn invalid_parameter(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidParameter, message).with_field(field)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    /// An error that passes: the client may try again after so many seconds.
    pub(super) fn retry_later(code: ErrorCode, message: impl Into<String>, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..Self::new(code, message) }
    }

    /// A failure of the service: `cause` goes to the log, `message` to the client.
    pub(super) fn internal(cause: InternalError, message: impl Into<String>) -> Self {
        Self { internal: Some(cause), ..Self::new(ErrorCode::Internal, message) }
    }

    pub(super) fn with_field(mut self, field: impl Into<String>) -> Self {
        let field: String = field.into();
        self.field = Some(field.chars().take(MAX_FIELD_LEN).collect());
        self
    }

    /// Removes `parent` from the beginning of the field.
    pub(super) fn strip_field_prefix(mut self, parent: &str) -> Self {
        let strip = |field: String| {
            field.strip_prefix(parent).and_then(|f| f.strip_prefix('.')).map(str::to_owned).unwrap_or(field)
        };
        self.field = self.field.map(strip);
        self
    }

    /// Replaces an error response of the framework.
    fn from_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::PAYLOAD_TOO_LARGE => (ErrorCode::TooLarge, "the body is larger than 8 MiB"),
            StatusCode::METHOD_NOT_ALLOWED => (
                ErrorCode::MethodNotAllowed,
                "this address does not accept the method: the header Allow lists the accepted ones",
            ),
            StatusCode::NOT_FOUND => {
                (ErrorCode::NotFound, "there is no such address: /v1 lists the addresses of this API")
            }
            status if status.is_client_error() => {
                (ErrorCode::BadRequest, "the request is malformed: check its path and query")
            }
            _ => (ErrorCode::Internal, "the service failed: its log has the cause under this request id"),
        };
        Self::new(code, message)
    }

    fn render(self, request_id: &RequestId) -> Response {
        let status = self.code.status();
        let body = ErrorResponse {
            error: ErrorDetail { code: self.code.as_str(), message: self.message, field: self.field },
            request_id: request_id.to_string(),
        };
        let mut response = json_response(status, &body);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="pagecast""#));
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// Attaches the error to the answer; [`render_errors`] renders it with the id of the request.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ValidationError> for ApiError {
    fn from(error: ValidationError) -> Self {
        let code = if error.is_duplicate { ErrorCode::AlreadyExists } else { ErrorCode::InvalidParameter };
        Self::new(code, error.reason).with_field(error.field)
    }
}

impl From<pagecast_fleet::Error> for ApiError {
    fn from(error: pagecast_fleet::Error) -> Self {
        use pagecast_fleet::Error;
        let message = error.to_string();
        match error {
            Error::CastNotFound(_) => Self::new(ErrorCode::NoSuchCast, message),
            Error::CastEnded(_) => Self::new(ErrorCode::CastEnded, message),
            Error::TooManyCommands(_) => {
                Self::retry_later(ErrorCode::TooManyCommands, message, FLEET_RETRY_AFTER_S)
            }
            error => Self {
                internal: Some(InternalError::new("access the fleet", &error)),
                ..Self::retry_later(
                    ErrorCode::Unavailable,
                    "the fleet database is unavailable, try again",
                    FLEET_RETRY_AFTER_S,
                )
            },
        }
    }
}

/// Renders all errors in one format, and logs the causes of internal ones.
pub(super) async fn render_errors(request: Request, next: Next) -> Response {
    let id = RequestId::of(request.extensions());
    let token = tokens::claimed_token_id(request.headers());
    let mut response = next.run(request).await;
    let error = response.extensions_mut().remove::<ApiError>();
    if error.is_none() && !response.status().is_client_error() && !response.status().is_server_error() {
        return response;
    }
    let error = error.unwrap_or_else(|| ApiError::from_status(response.status()));
    if let Some(internal) = &error.internal {
        internal.log(API, &id);
    }
    let allow = response.headers_mut().remove(ALLOW);
    let code = error.code;
    response = error.render(&id);
    if code.status() == StatusCode::UNAUTHORIZED {
        response.extensions_mut().insert(AuthFailure::new(API, token, code.as_str()));
    }
    if let Some(allow) = allow {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

/// Answers unknown addresses.
pub(super) async fn fallback() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

/// Builds a JSON answer.
pub(super) fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    let json = HeaderValue::from_static("application/json");
    let mut response = Response::new(Body::from(serde_json::to_vec(value).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
