//! One listener, one path: requests to `/` are told apart by what they carry.

use axum::body::Bytes;
use axum::http::{HeaderMap, Method};

/// A request to `/`, as it came.
#[derive(Debug, Clone)]
pub struct Call {
    /// How.
    pub method: Method,
    /// What stands behind the `?`, as it was sent.
    pub query: String,
    /// Names in lower case.
    pub headers: HeaderMap,
    /// As it was sent.
    pub body: Bytes,
}

impl Call {
    /// A header's value, if it is there once and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
