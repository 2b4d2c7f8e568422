//! The id of a request: one id from the socket to the span, the log, the answer's body and its header.
//!
//! [`assign`] is the outermost layer of the router. It takes the id from the header `X-Request-Id` if that is
//! valid, so that a proxy or a client can follow its own request, and makes a UUID otherwise. Handlers find
//! the id in the request's extensions.

use std::fmt;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Extensions, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::service::random_bytes;

static HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that a client may choose, in bytes: a UUID has 36, ids of usual tracing systems up to 64.
const MAX_LEN: usize = 64;

/// Id of a request: 1 to 64 ASCII letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Makes a random UUID (RFC 9562, version 4).
    #[must_use]
    pub fn random() -> Self {
        let uuid = uuid::Builder::from_random_bytes(random_bytes()).into_uuid();
        Self(uuid.to_string().into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id that [`assign`] gave to a request. Only tests call handlers without that layer; they get a new
    /// id.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_else(Self::random)
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ((1..=MAX_LEN).contains(&text.len()) && text.bytes().all(is_allowed)).then(|| Self(text.into()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives each request its id, and writes the id into the header `X-Request-Id` of the answer.
pub(crate) async fn assign(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(&HEADER).and_then(RequestId::parse).unwrap_or_else(RequestId::random);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(HEADER.clone(), value);
    }
    response
}
