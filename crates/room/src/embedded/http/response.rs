//! Answers, and those that say why not.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use url::{Host, Url};

use super::super::Access;
use super::super::command::SessionError;
use super::super::token;

/// Says of a session that is over why that is: `replaced` or `ended`.
const SESSION_HEADER: HeaderName = HeaderName::from_static("pagecast-session");

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct ErrorResponse {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, &'static str)>,
}

impl ErrorResponse {
    /// With a sentence for whoever asked.
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, message: why.into(), header: None }
    }

    /// It may work in so many seconds.
    pub(super) fn retry_after(mut self, seconds: &'static str) -> Self {
        self.header = Some((header::RETRY_AFTER, seconds));
        self
    }
}

impl From<SessionError> for ErrorResponse {
    fn from(refused: SessionError) -> Self {
        let (status, header) = match refused {
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
        Self { status, message: refused.to_string(), header }
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

/// JSON that is not kept by anybody.
pub(super) fn json_response(value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).unwrap_or_default();
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

/// Lets pages from elsewhere read the answer: whoever got here may.
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
    /// An open room is for this machine: not for pages of other sites that its browser shows, nor for names
    /// that only point here.
    pub(super) fn check_origin(&self, headers: &HeaderMap) -> Result<(), ErrorResponse> {
        if let Self::Jwt(_) = self {
            return Ok(());
        }
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let host = text(header::HOST).map(|host| format!("http://{host}"));
        let origin = text(header::ORIGIN).map(str::to_owned);
        if host.iter().chain(&origin).all(|url| is_loopback_url(url)) {
            return Ok(());
        }
        Err(ErrorResponse::new(
            StatusCode::FORBIDDEN,
            "an open room is only for this machine: use localhost, or tokens",
        ))
    }
}

fn is_loopback_url(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_here() {
        for url in ["http://localhost:1", "http://127.0.0.1", "http://[::1]:8080", "https://a.localhost"] {
            assert!(is_loopback_url(url), "{url}");
        }
        for url in
            ["null", "", "http://localhost.example", "http://192.168.1.1", "https://evil.example", "file://"]
        {
            assert!(!is_loopback_url(url), "{url}");
        }
    }
}
