//! Media by TCP, for those whose UDP does not get through (RFC 6544, passive; frames as in RFC 4571).

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

/// Most connections; more are closed at once.
const MAX_CONNECTIONS: usize = 512;
/// Frames for the room that it has not looked at; connections wait for it.
const MAX_QUEUED_INCOMING: usize = 256;
/// Frames that a connection has not taken: a keyframe or two. One that leaves more lying reads too slowly, and is closed.
const MAX_QUEUED_OUTGOING: usize = 512;
/// Who says nothing that makes sense within this time is closed.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(5);
/// A frame must be taken within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What comes from a connection.
#[derive(Debug)]
pub(super) enum TcpEvent {
    /// A frame.
    Frame(SocketAddr, Vec<u8>),
    /// Nothing any more.
    Closed(SocketAddr),
}

/// All connections.
#[derive(Debug)]
pub(super) struct TcpConnections {
    open: HashMap<SocketAddr, Connection>,
    events: mpsc::Receiver<TcpEvent>,
    event_sender: mpsc::Sender<TcpEvent>,
    tasks: JoinSet<()>,
}

/// Our end of one.
#[derive(Debug)]
struct Connection {
    frame_sender: mpsc::Sender<Vec<u8>>,
    authenticated: Arc<Notify>,
}

impl TcpConnections {
    /// None yet.
    pub(super) fn new() -> Self {
        let (to_us, heard) = mpsc::channel(MAX_QUEUED_INCOMING);
        Self { open: HashMap::new(), events: heard, event_sender: to_us, tasks: JoinSet::new() }
    }

    /// Somebody has connected.
    pub(super) fn add(&mut self, stream: TcpStream, from: SocketAddr) {
        while self.tasks.try_join_next().is_some() {}
        let from = to_canonical(from);
        if self.open.len() >= MAX_CONNECTIONS || stream.set_nodelay(true).is_err() {
            return;
        }
        let (outbox, frames) = mpsc::channel(MAX_QUEUED_OUTGOING);
        let (to_us, proven) = (self.event_sender.clone(), Arc::new(Notify::new()));
        self.open.insert(from, Connection { frame_sender: outbox, authenticated: Arc::clone(&proven) });
        self.tasks.spawn(async move {
            let (read, write) = stream.into_split();
            let proof = async {
                if tokio::time::timeout(AUTHENTICATION_TIMEOUT, proven.notified()).await.is_ok() {
                    std::future::pending::<()>().await;
                }
            };
            let why = tokio::select! {
                read = read_frames(read, from, &to_us) => read,
                written = write_frames(write, frames) => written,
                () = proof => Err(io::Error::other("it proved nothing")),
            };
            tracing::trace!(%from, ?why, "a connection ends");
            // If nobody hears it, everything has ended.
            let _heard = to_us.send(TcpEvent::Closed(from)).await;
        });
    }

    /// What comes next.
    pub(super) async fn next_event(&mut self) -> Option<TcpEvent> {
        let heard = self.events.recv().await;
        if let Some(TcpEvent::Closed(from)) = &heard {
            self.open.remove(from);
        }
        heard
    }

    /// Somebody at this address has proven to be of a session.
    pub(super) fn mark_authenticated(&self, from: SocketAddr) {
        if let Some(connection) = self.open.get(&from) {
            connection.authenticated.notify_one();
        }
    }

    /// Sends a frame; false if it reads too slowly, and is closed.
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

/// The next who connects; never, if nobody can.
pub(super) async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn read_frames(
    mut read: tcp::OwnedReadHalf,
    from: SocketAddr,
    to_us: &mpsc::Sender<TcpEvent>,
) -> io::Result<()> {
    loop {
        let length = usize::from(read.read_u16().await?);
        if length > MAX_DATAGRAM {
            return Err(io::Error::other("a frame is too large"));
        }
        let mut frame = vec![0; length];
        read.read_exact(&mut frame).await?;
        if to_us.send(TcpEvent::Frame(from, frame)).await.is_err() {
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
