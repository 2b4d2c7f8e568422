//! The bytes a stream has been given and has not played, with PulseAudio's rules for where they go.

use super::wire::Seek;

/// Played bytes that are kept in front before the rest is moved down.
const SLACK: usize = 64 * 1024;
/// Farthest that the write position goes back behind the read position, in bytes; what is written there is lost anyway.
const MAX_BEHIND: i64 = 1 << 40;

/// Whether a block fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Stored,
    /// The queue is full: what did not fit is lost.
    Full,
    /// The block began in the middle of a frame and is lost.
    Misplaced,
}

/// Bytes between two positions of a stream, read at one end and written near the other.
#[derive(Debug)]
pub(super) struct Queue {
    /// Positions count bytes since the stream began. `write` lies before `read` after silence was played for lack of data.
    read: i64,
    write: i64,
    /// The bytes from `read` on start at `head`.
    bytes: Vec<u8>,
    head: usize,
    frame_len: usize,
    silence: u8,
}

impl Queue {
    pub(super) fn new(frame_len: usize, silence: u8) -> Self {
        Self { read: 0, write: 0, bytes: Vec::new(), head: 0, frame_len, silence }
    }

    pub(super) fn read_position(&self) -> i64 {
        self.read
    }

    pub(super) fn write_position(&self) -> i64 {
        self.write
    }

    /// Bytes from the read to the write position; negative when the writer is behind.
    pub(super) fn fill(&self) -> i64 {
        self.write - self.read
    }

    /// Whole frames that can be taken.
    pub(super) fn frames(&self) -> usize {
        (self.bytes.len() - self.head) / self.frame_len
    }

    /// Puts `data` where `seek` and `offset` say, at most `max` bytes ahead of the read position. What belongs before that
    /// position comes too late and is dropped; a gap is filled with silence; what was written behind is dropped.
    pub(super) fn put(&mut self, seek: Seek, offset: i64, data: &[u8], max: usize) -> Put {
        let base = match seek {
            Seek::Absolute => 0,
            Seek::Read => self.read,
            Seek::Write | Seek::End => self.write,
        };
        if !offset.unsigned_abs().is_multiple_of(self.frame_len as u64) {
            return Put::Misplaced;
        }
        let ahead = base.checked_add(offset).and_then(|at| at.checked_sub(self.read));
        let Some(ahead) = ahead.filter(|a| a.unsigned_abs() <= max as u64 || *a < 0) else {
            return Put::Full;
        };
        let late = usize::try_from(ahead.saturating_neg()).unwrap_or(0);
        if late > data.len() {
            self.head = self.bytes.len();
            self.write = self.read + (ahead + data.len() as i64).max(-MAX_BEHIND);
            return Put::Stored;
        }
        let (data, ahead) = (&data[late..], usize::try_from(ahead).unwrap_or(0));
        self.move_down();
        self.bytes.resize(self.head + ahead, self.silence);
        let fits = data.len().min(max - ahead);
        self.bytes.extend_from_slice(&data[..fits]);
        self.write = self.read + (ahead + fits) as i64;
        if fits < data.len() { Put::Full } else { Put::Stored }
    }

    /// Takes up to `frames` frames.
    pub(super) fn take(&mut self, frames: usize) -> &[u8] {
        let len = frames.min(self.frames()) * self.frame_len;
        let taken = self.head..self.head + len;
        self.head += len;
        self.read += len as i64;
        &self.bytes[taken]
    }

    /// Moves the read position over `frames` frames that were never written, and so past anything that is written there later.
    pub(super) fn skip(&mut self, frames: usize) {
        self.head = self.bytes.len();
        self.read += (frames * self.frame_len) as i64;
    }

    /// Drops everything not yet played.
    pub(super) fn flush(&mut self) {
        self.bytes = Vec::new();
        self.head = 0;
        self.write = self.read;
    }

    fn move_down(&mut self) {
        if self.head == self.bytes.len() || self.head > SLACK {
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
    fn what_goes_in_comes_out_in_frames() {
        let mut q = Queue::new(4, 0);
        assert_eq!(q.put(Seek::Write, 0, &[1, 2, 3, 4, 5], 100), Put::Stored);
        assert_eq!((q.fill(), q.frames()), (5, 1));
        assert_eq!(q.take(9), &[1, 2, 3, 4]);
        q.put(Seek::Write, 0, &[6, 7, 8], 100);
        assert_eq!(q.take(9), &[5, 6, 7, 8]);
        assert_eq!((q.read_position(), q.write_position()), (8, 8));
    }

    #[test]
    fn gaps_are_silent_and_rewrites_replace() {
        let mut q = Queue::new(1, 0x80);
        q.put(Seek::Write, 2, &[1, 2], 100);
        q.put(Seek::Absolute, 3, &[9], 100);
        q.put(Seek::Read, 5, &[8], 100);
        assert_eq!(q.take(9), &[0x80, 0x80, 1, 9, 0x80, 8]);
    }

    #[test]
    fn late_data_is_lost_and_the_rest_keeps_its_place() {
        let mut q = Queue::new(1, 0);
        q.skip(4);
        assert_eq!(q.fill(), -4);
        assert_eq!(q.put(Seek::Write, 0, &[1, 2, 3], 100), Put::Stored);
        assert_eq!((q.fill(), q.frames()), (-1, 0));
        q.put(Seek::Write, 0, &[4, 5, 6], 100);
        assert_eq!((q.fill(), q.take(9)), (2, &[5, 6][..]));
    }

    #[test]
    fn full_is_full() {
        let mut q = Queue::new(2, 0);
        assert_eq!(q.put(Seek::Write, 0, &[1; 10], 6), Put::Full);
        assert_eq!((q.fill(), q.frames()), (6, 3));
        assert_eq!(q.put(Seek::Write, i64::MAX - 1, &[1], 6), Put::Full);
        assert_eq!(q.put(Seek::Absolute, i64::MIN, &[1], 6), Put::Stored, "that long ago is merely late");
        assert_eq!(q.put(Seek::Write, 1, &[1], 6), Put::Misplaced);
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
            let mut q = Queue::new(4, 0);
            for op in ops {
                match op {
                    Op::Put(seek, offset, len) => {
                        let seek = [Seek::Write, Seek::Absolute, Seek::Read, Seek::End][usize::from(seek)];
                        q.put(seek, offset, &vec![1; len], MAX);
                    }
                    Op::Take(n) => prop_assert!(q.take(n).len() <= 4 * n),
                    Op::Skip(n) => {
                        let all = q.frames();
                        q.take(all);
                        q.skip(n);
                    }
                    Op::Flush => q.flush(),
                }
                prop_assert!(q.fill() <= MAX as i64);
                prop_assert_eq!(q.frames() as i64, q.fill().max(0) / 4);
                prop_assert!(q.bytes.len() <= MAX + SLACK + 1);
            }
        }
    }
}
