//! The way to a receiver. Names are resolved here, once, and connections made to what was checked: whoever sets up a receiver must not
//! reach what is near the service. What a receiver answers is not trusted, and only its status is repeated.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pagecast_core::spec::{NetworkPolicy, NetworkRefusal};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Response, redirect};
use tokio::time::{Instant, timeout, timeout_at};
use url::{Host, Url};

use super::{DeliveryPolicy, WebhookMessage};
use crate::app::local_addresses;

/// What is read of an answer, so that its connection can be used again; a longer one is cut off.
const MAX_RESPONSE_BYTES: usize = 64 << 10;
/// How long that may take. The status is known by then.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection is kept for the next message; many servers close theirs after five seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Clients that are kept, one for each network policy and port. Full: the oldest goes.
const MAX_CLIENTS: usize = 32;

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("its address is neither http nor https")]
    UnsupportedScheme,
    #[error("its address is not public, and no rule of the application allows it")]
    NotPublic,
    #[error("a rule of the application denies its address")]
    Denied,
    #[error("its name cannot be resolved ({0})")]
    Resolve(String),
    #[error("no answer came within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("there is no connection ({0})")]
    Connect(String),
    #[error("the connection broke ({0})")]
    ConnectionLost(String),
    #[error("it answered {0}{more}", more = if (300..400).contains(.0) { ", and redirects are not followed" } else { "" })]
    Status(u16),
}

/// What became of a try, in a word for metrics.
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

    fn from_reqwest(error: &reqwest::Error) -> Self {
        let mut innermost: &(dyn StdError + 'static) = error;
        loop {
            if let Some(closed) = innermost.downcast_ref::<ResolveError>() {
                return closed.to_send_error();
            }
            let Some(deeper) = innermost.source() else { break };
            innermost = deeper;
        }
        // The outermost error would name the address, with its query.
        let why = if error.source().is_some() {
            sanitize(&innermost.to_string())
        } else {
            "of the protocol".into()
        };
        if error.is_connect() { Self::Connect(why) } else { Self::ConnectionLost(why) }
    }
}

/// Text of others, fit for a line of a log.
fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

/// What a name leads to that may not be reached, or that it leads nowhere.
#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error("the address is out of reach")]
    Refused(NetworkRefusal),
    #[error("the name cannot be resolved: {0}")]
    NotFound(String),
}

impl ResolveError {
    fn to_send_error(&self) -> SendError {
        match self {
            Self::Refused(NetworkRefusal::NotPublic) => SendError::NotPublic,
            Self::Refused(NetworkRefusal::Denied) => SendError::Denied,
            Self::NotFound(why) => SendError::Resolve(why.clone()),
        }
    }
}

/// Resolves names to what may be reached of them.
#[derive(Debug, Clone)]
struct FilteringResolver {
    network: Arc<NetworkPolicy>,
    port: u16,
}

impl Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), guard.port)).await;
            let found = found.map_err(|error| ResolveError::NotFound(sanitize(&error.to_string())))?;
            let own = local_addresses();
            let mut closed = ResolveError::NotFound("it has no address".into());
            let mut open = Vec::new();
            for address in found {
                match guard.network.permits(&own, name.as_str(), address.ip(), guard.port) {
                    Ok(()) => open.push(address),
                    Err(refusal) => closed = ResolveError::Refused(refusal),
                }
            }
            if open.is_empty() { Err(closed.into()) } else { Ok(Box::new(open.into_iter()) as Addrs) }
        })
    }
}

/// Sends messages; keeps connections for a moment.
#[derive(Debug, Default)]
pub(super) struct WebhookClient {
    clients: Mutex<Vec<(FilteringResolver, Client)>>,
}

impl WebhookClient {
    /// Sends a message and gives the status of the answer, of which `arrived` says whether it is a good one.
    pub(super) async fn send(
        &self,
        url: &Url,
        message: WebhookMessage,
        rule: &DeliveryPolicy,
        network: &NetworkPolicy,
        arrived: fn(u16) -> bool,
    ) -> (Option<u16>, Result<(), SendError>) {
        let until = Instant::now() + rule.timeout;
        let response = match timeout_at(until, self.post(url, message, network)).await {
            Err(_) => return (None, Err(SendError::Timeout(rule.timeout))),
            Ok(Err(fault)) => return (None, Err(fault)),
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        let _cut_off = timeout(BODY_READ_TIMEOUT, drain_body(response)).await;
        (Some(status), if arrived(status) { Ok(()) } else { Err(SendError::Status(status)) })
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
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        add_headers(headers, message.headers);
        *request.body_mut() = Some(message.body.into());
        client.execute(request).await.map_err(|error| SendError::from_reqwest(&error))
    }

    /// A client that reaches what this network lets it reach.
    fn http_client(&self, url: &Url, network: &NetworkPolicy) -> Result<Client, SendError> {
        let port = url.port_or_known_default().filter(|_| matches!(url.scheme(), "http" | "https"));
        let (Some(port), Some(host)) = (port, url.host()) else { return Err(SendError::UnsupportedScheme) };
        // Addresses are not resolved, so they are looked at here.
        let literal = match host {
            Host::Domain(_) => Ok(()),
            Host::Ipv4(ip) => network.permits(&local_addresses(), &ip.to_string(), ip.into(), port),
            Host::Ipv6(ip) => network.permits(&local_addresses(), &ip.to_string(), ip.into(), port),
        };
        literal.map_err(|refusal| ResolveError::Refused(refusal).to_send_error())?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(g, _)| g.port == port && *g.network == *network) {
            return Ok(client.clone());
        }
        let guard = FilteringResolver { network: Arc::new(network.clone()), port };
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("pagecast/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(guard.clone())
            .build()
            .map_err(|error| SendError::from_reqwest(&error))?;
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push((guard, client.clone()));
        Ok(client)
    }
}

fn add_headers(headers: &mut HeaderMap, more: Vec<(&'static str, String)>) {
    for (name, value) in more {
        let name = HeaderName::from_bytes(name.as_bytes());
        match (name, HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
            _ => tracing::error!("a callback has a header that cannot be sent"),
        }
    }
}

/// Reads an answer to its end, or to where it is too long.
async fn drain_body(mut response: Response) {
    let mut left = MAX_RESPONSE_BYTES;
    while let Ok(Some(chunk)) = response.chunk().await {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            return;
        }
    }
}

/// Scheme, host and path of an address: what may be logged.
pub(super) fn redacted_url(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    let _not_for_these = shown.set_username("").and_then(|()| shown.set_password(None));
    shown.to_string()
}

/// Whose capacity a message takes: host and port.
pub(super) fn host_and_port(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}
