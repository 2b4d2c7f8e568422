//! What the explorer knows of the vendors' APIs: descriptions of their actions, requests as text, calls as
//! programs, and the steps in which a refused request is checked.
//!
//! Each dialect describes its own actions, signs its own calls and explains its own requests, beside the code
//! that parses and verifies them. The REST API shows it all ([`crate::rest`]).
//!
//! Deliberately absent: keys and permissions.

pub(crate) mod description;
pub(crate) mod explanation;
pub(crate) mod program;
pub(crate) mod raw_request;
#[cfg(test)]
pub(crate) mod read_fields;

use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::future::BoxFuture;
use pagecast_core::spec::Secret;
use pagecast_fleet::UnixMs;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::route::{ApiRequest, HashedBody};
use crate::service::Service;
use crate::{RequestId, tencent, volcengine};
use description::Action;
use explanation::{Explanation, KnownKeys};
use program::{Program, Programs};

/// One vendor's API in the explorer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Explorer {
    /// Name of the vendor.
    pub(crate) vendor: &'static str,
    /// Describes the actions as this configuration has them.
    pub(crate) actions: fn(&Config) -> Vec<Action>,
    /// Signs a call.
    pub(crate) sign: fn(&Config, &Call<'_>) -> Result<SignedCall, String>,
    /// Region that calls are made in.
    pub(crate) region: fn(&Config) -> &str,
    /// Writes a call down for the vendor's SDKs.
    pub(crate) programs: fn(&Program<'_>) -> Programs,
    /// Whether a request is meant for this API.
    pub(crate) matches: fn(&ApiRequest) -> bool,
    /// Checks a request in steps, with the secrets of these keys only.
    pub(crate) explain: fn(&Service, &ApiRequest, &KnownKeys) -> Explanation,
    /// Answers a request.
    pub(crate) handle: for<'a> fn(&'a Service, ApiRequest) -> BoxFuture<'a, Response>,
}

/// The vendors' APIs, in the order in which requests are offered to them.
pub(crate) static EXPLORERS: &[Explorer] = &[tencent::EXPLORER, volcengine::EXPLORER];

/// All actions of both vendors.
pub(crate) fn actions(config: &Config) -> Vec<Action> {
    EXPLORERS.iter().rev().flat_map(|explorer| (explorer.actions)(config)).collect()
}

/// A call to sign.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// Name of the action, as its vendor spells it.
    pub(crate) action: &'a str,
    pub(crate) parameters: &'a Map<String, Value>,
    /// Host and port of the service, as in the header `Host`.
    pub(crate) host: &'a str,
    pub(crate) key_id: &'a str,
    pub(crate) secret: &'a Secret,
    /// Time of the signature.
    pub(crate) now: UnixMs,
}

/// A signed call, and the texts from which its signature was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedCall {
    pub(crate) method: &'static str,
    /// Text behind the `?`; empty without parameters.
    pub(crate) query: String,
    /// All headers, `Host` included.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
    pub(crate) canonical_request: String,
    pub(crate) string_to_sign: String,
    /// Value of the header `Authorization`.
    pub(crate) authorization: String,
}

impl SignedCall {
    /// The call as it would arrive at `/`. `None` if a header has a character that HTTP does not allow.
    pub(crate) fn to_request(&self, id: RequestId) -> Option<ApiRequest> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.insert(name.parse::<axum::http::HeaderName>().ok()?, value.parse().ok()?);
        }
        Some(ApiRequest {
            id,
            method: self.method.parse().ok()?,
            query: self.query.clone(),
            headers,
            body: HashedBody::from(bytes::Bytes::from(self.body.clone())),
        })
    }
}
