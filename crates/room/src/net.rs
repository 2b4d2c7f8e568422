//! All sockets of one peer connection: local UDP sockets, TURN allocations and active TCP connections.

mod gather;
mod ice_server;
mod relay;
pub mod stream;
pub mod stun;
mod tcp_active;
pub mod turn;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pagecast_core::spec::Ice;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::rtc::{Candidate, Protocol};
use relay::PeerDatagram;
use tcp_active::ActiveTcp;

/// Most local addresses that become candidates; each one costs a socket and connectivity checks.
const MAX_LOCAL_ADDRESSES: usize = 8;
/// Received datagrams that wait. When full, sockets are not read and the kernel drops what arrives.
const MAX_QUEUED_DATAGRAMS: usize = 256;
/// Largest datagram, in bytes; ours fit into an MTU of 1500.
const MAX_DATAGRAM_BYTES: usize = 2000;

/// Why no socket could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The system refused a socket.
    #[error("cannot open a socket: {0}")]
    Socket(#[from] io::Error),
    /// Only relayed candidates are allowed, and no TURN server gave one. This is the last server's error.
    #[error("no TURN server gave a relayed address: {server}: {why}")]
    NoRelay {
        /// Address of the server.
        server: String,
        /// Its error.
        why: String,
    },
}

/// A received datagram.
#[derive(Debug)]
pub(crate) struct ReceivedDatagram {
    pub(crate) protocol: Protocol,
    /// Address of the sender.
    pub(crate) from: SocketAddr,
    /// Local candidate that it was sent to.
    pub(crate) to: SocketAddr,
    pub(crate) data: Vec<u8>,
}

/// All sockets of one peer connection and the tasks that read them. Dropping it closes the sockets and
/// releases the TURN allocations.
#[derive(Debug)]
pub(crate) struct IceSockets {
    udp: Vec<(SocketAddr, Arc<UdpSocket>)>,
    relays: Vec<(SocketAddr, mpsc::Sender<PeerDatagram>)>,
    tcp_active: ActiveTcp,
    candidates: Vec<Candidate>,
    sender: mpsc::Sender<ReceivedDatagram>,
    received: mpsc::Receiver<ReceivedDatagram>,
    /// Datagrams that arrived while candidates were gathered.
    received_while_gathering: VecDeque<ReceivedDatagram>,
    tasks: JoinSet<()>,
}

impl IceSockets {
    /// Opens a socket on each local address and gathers further candidates from the ICE servers. `local`
    /// says that the remote peer is on this machine, so that loopback addresses are used, too.
    ///
    /// # Errors
    /// There is no candidate: no socket can be opened, or only relayed ones are allowed and there is none.
    pub(crate) async fn open(ice: &Ice, local: bool) -> Result<Self, Error> {
        let (sender, received) = mpsc::channel(MAX_QUEUED_DATAGRAMS);
        let mut net = Self {
            udp: Vec::new(),
            relays: Vec::new(),
            tcp_active: ActiveTcp::default(),
            candidates: Vec::new(),
            sender,
            received,
            received_while_gathering: VecDeque::new(),
            tasks: JoinSet::new(),
        };
        let mut problem = None;
        if !ice.relay_only {
            let addresses = local_addresses(local)?;
            for ip in &addresses {
                match UdpSocket::bind((*ip, 0)).await {
                    Ok(socket) => net.add_socket(socket)?,
                    Err(error) => problem = Some(Error::Socket(error)),
                }
            }
            net.candidates.extend(addresses.into_iter().filter_map(ActiveTcp::candidate));
        }
        problem = net.gather_candidates(&ice.servers, ice.relay_only).await.or(problem);
        match problem {
            Some(error) if net.udp.is_empty() && net.relays.is_empty() => Err(error),
            _ => Ok(net),
        }
    }

    fn add_socket(&mut self, socket: UdpSocket) -> io::Result<()> {
        let address = socket.local_addr()?;
        let socket = Arc::new(socket);
        let candidate = Candidate::host(address, Protocol::Udp).map_err(io::Error::other)?;
        self.candidates.push(candidate);
        self.udp.push((address, Arc::clone(&socket)));
        self.tasks.spawn(receive_loop(socket, address, self.sender.clone()));
        Ok(())
    }

    /// Local candidates.
    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Sends from one of the candidates. Never waits: a datagram that a full socket does not take is lost.
    pub(crate) fn send(&mut self, protocol: Protocol, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if protocol == Protocol::Tcp {
            self.tcp_active.send((from, to), data, &self.sender, &mut self.tasks);
        } else if let Some((_, relay)) = self.relays.iter().find(|(relayed, _)| *relayed == from) {
            if relay.try_send((to, data.to_vec())).is_err() {
                tracing::trace!(%to, "datagram dropped, relay queue full");
            }
        } else {
            self.send_udp(from, to, data);
        }
    }

    fn send_udp(&self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if let Some((_, socket)) = self.udp.iter().find(|(address, _)| *address == from)
            && let Err(error) = socket.try_send_to(data, to)
        {
            tracing::trace!(%error, %to, "datagram send failed");
        }
    }

    /// Gathers candidates from further ICE servers and returns the new ones.
    pub(crate) async fn add_ice_servers(&mut self, ice: &Ice) -> Vec<Candidate> {
        let known: HashSet<_> = self.candidates.iter().map(Candidate::to_sdp_string).collect();
        if let Some(error) = self.gather_candidates(&ice.servers, ice.relay_only).await {
            tracing::debug!(%error, "some ICE servers failed");
        }
        let is_new = |c: &&Candidate| !known.contains(&c.to_sdp_string());
        self.candidates.iter().filter(is_new).cloned().collect()
    }

    /// The next datagram, if one is queued.
    pub(crate) fn try_receive(&mut self) -> Option<ReceivedDatagram> {
        self.received_while_gathering.pop_front().or_else(|| self.received.try_recv().ok())
    }

    /// Waits for the next datagram. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> ReceivedDatagram {
        if let Some(earlier) = self.received_while_gathering.pop_front() {
            return earlier;
        }
        match self.received.recv().await {
            Some(received) => received,
            // All sockets failed. The session notices the silence.
            None => std::future::pending().await,
        }
    }
}

async fn receive_loop(socket: Arc<UdpSocket>, address: SocketAddr, sender: mpsc::Sender<ReceivedDatagram>) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let data = buffer[..length].to_vec();
                let received = ReceivedDatagram { protocol: Protocol::Udp, from, to: address, data };
                if sender.send(received).await.is_err() {
                    return;
                }
            }
            // ICMP refused an earlier datagram; the socket itself is fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::debug!(%error, %address, "socket receive failed");
                return;
            }
        }
    }
}

/// Addresses of this machine that the remote peer could send to.
fn local_addresses(local: bool) -> io::Result<Vec<IpAddr>> {
    let fits = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => !v4.is_link_local() && (local || !v4.is_loopback()),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && (local || !v6.is_loopback()),
    };
    let mut found = pagecast_egress::interface_addresses()?;
    // Loopback addresses come first: they are included only if the peer is on this machine.
    found.sort_by_key(|ip| (!ip.is_loopback(), ip.is_ipv6()));
    Ok(found.into_iter().filter(fits).take(MAX_LOCAL_ADDRESSES).collect())
}

#[cfg(test)]
mod tests;
