//! What was recorded, what it becomes, and what of that is stored already. Sans-IO: told the entries of both
//! logs, it says what to do next, the same after a crash as before it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;

use pagecast_core::MediaTime;
use pagecast_core::spec::{Format, Recording, Storage};

use super::super::manifest::{Item, Manifest, Shot, Span};
use super::super::names::{Names, sibling};
use super::super::parts::{Part, Splitter};
use super::super::playlist::{Playlists, State as Growth};
use super::super::spool::{Delivered, Recorded, Run, Segment, Thumbnail};

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
    Make(Part),
    /// Store that file.
    File(u32),
    /// Store playlist and segments as one medium.
    Medium,
}

/// A segment and what became of it.
#[derive(Debug)]
struct Entry {
    segment: Segment,
    stored: bool,
    /// The file that it is in, once that is closed.
    part: Option<u32>,
}

/// A file and what became of it.
#[derive(Debug)]
struct FileEntry {
    part: Part,
    item: Option<Item>,
}

/// The books of one recording.
#[derive(Debug)]
pub(super) struct Ledger {
    names: Names,
    /// Where the first file goes, if it has a name of its own.
    file: Option<PathBuf>,
    format: Format,
    /// Nothing is discarded before all is stored.
    keep: bool,
    /// Playlist and segments are stored as one.
    medium: bool,
    runs: Vec<Run>,
    segments: Vec<Entry>,
    thumbnails: Vec<Thumbnail>,
    files: Vec<FileEntry>,
    splitter: Splitter,
    todo: VecDeque<Task>,
    under_way: usize,
    playlists: Playlists,
    /// Segments that are in the playlists.
    listed: usize,
    /// What the log says: names that are stored, files that are made.
    stored: HashMap<String, Option<Item>>,
    made: BTreeMap<u32, Part>,
    ended: bool,
    medium_item: Option<Item>,
}

impl Ledger {
    pub(super) fn new(recording: &Recording, names: Names) -> Self {
        let medium = matches!(recording.to, Storage::TencentVod(_));
        let file = match &recording.to {
            Storage::File(path) => Some(path.clone()),
            _ => None,
        };
        Self {
            names,
            file,
            format: recording.format,
            keep: recording.backup.is_some() || medium,
            medium: medium && recording.format.has_hls(),
            runs: Vec::new(),
            segments: Vec::new(),
            thumbnails: Vec::new(),
            files: Vec::new(),
            splitter: Splitter::new(recording.split),
            todo: VecDeque::new(),
            under_way: 0,
            playlists: Playlists::new(recording.format.is_ts(), recording.segment.into()),
            listed: 0,
            stored: HashMap::new(),
            made: BTreeMap::new(),
            ended: false,
            medium_item: None,
        }
    }

    /// What an earlier process did; told before anything that was recorded.
    pub(super) fn delivered(&mut self, entry: Delivered) {
        match entry {
            Delivered::Made(part) => drop(self.made.insert(part.index, part)),
            Delivered::Stored(stored) => drop(self.stored.insert(stored.name, stored.item)),
            Delivered::Backup => self.stored.clear(),
        }
    }

    /// Something more was recorded. `fits`: a segment was encoded as the one before it.
    pub(super) fn recorded(&mut self, entry: Recorded, fits: bool) {
        match entry {
            Recorded::Run(run) => {
                self.runs.push(run);
                self.playlists.run(run);
                self.splitter.run(run);
            }
            Recorded::Segment(segment) => {
                let begins = self.segments.last().is_none_or(|last| last.segment.run != segment.run);
                self.segments.push(Entry { segment, stored: false, part: None });
                self.want_segment(segment, begins);
                // A file that was made once has the segments that it has.
                let made = self.splitter.open().and_then(|open| self.made.get(&open.index));
                let fits = fits && made.is_none_or(|part| segment.index <= part.last);
                if self.format.has_mp4()
                    && let Some(part) = self.splitter.push(&segment, fits)
                {
                    self.close(part);
                }
            }
            Recorded::Thumbnail(thumbnail) => {
                self.thumbnails.push(thumbnail);
                self.want(Task::Thumbnail(thumbnail.index));
            }
        }
    }

    /// Nothing more will be recorded.
    pub(super) fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(part) = self.splitter.end() {
            self.close(part);
        }
        if self.medium && !self.segments.is_empty() {
            self.want(Task::Medium);
        }
    }

    /// Queues a segment, behind what begins its run: that is written when a run has its first segment.
    fn want_segment(&mut self, segment: Segment, begins: bool) {
        if !self.stores_segments() {
            return;
        }
        if begins && !self.format.is_ts() {
            self.want(Task::Init(segment.run));
        }
        self.want(Task::Segment(segment.index));
    }

    fn stores_segments(&self) -> bool {
        self.format.has_hls() && !self.medium
    }

    fn close(&mut self, part: Part) {
        for entry in self.segments.iter_mut().take(part.last as usize + 1).skip(part.first as usize) {
            entry.part = Some(part.index);
        }
        self.files.push(FileEntry { part, item: None });
        if self.made.contains_key(&part.index) {
            self.want(Task::File(part.index));
        } else {
            self.todo.push_back(Task::Make(part));
        }
    }

    /// Queues it, unless it is done.
    fn want(&mut self, task: Task) {
        match self.stored.get(&self.name(task)).cloned() {
            Some(item) => self.settle(task, item),
            None => self.todo.push_back(task),
        }
    }

    /// The name that a task stores something under.
    pub(super) fn name(&self, task: Task) -> String {
        match task {
            Task::Init(run) => self.names.init(run),
            Task::Segment(index) if self.format.is_ts() => self.names.ts(index),
            Task::Segment(index) => self.names.segment(index),
            Task::Thumbnail(index) => self.names.thumbnail(index),
            Task::Make(part) => self.names.mp4(part.index),
            Task::File(index) => self.names.mp4(index),
            Task::Medium => self.names.playlist(),
        }
    }

    /// The next thing to do, if there is any; it counts as under way.
    pub(super) fn next(&mut self) -> Option<Task> {
        let task = self.todo.pop_front()?;
        self.under_way += 1;
        Some(task)
    }

    /// The file is not in the spool, though it was made: it is made again.
    pub(super) fn make_again(&mut self, part: Part) {
        self.under_way -= 1;
        self.made.remove(&part.index);
        self.todo.push_back(Task::Make(part));
    }

    /// It did not work: to be done again, first.
    pub(super) fn failed(&mut self, task: Task) {
        self.under_way -= 1;
        self.todo.push_front(task);
    }

    /// It is done; `item` is what storage says about a file. The names that nobody needs in the spool any
    /// more.
    pub(super) fn done(&mut self, task: Task, item: Option<Item>) -> Vec<String> {
        self.under_way -= 1;
        if let Task::Make(part) = task {
            self.made.insert(part.index, part);
            self.want(Task::File(part.index));
            return Vec::new();
        }
        self.settle(task, item);
        if self.keep { Vec::new() } else { self.spent(task) }
    }

    /// Marks something as stored.
    fn settle(&mut self, task: Task, item: Option<Item>) {
        match task {
            Task::Segment(index) => {
                if let Some(entry) = self.segments.get_mut(index as usize) {
                    entry.stored = true;
                }
                while let Some(entry) = self.segments.get(self.listed).filter(|e| e.stored) {
                    self.playlists.push(entry.segment);
                    self.listed += 1;
                }
            }
            Task::File(index) => {
                let item = item.or_else(|| {
                    self.files.iter().find(|f| f.part.index == index).map(|f| self.item(f.part, 0))
                });
                if let Some(file) = self.files.iter_mut().find(|f| f.part.index == index) {
                    file.item = item;
                }
            }
            Task::Medium => self.medium_item = item,
            Task::Init(_) | Task::Thumbnail(_) | Task::Make(_) => {}
        }
    }

    /// What can go from the spool once this is stored.
    fn spent(&self, task: Task) -> Vec<String> {
        let is_spent = |entry: &&Entry| {
            let in_file = |part| self.files.iter().any(|f| f.part.index == part && f.item.is_some());
            (entry.stored || !self.stores_segments())
                && (!self.format.has_mp4() || entry.part.is_some_and(in_file))
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
                let inside = self.segments.iter().filter(|e| e.part == Some(index)).filter(is_spent);
                let mut names: Vec<_> = inside.map(|e| self.names.segment(e.segment.index)).collect();
                names.push(self.names.mp4(index));
                names
            }
            Task::Thumbnail(index) => vec![self.names.thumbnail(index)],
            // Others may still need it.
            Task::Init(_) | Task::Make(_) | Task::Medium => Vec::new(),
        }
    }

    /// All goes to another storage, from the beginning. Nothing may be under way.
    pub(super) fn begin_anew(&mut self) {
        let recorded = std::mem::take(&mut self.segments);
        self.todo.clear();
        self.under_way = 0;
        self.stored.clear();
        self.playlists.clear();
        self.listed = 0;
        for entry in recorded {
            let begins = self.segments.last().is_none_or(|last| last.segment.run != entry.segment.run);
            let segment = entry.segment;
            self.segments.push(Entry { stored: false, ..entry });
            self.want_segment(segment, begins);
        }
        for index in self.thumbnails.iter().map(|t| t.index).collect::<Vec<_>>() {
            self.want(Task::Thumbnail(index));
        }
        for part in self
            .files
            .iter_mut()
            .map(|f| {
                f.item = None;
                f.part
            })
            .collect::<Vec<_>>()
        {
            let made = self.made.contains_key(&part.index);
            self.want(if made { Task::File(part.index) } else { Task::Make(part) });
        }
        if self.ended && self.medium && !self.segments.is_empty() {
            self.want(Task::Medium);
        }
    }

    /// Whether everything that was recorded is stored, playlists aside.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.todo.is_empty() && self.under_way == 0
    }

    /// How many things are to be done or under way.
    pub(super) fn pending(&self) -> usize {
        self.todo.len() + self.under_way
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
    pub(super) fn segments(&self, part: Option<Part>) -> Vec<Segment> {
        let inside = |s: &Segment| part.is_none_or(|p| (p.first..=p.last).contains(&s.index));
        self.segments.iter().map(|e| e.segment).filter(inside).collect()
    }

    /// How many files are closed.
    pub(super) fn files(&self) -> u32 {
        u32::try_from(self.files.len()).unwrap_or(u32::MAX)
    }

    /// The segments of file `index`, once it is closed.
    pub(super) fn file(&self, index: u32) -> Option<Part> {
        self.files.iter().map(|f| f.part).find(|part| part.index == index)
    }

    /// Runs that have segments.
    pub(super) fn runs(&self) -> Vec<u32> {
        let mut runs: Vec<_> = self.segments.iter().map(|e| e.segment.run).collect();
        runs.dedup();
        runs
    }

    /// How many segments are in the playlists; `None` where there are none.
    pub(super) fn listed(&self) -> Option<usize> {
        (self.stores_segments() && self.playlists.len() > 0).then(|| self.playlists.len())
    }

    pub(super) fn whole_playlist(&self, growth: Growth) -> String {
        self.playlists.whole(&self.names, growth)
    }

    pub(super) fn live_playlist(&self, growth: Growth) -> String {
        self.playlists.live(&self.names, growth)
    }

    /// The playlist of all segments, stored or not.
    pub(super) fn medium_playlist(&self, recording: &Recording) -> String {
        let mut all = Playlists::new(self.format.is_ts(), recording.segment.into());
        self.runs.iter().for_each(|run| all.run(*run));
        self.segments.iter().for_each(|entry| all.push(entry.segment));
        all.whole(&self.names, Growth::Complete)
    }

    /// What file `index` is called where it is stored.
    fn title(&self, index: u32) -> String {
        let own = self.file.as_ref().map(|file| sibling(file, index));
        let own =
            own.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        own.unwrap_or_else(|| self.names.mp4(index))
    }

    /// What there is to know about a file of so many bytes.
    pub(super) fn item(&self, part: Part, bytes: u64) -> Item {
        let ends = [self.segment(part.first), self.segment(part.last)];
        let unix = |segment: &Segment, at: MediaTime| {
            let run = self.runs.iter().find(|r| r.index == segment.run);
            run.map_or(0, |r| r.unix_ms) + at.as_millis()
        };
        Item {
            name: self.title(part.index),
            bytes,
            start_unix_ms: ends[0].map_or(0, |s| unix(&s, s.start)),
            end_unix_ms: ends[1].map_or(0, |s| unix(&s, s.start + s.duration)),
            file_id: None,
            url: None,
        }
    }

    /// The whole recording as one item.
    pub(super) fn whole_item(&self, bytes: u64) -> Item {
        let part = Part { index: 0, first: 0, last: self.segments.last().map_or(0, |e| e.segment.index) };
        Item { name: self.names.playlist(), ..self.item(part, bytes) }
    }

    /// The files that players open.
    pub(super) fn items(&self) -> Vec<Item> {
        let mut items: Vec<_> = self.files.iter().filter_map(|f| f.item.clone()).collect();
        if self.listed().is_some() {
            items.push(self.whole_item(self.segments.iter().map(|e| e.segment.bytes).sum()));
        }
        items.extend(self.medium_item.clone());
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
            Some(Span::new(run.unix_ms + start.as_millis(), start, duration))
        };
        let shot = |t: &Thumbnail| Shot { name: self.names.thumbnail(t.index), at_ms: t.at.as_millis() };
        Manifest {
            name: name.to_owned(),
            duration_ms: self.duration().as_millis(),
            spans: self.runs.iter().filter_map(span).collect(),
            files: self.files.iter().filter_map(|f| f.item.clone()).collect(),
            playlist: self.listed().map(|_| self.names.playlist()),
            segments: self.segments.len(),
            thumbnails: self.thumbnails.iter().map(shot).collect(),
        }
    }
}
