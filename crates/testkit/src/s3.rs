//! A storage that speaks S3 and checks signatures, with troubles that can be switched on and off.
//!
//! The storage itself is the crate `s3s-fs`; in front of it stands what goes wrong.

mod fault_injector;

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

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectedFault {
    /// Connections are refused, and those that there are end.
    Down,
    /// Connections end in the middle of a body.
    ResetMidBody,
    /// Every answer is an error of the server, 500.
    Error500,
    /// Bodies are taken at so many bytes per second.
    Throttled(u64),
    /// Every answer is a refusal, 403.
    Denied403,
    /// Bodies are taken whole and forgotten, then the connection ends.
    DiscardBody,
    /// Nothing is read and nothing answered.
    Stall,
}

/// A key that the storage knows.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Its secret.
    pub secret: String,
    /// The token that belongs to it.
    pub token: Option<String>,
    /// It is too old.
    pub expired: bool,
}

/// What the threads share.
#[derive(Debug, Default)]
struct ServerState {
    fault: Mutex<Option<InjectedFault>>,
    keys: Mutex<BTreeMap<String, Credential>>,
    request_counts: Mutex<BTreeMap<&'static str, u64>>,
}

/// The storage, on a port of 127.0.0.1; gone when dropped.
#[derive(Debug)]
pub struct S3Server {
    root: PathBuf,
    address: SocketAddr,
    state: Arc<ServerState>,
    thread: Option<ServerThread>,
}

/// A thread that serves.
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
    /// Starts one that keeps its objects in `root` and knows one key.
    ///
    /// # Errors
    /// No port or no thread.
    pub fn start(root: &Path, access_key: &str, secret_key: &str) -> Result<Self> {
        fs::create_dir_all(root)?;
        let (root, state) = (root.canonicalize()?, Arc::new(ServerState::default()));
        let mut server = Self { root, address: ([127, 0, 0, 1], 0).into(), state, thread: None };
        server.add_key(access_key, Credential { secret: secret_key.into(), token: None, expired: false });
        server.restart()?;
        Ok(server)
    }

    /// Ends it: connections are refused, and those that there are end.
    pub fn stop(&mut self) {
        if let Some(running) = self.thread.take() {
            send_command(&running.commands, Action::Shutdown);
            let _a_panic_was_shown = running.thread.join();
        }
    }

    /// Ends it and starts it again on the same port, with the same objects.
    ///
    /// # Errors
    /// The port is taken.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let front = FaultInjector::new(&self.root, self.state.clone())?;
        let socket = bind_socket(self.address)?;
        self.address = socket.local_addr()?;
        let (orders, inbox) = mpsc::channel(8);
        let thread = std::thread::Builder::new().name("s3".into());
        let thread = thread.spawn(move || run_server(&runtime, front, socket, inbox))?;
        send_command(&orders, Action::Listen);
        self.thread = Some(ServerThread { commands: orders, thread });
        Ok(())
    }

    /// Its address, as an endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this goes wrong, or nothing.
    pub fn set_fault(&self, fault: Option<InjectedFault>) {
        *lock(&self.state.fault) = fault;
        if let Some(running) = &self.thread {
            send_command(
                &running.commands,
                if fault == Some(InjectedFault::Down) { Action::RefuseConnections } else { Action::Listen },
            );
        }
    }

    /// Knows another key from now on, or the same with another secret.
    pub fn add_key(&self, access_key: &str, known: Credential) {
        lock(&self.state.keys).insert(access_key.to_owned(), known);
    }

    /// Makes all keys with tokens too old.
    pub fn expire_temporary_keys(&self) {
        lock(&self.state.keys)
            .values_mut()
            .filter(|key| key.token.is_some())
            .for_each(|key| key.expired = true);
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// The disk is full.
    pub fn make_bucket(&self, name: &str) -> Result<()> {
        fs::create_dir_all(self.root.join(name)).context("cannot make a bucket")
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

    /// Uploads in parts that are neither complete nor taken back, and parts of such.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn pending_uploads(&self) -> Result<usize> {
        let entries = fs::read_dir(&self.root)?.flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.starts_with(".upload")).count())
    }

    /// What is remembered beside the bytes of an object: its type and so on, as JSON.
    ///
    /// # Errors
    /// There is nothing.
    pub fn object_metadata(&self, of: &str) -> Result<String> {
        let all = fs::read_dir(&self.root)?.flatten().map(|entry| entry.path());
        let texts = all.filter(|p| p.is_file()).filter_map(|path| fs::read_to_string(path).ok());
        let mut texts = texts.filter(|text| text.contains(of));
        texts.next().with_context(|| format!("no object has {of}"))
    }

    /// Requests so far: `put`, `part`, `begin`, `complete`, `abort`, `delete`, `head`, `other`.
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

/// Gives an order and waits until it is carried out, in whatever thread: the server has one of its own.
fn send_command(orders: &mpsc::Sender<Command>, what: Action) {
    let (done, carried_out): (_, Receiver<()>) = sync_channel(1);
    if orders.try_send(Command { action: what, done }).is_ok() {
        let _it_ended = carried_out.recv();
    }
}

/// A socket that has its port, and refuses connections.
fn bind_socket(address: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot take {address}"))?;
    Ok(socket)
}

fn run_server(
    runtime: &Runtime,
    front: FaultInjector,
    socket: TcpSocket,
    mut orders: mpsc::Receiver<Command>,
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
                order = orders.recv() => {
                    let Some(order) = order else { return };
                    if let (Action::Listen, Some(socket)) = (order.action, refusing.take_if(|_| order.action == Action::Listen)) {
                        listening = socket.listen(64).ok();
                    }
                    if order.action != Action::Listen {
                        let address = listening.take().and_then(|l| l.local_addr().ok());
                        connections.shutdown().await;
                        refusing = address.and_then(|address| bind_socket(address).ok()).or(refusing);
                    }
                    let _nobody_waits = order.done.send(());
                    if order.action == Action::Shutdown {
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
