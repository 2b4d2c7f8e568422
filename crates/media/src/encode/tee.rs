//! Copies ticks and samples to several encoders, on the threads `tee-ticks` and `tee-samples`.
//!
//! Each encoder reads from its own queue. A slow encoder loses its own ticks or samples by the same rules as
//! a single encoder of a page: the damage of a dropped tick is merged into a later one, and dropped samples
//! become silence. Pictures are shared, not copied. A single encoder reads the input itself, without a
//! thread.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use pagecast_core::{Frame, Samples, Tick};

use super::Error;

/// Ticks queued for a file encoder. Full: damage is merged into a later tick.
pub const FILE_QUEUE_TICKS: usize = 4;
/// Ticks queued for a room encoder, few because late pictures are of no use. Full: as for files.
pub const ROOM_QUEUE_TICKS: usize = 2;
/// Runs of samples queued for an encoder. Full: they are dropped and become silence.
pub const QUEUE_SAMPLE_RUNS: usize = 256;

/// A queue for each encoder, and the thread that fills them. It ends when the input or all queues are closed.
pub type Queues<T> = (Vec<Receiver<T>>, Option<JoinHandle<()>>);

/// Makes a queue of ticks for each of `lengths`. A single queue needs no thread.
///
/// # Errors
/// [`Error::Thread`].
pub fn ticks(input: Receiver<Tick>, lengths: &[usize]) -> Result<Queues<Tick>, Error> {
    spawn_tee("tee-ticks", input, lengths, Branch::send_tick)
}

/// Makes a queue of samples for each of `lengths`. A single queue needs no thread.
///
/// # Errors
/// [`Error::Thread`].
pub fn samples(input: Receiver<Samples>, lengths: &[usize]) -> Result<Queues<Samples>, Error> {
    spawn_tee("tee-samples", input, lengths, Branch::send_samples)
}

fn spawn_tee<T: Send + 'static>(
    name: &'static str,
    input: Receiver<T>,
    lengths: &[usize],
    send: fn(&mut Branch<T>, &T) -> bool,
) -> Result<Queues<T>, Error> {
    if lengths.len() == 1 {
        return Ok((vec![input], None));
    }
    let (mut branches, queues): (Vec<_>, Vec<_>) = lengths
        .iter()
        .map(|length| {
            let (out, queue) = sync_channel(*length);
            (Branch { queue: out, pending_frame: None }, queue)
        })
        .unzip();
    let run = move || {
        for item in input {
            branches.retain_mut(|branch| send(branch, &item));
            if branches.is_empty() {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    Ok((queues, Some(thread.map_err(|e| Error::Thread(name, e))?)))
}

/// The queue of one encoder.
struct Branch<T> {
    queue: SyncSender<T>,
    /// Merged damage of ticks that were dropped because the queue was full.
    pending_frame: Option<Frame>,
}

impl Branch<Tick> {
    /// Sends a tick; false if the encoder is gone.
    fn send_tick(&mut self, tick: &Tick) -> bool {
        let frame = merge_frames(self.pending_frame.take(), tick.frame.clone());
        match self.queue.try_send(Tick { frame, ..*tick }) {
            Ok(()) => true,
            Err(TrySendError::Full(tick)) => {
                self.pending_frame = tick.frame;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Branch<Samples> {
    /// Sends samples, or drops them if the queue is full; false if the encoder is gone.
    fn send_samples(&mut self, run: &Samples) -> bool {
        !matches!(self.queue.try_send(run.clone()), Err(TrySendError::Disconnected(_)))
    }
}

/// Merges two frames: the union of their damage, and the newer picture.
pub(super) fn merge_frames(older: Option<Frame>, newer: Option<Frame>) -> Option<Frame> {
    match (older, newer) {
        (Some(older), Some(mut newer)) => {
            newer.damage.union(&older.damage);
            Some(newer)
        }
        (older, newer) => newer.or(older),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pagecast_core::{Fps, Picture, TILE_WIDTH, Tiles};

    use super::*;

    const TILE_COUNT: u32 = 100;

    /// Tick `index`, which changes one tile of its own.
    fn tick(index: u32) -> Tick {
        let width = TILE_COUNT * TILE_WIDTH;
        let mut damage = Tiles::none(width, 16);
        damage.insert(index, 0);
        let frame = Frame { picture: Arc::new(Picture::new(width, 16)), damage };
        let index = i64::from(index);
        Tick { index, pts: Fps::DEFAULT.time_of(index), frame: Some(frame) }
    }

    #[test]
    fn one_encoder_reads_the_input_without_a_thread() {
        let (sender, input) = sync_channel(1);
        let (mut queues, thread) = ticks(input, &[1]).unwrap();
        assert!(thread.is_none() && queues.len() == 1);
        sender.try_send(tick(0)).unwrap();
        assert!(sender.try_send(tick(1)).is_err(), "there is no second queue");
        assert_eq!(queues.remove(0).recv().unwrap().index, 0);
    }

    #[test]
    fn a_slow_encoder_loses_ticks_but_no_change_and_delays_no_other() {
        let (sender, input) = sync_channel(0);
        // In this order, a tick that the fast encoder received was offered to the slow one before.
        let (mut queues, thread) = ticks(input, &[2, 1]).unwrap();
        let (fast, slow) = (queues.pop().unwrap(), queues.pop().unwrap());
        let mut seen = Tiles::none(TILE_COUNT * TILE_WIDTH, 16);
        let mut last = None;
        let mut take = |tick: Tick| {
            let Some(frame) = tick.frame else { return };
            seen.union(&frame.damage);
            last = Some(frame.picture);
        };
        let mut newest = None;
        for index in 0..TILE_COUNT {
            let tick = tick(index);
            newest = tick.frame.as_ref().map(|frame| Arc::clone(&frame.picture));
            sender.send(tick).unwrap();
            let got = fast.recv().unwrap();
            assert_eq!((got.index, got.frame.unwrap().damage.count()), (i64::from(index), 1));
            if index % 10 == 9 {
                take(slow.recv().unwrap());
            }
        }
        // Pending damage is sent with a tick that changes nothing itself.
        take(slow.recv().unwrap());
        sender
            .send(Tick {
                index: TILE_COUNT.into(),
                pts: Fps::DEFAULT.time_of(TILE_COUNT.into()),
                frame: None,
            })
            .unwrap();
        assert!(fast.recv().unwrap().frame.is_none());
        take(slow.recv().unwrap());
        assert_eq!(seen.count(), TILE_COUNT);
        assert!(last.zip(newest).is_some_and(|(last, newest)| Arc::ptr_eq(&last, &newest)), "not copied");
        drop(sender);
        assert!(slow.recv().is_err() && fast.recv().is_err());
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn a_closed_queue_is_removed_and_the_last_one_ends_the_thread() {
        let (sender, input) = sync_channel(0);
        let (mut queues, thread) = ticks(input, &[4, 4]).unwrap();
        drop(queues.pop());
        let stays = queues.pop().unwrap();
        for index in 0..3 {
            sender.send(tick(index)).unwrap();
            assert_eq!(stays.recv().unwrap().index, i64::from(index));
        }
        drop(stays);
        // The thread notices at its next send.
        let _noticed = sender.send(tick(3));
        thread.unwrap().join().unwrap();
        assert!(sender.send(tick(4)).is_err());
    }

    #[test]
    fn samples_for_a_full_queue_are_dropped() {
        let (sender, input) = sync_channel(0);
        let (mut queues, thread) = samples(input, &[2, 100]).unwrap();
        let (all, some) = (queues.pop().unwrap(), queues.pop().unwrap());
        let run = |start| Samples { start, pcm: vec![0.0; 2].into() };
        for start in 0..50 {
            sender.send(run(start)).unwrap();
        }
        drop(sender);
        thread.unwrap().join().unwrap();
        assert!(all.iter().map(|run| run.start).eq(0..50));
        assert!(some.iter().map(|run| run.start).eq(0..2));
    }
}
