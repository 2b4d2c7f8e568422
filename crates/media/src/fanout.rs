//! Distributes one stream of packets to many sinks, on the thread `fan-out`.
//!
//! The encoders send to one channel. Each sink reads from a [`Subscription`] with its own queue. A slow or
//! dead sink loses its own packets; neither the encoders nor other sinks wait for it. Every sink can always
//! decode what it receives: after a gap its stream continues with a keyframe.

mod queue;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::{Packet, Track};

use queue::Queue;
pub use queue::{QueueLimit, QueueStats};

/// Packets on their way from the encoders. Full: the encoders wait, but briefly, as this thread never blocks.
const MAX_QUEUED_PACKETS: usize = 256;

/// The thread that distributes packets. Ends when all senders are dropped.
#[derive(Debug)]
pub struct FanOut {
    handle: FanOutHandle,
    thread: JoinHandle<()>,
}

/// A cloneable handle that creates subscriptions.
#[derive(Debug, Clone)]
pub struct FanOutHandle {
    reference_track: Track,
    subscriptions: Arc<Mutex<Subscriptions>>,
}

#[derive(Debug, Default)]
struct Subscriptions {
    queues: Vec<Weak<SharedQueue>>,
    /// Whether a packet has passed.
    has_started: bool,
    ended: bool,
}

/// The queue shared by the thread and a [`Subscription`].
#[derive(Debug)]
struct SharedQueue {
    queue: Mutex<Queue>,
    available: Condvar,
}

/// One sink's queue of packets. Dropping it removes it.
#[derive(Debug)]
pub struct Subscription {
    name: String,
    shared: Arc<SharedQueue>,
}

impl FanOut {
    /// Starts the thread. `reference_track` is the track whose keyframes later subscriptions start with:
    /// video, or audio if there is no video.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(reference_track: Track) -> std::io::Result<(SyncSender<Packet>, Self)> {
        let (sender, packets) = sync_channel(MAX_QUEUED_PACKETS);
        let handle = FanOutHandle { reference_track, subscriptions: Arc::default() };
        let list = Arc::clone(&handle.subscriptions);
        let thread =
            std::thread::Builder::new().name("fan-out".into()).spawn(move || run(&packets, &list))?;
        Ok((sender, Self { handle, thread }))
    }

    /// Creates a queue; see [`FanOutHandle::subscribe`].
    #[must_use]
    pub fn subscribe(&self, name: &str, limit: QueueLimit) -> Subscription {
        self.handle.subscribe(name, limit)
    }

    /// A handle for sinks that are added later.
    #[must_use]
    pub fn handle(&self) -> FanOutHandle {
        self.handle.clone()
    }

    /// Waits until all packets are distributed; call it after all encoders ended. False if the thread
    /// panicked.
    #[must_use]
    pub fn finish(self) -> bool {
        self.thread.join().is_ok()
    }
}

impl FanOutHandle {
    /// Creates a queue; `name` appears in logs. Created before the first packet, it receives everything;
    /// created later, it starts with a keyframe.
    #[must_use]
    pub fn subscribe(&self, name: &str, limit: QueueLimit) -> Subscription {
        self.add_subscription(name, limit, false)
    }

    /// Creates a queue that takes nothing until [`Subscription::restart`].
    #[must_use]
    pub fn subscribe_paused(&self, name: &str, limit: QueueLimit) -> Subscription {
        self.add_subscription(name, limit, true)
    }

    fn add_subscription(&self, name: &str, limit: QueueLimit, paused: bool) -> Subscription {
        let mut list = lock(&self.subscriptions);
        let mut queue = Queue::new(self.reference_track, limit, list.has_started);
        if paused {
            queue.pause();
        }
        if list.ended {
            queue.close();
        }
        let shared = Arc::new(SharedQueue { queue: Mutex::new(queue), available: Condvar::new() });
        list.queues.push(Arc::downgrade(&shared));
        Subscription { name: name.to_owned(), shared }
    }
}

fn run(packets: &Receiver<Packet>, list: &Mutex<Subscriptions>) {
    for packet in packets {
        let mut list = lock(list);
        list.has_started = true;
        list.queues.retain(|subscription| {
            let Some(subscription) = subscription.upgrade() else { return false };
            lock(&subscription.queue).push(packet.clone());
            subscription.available.notify_one();
            true
        });
    }
    let mut list = lock(list);
    list.ended = true;
    for subscription in list.queues.drain(..).filter_map(|subscription| subscription.upgrade()) {
        lock(&subscription.queue).close();
        subscription.available.notify_one();
    }
}

/// Locks a mutex even if it is poisoned: a queue is consistent between any two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Result of reading from a subscription.
#[derive(Debug, Clone)]
pub enum Received {
    /// The next packet.
    Packet(Packet),
    /// Nothing arrived in time.
    Empty,
    /// The stream has ended.
    Closed,
}

impl Subscription {
    /// Its name in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for the next packet; `None` after the last one.
    #[must_use]
    pub fn recv(&self) -> Option<Packet> {
        let mut queue = lock(&self.shared.queue);
        loop {
            match queue.pop() {
                Received::Packet(packet) => return Some(packet),
                Received::Closed => return None,
                Received::Empty => {}
            }
            queue = self.shared.available.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the next packet, but no longer than `timeout`.
    #[must_use]
    pub fn recv_timeout(&self, timeout: Duration) -> Received {
        let until = Instant::now() + timeout;
        let mut queue = lock(&self.shared.queue);
        loop {
            let next = queue.pop();
            let left = until.saturating_duration_since(Instant::now());
            if !matches!(next, Received::Empty) || left.is_zero() {
                return next;
            }
            let waited = self.shared.available.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Drops all queued packets and takes nothing until [`Subscription::restart`].
    pub fn pause(&self) {
        lock(&self.shared.queue).pause();
    }

    /// Drops all queued packets and continues with the next keyframe.
    pub fn restart(&self) {
        lock(&self.shared.queue).restart();
    }

    /// Statistics of the queue.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        lock(&self.shared.queue).stats()
    }

    /// Packets dropped since the first one was queued.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.stats().lost
    }
}

/// Yields packets until the last one, blocking for each.
impl Iterator for Subscription {
    type Item = Packet;
    fn next(&mut self) -> Option<Packet> {
        self.recv()
    }
}

#[cfg(test)]
mod tests {
    use super::queue::tests::{audio, video};
    use super::*;

    const UNLIMITED: QueueLimit = QueueLimit { bytes: usize::MAX, duration: Duration::from_secs(3600) };

    #[test]
    fn every_subscription_gets_every_packet_and_the_end() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let subscriptions = [fan_out.subscribe("a", UNLIMITED), fan_out.subscribe("b", UNLIMITED)];
        for at in 0..1000 {
            packets.send(video(at, at % 100 == 0)).unwrap();
        }
        drop(packets);
        assert!(fan_out.finish());
        for subscription in subscriptions {
            assert!(subscription.map(|p| p.pts.as_millis()).eq(0..1000));
        }
    }

    #[test]
    fn data_is_shared_not_copied() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let subscriptions = [fan_out.subscribe("a", UNLIMITED), fan_out.subscribe("b", UNLIMITED)];
        let packet = video(0, true);
        packets.send(packet.clone()).unwrap();
        for subscription in subscriptions {
            assert!(subscription.recv().is_some_and(|got| Arc::ptr_eq(&got.data, &packet.data)));
        }
    }

    #[test]
    fn an_abandoned_subscription_does_not_block_others() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let dead = fan_out.subscribe("dead", QueueLimit { bytes: 10_000, duration: Duration::from_secs(1) });
        let alive = fan_out.subscribe("alive", UNLIMITED);
        for at in 0..5000 {
            packets.send(video(at, at % 100 == 0)).unwrap();
            assert_eq!(alive.recv().map(|p| p.pts.as_millis()), Some(at));
        }
        let stats = dead.stats();
        assert!(stats.bytes <= 10_000 && stats.lost > 4000, "{stats:?}");
    }

    #[test]
    fn a_late_subscription_begins_with_a_keyframe_and_one_after_the_end_is_closed() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let (first, handle) = (fan_out.subscribe("first", UNLIMITED), fan_out.handle());
        packets.send(video(0, true)).unwrap();
        assert!(first.recv().is_some());
        let later = handle.subscribe("later", UNLIMITED);
        assert!(matches!(later.recv_timeout(Duration::ZERO), Received::Empty));
        for packet in [video(1, false), audio(1), video(2, true), audio(2)] {
            packets.send(packet).unwrap();
        }
        drop((first, packets));
        assert!(fan_out.finish());
        assert!(later.map(|p| p.pts.as_millis()).eq([2, 2]));
        assert!(handle.subscribe("too late", UNLIMITED).recv().is_none());
    }

    #[test]
    fn a_dropped_subscription_is_removed() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let (stays, goes) = (fan_out.subscribe("stays", UNLIMITED), fan_out.subscribe("goes", UNLIMITED));
        drop(goes);
        packets.send(video(0, true)).unwrap();
        assert!(stays.recv().is_some());
        assert_eq!(lock(&fan_out.handle.subscriptions).queues.len(), 1);
    }
}
