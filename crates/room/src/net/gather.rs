//! Gathers candidates from STUN and TURN servers: from all of them at once, until a deadline.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pagecast_core::spec::IceServer;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::ice_server::{self, Kind, Server, Transport};
use super::relay::{Error as RelayError, Relay};
use super::stream::TlsConfig;
use super::stun::{Builder, Class, Message, TransactionId, attribute, method};
use super::turn::Error as TurnError;
use super::{Error, IceSockets, ReceivedDatagram};
use crate::rtc::{Candidate, Protocol};

/// Longest duration of gathering: a cast waits for it before it publishes.
const GATHER_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval of retransmissions of a binding request.
const RETRANSMIT_INTERVAL: Duration = Duration::from_millis(250);
/// Most servers that are used; further ones are ignored.
const MAX_SERVERS: usize = 8;
/// Most other datagrams that are kept while candidates are gathered; later ones are dropped.
const MAX_HELD_DATAGRAMS: usize = 256;
/// Datagrams queued for a TURN server. When full, later ones are dropped.
const MAX_QUEUED_DATAGRAMS: usize = 256;

/// Result of a gathering task.
enum GatherResult {
    Relay(Box<Relay>),
    /// Addresses of a STUN server.
    StunServers(Vec<SocketAddr>),
}

/// A STUN binding request from one socket to one server.
struct BindingRequest {
    id: TransactionId,
    /// Local address of the socket.
    base: SocketAddr,
    server: SocketAddr,
}

impl BindingRequest {
    fn new(base: SocketAddr, server: SocketAddr) -> Option<Self> {
        let mut id = [0; 12];
        aws_lc_rs::rand::fill(&mut id).ok()?;
        Some(Self { id, base, server })
    }

    fn encode(&self) -> Vec<u8> {
        Builder::new(Class::Request, method::BINDING, self.id).finish()
    }

    /// The mapped address in a datagram, if it is the response to this request.
    fn mapped_address(&self, received: &ReceivedDatagram) -> Option<SocketAddr> {
        let same_path = (received.from, received.to) == (self.server, self.base);
        let message = Message::parse(&received.data)
            .filter(|message| same_path && message.transaction_id() == self.id)?;
        let is_success = message.class() == Class::Success && message.method() == method::BINDING;
        is_success.then(|| message.xor_address(attribute::XOR_MAPPED_ADDRESS))?
    }
}

impl IceSockets {
    /// Gathers candidates from the servers. Logs each failure and returns the last one.
    pub(super) async fn gather_candidates(
        &mut self,
        servers: &[IceServer],
        relay_only: bool,
    ) -> Option<Error> {
        let mut tasks = JoinSet::new();
        let mut last = None;
        // Loading the system's TLS roots takes time, so it is done only if they are needed.
        let uses_tls = servers.iter().any(|server| server.url.starts_with("turns:"));
        let tls = uses_tls.then(TlsConfig::from_system).and_then(|config| match config {
            Ok(config) => Some(config),
            Err(error) => {
                tracing::warn!(%error, "cannot load system TLS roots, turns: servers are skipped");
                None
            }
        });
        for server in servers.iter().take(MAX_SERVERS) {
            match Server::parse(server) {
                Ok(server) => spawn_queries(&mut tasks, &server, relay_only, tls.as_ref()),
                Err(error) => {
                    tracing::warn!(%error, "ICE server URL rejected");
                    last = Some(Error::NoRelay { server: redacted_url(server), why: error.to_string() });
                }
            }
        }
        self.collect_candidates(tasks).await.or(last)
    }

    /// Collects the results of the tasks and the responses to binding requests.
    async fn collect_candidates(
        &mut self,
        mut tasks: JoinSet<Result<GatherResult, ServerFailure>>,
    ) -> Option<Error> {
        let deadline = Instant::now() + GATHER_TIMEOUT;
        let (mut requests, mut stun_servers, mut last) = (Vec::new(), HashSet::new(), None);
        let mut retransmit_at = Instant::now() + RETRANSMIT_INTERVAL;
        while !(tasks.is_empty() && requests.is_empty()) {
            tokio::select! {
                Some(result) = tasks.join_next() => match result {
                    Ok(Ok(GatherResult::Relay(relay))) => self.add_relay_candidate(*relay),
                    Ok(Ok(GatherResult::StunServers(servers))) => {
                        requests.extend(self.send_binding_requests(&servers));
                        stun_servers.extend(servers);
                    }
                    Ok(Err(failure)) => {
                        let ServerFailure { server, error } = failure;
                        tracing::warn!(%server, %error, "ICE server failed");
                        last = Some(Error::NoRelay { server: server.to_string(), why: error.to_string() });
                    }
                    Err(error) => tracing::error!(%error, "ICE server task panicked"),
                },
                Some(received) = self.received.recv() => {
                    let mapped = requests.iter().find_map(|request| request.mapped_address(&received));
                    if let Some(mapped) = mapped {
                        self.add_reflexive_candidate(received.to, mapped);
                        // One response for each socket is enough.
                        requests.retain(|request| request.base != received.to);
                    } else if self.received_while_gathering.len() < MAX_HELD_DATAGRAMS
                        && !stun_servers.contains(&received.from)
                    {
                        self.received_while_gathering.push_back(received);
                    }
                }
                () = sleep_until(retransmit_at.into()) => {
                    retransmit_at += RETRANSMIT_INTERVAL;
                    // The tasks have the same deadline and return their own errors.
                    if Instant::now() >= deadline {
                        requests.clear();
                    }
                    requests.iter().for_each(|request| self.send_binding_request(request));
                }
            }
        }
        last
    }

    /// Sends a binding request from each socket to each server of its address family.
    fn send_binding_requests(&self, servers: &[SocketAddr]) -> Vec<BindingRequest> {
        let can_reach = |base: &SocketAddr, to: &SocketAddr| {
            base.is_ipv4() == to.is_ipv4() && base.ip().is_loopback() == to.ip().is_loopback()
        };
        let pairs = self.udp.iter().flat_map(|(base, _)| servers.iter().map(move |to| (*base, *to)));
        let requests: Vec<_> = pairs
            .filter(|(base, to)| can_reach(base, to))
            .filter_map(|(base, to)| BindingRequest::new(base, to))
            .collect();
        requests.iter().for_each(|request| self.send_binding_request(request));
        requests
    }

    fn send_binding_request(&self, request: &BindingRequest) {
        self.send_udp(request.base, request.server, &request.encode());
    }

    fn add_reflexive_candidate(&mut self, base: SocketAddr, mapped: SocketAddr) {
        let known: HashSet<_> = self.candidates.iter().map(Candidate::addr).collect();
        // Without NAT, the mapped address is a local one.
        if !known.contains(&mapped)
            && let Ok(candidate) = Candidate::server_reflexive(mapped, base, Protocol::Udp)
        {
            self.candidates.push(candidate);
        }
    }

    fn add_relay_candidate(&mut self, relay: Relay) {
        let (relayed, local) = (relay.relayed_address(), relay.local_address());
        match Candidate::relayed(relayed, local, Protocol::Udp) {
            Ok(candidate) => {
                let (sender, outgoing) = mpsc::channel(MAX_QUEUED_DATAGRAMS);
                self.tasks.spawn(relay.run(outgoing, self.sender.clone()));
                self.relays.push((relayed, sender));
                self.candidates.push(candidate);
            }
            Err(error) => tracing::warn!(%error, %relayed, "relayed candidate rejected"),
        }
    }
}

/// A server and its error.
struct ServerFailure {
    server: Server,
    error: RelayError,
}

/// Spawns the tasks for one server.
fn spawn_queries(
    tasks: &mut JoinSet<Result<GatherResult, ServerFailure>>,
    server: &Server,
    relay_only: bool,
    tls: Option<&TlsConfig>,
) {
    // A TURN server over UDP is a STUN server, too.
    let is_stun = matches!(server.kind, Kind::Stun | Kind::Turn(Transport::Udp));
    if is_stun && !relay_only {
        let server = server.clone();
        tasks.spawn(async move {
            let found = server.resolve().await.map(GatherResult::StunServers);
            found.map_err(|error: ice_server::Error| ServerFailure { server, error: error.into() })
        });
    }
    if matches!(server.kind, Kind::Turn(_)) {
        let (server, tls) = (server.clone(), tls.cloned());
        tasks.spawn(async move {
            let opened = timeout(GATHER_TIMEOUT, Relay::open(&server, tls.as_ref())).await;
            match opened.unwrap_or(Err(TurnError::Timeout.into())) {
                Ok(relay) => Ok(GatherResult::Relay(Box::new(relay))),
                Err(error) => Err(ServerFailure { server, error }),
            }
        });
    }
}

/// The URL of a server without its query, at most 120 characters, for logs and errors.
fn redacted_url(server: &IceServer) -> String {
    let shown = server.url.split('?').next().unwrap_or_default();
    shown.chars().filter(|c| !c.is_control()).take(120).collect()
}
