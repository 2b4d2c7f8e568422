//! Carries out what the ledger says, a few things at a time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pagecast_core::HostTime;
use pagecast_core::error_text::io_reason;
use pagecast_core::spec::Storage;
use tokio::task::JoinSet;

use super::super::log::{Log, Reader};
use super::super::names::sibling;
use super::super::playlist::State as Growth;
use super::super::spool::{Delivered as Done, Recorded, Segment, Spool, Stored, whole_file};
use super::super::{assemble, manifest::Item};
use super::gate::{Gate, LOOK_TIMEOUT};
use super::ledger::{Ledger, Task};
use super::{Config, Delivered, GOES_ON, Shared, State};
use crate::chain;
use crate::store::{self, Class, Store, folder_of};

/// Things under way at a time.
const AT_ONCE: usize = 4;
/// How often the playlist of the whole recording is stored again, in bytes a second: it only grows.
const PLAYLIST_BYTES_PER_S: usize = 10_000;
/// How long others may keep a playlist that changes.
const FRESH: &str = "max-age=1";
const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";
/// Pauses of a task that fails for reasons of its own.
const ILL_PAUSE: Duration = Duration::from_secs(2);
const MAX_ILL_PAUSE: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(1 << 30);
/// Longest time between two looks at the spool.
const LOOK: Duration = Duration::from_secs(5);

/// Why something is not done.
#[derive(Debug)]
struct Failure {
    class: Class,
    words: String,
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self { class: error.class(), words: chain(&error) }
    }
}

impl From<assemble::Error> for Failure {
    fn from(error: assemble::Error) -> Self {
        // A full disk of this machine says nothing about the storage.
        Self { class: Class::Local, words: chain(&error) }
    }
}

/// What came of a task; `None` is the look whether anything can be stored at all.
type Outcome = (Option<Task>, Result<Option<Item>, Failure>);

/// A task that failed for reasons of its own, not of the storage.
struct Ill {
    task: Task,
    tries: u32,
    retry_at: HostTime,
}

/// The one who carries things.
pub(super) struct Courier {
    spool: Arc<Spool>,
    store: Arc<Store>,
    backup: Option<Arc<Store>>,
    /// Where files go: the recording's storage, or its backup.
    home: Storage,
    config: Config,
    shared: Arc<Shared>,
    ledger: Ledger,
    gate: Gate,
    /// What is done again later while all else goes on.
    ill: Vec<Ill>,
    /// Somebody else's recording is in its place: nothing is stored.
    taken: bool,
    /// The spool cannot be read or written.
    ailing: bool,
    /// What the spool says cannot be true: nothing of it is finished.
    broken: bool,
    began: Instant,
    on_backup: bool,
    tasks: JoinSet<Outcome>,
    /// The look whether a storage that failed answers again, one at a time.
    look: JoinSet<bool>,
    /// Segments in the playlists as they are stored; when that of the whole recording was, and its length.
    listed: [usize; 2],
    whole: Option<(Instant, usize)>,
    recorded: Option<Reader<Recorded>>,
    log: Option<Log<Done>>,
    /// The last run, and what it needs to be decoded, to see whether the next one fits.
    run: Option<u32>,
    decoders: Option<Vec<u8>>,
}

impl Courier {
    pub(super) fn new(
        spool: Arc<Spool>,
        (store, backup): (Arc<Store>, Option<Arc<Store>>),
        config: Config,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            ledger: Ledger::new(spool.recording(), spool.names().clone()),
            home: spool.recording().to.clone(),
            gate: Gate::new(config.stuck_after, config.first_pause),
            store,
            backup,
            spool,
            config,
            shared,
            ill: Vec::new(),
            taken: false,
            ailing: false,
            broken: false,
            began: Instant::now(),
            on_backup: false,
            tasks: JoinSet::new(),
            look: JoinSet::new(),
            listed: [0; 2],
            whole: None,
            recorded: None,
            log: None,
            run: None,
            decoders: None,
        }
    }

    /// Until all is stored, or nobody waits any more.
    pub(super) async fn run(mut self) -> Delivered {
        if self.config.probe {
            let (store, names) = (Arc::clone(&self.store), self.first_names());
            self.tasks.spawn(async move { (None, probe(&store, &names).await.map(|()| None)) });
        }
        let shared = Arc::clone(&self.shared);
        let finished = tokio::select! {
            finished = self.deliver() => finished,
            () = shared.quit.notified() => false,
        };
        self.tell();
        self.delivered((!finished).then(|| self.spool.folder().to_owned()))
    }

    /// What became of it; `spool`: what is not stored is there.
    fn delivered(&self, spool: Option<PathBuf>) -> Delivered {
        let mut status = self.shared.status().clone();
        if spool.is_none() {
            status.state = if self.ledger.is_empty() { State::Empty } else { State::Stored };
            status.problem = None;
        }
        let (files, duration) = (self.ledger.items(), self.ledger.duration());
        let name = &self.spool.recording().name;
        let (place, endpoint) = match &self.home {
            Storage::File(path) => (absolute(folder_of(path)), None),
            Storage::Folder(folder) => (absolute(&folder.join(name)), None),
            Storage::Bucket(bucket) => {
                (bucket.object_address(name), bucket.endpoint.as_ref().map(ToString::to_string))
            }
            Storage::TencentVod(_) => (self.store.place(), None),
        };
        Delivered { place, endpoint, files, duration, status, spool }
    }

    /// Until all is stored. False if that will never be.
    async fn deliver(&mut self) -> bool {
        loop {
            let mut done = self.step().await.map(|()| false);
            // Where nothing was recorded, nothing needs to be stored.
            let may = self.ledger.is_empty() || (self.gate.is_open(self.now(), 0) && !self.taken);
            if done.is_ok() && self.ledger.is_done() && may {
                done = self.finish().await.map(|()| true);
            }
            self.ailing = matches!(&done, Err(Failure { class: Class::Local, .. }));
            match done {
                Ok(true) => return true,
                Ok(false) => {}
                Err(failure) => self.note(failure),
            }
            self.tell();
            if !self.wait().await {
                return false;
            }
        }
    }

    /// What a recording that is there already would have.
    fn first_names(&self) -> Vec<String> {
        let names = self.spool.names();
        if self.spool.recording().overwrite || matches!(self.home, Storage::File(_) | Storage::TencentVod(_))
        {
            return Vec::new();
        }
        [names.mp4(0), names.playlist()].map(|name| self.object(&name, "").target).into()
    }

    /// Sees what is new, and begins what can be begun.
    async fn step(&mut self) -> Result<(), Failure> {
        self.read()?;
        self.turn_to_backup()?;
        while self.tasks.len() < AT_ONCE && self.gate.is_open(self.now(), self.tasks.len()) && !self.taken {
            let now = self.now();
            let healed = self.ill.iter_mut().find(|ill| ill.retry_at <= now).map(|ill| {
                // Until it is known how it went.
                ill.retry_at = now + NEVER;
                ill.task
            });
            match healed.or_else(|| self.ledger.next()) {
                Some(task) => self.begin(task),
                None => break,
            }
        }
        if !self.taken && self.gate.is_open(self.now(), self.tasks.len()) {
            self.list().await
        } else {
            Ok(())
        }
    }

    /// Takes in what was recorded.
    fn read(&mut self) -> Result<(), Failure> {
        if self.broken {
            return Err(local(io::ErrorKind::InvalidData.into()));
        }
        if self.log.is_none() {
            let entries = self.spool.delivered().and_then(|mut log| log.news()).map_err(local)?;
            for entry in entries {
                if entry == Done::Backup {
                    self.move_to_backup();
                }
                self.ledger.delivered(entry);
            }
            self.log = Some(self.spool.deliver().map_err(local)?);
            self.recorded = Some(self.spool.recorded().map_err(local)?);
        }
        // What is recorded before the end is told is read after it is told.
        let phase = self.shared.phase();
        let news = self.recorded.as_mut().map_or(Ok(Vec::new()), Reader::news).map_err(local)?;
        for entry in news {
            let (segments, thumbnails) = self.ledger.counts();
            if let Err(error) = entry.check(segments, thumbnails) {
                self.broken = true;
                return Err(local(error));
            }
            // Only a run that has a segment has what begins it.
            let fits = match &entry {
                Recorded::Segment(segment) if self.run != Some(segment.run) => {
                    self.run = Some(segment.run);
                    let init = self.spool.path(&self.spool.names().init(segment.run));
                    let before = std::mem::replace(&mut self.decoders, assemble::decoders(&init));
                    before.is_none() || before == self.decoders
                }
                _ => true,
            };
            self.ledger.recorded(entry, fits);
        }
        if phase != GOES_ON {
            self.ledger.end();
        }
        Ok(())
    }

    fn begin(&mut self, task: Task) {
        let (spool, store) = (Arc::clone(&self.spool), Arc::clone(&self.store));
        let name = self.ledger.name(task);
        match task {
            Task::Make(part) => {
                let segments = self.ledger.segments(Some(part));
                let unix_ms = self.ledger.item(part, 0).start_unix_ms;
                self.tasks.spawn(async move {
                    let made = blocking(move || make(&spool, &segments, unix_ms, &name)).await;
                    (Some(task), made.map(|()| None))
                });
            }
            Task::Medium => {
                let files = self.medium_names();
                let (segments, playlist) =
                    (self.ledger.segments(None), self.ledger.medium_playlist(spool.recording()));
                let whole = self.ledger.whole_item(0);
                self.tasks.spawn(async move {
                    let written = Arc::clone(&spool);
                    let done = async {
                        blocking(move || write_medium(&written, &segments, &playlist)).await?;
                        store_medium(&store, &spool, &files, whole).await
                    };
                    (Some(task), done.await)
                });
            }
            Task::Segment(index) if spool.recording().format.is_ts() => {
                let segment = self.ledger.segment(index);
                let object = self.object(&name, "video/mp2t");
                self.tasks.spawn(async move {
                    let done = async {
                        blocking(move || segment.map_or(Ok(()), |segment| convert(&spool, &segment))).await?;
                        object.store(&store).await
                    };
                    (Some(task), done.await.map(|_| None))
                });
            }
            Task::Init(_) | Task::Segment(_) | Task::Thumbnail(_) => {
                let kind = if matches!(task, Task::Thumbnail(_)) { "image/jpeg" } else { "video/mp4" };
                let object = self.object(&name, kind);
                if matches!(task, Task::Thumbnail(_)) && !object.path.exists() {
                    // A power cut took it; the recording is whole without.
                    self.tasks.spawn(async move { (Some(task), Ok(None)) });
                    return;
                }
                self.tasks.spawn(async move { (Some(task), object.store(&store).await.map(|_| None)) });
            }
            Task::File(index) => {
                let object = self.object(&name, "video/mp4");
                let part = self.ledger.file(index);
                if let Some(part) = part.filter(|_| !object.path.exists()) {
                    self.ill.retain(|ill| ill.task != task);
                    return self.ledger.make_again(part);
                }
                let item = part.map(|part| self.ledger.item(part, size(&object.path)));
                self.tasks.spawn(async move {
                    let stored = object.store(&store).await;
                    (Some(task), stored.map(|stored| item.map(|item| with_medium(item, stored))))
                });
            }
        }
    }

    /// A file of the spool, and what it is called in storage.
    fn object(&self, name: &str, content_type: &'static str) -> Object {
        let recording = self.spool.recording();
        let (target, own) = match &self.home {
            // Each file has a place of its own.
            Storage::File(path) => {
                let names = self.spool.names();
                let own = (0..=self.ledger.files()).find(|index| names.mp4(*index) == name);
                let own = own.map_or_else(|| path.with_file_name(name), |index| sibling(path, index));
                (name.to_owned(), Some((Storage::File(own), recording.overwrite)))
            }
            Storage::TencentVod(_) => (name.to_owned(), None),
            _ => (format!("{}/{name}", recording.name), None),
        };
        Object { path: self.spool.path(name), target, own, content_type }
    }

    /// All files of a playlist, itself the last.
    fn medium_names(&self) -> Vec<String> {
        let (names, ts) = (self.spool.names(), self.spool.recording().format.is_ts());
        let mut all = Vec::new();
        if !ts {
            all.extend(self.ledger.runs().into_iter().map(|run| names.init(run)));
        }
        let segments = self.ledger.segments(None);
        all.extend(segments.iter().map(|s| if ts { names.ts(s.index) } else { names.segment(s.index) }));
        all.push(names.playlist());
        all
    }

    /// A task has ended.
    fn ended(&mut self, (task, result): Outcome) -> Result<(), Failure> {
        let Some(task) = task else {
            self.taken = matches!(&result, Err(Failure { class: Class::Refused, .. }));
            return result.map(drop);
        };
        let ill = self.ill.iter().position(|ill| ill.task == task);
        let item = match result {
            Ok(item) => item,
            // What is wrong with the file itself does not keep others from being stored.
            Err(failure) if matches!(failure.class, Class::Local | Class::Refused) => {
                let tries = ill.map_or(0, |at| self.ill.swap_remove(at).tries) + 1;
                let pause = ILL_PAUSE.saturating_mul(1 << tries.min(10)).min(MAX_ILL_PAUSE);
                self.ill.push(Ill { task, tries, retry_at: self.now() + pause });
                tracing::warn!(problem = failure.words, "a part of the recording cannot be stored");
                self.shared.status().problem = Some(failure.words);
                return Ok(());
            }
            Err(failure) => {
                ill.map(|at| self.ill.swap_remove(at));
                self.ledger.failed(task);
                return Err(failure);
            }
        };
        ill.map(|at| self.ill.swap_remove(at));
        let entry = if let Task::Make(part) = task {
            Done::Made(part)
        } else {
            self.gate.succeeded();
            if self.ill.is_empty() {
                self.shared.status().problem = None;
            }
            Done::Stored(Stored { name: self.ledger.name(task), item: item.clone() })
        };
        let spent = self.ledger.done(task, item);
        // Without the entry it would only be done again.
        let logged = self.log.as_mut().map_or(Ok(()), |log| log.add(&entry)).map_err(local);
        if logged.is_ok() {
            spent.iter().for_each(|name| self.spool.discard(name));
        }
        logged
    }

    /// Stores the playlists, if they have grown.
    async fn list(&mut self) -> Result<(), Failure> {
        let Some(listed) = self.ledger.listed() else { return Ok(()) };
        let names = self.spool.names().clone();
        if self.listed[0] != listed {
            self.put_playlist(names.live_playlist(), self.ledger.live_playlist(Growth::Running)).await?;
            self.listed[0] = listed;
            self.gate.succeeded();
        }
        let pause = |length: usize| Duration::from_secs((length / PLAYLIST_BYTES_PER_S) as u64);
        if self.listed[1] != listed && self.whole.is_none_or(|(at, length)| at.elapsed() >= pause(length)) {
            let text = self.ledger.whole_playlist(Growth::Running);
            self.whole = Some((Instant::now(), text.len()));
            self.put_playlist(names.playlist(), text).await?;
            self.listed[1] = listed;
        }
        Ok(())
    }

    async fn put_playlist(&self, name: String, text: String) -> Result<(), Failure> {
        let object = self.object(&name, PLAYLIST_TYPE);
        let bytes = Bytes::from(text);
        self.store.put_bytes(&object.target, bytes, PLAYLIST_TYPE, Some(FRESH)).await?;
        Ok(())
    }

    /// All is stored: the last words, and the spool goes.
    async fn finish(&self) -> Result<(), Failure> {
        let names = self.spool.names().clone();
        if self.ledger.listed().is_some() {
            let object = self.object(&names.playlist(), PLAYLIST_TYPE);
            let text = Bytes::from(self.ledger.whole_playlist(Growth::Complete));
            self.store.put_bytes(&object.target, text, PLAYLIST_TYPE, None).await?;
            // Who still watches has to learn that it is over: a playlist that is gone is an error to players.
            self.put_playlist(names.live_playlist(), self.ledger.live_playlist(Growth::Complete)).await?;
        }
        if self.spool.recording().manifest && !self.ledger.is_empty() {
            let manifest = self.ledger.manifest(&self.spool.recording().name);
            let text = serde_json::to_vec_pretty(&manifest).map_err(|e| local(e.into()))?;
            let name = names.manifest();
            // In the spool, this name is another file's.
            let draft = self.spool.path(&format!("{name}.part"));
            fs::write(&draft, text).map_err(local)?;
            Object { path: draft, ..self.object(&name, "application/json") }.store(&self.store).await?;
        }
        self.store.tidy().await;
        if let Some(receipt) = &self.spool.recording().receipt {
            let text = serde_json::to_vec(&self.delivered(None)).map_err(|e| local(e.into()))?;
            whole_file(receipt, &text).map_err(local)?;
        }
        self.spool.remove();
        Ok(())
    }

    /// Gives the first storage up for the backup, if it has not worked for long.
    fn turn_to_backup(&mut self) -> Result<(), Failure> {
        let failing = self.gate.state(self.now()) != State::Uploading;
        if !failing || self.on_backup || self.backup.is_none() || !self.tasks.is_empty() {
            return Ok(());
        }
        self.log.as_mut().map_or(Ok(()), |log| log.add(&Done::Backup)).map_err(local)?;
        self.move_to_backup();
        self.ledger.begin_anew();
        tracing::warn!(place = self.store.place(), "storage does not work: the recording goes to its backup");
        Ok(())
    }

    fn move_to_backup(&mut self) {
        if let (Some(store), Some(home)) = (&self.backup, &self.spool.recording().backup) {
            (self.store, self.home, self.on_backup) = (Arc::clone(store), home.clone(), true);
            self.gate.succeeded();
            self.look.abort_all();
            self.ill.clear();
            self.taken = false;
            (self.listed, self.whole) = ([0; 2], None);
        }
    }

    fn note(&mut self, failure: Failure) {
        if failure.class == Class::Local {
            // It says nothing about the storage.
            tracing::debug!(problem = failure.words, "what is recorded cannot be delivered");
            self.shared.status().problem = Some(failure.words);
            return;
        }
        let noise = f64::from(self.began.elapsed().subsec_nanos() % 1000) / 1000.0;
        let before = self.gate.state(self.now());
        self.gate.failed(self.now(), failure.class, noise);
        if before != self.gate.state(self.now()) {
            tracing::warn!(problem = failure.words, "what is recorded cannot be stored");
        }
        self.shared.status().problem = Some(failure.words);
    }

    fn tell(&self) {
        // Nothing else is under way, and what is left needs somebody.
        let hopeless =
            self.taken || self.ailing || (!self.ill.is_empty() && self.ledger.pending() == self.ill.len());
        let mut status = self.shared.status();
        status.state = if hopeless { State::Failed } else { self.gate.state(self.now()) };
        status.pending = self.ledger.pending();
        status.backup = self.on_backup;
        let since = self.gate.outage(self.now()).map(|since| self.now().since(since));
        status.failing_since_unix_ms = since.map(unix_ms_ago);
    }

    /// Asks a storage that failed for something small: whatever it answers, it is there.
    fn look(&mut self) {
        let due = self.gate.look_at().is_some_and(|at| at <= self.now());
        if !due || !self.look.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let name = self.object(&self.spool.names().manifest(), "").target;
        self.look.spawn(async move {
            let answer = tokio::time::timeout(LOOK_TIMEOUT, store.answers(&name)).await;
            answer.unwrap_or(false)
        });
    }

    /// Sleeps until something has happened or is due. False if something has happened that must not.
    async fn wait(&mut self) -> bool {
        self.look();
        let now = self.now();
        let (idle, waits) = (self.tasks.is_empty(), self.look.is_empty());
        let retries = self.ill.iter().map(|ill| ill.retry_at).chain(self.gate.retry_at().filter(|_| idle));
        let retries = retries.chain(self.gate.look_at().filter(|_| waits));
        let due = retries.map(|at| at.since(now)).min().map_or(LOOK, |due| due.min(LOOK));
        let bell = Arc::clone(&self.shared.bell);
        let ended = tokio::select! {
            Some(ended) = self.tasks.join_next() => Some(ended),
            Some(answered) = self.look.join_next() => {
                self.gate.looked(self.now(), answered.unwrap_or(false));
                None
            }
            () = bell.notified() => None,
            () = tokio::time::sleep(due.max(Duration::from_millis(10))) => None,
        };
        let result = match ended {
            Some(Ok(outcome)) => self.ended(outcome),
            Some(Err(error)) => {
                tracing::error!(%error, "a bug: a delivery panicked");
                self.shared.status().problem = Some(format!("a bug: {error}"));
                return false;
            }
            None => Ok(()),
        };
        if let Err(failure) = result {
            self.note(failure);
        }
        true
    }

    /// The gate's clock.
    fn now(&self) -> HostTime {
        HostTime(0) + self.began.elapsed()
    }
}

/// A file on its way.
struct Object {
    path: PathBuf,
    /// What it is called in storage.
    target: String,
    /// A storage for it alone, and whether what is there may be replaced.
    own: Option<(Storage, bool)>,
    content_type: &'static str,
}

impl Object {
    async fn store(self, store: &Store) -> Result<store::Stored, Failure> {
        let Self { path, target, own, content_type } = self;
        let Some((own, overwrite)) = own else { return Ok(store.put(&target, &path, content_type).await?) };
        if let (Storage::File(there), false) = (&own, overwrite)
            && there.exists()
            && size(there) != size(&path)
        {
            let words =
                format!("{} exists already: remove it, then finish with `pagecast recover`", there.display());
            return Err(Failure { class: Class::Refused, words });
        }
        Ok(Store::open(&own)?.put("file", &path, content_type).await?)
    }
}

/// Whether anything can be stored, and nothing of these is there.
async fn probe(store: &Store, names: &[String]) -> Result<(), Failure> {
    store.probe().await?;
    for name in names {
        if store.head(name).await?.is_some() {
            let words = format!(
                "{name} exists already in {}: choose another name, or replace it with --overwrite",
                store.place()
            );
            return Err(Failure { class: Class::Refused, words });
        }
    }
    Ok(())
}

/// Makes a file of its segments, which began at `unix_ms`.
fn make(spool: &Spool, segments: &[Segment], unix_ms: i64, name: &str) -> Result<(), assemble::Error> {
    let pieces: Vec<_> = segments.iter().map(|segment| spool.piece(segment)).collect();
    let path = spool.path(name);
    assemble::mp4(&pieces, unix_ms, &path, &spool.path(&format!("{name}.part")))?;
    spool.grew(size(&path));
    Ok(())
}

/// Makes a segment of MPEG-TS, unless it is there.
fn convert(spool: &Spool, segment: &Segment) -> Result<(), assemble::Error> {
    let name = spool.names().ts(segment.index);
    let path = spool.path(&name);
    if path.exists() {
        return Ok(());
    }
    assemble::ts(&spool.piece(segment), &path, &spool.path(&format!("{name}.part")))?;
    spool.grew(size(&path));
    Ok(())
}

/// Makes what is to be stored as one medium.
fn write_medium(spool: &Spool, segments: &[Segment], playlist: &str) -> Result<(), assemble::Error> {
    if spool.recording().format.is_ts() {
        segments.iter().try_for_each(|segment| convert(spool, segment))?;
    }
    let path = spool.path(&spool.names().playlist());
    fs::write(&path, playlist).map_err(|e| assemble::Error::Io(path, e))
}

async fn store_medium(
    store: &Store,
    spool: &Spool,
    names: &[String],
    item: Item,
) -> Result<Option<Item>, Failure> {
    let paths: Vec<_> = names.iter().map(|name| spool.path(name)).collect();
    let files: Vec<(&str, &Path)> =
        names.iter().map(String::as_str).zip(paths.iter().map(PathBuf::as_path)).collect();
    let stored = store.put_playlist(&files).await?;
    let bytes = paths.iter().map(|path| size(path)).sum();
    Ok(Some(with_medium(Item { bytes, ..item }, stored)))
}

fn with_medium(item: Item, stored: store::Stored) -> Item {
    match stored.medium {
        Some(medium) => Item { file_id: Some(medium.file_id), url: Some(medium.url), ..item },
        None => item,
    }
}

/// Does something that takes the disk a while.
async fn blocking(
    work: impl FnOnce() -> Result<(), assemble::Error> + Send + 'static,
) -> Result<(), Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Failure { class: Class::Local, words: format!("a bug: {error}") }),
    }
}

fn local(error: io::Error) -> Failure {
    Failure { class: Class::Local, words: format!("the spool: {}", io_reason(&error)) }
}

/// The whole path: whoever reads it may be in another folder.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).as_deref().unwrap_or(path).display().to_string()
}

/// The time that was so long ago, in ms since 1970.
fn unix_ms_ago(ago: Duration) -> i64 {
    let then = SystemTime::now().checked_sub(ago).and_then(|then| then.duration_since(UNIX_EPOCH).ok());
    i64::try_from(then.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}
