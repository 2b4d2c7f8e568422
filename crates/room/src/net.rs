//! All sockets of one connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pagecast_core::spec::Ice;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::rtc::{Candidate, Protocol};

/// Most addresses of this machine that are offered.
const MAX_ADDRESSES: usize = 8;
/// Datagrams that wait to be read. Full: sockets are read no further, and the system drops what comes.
const WAITING: usize = 256;
/// Longest datagram; what is longer is none of ours.
const MAX_DATAGRAM: usize = 2000;

/// Something that arrived.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) protocol: Protocol,
    /// Who sent it.
    pub(crate) from: SocketAddr,
    /// Which candidate of ours it was sent to.
    pub(crate) to: SocketAddr,
    pub(crate) data: Vec<u8>,
}

/// All sockets of one connection, and what reads them. Dropped, they are closed.
#[derive(Debug)]
pub(crate) struct Net {
    udp: Vec<(SocketAddr, Arc<UdpSocket>)>,
    candidates: Vec<Candidate>,
    received: mpsc::Receiver<Received>,
    _readers: JoinSet<()>,
}

impl Net {
    /// Opens a socket on each address of this machine. `local`: the server is on this machine, so its own addresses will do.
    ///
    /// # Errors
    /// No socket can be opened.
    pub(crate) async fn open(_ice: &Ice, local: bool) -> io::Result<Self> {
        let (sender, received) = mpsc::channel(WAITING);
        let mut net = Self { udp: Vec::new(), candidates: Vec::new(), received, _readers: JoinSet::new() };
        let mut problem = None;
        for ip in addresses(local)? {
            match UdpSocket::bind((ip, 0)).await {
                Ok(socket) => net.add(socket, sender.clone())?,
                Err(error) => problem = Some(error),
            }
        }
        match problem {
            Some(error) if net.udp.is_empty() => Err(error),
            _ => Ok(net),
        }
    }

    fn add(&mut self, socket: UdpSocket, sender: mpsc::Sender<Received>) -> io::Result<()> {
        let address = socket.local_addr()?;
        let socket = Arc::new(socket);
        let candidate = Candidate::host(address, Protocol::Udp).map_err(io::Error::other)?;
        self.candidates.push(candidate);
        self.udp.push((address, Arc::clone(&socket)));
        self._readers.spawn(read(socket, address, sender));
        Ok(())
    }

    /// The ways in which this side can be reached.
    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Sends from one of the candidates. Never waits: what does not fit into a socket is lost, as it would be on the way.
    pub(crate) fn send(&self, _protocol: Protocol, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if let Some((_, socket)) = self.udp.iter().find(|(address, _)| *address == from)
            && let Err(error) = socket.try_send_to(data, to)
        {
            tracing::trace!(%error, %to, "a datagram is not sent");
        }
    }

    /// Asks further servers for ways in which this side can be reached.
    pub(crate) async fn add_servers(&mut self, _ice: &Ice) -> Vec<Candidate> {
        std::future::ready(Vec::new()).await
    }

    /// The next datagram, if one waits.
    pub(crate) fn try_receive(&mut self) -> Option<Received> {
        self.received.try_recv().ok()
    }

    /// Waits for the next datagram. Safe to be dropped and called again.
    pub(crate) async fn receive(&mut self) -> Received {
        match self.received.recv().await {
            Some(received) => received,
            // All sockets failed; nothing comes any more, which others notice.
            None => std::future::pending().await,
        }
    }
}

async fn read(socket: Arc<UdpSocket>, address: SocketAddr, sender: mpsc::Sender<Received>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let data = buffer[..length].to_vec();
                let received = Received { protocol: Protocol::Udp, from, to: address, data };
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
fn addresses(local: bool) -> io::Result<Vec<IpAddr>> {
    let fits = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => !v4.is_link_local() && (local || !v4.is_loopback()),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && (local || !v6.is_loopback()),
    };
    let mut found: Vec<IpAddr> = if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip).collect();
    // This machine's own first, as they are only there where they are of use.
    found.sort_by_key(|ip| (!ip.is_loopback(), ip.is_ipv6()));
    Ok(found.into_iter().filter(fits).take(MAX_ADDRESSES).collect())
}
