//! Carries out what the ledger says, a few things at a time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pagecast_core::HostTime;
use pagecast_core::spec::Storage;
use tokio::task::JoinSet;

use super::super::log::{Log, Reader};
use super::super::parts::Part;
use super::super::playlist::State as Growth;
use super::super::spool::{Delivered as Done, Recorded, Spool, Stored};
use super::super::{assemble, manifest::Item};
use super::gate::Gate;
use super::ledger::{Ledger, Task};
use super::{Config, Delivered, GIVEN_UP, GOES_ON, Shared};
use crate::store::{self, Class, Store};

/// Things under way at a time.
const AT_ONCE: usize = 4;
/// How often the playlist of the whole recording is stored again, in bytes a second: it only grows.
const PLAYLIST_BYTES_PER_S: usize = 10_000;
/// How long others may keep a playlist that changes.
const FRESH: &str = "max-age=1";
const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";
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
        let class = if error.is_full() { Class::Full } else { Class::Local };
        Self { class, words: chain(&error) }
    }
}

/// An error and what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}

/// What came of a task.
type Outcome = (Task, Result<Option<Item>, Failure>);

/// The one who carries things.
pub(super) struct Courier {
    spool: Arc<Spool>,
    store: Arc<Store>,
    /// Where files go: the recording's storage, or its backup.
    home: Storage,
    config: Config,
    shared: Arc<Shared>,
    ledger: Ledger,
    gate: Gate,
    began: Instant,
    on_backup: bool,
    tasks: JoinSet<Outcome>,
    /// Segments in the playlists as they are stored, and when that of the whole recording was.
    listed: [usize; 2],
    whole_at: Option<Instant>,
    recorded: Option<Reader<Recorded>>,
    log: Option<Log<Done>>,
    /// The last run, and what it needs to be decoded, to see whether the next one fits.
    run: Option<u32>,
    decoders: Option<Vec<u8>>,
}

impl Courier {
    pub(super) fn new(spool: Arc<Spool>, store: Store, config: Config, shared: Arc<Shared>) -> Self {
        Self {
            ledger: Ledger::new(spool.recording(), spool.names().clone()),
            home: spool.recording().to.clone(),
            gate: Gate::new(config.stuck_after, config.first_pause),
            store: Arc::new(store),
            spool,
            config,
            shared,
            began: Instant::now(),
            on_backup: false,
            tasks: JoinSet::new(),
            listed: [0; 2],
            whole_at: None,
            recorded: None,
            log: None,
            run: None,
            decoders: None,
        }
    }

    /// Until all is stored, or nobody waits any more.
    pub(super) async fn run(mut self) -> Delivered {
        let mut finished = false;
        if self.config.probe
            && let Err(error) = self.store.probe().await
        {
            self.note(error.into());
        }
        while self.shared.phase() != GIVEN_UP {
            if let Err(failure) = self.step().await {
                tracing::debug!(words = failure.words, "not delivered");
                self.note(failure);
            }
            self.tell();
            if self.ledger.is_done() && (self.ledger.is_empty() || self.gate.is_open(self.now(), 0)) {
                match self.finish().await {
                    Ok(()) => {
                        finished = true;
                        break;
                    }
                    Err(failure) => self.note(failure),
                }
            }
            self.wait().await;
        }
        self.tell();
        let status = self.shared.status().clone();
        let spool = (!finished).then(|| self.spool.folder().to_owned());
        let (files, duration) = (self.ledger.items(), self.ledger.duration());
        let place = match &self.home {
            Storage::File(_) | Storage::TencentVod(_) => self.store.place(),
            _ => format!("{}/{}", self.store.place(), self.spool.recording().name),
        };
        Delivered { place, files, duration, status, spool }
    }

    /// Sees what is new, and begins what can be begun.
    async fn step(&mut self) -> Result<(), Failure> {
        self.read()?;
        self.turn_to_backup()?;
        while self.tasks.len() < AT_ONCE && self.gate.is_open(self.now(), self.tasks.len()) {
            let Some(task) = self.ledger.next() else { break };
            self.begin(task);
        }
        if self.gate.is_open(self.now(), self.tasks.len()) { self.list().await } else { Ok(()) }
    }

    /// Takes in what was recorded.
    fn read(&mut self) -> Result<(), Failure> {
        if self.log.is_none() {
            let entries = self.spool.delivered().and_then(|mut log| log.news()).map_err(local)?;
            for entry in entries {
                if entry == Done::Backup {
                    self.move_to_backup()?;
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
                let pieces: Vec<_> =
                    self.ledger.segments(Some(part)).iter().map(|segment| spool.piece(segment)).collect();
                let (path, draft) = (spool.path(&name), spool.path(&format!("{name}.part")));
                self.tasks.spawn(async move {
                    let made = blocking(move || assemble::mp4(&pieces, &path, &draft)).await;
                    (task, made.map(|()| None))
                });
            }
            Task::Medium => {
                let files = self.medium_files();
                let whole = self.ledger.whole_item(files.iter().map(|(_, path)| size(path)).sum());
                self.tasks.spawn(async move { (task, store_medium(&store, &files, whole).await) });
            }
            Task::Segment(index) if self.spool.recording().format.is_ts() => {
                let piece = self.ledger.segment(index).map(|segment| spool.piece(&segment));
                let object = self.object(&name, "video/mp2t");
                self.tasks.spawn(async move {
                    let stored = async {
                        let path = object.path.clone();
                        let draft = spool.path(&format!("{}.part", object.name));
                        blocking(move || piece.map_or(Ok(()), |piece| assemble::ts(&piece, &path, &draft)))
                            .await?;
                        object.store(&store).await
                    };
                    (task, stored.await.map(|_| None))
                });
            }
            Task::Init(_) | Task::Segment(_) | Task::Thumbnail(_) => {
                let kind = if matches!(task, Task::Thumbnail(_)) { "image/jpeg" } else { "video/mp4" };
                let object = self.object(&name, kind);
                self.tasks.spawn(async move { (task, object.store(&store).await.map(|_| None)) });
            }
            Task::File(index) => {
                let object = self.object(&name, "video/mp4");
                let item = self.ledger.file(index).map(|part| self.ledger.item(part, size(&object.path)));
                self.tasks.spawn(async move {
                    let stored = object.store(&store).await;
                    (task, stored.map(|stored| item.map(|item| with_medium(item, stored))))
                });
            }
        }
    }

    /// A file of the spool, and what it is called in storage.
    fn object(&self, name: &str, content_type: &'static str) -> Object {
        let (target, own) = match &self.home {
            // Each file has a place of its own.
            Storage::File(path) => (name.to_owned(), Some(Storage::File(path.with_file_name(name)))),
            Storage::TencentVod(_) => (name.to_owned(), None),
            _ => (format!("{}/{name}", self.spool.recording().name), None),
        };
        Object { name: name.to_owned(), path: self.spool.path(name), target, own, content_type }
    }

    /// All files of a playlist, itself the last.
    fn medium_files(&self) -> Vec<(String, PathBuf)> {
        let (names, ts) = (self.spool.names(), self.spool.recording().format.is_ts());
        let mut all = Vec::new();
        if !ts {
            all.extend(self.ledger.runs().into_iter().map(|run| names.init(run)));
        }
        for segment in self.ledger.segments(None) {
            let name = if ts { names.ts(segment.index) } else { names.segment(segment.index) };
            if ts {
                let (path, draft) = (self.spool.path(&name), self.spool.path(&format!("{name}.part")));
                if let Err(error) = assemble::ts(&self.spool.piece(&segment), &path, &draft) {
                    tracing::warn!(%error, "a segment cannot be converted");
                }
            }
            all.push(name);
        }
        let playlist = names.playlist();
        let text = self.ledger.medium_playlist(self.spool.recording());
        if let Err(error) = fs::write(self.spool.path(&playlist), text) {
            tracing::warn!(%error, "the playlist cannot be written");
        }
        all.push(playlist);
        all.into_iter()
            .map(|name| {
                let path = self.spool.path(&name);
                (name, path)
            })
            .collect()
    }

    /// A task has ended.
    fn ended(&mut self, (task, result): Outcome) -> Result<(), Failure> {
        let item = match result {
            Ok(item) => item,
            Err(failure) => {
                self.ledger.failed(task);
                return Err(failure);
            }
        };
        self.gate.succeeded();
        self.shared.status().problem = None;
        let entry = match task {
            Task::Make(Part { index, .. }) => Done::Made(index),
            _ => {
                let name = self.ledger.name(task);
                let bytes = item.as_ref().map_or(0, |item| item.bytes);
                Done::Stored(Stored { name, bytes })
            }
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
            self.put_playlist(names.live_playlist(), self.ledger.live_playlist()).await?;
            self.listed[0] = listed;
        }
        if self.listed[1] != listed {
            let text = self.ledger.whole_playlist(Growth::Running);
            let pause = Duration::from_secs((text.len() / PLAYLIST_BYTES_PER_S) as u64);
            if self.whole_at.is_none_or(|at| at.elapsed() >= pause) {
                self.put_playlist(names.playlist(), text).await?;
                (self.listed[1], self.whole_at) = (listed, Some(Instant::now()));
            }
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
            self.store.delete(&self.object(&names.live_playlist(), PLAYLIST_TYPE).target).await?;
        }
        if self.spool.recording().manifest && !self.ledger.is_empty() {
            let manifest = self.ledger.manifest(&self.spool.recording().name);
            let text = serde_json::to_vec_pretty(&manifest).map_err(|e| local(e.into()))?;
            let name = names.manifest();
            fs::write(self.spool.path(&name), text).map_err(local)?;
            self.object(&name, "application/json").store(&self.store).await?;
        }
        self.spool.remove();
        Ok(())
    }

    /// Gives the first storage up for the backup, if it has not worked for long.
    fn turn_to_backup(&mut self) -> Result<(), Failure> {
        let failing = self.gate.state(self.now()) != super::State::Uploading;
        if !failing || self.on_backup || self.spool.recording().backup.is_none() || !self.tasks.is_empty() {
            return Ok(());
        }
        self.log.as_mut().map_or(Ok(()), |log| log.add(&Done::Backup)).map_err(local)?;
        self.move_to_backup()?;
        self.ledger.begin_anew();
        tracing::warn!(place = self.store.place(), "storage does not work: the recording goes to its backup");
        Ok(())
    }

    fn move_to_backup(&mut self) -> Result<(), Failure> {
        let Some(backup) = self.spool.recording().backup.clone() else { return Ok(()) };
        self.store = Arc::new(Store::open_at(&backup, self.config.pace)?);
        (self.home, self.on_backup) = (backup, true);
        self.gate.succeeded();
        (self.listed, self.whole_at) = ([0; 2], None);
        Ok(())
    }

    fn note(&mut self, failure: Failure) {
        let noise = f64::from(self.began.elapsed().subsec_nanos() % 1000) / 1000.0;
        let before = self.gate.state(self.now());
        self.gate.failed(self.now(), failure.class, noise);
        if before != self.gate.state(self.now()) {
            tracing::warn!(problem = failure.words, "what is recorded cannot be stored");
        }
        self.shared.status().problem = Some(failure.words);
    }

    fn tell(&self) {
        let mut status = self.shared.status();
        status.state = self.gate.state(self.now());
        status.pending = self.ledger.pending();
        status.backup = self.on_backup;
    }

    /// Sleeps until something has happened or is due.
    async fn wait(&mut self) {
        let now = self.now();
        let due =
            self.gate.retry_at().map_or(LOOK, |at| at.since(now)).min(LOOK).max(Duration::from_millis(10));
        let bell = Arc::clone(&self.shared.bell);
        let ended = tokio::select! {
            Some(ended) = self.tasks.join_next() => Some(ended),
            () = bell.notified() => None,
            () = tokio::time::sleep(due) => None,
        };
        let result = match ended {
            Some(Ok(outcome)) => self.ended(outcome),
            Some(Err(error)) => Err(Failure { class: Class::Local, words: format!("a bug: {error}") }),
            None => Ok(()),
        };
        if let Err(failure) = result {
            self.note(failure);
        }
    }

    /// The gate's clock.
    fn now(&self) -> HostTime {
        HostTime(0) + self.began.elapsed()
    }
}

/// A file on its way.
struct Object {
    name: String,
    path: PathBuf,
    /// What it is called in storage.
    target: String,
    /// A storage for it alone.
    own: Option<Storage>,
    content_type: &'static str,
}

impl Object {
    async fn store(self, store: &Store) -> Result<store::Stored, Failure> {
        let Self { path, target, own, content_type, .. } = self;
        Ok(match own {
            Some(own) => Store::open(&own)?.put("file", &path, content_type).await?,
            None => store.put(&target, &path, content_type).await?,
        })
    }
}

async fn store_medium(
    store: &Store,
    files: &[(String, PathBuf)],
    item: Item,
) -> Result<Option<Item>, Failure> {
    let files: Vec<(&str, &Path)> =
        files.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
    let stored = store.put_playlist(&files).await?;
    Ok(Some(with_medium(item, stored)))
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
    let full = error.kind() == io::ErrorKind::StorageFull;
    Failure { class: if full { Class::Full } else { Class::Local }, words: format!("the spool: {error}") }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}
