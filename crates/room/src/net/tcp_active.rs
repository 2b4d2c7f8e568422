//! Active TCP candidates (RFC 6544). A connection opens when the first packet is sent, with RFC 4571 framing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::stream::{Framing, PacketStream};
use super::{MAX_DATAGRAM_BYTES, ReceivedDatagram};
use crate::rtc::{Candidate, Protocol, TcpType};

/// Port of active TCP candidates, which never accept connections (RFC 6544 section 4.5).
const DISCARD_PORT: u16 = 9;
/// Most connections: a server offers a few TCP candidates, and each local address may try each.
const MAX_CONNECTIONS: usize = 16;
/// Datagrams queued for a connection. When full, later ones are dropped.
const MAX_QUEUED_PACKETS: usize = 64;
/// Shortest time between two attempts at one connection.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Open TCP connections, by local address and remote candidate.
#[derive(Debug, Default)]
pub(super) struct ActiveTcp {
    connections: HashMap<(IpAddr, SocketAddr), Connection>,
}

#[derive(Debug)]
struct Connection {
    outgoing: mpsc::Sender<Vec<u8>>,
    started_at: Instant,
}

impl ActiveTcp {
    /// The active TCP candidate of a local address.
    pub(super) fn candidate(ip: IpAddr) -> Option<Candidate> {
        let builder = Candidate::builder().tcp().host(SocketAddr::new(ip, DISCARD_PORT));
        builder.tcptype(TcpType::Active).build().ok()
    }

    /// Sends from an active candidate; opens the connection if there is none.
    pub(super) fn send(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        data: &[u8],
        incoming: &mpsc::Sender<ReceivedDatagram>,
        tasks: &mut JoinSet<()>,
    ) {
        // The remote candidate is active, too, and accepts no connections.
        if to.port() == DISCARD_PORT {
            return;
        }
        let key = (from.ip(), to);
        let can_reconnect =
            |c: &Connection| c.outgoing.is_closed() && c.started_at.elapsed() > RECONNECT_DELAY;
        if self.connections.get(&key).is_none_or(can_reconnect) {
            if self.connections.len() == MAX_CONNECTIONS && !self.connections.contains_key(&key) {
                return;
            }
            let (outgoing, queued) = mpsc::channel(MAX_QUEUED_PACKETS);
            tasks.spawn(run_connection(from, to, queued, incoming.clone()));
            self.connections.insert(key, Connection { outgoing, started_at: Instant::now() });
        }
        if let Some(connection) = self.connections.get(&key)
            && connection.outgoing.try_send(data.to_vec()).is_err()
        {
            tracing::trace!(%to, "packet dropped, TCP queue full");
        }
    }
}

/// Runs one connection until it ends.
async fn run_connection(
    from: SocketAddr,
    to: SocketAddr,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
    incoming: mpsc::Sender<ReceivedDatagram>,
) {
    let any = SocketAddr::new(from.ip(), 0);
    let mut stream = match PacketStream::open(to, Some(any), None, Framing::Rfc4571).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, %to, "TCP connect failed");
            return;
        }
    };
    loop {
        let received = tokio::select! {
            received = stream.receive() => received,
            packet = outgoing.recv() => match packet {
                Some(data) => {
                    stream.send(&data);
                    continue;
                }
                None => return,
            },
        };
        match received {
            Ok(data) if data.len() > MAX_DATAGRAM_BYTES => {}
            Ok(data) => {
                let received = ReceivedDatagram { protocol: Protocol::Tcp, from: to, to: from, data };
                if incoming.send(received).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, %to, "TCP connection closed");
                return;
            }
        }
    }
}
