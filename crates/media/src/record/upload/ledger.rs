//! What was recorded, what it becomes, and what of that is stored already. Sans-IO: told the entries of both
//! logs, it says what to do next, the same after a crash as before it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;

use pagecast_core::MediaTime;
use pagecast_core::spec::{Format, Recording, Storage};

use super::super::file_names::{FileNames, numbered_path};
use super::super::manifest::{Manifest, RecordedFile, RunSpan, ThumbnailEntry};
use super::super::playlist::{PlaylistState as Growth, Playlists};
use super::super::splitter::{FileSegments, FileSplitter};
use super::super::spool::{RecordedEntry, Run, Segment, Thumbnail, UploadEntry};

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Store what begins a run.
    Init(u32),
    /// Store a segment.
    Segment(u32),
    /// Store a picture.
    Thumbnail(u32),
    /// Make a file of its segments.
    Assemble(FileSegments),
    /// Store that file.
    File(u32),
    /// Store playlist and segments as one medium.
    VodAsset,
}

/// A segment and what became of it.
#[derive(Debug)]
struct SegmentEntry {
    segment: Segment,
    stored: bool,
    /// The file that it is in, once that is closed.
    file: Option<u32>,
}

/// A file and what became of it.
#[derive(Debug)]
struct FileEntry {
    segments: FileSegments,
    stored: Option<RecordedFile>,
}

/// The books of one recording.
#[derive(Debug)]
pub(super) struct Ledger {
    names: FileNames,
    /// Where the first file goes, if it has a name of its own.
    file_path: Option<PathBuf>,
    format: Format,
    /// Nothing is discarded before all is stored.
    keep_until_done: bool,
    /// Playlist and segments are stored as one.
    is_vod_asset: bool,
    runs: Vec<Run>,
    segments: Vec<SegmentEntry>,
    thumbnails: Vec<Thumbnail>,
    files: Vec<FileEntry>,
    splitter: FileSplitter,
    todo: VecDeque<Task>,
    in_flight: usize,
    playlists: Playlists,
    /// Segments that are in the playlists.
    listed_segments: usize,
    /// What the log says: names that are stored, files that are made.
    stored: HashMap<String, Option<RecordedFile>>,
    assembled: BTreeMap<u32, FileSegments>,
    input_ended: bool,
    vod_file: Option<RecordedFile>,
}

impl Ledger {
    pub(super) fn new(recording: &Recording, names: FileNames) -> Self {
        let medium = matches!(recording.to, Storage::TencentVod(_));
        let file = match &recording.to {
            Storage::File(path) => Some(path.clone()),
            _ => None,
        };
        Self {
            names,
            file_path: file,
            format: recording.format,
            keep_until_done: recording.backup.is_some() || medium,
            is_vod_asset: medium && recording.format.has_hls(),
            runs: Vec::new(),
            segments: Vec::new(),
            thumbnails: Vec::new(),
            files: Vec::new(),
            splitter: FileSplitter::new(recording.split),
            todo: VecDeque::new(),
            in_flight: 0,
            playlists: Playlists::new(recording.format.is_ts(), recording.segment.into()),
            listed_segments: 0,
            stored: HashMap::new(),
            assembled: BTreeMap::new(),
            input_ended: false,
            vod_file: None,
        }
    }

    /// What an earlier process did; told before anything that was recorded.
    pub(super) fn apply_upload_entry(&mut self, entry: UploadEntry) {
        match entry {
            UploadEntry::Assembled(part) => drop(self.assembled.insert(part.index, part)),
            UploadEntry::Stored(stored) => drop(self.stored.insert(stored.name, stored.file)),
            UploadEntry::SwitchedToBackup => self.stored.clear(),
        }
    }

    /// Something more was recorded. `fits`: a segment was encoded as the one before it.
    pub(super) fn apply_recorded_entry(&mut self, entry: RecordedEntry, fits: bool) {
        match entry {
            RecordedEntry::Run(run) => {
                self.runs.push(run);
                self.playlists.add_run(run);
                self.splitter.begin_run(run);
            }
            RecordedEntry::Segment(segment) => {
                let begins = self.segments.last().is_none_or(|last| last.segment.run != segment.run);
                self.segments.push(SegmentEntry { segment, stored: false, file: None });
                self.queue_segment(segment, begins);
                // A file that was made once has the segments that it has.
                let made = self.splitter.open_file().and_then(|open| self.assembled.get(&open.index));
                let fits = fits && made.is_none_or(|part| segment.index <= part.last);
                if self.format.has_mp4()
                    && let Some(part) = self.splitter.push(&segment, fits)
                {
                    self.close_file(part);
                }
            }
            RecordedEntry::Thumbnail(thumbnail) => {
                self.thumbnails.push(thumbnail);
                self.queue_unless_stored(Task::Thumbnail(thumbnail.index));
            }
        }
    }

    /// Nothing more will be recorded.
    pub(super) fn end_input(&mut self) {
        if std::mem::replace(&mut self.input_ended, true) {
            return;
        }
        if let Some(part) = self.splitter.finish() {
            self.close_file(part);
        }
        if self.is_vod_asset && !self.segments.is_empty() {
            self.queue_unless_stored(Task::VodAsset);
        }
    }

    /// Queues a segment, behind what begins its run: that is written when a run has its first segment.
    fn queue_segment(&mut self, segment: Segment, begins: bool) {
        if !self.stores_segments() {
            return;
        }
        if begins && !self.format.is_ts() {
            self.queue_unless_stored(Task::Init(segment.run));
        }
        self.queue_unless_stored(Task::Segment(segment.index));
    }

    fn stores_segments(&self) -> bool {
        self.format.has_hls() && !self.is_vod_asset
    }

    fn close_file(&mut self, part: FileSegments) {
        for entry in self.segments.iter_mut().take(part.last as usize + 1).skip(part.first as usize) {
            entry.file = Some(part.index);
        }
        self.files.push(FileEntry { segments: part, stored: None });
        if self.assembled.contains_key(&part.index) {
            self.queue_unless_stored(Task::File(part.index));
        } else {
            self.todo.push_back(Task::Assemble(part));
        }
    }

    /// Queues it, unless it is done.
    fn queue_unless_stored(&mut self, task: Task) {
        match self.stored.get(&self.object_name(task)).cloned() {
            Some(item) => self.mark_stored(task, item),
            None => self.todo.push_back(task),
        }
    }

    /// The name that a task stores something under.
    pub(super) fn object_name(&self, task: Task) -> String {
        match task {
            Task::Init(run) => self.names.init(run),
            Task::Segment(index) if self.format.is_ts() => self.names.ts(index),
            Task::Segment(index) => self.names.segment(index),
            Task::Thumbnail(index) => self.names.thumbnail(index),
            Task::Assemble(part) => self.names.mp4(part.index),
            Task::File(index) => self.names.mp4(index),
            Task::VodAsset => self.names.playlist(),
        }
    }

    /// The next thing to do, if there is any; it counts as under way.
    pub(super) fn next_task(&mut self) -> Option<Task> {
        let task = self.todo.pop_front()?;
        self.in_flight += 1;
        Some(task)
    }

    /// The file is not in the spool, though it was made: it is made again.
    pub(super) fn reassemble(&mut self, part: FileSegments) {
        self.in_flight -= 1;
        self.assembled.remove(&part.index);
        self.todo.push_back(Task::Assemble(part));
    }

    /// It did not work: to be done again, first.
    pub(super) fn requeue(&mut self, task: Task) {
        self.in_flight -= 1;
        self.todo.push_front(task);
    }

    /// It is done; `item` is what storage says about a file. The names that nobody needs in the spool any
    /// more.
    pub(super) fn complete_task(&mut self, task: Task, item: Option<RecordedFile>) -> Vec<String> {
        self.in_flight -= 1;
        if let Task::Assemble(part) = task {
            self.assembled.insert(part.index, part);
            self.queue_unless_stored(Task::File(part.index));
            return Vec::new();
        }
        self.mark_stored(task, item);
        if self.keep_until_done { Vec::new() } else { self.discardable_files(task) }
    }

    /// Marks something as stored.
    fn mark_stored(&mut self, task: Task, item: Option<RecordedFile>) {
        match task {
            Task::Segment(index) => {
                if let Some(entry) = self.segments.get_mut(index as usize) {
                    entry.stored = true;
                }
                while let Some(entry) = self.segments.get(self.listed_segments).filter(|e| e.stored) {
                    self.playlists.add_segment(entry.segment);
                    self.listed_segments += 1;
                }
            }
            Task::File(index) => {
                let item = item.or_else(|| {
                    self.files
                        .iter()
                        .find(|f| f.segments.index == index)
                        .map(|f| self.recorded_file(f.segments, 0))
                });
                if let Some(file) = self.files.iter_mut().find(|f| f.segments.index == index) {
                    file.stored = item;
                }
            }
            Task::VodAsset => self.vod_file = item,
            Task::Init(_) | Task::Thumbnail(_) | Task::Assemble(_) => {}
        }
    }

    /// What can go from the spool once this is stored.
    fn discardable_files(&self, task: Task) -> Vec<String> {
        let is_spent = |entry: &&SegmentEntry| {
            let in_file = |part| self.files.iter().any(|f| f.segments.index == part && f.stored.is_some());
            (entry.stored || !self.stores_segments())
                && (!self.format.has_mp4() || entry.file.is_some_and(in_file))
        };
        match task {
            Task::Segment(index) => {
                let mut names: Vec<_> =
                    self.format.is_ts().then(|| self.names.ts(index)).into_iter().collect();
                let entry = self.segments.get(index as usize);
                names.extend(entry.filter(is_spent).map(|_| self.names.segment(index)));
                names
            }
            Task::File(index) => {
                let inside = self.segments.iter().filter(|e| e.file == Some(index)).filter(is_spent);
                let mut names: Vec<_> = inside.map(|e| self.names.segment(e.segment.index)).collect();
                names.push(self.names.mp4(index));
                names
            }
            Task::Thumbnail(index) => vec![self.names.thumbnail(index)],
            // Others may still need it.
            Task::Init(_) | Task::Assemble(_) | Task::VodAsset => Vec::new(),
        }
    }

    /// All goes to another storage, from the beginning. Nothing may be under way.
    pub(super) fn restart_uploads(&mut self) {
        let recorded = std::mem::take(&mut self.segments);
        self.todo.clear();
        self.in_flight = 0;
        self.stored.clear();
        self.playlists.clear();
        self.listed_segments = 0;
        for entry in recorded {
            let begins = self.segments.last().is_none_or(|last| last.segment.run != entry.segment.run);
            let segment = entry.segment;
            self.segments.push(SegmentEntry { stored: false, ..entry });
            self.queue_segment(segment, begins);
        }
        for index in self.thumbnails.iter().map(|t| t.index).collect::<Vec<_>>() {
            self.queue_unless_stored(Task::Thumbnail(index));
        }
        for part in self
            .files
            .iter_mut()
            .map(|f| {
                f.stored = None;
                f.segments
            })
            .collect::<Vec<_>>()
        {
            let made = self.assembled.contains_key(&part.index);
            self.queue_unless_stored(if made { Task::File(part.index) } else { Task::Assemble(part) });
        }
        if self.input_ended && self.is_vod_asset && !self.segments.is_empty() {
            self.queue_unless_stored(Task::VodAsset);
        }
    }

    /// Whether everything that was recorded is stored, playlists aside.
    pub(super) fn is_done(&self) -> bool {
        self.input_ended && self.todo.is_empty() && self.in_flight == 0
    }

    /// How many things are to be done or under way.
    pub(super) fn pending(&self) -> usize {
        self.todo.len() + self.in_flight
    }

    /// How many segments and pictures were recorded.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.segments.len(), self.thumbnails.len())
    }

    /// Whether nothing was recorded at all.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(super) fn segment(&self, index: u32) -> Option<Segment> {
        self.segments.get(index as usize).map(|e| e.segment)
    }

    /// The segments of a file, or all of them.
    pub(super) fn segments(&self, part: Option<FileSegments>) -> Vec<Segment> {
        let inside = |s: &Segment| part.is_none_or(|p| (p.first..=p.last).contains(&s.index));
        self.segments.iter().map(|e| e.segment).filter(inside).collect()
    }

    /// How many files are closed.
    pub(super) fn file_count(&self) -> u32 {
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    /// The segments of file `index`, once it is closed.
    pub(super) fn file_segments(&self, index: u32) -> Option<FileSegments> {
        self.files.iter().map(|f| f.segments).find(|part| part.index == index)
    }

    /// Runs that have segments.
    pub(super) fn runs(&self) -> Vec<u32> {
        let mut runs: Vec<_> = self.segments.iter().map(|e| e.segment.run).collect();
        runs.dedup();
        runs
    }

    /// How many segments are in the playlists; `None` where there are none.
    pub(super) fn listed_segments(&self) -> Option<usize> {
        (self.stores_segments() && self.playlists.len() > 0).then(|| self.playlists.len())
    }

    pub(super) fn whole_playlist(&self, growth: Growth) -> String {
        self.playlists.render_full(&self.names, growth)
    }

    pub(super) fn live_playlist(&self, growth: Growth) -> String {
        self.playlists.render_live(&self.names, growth)
    }

    /// The playlist of all segments, stored or not.
    pub(super) fn vod_playlist(&self, recording: &Recording) -> String {
        let mut all = Playlists::new(self.format.is_ts(), recording.segment.into());
        self.runs.iter().for_each(|run| all.add_run(*run));
        self.segments.iter().for_each(|entry| all.add_segment(entry.segment));
        all.render_full(&self.names, Growth::Complete)
    }

    /// What file `index` is called where it is stored.
    fn file_name(&self, index: u32) -> String {
        let own = self.file_path.as_ref().map(|file| numbered_path(file, index));
        let own =
            own.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        own.unwrap_or_else(|| self.names.mp4(index))
    }

    /// What there is to know about a file of so many bytes.
    pub(super) fn recorded_file(&self, part: FileSegments, bytes: u64) -> RecordedFile {
        let ends = [self.segment(part.first), self.segment(part.last)];
        let unix = |segment: &Segment, at: MediaTime| {
            let run = self.runs.iter().find(|r| r.index == segment.run);
            run.map_or(0, |r| r.unix_ms) + at.as_millis()
        };
        RecordedFile {
            name: self.file_name(part.index),
            bytes,
            start_unix_ms: ends[0].map_or(0, |s| unix(&s, s.start)),
            end_unix_ms: ends[1].map_or(0, |s| unix(&s, s.start + s.duration)),
            file_id: None,
            url: None,
        }
    }

    /// The whole recording as one item.
    pub(super) fn whole_recording(&self, bytes: u64) -> RecordedFile {
        let part =
            FileSegments { index: 0, first: 0, last: self.segments.last().map_or(0, |e| e.segment.index) };
        RecordedFile { name: self.names.playlist(), ..self.recorded_file(part, bytes) }
    }

    /// The files that players open.
    pub(super) fn recorded_files(&self) -> Vec<RecordedFile> {
        let mut items: Vec<_> = self.files.iter().filter_map(|f| f.stored.clone()).collect();
        if self.listed_segments().is_some() {
            items.push(self.whole_recording(self.segments.iter().map(|e| e.segment.bytes).sum()));
        }
        items.extend(self.vod_file.clone());
        items
    }

    pub(super) fn duration(&self) -> MediaTime {
        self.segments.iter().fold(MediaTime::ZERO, |sum, e| sum + e.segment.duration)
    }

    /// The list of everything.
    pub(super) fn manifest(&self, name: &str) -> Manifest {
        let span = |run: &Run| {
            let own = || self.segments.iter().map(|e| e.segment).filter(|s| s.run == run.index);
            let start = own().next()?.start;
            let duration = own().fold(MediaTime::ZERO, |sum, s| sum + s.duration);
            Some(RunSpan::new(run.unix_ms + start.as_millis(), start, duration))
        };
        let shot =
            |t: &Thumbnail| ThumbnailEntry { name: self.names.thumbnail(t.index), at_ms: t.at.as_millis() };
        Manifest {
            name: name.to_owned(),
            duration_ms: self.duration().as_millis(),
            runs: self.runs.iter().filter_map(span).collect(),
            files: self.files.iter().filter_map(|f| f.stored.clone()).collect(),
            playlist: self.listed_segments().map(|_| self.names.playlist()),
            segments: self.segments.len(),
            thumbnails: self.thumbnails.iter().map(shot).collect(),
        }
    }
}
