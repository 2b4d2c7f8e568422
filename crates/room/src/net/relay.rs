//! A relayed address on a TURN server, with the socket to the server.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ice_server::{self, Kind, Server, Transport};
use super::stream::{Framing, PacketStream, TlsConfig};
use super::turn::{self, Client, Input, Output, State, TransportKind};
use super::{MAX_DATAGRAM_BYTES, ReceivedDatagram};
use crate::rtc::Protocol;
use crate::timer::sleep_until;

/// Most redirects to an alternate server that are followed, against loops.
const MAX_ALTERNATES: usize = 2;
/// Delay between attempts at successive addresses of a server (compare RFC 8305).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// Why there is no relayed address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The server's URL or host name is unusable.
    #[error(transparent)]
    Server(#[from] ice_server::Error),
    /// The server cannot be reached.
    #[error("the TURN server cannot be reached: {0}")]
    Socket(#[from] io::Error),
    /// The server gave no allocation.
    #[error(transparent)]
    Turn(#[from] turn::Error),
}

/// Socket to the server.
enum ServerTransport {
    Udp(UdpSocket),
    Stream(Box<PacketStream>),
}

/// A datagram for a peer.
pub(crate) type PeerDatagram = (SocketAddr, Vec<u8>);

/// A relayed address. Dropping it releases the allocation.
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
    /// Requests an allocation from a server. Tries each of its addresses, each a little later than the
    /// previous one, and returns the first success. The caller sets a deadline.
    ///
    /// # Errors
    /// The last error, if every address failed.
    pub(crate) async fn open(server: &Server, tls: Option<&TlsConfig>) -> Result<Self, Error> {
        let mut attempts = JoinSet::new();
        for (index, address) in (0..).zip(server.resolve().await?) {
            let (server, tls) = (server.clone(), tls.cloned());
            attempts.spawn(async move {
                sleep(CONNECTION_ATTEMPT_DELAY * index).await;
                Self::allocate(&server, address, tls.as_ref()).await
            });
        }
        let mut last = Error::Turn(turn::Error::Timeout);
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
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
        tls: Option<&TlsConfig>,
    ) -> Result<Self, Error> {
        for _ in 0..MAX_ALTERNATES {
            match Self::allocate_at(server, address, tls).await {
                Err(Error::Turn(turn::Error::AlternateServer(alternate))) => address = alternate,
                result => return result,
            }
        }
        Self::allocate_at(server, address, tls).await
    }

    async fn allocate_at(
        server: &Server,
        address: SocketAddr,
        tls: Option<&TlsConfig>,
    ) -> Result<Self, Error> {
        let transport = ServerTransport::open(server, address, tls).await?;
        let kind = match transport {
            ServerTransport::Udp(_) => TransportKind::Datagram,
            ServerTransport::Stream(_) => TransportKind::Stream,
        };
        let (local, relayed) = (transport.local_address()?, address);
        let client = Client::new(kind, &server.user, &server.password, Instant::now());
        let mut relay = Self { client, transport, relayed, local, buffer: vec![0; MAX_DATAGRAM_BYTES] };
        relay.transport.writable().await?;
        loop {
            // There is no data before the allocation.
            while relay.poll_data().is_some() {}
            match relay.client.state() {
                State::Allocating => relay.step().await?,
                State::Allocated { relayed } => {
                    relay.relayed = *relayed;
                    return Ok(relay);
                }
                State::Closed(error) => return Err(error.clone().into()),
            }
        }
    }

    /// Relayed address, which peers send to.
    pub(crate) fn relayed_address(&self) -> SocketAddr {
        self.relayed
    }

    /// Local address of the socket to the server.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Relays datagrams in both directions until the allocation ends or a channel closes.
    pub(crate) async fn run(
        mut self,
        mut outgoing: mpsc::Receiver<PeerDatagram>,
        incoming: mpsc::Sender<ReceivedDatagram>,
    ) {
        loop {
            while let Some((from, data)) = self.poll_data() {
                let received = ReceivedDatagram { protocol: Protocol::Udp, from, to: self.relayed, data };
                if incoming.send(received).await.is_err() {
                    return;
                }
            }
            if let State::Closed(error) = self.client.state() {
                tracing::debug!(%error, relayed = %self.relayed, "TURN allocation ended");
                return;
            }
            tokio::select! {
                received = self.step() => if let Err(error) = received {
                    tracing::debug!(%error, relayed = %self.relayed, "TURN connection lost");
                    return;
                },
                datagram = outgoing.recv() => {
                    let Some((peer, data)) = datagram else { return };
                    self.client.handle(Instant::now(), Input::Data { peer, data: &data });
                }
            }
        }
    }

    /// Sends the client's packets up to the next data of a peer, and returns it.
    fn poll_data(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        while let Some(output) = self.client.poll() {
            match output {
                Output::Transmit(packet) => self.transport.send(&packet),
                Output::Data { peer, data } => return Some((peer, data)),
            }
        }
        None
    }

    /// Waits for one packet or the client's deadline, and hands it in. Cancel-safe.
    async fn step(&mut self) -> io::Result<()> {
        let is_allocating = self.client.state() == &State::Allocating;
        tokio::select! {
            packet = self.transport.receive(&mut self.buffer) => match packet {
                Ok(packet) => self.client.handle(Instant::now(), Input::Packet(packet.as_slice())),
                // A server that restarts refuses for a moment. One that refuses the first request is not
                // there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !is_allocating => {}
                Err(error) => return Err(error),
            },
            () = sleep_until(self.client.deadline()) => self.client.handle(Instant::now(), Input::Timeout),
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.client.handle(Instant::now(), Input::Close);
        while self.poll_data().is_some() {}
        // Over TCP and TLS nothing is written here; the server releases the allocation when they close.
    }
}

/// Content of a received packet.
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
    async fn open(server: &Server, to: SocketAddr, tls: Option<&TlsConfig>) -> io::Result<Self> {
        let tls = match server.kind {
            Kind::Turn(Transport::Tls) => {
                let no_roots = || io::Error::other("no TLS roots are available");
                Some((server.host.as_str(), tls.ok_or_else(no_roots)?))
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
                    tracing::trace!(%error, "datagram send failed");
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
