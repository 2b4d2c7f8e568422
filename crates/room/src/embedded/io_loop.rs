//! Loop of the media thread: moves datagrams and commands to the SFU, and datagrams from it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};

use super::command::Command;
use super::sfu::{Input, Output, Sfu};
use super::sockets::{Sockets, to_canonical, to_socket_family};
use super::stats::RoomStats;
use super::tcp::{TcpConnections, TcpEvent, accept};
use crate::rtc::answerer::MAX_DATAGRAM;
use crate::rtc::{Protocol, Transmit};
use crate::timer::sleep_until;

/// Most datagrams received before commands and timeouts get their turn.
const MAX_RECEIVE_BATCH: usize = 64;
/// Interval of statistics: readers poll them about every second.
const STATS_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the loop until `stop`.
pub(super) async fn run(
    sfu: Sfu,
    sockets: Sockets,
    mut commands: mpsc::Receiver<Command>,
    stats: Arc<Mutex<Vec<RoomStats>>>,
    mut stop: watch::Receiver<bool>,
) {
    let (local_address, listener) = (sockets.address, sockets.tcp.map(TcpListener::from_std).transpose());
    let (udp, listener) = match (UdpSocket::from_std(sockets.udp), listener) {
        (Ok(udp), Ok(listener)) => (udp, listener),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "room sockets failed");
            return;
        }
    };
    let mut room = IoLoop {
        sfu,
        udp,
        local_address,
        connections: TcpConnections::new(),
        stats,
        next_stats: Instant::now(),
    };
    loop {
        let deadline = [room.sfu.deadline(), Some(room.next_stats)].into_iter().flatten().min();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = sleep_until(deadline) => room.handle_timeout(),
            readable = room.udp.readable() => match readable {
                Ok(()) => room.receive_datagrams(),
                Err(error) => tracing::debug!(%error, "room UDP socket receive failed"),
            },
            Some(event) = room.connections.next_event() => room.handle_tcp_event(event),
            Ok((stream, from)) = accept(listener.as_ref()) => room.connections.add(stream, from),
            command = commands.recv() => match command {
                Some(command) => room.handle_command(command),
                None => break,
            },
        }
        room.drain_sfu();
    }
    room.sfu.handle(Instant::now(), Input::Close);
    room.drain_sfu();
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
        self.sfu.handle(now, Input::Timeout);
        self.drain_sfu();
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
        // One byte more than the limit, to detect datagrams that are too large.
        let mut datagram = [0; MAX_DATAGRAM + 1];
        for _ in 0..MAX_RECEIVE_BATCH {
            match self.udp.try_recv_from(&mut datagram) {
                Ok((length, from)) if length <= MAX_DATAGRAM => {
                    let remote = (Protocol::Udp, to_canonical(from));
                    self.sfu.handle(Instant::now(), Input::Datagram { remote, data: &datagram[..length] });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // ICMP refused an earlier datagram; ICE notices that the client is gone.
                Err(_) => {}
            }
            self.drain_sfu();
        }
    }

    fn handle_tcp_event(&mut self, event: TcpEvent) {
        let now = Instant::now();
        match event {
            TcpEvent::Frame(from, frame) => {
                self.sfu.handle(now, Input::Datagram { remote: (Protocol::Tcp, from), data: &frame });
            }
            TcpEvent::Closed(from) => {
                let remote = (Protocol::Tcp, from);
                self.sfu.handle(now, Input::ConnectionClosed { remote, queue_full: false });
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        // A request that timed out no longer waits for its response.
        match command {
            Command::Join(join, reply) => drop(reply.send(self.sfu.join(now, join))),
            Command::Patch(patch, reply) => drop(reply.send(self.sfu.patch_session(now, &patch))),
            Command::Leave(session, reply) => drop(reply.send(self.sfu.leave(now, &session))),
            Command::CheckSession(session, reply) => drop(reply.send(self.sfu.check_session(&session))),
            Command::SelectLayer(session, layer, reply) => {
                drop(reply.send(self.sfu.set_layer_preference(now, &session, &layer)));
            }
            Command::CloseRoom(room) => self.sfu.handle(now, Input::CloseRoom(&room)),
            Command::Subscribe(session, reply) => drop(reply.send(self.sfu.subscribe(now, &session))),
        }
    }

    /// Carries out the SFU's outputs. Datagrams that the socket does not accept are lost.
    fn drain_sfu(&mut self) {
        let now = Instant::now();
        while let Some(output) = self.sfu.poll(now) {
            match output {
                Output::Transmit(transmit) => self.send(now, transmit),
                Output::KeepConnection(remote) => self.connections.mark_authenticated(remote),
            }
        }
    }

    fn send(&mut self, now: Instant, Transmit { protocol, destination, data, .. }: Transmit) {
        if protocol == Protocol::Tcp {
            if !self.connections.send(destination, data) {
                let remote = (Protocol::Tcp, destination);
                self.sfu.handle(now, Input::ConnectionClosed { remote, queue_full: true });
            }
        } else if let Err(error) =
            self.udp.try_send_to(&data, to_socket_family(destination, self.local_address))
        {
            tracing::trace!(%error, "datagram send failed");
        }
    }
}
