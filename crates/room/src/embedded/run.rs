//! The room's thread: carries datagrams and commands to the hub, and datagrams from it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};

use super::command::Command;
use super::hub::{Hub, is_tcp};
use super::sockets::{Sockets, canonical, mapped};
use super::stats::RoomStats;
use super::tcp::{Connections, Heard, accept};
use crate::rtc::Protocol;
use crate::rtc::serve::MAX_DATAGRAM;

/// How many datagrams are taken before anything else has its turn.
const BATCH: usize = 64;
/// How often statistics are made.
const STATS_EVERY: Duration = Duration::from_millis(500);

/// Runs until told to stop.
pub(super) async fn run(
    hub: Hub,
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
    let mut room = Room { hub, udp, bound, connections: Connections::new(), stats, stats_at: Instant::now() };
    loop {
        let deadline = room.hub.deadline().min(room.stats_at);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep_until(deadline.into()) => room.pass(),
            read = room.udp.readable() => match read {
                Ok(()) => room.read(),
                Err(error) => tracing::debug!(%error, "media cannot be read"),
            },
            Some(heard) = room.connections.next() => room.hear(heard),
            Ok((stream, from)) = accept(listener.as_ref()) => room.connections.add(stream, from),
            order = orders.recv() => match order {
                Some(order) => room.obey(order),
                None => break,
            },
        }
        room.send();
    }
    room.hub.close(Instant::now());
    room.send();
    room.report(Instant::now());
}

struct Room {
    hub: Hub,
    udp: UdpSocket,
    bound: SocketAddr,
    connections: Connections,
    stats: Arc<Mutex<Vec<RoomStats>>>,
    stats_at: Instant,
}

impl Room {
    fn pass(&mut self) {
        let now = Instant::now();
        self.hub.pass(now);
        if now >= self.stats_at {
            self.report(now);
        }
    }

    fn report(&mut self, now: Instant) {
        self.stats_at = now + STATS_EVERY;
        let stats = self.hub.stats(now);
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    fn read(&mut self) {
        // One byte more than is taken shows what was cut.
        let mut datagram = [0; MAX_DATAGRAM + 1];
        for _ in 0..BATCH {
            match self.udp.try_recv_from(&mut datagram) {
                Ok((length, from)) if length <= MAX_DATAGRAM => {
                    let path = (Protocol::Udp, canonical(from));
                    self.hub.receive(Instant::now(), path, &datagram[..length]);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Somebody that we sent to is there no more; ICE notices.
                Err(_) => {}
            }
            self.send();
        }
    }

    fn hear(&mut self, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Frame(from, frame) => {
                if self.hub.receive(now, (Protocol::Tcp, from), &frame) {
                    self.connections.proven(from);
                }
            }
            Heard::Closed(from) => self.hub.cut(now, (Protocol::Tcp, from), false),
        }
    }

    fn obey(&mut self, order: Command) {
        let now = Instant::now();
        // Whoever does not wait for the answer any more does without.
        match order {
            Command::Join(join, reply) => drop(reply.send(self.hub.join(now, join))),
            Command::Patch(patch, reply) => drop(reply.send(self.hub.patch(now, &patch))),
            Command::Leave(session, reply) => drop(reply.send(self.hub.leave(now, &session))),
            Command::Ask(session, reply) => drop(reply.send(self.hub.ask(&session))),
            Command::Layer(session, layer, reply) => drop(reply.send(self.hub.wish(now, &session, &layer))),
            Command::Listen(session, reply) => drop(reply.send(self.hub.listen(now, &session))),
        }
    }

    /// Sends what there is to send. What the system does not take is lost, as any datagram may be.
    fn send(&mut self) {
        let mut slow = Vec::new();
        for transmit in self.hub.transmits() {
            if is_tcp(&transmit.path) {
                if !self.connections.send(transmit.path.1, transmit.data) {
                    slow.push(transmit.path);
                }
            } else if let Err(error) =
                self.udp.try_send_to(&transmit.data, mapped(transmit.path.1, self.bound))
            {
                tracing::trace!(%error, "a datagram is not sent");
            }
        }
        let now = Instant::now();
        slow.into_iter().for_each(|path| self.hub.cut(now, path, true));
    }
}
