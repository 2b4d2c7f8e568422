//! S3 server that checks signatures, with faults that can be switched on and off.
//!
//! The crate `s3s-fs` is the storage, with a list of multipart uploads added; a fault injector is in front of
//! it.

mod fault_injector;
mod listed_files;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use fault_injector::FaultInjector;

/// A fault of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectedFault {
    /// Refuses connections and closes those that are open.
    Down,
    /// Closes the connection in the middle of a request body.
    ResetMidBody,
    /// Responds to every request with 500.
    Error500,
    /// Reads request bodies at this rate, in bytes per second.
    Throttled(u64),
    /// Responds to every request with 403.
    Denied403,
    /// Reads the whole request body, discards it and closes the connection.
    DiscardBody,
    /// Neither reads nor responds.
    Stall,
    /// Creates multipart uploads, and closes the connection instead of responding with their ids, also when
    /// they are listed.
    LostUploadId,
    /// Responds with 403 to requests for a list of multipart uploads.
    DeniedListing,
}

/// An access key of the storage.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Secret of the key.
    pub secret: String,
    /// Session token that requests need with the key.
    pub token: Option<String>,
    /// Whether the key has expired.
    pub expired: bool,
}

/// State shared by the threads.
#[derive(Debug, Default)]
struct ServerState {
    fault: Mutex<Option<InjectedFault>>,
    keys: Mutex<BTreeMap<String, Credential>>,
    request_counts: Mutex<BTreeMap<&'static str, u64>>,
    /// How often each object was written, by its path.
    write_counts: Mutex<BTreeMap<String, u64>>,
    uploads: Mutex<Vec<CreatedUpload>>,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Debug)]
struct CreatedUpload {
    bucket: String,
    key: String,
    id: String,
}

/// An S3 server on a port of 127.0.0.1; stopped when dropped.
#[derive(Debug)]
pub struct S3Server {
    root: PathBuf,
    address: SocketAddr,
    state: Arc<ServerState>,
    thread: Option<ServerThread>,
}

/// The thread that runs the server.
#[derive(Debug)]
struct ServerThread {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Command {
    action: Action,
    done: SyncSender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Listen,
    RefuseConnections,
    Shutdown,
}

impl S3Server {
    /// Starts a server with one key that keeps its objects in `root`.
    ///
    /// # Errors
    /// There is no free port, or no thread can be started.
    pub fn start(root: &Path, access_key: &str, secret_key: &str) -> Result<Self> {
        fs::create_dir_all(root)?;
        let (root, state) = (root.canonicalize()?, Arc::new(ServerState::default()));
        let mut server = Self { root, address: ([127, 0, 0, 1], 0).into(), state, thread: None };
        server.add_key(access_key, Credential { secret: secret_key.into(), token: None, expired: false });
        server.restart()?;
        Ok(server)
    }

    /// Stops the server: refuses connections and closes those that are open.
    pub fn stop(&mut self) {
        if let Some(running) = self.thread.take() {
            send_command(&running.commands, Action::Shutdown);
            let _a_panic_was_shown = running.thread.join();
        }
    }

    /// Stops the server and starts it again on the same port, with the same objects.
    ///
    /// # Errors
    /// The port is in use.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let front = FaultInjector::new(&self.root, self.state.clone())?;
        let socket = bind_socket(self.address)?;
        self.address = socket.local_addr()?;
        let (commands, receiver) = mpsc::channel(8);
        let thread = std::thread::Builder::new().name("s3".into());
        let thread = thread.spawn(move || run_server(&runtime, front, socket, receiver))?;
        send_command(&commands, Action::Listen);
        self.thread = Some(ServerThread { commands, thread });
        Ok(())
    }

    /// Endpoint URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the fault from now on; `None` ends it.
    pub fn set_fault(&self, fault: Option<InjectedFault>) {
        *lock(&self.state.fault) = fault;
        if let Some(running) = &self.thread {
            send_command(
                &running.commands,
                if fault == Some(InjectedFault::Down) { Action::RefuseConnections } else { Action::Listen },
            );
        }
    }

    /// Adds a key, or replaces its secret.
    pub fn add_key(&self, access_key: &str, credential: Credential) {
        lock(&self.state.keys).insert(access_key.to_owned(), credential);
    }

    /// Expires all keys that have a token.
    pub fn expire_temporary_keys(&self) {
        lock(&self.state.keys)
            .values_mut()
            .filter(|key| key.token.is_some())
            .for_each(|key| key.expired = true);
    }

    /// Creates a bucket.
    ///
    /// # Errors
    /// The disk is full.
    pub fn make_bucket(&self, name: &str) -> Result<()> {
        fs::create_dir_all(self.root.join(name)).context("cannot create a bucket")
    }

    /// Names and sizes of all objects in a bucket.
    ///
    /// # Errors
    /// There is no such bucket.
    pub fn objects(&self, bucket: &str) -> Result<BTreeMap<String, u64>> {
        let bucket = self.root.join(bucket);
        let (mut found, mut folders) = (BTreeMap::new(), vec![bucket.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    let name = entry.path().strip_prefix(&bucket)?.to_string_lossy().into_owned();
                    found.insert(name, entry.metadata()?.len());
                }
            }
        }
        Ok(found)
    }

    /// The file that holds an object.
    #[must_use]
    pub fn object_path(&self, bucket: &str, name: &str) -> PathBuf {
        self.root.join(bucket).join(name)
    }

    /// Number of multipart uploads that are neither completed nor aborted, plus their parts.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn pending_uploads(&self) -> Result<usize> {
        let entries = fs::read_dir(&self.root)?.flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.starts_with(".upload")).count())
    }

    /// Metadata of an object, such as its content type, as JSON.
    ///
    /// # Errors
    /// There is no metadata.
    pub fn object_metadata(&self, name: &str) -> Result<String> {
        let all = fs::read_dir(&self.root)?.flatten().map(|entry| entry.path());
        let texts = all.filter(|p| p.is_file()).filter_map(|path| fs::read_to_string(path).ok());
        let mut texts = texts.filter(|text| text.contains(name));
        texts.next().with_context(|| format!("no object has metadata with {name}"))
    }

    /// How often each object of a bucket was written, by its name.
    #[must_use]
    pub fn write_counts(&self, bucket: &str) -> BTreeMap<String, u64> {
        let prefix = format!("/{bucket}/");
        let counts = lock(&self.state.write_counts);
        let inside = counts.iter().filter_map(|(path, count)| Some((path.strip_prefix(&prefix)?, *count)));
        inside.map(|(name, count)| (name.to_owned(), count)).collect()
    }

    /// Number of requests of a kind: `put`, `part`, `begin`, `complete`, `abort`, `list` (of uploads),
    /// `delete`, `head`, `other`.
    #[must_use]
    pub fn request_count(&self, kind: &str) -> u64 {
        lock(&self.state.request_counts).get(kind).copied().unwrap_or(0)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a command and waits until it is carried out. May block, as the server has its own thread.
fn send_command(commands: &mpsc::Sender<Command>, action: Action) {
    let (done, finished): (_, Receiver<()>) = sync_channel(1);
    if commands.try_send(Command { action, done }).is_ok() {
        let _server_ended = finished.recv();
    }
}

/// A socket that holds its port and refuses connections, as it does not listen.
fn bind_socket(address: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot bind {address}"))?;
    Ok(socket)
}

fn run_server(
    runtime: &Runtime,
    front: FaultInjector,
    socket: TcpSocket,
    mut commands: mpsc::Receiver<Command>,
) {
    runtime.block_on(async move {
        let mut connections = JoinSet::new();
        let (mut refusing, mut listening): (_, Option<TcpListener>) = (Some(socket), None);
        loop {
            tokio::select! {
                stream = accept(listening.as_ref()) => {
                    connections.spawn(front.clone().serve_connection(stream));
                }
                Some(_) = connections.join_next() => {}
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    if command.action == Action::Listen && let Some(socket) = refusing.take() {
                        listening = socket.listen(64).ok();
                    }
                    if command.action != Action::Listen {
                        let address = listening.take().and_then(|l| l.local_addr().ok());
                        connections.shutdown().await;
                        refusing = address.and_then(|address| bind_socket(address).ok()).or(refusing);
                    }
                    let _no_receiver = command.done.send(());
                    if command.action == Action::Shutdown {
                        return;
                    }
                }
            }
        }
    });
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            return stream;
        }
    }
}
