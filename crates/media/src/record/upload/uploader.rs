//! Carries out what the [`Machine`] decides: reads the spool's logs, runs jobs and writes the upload log.

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

use super::super::file_names::numbered_path;
use super::super::playlist::PlaylistState;
use super::super::spool::{Segment, Spool, UploadEntry, write_atomically};
use super::super::{assemble, manifest::RecordedFile};
use super::backoff::{Backoff, REACHABILITY_CHECK_TIMEOUT};
use super::ledger::{Ledger, Task};
use super::machine::{Input, Job, JobError, Machine, Output};
use super::spool_logs::{LoggedUploads, RecordedLog, UnfinishedUploads, UploadLog};
use super::{Config, PHASE_RECORDING, Shared, State, UploadReport};
use crate::chain;
use crate::store::{self, ErrorClass, Layout, Store};

/// How long players and caches may keep a playlist that still changes.
const LIVE_CACHE_CONTROL: &str = "max-age=1";
const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";
const MP4_TYPE: &str = "video/mp4";
/// Longest time between two reads of the spool, in case a notification is missed.
const SPOOL_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest wait, so that an overdue deadline does not become a busy loop.
const MIN_WAIT: Duration = Duration::from_millis(10);

type JobResult = Result<Option<RecordedFile>, JobError>;

impl From<store::Error> for JobError {
    fn from(error: store::Error) -> Self {
        Self { class: error.class(), message: chain(&error) }
    }
}

impl From<assemble::Error> for JobError {
    fn from(error: assemble::Error) -> Self {
        // An error of the local disk does not count against the storage.
        Self { class: ErrorClass::Local, message: chain(&error) }
    }
}

/// Uploads the recording of one spool.
pub(super) struct Uploader {
    spool: Arc<Spool>,
    /// The recording's storage, and its backup.
    stores: (Arc<Store>, Option<Arc<Store>>),
    shared: Arc<Shared>,
    machine: Machine,
    started_at: Instant,
    /// Running jobs and reachability checks; each yields its result.
    jobs: JoinSet<Input>,
    /// `None` until the spool was read for the first time.
    recorded_log: Option<RecordedLog>,
    upload_log: Arc<UploadLog>,
}

impl Uploader {
    pub(super) fn new(
        spool: Arc<Spool>,
        (mut store, mut backup): (Store, Option<Store>),
        config: Config,
        shared: Arc<Shared>,
    ) -> Self {
        let upload_log = Arc::<UploadLog>::default();
        let journal = |backup| Arc::new(LoggedUploads { log: Arc::clone(&upload_log), backup });
        store.set_upload_journal(journal(false));
        if let Some(backup) = &mut backup {
            backup.set_upload_journal(journal(true));
        }
        let ledger = Ledger::new(spool.recording(), spool.names().clone(), &store.layout());
        let backoff = Backoff::new(config.stuck_after, config.initial_backoff);
        Self {
            machine: Machine::new(ledger, backoff, config.probe, backup.is_some()),
            stores: (Arc::new(store), backup.map(Arc::new)),
            spool,
            shared,
            started_at: Instant::now(),
            jobs: JoinSet::new(),
            recorded_log: None,
            upload_log,
        }
    }

    /// Runs until everything is stored or the upload is cancelled.
    pub(super) async fn run(mut self) -> UploadReport {
        let shared = Arc::clone(&self.shared);
        let finished = tokio::select! {
            finished = self.upload_all() => finished,
            () = shared.cancelled.notified() => false,
        };
        self.update_status();
        self.report((!finished).then(|| self.spool.folder().to_owned()))
    }

    /// The result of the upload; `spool` holds what is not stored.
    fn report(&self, spool: Option<PathBuf>) -> UploadReport {
        let mut status = self.shared.status().clone();
        let ledger = self.machine.ledger();
        if spool.is_none() {
            status.state = if ledger.is_empty() { State::Empty } else { State::Stored };
            status.problem = None;
        }
        let (files, duration) = (ledger.recorded_files(), ledger.duration());
        let (location, endpoint) = self.store().recording_location(&self.spool.recording().name);
        UploadReport { location, endpoint, files, duration, status, spool }
    }

    /// Runs until everything is stored. False if a job panicked.
    async fn upload_all(&mut self) -> bool {
        loop {
            let read = self.read_spool();
            self.handle(Input::SpoolRead(read.map_err(spool_error)));
            while let Some(output) = self.machine.poll(self.now()) {
                self.carry_out(output);
            }
            self.update_status();
            if self.machine.is_finished() {
                return true;
            }
            if !self.wait().await {
                return false;
            }
        }
    }

    /// The storage in use.
    fn store(&self) -> &Arc<Store> {
        match &self.stores {
            (_, Some(backup)) if self.machine.on_backup() => backup,
            (store, _) => store,
        }
    }

    /// Feeds new log entries to the machine.
    fn read_spool(&mut self) -> io::Result<()> {
        if self.recorded_log.is_none() {
            let entries = self.spool.upload_log_reader()?.read_new()?;
            self.upload_log.open(&self.spool)?;
            let recorded_log = RecordedLog::open(&self.spool)?;
            let mut unfinished = UnfinishedUploads::default();
            for entry in entries {
                unfinished.apply(&entry);
                self.handle(Input::Uploaded(entry));
            }
            self.stores.0.adopt_uploads(unfinished.first);
            if let Some(backup) = &self.stores.1 {
                backup.adopt_uploads(unfinished.backup);
            }
            self.recorded_log = Some(recorded_log);
        }
        // The phase is read first: everything recorded before it changed is then in the log.
        let phase = self.shared.phase();
        let Some(log) = &mut self.recorded_log else { return Ok(()) };
        for (entry, fits) in log.read_new(&self.spool, self.machine.ledger())? {
            self.handle(Input::Recorded { entry, fits });
        }
        if phase != PHASE_RECORDING {
            self.handle(Input::EndOfRecording);
        }
        Ok(())
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(self.now(), input);
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Start(job) => self.start(job),
            Output::Log { entry, discard } => match self.upload_log.append(&entry) {
                Ok(()) => discard.iter().for_each(|name| self.spool.discard(name)),
                // Without the entry, the next process uploads the file again.
                Err(error) => self.handle(Input::Problem(spool_error(error))),
            },
            Output::CheckReachability => {
                let (store, on_backup) = (Arc::clone(self.store()), self.machine.on_backup());
                let name = self.object(&self.spool.names().manifest(), "").object_name;
                self.jobs.spawn(async move {
                    let check = tokio::time::timeout(REACHABILITY_CHECK_TIMEOUT, store.is_reachable(&name));
                    Input::Reachability { answered: check.await.unwrap_or(false), on_backup }
                });
            }
            Output::SwitchToBackup => match self.upload_log.append(&UploadEntry::SwitchedToBackup) {
                Ok(()) => {
                    self.handle(Input::SwitchedToBackup);
                    let location = self.store().location();
                    tracing::warn!(location, "storage failed, switching to backup storage");
                }
                Err(error) => self.handle(Input::SpoolRead(Err(spool_error(error)))),
            },
        }
    }

    fn start(&mut self, job: Job) {
        match job {
            Job::Probe => {
                let (store, names) = (Arc::clone(self.store()), self.names_to_probe());
                self.spawn(job, async move { probe(&store, &names).await.map(|()| None) });
            }
            Job::Task(task) => self.start_task(task),
            Job::LivePlaylist(_) => {
                let text = self.machine.ledger().live_playlist(PlaylistState::Running);
                self.start_playlist(job, &self.spool.names().live_playlist(), text);
            }
            Job::FullPlaylist(_) => {
                let text = self.machine.ledger().whole_playlist(PlaylistState::Running);
                self.start_playlist(job, &self.spool.names().playlist(), text);
            }
            Job::Finish => {
                let finish = self.prepare_finish();
                self.spawn(job, async move { finish?.run().await.map(|()| None) });
            }
        }
    }

    fn spawn(&mut self, job: Job, work: impl Future<Output = JobResult> + Send + 'static) {
        self.jobs.spawn(async move { Input::Ended { job, result: work.await } });
    }

    fn start_task(&mut self, task: Task) {
        let (spool, store) = (Arc::clone(&self.spool), Arc::clone(self.store()));
        let ledger = self.machine.ledger();
        let name = ledger.object_name(task);
        let job = Job::Task(task);
        match task {
            Task::Assemble(file) => {
                let segments = ledger.segments(Some(file));
                let unix_ms = ledger.recorded_file(file, 0).start_unix_ms;
                let assembled = blocking(move || assemble_file(&spool, &segments, unix_ms, &name));
                self.spawn(job, async move { assembled.await.map(|()| None) });
            }
            Task::Asset => {
                let files = self.asset_names();
                let (segments, playlist) = (ledger.segments(None), ledger.asset_playlist(spool.recording()));
                let description = ledger.whole_recording(0);
                let written = Arc::clone(&spool);
                self.spawn(job, async move {
                    blocking(move || write_asset(&written, &segments, &playlist)).await?;
                    store_asset(&store, &spool, &files, description).await
                });
            }
            Task::Segment(index) if spool.recording().format.is_ts() => {
                let segment = ledger.segment(index);
                let object = self.object(&name, "video/mp2t");
                self.spawn(job, async move {
                    blocking(move || segment.map_or(Ok(()), |segment| convert_to_ts(&spool, &segment)))
                        .await?;
                    object.upload(&store).await.map(|_| None)
                });
            }
            Task::Thumbnail(_) => {
                let object = self.object(&name, "image/jpeg");
                // A power cut may lose a thumbnail; the recording is complete without it.
                let lost = !object.path.exists();
                self.spawn(job, async move {
                    if lost { Ok(None) } else { object.upload(&store).await.map(|_| None) }
                });
            }
            Task::Init(_) | Task::Segment(_) => {
                let object = self.object(&name, MP4_TYPE);
                self.spawn(job, async move { object.upload(&store).await.map(|_| None) });
            }
            Task::File(index) => {
                let object = self.object(&name, MP4_TYPE);
                let segments = ledger.file_segments(index);
                if let Some(segments) = segments.filter(|_| !object.path.exists()) {
                    return self.handle(Input::FileMissing(segments));
                }
                let file = segments.map(|segments| ledger.recorded_file(segments, file_size(&object.path)));
                self.spawn(job, async move {
                    let stored = object.upload(&store).await?;
                    Ok(file.map(|file| with_asset(file, stored)))
                });
            }
        }
    }

    fn start_playlist(&mut self, job: Job, name: &str, text: String) {
        let (store, object) = (Arc::clone(self.store()), self.object(name, PLAYLIST_TYPE));
        self.spawn(job, async move {
            let cache_control = Some(LIVE_CACHE_CONTROL);
            store.put_bytes(&object.object_name, Bytes::from(text), PLAYLIST_TYPE, cache_control).await?;
            Ok(None)
        });
    }

    /// Names of objects that exist if another recording has the same name.
    fn names_to_probe(&self) -> Vec<String> {
        let names = self.spool.names();
        if self.spool.recording().overwrite || self.store().layout() != Layout::Folder {
            return Vec::new();
        }
        [names.mp4(0), names.playlist()].map(|name| self.object(&name, "").object_name).into()
    }

    /// A file of the spool and its name in the storage.
    fn object(&self, name: &str, content_type: &'static str) -> SpooledObject {
        let recording = self.spool.recording();
        let (object_name, own_storage) = match self.store().layout() {
            Layout::SingleFile(path) => {
                let names = self.spool.names();
                let files = 0..=self.machine.ledger().file_count();
                let number = files.into_iter().find(|index| names.mp4(*index) == name);
                let path =
                    number.map_or_else(|| path.with_file_name(name), |index| numbered_path(&path, index));
                (name.to_owned(), Some((Storage::File(path), recording.overwrite)))
            }
            Layout::Assets => (name.to_owned(), None),
            Layout::Folder => (format!("{}/{name}", recording.name), None),
        };
        SpooledObject { path: self.spool.path(name), object_name, own_storage, content_type }
    }

    /// Names of all files of a playlist, the playlist itself last.
    fn asset_names(&self) -> Vec<String> {
        let (names, ts) = (self.spool.names(), self.spool.recording().format.is_ts());
        let ledger = self.machine.ledger();
        let mut all = Vec::new();
        if !ts {
            all.extend(ledger.runs().into_iter().map(|run| names.init(run)));
        }
        let segments = ledger.segments(None);
        all.extend(segments.iter().map(|s| if ts { names.ts(s.index) } else { names.segment(s.index) }));
        all.push(names.playlist());
        all
    }

    /// Collects what the last job stores and writes.
    fn prepare_finish(&self) -> Result<Finish, JobError> {
        let (recording, names, ledger) = (self.spool.recording(), self.spool.names(), self.machine.ledger());
        let mut playlists = Vec::new();
        if ledger.listed_segments().is_some() {
            let object = |name: &str| self.object(name, PLAYLIST_TYPE).object_name;
            let full = ledger.whole_playlist(PlaylistState::Complete);
            let live = ledger.live_playlist(PlaylistState::Complete);
            playlists.push((object(&names.playlist()), full, None));
            // Live viewers must see the end: a deleted playlist would be an error to players.
            playlists.push((object(&names.live_playlist()), live, Some(LIVE_CACHE_CONTROL)));
        }
        let mut manifest = None;
        if recording.manifest && !ledger.is_empty() {
            let text = serde_json::to_vec_pretty(&ledger.manifest(&recording.name));
            let object = self.object(&names.manifest(), "application/json");
            // In the spool, the manifest's name may be that of the spool's own description.
            let path = self.spool.path(&format!("{}.part", names.manifest()));
            manifest = Some((SpooledObject { path, ..object }, text.map_err(|e| spool_error(e.into()))?));
        }
        let mut receipt = None;
        if let Some(path) = &recording.receipt {
            let text = serde_json::to_vec(&self.report(None)).map_err(|e| spool_error(e.into()))?;
            receipt = Some((path.clone(), text));
        }
        let unused = self.machine.on_backup().then(|| Arc::clone(&self.stores.0));
        let (spool, store) = (Arc::clone(&self.spool), Arc::clone(self.store()));
        Ok(Finish { spool, store, unused, playlists, manifest, receipt })
    }

    fn update_status(&self) {
        let now = self.now();
        let mut status = self.shared.status();
        let previous = status.summary();
        status.state = self.machine.state(now);
        status.pending = self.machine.ledger().pending();
        status.problem = self.machine.problem().map(str::to_owned);
        status.backup = self.machine.on_backup();
        let outage = self.machine.outage_since(now).map(|since| now.since(since));
        status.failing_since_unix_ms = outage.map(unix_ms_ago);
        let changed = status.summary() != previous;
        drop(status);
        if changed {
            self.shared.waker.wake();
        }
    }

    /// Waits for a job, new recorded data or a deadline. False if a job panicked.
    async fn wait(&mut self) -> bool {
        let now = self.now();
        let deadline = self.machine.deadline().map_or(SPOOL_POLL_INTERVAL, |at| at.since(now));
        let wakeup = Arc::clone(&self.shared.wakeup);
        let ended = tokio::select! {
            Some(ended) = self.jobs.join_next() => ended,
            () = wakeup.notified() => return true,
            () = tokio::time::sleep(deadline.clamp(MIN_WAIT, SPOOL_POLL_INTERVAL)) => return true,
        };
        match ended {
            Ok(input) => {
                self.handle(input);
                true
            }
            Err(error) => {
                tracing::error!(%error, "upload task panicked");
                let message = format!("internal error: {error}");
                self.handle(Input::Problem(JobError { class: ErrorClass::Local, message }));
                false
            }
        }
    }

    /// Time since the start, the machine's clock.
    fn now(&self) -> HostTime {
        HostTime(0) + self.started_at.elapsed()
    }
}

/// The last job of an upload.
struct Finish {
    spool: Arc<Spool>,
    store: Arc<Store>,
    /// The first storage, if the backup is in use.
    unused: Option<Arc<Store>>,
    /// Name, content and cache control of each final playlist.
    playlists: Vec<(String, String, Option<&'static str>)>,
    manifest: Option<(SpooledObject, Vec<u8>)>,
    receipt: Option<(PathBuf, Vec<u8>)>,
}

impl Finish {
    async fn run(self) -> Result<(), JobError> {
        for (name, text, cache_control) in self.playlists {
            self.store.put_bytes(&name, Bytes::from(text), PLAYLIST_TYPE, cache_control).await?;
        }
        if let Some((object, text)) = self.manifest {
            fs::write(&object.path, text).map_err(spool_error)?;
            object.upload(&self.store).await?;
        }
        for store in [Some(self.store), self.unused].into_iter().flatten() {
            let left = store.abort_orphaned_uploads().await;
            if left > 0 {
                let location = store.location();
                tracing::warn!(left, location, "multipart uploads not aborted, needs a lifecycle rule");
            }
        }
        if let Some((path, text)) = self.receipt {
            write_atomically(&path, &text).map_err(spool_error)?;
        }
        self.spool.remove();
        Ok(())
    }
}

/// A file of the spool that is uploaded.
struct SpooledObject {
    path: PathBuf,
    /// Name in the storage.
    object_name: String,
    /// A storage for this file alone, and whether an existing file may be replaced.
    own_storage: Option<(Storage, bool)>,
    content_type: &'static str,
}

impl SpooledObject {
    async fn upload(self, store: &Store) -> Result<store::StoredObject, JobError> {
        let Self { path, object_name, own_storage, content_type } = self;
        let Some((own_storage, overwrite)) = own_storage else {
            return Ok(store.put(&object_name, &path, content_type).await?);
        };
        if let (Storage::File(existing), false) = (&own_storage, overwrite)
            && existing.exists()
            && file_size(existing) != file_size(&path)
        {
            let message = format!("{} already exists: remove it, then recover the spool", existing.display());
            return Err(JobError { class: ErrorClass::Permanent, message });
        }
        Ok(Store::open(&own_storage)?.put("file", &path, content_type).await?)
    }
}

/// Checks that objects can be stored, and that none of these exists.
async fn probe(store: &Store, names: &[String]) -> Result<(), JobError> {
    store.probe().await?;
    for name in names {
        if store.head(name).await?.is_some() {
            let message = format!(
                "{name} already exists in {}: choose another name, or allow overwriting",
                store.location()
            );
            return Err(JobError { class: ErrorClass::Permanent, message });
        }
    }
    Ok(())
}

/// Assembles a file from its segments; the first one started at `unix_ms`.
fn assemble_file(
    spool: &Spool,
    segments: &[Segment],
    unix_ms: i64,
    name: &str,
) -> Result<(), assemble::Error> {
    let sources: Vec<_> = segments.iter().map(|segment| spool.segment_source(segment)).collect();
    let path = spool.path(name);
    assemble::write_mp4(&sources, unix_ms, &path, &spool.path(&format!("{name}.part")))?;
    spool.add_used_bytes(file_size(&path));
    Ok(())
}

/// Converts a segment to MPEG-TS, unless that was done before.
fn convert_to_ts(spool: &Spool, segment: &Segment) -> Result<(), assemble::Error> {
    let name = spool.names().ts(segment.index);
    let path = spool.path(&name);
    if path.exists() {
        return Ok(());
    }
    assemble::write_ts(&spool.segment_source(segment), &path, &spool.path(&format!("{name}.part")))?;
    spool.add_used_bytes(file_size(&path));
    Ok(())
}

/// Writes the files that are stored as one asset.
fn write_asset(spool: &Spool, segments: &[Segment], playlist: &str) -> Result<(), assemble::Error> {
    if spool.recording().format.is_ts() {
        segments.iter().try_for_each(|segment| convert_to_ts(spool, segment))?;
    }
    let path = spool.path(&spool.names().playlist());
    fs::write(&path, playlist).map_err(|e| assemble::Error::Io(path, e))
}

async fn store_asset(
    store: &Store,
    spool: &Spool,
    names: &[String],
    description: RecordedFile,
) -> Result<Option<RecordedFile>, JobError> {
    let paths: Vec<_> = names.iter().map(|name| spool.path(name)).collect();
    let files: Vec<(&str, &Path)> =
        names.iter().map(String::as_str).zip(paths.iter().map(PathBuf::as_path)).collect();
    let stored = store.put_playlist(&files).await?;
    let bytes = paths.iter().map(|path| file_size(path)).sum();
    Ok(Some(with_asset(RecordedFile { bytes, ..description }, stored)))
}

/// Adds the asset's id and address to the description of a file.
fn with_asset(file: RecordedFile, stored: store::StoredObject) -> RecordedFile {
    match stored.vod_asset {
        Some(asset) => RecordedFile { file_id: Some(asset.file_id), url: Some(asset.url), ..file },
        None => file,
    }
}

/// Runs disk work on a blocking thread.
async fn blocking(
    work: impl FnOnce() -> Result<(), assemble::Error> + Send + 'static,
) -> Result<(), JobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(JobError { class: ErrorClass::Local, message: format!("internal error: {error}") }),
    }
}

fn spool_error(error: io::Error) -> JobError {
    let message = format!("cannot read or write the spool: {}", io_reason(&error));
    JobError { class: ErrorClass::Local, message }
}

/// The time of day `ago` before now, in ms since 1970.
fn unix_ms_ago(ago: Duration) -> i64 {
    let time = SystemTime::now().checked_sub(ago).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    i64::try_from(time.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}
