//! An address on a TURN server, and the socket to the server.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::ice_server::{self, Kind, Server, Transport};
use super::stream::{Framing, PacketStream, TlsConfig};
use super::turn::{self, Client, State, TransportKind};
use super::{MAX_DATAGRAM_BYTES, ReceivedDatagram};
use crate::rtc::Protocol;

/// How often a server may name another one.
const MAX_ALTERNATES: usize = 2;
/// How much later each further address of a server is asked.
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// Why there is no relayed address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The server cannot be asked.
    #[error(transparent)]
    Server(#[from] ice_server::Error),
    /// It cannot be reached.
    #[error("it cannot be reached: {0}")]
    Socket(#[from] io::Error),
    /// It gives none.
    #[error(transparent)]
    Turn(#[from] turn::Error),
}

/// What lies between this machine and the server.
enum ServerTransport {
    Udp(UdpSocket),
    Stream(Box<PacketStream>),
}

/// A datagram for a peer.
pub(crate) type PeerDatagram = (SocketAddr, Vec<u8>);

/// A relayed address. Dropped, it is given back.
pub(crate) struct Relay {
    client: Client,
    transport: ServerTransport,
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
    pub(crate) async fn open(server: &Server, trust: Option<&TlsConfig>) -> Result<Self, Error> {
        let mut asked = JoinSet::new();
        for (later, address) in (0..).zip(server.resolve().await?) {
            let (server, trust) = (server.clone(), trust.cloned());
            asked.spawn(async move {
                sleep(CONNECTION_ATTEMPT_DELAY * later).await;
                Self::allocate(&server, address, trust.as_ref()).await
            });
        }
        let mut last = Error::Turn(turn::Error::Timeout);
        while let Some(asked) = asked.join_next().await {
            match asked {
                Ok(Ok(relay)) => return Ok(relay),
                Ok(Err(error)) => last = error,
                Err(error) => last = Error::Socket(error.into()),
            }
        }
        Err(last)
    }

    async fn allocate(
        server: &Server,
        mut address: SocketAddr,
        trust: Option<&TlsConfig>,
    ) -> Result<Self, Error> {
        for _ in 0..MAX_ALTERNATES {
            match Self::allocate_at(server, address, trust).await {
                Err(Error::Turn(turn::Error::AlternateServer(other))) => address = other,
                asked => return asked,
            }
        }
        Self::allocate_at(server, address, trust).await
    }

    async fn allocate_at(
        server: &Server,
        address: SocketAddr,
        trust: Option<&TlsConfig>,
    ) -> Result<Self, Error> {
        let wire = ServerTransport::open(server, address, trust).await?;
        let way = match wire {
            ServerTransport::Udp(_) => TransportKind::Datagram,
            ServerTransport::Stream(_) => TransportKind::Stream,
        };
        let (local, relayed) = (wire.local_address()?, address);
        let client = Client::new(way, &server.user, &server.password, Instant::now());
        let mut relay = Self { client, transport: wire, relayed, local, buffer: vec![0; MAX_DATAGRAM_BYTES] };
        relay.transport.writable().await?;
        loop {
            match relay.client.state() {
                State::Allocating => relay.step().await.map(drop)?,
                State::Allocated { relayed } => {
                    relay.relayed = *relayed;
                    return Ok(relay);
                }
                State::Closed(error) => return Err(error.clone().into()),
            }
        }
    }

    /// What peers send to.
    pub(crate) fn relayed_address(&self) -> SocketAddr {
        self.relayed
    }

    /// Where this machine speaks to the server from.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Carries datagrams both ways, until the server gives up or nobody listens.
    pub(crate) async fn run(
        mut self,
        mut outgoing: mpsc::Receiver<PeerDatagram>,
        incoming: mpsc::Sender<ReceivedDatagram>,
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
                    let received = ReceivedDatagram { protocol: Protocol::Udp, from, to: self.relayed, data };
                    if incoming.send(received).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, relayed = %self.relayed, "a TURN server is lost");
                    return;
                }
            }
            if let State::Closed(error) = self.client.state() {
                tracing::debug!(%error, relayed = %self.relayed, "a TURN server gives up a relayed address");
                return;
            }
        }
    }

    /// Sends what is to be sent, and waits for one packet or until something is due; what a peer sent. Safe to be dropped and called again.
    async fn step(&mut self) -> io::Result<Option<(SocketAddr, Vec<u8>)>> {
        while let Some(packet) = self.client.poll_transmit() {
            self.transport.send(&packet);
        }
        let due = self.client.deadline();
        let wait = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let is_asking = self.client.state() == &State::Allocating;
        let packet = tokio::select! {
            packet = self.transport.receive(&mut self.buffer) => packet,
            () = wait => {
                self.client.handle_timeout(Instant::now());
                return Ok(None);
            }
        };
        match packet {
            Ok(packet) => {
                let received = self.client.handle_packet(packet.as_slice(), Instant::now());
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
        while let Some(packet) = self.client.poll_transmit() {
            self.transport.send(&packet);
        }
        // The end of a connection says goodbye, too.
    }
}

/// A packet that was received, wherever it lies.
enum PacketBytes<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
}

impl PacketBytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl ServerTransport {
    async fn open(server: &Server, to: SocketAddr, trust: Option<&TlsConfig>) -> io::Result<Self> {
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
                return Ok(Self::Udp(socket));
            }
        };
        Ok(Self::Stream(Box::new(PacketStream::open(to, None, tls, Framing::Turn).await?)))
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Stream(stream) => Ok(stream.local_address()),
        }
    }

    async fn writable(&mut self) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.writable().await,
            Self::Stream(_) => Ok(()),
        }
    }

    fn send(&mut self, packet: &[u8]) {
        match self {
            Self::Udp(socket) => {
                if let Err(error) = socket.try_send(packet) {
                    tracing::trace!(%error, "a datagram is not sent");
                }
            }
            Self::Stream(stream) => stream.send(packet),
        }
    }

    async fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<PacketBytes<'a>> {
        match self {
            Self::Udp(socket) => {
                let length = socket.recv(buffer).await?;
                Ok(PacketBytes::Borrowed(&buffer[..length]))
            }
            Self::Stream(stream) => Ok(PacketBytes::Owned(stream.receive().await?)),
        }
    }
}
