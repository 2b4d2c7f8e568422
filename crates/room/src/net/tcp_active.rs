//! Connections to servers that want TCP (RFC 6544): made from here when the first packet is to be sent, framed as RFC 4571 says.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::stream::{Framing, PacketStream};
use super::{MAX_DATAGRAM_BYTES, ReceivedDatagram};
use crate::rtc::{Candidate, Protocol, TcpType};

/// The port of an address that connects and is never connected to (RFC 6544 section 4.5).
const DISCARD_PORT: u16 = 9;
/// Most connections.
const MAX_CONNECTIONS: usize = 16;
/// Datagrams on their way to a connection. Full: later ones are dropped.
const MAX_QUEUED_PACKETS: usize = 64;
/// A connection that failed is made again after this.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The connections of one candidate each way.
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
    /// How this machine says that it could connect from an address.
    pub(super) fn candidate(ip: IpAddr) -> Option<Candidate> {
        let builder = Candidate::builder().tcp().host(SocketAddr::new(ip, DISCARD_PORT));
        builder.tcptype(TcpType::Active).build().ok()
    }

    /// Sends from the candidate of an address, and connects if need be.
    pub(super) fn send(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        data: &[u8],
        incoming: &mpsc::Sender<ReceivedDatagram>,
        tasks: &mut JoinSet<()>,
    ) {
        // Nobody listens where others connect from.
        if to.port() == DISCARD_PORT {
            return;
        }
        let key = (from.ip(), to);
        let is_over = |c: &Connection| c.outgoing.is_closed() && c.started_at.elapsed() > RECONNECT_DELAY;
        if self.connections.get(&key).is_none_or(is_over) {
            if self.connections.len() == MAX_CONNECTIONS && !self.connections.contains_key(&key) {
                return;
            }
            let (outgoing, orders) = mpsc::channel(MAX_QUEUED_PACKETS);
            tasks.spawn(run_connection(from, to, orders, incoming.clone()));
            self.connections.insert(key, Connection { outgoing, started_at: Instant::now() });
        }
        if let Some(connection) = self.connections.get(&key)
            && connection.outgoing.try_send(data.to_vec()).is_err()
        {
            tracing::trace!(%to, "a packet is not sent");
        }
    }
}

/// One connection, until it ends.
async fn run_connection(
    from: SocketAddr,
    to: SocketAddr,
    mut orders: mpsc::Receiver<Vec<u8>>,
    incoming: mpsc::Sender<ReceivedDatagram>,
) {
    let any = SocketAddr::new(from.ip(), 0);
    let mut stream = match PacketStream::open(to, Some(any), None, Framing::Rfc4571).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, %to, "a server is not reached by TCP");
            return;
        }
    };
    loop {
        let received = tokio::select! {
            received = stream.receive() => received,
            order = orders.recv() => match order {
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
                tracing::debug!(%error, %to, "a connection by TCP ends");
                return;
            }
        }
    }
}
