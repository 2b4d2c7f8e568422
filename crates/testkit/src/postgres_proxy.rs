//! Proxy in front of a PostgreSQL server that cuts connections at chosen moments.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

/// Moment at which a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before a statement reaches the server.
    BeforeStatement,
    /// When the server has executed a statement, before its result reaches the client.
    AfterStatement,
    /// Before `COMMIT` reaches the server.
    BeforeCommit,
    /// As soon as `COMMIT` was sent to the server, which may or may not execute it.
    CommitSent,
    /// When the server has committed, before the client knows.
    AfterCommit,
}

#[derive(Debug, Default)]
struct State {
    /// The next cut, and how many more of its moments pass before.
    armed: Option<(Cut, u32)>,
    /// Whether the proxy goes down with the next cut.
    goes_down: bool,
    cuts: u64,
    is_down: bool,
}

/// A proxy on a port of 127.0.0.1; stopped when dropped.
#[derive(Debug)]
pub struct PostgresProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Changes when all connections are to be closed.
    close_all: watch::Sender<()>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PostgresProxy {
    /// Starts a proxy for the server with this socket.
    ///
    /// # Errors
    /// There is no free port, or no thread can be started.
    pub fn start(socket: PathBuf) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let close_all = watch::Sender::new(());
        let (stop, stopped) = oneshot::channel();
        let (shared, closing) = (Arc::clone(&state), close_all.clone());
        let thread = std::thread::Builder::new()
            .name("postgres-proxy".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, socket, shared, closing) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_background();
            })
            .context("cannot start a thread")?;
        Ok(Self { address, state, close_all, stop: Some(stop), thread: Some(thread) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connection string for a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let (host, port) = (self.address.ip(), self.address.port());
        format!("postgres://{}@{host}:{port}/{database}", crate::postgres::USER)
    }

    /// Cuts the connection that next reaches this moment, after letting `skip` of them pass.
    pub fn cut(&self, cut: Cut, skip: u32) {
        self.state().armed = Some((cut, skip));
    }

    /// Cuts the connection whose client has committed next, before the client knows, and goes down.
    pub fn go_down_after_commit(&self) {
        let mut state = self.state();
        (state.armed, state.goes_down) = (Some((Cut::AfterCommit, 0)), true);
    }

    /// Number of connections that were cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.state().cuts
    }

    /// Closes all connections and refuses new ones, or accepts them again.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
        if is_down {
            self.close_all.send_replace(());
        }
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn accept(
    listener: TcpListener,
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    close_all: watch::Sender<()>,
) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if state.lock().unwrap_or_else(PoisonError::into_inner).is_down {
            continue;
        }
        let (socket, state, mut closing) = (socket.clone(), Arc::clone(&state), close_all.subscribe());
        let close_all = close_all.clone();
        tasks.spawn(async move {
            let Ok(server) = UnixStream::connect(socket).await else { return };
            // Whatever fails, both connections end.
            tokio::select! {
                _ended = relay(client, server, &state) => {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    if state.armed.is_none() && std::mem::take(&mut state.goes_down) {
                        state.is_down = true;
                        close_all.send_replace(());
                    }
                }
                _ = closing.changed() => {}
            }
        });
    }
}

/// Relays a connection until it is cut or ends.
async fn relay(mut client: TcpStream, mut server: UnixStream, state: &Mutex<State>) -> Result<()> {
    client.set_nodelay(true)?;
    let (mut from_client, mut from_server) = (BytesMut::new(), BytesMut::new());
    let mut is_startup = true;
    // A statement whose result is discarded.
    let mut discards = false;
    loop {
        tokio::select! {
            read = client.read_buf(&mut from_client) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some(message) = next_message(&mut from_client, is_startup) {
                    let moment = if is_startup { None } else { cut_at(state, &message) };
                    is_startup = false;
                    if matches!(moment, Some(Cut::BeforeStatement | Cut::BeforeCommit)) {
                        return Ok(());
                    }
                    server.write_all(&message).await?;
                    match moment {
                        Some(Cut::CommitSent) => return Ok(()),
                        Some(_) => discards = true,
                        None => {}
                    }
                }
            }
            read = server.read_buf(&mut from_server) => {
                if read? == 0 {
                    return Ok(());
                }
                if !discards {
                    client.write_all_buf(&mut from_server).await?;
                    continue;
                }
                while let Some(message) = next_message(&mut from_server, false) {
                    // ReadyForQuery: the statement is done.
                    if message[0] == b'Z' {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Takes a complete message from a buffer: a type, except for the first one, and a length with itself.
fn next_message(buffer: &mut BytesMut, is_startup: bool) -> Option<Bytes> {
    let header = usize::from(!is_startup);
    let mut length = buffer.get(header..header + 4)?;
    let length = header + usize::try_from(length.get_u32()).ok()?;
    (buffer.len() >= length).then(|| buffer.split_to(length).freeze())
}

/// Whether a message of the client is the moment of the next cut.
fn cut_at(state: &Mutex<State>, message: &[u8]) -> Option<Cut> {
    let is_commit = message.starts_with(b"Q") && message[5..].starts_with(b"COMMIT");
    let is_query = message[0] == b'Q' && !is_commit;
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let (cut, skip) = state.armed.as_mut()?;
    let is_moment = match cut {
        // A statement with parameters begins with Parse and ends with Sync.
        Cut::BeforeStatement => is_query || message[0] == b'P',
        Cut::AfterStatement => is_query || message[0] == b'S',
        Cut::BeforeCommit | Cut::CommitSent | Cut::AfterCommit => is_commit,
    };
    if !is_moment {
        return None;
    }
    if *skip > 0 {
        *skip -= 1;
        return None;
    }
    let cut = *cut;
    state.armed = None;
    state.cuts += 1;
    Some(cut)
}
