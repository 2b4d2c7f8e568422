//! What STUN and TURN servers make of this machine: all are asked at once, and what came in time counts.

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

/// How long servers may take, all together.
const GATHER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a question is asked again, as datagrams get lost.
const RETRANSMIT_INTERVAL: Duration = Duration::from_millis(250);
/// Most servers that are asked.
const MAX_SERVERS: usize = 8;
/// Most datagrams for others that come while servers are asked; later ones are dropped.
const MAX_HELD_DATAGRAMS: usize = 256;
/// Datagrams on their way to a TURN server. Full: later ones are dropped.
const MAX_QUEUED_DATAGRAMS: usize = 256;

/// What a task found out.
enum GatherResult {
    Relay(Box<Relay>),
    /// Where to ask which address is seen.
    StunServers(Vec<SocketAddr>),
}

/// A question to a server: which address does it see?
struct BindingRequest {
    id: TransactionId,
    /// From which socket.
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

    /// The address that the server sees, if this is its answer.
    fn mapped_address(&self, received: &ReceivedDatagram) -> Option<SocketAddr> {
        let is_mine = (received.from, received.to) == (self.server, self.base);
        let message = Message::parse(&received.data)
            .filter(|message| is_mine && message.transaction_id() == self.id)?;
        let is_good = message.class() == Class::Success && message.method() == method::BINDING;
        is_good.then(|| message.xor_address(attribute::XOR_MAPPED_ADDRESS))?
    }
}

impl IceSockets {
    /// Asks servers; what they made possible. Why a server was of no use is logged, and the last reason returned.
    pub(super) async fn gather_candidates(
        &mut self,
        servers: &[IceServer],
        relay_only: bool,
    ) -> Option<Error> {
        let mut tasks = JoinSet::new();
        let mut last = None;
        // Whom the system trusts takes a moment to find out.
        let is_encrypted = servers.iter().any(|server| server.url.starts_with("turns:"));
        let trust = is_encrypted.then(TlsConfig::from_system).and_then(|trust| match trust {
            Ok(trust) => Some(trust),
            Err(error) => {
                tracing::warn!(%error, "no TLS server can be trusted");
                None
            }
        });
        for server in servers.iter().take(MAX_SERVERS) {
            match Server::parse(server) {
                Ok(server) => spawn_queries(&mut tasks, &server, relay_only, trust.as_ref()),
                Err(error) => {
                    tracing::warn!(%error, "a server for ICE is passed over");
                    last = Some(Error::NoRelay { server: redacted_url(server), why: error.to_string() });
                }
            }
        }
        self.collect_candidates(tasks).await.or(last)
    }

    /// Waits for what the tasks find out, and for answers to what is asked then.
    async fn collect_candidates(
        &mut self,
        mut tasks: JoinSet<Result<GatherResult, ServerFailure>>,
    ) -> Option<Error> {
        let deadline = Instant::now() + GATHER_TIMEOUT;
        let (mut questions, mut asked, mut last) = (Vec::new(), HashSet::new(), None);
        let mut again = Instant::now() + RETRANSMIT_INTERVAL;
        while !(tasks.is_empty() && questions.is_empty()) {
            tokio::select! {
                Some(found) = tasks.join_next() => match found {
                    Ok(Ok(GatherResult::Relay(relay))) => self.add_relay_candidate(*relay),
                    Ok(Ok(GatherResult::StunServers(servers))) => {
                        questions.extend(self.send_binding_requests(&servers));
                        asked.extend(servers);
                    }
                    Ok(Err(failure)) => {
                        let ServerFailure { server, error } = failure;
                        tracing::warn!(%server, %error, "a server for ICE is of no use");
                        last = Some(Error::NoRelay { server: server.to_string(), why: error.to_string() });
                    }
                    Err(error) => tracing::error!(%error, "a server for ICE could not be asked"),
                },
                Some(received) = self.received.recv() => {
                    if let Some(seen) = questions.iter().find_map(|question| question.mapped_address(&received)) {
                        self.add_reflexive_candidate(received.to, seen);
                        // One answer for each socket will do.
                        questions.retain(|question| question.base != received.to);
                    } else if self.received_while_gathering.len() < MAX_HELD_DATAGRAMS && !asked.contains(&received.from) {
                        self.received_while_gathering.push_back(received);
                    }
                }
                () = sleep_until(again.into()) => {
                    again += RETRANSMIT_INTERVAL;
                    // Tasks have the same deadline, and say themselves what they miss.
                    if Instant::now() >= deadline {
                        questions.clear();
                    }
                    questions.iter().for_each(|question| self.send_binding_request(question));
                }
            }
        }
        last
    }

    /// A question from each socket to each server of its family.
    fn send_binding_requests(&self, servers: &[SocketAddr]) -> Vec<BindingRequest> {
        let fits = |base: &SocketAddr, to: &SocketAddr| {
            base.is_ipv4() == to.is_ipv4() && base.ip().is_loopback() == to.ip().is_loopback()
        };
        let pairs = self.udp.iter().flat_map(|(base, _)| servers.iter().map(move |to| (*base, *to)));
        let questions: Vec<_> = pairs
            .filter(|(base, to)| fits(base, to))
            .filter_map(|(base, to)| BindingRequest::new(base, to))
            .collect();
        questions.iter().for_each(|question| self.send_binding_request(question));
        questions
    }

    fn send_binding_request(&self, question: &BindingRequest) {
        self.send_udp(question.base, question.server, &question.encode());
    }

    fn add_reflexive_candidate(&mut self, base: SocketAddr, seen: SocketAddr) {
        let known: HashSet<_> = self.candidates.iter().map(Candidate::addr).collect();
        // Where nothing translates addresses, the server sees what there is.
        if !known.contains(&seen)
            && let Ok(candidate) = Candidate::server_reflexive(seen, base, Protocol::Udp)
        {
            self.candidates.push(candidate);
        }
    }

    fn add_relay_candidate(&mut self, relay: Relay) {
        let (relayed, local) = (relay.relayed_address(), relay.local_address());
        match Candidate::relayed(relayed, local, Protocol::Udp) {
            Ok(candidate) => {
                let (outgoing, orders) = mpsc::channel(MAX_QUEUED_DATAGRAMS);
                self.tasks.spawn(relay.run(orders, self.sender.clone()));
                self.relays.push((relayed, outgoing));
                self.candidates.push(candidate);
            }
            Err(error) => tracing::warn!(%error, %relayed, "a relayed address cannot be used"),
        }
    }
}

/// Why a server is of no use.
struct ServerFailure {
    server: Server,
    error: RelayError,
}

/// Starts what asks one server.
fn spawn_queries(
    tasks: &mut JoinSet<Result<GatherResult, ServerFailure>>,
    server: &Server,
    relay_only: bool,
    trust: Option<&TlsConfig>,
) {
    // One that relays by UDP also tells which address it sees.
    let sees = matches!(server.kind, Kind::Stun | Kind::Turn(Transport::Udp));
    if sees && !relay_only {
        let server = server.clone();
        tasks.spawn(async move {
            let found = server.resolve().await.map(GatherResult::StunServers);
            found.map_err(|error: ice_server::Error| ServerFailure { server, error: error.into() })
        });
    }
    if matches!(server.kind, Kind::Turn(_)) {
        let (server, trust) = (server.clone(), trust.cloned());
        tasks.spawn(async move {
            let opened = timeout(GATHER_TIMEOUT, Relay::open(&server, trust.as_ref())).await;
            match opened.unwrap_or(Err(TurnError::Timeout.into())) {
                Ok(relay) => Ok(GatherResult::Relay(Box::new(relay))),
                Err(error) => Err(ServerFailure { server, error }),
            }
        });
    }
}

/// The address of a server, as far as it may be shown.
fn redacted_url(server: &IceServer) -> String {
    let shown = server.url.split('?').next().unwrap_or_default();
    shown.chars().filter(|c| !c.is_control()).take(120).collect()
}
