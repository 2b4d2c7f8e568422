//! Tracks what was recorded, which files that becomes, and which of them are stored. Sans-IO: built from the
//! entries of both logs alone, so it is the same after a crash.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;

use pagecast_core::MediaTime;
use pagecast_core::spec::{Format, Recording};

use super::super::file_names::{FileNames, numbered_path};
use super::super::manifest::{Manifest, RecordedFile, RunSpan, ThumbnailEntry};
use super::super::playlist::{PlaylistState, Playlists};
use super::super::splitter::{FileSegments, FileSplitter};
use super::super::spool::{RecordedEntry, Run, Segment, Thumbnail, UploadEntry};
use crate::store::Layout;

/// One task of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Store the initialization segment of a run.
    Init(u32),
    /// Store a segment.
    Segment(u32),
    /// Store a thumbnail.
    Thumbnail(u32),
    /// Assemble a file from its segments.
    Assemble(FileSegments),
    /// Store an assembled file.
    File(u32),
    /// Store playlist and segments as one asset.
    Asset,
}

/// A segment and its upload state.
#[derive(Debug)]
struct SegmentEntry {
    segment: Segment,
    stored: bool,
    /// Index of its file, once that is closed.
    file: Option<u32>,
}

/// A file and its upload state.
#[derive(Debug)]
struct FileEntry {
    segments: FileSegments,
    stored: Option<RecordedFile>,
}

/// The ledger of one recording.
#[derive(Debug)]
pub(super) struct Ledger {
    names: FileNames,
    /// Path of the first file, if the storage is a single file.
    file_path: Option<PathBuf>,
    format: Format,
    /// Whether the spool keeps everything until the end: for a backup, or to store all segments as one asset.
    keep_until_done: bool,
    /// Whether playlist and segments are stored as one asset.
    is_single_asset: bool,
    runs: Vec<Run>,
    segments: Vec<SegmentEntry>,
    thumbnails: Vec<Thumbnail>,
    files: Vec<FileEntry>,
    splitter: FileSplitter,
    todo: VecDeque<Task>,
    in_flight: usize,
    playlists: Playlists,
    /// Number of segments in the playlists.
    listed_segments: usize,
    /// Stored names and assembled files, from the upload log.
    stored: HashMap<String, Option<RecordedFile>>,
    assembled: BTreeMap<u32, FileSegments>,
    input_ended: bool,
    asset: Option<RecordedFile>,
}

impl Ledger {
    /// An empty ledger; `layout` is that of the recording's first storage.
    pub(super) fn new(recording: &Recording, names: FileNames, layout: &Layout) -> Self {
        let has_assets = *layout == Layout::Assets;
        let file_path = match layout {
            Layout::SingleFile(path) => Some(path.clone()),
            Layout::Folder | Layout::Assets => None,
        };
        Self {
            names,
            file_path,
            format: recording.format,
            keep_until_done: recording.backup.is_some() || has_assets,
            is_single_asset: has_assets && recording.format.has_hls(),
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
            asset: None,
        }
    }

    /// Applies an entry of the upload log of an earlier process. Comes before all recorded entries.
    pub(super) fn apply_upload_entry(&mut self, entry: UploadEntry) {
        match entry {
            UploadEntry::Assembled(file) => drop(self.assembled.insert(file.index, file)),
            UploadEntry::Stored(stored) => drop(self.stored.insert(stored.name, stored.file)),
            UploadEntry::SwitchedToBackup => self.stored.clear(),
            UploadEntry::MultipartStarted { .. } | UploadEntry::MultipartEnded { .. } => {}
        }
    }

    /// Applies an entry of the recorded log. `fits`: a segment has the decoder configuration of the previous
    /// one.
    pub(super) fn apply_recorded_entry(&mut self, entry: RecordedEntry, fits: bool) {
        match entry {
            RecordedEntry::Run(run) => {
                self.runs.push(run);
                self.playlists.add_run(run);
                self.splitter.begin_run(run);
            }
            RecordedEntry::Segment(segment) => {
                let starts_run = self.segments.last().is_none_or(|last| last.segment.run != segment.run);
                self.segments.push(SegmentEntry { segment, stored: false, file: None });
                self.queue_segment(segment, starts_run);
                // A file that an earlier process assembled keeps its segments.
                let assembled = self.splitter.open_file().and_then(|open| self.assembled.get(&open.index));
                let fits = fits && assembled.is_none_or(|file| segment.index <= file.last);
                if self.format.has_mp4()
                    && let Some(file) = self.splitter.push(&segment, fits)
                {
                    self.close_file(file);
                }
            }
            RecordedEntry::Thumbnail(thumbnail) => {
                self.thumbnails.push(thumbnail);
                self.queue_unless_stored(Task::Thumbnail(thumbnail.index));
            }
        }
    }

    /// Ends the recording: closes the last file.
    pub(super) fn end_input(&mut self) {
        if std::mem::replace(&mut self.input_ended, true) {
            return;
        }
        if let Some(file) = self.splitter.finish() {
            self.close_file(file);
        }
        if self.is_single_asset && !self.segments.is_empty() {
            self.queue_unless_stored(Task::Asset);
        }
    }

    /// Queues a segment, and before the first one of a run its initialization segment.
    fn queue_segment(&mut self, segment: Segment, starts_run: bool) {
        if !self.stores_segments() {
            return;
        }
        if starts_run && !self.format.is_ts() {
            self.queue_unless_stored(Task::Init(segment.run));
        }
        self.queue_unless_stored(Task::Segment(segment.index));
    }

    fn stores_segments(&self) -> bool {
        self.format.has_hls() && !self.is_single_asset
    }

    fn close_file(&mut self, file: FileSegments) {
        for entry in self.segments.iter_mut().take(file.last as usize + 1).skip(file.first as usize) {
            entry.file = Some(file.index);
        }
        self.files.push(FileEntry { segments: file, stored: None });
        if self.assembled.contains_key(&file.index) {
            self.queue_unless_stored(Task::File(file.index));
        } else {
            self.todo.push_back(Task::Assemble(file));
        }
    }

    /// Queues a task, unless it was done by an earlier process.
    fn queue_unless_stored(&mut self, task: Task) {
        match self.stored.get(&self.object_name(task)).cloned() {
            Some(stored_file) => self.mark_stored(task, stored_file),
            None => self.todo.push_back(task),
        }
    }

    /// The object name that a task stores.
    pub(super) fn object_name(&self, task: Task) -> String {
        match task {
            Task::Init(run) => self.names.init(run),
            Task::Segment(index) if self.format.is_ts() => self.names.ts(index),
            Task::Segment(index) => self.names.segment(index),
            Task::Thumbnail(index) => self.names.thumbnail(index),
            Task::Assemble(file) => self.names.mp4(file.index),
            Task::File(index) => self.names.mp4(index),
            Task::Asset => self.names.playlist(),
        }
    }

    /// Takes the next task, which is then in flight.
    pub(super) fn next_task(&mut self) -> Option<Task> {
        let task = self.todo.pop_front()?;
        self.in_flight += 1;
        Some(task)
    }

    /// Assembles a file again, as it is no longer in the spool.
    pub(super) fn reassemble(&mut self, file: FileSegments) {
        self.in_flight -= 1;
        self.assembled.remove(&file.index);
        self.todo.push_back(Task::Assemble(file));
    }

    /// Puts a failed task back to the front of the queue.
    pub(super) fn requeue(&mut self, task: Task) {
        self.in_flight -= 1;
        self.todo.push_front(task);
    }

    /// Completes a task; `stored_file` describes a stored file. Returns the files that the spool no longer
    /// needs.
    pub(super) fn complete_task(&mut self, task: Task, stored_file: Option<RecordedFile>) -> Vec<String> {
        self.in_flight -= 1;
        if let Task::Assemble(file) = task {
            self.assembled.insert(file.index, file);
            self.queue_unless_stored(Task::File(file.index));
            return Vec::new();
        }
        self.mark_stored(task, stored_file);
        if self.keep_until_done { Vec::new() } else { self.discardable_files(task) }
    }

    /// Marks the object of a task as stored.
    fn mark_stored(&mut self, task: Task, stored_file: Option<RecordedFile>) {
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
                let stored_file = stored_file.or_else(|| {
                    self.files
                        .iter()
                        .find(|f| f.segments.index == index)
                        .map(|f| self.recorded_file(f.segments, 0))
                });
                if let Some(file) = self.files.iter_mut().find(|f| f.segments.index == index) {
                    file.stored = stored_file;
                }
            }
            Task::Asset => self.asset = stored_file,
            Task::Init(_) | Task::Thumbnail(_) | Task::Assemble(_) => {}
        }
    }

    /// Files that can be removed from the spool once this task is done.
    fn discardable_files(&self, task: Task) -> Vec<String> {
        let is_spent = |entry: &&SegmentEntry| {
            let in_file = |file| self.files.iter().any(|f| f.segments.index == file && f.stored.is_some());
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
            // Other tasks may still need them.
            Task::Init(_) | Task::Assemble(_) | Task::Asset => Vec::new(),
        }
    }

    /// Queues everything again, for another storage. No task may be in flight.
    pub(super) fn restart_uploads(&mut self) {
        let recorded = std::mem::take(&mut self.segments);
        self.todo.clear();
        self.in_flight = 0;
        self.stored.clear();
        self.playlists.clear();
        self.listed_segments = 0;
        for entry in recorded {
            let starts_run = self.segments.last().is_none_or(|last| last.segment.run != entry.segment.run);
            let segment = entry.segment;
            self.segments.push(SegmentEntry { stored: false, ..entry });
            self.queue_segment(segment, starts_run);
        }
        for index in self.thumbnails.iter().map(|t| t.index).collect::<Vec<_>>() {
            self.queue_unless_stored(Task::Thumbnail(index));
        }
        for file in self
            .files
            .iter_mut()
            .map(|f| {
                f.stored = None;
                f.segments
            })
            .collect::<Vec<_>>()
        {
            let assembled = self.assembled.contains_key(&file.index);
            self.queue_unless_stored(if assembled { Task::File(file.index) } else { Task::Assemble(file) });
        }
        if self.input_ended && self.is_single_asset && !self.segments.is_empty() {
            self.queue_unless_stored(Task::Asset);
        }
    }

    /// Whether everything that was recorded is stored, except for playlists.
    pub(super) fn is_done(&self) -> bool {
        self.input_ended && self.todo.is_empty() && self.in_flight == 0
    }

    /// Number of queued and running tasks.
    pub(super) fn pending(&self) -> usize {
        self.todo.len() + self.in_flight
    }

    /// Number of recorded segments and thumbnails.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.segments.len(), self.thumbnails.len())
    }

    /// Whether nothing was recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(super) fn segment(&self, index: u32) -> Option<Segment> {
        self.segments.get(index as usize).map(|e| e.segment)
    }

    /// The segments of a file, or of the whole recording.
    pub(super) fn segments(&self, file: Option<FileSegments>) -> Vec<Segment> {
        let inside = |s: &Segment| file.is_none_or(|p| (p.first..=p.last).contains(&s.index));
        self.segments.iter().map(|e| e.segment).filter(inside).collect()
    }

    /// Number of closed files.
    pub(super) fn file_count(&self) -> u32 {
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    /// The segments of file `index`, once it is closed.
    pub(super) fn file_segments(&self, index: u32) -> Option<FileSegments> {
        self.files.iter().map(|f| f.segments).find(|file| file.index == index)
    }

    /// Indexes of the runs that have segments.
    pub(super) fn runs(&self) -> Vec<u32> {
        let mut runs: Vec<_> = self.segments.iter().map(|e| e.segment.run).collect();
        runs.dedup();
        runs
    }

    /// Number of segments in the playlists; `None` if there are no playlists.
    pub(super) fn listed_segments(&self) -> Option<usize> {
        (self.stores_segments() && self.playlists.len() > 0).then(|| self.playlists.len())
    }

    pub(super) fn whole_playlist(&self, growth: PlaylistState) -> String {
        self.playlists.render_full(&self.names, growth)
    }

    pub(super) fn live_playlist(&self, growth: PlaylistState) -> String {
        self.playlists.render_live(&self.names, growth)
    }

    /// The playlist of all segments, stored or not.
    pub(super) fn asset_playlist(&self, recording: &Recording) -> String {
        let mut all = Playlists::new(self.format.is_ts(), recording.segment.into());
        self.runs.iter().for_each(|run| all.add_run(*run));
        self.segments.iter().for_each(|entry| all.add_segment(entry.segment));
        all.render_full(&self.names, PlaylistState::Complete)
    }

    /// Name of file `index` in the storage.
    fn file_name(&self, index: u32) -> String {
        let path = self.file_path.as_ref().map(|file| numbered_path(file, index));
        let name = path.as_ref().and_then(|path| path.file_name());
        name.map_or_else(|| self.names.mp4(index), |name| name.to_string_lossy().into_owned())
    }

    /// Description of a file of `bytes` bytes.
    pub(super) fn recorded_file(&self, file: FileSegments, bytes: u64) -> RecordedFile {
        let ends = [self.segment(file.first), self.segment(file.last)];
        let unix = |segment: &Segment, at: MediaTime| {
            let run = self.runs.iter().find(|r| r.index == segment.run);
            run.map_or(0, |r| r.unix_ms) + at.as_millis()
        };
        RecordedFile {
            name: self.file_name(file.index),
            bytes,
            start_unix_ms: ends[0].map_or(0, |s| unix(&s, s.start)),
            end_unix_ms: ends[1].map_or(0, |s| unix(&s, s.start + s.duration)),
            file_id: None,
            url: None,
        }
    }

    /// Description of the whole recording as one file.
    pub(super) fn whole_recording(&self, bytes: u64) -> RecordedFile {
        let file =
            FileSegments { index: 0, first: 0, last: self.segments.last().map_or(0, |e| e.segment.index) };
        RecordedFile { name: self.names.playlist(), ..self.recorded_file(file, bytes) }
    }

    /// The stored files that players open.
    pub(super) fn recorded_files(&self) -> Vec<RecordedFile> {
        let mut files: Vec<_> = self.files.iter().filter_map(|f| f.stored.clone()).collect();
        if self.listed_segments().is_some() {
            files.push(self.whole_recording(self.segments.iter().map(|e| e.segment.bytes).sum()));
        }
        files.extend(self.asset.clone());
        files
    }

    pub(super) fn duration(&self) -> MediaTime {
        self.segments.iter().fold(MediaTime::ZERO, |sum, e| sum + e.segment.duration)
    }

    /// The manifest of everything that is stored.
    pub(super) fn manifest(&self, name: &str) -> Manifest {
        let span = |run: &Run| {
            let own = || self.segments.iter().map(|e| e.segment).filter(|s| s.run == run.index);
            let start = own().next()?.start;
            let duration = own().fold(MediaTime::ZERO, |sum, s| sum + s.duration);
            Some(RunSpan::new(run.unix_ms + start.as_millis(), start, duration))
        };
        let thumbnail =
            |t: &Thumbnail| ThumbnailEntry { name: self.names.thumbnail(t.index), at_ms: t.at.as_millis() };
        Manifest {
            name: name.to_owned(),
            duration_ms: self.duration().as_millis(),
            runs: self.runs.iter().filter_map(span).collect(),
            files: self.files.iter().filter_map(|f| f.stored.clone()).collect(),
            playlist: self.listed_segments().map(|_| self.names.playlist()),
            segments: self.segments.len(),
            thumbnails: self.thumbnails.iter().map(thumbnail).collect(),
        }
    }
}
