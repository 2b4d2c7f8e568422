//! Assigns segments to MP4 files. Sans-IO: depends only on the recorded log, so it is the same after a crash.

use std::time::Duration;

use pagecast_core::MediaTime;
use pagecast_core::ledger::{Run, Segment};
use pagecast_core::spec::MAX_FILE_BYTES;
use serde::{Deserialize, Serialize};

use crate::split_points::SplitPoints;

/// The segments of one MP4 file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileSegments {
    /// Index of the file.
    pub(super) index: u32,
    /// Indexes of its first and last segment.
    pub(super) first: u32,
    pub(super) last: u32,
}

/// Splits a recording into files.
#[derive(Debug)]
pub(super) struct FileSplitter {
    max_duration: Duration,
    /// Split points of the current run; `None` if the recorder did not cut segments for files.
    split_points: Option<SplitPoints>,
    open_file: Option<FileSegments>,
    /// Start of the open file in the recording.
    start: MediaTime,
    duration: MediaTime,
    bytes: u64,
    next_index: u32,
}

impl FileSplitter {
    /// Files end at multiples of `max_duration`, rounded to a tick, and have at most [`MAX_FILE_BYTES`] and
    /// at least one segment.
    pub(super) fn new(max_duration: Duration) -> Self {
        Self {
            max_duration,
            split_points: None,
            open_file: None,
            start: MediaTime::ZERO,
            duration: MediaTime::ZERO,
            bytes: 0,
            next_index: 0,
        }
    }

    /// Sets the index of the next file: those before it are made elsewhere.
    pub(super) fn set_next_index(&mut self, index: u32) {
        self.next_index = index;
    }

    /// Starts a run, to which the following segments belong.
    pub(super) fn begin_run(&mut self, run: Run) {
        self.split_points =
            (run.tick > MediaTime::ZERO).then(|| SplitPoints::new(self.max_duration, run.tick));
    }

    /// The file that is still growing.
    pub(super) fn open_file(&self) -> Option<FileSegments> {
        self.open_file
    }

    /// Adds the next segment. Returns the previous file if the segment starts a new one. `fits`: the segment
    /// has the same decoder configuration as the file.
    pub(super) fn push(&mut self, segment: &Segment, fits: bool) -> Option<FileSegments> {
        let (duration, bytes) = (self.duration + segment.duration, self.bytes + segment.bytes);
        let in_time = match self.split_points {
            Some(splits) => splits.count_until(segment.start) <= splits.count_until(self.start),
            None => duration <= self.max_duration.into(),
        };
        match &mut self.open_file {
            Some(file) if fits && in_time && bytes <= MAX_FILE_BYTES => {
                file.last = segment.index;
                (self.duration, self.bytes) = (duration, bytes);
                None
            }
            open => {
                let file = FileSegments { index: self.next_index, first: segment.index, last: segment.index };
                let closed = open.replace(file);
                self.next_index = self.next_index.saturating_add(1);
                self.start = segment.start;
                (self.duration, self.bytes) = (segment.duration, segment.bytes);
                closed
            }
        }
    }

    /// Ends the input and returns the last file.
    pub(super) fn finish(&mut self) -> Option<FileSegments> {
        self.open_file.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(index: u32, seconds: i64, bytes: u64) -> Segment {
        let duration = MediaTime::from_index(seconds, 1);
        Segment {
            index,
            run: 0,
            epoch: 1,
            start: MediaTime::from_index(i64::from(index) * seconds, 1),
            duration,
            bytes,
        }
    }

    fn files(max_s: u64, segments: impl Iterator<Item = (Segment, bool)>) -> Vec<(u32, u32, u32)> {
        let mut splitter = FileSplitter::new(Duration::from_secs(max_s));
        let mut files: Vec<_> = segments.filter_map(|(s, fits)| splitter.push(&s, fits)).collect();
        files.extend(splitter.finish());
        files.iter().map(|p| (p.index, p.first, p.last)).collect()
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
    fn files_end_where_segments_were_cut_for_them() {
        // A page at 10 fps: the start of each segment in ticks, and its run.
        let files = |split_s: u64, begins: &[(i64, u32)], end: i64| {
            let mut splitter = FileSplitter::new(Duration::from_secs(split_s));
            let at = |tick: i64| MediaTime::from_index(tick, 10);
            let ends = begins.iter().map(|(tick, _)| *tick).skip(1).chain([end]);
            let (mut lengths, mut begun, mut last) = (Vec::new(), 0, None);
            for (index, ((begin, run), end)) in begins.iter().copied().zip(ends).enumerate() {
                if last.replace(run) != Some(run) {
                    splitter.begin_run(Run { index: run, epoch: 1, unix_ms: 0, tick: at(1) });
                }
                let (start, duration) = (at(begin), at(end) - at(begin));
                let index = u32::try_from(index).unwrap();
                if splitter.push(&Segment { index, run, epoch: 1, start, duration, bytes: 1 }, true).is_some()
                {
                    lengths.push(begin - begun);
                    begun = begin;
                }
            }
            lengths.push(end - begun);
            lengths
        };
        let whole = [(0, 0), (40, 0), (50, 0), (90, 0), (100, 0)];
        assert_eq!(files(5, &whole, 120), [50, 50, 20]);
        assert_eq!(files(5, &whole, 101), [50, 50, 1], "a last file of one picture");
        let ten = [(0, 0), (40, 0), (80, 0), (100, 0), (140, 0), (180, 0), (200, 0)];
        assert_eq!(files(10, &ten, 220), [100, 100, 20]);
        // Interrupted and resumed at 7.3 s.
        assert_eq!(files(5, &[(0, 0), (40, 0), (50, 0), (73, 1), (100, 1)], 130), [50, 50, 30]);
        // The tick at the split point was missing, so the next one was the keyframe.
        assert_eq!(files(5, &[(0, 0), (40, 0), (52, 0), (92, 0), (100, 0)], 120), [52, 48, 20]);
    }

    #[test]
    fn files_are_numbered_after_those_made_elsewhere() {
        let mut splitter = FileSplitter::new(Duration::from_secs(10));
        splitter.set_next_index(3);
        let indexes: Vec<_> = (0..5).filter_map(|i| splitter.push(&segment(i, 4, 1), true)).collect();
        assert_eq!(indexes.iter().map(|file| file.index).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_day_is_one_file_if_it_fits() {
        let day = (0..21_600).map(|i| (segment(i, 4, 60_000), true));
        assert_eq!(files(86_400, day), [(0, 0, 21_599)]);
    }
}
