//! What STUN and TURN servers make of this machine: all are asked at once, and what came in time counts.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pagecast_core::spec::IceServer;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::relay::{Error as RelayError, Relay};
use super::server::{self, Kind, Server, Transport};
use super::stream::Trust;
use super::stun::{Builder, Class, Message, TransactionId, attribute, method};
use super::turn::Error as TurnError;
use super::{Error, Net, Received};
use crate::rtc::{Candidate, Protocol};

/// How long servers may take, all together.
const GATHER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a question is asked again, as datagrams get lost.
const AGAIN: Duration = Duration::from_millis(250);
/// Most servers that are asked.
const MAX_SERVERS: usize = 8;
/// Most datagrams for others that come while servers are asked; later ones are dropped.
const MAX_KEPT: usize = 256;
/// Datagrams on their way to a TURN server. Full: later ones are dropped.
const WAITING: usize = 256;

/// What a task found out.
enum Found {
    Relay(Box<Relay>),
    /// Where to ask which address is seen.
    Addresses(Vec<SocketAddr>),
}

/// A question to a server: which address does it see?
struct Question {
    id: TransactionId,
    /// From which socket.
    base: SocketAddr,
    server: SocketAddr,
}

impl Question {
    fn new(base: SocketAddr, server: SocketAddr) -> Option<Self> {
        let mut id = [0; 12];
        aws_lc_rs::rand::fill(&mut id).ok()?;
        Some(Self { id, base, server })
    }

    fn bytes(&self) -> Vec<u8> {
        Builder::new(Class::Request, method::BINDING, self.id).finish()
    }

    /// The address that the server sees, if this is its answer.
    fn answer(&self, received: &Received) -> Option<SocketAddr> {
        let is_mine = (received.from, received.to) == (self.server, self.base);
        let message = Message::parse(&received.data).filter(|message| is_mine && message.id() == self.id)?;
        let is_good = message.class() == Class::Success && message.method() == method::BINDING;
        is_good.then(|| message.address(attribute::XOR_MAPPED_ADDRESS))?
    }
}

impl Net {
    /// Asks servers; what they made possible. Why a server was of no use is logged, and the last reason returned.
    pub(super) async fn ask(&mut self, servers: &[IceServer], relay_only: bool) -> Option<Error> {
        let mut tasks = JoinSet::new();
        let mut last = None;
        // Whom the system trusts takes a moment to find out.
        let is_encrypted = servers.iter().any(|server| server.url.starts_with("turns:"));
        let trust = is_encrypted.then(Trust::system).and_then(|trust| match trust {
            Ok(trust) => Some(trust),
            Err(error) => {
                tracing::warn!(%error, "no TLS server can be trusted");
                None
            }
        });
        for server in servers.iter().take(MAX_SERVERS) {
            match Server::parse(server) {
                Ok(server) => begin(&mut tasks, &server, relay_only, trust.as_ref()),
                Err(error) => {
                    tracing::warn!(%error, "a server for ICE is passed over");
                    last = Some(Error::Server { server: without_query(server), why: error.to_string() });
                }
            }
        }
        self.hear(tasks).await.or(last)
    }

    /// Waits for what the tasks find out, and for answers to what is asked then.
    async fn hear(&mut self, mut tasks: JoinSet<Result<Found, Failure>>) -> Option<Error> {
        let deadline = Instant::now() + GATHER_TIMEOUT;
        let (mut questions, mut asked, mut last) = (Vec::new(), HashSet::new(), None);
        let mut again = Instant::now() + AGAIN;
        while !(tasks.is_empty() && questions.is_empty()) {
            tokio::select! {
                Some(found) = tasks.join_next() => match found {
                    Ok(Ok(Found::Relay(relay))) => self.add_relay(*relay),
                    Ok(Ok(Found::Addresses(servers))) => {
                        questions.extend(self.ask_all(&servers));
                        asked.extend(servers);
                    }
                    Ok(Err(failure)) => {
                        let Failure { server, error } = failure;
                        tracing::warn!(%server, %error, "a server for ICE is of no use");
                        last = Some(Error::Server { server: server.to_string(), why: error.to_string() });
                    }
                    Err(error) => tracing::error!(%error, "a server for ICE could not be asked"),
                },
                Some(received) = self.received.recv() => {
                    if let Some(seen) = questions.iter().find_map(|question| question.answer(&received)) {
                        self.add_reflexive(received.to, seen);
                        // One answer for each socket will do.
                        questions.retain(|question| question.base != received.to);
                    } else if self.kept.len() < MAX_KEPT && !asked.contains(&received.from) {
                        self.kept.push_back(received);
                    }
                }
                () = sleep_until(again.into()) => {
                    again += AGAIN;
                    // Tasks have the same deadline, and say themselves what they miss.
                    if Instant::now() >= deadline {
                        questions.clear();
                    }
                    questions.iter().for_each(|question| self.put(question));
                }
            }
        }
        last
    }

    /// A question from each socket to each server of its family.
    fn ask_all(&self, servers: &[SocketAddr]) -> Vec<Question> {
        let fits = |base: &SocketAddr, to: &SocketAddr| {
            base.is_ipv4() == to.is_ipv4() && base.ip().is_loopback() == to.ip().is_loopback()
        };
        let pairs = self.udp.iter().flat_map(|(base, _)| servers.iter().map(move |to| (*base, *to)));
        let questions: Vec<_> = pairs
            .filter(|(base, to)| fits(base, to))
            .filter_map(|(base, to)| Question::new(base, to))
            .collect();
        questions.iter().for_each(|question| self.put(question));
        questions
    }

    fn put(&self, question: &Question) {
        self.send_udp(question.base, question.server, &question.bytes());
    }

    fn add_reflexive(&mut self, base: SocketAddr, seen: SocketAddr) {
        let known: HashSet<_> = self.candidates.iter().map(Candidate::addr).collect();
        // Where nothing translates addresses, the server sees what there is.
        if !known.contains(&seen)
            && let Ok(candidate) = Candidate::server_reflexive(seen, base, Protocol::Udp)
        {
            self.candidates.push(candidate);
        }
    }

    fn add_relay(&mut self, relay: Relay) {
        let (relayed, local) = (relay.relayed(), relay.local());
        match Candidate::relayed(relayed, local, Protocol::Udp) {
            Ok(candidate) => {
                let (outgoing, orders) = mpsc::channel(WAITING);
                self.tasks.spawn(relay.run(orders, self.sender.clone()));
                self.relays.push((relayed, outgoing));
                self.candidates.push(candidate);
            }
            Err(error) => tracing::warn!(%error, %relayed, "a relayed address cannot be used"),
        }
    }
}

/// Why a server is of no use.
struct Failure {
    server: Server,
    error: RelayError,
}

/// Starts what asks one server.
fn begin(
    tasks: &mut JoinSet<Result<Found, Failure>>,
    server: &Server,
    relay_only: bool,
    trust: Option<&Trust>,
) {
    // One that relays by UDP also tells which address it sees.
    let sees = matches!(server.kind, Kind::Stun | Kind::Turn(Transport::Udp));
    if sees && !relay_only {
        let server = server.clone();
        tasks.spawn(async move {
            let found = server.look_up().await.map(Found::Addresses);
            found.map_err(|error: server::Error| Failure { server, error: error.into() })
        });
    }
    if matches!(server.kind, Kind::Turn(_)) {
        let (server, trust) = (server.clone(), trust.cloned());
        tasks.spawn(async move {
            let opened = timeout(GATHER_TIMEOUT, Relay::open(&server, trust.as_ref())).await;
            match opened.unwrap_or(Err(TurnError::Silent.into())) {
                Ok(relay) => Ok(Found::Relay(Box::new(relay))),
                Err(error) => Err(Failure { server, error }),
            }
        });
    }
}

/// The address of a server, as far as it may be shown.
fn without_query(server: &IceServer) -> String {
    let shown = server.url.split('?').next().unwrap_or_default();
    shown.chars().filter(|c| !c.is_control()).take(120).collect()
}
