//! The whole dialect, from requests as they come to answers as they go.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::*;

/// A request as it comes.
pub(super) fn call(method: &str, query: &str, headers: &[(&str, &str)], body: &str) -> Call {
    let header = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    Call {
        method: method.parse::<Method>().unwrap(),
        query: query.to_owned(),
        headers: headers.iter().map(header).collect::<HeaderMap>(),
        body: body.to_owned().into(),
    }
}

/// The names and values of a form.
pub(super) fn pairs_of(form: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(form.as_bytes()).into_owned().collect()
}
