//! All sockets of one connection: this machine's own, those of TURN servers, and connections to servers that want TCP.

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

/// Most addresses of this machine that are offered.
const MAX_LOCAL_ADDRESSES: usize = 8;
/// Datagrams that wait to be read. Full: sockets are read no further, and the system drops what comes.
const MAX_QUEUED_DATAGRAMS: usize = 256;
/// Longest datagram; what is longer is none of ours.
const MAX_DATAGRAM_BYTES: usize = 2000;

/// Why there is no way out of this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// No socket can be opened.
    #[error("cannot open a socket: {0}")]
    Socket(#[from] io::Error),
    /// All is to be relayed, and no server does. This is what became of the last one.
    #[error("no TURN server relays: {server}: {why}")]
    NoRelay {
        /// Its address.
        server: String,
        /// What went wrong.
        why: String,
    },
}

/// Something that arrived.
#[derive(Debug)]
pub(crate) struct ReceivedDatagram {
    pub(crate) protocol: Protocol,
    /// Who sent it.
    pub(crate) from: SocketAddr,
    /// Which candidate of ours it was sent to.
    pub(crate) to: SocketAddr,
    pub(crate) data: Vec<u8>,
}

/// All sockets of one connection, and what reads them. Dropped, they are closed, and relayed addresses are given back.
#[derive(Debug)]
pub(crate) struct IceSockets {
    udp: Vec<(SocketAddr, Arc<UdpSocket>)>,
    relays: Vec<(SocketAddr, mpsc::Sender<PeerDatagram>)>,
    tcp_active: ActiveTcp,
    candidates: Vec<Candidate>,
    sender: mpsc::Sender<ReceivedDatagram>,
    received: mpsc::Receiver<ReceivedDatagram>,
    /// What came while servers were asked.
    received_while_gathering: VecDeque<ReceivedDatagram>,
    tasks: JoinSet<()>,
}

impl IceSockets {
    /// Opens a socket on each address of this machine, and asks the servers for more. `local`: the server is on this machine, so its
    /// own addresses will do.
    ///
    /// # Errors
    /// There is no address at all: no socket can be opened, or, if all is to be relayed, no server gives one.
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

    /// The ways in which this side can be reached.
    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Sends from one of the candidates. Never waits: what does not fit into a socket is lost, as it would be on the way.
    pub(crate) fn send(&mut self, protocol: Protocol, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if protocol == Protocol::Tcp {
            self.tcp_active.send((from, to), data, &self.sender, &mut self.tasks);
        } else if let Some((_, relay)) = self.relays.iter().find(|(relayed, _)| *relayed == from) {
            if relay.try_send((to, data.to_vec())).is_err() {
                tracing::trace!(%to, "a datagram is not relayed");
            }
        } else {
            self.send_udp(from, to, data);
        }
    }

    fn send_udp(&self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if let Some((_, socket)) = self.udp.iter().find(|(address, _)| *address == from)
            && let Err(error) = socket.try_send_to(data, to)
        {
            tracing::trace!(%error, %to, "a datagram is not sent");
        }
    }

    /// Asks further servers for ways in which this side can be reached: the new ones.
    pub(crate) async fn add_ice_servers(&mut self, ice: &Ice) -> Vec<Candidate> {
        let known: HashSet<_> = self.candidates.iter().map(Candidate::to_sdp_string).collect();
        if let Some(error) = self.gather_candidates(&ice.servers, ice.relay_only).await {
            tracing::debug!(%error, "not every server for ICE is of use");
        }
        let is_new = |c: &&Candidate| !known.contains(&c.to_sdp_string());
        self.candidates.iter().filter(is_new).cloned().collect()
    }

    /// The next datagram, if one waits.
    pub(crate) fn try_receive(&mut self) -> Option<ReceivedDatagram> {
        self.received_while_gathering.pop_front().or_else(|| self.received.try_recv().ok())
    }

    /// Waits for the next datagram. Safe to be dropped and called again.
    pub(crate) async fn receive(&mut self) -> ReceivedDatagram {
        if let Some(kept) = self.received_while_gathering.pop_front() {
            return kept;
        }
        match self.received.recv().await {
            Some(received) => received,
            // All sockets failed; nothing comes any more, which others notice.
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
            // Somebody refused what was sent: that says nothing about the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::debug!(%error, %address, "a socket is read no longer");
                return;
            }
        }
    }
}

/// Addresses of this machine that a server could send to.
fn local_addresses(local: bool) -> io::Result<Vec<IpAddr>> {
    let fits = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => !v4.is_link_local() && (local || !v4.is_loopback()),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && (local || !v6.is_loopback()),
    };
    let mut found: Vec<IpAddr> = if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip).collect();
    // This machine's own first, as they are only there where they are of use.
    found.sort_by_key(|ip| (!ip.is_loopback(), ip.is_ipv6()));
    Ok(found.into_iter().filter(fits).take(MAX_LOCAL_ADDRESSES).collect())
}

#[cfg(test)]
mod tests;
