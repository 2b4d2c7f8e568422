//! The room's thread: carries datagrams and commands to the hub, and datagrams from it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};

use super::command::Command;
use super::sfu::{Sfu, is_tcp};
use super::sockets::{Sockets, to_canonical, to_socket_family};
use super::stats::RoomStats;
use super::tcp::{TcpConnections, TcpEvent, accept};
use crate::rtc::Protocol;
use crate::rtc::answerer::MAX_DATAGRAM;

/// How many datagrams are taken before anything else has its turn.
const MAX_RECEIVE_BATCH: usize = 64;
/// How often statistics are made.
const STATS_INTERVAL: Duration = Duration::from_millis(500);

/// Runs until told to stop.
pub(super) async fn run(
    hub: Sfu,
    sockets: Sockets,
    mut orders: mpsc::Receiver<Command>,
    stats: Arc<Mutex<Vec<RoomStats>>>,
    mut stop: watch::Receiver<bool>,
) {
    let (bound, listener) = (sockets.address, sockets.tcp.map(TcpListener::from_std).transpose());
    let (udp, listener) = match (UdpSocket::from_std(sockets.udp), listener) {
        (Ok(udp), Ok(listener)) => (udp, listener),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "the room's sockets cannot be used");
            return;
        }
    };
    let mut room = IoLoop {
        sfu: hub,
        udp,
        local_address: bound,
        connections: TcpConnections::new(),
        stats,
        next_stats: Instant::now(),
    };
    loop {
        let deadline = room.sfu.deadline().min(room.next_stats);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep_until(deadline.into()) => room.handle_timeout(),
            read = room.udp.readable() => match read {
                Ok(()) => room.receive_datagrams(),
                Err(error) => tracing::debug!(%error, "media cannot be read"),
            },
            Some(heard) = room.connections.next_event() => room.handle_tcp_event(heard),
            Ok((stream, from)) = accept(listener.as_ref()) => room.connections.add(stream, from),
            order = orders.recv() => match order {
                Some(order) => room.handle_command(order),
                None => break,
            },
        }
        room.send_transmits();
    }
    room.sfu.close(Instant::now());
    room.send_transmits();
    room.update_stats(Instant::now());
}

struct IoLoop {
    sfu: Sfu,
    udp: UdpSocket,
    local_address: SocketAddr,
    connections: TcpConnections,
    stats: Arc<Mutex<Vec<RoomStats>>>,
    next_stats: Instant,
}

impl IoLoop {
    fn handle_timeout(&mut self) {
        let now = Instant::now();
        self.sfu.handle_timeout(now);
        if now >= self.next_stats {
            self.update_stats(now);
        }
    }

    fn update_stats(&mut self, now: Instant) {
        self.next_stats = now + STATS_INTERVAL;
        let stats = self.sfu.stats(now);
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    fn receive_datagrams(&mut self) {
        // One byte more than is taken shows what was cut.
        let mut datagram = [0; MAX_DATAGRAM + 1];
        for _ in 0..MAX_RECEIVE_BATCH {
            match self.udp.try_recv_from(&mut datagram) {
                Ok((length, from)) if length <= MAX_DATAGRAM => {
                    let path = (Protocol::Udp, to_canonical(from));
                    self.sfu.handle_datagram(Instant::now(), path, &datagram[..length]);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Somebody that we sent to is there no more; ICE notices.
                Err(_) => {}
            }
            self.send_transmits();
        }
    }

    fn handle_tcp_event(&mut self, heard: TcpEvent) {
        let now = Instant::now();
        match heard {
            TcpEvent::Frame(from, frame) => {
                if self.sfu.handle_datagram(now, (Protocol::Tcp, from), &frame) {
                    self.connections.mark_authenticated(from);
                }
            }
            TcpEvent::Closed(from) => self.sfu.handle_connection_closed(now, (Protocol::Tcp, from), false),
        }
    }

    fn handle_command(&mut self, order: Command) {
        let now = Instant::now();
        // Whoever does not wait for the answer any more does without.
        match order {
            Command::Join(join, reply) => drop(reply.send(self.sfu.join(now, join))),
            Command::Patch(patch, reply) => drop(reply.send(self.sfu.patch_session(now, &patch))),
            Command::Leave(session, reply) => drop(reply.send(self.sfu.leave(now, &session))),
            Command::CheckSession(session, reply) => drop(reply.send(self.sfu.check_session(&session))),
            Command::SelectLayer(session, layer, reply) => {
                drop(reply.send(self.sfu.set_layer_preference(now, &session, &layer)));
            }
            Command::Subscribe(session, reply) => drop(reply.send(self.sfu.subscribe(now, &session))),
        }
    }

    /// Sends what there is to send. What the system does not take is lost, as any datagram may be.
    fn send_transmits(&mut self) {
        let mut slow = Vec::new();
        for transmit in self.sfu.transmits() {
            if is_tcp(&transmit.remote) {
                if !self.connections.send(transmit.remote.1, transmit.data) {
                    slow.push(transmit.remote);
                }
            } else if let Err(error) =
                self.udp.try_send_to(&transmit.data, to_socket_family(transmit.remote.1, self.local_address))
            {
                tracing::trace!(%error, "a datagram is not sent");
            }
        }
        let now = Instant::now();
        slow.into_iter().for_each(|path| self.sfu.handle_connection_closed(now, path, true));
    }
}
