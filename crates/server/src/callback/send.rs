//! The way to a receiver. Names are resolved here, once, and connections made to what was checked: whoever sets up a receiver must not
//! reach what is near the service. What a receiver answers is not trusted, and only its status is repeated.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pagecast_core::spec::{Network, Refusal};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Response, redirect};
use tokio::time::{Instant, timeout, timeout_at};
use url::{Host, Url};

use super::{Message, Rule};
use crate::app::own;

/// What is read of an answer, so that its connection can be used again; a longer one is cut off.
const MAX_ANSWER_LEN: usize = 64 << 10;
/// How long that may take. The status is known by then.
const READ_FOR_AT_MOST: Duration = Duration::from_secs(1);
/// How long a connection is kept for the next message; many servers close theirs after five seconds.
const IDLE: Duration = Duration::from_secs(3);
/// Clients that are kept, one for each network policy and port. Full: the oldest goes.
const MAX_CLIENTS: usize = 32;

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("its address is neither http nor https")]
    NotWeb,
    #[error("its address is not public, and no rule of the application allows it")]
    NotPublic,
    #[error("a rule of the application denies its address")]
    Denied,
    #[error("its name cannot be resolved ({0})")]
    Name(String),
    #[error("no answer came within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("there is no connection ({0})")]
    Connect(String),
    #[error("the connection broke ({0})")]
    Broken(String),
    #[error("it answered {0}{more}", more = if (300..400).contains(.0) { ", and redirects are not followed" } else { "" })]
    Status(u16),
}

/// What became of a try, in a word for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Delivered,
    Refused,
    Timeout,
    Unreachable,
    Forbidden,
}

impl Outcome {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
        }
    }
}

impl Fault {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::NotWeb | Self::NotPublic | Self::Denied => Outcome::Forbidden,
            Self::Name(_) | Self::Connect(_) | Self::Broken(_) => Outcome::Unreachable,
            Self::Timeout(_) => Outcome::Timeout,
            Self::Status(_) => Outcome::Refused,
        }
    }

    fn from_reqwest(error: &reqwest::Error) -> Self {
        let mut innermost: &(dyn StdError + 'static) = error;
        loop {
            if let Some(closed) = innermost.downcast_ref::<Closed>() {
                return closed.fault();
            }
            let Some(deeper) = innermost.source() else { break };
            innermost = deeper;
        }
        // The outermost error would name the address, with its query.
        let why =
            if error.source().is_some() { tame(&innermost.to_string()) } else { "of the protocol".into() };
        if error.is_connect() { Self::Connect(why) } else { Self::Broken(why) }
    }
}

/// Text of others, fit for a line of a log.
fn tame(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

/// What a name leads to that may not be reached, or that it leads nowhere.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("the address is out of reach")]
    Refused(Refusal),
    #[error("the name cannot be resolved: {0}")]
    Unknown(String),
}

impl Closed {
    fn fault(&self) -> Fault {
        match self {
            Self::Refused(Refusal::NotPublic) => Fault::NotPublic,
            Self::Refused(Refusal::Denied) => Fault::Denied,
            Self::Unknown(why) => Fault::Name(why.clone()),
        }
    }
}

/// Resolves names to what may be reached of them.
#[derive(Debug, Clone)]
struct Guard {
    network: Arc<Network>,
    port: u16,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), guard.port)).await;
            let found = found.map_err(|error| Closed::Unknown(tame(&error.to_string())))?;
            let own = own();
            let mut closed = Closed::Unknown("it has no address".into());
            let mut open = Vec::new();
            for address in found {
                match guard.network.permits(&own, name.as_str(), address.ip(), guard.port) {
                    Ok(()) => open.push(address),
                    Err(refusal) => closed = Closed::Refused(refusal),
                }
            }
            if open.is_empty() { Err(closed.into()) } else { Ok(Box::new(open.into_iter()) as Addrs) }
        })
    }
}

/// Sends messages; keeps connections for a moment.
#[derive(Debug, Default)]
pub(super) struct Sender {
    clients: Mutex<Vec<(Guard, Client)>>,
}

impl Sender {
    /// Sends a message and gives the status of the answer, of which `arrived` says whether it is a good one.
    pub(super) async fn send(
        &self,
        url: &Url,
        message: Message,
        rule: &Rule,
        network: &Network,
        arrived: fn(u16) -> bool,
    ) -> (Option<u16>, Result<(), Fault>) {
        let until = Instant::now() + rule.timeout;
        let response = match timeout_at(until, self.exchange(url, message, network)).await {
            Err(_) => return (None, Err(Fault::Timeout(rule.timeout))),
            Ok(Err(fault)) => return (None, Err(fault)),
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        let _cut_off = timeout(READ_FOR_AT_MOST, read(response)).await;
        (Some(status), if arrived(status) { Ok(()) } else { Err(Fault::Status(status)) })
    }

    async fn exchange(&self, url: &Url, message: Message, network: &Network) -> Result<Response, Fault> {
        let client = self.client(url, network)?;
        let mut request = Request::new(Method::POST, url.clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        add(headers, message.headers);
        *request.body_mut() = Some(message.body.into());
        client.execute(request).await.map_err(|error| Fault::from_reqwest(&error))
    }

    /// A client that reaches what this network lets it reach.
    fn client(&self, url: &Url, network: &Network) -> Result<Client, Fault> {
        let port = url.port_or_known_default().filter(|_| matches!(url.scheme(), "http" | "https"));
        let (Some(port), Some(host)) = (port, url.host()) else { return Err(Fault::NotWeb) };
        // Addresses are not resolved, so they are looked at here.
        let literal = match host {
            Host::Domain(_) => Ok(()),
            Host::Ipv4(ip) => network.permits(&own(), &ip.to_string(), ip.into(), port),
            Host::Ipv6(ip) => network.permits(&own(), &ip.to_string(), ip.into(), port),
        };
        literal.map_err(|refusal| Closed::Refused(refusal).fault())?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(g, _)| g.port == port && *g.network == *network) {
            return Ok(client.clone());
        }
        let guard = Guard { network: Arc::new(network.clone()), port };
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("pagecast/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(guard.clone())
            .build()
            .map_err(|error| Fault::from_reqwest(&error))?;
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push((guard, client.clone()));
        Ok(client)
    }
}

fn add(headers: &mut HeaderMap, more: Vec<(&'static str, String)>) {
    for (name, value) in more {
        let name = HeaderName::from_bytes(name.as_bytes());
        match (name, HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
            _ => tracing::error!("a callback has a header that cannot be sent"),
        }
    }
}

/// Reads an answer to its end, or to where it is too long.
async fn read(mut response: Response) {
    let mut left = MAX_ANSWER_LEN;
    while let Ok(Some(chunk)) = response.chunk().await {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            return;
        }
    }
}

/// Scheme, host and path of an address: what may be logged.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    let _not_for_these = shown.set_username("").and_then(|()| shown.set_password(None));
    shown.to_string()
}

/// Whose capacity a message takes: host and port.
pub(super) fn host(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}
