//! Queue of bytes that a stream has not played yet, with PulseAudio's rules for seeking.

use super::wire::Seek;

/// Played bytes that are kept at the front before the rest is moved down.
const COMPACT_THRESHOLD_BYTES: usize = 64 * 1024;
/// Farthest that the write position may fall behind the read position, in bytes. Data written there is lost
/// anyway.
const MAX_BEHIND_BYTES: i64 = 1 << 40;

/// Result of [`PlaybackQueue::put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PutResult {
    /// All data is stored, or came too late and was dropped.
    Stored,
    /// The queue is full: the data that did not fit is lost.
    Full,
    /// The block does not begin at a frame boundary, and is lost.
    Misaligned,
}

/// Bytes between the read and the write position of a stream.
#[derive(Debug)]
pub(super) struct PlaybackQueue {
    /// Positions count bytes since the stream began. `write_index` is below `read_index` after an underrun.
    read_index: i64,
    write_index: i64,
    /// Bytes from `read_index` on, starting at `head`.
    bytes: Vec<u8>,
    head: usize,
    frame_len: usize,
    silence: u8,
}

impl PlaybackQueue {
    pub(super) fn new(frame_len: usize, silence: u8) -> Self {
        Self { read_index: 0, write_index: 0, bytes: Vec::new(), head: 0, frame_len, silence }
    }

    pub(super) fn read_index(&self) -> i64 {
        self.read_index
    }

    pub(super) fn write_index(&self) -> i64 {
        self.write_index
    }

    /// Bytes from the read to the write position; negative if the writer is behind.
    pub(super) fn fill(&self) -> i64 {
        self.write_index - self.read_index
    }

    /// Number of whole frames that can be taken.
    pub(super) fn available_frames(&self) -> usize {
        (self.bytes.len() - self.head) / self.frame_len
    }

    /// Writes `data` at the position of `seek` and `offset`, at most `max` bytes ahead of the read position.
    /// Drops data for positions before the read position, fills a gap with silence, and drops earlier data
    /// after the written block.
    pub(super) fn put(&mut self, seek: Seek, offset: i64, data: &[u8], max: usize) -> PutResult {
        let base = match seek {
            Seek::Absolute => 0,
            Seek::Read => self.read_index,
            Seek::Write | Seek::End => self.write_index,
        };
        if !offset.unsigned_abs().is_multiple_of(self.frame_len as u64) {
            return PutResult::Misaligned;
        }
        let ahead = base.checked_add(offset).and_then(|at| at.checked_sub(self.read_index));
        let Some(ahead) = ahead.filter(|a| a.unsigned_abs() <= max as u64 || *a < 0) else {
            return PutResult::Full;
        };
        let late = usize::try_from(ahead.saturating_neg()).unwrap_or(0);
        if late > data.len() {
            self.head = self.bytes.len();
            self.write_index = self.read_index + (ahead + data.len() as i64).max(-MAX_BEHIND_BYTES);
            return PutResult::Stored;
        }
        let (data, ahead) = (&data[late..], usize::try_from(ahead).unwrap_or(0));
        self.compact();
        self.bytes.resize(self.head + ahead, self.silence);
        let stored = data.len().min(max - ahead);
        self.bytes.extend_from_slice(&data[..stored]);
        self.write_index = self.read_index + (ahead + stored) as i64;
        if stored < data.len() { PutResult::Full } else { PutResult::Stored }
    }

    /// Takes up to `frames` frames, and returns their bytes.
    pub(super) fn take(&mut self, frames: usize) -> &[u8] {
        let len = frames.min(self.available_frames()) * self.frame_len;
        let taken = self.head..self.head + len;
        self.head += len;
        self.read_index += len as i64;
        &self.bytes[taken]
    }

    /// Moves the read position over `frames` frames that were not written; data that is written there later
    /// is dropped.
    pub(super) fn skip(&mut self, frames: usize) {
        self.head = self.bytes.len();
        self.read_index += (frames * self.frame_len) as i64;
    }

    /// Drops all data that was not played.
    pub(super) fn flush(&mut self) {
        self.bytes = Vec::new();
        self.head = 0;
        self.write_index = self.read_index;
    }

    fn compact(&mut self) {
        if self.head == self.bytes.len() || self.head > COMPACT_THRESHOLD_BYTES {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_taken_in_whole_frames() {
        let mut q = PlaybackQueue::new(4, 0);
        assert_eq!(q.put(Seek::Write, 0, &[1, 2, 3, 4, 5], 100), PutResult::Stored);
        assert_eq!((q.fill(), q.available_frames()), (5, 1));
        assert_eq!(q.take(9), &[1, 2, 3, 4]);
        q.put(Seek::Write, 0, &[6, 7, 8], 100);
        assert_eq!(q.take(9), &[5, 6, 7, 8]);
        assert_eq!((q.read_index(), q.write_index()), (8, 8));
    }

    #[test]
    fn gaps_are_silent_and_rewrites_replace() {
        let mut q = PlaybackQueue::new(1, 0x80);
        q.put(Seek::Write, 2, &[1, 2], 100);
        q.put(Seek::Absolute, 3, &[9], 100);
        q.put(Seek::Read, 5, &[8], 100);
        assert_eq!(q.take(9), &[0x80, 0x80, 1, 9, 0x80, 8]);
    }

    #[test]
    fn late_data_is_lost_and_the_rest_keeps_its_place() {
        let mut q = PlaybackQueue::new(1, 0);
        q.skip(4);
        assert_eq!(q.fill(), -4);
        assert_eq!(q.put(Seek::Write, 0, &[1, 2, 3], 100), PutResult::Stored);
        assert_eq!((q.fill(), q.available_frames()), (-1, 0));
        q.put(Seek::Write, 0, &[4, 5, 6], 100);
        assert_eq!((q.fill(), q.take(9)), (2, &[5, 6][..]));
    }

    #[test]
    fn a_full_queue_rejects_data() {
        let mut q = PlaybackQueue::new(2, 0);
        assert_eq!(q.put(Seek::Write, 0, &[1; 10], 6), PutResult::Full);
        assert_eq!((q.fill(), q.available_frames()), (6, 3));
        assert_eq!(q.put(Seek::Write, i64::MAX - 1, &[1], 6), PutResult::Full);
        assert_eq!(
            q.put(Seek::Absolute, i64::MIN, &[1], 6),
            PutResult::Stored,
            "a position in the past is only late"
        );
        assert_eq!(q.put(Seek::Write, 1, &[1], 6), PutResult::Misaligned);
        q.flush();
        assert_eq!(q.fill(), 0);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Put(u8, i64, usize),
        Take(usize),
        Skip(usize),
        Flush,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (0_u8..4, prop_oneof![4 => Just(0), 2 => -40_i64..40, 1 => any::<i64>()], 0_usize..50)
                .prop_map(|(s, o, n)| Op::Put(s, o, n)),
            6 => (0_usize..12).prop_map(Op::Take),
            1 => (0_usize..12).prop_map(Op::Skip),
            1 => Just(Op::Flush),
        ]
    }

    proptest! {
        #[test]
        fn positions_and_bytes_always_agree(ops in proptest::collection::vec(op(), 0..60)) {
            const MAX: usize = 64;
            let mut q = PlaybackQueue::new(4, 0);
            for op in ops {
                match op {
                    Op::Put(seek, offset, len) => {
                        let seek = [Seek::Write, Seek::Absolute, Seek::Read, Seek::End][usize::from(seek)];
                        q.put(seek, offset, &vec![1; len], MAX);
                    }
                    Op::Take(n) => prop_assert!(q.take(n).len() <= 4 * n),
                    Op::Skip(n) => {
                        let all = q.available_frames();
                        q.take(all);
                        q.skip(n);
                    }
                    Op::Flush => q.flush(),
                }
                prop_assert!(q.fill() <= MAX as i64);
                prop_assert_eq!(q.available_frames() as i64, q.fill().max(0) / 4);
                prop_assert!(q.bytes.len() <= MAX + COMPACT_THRESHOLD_BYTES + 1);
            }
        }
    }
}
