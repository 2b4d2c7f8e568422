//! Media over TCP, for clients whose UDP is blocked (RFC 6544, passive; framing of RFC 4571).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::sockets::to_canonical;
use crate::rtc::answerer::MAX_DATAGRAM;

/// Most connections; further ones are closed at once. One for each of the default limit of viewers.
const MAX_CONNECTIONS: usize = 512;
/// Received frames that wait for the SFU. When full, connections are not read.
const MAX_QUEUED_INCOMING: usize = 256;
/// Frames that wait to be written to one connection: one or two keyframes. When full, it is closed.
const MAX_QUEUED_OUTGOING: usize = 512;
/// Time after which a connection is closed if no ICE check with valid credentials arrived on it.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest duration of writing one frame.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Event of a connection.
#[derive(Debug)]
pub(super) enum TcpEvent {
    /// A frame was received.
    Frame(SocketAddr, Vec<u8>),
    /// The connection was closed.
    Closed(SocketAddr),
}

/// All open connections.
#[derive(Debug)]
pub(super) struct TcpConnections {
    open: HashMap<SocketAddr, Connection>,
    events: mpsc::Receiver<TcpEvent>,
    event_sender: mpsc::Sender<TcpEvent>,
    tasks: JoinSet<()>,
}

/// Handle of a connection's task.
#[derive(Debug)]
struct Connection {
    frame_sender: mpsc::Sender<Vec<u8>>,
    authenticated: Arc<Notify>,
}

impl TcpConnections {
    /// An empty set of connections.
    pub(super) fn new() -> Self {
        let (event_sender, events) = mpsc::channel(MAX_QUEUED_INCOMING);
        Self { open: HashMap::new(), events, event_sender, tasks: JoinSet::new() }
    }

    /// Adds an accepted connection.
    pub(super) fn add(&mut self, stream: TcpStream, from: SocketAddr) {
        while self.tasks.try_join_next().is_some() {}
        let from = to_canonical(from);
        if self.open.len() >= MAX_CONNECTIONS || stream.set_nodelay(true).is_err() {
            return;
        }
        let (frame_sender, frames) = mpsc::channel(MAX_QUEUED_OUTGOING);
        let (events, authenticated) = (self.event_sender.clone(), Arc::new(Notify::new()));
        self.open.insert(from, Connection { frame_sender, authenticated: Arc::clone(&authenticated) });
        self.tasks.spawn(async move {
            let (read, write) = stream.into_split();
            let unauthenticated = async {
                if tokio::time::timeout(AUTHENTICATION_TIMEOUT, authenticated.notified()).await.is_ok() {
                    std::future::pending::<()>().await;
                }
            };
            let reason = tokio::select! {
                read = read_frames(read, from, &events) => read,
                written = write_frames(write, frames) => written,
                () = unauthenticated => Err(io::Error::other("no authenticated ICE check arrived")),
            };
            tracing::trace!(remote = %from, ?reason, "tcp connection closed");
            // The receiver is gone only if the rooms have ended.
            let _sent = events.send(TcpEvent::Closed(from)).await;
        });
    }

    /// Waits for the next event. Cancel-safe.
    pub(super) async fn next_event(&mut self) -> Option<TcpEvent> {
        let event = self.events.recv().await;
        if let Some(TcpEvent::Closed(from)) = &event {
            self.open.remove(from);
        }
        event
    }

    /// Marks a connection as authenticated, so that it stays open.
    pub(super) fn mark_authenticated(&self, from: SocketAddr) {
        if let Some(connection) = self.open.get(&from) {
            connection.authenticated.notify_one();
        }
    }

    /// Queues a frame. Returns false if the queue is full, and closes the connection.
    pub(super) fn send(&mut self, to: SocketAddr, frame: Vec<u8>) -> bool {
        let Some(connection) = self.open.get(&to) else { return true };
        match connection.frame_sender.try_send(frame) {
            Ok(()) => true,
            Err(_) => {
                self.open.remove(&to);
                false
            }
        }
    }
}

/// Accepts the next connection. Waits forever without a listener.
pub(super) async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn read_frames(
    mut read: tcp::OwnedReadHalf,
    from: SocketAddr,
    events: &mpsc::Sender<TcpEvent>,
) -> io::Result<()> {
    loop {
        let length = usize::from(read.read_u16().await?);
        if length > MAX_DATAGRAM {
            return Err(io::Error::other("a frame is larger than a datagram may be"));
        }
        let mut frame = vec![0; length];
        read.read_exact(&mut frame).await?;
        if events.send(TcpEvent::Frame(from, frame)).await.is_err() {
            return Ok(());
        }
    }
}

async fn write_frames(mut write: tcp::OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        let Ok(length) = u16::try_from(frame.len()) else { continue };
        let whole = [&length.to_be_bytes()[..], &frame].concat();
        tokio::time::timeout(WRITE_TIMEOUT, write.write_all(&whole)).await??;
    }
    Ok(())
}
