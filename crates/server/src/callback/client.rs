//! Sends webhooks. Host names are resolved once, and connections are made to the checked addresses only, so
//! that a receiver's owner cannot reach the service's own network. A response is not trusted: only its status
//! and an escaped beginning of its body are kept.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::iter::successors;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pagecast_core::spec::{NetworkPolicy, NetworkRefusal};
use pagecast_egress::check::check_literal;
use pagecast_egress::http::filtered_client_builder;
use pagecast_egress::{FilteringResolver, ResolveError};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Response};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::{DeliveryPolicy, WebhookMessage};

/// Most bytes read of a response, so that the connection can be reused. The connection of a longer one is
/// closed.
const MAX_RESPONSE_BYTES: usize = 64 << 10;
/// Most characters kept of a response, after control characters were escaped.
const MAX_ANSWER_CHARS: usize = 500;
/// Time limit for reading the body of a response, whose status is already known.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an idle connection is kept. Many servers close theirs after 5 s, which would lose a message.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Most cached clients, one for each network policy and port: a few applications. When full, the oldest is
/// dropped.
const MAX_CLIENTS: usize = 32;

/// Why an attempt to deliver a webhook failed. The text appears in the delivery log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("the URL scheme is neither http nor https")]
    UnsupportedScheme,
    #[error("the address is not public and no rule of the application allows it")]
    NotPublic,
    #[error("a rule of the application denies the address")]
    Denied,
    #[error("the host name cannot be resolved ({0})")]
    Resolve(String),
    #[error("no response within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("cannot connect ({0})")]
    Connect(String),
    #[error("connection lost ({0})")]
    ConnectionLost(String),
    #[error("the receiver answered {0}{note}", note = redirect_note(*.0))]
    Status(u16),
}

fn redirect_note(status: u16) -> &'static str {
    if (300..400).contains(&status) { ", and redirects are not followed" } else { "" }
}

/// Outcome of an attempt, as a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AttemptOutcome {
    Delivered,
    Refused,
    Timeout,
    Unreachable,
    Forbidden,
}

impl AttemptOutcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
        }
    }
}

impl SendError {
    pub(super) fn outcome(&self) -> AttemptOutcome {
        match self {
            Self::UnsupportedScheme | Self::NotPublic | Self::Denied => AttemptOutcome::Forbidden,
            Self::Resolve(_) | Self::Connect(_) | Self::ConnectionLost(_) => AttemptOutcome::Unreachable,
            Self::Timeout(_) => AttemptOutcome::Timeout,
            Self::Status(_) => AttemptOutcome::Refused,
        }
    }

    fn from_refusal(refusal: NetworkRefusal) -> Self {
        match refusal {
            NetworkRefusal::NotPublic => Self::NotPublic,
            NetworkRefusal::Denied => Self::Denied,
        }
    }

    fn from_reqwest(error: &reqwest::Error) -> Self {
        match ResolveError::find_in(error) {
            Some(ResolveError::Refused(refusal)) => return Self::from_refusal(*refusal),
            Some(ResolveError::Lookup(source)) => return Self::Resolve(sanitize(&source.to_string())),
            Some(other) => return Self::Resolve(other.to_string()),
            None => {}
        }
        // The outermost error contains the URL with its query, which may be secret.
        let innermost = successors(error.source(), |&cause| cause.source()).last();
        let reason = innermost.map_or_else(|| "protocol error".into(), |cause| sanitize(&cause.to_string()));
        if error.is_connect() { Self::Connect(reason) } else { Self::ConnectionLost(reason) }
    }
}

/// Makes foreign text safe for one line of a log: without control characters, at most 160 characters.
fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

/// Headers of a message by their names.
pub(crate) type SentHeaders = BTreeMap<&'static str, String>;

/// User agent of all messages.
const USER_AGENT: &str = concat!("pagecast/", env!("CARGO_PKG_VERSION"));
/// Content type of messages that do not set it.
const JSON_TYPE: &str = "application/json";

/// What came of sending a message.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Status of the response, if there was one.
    pub(crate) status: Option<u16>,
    /// Beginning of the response's body, if it had one.
    pub(crate) answer: Option<String>,
    /// Whether it confirms the delivery.
    pub(crate) result: Result<(), SendError>,
}

/// An HTTP client for webhooks, with a cache of connections for each network policy.
#[derive(Debug, Default)]
pub(crate) struct WebhookClient {
    clients: Mutex<Vec<(FilteringResolver, Client)>>,
}

impl WebhookClient {
    /// Sends a message once. `is_success` decides whether the status of the response confirms the delivery.
    pub(super) async fn send(
        &self,
        url: &Url,
        message: WebhookMessage,
        policy: &DeliveryPolicy,
        network: &NetworkPolicy,
        is_success: fn(u16) -> bool,
    ) -> Sent {
        let deadline = Instant::now() + policy.timeout;
        let response = match timeout_at(deadline, self.post(url, message, network)).await {
            Err(_) => return Sent::failed(SendError::Timeout(policy.timeout)),
            Ok(Err(error)) => return Sent::failed(error),
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        let mut beginning = Vec::new();
        let _incomplete_is_fine = timeout(BODY_READ_TIMEOUT, read_body(response, &mut beginning)).await;
        let result = if is_success(status) { Ok(()) } else { Err(SendError::Status(status)) };
        Sent { status: Some(status), answer: answer_text(&beginning), result }
    }

    async fn post(
        &self,
        url: &Url,
        message: WebhookMessage,
        network: &NetworkPolicy,
    ) -> Result<Response, SendError> {
        let client = self.http_client(url, network)?;
        let mut request = Request::new(Method::POST, url.clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON_TYPE));
        add_headers(headers, message.headers);
        *request.body_mut() = Some(message.body.into());
        client.execute(request).await.map_err(|error| SendError::from_reqwest(&error))
    }

    /// Returns a client that connects only to what `network` permits.
    fn http_client(&self, url: &Url, network: &NetworkPolicy) -> Result<Client, SendError> {
        let port = url.port_or_known_default().filter(|_| matches!(url.scheme(), "http" | "https"));
        let (Some(port), Some(host)) = (port, url.host()) else { return Err(SendError::UnsupportedScheme) };
        check_literal(network, &host, port).map_err(SendError::from_refusal)?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(resolver, _)| resolver.applies(network, port)) {
            return Ok(client.clone());
        }
        let resolver = FilteringResolver::new(network, port);
        let client = filtered_client_builder(resolver.clone())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| SendError::from_reqwest(&error))?;
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push((resolver, client.clone()));
        Ok(client)
    }
}

fn add_headers(headers: &mut HeaderMap, extra: Vec<(&'static str, String)>) {
    for (name, value) in extra {
        let name = HeaderName::from_bytes(name.as_bytes());
        match (name, HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
            _ => tracing::error!("invalid webhook header"),
        }
    }
}

impl Sent {
    fn failed(error: SendError) -> Self {
        Self { status: None, answer: None, result: Err(error) }
    }
}

/// Headers with which a message is sent, except for those of the connection.
pub(crate) fn sent_headers(message: &WebhookMessage) -> SentHeaders {
    let mut headers =
        SentHeaders::from([("Content-Type", JSON_TYPE.to_owned()), ("User-Agent", USER_AGENT.to_owned())]);
    headers.extend(message.headers.iter().cloned());
    headers
}

/// Beginning of a response as text, with control characters escaped; `None` if it is empty.
fn answer_text(beginning: &[u8]) -> Option<String> {
    let mut text = String::new();
    let mut chars = 0;
    for c in String::from_utf8_lossy(beginning).chars() {
        let escaped: String = if c.is_control() { c.escape_default().collect() } else { c.to_string() };
        chars += escaped.chars().count();
        if chars > MAX_ANSWER_CHARS {
            break;
        }
        text.push_str(&escaped);
    }
    (!text.is_empty()).then_some(text)
}

/// Reads a response to its end, or up to [`MAX_RESPONSE_BYTES`], and keeps its beginning.
async fn read_body(mut response: Response, beginning: &mut Vec<u8>) {
    let mut left = MAX_RESPONSE_BYTES;
    while let Ok(Some(chunk)) = response.chunk().await {
        // A character has at most four bytes.
        let room = (4 * MAX_ANSWER_CHARS).saturating_sub(beginning.len());
        beginning.extend_from_slice(&chunk[..chunk.len().min(room)]);
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            return;
        }
    }
}

/// Returns scheme, host and path of a URL, the parts that may be logged.
pub(super) fn redacted_url(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    let _has_no_user = shown.set_username("").and_then(|()| shown.set_password(None));
    shown.to_string()
}

/// Returns a URL without user, password and the values of its query.
pub(crate) fn shown_url(url: &Url) -> String {
    let redacted = redacted_url(url);
    if url.query().is_some() { format!("{redacted}?…") } else { redacted }
}

/// Returns host and port of a URL, by which deliveries are limited.
pub(super) fn host_and_port(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_short_and_have_no_control_characters() {
        assert_eq!(answer_text(b""), None);
        assert_eq!(answer_text("ok ü\n\u{1b}[31m\0".as_bytes()).unwrap(), "ok ü\\n\\u{1b}[31m\\u{0}");
        assert_eq!(answer_text(b"\xff\xfe").unwrap(), "\u{fffd}\u{fffd}");
        assert_eq!(answer_text(&[b'x'; 4000]).unwrap().len(), 500);
        let escaped = answer_text(&[0x1b; 2000]).unwrap();
        assert!((494..=500).contains(&escaped.len()) && escaped.ends_with("\\u{1b}"), "{escaped}");
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        let shown = |url: &str| shown_url(&url.parse().unwrap());
        assert_eq!(shown("https://user:planted@a.example/hook?token=planted#x"), "https://a.example/hook?…");
        assert_eq!(shown("https://a.example:8443/hook"), "https://a.example:8443/hook");
    }
}
