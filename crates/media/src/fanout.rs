//! One stream of packets, many sinks, on the thread `fan-out`.
//!
//! The encoders send to one channel. A sink reads through a [`Tap`], a queue of its own: a sink that is slow or dead loses its own
//! packets, and neither the encoders nor other sinks wait for it. What it gets can always be decoded: after a gap it goes on
//! with a keyframe.

mod queue;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::{Packet, Track};

use queue::Queue;
pub use queue::{Limit, Tally};

/// Packets on their way from the encoders. Full: the encoders wait, which is short, as nothing waits behind.
const PACKETS: usize = 256;

/// The thread that hands packets on. Ends when all encoders are gone.
#[derive(Debug)]
pub struct FanOut {
    taps: Taps,
    thread: JoinHandle<()>,
}

/// Where taps are made; any number of these may be around.
#[derive(Debug, Clone)]
pub struct Taps {
    lead: Track,
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    taps: Vec<Weak<Shared>>,
    /// A packet has passed.
    begun: bool,
    over: bool,
}

/// What both ends of a tap see.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
}

/// One sink's queue of packets. Dropped, it is removed.
#[derive(Debug)]
pub struct Tap {
    name: String,
    shared: Arc<Shared>,
}

impl FanOut {
    /// Starts the thread. `lead` is the track whose keyframes others begin with: the video, or the audio if that is all there is.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(lead: Track) -> std::io::Result<(SyncSender<Packet>, Self)> {
        let (sender, packets) = sync_channel(PACKETS);
        let taps = Taps { lead, list: Arc::default() };
        let list = Arc::clone(&taps.list);
        let thread =
            std::thread::Builder::new().name("fan-out".into()).spawn(move || run(&packets, &list))?;
        Ok((sender, Self { taps, thread }))
    }

    /// As [`Taps::tap`].
    #[must_use]
    pub fn tap(&self, name: &str, limit: Limit) -> Tap {
        self.taps.tap(name, limit)
    }

    /// For those who add sinks later.
    #[must_use]
    pub fn taps(&self) -> Taps {
        self.taps.clone()
    }

    /// Waits until all packets are handed on: no encoder may be left. False if the thread panicked.
    #[must_use]
    pub fn finish(self) -> bool {
        self.thread.join().is_ok()
    }
}

impl Taps {
    /// A new queue, named in logs. Made before the first packet, it gets everything; made later, it begins with a keyframe.
    #[must_use]
    pub fn tap(&self, name: &str, limit: Limit) -> Tap {
        self.add(name, limit, false)
    }

    /// A new queue that takes nothing until [`Tap::restart`].
    #[must_use]
    pub fn paused(&self, name: &str, limit: Limit) -> Tap {
        self.add(name, limit, true)
    }

    fn add(&self, name: &str, limit: Limit, paused: bool) -> Tap {
        let mut list = lock(&self.list);
        let mut queue = Queue::new(self.lead, limit, list.begun);
        if paused {
            queue.pause();
        }
        if list.over {
            queue.end();
        }
        let shared = Arc::new(Shared { queue: Mutex::new(queue), news: Condvar::new() });
        list.taps.push(Arc::downgrade(&shared));
        Tap { name: name.to_owned(), shared }
    }
}

fn run(packets: &Receiver<Packet>, list: &Mutex<List>) {
    for packet in packets {
        let mut list = lock(list);
        list.begun = true;
        list.taps.retain(|tap| {
            let Some(tap) = tap.upgrade() else { return false };
            lock(&tap.queue).push(packet.clone());
            tap.news.notify_one();
            true
        });
    }
    let mut list = lock(list);
    list.over = true;
    for tap in list.taps.drain(..).filter_map(|tap| tap.upgrade()) {
        lock(&tap.queue).end();
        tap.news.notify_one();
    }
}

/// A queue is whole between any two calls, so one whose owner panicked is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a tap has for its sink.
#[derive(Debug, Clone)]
pub enum Next {
    /// The next packet.
    Packet(Packet),
    /// Nothing came in time.
    Nothing,
    /// Nothing will come any more.
    End,
}

impl Tap {
    /// Its name.
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
                Next::Packet(packet) => return Some(packet),
                Next::End => return None,
                Next::Nothing => {}
            }
            queue = self.shared.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the next packet, but no longer than `timeout`.
    #[must_use]
    pub fn recv_timeout(&self, timeout: Duration) -> Next {
        let until = Instant::now() + timeout;
        let mut queue = lock(&self.shared.queue);
        loop {
            let next = queue.pop();
            let left = until.saturating_duration_since(Instant::now());
            if !matches!(next, Next::Nothing) || left.is_zero() {
                return next;
            }
            let waited = self.shared.news.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Drops what is queued and takes nothing until [`Tap::restart`].
    pub fn pause(&self) {
        lock(&self.shared.queue).pause();
    }

    /// Drops what is queued and goes on with the next keyframe.
    pub fn restart(&self) {
        lock(&self.shared.queue).restart();
    }

    /// What is queued, and what was lost.
    #[must_use]
    pub fn tally(&self) -> Tally {
        lock(&self.shared.queue).tally()
    }

    /// Packets dropped since the first one was queued.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.tally().lost
    }
}

/// Packets until the last one, waiting for each.
impl Iterator for Tap {
    type Item = Packet;
    fn next(&mut self) -> Option<Packet> {
        self.recv()
    }
}

#[cfg(test)]
mod tests {
    use super::queue::tests::{audio, video};
    use super::*;

    const ROOM: Limit = Limit { bytes: usize::MAX, span: Duration::from_secs(3600) };

    #[test]
    fn every_tap_gets_every_packet_and_the_end() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let taps = [fan_out.tap("a", ROOM), fan_out.tap("b", ROOM)];
        for at in 0..1000 {
            packets.send(video(at, at % 100 == 0)).unwrap();
        }
        drop(packets);
        assert!(fan_out.finish());
        for tap in taps {
            assert!(tap.map(|p| p.pts.as_millis()).eq(0..1000));
        }
    }

    #[test]
    fn data_is_shared_not_copied() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let taps = [fan_out.tap("a", ROOM), fan_out.tap("b", ROOM)];
        let packet = video(0, true);
        packets.send(packet.clone()).unwrap();
        for tap in taps {
            assert!(tap.recv().is_some_and(|got| Arc::ptr_eq(&got.data, &packet.data)));
        }
    }

    #[test]
    fn a_dead_tap_keeps_nobody_waiting() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let dead = fan_out.tap("dead", Limit { bytes: 10_000, span: Duration::from_secs(1) });
        let alive = fan_out.tap("alive", ROOM);
        for at in 0..5000 {
            packets.send(video(at, at % 100 == 0)).unwrap();
            assert_eq!(alive.recv().map(|p| p.pts.as_millis()), Some(at));
        }
        let tally = dead.tally();
        assert!(tally.bytes <= 10_000 && tally.lost > 4000, "{tally:?}");
    }

    #[test]
    fn a_tap_made_later_begins_with_a_keyframe_and_one_made_too_late_ends() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let (first, taps) = (fan_out.tap("first", ROOM), fan_out.taps());
        packets.send(video(0, true)).unwrap();
        assert!(first.recv().is_some());
        let later = taps.tap("later", ROOM);
        assert!(matches!(later.recv_timeout(Duration::ZERO), Next::Nothing));
        for packet in [video(1, false), audio(1), video(2, true), audio(2)] {
            packets.send(packet).unwrap();
        }
        drop((first, packets));
        assert!(fan_out.finish());
        assert!(later.map(|p| p.pts.as_millis()).eq([2, 2]));
        assert!(taps.tap("too late", ROOM).recv().is_none());
    }

    #[test]
    fn a_dropped_tap_is_removed() {
        let (packets, fan_out) = FanOut::spawn(Track::Video).unwrap();
        let (stays, goes) = (fan_out.tap("stays", ROOM), fan_out.tap("goes", ROOM));
        drop(goes);
        packets.send(video(0, true)).unwrap();
        assert!(stays.recv().is_some());
        assert_eq!(lock(&fan_out.taps.list).taps.len(), 1);
    }
}
