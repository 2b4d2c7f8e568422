//! HTTP responses: errors, JSON, CORS headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pagecast_listen::{is_for_localhost, is_forwarded};
use serde::Serialize;

use super::super::Access;
use super::super::command::SessionError;
use super::super::token;

/// Header with the reason why a session has ended: `replaced` or `ended`.
const SESSION_HEADER: HeaderName = HeaderName::from_static("pagecast-session");

/// Error response with a text for the client.
#[derive(Debug)]
pub(super) struct ErrorResponse {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, &'static str)>,
}

impl ErrorResponse {
    /// An error response with a message.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    /// Adds a `Retry-After` header.
    pub(super) fn retry_after(mut self, seconds: &'static str) -> Self {
        self.header = Some((header::RETRY_AFTER, seconds));
        self
    }
}

impl From<SessionError> for ErrorResponse {
    fn from(error: SessionError) -> Self {
        let (status, header) = match error {
            SessionError::NotFound => (StatusCode::NOT_FOUND, None),
            SessionError::Replaced => (StatusCode::GONE, Some((SESSION_HEADER, "replaced"))),
            SessionError::Ended => (StatusCode::GONE, Some((SESSION_HEADER, "ended"))),
            SessionError::EtagMismatch => (StatusCode::PRECONDITION_FAILED, None),
            SessionError::Malformed(_) => (StatusCode::BAD_REQUEST, None),
            SessionError::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, None),
            SessionError::PublisherLimit(_) => (StatusCode::CONFLICT, None),
            SessionError::CapacityExceeded(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, Some((header::RETRY_AFTER, "10")))
            }
            SessionError::NoPublisher => (StatusCode::NOT_FOUND, Some((header::RETRY_AFTER, "2"))),
            SessionError::TooManyConnecting(..) => {
                (StatusCode::SERVICE_UNAVAILABLE, Some((header::RETRY_AFTER, "1")))
            }
        };
        Self { status, message: error.to_string(), header }
    }
}

impl From<token::Error> for ErrorResponse {
    fn from(error: token::Error) -> Self {
        if error.is_unauthorized() {
            let header = Some((header::WWW_AUTHENTICATE, "Bearer"));
            return Self { status: StatusCode::UNAUTHORIZED, message: error.to_string(), header };
        }
        Self::new(StatusCode::FORBIDDEN, error.to_string())
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let plain = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
        let mut response = (self.status, [plain], self.message + "\n").into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// JSON response that must not be cached.
pub(super) fn json_response(value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).unwrap_or_default();
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

/// Adds CORS headers that let any page read the response. Origins were checked before.
pub(super) fn with_cors(response: &mut Response, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    let (origin, any) = (origin, HeaderValue::from_static("*"));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.unwrap_or(any));
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PATCH, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type, If-Match"),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "Location, ETag, Link, Accept-Patch, Retry-After, Pagecast-Session",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

impl Access {
    /// Refuses requests to rooms without tokens that a proxy passed on, that come from pages of other sites,
    /// or whose host name is not a loopback one (DNS rebinding).
    pub(super) fn check_origin(&self, headers: &HeaderMap) -> Result<(), ErrorResponse> {
        if let Self::Jwt(_) = self {
            return Ok(());
        }
        if is_for_localhost(headers) && !is_forwarded(headers) {
            return Ok(());
        }
        Err(ErrorResponse::new(
            StatusCode::FORBIDDEN,
            "rooms without tokens accept only local requests; use localhost or set a secret",
        ))
    }
}
