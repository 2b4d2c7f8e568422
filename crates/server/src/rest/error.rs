//! The one shape of errors.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::applications::tokens;
use crate::auth_log::AuthFailure;
use crate::service::request_id;

/// Most characters of a message: parsers repeat what they were given.
const MAX_MESSAGE_LEN: usize = 400;

/// Why a request is not answered as it was hoped.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<String>,
    retry_after_s: Option<u64>,
}

/// What is answered if something is wrong.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorResponse {
    /// What is wrong.
    error: ErrorDetail,
    /// Names the request, as the header `X-Request-Id` does.
    request_id: String,
}

/// What is wrong.
#[derive(Serialize, ToSchema)]
struct ErrorDetail {
    /// A stable word for programs, like `invalid-parameter`.
    #[schema(example = "invalid-parameter")]
    code: &'static str,
    /// A sentence for people.
    message: String,
    /// The field, parameter or header that is meant, like `room.layers[0].width`.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let message = message.chars().take(MAX_MESSAGE_LEN).collect();
        Self { status, code, message, field: None, retry_after_s: None }
    }

    /// A value that cannot be used, and where it stands.
    pub(super) fn invalid_parameter(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", message).with_field(field)
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Too much at the moment.
    pub(super) fn retry_later(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        s: u64,
    ) -> Self {
        Self { retry_after_s: Some(s), ..Self::new(status, code, message) }
    }

    pub(super) fn with_field(mut self, field: impl Into<String>) -> Self {
        let field: String = field.into();
        self.field = Some(field.chars().take(200).collect());
        self
    }

    /// The same about a value that stands below another.
    pub(super) fn prefix_field(mut self, parent: &str) -> Self {
        self.field = self.field.map(|field| format!("{parent}.{field}"));
        self
    }

    /// The same about a value that stands there by itself.
    pub(super) fn strip_field_prefix(mut self, parent: &str) -> Self {
        let strip = |field: String| {
            field.strip_prefix(parent).and_then(|f| f.strip_prefix('.')).map(str::to_owned).unwrap_or(field)
        };
        self.field = self.field.map(strip);
        self
    }

    /// What the framework refused by itself, in our words.
    fn from_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "the body is larger than 8 MiB"),
            StatusCode::METHOD_NOT_ALLOWED => (
                "method-not-allowed",
                "this method is not possible here, the header Allow names those that are",
            ),
            StatusCode::NOT_FOUND => ("not-found", "there is nothing here, see /v1 for what there is"),
            status if status.is_client_error() => ("bad-request", "the request cannot be read"),
            _ => ("internal", "something went wrong here; the request id helps to find it"),
        };
        Self::new(status, code, message)
    }

    fn render(self, request_id: &str) -> Response {
        let (status, challenge) = (self.status, self.status == StatusCode::UNAUTHORIZED);
        let retry = self.retry_after_s.and_then(|s| HeaderValue::from_str(&s.to_string()).ok());
        let answer = ErrorResponse {
            error: ErrorDetail { code: self.code, message: self.message, field: self.field },
            request_id: request_id.to_owned(),
        };
        let mut response = (status, to_json(&answer)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(retry) = retry {
            headers.insert(RETRY_AFTER, retry);
        }
        if challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="pagecast""#));
        }
        response
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

impl IntoResponse for ApiError {
    /// Told in full by [`render_errors`], which knows the id of the request.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<pagecast_fleet::Error> for ApiError {
    fn from(error: pagecast_fleet::Error) -> Self {
        use pagecast_fleet::Error;
        let words = error.to_string();
        match error {
            Error::CastNotFound(_) => Self::not_found("no-such-cast", words),
            Error::CastEnded(_) => Self::conflict("over", words),
            Error::TooManyCommands(_) => Self::retry_later(StatusCode::SERVICE_UNAVAILABLE, "busy", words, 1),
            error => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a request fails");
                let words = "the service cannot get at its casts, try again";
                Self::retry_later(StatusCode::SERVICE_UNAVAILABLE, "unavailable", words, 1)
            }
        }
    }
}

/// Names each request, and puts whatever is wrong into the one shape.
pub(super) async fn render_errors(request: Request, next: Next) -> Response {
    let id = request_id();
    let token = tokens::claimed_token_id(request.headers());
    let mut response = next.run(request).await;
    let problem = response.extensions_mut().remove::<ApiError>();
    if problem.is_some() || response.status().is_client_error() || response.status().is_server_error() {
        let problem = problem.unwrap_or_else(|| ApiError::from_status(response.status()));
        let allow = response.headers_mut().remove(axum::http::header::ALLOW);
        let refused = (problem.status == StatusCode::UNAUTHORIZED).then_some(problem.code);
        response = problem.render(&id);
        if let Some(code) = refused {
            response.extensions_mut().insert(AuthFailure::new(super::ORIGIN, token, code));
        }
        if let Some(allow) = allow {
            response.headers_mut().insert(axum::http::header::ALLOW, allow);
        }
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// For addresses that are none.
pub(super) async fn fallback() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

/// A JSON answer.
pub(super) fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    let json = HeaderValue::from_static("application/json");
    let mut response = Response::new(Body::from(self::to_json(value)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
