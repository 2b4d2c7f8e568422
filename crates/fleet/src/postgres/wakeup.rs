//! Wake-ups: how a change reaches those who wait for it in this process and in others.
//!
//! A change of this process wakes its own waiters at once. Other processes are told by `NOTIFY`, at most
//! every [`NOTIFY_DELAY`] and never within a transaction, because a commit that notifies takes a lock that
//! all such commits share. Each process has one connection that listens. Whatever is lost on the way is
//! found a second or two later, because all waiters wake up at intervals ([`POLL_INTERVAL`]).

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::AsyncMessage;

use super::Shared;
use super::connections::{Connections, retry_delays};
use super::sql::{TxError, execute, params};
use crate::vault::random_u64;

/// Shortest time between two notifications of a process.
const NOTIFY_DELAY: Duration = Duration::from_millis(50);
/// Interval at which all waiters wake up while no notifications arrive, for example because a pooler is in
/// between: then nothing else tells of new casts and commands, and users notice a second.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval while notifications arrive: only one that was lost is found by it. Each wake-up is a statement of
/// each process.
const POLL_INTERVAL_LISTENING: Duration = Duration::from_secs(2);

/// Wakes waiters.
pub(super) struct Wakeup {
    changes: watch::Sender<u64>,
    changed_here: Notify,
    /// Name of this process in its notifications, so that it ignores them.
    sender: String,
    /// Whether a notification has arrived on the present connection.
    is_listening: AtomicBool,
}

impl Wakeup {
    pub(super) fn new() -> Self {
        Self {
            changes: watch::Sender::new(0),
            changed_here: Notify::new(),
            sender: random_u64().to_string(),
            is_listening: AtomicBool::new(false),
        }
    }

    /// Reports a change that this process made.
    pub(super) fn changed_here(&self) {
        self.wake();
        self.changed_here.notify_one();
    }

    fn wake(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Number of wake-ups so far.
    pub(super) fn number(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Interval at which all waiters wake up.
    fn poll_interval(&self) -> Duration {
        if self.is_listening.load(Ordering::Relaxed) { POLL_INTERVAL_LISTENING } else { POLL_INTERVAL }
    }
}

/// Tasks that wake waiters; they end when dropped.
#[derive(Debug)]
pub(super) struct WakeupTasks(Vec<JoinHandle<()>>);

impl WakeupTasks {
    pub(super) fn start(shared: &Arc<Shared>, connections: &Arc<Connections>) -> Self {
        let notify = tokio::spawn(notify_others(Arc::clone(shared), Arc::clone(connections)));
        let listen = tokio::spawn(listen(Arc::clone(shared), Arc::clone(connections)));
        let poll = tokio::spawn(poll(Arc::clone(shared)));
        Self(vec![notify, listen, poll])
    }
}

impl Drop for WakeupTasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn poll(shared: Arc<Shared>) {
    loop {
        sleep(shared.wakeup.poll_interval()).await;
        shared.wakeup.wake();
    }
}

/// Tells other processes of changes. A failure is ignored, because they poll.
async fn notify_others(shared: Arc<Shared>, connections: Arc<Connections>) {
    loop {
        shared.wakeup.changed_here.notified().await;
        sleep(NOTIFY_DELAY).await;
        if let Err(error) = notify(&connections, &shared.wakeup.sender).await {
            tracing::debug!(?error, "cannot notify other processes");
        }
    }
}

async fn notify(connections: &Connections, sender: &str) -> Result<(), TxError> {
    let mut connection = connections.get().await?;
    execute(connection.client(), "SELECT pg_notify('pagecast', $1)", params![sender]).await?;
    connection.reuse();
    Ok(())
}

/// Listens to notifications of other processes, and connects again when the connection is lost.
async fn listen(shared: Arc<Shared>, connections: Arc<Connections>) {
    let mut delays = retry_delays();
    loop {
        let Err(error) = listen_once(&shared.wakeup, &connections, || delays.reset()).await;
        shared.wakeup.is_listening.store(false, Ordering::Relaxed);
        tracing::debug!(%error, "connection for notifications lost");
        sleep(delays.next_delay()).await;
    }
}

async fn listen_once(
    wakeup: &Wakeup,
    connections: &Connections,
    mut connected: impl FnMut(),
) -> Result<std::convert::Infallible, tokio_postgres::Error> {
    let (client, mut connection) = connections.listener.connect(connections.tls.clone()).await?;
    let mut listening = pin!(client.batch_execute("LISTEN pagecast"));
    let mut is_listening = false;
    loop {
        // The connection must be polled for the statement to be sent.
        let message = tokio::select! {
            result = &mut listening, if !is_listening => {
                result?;
                is_listening = true;
                connected();
                // A notification of our own shows that they arrive: a pooler accepts the statement, too.
                wakeup.changed_here.notify_one();
                continue;
            }
            message = poll_fn(|cx| connection.poll_message(cx)) => message,
        };
        match message.transpose()? {
            Some(AsyncMessage::Notification(by)) => {
                wakeup.is_listening.store(true, Ordering::Relaxed);
                if by.payload() != wakeup.sender {
                    wakeup.wake();
                }
            }
            Some(_) => {}
            // The server has closed the connection; this statement fails and says so.
            None => client.batch_execute("").await?,
        }
    }
}
