//! An address on a TURN server, and the socket to the server.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::server::{self, Kind, Server, Transport};
use super::stream::{Framing, Stream, Trust};
use super::turn::{self, Client, State, Way};
use super::{MAX_DATAGRAM, Received};
use crate::rtc::Protocol;

/// How often a server may name another one.
const MAX_ALTERNATES: usize = 2;
/// How much later each further address of a server is asked.
const STAGGER: Duration = Duration::from_millis(300);

/// Why there is no relayed address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The server cannot be asked.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// It cannot be reached.
    #[error("it cannot be reached: {0}")]
    Socket(#[from] io::Error),
    /// It gives none.
    #[error(transparent)]
    Turn(#[from] turn::Error),
}

/// What lies between this machine and the server.
enum Wire {
    Datagrams(UdpSocket),
    Stream(Box<Stream>),
}

/// A datagram for a peer.
pub(crate) type Outgoing = (SocketAddr, Vec<u8>);

/// A relayed address. Dropped, it is given back.
pub(crate) struct Relay {
    client: Client,
    wire: Wire,
    relayed: SocketAddr,
    local: SocketAddr,
    buffer: Vec<u8>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("relayed", &self.relayed)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// Asks a server for an address, at each of its own addresses a little later than at the one before: the first answer counts.
    /// Whoever calls has a deadline.
    ///
    /// # Errors
    /// Why the last one of them gave none.
    pub(crate) async fn open(server: &Server, trust: Option<&Trust>) -> Result<Self, Error> {
        let mut asked = JoinSet::new();
        for (later, address) in (0..).zip(server.look_up().await?) {
            let (server, trust) = (server.clone(), trust.cloned());
            asked.spawn(async move {
                sleep(STAGGER * later).await;
                Self::ask(&server, address, trust.as_ref()).await
            });
        }
        let mut last = Error::Turn(turn::Error::Silent);
        while let Some(asked) = asked.join_next().await {
            match asked {
                Ok(Ok(relay)) => return Ok(relay),
                Ok(Err(error)) => last = error,
                Err(error) => last = Error::Socket(error.into()),
            }
        }
        Err(last)
    }

    async fn ask(server: &Server, mut address: SocketAddr, trust: Option<&Trust>) -> Result<Self, Error> {
        for _ in 0..MAX_ALTERNATES {
            match Self::ask_once(server, address, trust).await {
                Err(Error::Turn(turn::Error::Elsewhere(other))) => address = other,
                asked => return asked,
            }
        }
        Self::ask_once(server, address, trust).await
    }

    async fn ask_once(server: &Server, address: SocketAddr, trust: Option<&Trust>) -> Result<Self, Error> {
        let wire = Wire::open(server, address, trust).await?;
        let way = match wire {
            Wire::Datagrams(_) => Way::Datagrams,
            Wire::Stream(_) => Way::Stream,
        };
        let (local, relayed) = (wire.local()?, address);
        let client = Client::new(way, &server.user, &server.password, Instant::now());
        let mut relay = Self { client, wire, relayed, local, buffer: vec![0; MAX_DATAGRAM] };
        relay.wire.writable().await?;
        loop {
            match relay.client.state() {
                State::Asking => relay.step().await.map(drop)?,
                State::Allocated { relayed } => {
                    relay.relayed = *relayed;
                    return Ok(relay);
                }
                State::Over(error) => return Err(error.clone().into()),
            }
        }
    }

    /// What peers send to.
    pub(crate) fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    /// Where this machine speaks to the server from.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Carries datagrams both ways, until the server gives up or nobody listens.
    pub(crate) async fn run(
        mut self,
        mut outgoing: mpsc::Receiver<Outgoing>,
        incoming: mpsc::Sender<Received>,
    ) {
        loop {
            let received = tokio::select! {
                received = self.step() => received,
                wanted = outgoing.recv() => {
                    let Some((peer, data)) = wanted else { return };
                    self.client.send(peer, &data, Instant::now());
                    continue;
                }
            };
            match received {
                Ok(None) => {}
                Ok(Some((from, data))) => {
                    let received = Received { protocol: Protocol::Udp, from, to: self.relayed, data };
                    if incoming.send(received).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, relayed = %self.relayed, "a TURN server is lost");
                    return;
                }
            }
            if let State::Over(error) = self.client.state() {
                tracing::debug!(%error, relayed = %self.relayed, "a TURN server gives up a relayed address");
                return;
            }
        }
    }

    /// Sends what is to be sent, and waits for one packet or until something is due; what a peer sent. Safe to be dropped and called again.
    async fn step(&mut self) -> io::Result<Option<(SocketAddr, Vec<u8>)>> {
        while let Some(packet) = self.client.next_packet() {
            self.wire.send(&packet);
        }
        let due = self.client.due();
        let wait = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let is_asking = self.client.state() == &State::Asking;
        let packet = tokio::select! {
            packet = self.wire.receive(&mut self.buffer) => packet,
            () = wait => {
                self.client.tick(Instant::now());
                return Ok(None);
            }
        };
        match packet {
            Ok(packet) => {
                let received = self.client.receive(packet.as_slice(), Instant::now());
                Ok(received.map(|(from, data)| (from, data.to_vec())))
            }
            // A server that starts anew is not there for a moment; one that is asked for the first time should be.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !is_asking => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.client.close(Instant::now());
        while let Some(packet) = self.client.next_packet() {
            self.wire.send(&packet);
        }
        // The end of a connection says goodbye, too.
    }
}

/// A packet that was received, wherever it lies.
enum Packet<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
}

impl Packet<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Wire {
    async fn open(server: &Server, to: SocketAddr, trust: Option<&Trust>) -> io::Result<Self> {
        let tls = match server.kind {
            Kind::Turn(Transport::Tls) => {
                let nobody = || io::Error::other("nobody is trusted to vouch for it");
                Some((server.host.as_str(), trust.ok_or_else(nobody)?))
            }
            Kind::Turn(Transport::Tcp) => None,
            Kind::Turn(Transport::Udp) | Kind::Stun => {
                let any: SocketAddr = match to {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(to).await?;
                return Ok(Self::Datagrams(socket));
            }
        };
        Ok(Self::Stream(Box::new(Stream::open(to, None, tls, Framing::Turn).await?)))
    }

    fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Datagrams(socket) => socket.local_addr(),
            Self::Stream(stream) => Ok(stream.local()),
        }
    }

    async fn writable(&mut self) -> io::Result<()> {
        match self {
            Self::Datagrams(socket) => socket.writable().await,
            Self::Stream(_) => Ok(()),
        }
    }

    fn send(&mut self, packet: &[u8]) {
        match self {
            Self::Datagrams(socket) => {
                if let Err(error) = socket.try_send(packet) {
                    tracing::trace!(%error, "a datagram is not sent");
                }
            }
            Self::Stream(stream) => stream.send(packet),
        }
    }

    async fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Packet<'a>> {
        match self {
            Self::Datagrams(socket) => {
                let length = socket.recv(buffer).await?;
                Ok(Packet::Borrowed(&buffer[..length]))
            }
            Self::Stream(stream) => Ok(Packet::Owned(stream.receive().await?)),
        }
    }
}
