//! Which segments become which MP4 file. Sans-IO: it follows from what was recorded alone, so it is the same after a crash.

use std::time::Duration;

use pagecast_core::MediaTime;
use pagecast_core::spec::MAX_FILE_BYTES;
use serde::{Deserialize, Serialize};

use super::spool::Segment;

/// The segments of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Index of the file.
    pub(super) index: u32,
    /// Index of its first and last segment.
    pub(super) first: u32,
    pub(super) last: u32,
}

/// Cuts a recording into files.
#[derive(Debug)]
pub(super) struct Splitter {
    max: MediaTime,
    open: Option<Part>,
    duration: MediaTime,
    bytes: u64,
    next: u32,
}

impl Splitter {
    /// Files last at most so long, and are at most [`MAX_FILE_BYTES`] large; each has at least one segment.
    pub(super) fn new(max: Duration) -> Self {
        Self { max: max.into(), open: None, duration: MediaTime::ZERO, bytes: 0, next: 0 }
    }

    /// The file that still grows.
    pub(super) fn open(&self) -> Option<Part> {
        self.open
    }

    /// Takes the next segment. The file that it did not fit into, which is closed then.
    pub(super) fn push(&mut self, segment: &Segment, fits: bool) -> Option<Part> {
        let (duration, bytes) = (self.duration + segment.duration, self.bytes + segment.bytes);
        match &mut self.open {
            Some(part) if fits && duration <= self.max && bytes <= MAX_FILE_BYTES => {
                part.last = segment.index;
                (self.duration, self.bytes) = (duration, bytes);
                None
            }
            open => {
                let part = Part { index: self.next, first: segment.index, last: segment.index };
                let closed = open.replace(part);
                self.next += 1;
                (self.duration, self.bytes) = (segment.duration, segment.bytes);
                closed
            }
        }
    }

    /// Nothing more comes: the last file.
    pub(super) fn end(&mut self) -> Option<Part> {
        self.open.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(index: u32, seconds: i64, bytes: u64) -> Segment {
        let duration = MediaTime::of_index(seconds, 1);
        Segment { index, run: 0, start: MediaTime::of_index(i64::from(index) * seconds, 1), duration, bytes }
    }

    fn files(max_s: u64, segments: impl Iterator<Item = (Segment, bool)>) -> Vec<(u32, u32, u32)> {
        let mut splitter = Splitter::new(Duration::from_secs(max_s));
        let mut parts: Vec<_> = segments.filter_map(|(s, fits)| splitter.push(&s, fits)).collect();
        parts.extend(splitter.end());
        parts.iter().map(|p| (p.index, p.first, p.last)).collect()
    }

    #[test]
    fn files_end_before_they_are_too_long_or_too_large() {
        let same = |n| (0..n).map(|i| (segment(i, 4, 1000), true));
        assert_eq!(files(10, same(5)), [(0, 0, 1), (1, 2, 3), (2, 4, 4)]);
        assert_eq!(files(12, same(6)), [(0, 0, 2), (1, 3, 5)]);
        assert_eq!(files(1, same(2)), [(0, 0, 0), (1, 1, 1)], "each has a segment");
        let gigabyte = (0..5).map(|i| (segment(i, 4, 1 << 30), true));
        assert_eq!(files(86_400, gigabyte), [(0, 0, 1), (1, 2, 3), (2, 4, 4)]);
        let another = (0..4).map(|i| (segment(i, 4, 1), i != 2));
        assert_eq!(files(86_400, another), [(0, 0, 1), (1, 2, 3)], "encoded differently");
        assert!(files(10, same(0)).is_empty());
    }

    #[test]
    fn a_day_is_one_file_if_it_fits() {
        let day = (0..21_600).map(|i| (segment(i, 4, 60_000), true));
        assert_eq!(files(86_400, day), [(0, 0, 21_599)]);
    }
}
