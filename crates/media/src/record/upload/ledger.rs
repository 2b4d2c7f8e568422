//! Tracks what was recorded, which files that becomes, and which of them are stored. Sans-IO: built from the
//! entries of both logs alone, so it is the same after a crash.

mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::PathBuf;

use pagecast_core::MediaTime;
use pagecast_core::ledger::{FIRST_EPOCH, Run, Segment, StoredIn, Thumbnail};
use pagecast_core::spec::{Format, Recording};

use super::super::file_names::{FileNames, numbered_path};
use super::super::manifest::{Manifest, RecordedFile, RunSpan, ThumbnailEntry};
use super::super::playlist::{PlaylistState, Playlists};
use super::super::splitter::{FileSegments, FileSplitter};
use super::super::spool::{EarlierSegment, Origin, PlaylistWriter, RecordedEntry, UploadEntry};
use crate::store::Layout;
use rows::RowKey;

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
    place: Place,
    /// Whether the store of the fleet has a copy.
    copied: bool,
    /// Index of its file, once that is closed or if an earlier owner assigned it.
    file: Option<u32>,
}

impl SegmentEntry {
    /// Whether its content can be read.
    fn is_readable(&self) -> bool {
        self.place != Place::Elsewhere
    }
}

/// Where the content of a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In this spool.
    Spool,
    /// In a storage, where an earlier owner put it.
    Stored(Origin),
    /// In another spool, or nowhere: files are made without it.
    Elsewhere,
}

/// A thumbnail and its upload state.
#[derive(Debug)]
struct TakenThumbnail {
    thumbnail: Thumbnail,
    stored: bool,
    /// An earlier owner took it, and has it in another spool.
    elsewhere: bool,
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
    playlist_writer: PlaylistWriter,
    /// Whether only what a later owner could not read is stored.
    stores_remainder: bool,
    /// Whether the recording's storage keeps segments where a later owner can read them.
    is_shared: bool,
    runs: Vec<Run>,
    /// Runs whose initialization segment is stored.
    stored_inits: BTreeSet<u32>,
    segments: Vec<SegmentEntry>,
    thumbnails: Vec<TakenThumbnail>,
    files: Vec<FileEntry>,
    /// Index of the first file of this spool, and the stored ones of those before it.
    first_file: u32,
    earlier_files: BTreeMap<u32, RecordedFile>,
    splitter: FileSplitter,
    todo: VecDeque<Task>,
    in_flight: usize,
    playlists: Playlists,
    /// The first segment that is neither in the playlists nor left out of them.
    next_to_list: usize,
    /// Storage in use.
    stored_in: StoredIn,
    /// Rows of the fleet's ledger that have changed.
    changed: BTreeSet<RowKey>,
    /// Stored names, copied names and assembled files, from the upload log.
    stored: HashMap<String, Option<RecordedFile>>,
    copied: HashSet<String>,
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
            playlist_writer: PlaylistWriter::ThisSpool,
            stores_remainder: false,
            is_shared: false,
            runs: Vec::new(),
            stored_inits: BTreeSet::new(),
            segments: Vec::new(),
            thumbnails: Vec::new(),
            files: Vec::new(),
            first_file: 0,
            earlier_files: BTreeMap::new(),
            splitter: FileSplitter::new(recording.split),
            todo: VecDeque::new(),
            in_flight: 0,
            playlists: Playlists::new(recording.format.is_ts(), recording.segment.into()),
            next_to_list: 0,
            stored_in: StoredIn::Storage,
            changed: BTreeSet::new(),
            stored: HashMap::new(),
            copied: HashSet::new(),
            assembled: BTreeMap::new(),
            input_ended: false,
            asset: None,
        }
    }

    /// Sets the index of the spool's first MP4 file, and who writes the playlists. Comes before all entries.
    pub(super) fn set_place(&mut self, first_file: u32, playlist_writer: PlaylistWriter) {
        self.splitter.set_next_index(first_file);
        (self.first_file, self.playlist_writer) = (first_file, playlist_writer);
    }

    /// Sets whether the recording's storage can be read on other machines, and whether only what a later
    /// owner could not read is stored. Comes before all entries.
    pub(super) fn set_sharing(&mut self, is_shared: bool, stores_remainder: bool) {
        (self.is_shared, self.stores_remainder) = (is_shared, stores_remainder);
    }

    /// Applies an entry of the upload log of an earlier process. Comes before all recorded entries.
    pub(super) fn apply_upload_entry(&mut self, entry: UploadEntry) {
        match entry {
            UploadEntry::Assembled(file) => drop(self.assembled.insert(file.index, file)),
            UploadEntry::Stored(stored) => {
                if let Some(file) = &stored.file
                    && let Some(index) = self.names.mp4_index(&stored.name)
                    && index < self.first_file
                {
                    self.earlier_files.insert(index, file.clone());
                }
                self.stored.insert(stored.name, stored.file);
            }
            UploadEntry::Copied { name } => drop(self.copied.insert(name)),
            UploadEntry::SwitchedToBackup => {
                self.stored.clear();
                self.earlier_files.clear();
                self.stored_in = StoredIn::Backup;
            }
            UploadEntry::MultipartStarted { .. } | UploadEntry::MultipartEnded { .. } => {}
        }
    }

    /// Applies an entry of the recorded log. `fits`: a segment has the decoder configuration of the previous
    /// one.
    pub(super) fn apply_recorded_entry(&mut self, entry: RecordedEntry, fits: bool) {
        match entry {
            RecordedEntry::Run(run) => {
                self.changed.insert(RowKey::Run(run.index));
                self.runs.push(run);
                self.playlists.add_run(run);
                self.splitter.begin_run(run);
            }
            RecordedEntry::Segment(segment) => {
                if self.segments.last().is_none_or(|last| last.segment.run != segment.run) {
                    // The initialization segment of the run is there now.
                    self.changed.insert(RowKey::Run(segment.run));
                }
                let place = if self.is_delivered(&segment) { Place::Elsewhere } else { Place::Spool };
                self.push_segment(segment, place, None);
                // A file that an earlier process assembled keeps its segments.
                let assembled = self.splitter.open_file().and_then(|open| self.assembled.get(&open.index));
                let fits = fits && assembled.is_none_or(|file| segment.index <= file.last);
                if self.format.has_mp4()
                    && let Some(file) = self.splitter.push(&segment, fits)
                {
                    self.close_file(file);
                }
            }
            RecordedEntry::EarlierSegment(earlier) => self.push_earlier_segment(earlier, fits),
            RecordedEntry::Thumbnail(thumbnail) => self.push_thumbnail(thumbnail, false),
            RecordedEntry::EarlierThumbnail(thumbnail) => self.push_thumbnail(thumbnail, true),
        }
    }

    /// Adds a segment of an earlier owner. It belongs to the file that its owner assigned, so that files have
    /// the same segments whoever makes them.
    fn push_earlier_segment(&mut self, earlier: EarlierSegment, fits: bool) {
        let EarlierSegment { segment, origin, file, is_unreported } = earlier;
        if is_unreported {
            self.changed.insert(RowKey::Segment(segment.index));
        }
        // A later owner takes care of it.
        let is_own = self.playlist_writer != PlaylistWriter::LaterOwner;
        self.push_segment(segment, origin.filter(|_| is_own).map_or(Place::Elsewhere, Place::Stored), file);
        let Some(file) = file.filter(|file| self.format.has_mp4() && *file >= self.first_file) else {
            return;
        };
        let is_next = self.splitter.open_file().is_none_or(|open| open.index != file);
        if is_next {
            self.close_open_file();
            self.splitter.set_next_index(file);
        }
        if let Some(Some(stored)) = self.stored.get(&self.names.mp4(file)) {
            self.earlier_files.insert(file, stored.clone());
            self.splitter.set_next_index(file.saturating_add(1));
        } else if origin.is_some() {
            if let Some(closed) = self.splitter.push(&segment, fits) {
                self.close_file(closed);
            }
        } else if is_next {
            // Later owners leave its number to the one that has its segments.
            self.splitter.set_next_index(file.saturating_add(1));
        }
    }

    fn close_open_file(&mut self) {
        if let Some(file) = self.splitter.finish() {
            self.close_file(file);
        }
    }

    /// Whether a later owner could read a segment, which then needs no other file.
    fn is_delivered(&self, segment: &Segment) -> bool {
        let name = self.names.segment(segment.epoch, segment.index);
        let is_stored = || self.is_shared && !self.format.is_ts() && self.stored.contains_key(&name);
        self.stores_remainder && (self.copied.contains(&name) || is_stored())
    }

    fn push_segment(&mut self, segment: Segment, place: Place, file: Option<u32>) {
        let copied = match place {
            Place::Spool => self.copied.contains(&self.names.segment(segment.epoch, segment.index)),
            Place::Stored(origin) => origin == Origin::FleetStore,
            Place::Elsewhere => false,
        };
        self.segments.push(SegmentEntry { segment, stored: false, place, copied, file });
        if place == Place::Spool {
            self.changed.insert(RowKey::Segment(segment.index));
        }
        self.queue_segment(segment, place == Place::Elsewhere);
    }

    fn push_thumbnail(&mut self, thumbnail: Thumbnail, elsewhere: bool) {
        self.thumbnails.push(TakenThumbnail { thumbnail, stored: false, elsewhere });
        if !elsewhere {
            self.changed.insert(RowKey::Thumbnail(thumbnail.index));
        }
        self.queue(Task::Thumbnail(thumbnail.index), elsewhere);
    }

    /// Ends the recording: closes the last file.
    pub(super) fn end_input(&mut self) {
        if std::mem::replace(&mut self.input_ended, true) {
            return;
        }
        self.close_open_file();
        if self.is_single_asset && self.segments.iter().any(SegmentEntry::is_readable) {
            self.queue_unless_stored(Task::Asset);
        }
    }

    /// Queues a segment, and before the first one of a run its initialization segment.
    fn queue_segment(&mut self, segment: Segment, elsewhere: bool) {
        if !self.stores_segments() {
            return;
        }
        let has_init = |entry: &SegmentEntry| entry.segment.run == segment.run && entry.is_readable();
        let mut others =
            self.segments.iter().rev().skip(1).take_while(|entry| entry.segment.run == segment.run);
        // The initialization segment is where the segments are.
        let is_first = if elsewhere { others.next().is_none() } else { !others.any(has_init) };
        if is_first && !self.format.is_ts() && !self.stored_inits.contains(&segment.run) {
            self.queue(Task::Init(segment.run), elsewhere);
        }
        self.queue(Task::Segment(segment.index), elsewhere);
        self.extend_playlists();
    }

    /// Queues a task unless it is done. What is elsewhere cannot be stored from here.
    fn queue(&mut self, task: Task, elsewhere: bool) {
        if !elsewhere || self.stored.contains_key(&self.object_name(task)) {
            self.queue_unless_stored(task);
        }
    }

    fn stores_segments(&self) -> bool {
        self.format.has_hls() && !self.is_single_asset
    }

    fn close_file(&mut self, file: FileSegments) {
        for entry in self.segments.iter_mut().take(file.last as usize + 1).skip(file.first as usize) {
            entry.file = Some(file.index);
        }
        self.files.push(FileEntry { segments: file, stored: None });
        if self.stores_remainder {
            if let Some(stored) = self.stored.get(&self.names.mp4(file.index)).cloned() {
                return self.mark_stored(Task::File(file.index), stored);
            }
            if self.segments(Some(file)).is_empty() {
                self.files.pop();
                return;
            }
        }
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
            Task::Init(run) => {
                let known = self.runs.iter().find(|known| known.index == run);
                self.names.init(known.map_or(FIRST_EPOCH, |known| known.epoch), run)
            }
            Task::Segment(index) if self.format.is_ts() => self.names.ts(self.segment_epoch(index), index),
            Task::Segment(index) => self.names.segment(self.segment_epoch(index), index),
            Task::Thumbnail(index) => {
                let taken = self.thumbnails.get(index as usize);
                self.names.thumbnail(taken.map_or(FIRST_EPOCH, |taken| taken.thumbnail.epoch), index)
            }
            Task::Assemble(file) => self.mp4_name(file.index, self.segment_epoch(file.first)),
            Task::File(index) => {
                let file = self.file_segments(index);
                self.mp4_name(index, file.map_or(FIRST_EPOCH, |file| self.segment_epoch(file.first)))
            }
            Task::Asset => self.names.playlist(),
        }
    }

    fn mp4_name(&self, index: u32, epoch: u64) -> String {
        if self.stores_remainder { self.names.mp4_remainder(epoch, index) } else { self.names.mp4(index) }
    }

    fn segment_epoch(&self, index: u32) -> u64 {
        self.segment(index).map_or(FIRST_EPOCH, |segment| segment.epoch)
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
                    if entry.is_readable() {
                        self.changed.insert(RowKey::Segment(index));
                    }
                }
                self.extend_playlists();
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
                self.changed.insert(RowKey::File(index));
            }
            Task::Asset => self.asset = stored_file,
            Task::Init(run) => {
                self.stored_inits.insert(run);
                self.changed.insert(RowKey::Run(run));
            }
            Task::Thumbnail(index) => {
                if let Some(taken) = self.thumbnails.get_mut(index as usize) {
                    taken.stored = true;
                    if !taken.elsewhere {
                        self.changed.insert(RowKey::Thumbnail(index));
                    }
                }
            }
            Task::Assemble(_) => {}
        }
    }

    /// Adds the segments to the playlists that are stored, in order. Those that are elsewhere and not stored
    /// are left out.
    fn extend_playlists(&mut self) {
        while let Some(entry) = self.segments.get(self.next_to_list).filter(|e| e.stored || !e.is_readable())
        {
            if entry.stored {
                self.playlists.add_segment(entry.segment);
            }
            self.next_to_list += 1;
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
                    self.format.is_ts().then(|| self.object_name(task)).into_iter().collect();
                let entry = self.segments.get(index as usize);
                names.extend(entry.filter(is_spent).map(|e| self.names.segment(e.segment.epoch, index)));
                names
            }
            Task::File(index) => {
                let inside = self.segments.iter().filter(|e| e.file == Some(index)).filter(is_spent);
                let name = |e: &SegmentEntry| self.names.segment(e.segment.epoch, e.segment.index);
                let mut names: Vec<_> = inside.map(name).collect();
                names.push(self.object_name(task));
                names
            }
            Task::Thumbnail(_) => vec![self.object_name(task)],
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
        self.earlier_files.clear();
        self.stored_inits.clear();
        self.stored_in = StoredIn::Backup;
        self.changed.extend(self.runs.iter().map(|run| RowKey::Run(run.index)));
        self.playlists.clear();
        self.next_to_list = 0;
        for entry in recorded {
            // The storage that failed cannot be read either.
            let place = match entry.place {
                Place::Stored(Origin::Storage) => Place::Elsewhere,
                place => place,
            };
            self.push_segment(entry.segment, place, entry.file);
            if let Some(pushed) = self.segments.last_mut() {
                pushed.copied = entry.copied;
            }
        }
        for taken in std::mem::take(&mut self.thumbnails) {
            self.push_thumbnail(taken.thumbnail, taken.elsewhere);
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
        if self.input_ended && self.is_single_asset && self.segments.iter().any(SegmentEntry::is_readable) {
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

    /// The segments that can be read, of a file or of the whole recording.
    pub(super) fn segments(&self, file: Option<FileSegments>) -> Vec<Segment> {
        let inside = |s: &Segment| file.is_none_or(|p| (p.first..=p.last).contains(&s.index));
        self.segments.iter().filter(|e| e.is_readable()).map(|e| e.segment).filter(inside).collect()
    }

    /// The storage from which a segment is read, if it is not in this spool.
    pub(super) fn origin(&self, index: u32) -> Option<Origin> {
        match self.segments.get(index as usize)?.place {
            Place::Stored(origin) => Some(origin),
            Place::Spool | Place::Elsewhere => None,
        }
    }

    /// Whether a segment of this spool should be copied to the store of the fleet.
    pub(super) fn needs_copy(&self, index: u32) -> bool {
        let in_file = |file| self.files.iter().any(|f| f.segments.index == file && f.stored.is_some());
        self.segments.get(index as usize).is_some_and(|entry| {
            let is_readable = entry.stored && self.keeps_segments_readable();
            entry.place == Place::Spool && !entry.copied && !is_readable && !entry.file.is_some_and(in_file)
        })
    }

    /// Whether a stored segment is in the recording's storage as a later owner needs it.
    pub(super) fn keeps_segments_readable(&self) -> bool {
        self.is_shared && self.stores_segments() && !(self.format.is_ts() && self.format.has_mp4())
    }

    /// Marks a segment as copied to the store of the fleet. Returns its name.
    pub(super) fn mark_copied(&mut self, index: u32) -> Option<String> {
        let entry = self.segments.get_mut(index as usize)?;
        entry.copied = true;
        self.changed.insert(RowKey::Segment(index));
        Some(self.names.segment(entry.segment.epoch, index))
    }

    /// Notes that segments of earlier owners are not where they were stored.
    pub(super) fn mark_lost(&mut self, indexes: &[u32]) {
        for index in indexes {
            if let Some(entry) = self.segments.get_mut(*index as usize) {
                entry.place = Place::Elsewhere;
            }
        }
        self.extend_playlists();
    }

    /// Gives up a task in flight, as nothing is left to store.
    pub(super) fn drop_task(&mut self, task: Task) {
        self.in_flight -= 1;
        if let Task::Assemble(file) = task {
            self.files.retain(|known| known.segments.index != file.index);
        }
    }

    /// Number of closed files, those of earlier owners included.
    pub(super) fn file_count(&self) -> u32 {
        self.first_file.saturating_add(u32::try_from(self.files.len()).unwrap_or(u32::MAX))
    }

    /// The segments of file `index`, once it is closed.
    pub(super) fn file_segments(&self, index: u32) -> Option<FileSegments> {
        self.files.iter().map(|f| f.segments).find(|file| file.index == index)
    }

    /// Names of the initialization segments of the runs that have segments in this spool.
    pub(super) fn init_names(&self) -> Vec<String> {
        let own = self.segments.iter().filter(|e| e.is_readable()).map(|e| (e.segment.epoch, e.segment.run));
        let mut runs: Vec<_> = own.collect();
        runs.dedup();
        runs.into_iter().map(|(epoch, run)| self.names.init(epoch, run)).collect()
    }

    /// Number of segments in the playlists; `None` if there are no playlists, or another owner has them.
    pub(super) fn listed_segments(&self) -> Option<usize> {
        let is_writer = self.playlist_writer != PlaylistWriter::LaterOwner;
        (self.stores_segments() && is_writer && self.playlists.len() > 0).then(|| self.playlists.len())
    }

    /// Number of segments in the playlists while they grow; `None` if there are none, or only final ones.
    pub(super) fn growing_playlist_segments(&self) -> Option<usize> {
        self.listed_segments().filter(|_| self.playlist_writer == PlaylistWriter::ThisSpool)
    }

    pub(super) fn whole_playlist(&self, growth: PlaylistState) -> String {
        self.playlists.render_full(&self.names, growth)
    }

    pub(super) fn live_playlist(&self, growth: PlaylistState) -> String {
        self.playlists.render_live(&self.names, growth)
    }

    /// The playlist of all segments in this spool, stored or not.
    pub(super) fn asset_playlist(&self, recording: &Recording) -> String {
        let mut all = Playlists::new(self.format.is_ts(), recording.segment.into());
        self.runs.iter().for_each(|run| all.add_run(*run));
        self.segments(None).into_iter().for_each(|segment| all.add_segment(segment));
        all.render_full(&self.names, PlaylistState::Complete)
    }

    /// Name of file `index` in the storage.
    fn file_name(&self, index: u32) -> String {
        let path = self.file_path.as_ref().map(|file| numbered_path(file, index));
        let name = path.as_ref().and_then(|path| path.file_name());
        name.map_or_else(|| self.object_name(Task::File(index)), |name| name.to_string_lossy().into_owned())
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
        let mut files = self.stored_mp4_files();
        if self.listed_segments().is_some() {
            let listed = self.segments.iter().filter(|entry| entry.stored);
            files.push(self.whole_recording(listed.map(|entry| entry.segment.bytes).sum()));
        }
        files.extend(self.asset.clone());
        files
    }

    fn stored_mp4_files(&self) -> Vec<RecordedFile> {
        let own = self.files.iter().filter_map(|file| file.stored.as_ref());
        self.earlier_files.values().chain(own).cloned().collect()
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
        let thumbnail = |taken: &TakenThumbnail| ThumbnailEntry {
            name: self.names.thumbnail(taken.thumbnail.epoch, taken.thumbnail.index),
            at_ms: taken.thumbnail.at.as_millis(),
        };
        let thumbnails = self.thumbnails.iter().filter(|taken| taken.stored || !taken.elsewhere);
        Manifest {
            name: name.to_owned(),
            duration_ms: self.duration().as_millis(),
            runs: self.runs.iter().filter_map(span).collect(),
            files: self.stored_mp4_files(),
            playlist: self.listed_segments().map(|_| self.names.playlist()),
            segments: self.segments.len(),
            thumbnails: thumbnails.map(thumbnail).collect(),
        }
    }
}
