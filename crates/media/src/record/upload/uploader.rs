//! Carries out what the [`Machine`] decides: reads the spool's logs, runs jobs and writes the upload log.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use pagecast_core::HostTime;
use pagecast_core::error_text::io_reason;
use pagecast_core::ledger::{LedgerRow, Segment};
use pagecast_core::spec::Storage;
use tokio::task::JoinSet;

use super::super::file_names::numbered_path;
use super::super::ledger_import::MAX_INIT_BYTES;
use super::super::playlist::PlaylistState;
use super::super::splitter::FileSegments;
use super::super::spool::{PlaylistWriter, RecordedEntry, Spool, UploadEntry, write_atomically};
use super::super::{assemble, manifest, manifest::RecordedFile};
use super::backoff::{Backoff, REACHABILITY_CHECK_TIMEOUT};
use super::copier::Copier;
use super::fetch::{Fetched, OpenFleetStore, SegmentFetcher};
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
/// Largest playlist or manifest that is read, in bytes: a day in segments of a second has 7 MB.
pub(in crate::record) const MAX_PLAYLIST_BYTES: usize = 16 << 20;
/// Longest time between two reads of the spool, in case a notification is missed.
const SPOOL_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Rows of the ledger that are reported at once: some 150 bytes each, and one transaction.
const MAX_LEDGER_ROWS: usize = 2000;
/// Longest time that changes of the ledger wait for others, so that they are reported together: a segment is
/// recorded, copied and stored within moments. Whoever continues the recording knows only what was reported.
const LEDGER_BATCH_TIME: Duration = Duration::from_millis(100);
/// Shortest wait, so that an overdue deadline does not become a busy loop.
const MIN_WAIT: Duration = Duration::from_millis(10);

type JobResult = Result<Option<RecordedFile>, JobError>;

impl From<store::Error> for JobError {
    fn from(error: store::Error) -> Self {
        Self::new(error.class(), chain(&error))
    }
}

/// Storages of an upload.
pub(super) struct Stores {
    pub(super) storage: Store,
    pub(super) backup: Option<Store>,
    pub(super) fleet: Option<OpenFleetStore>,
}

/// Uploads the recording of one spool.
pub(super) struct Uploader {
    spool: Arc<Spool>,
    /// The recording's storage, and its backup.
    stores: (Arc<Store>, Option<Arc<Store>>),
    fleet: Option<OpenFleetStore>,
    /// Copies segments to the store of the fleet, while this process records.
    copier: Option<Copier>,
    shared: Arc<Shared>,
    machine: Machine,
    started_at: Instant,
    /// Running jobs and reachability checks; each yields its results.
    jobs: JoinSet<Vec<Input>>,
    /// When changed rows of the ledger are reported.
    ledger_due: Option<HostTime>,
    /// `None` until the spool was read for the first time.
    recorded_log: Option<RecordedLog>,
    upload_log: Arc<UploadLog>,
}

impl Uploader {
    pub(super) fn new(
        spool: Arc<Spool>,
        Stores { storage: mut store, mut backup, fleet }: Stores,
        config: Config,
        shared: Arc<Shared>,
    ) -> Self {
        let upload_log = Arc::<UploadLog>::default();
        let journal = |backup| Arc::new(LoggedUploads { log: Arc::clone(&upload_log), backup });
        store.set_upload_journal(journal(false));
        if let Some(backup) = &mut backup {
            backup.set_upload_journal(journal(true));
        }
        let mut ledger = Ledger::new(spool.recording(), spool.names().clone(), &store.layout());
        ledger.set_place(spool.first_file(), spool.playlist_writer());
        ledger.set_sharing(is_shared(&store, backup.as_ref()), spool.stores_remainder());
        let records = spool.playlist_writer() == PlaylistWriter::ThisSpool;
        let backoff = Backoff::new(config.stuck_after, config.initial_backoff);
        Self {
            machine: Machine::new(ledger, backoff, config.probe, backup.is_some()),
            stores: (Arc::new(store), backup.map(Arc::new)),
            copier: fleet.clone().filter(|_| records).map(Copier::new),
            fleet,
            spool,
            shared,
            started_at: Instant::now(),
            jobs: JoinSet::new(),
            ledger_due: None,
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
        self.report_rows(true);
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
        let (files, duration, missing) = (ledger.recorded_files(), ledger.duration(), ledger.missing());
        let (location, endpoint) = self.store().recording_location(&self.spool.recording().name);
        UploadReport { location, endpoint, files, duration, status, spool, missing }
    }

    /// Runs until everything is stored. False if a job panicked.
    async fn upload_all(&mut self) -> bool {
        loop {
            let read = self.read_spool();
            self.handle(Input::SpoolRead(read.map_err(spool_error)));
            while let Some(output) = self.machine.poll(self.now()) {
                self.carry_out(output);
            }
            let now = self.now();
            if let Some(copier) = &mut self.copier {
                copier.poll(now, self.machine.ledger(), &self.spool);
            }
            self.report_rows(false);
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
        let now = HostTime(0) + self.started_at.elapsed();
        for (entry, fits) in log.read_new(&self.spool, self.machine.ledger())? {
            if let (RecordedEntry::Segment(segment), Some(copier)) = (&entry, &mut self.copier) {
                copier.push(segment.index, now, self.machine.ledger());
            }
            self.machine.handle(now, Input::Recorded { entry, fits });
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
                    vec![Input::Reachability { answered: check.await.unwrap_or(false), on_backup }]
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
        self.jobs.spawn(async move { vec![Input::Ended { job, result: work.await }] });
    }

    fn fetcher(&self) -> SegmentFetcher {
        SegmentFetcher {
            spool: Arc::clone(&self.spool),
            fleet: self.fleet.clone(),
            stores: self.stores.clone(),
        }
    }

    /// Assembles a file from its segments.
    fn start_assembly(&mut self, file: FileSegments) {
        let (task, ledger) = (Task::Assemble(file), self.machine.ledger());
        let with_origin = |segment: Segment| (segment, ledger.origin(segment.index));
        let segments: Vec<_> = ledger.segments(Some(file)).into_iter().map(with_origin).collect();
        if segments.is_empty() {
            return self.handle(Input::NothingLeft(task));
        }
        let (unix_ms, name) = (ledger.recorded_file(file, 0).start_unix_ms, ledger.object_name(task));
        let fetcher = self.fetcher();
        self.jobs.spawn(async move {
            let (lost, result) = fetcher.assemble(segments, unix_ms, name).await;
            let result = result.map(|()| None);
            vec![Input::SegmentsLost(lost), Input::Ended { job: Job::Task(task), result }]
        });
    }

    /// Stores a segment, which may have to be fetched or converted first.
    fn start_segment(&mut self, index: u32) {
        let (task, ledger) = (Task::Segment(index), self.machine.ledger());
        let Some(segment) = ledger.segment(index) else { return self.handle(Input::NothingLeft(task)) };
        let (origin, is_ts) = (ledger.origin(index), self.spool.recording().format.is_ts());
        let content_type = if is_ts { "video/mp2t" } else { MP4_TYPE };
        let object = self.object(&ledger.object_name(task), content_type);
        let (fetcher, store, spool) = (self.fetcher(), Arc::clone(self.store()), Arc::clone(&self.spool));
        self.jobs.spawn(async move {
            match fetcher.fetch(&segment, origin).await {
                Ok(Fetched::InSpool) => {}
                Ok(Fetched::Lost) => return vec![Input::SegmentsLost(vec![index]), Input::NothingLeft(task)],
                Err(error) => return vec![Input::Ended { job: Job::Task(task), result: Err(error) }],
            }
            let stored = async {
                if is_ts {
                    blocking(move || convert_to_ts(&spool, &segment)).await?;
                }
                object.upload(&store).await.map(|_| None)
            };
            vec![Input::Ended { job: Job::Task(task), result: stored.await }]
        });
    }

    /// Stores playlist and segments as one asset.
    fn start_asset(&mut self) {
        let (ledger, spool, store) = (self.machine.ledger(), &self.spool, Arc::clone(self.store()));
        let with_origin = |segment: Segment| (segment, ledger.origin(segment.index));
        let segments: Vec<_> = ledger.segments(None).into_iter().map(with_origin).collect();
        let (files, playlist) = (self.asset_names(), ledger.asset_playlist(spool.recording()));
        let (description, fetcher) = (ledger.whole_recording(0), self.fetcher());
        let spool = Arc::clone(spool);
        self.jobs.spawn(async move {
            let mut lost = Vec::new();
            let result = async {
                for (segment, origin) in &segments {
                    if fetcher.fetch(segment, *origin).await? == Fetched::Lost {
                        lost.push(segment.index);
                    }
                }
                if !lost.is_empty() {
                    // The next attempt leaves them out of the playlist.
                    let message = "segments of an earlier owner are lost".to_owned();
                    return Err(JobError::of_fetch(ErrorClass::Transient, message));
                }
                let (written, segments) =
                    (Arc::clone(&spool), segments.into_iter().map(|(s, _)| s).collect());
                blocking(move || write_asset(&written, segments, &playlist)).await?;
                store_asset(&store, &spool, &files, description).await
            };
            let result = result.await;
            vec![Input::SegmentsLost(lost), Input::Ended { job: Job::Task(Task::Asset), result }]
        });
    }

    fn start_task(&mut self, task: Task) {
        let (spool, store) = (Arc::clone(&self.spool), Arc::clone(self.store()));
        let ledger = self.machine.ledger();
        let name = ledger.object_name(task);
        let job = Job::Task(task);
        match task {
            Task::Assemble(file) => self.start_assembly(file),
            Task::Asset => self.start_asset(),
            Task::Segment(index) => self.start_segment(index),
            Task::Thumbnail(_) => {
                let object = self.object(&name, "image/jpeg");
                // A power cut may lose a thumbnail; the recording is complete without it.
                let lost = !object.path.exists();
                self.spawn(job, async move {
                    if lost { Ok(None) } else { object.upload(&store).await.map(|_| None) }
                });
            }
            Task::Init(_) => {
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
                // Another owner may have stored a file of this name without telling.
                let has_owners =
                    spool.first_file() > 0 || spool.playlist_writer() != PlaylistWriter::ThisSpool;
                let check = has_owners && !spool.recording().overwrite && store.layout() == Layout::Folder;
                self.spawn(job, async move {
                    if check {
                        object.check_name_is_free(&store).await?;
                    }
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
        let mut all = if ts { Vec::new() } else { ledger.init_names() };
        let segments = ledger.segments(None).into_iter();
        all.extend(segments.map(|s| ledger.object_name(Task::Segment(s.index))));
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
        let writer = self.spool.playlist_writer();
        if recording.manifest && !ledger.is_empty() && writer != PlaylistWriter::LaterOwner {
            let text = serde_json::to_vec_pretty(&ledger.manifest(&recording.name));
            let object = self.object(&names.manifest(), "application/json");
            // In the spool, the manifest's name may be that of the spool's own description.
            let path = self.spool.path(&format!("{}.part", names.manifest()));
            manifest = Some((SpooledObject { path, ..object }, text.map_err(|e| spool_error(e.into()))?));
        }
        let mut receipt = None;
        if let Some(path) = self.spool.receipt() {
            let text = serde_json::to_vec(&self.report(None)).map_err(|e| spool_error(e.into()))?;
            receipt = Some((path.to_owned(), text));
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

    /// Reports the rows of the ledger that have changed, some time after the first change or `at_once`.
    fn report_rows(&mut self, at_once: bool) {
        let now = self.now();
        if self.ledger_due.is_none() && self.machine.has_changed_rows() {
            self.ledger_due = Some(now + LEDGER_BATCH_TIME);
        }
        let is_due = self.ledger_due.is_some_and(|due| at_once || self.machine.is_finished() || due <= now);
        if !is_due || !self.shared.ledger_rows().is_empty() {
            return;
        }
        self.ledger_due = None;
        let mut rows = self.machine.take_changed_rows(MAX_LEDGER_ROWS);
        if self.fleet.is_some() {
            rows.iter_mut().for_each(|row| self.add_init_segment(row));
        }
        *self.shared.ledger_rows() = rows;
        self.shared.waker.wake();
    }

    /// Adds the initialization segment to the row of a run, if it is there already.
    fn add_init_segment(&self, row: &mut LedgerRow) {
        let LedgerRow::Run { run, init_segment, .. } = row else { return };
        let content = fs::read(self.spool.path(&self.spool.names().init(run.epoch, run.index)));
        let content = content.ok().filter(|content| (1..=MAX_INIT_BYTES).contains(&content.len()));
        *init_segment = content.map(|content| BASE64_STANDARD.encode(content));
    }

    /// Waits for a job, new recorded data or a deadline. False if a job panicked.
    async fn wait(&mut self) -> bool {
        let now = self.now();
        let copies = self.copier.as_ref().and_then(Copier::deadline);
        let rows = self.ledger_due.filter(|_| self.shared.ledger_rows().is_empty());
        let deadline = self.machine.deadline().into_iter().chain(copies).chain(rows).min();
        let deadline = deadline.map_or(SPOOL_POLL_INTERVAL, |at| at.since(now));
        let wakeup = Arc::clone(&self.shared.wakeup);
        let copied = async {
            match &mut self.copier {
                Some(copier) => copier.ended().await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            Some(ended) = self.jobs.join_next() => ended,
            (index, result) = copied => {
                let now = self.now();
                if self.copier.as_mut().is_some_and(|copier| copier.on_ended(now, index, result)) {
                    self.handle(Input::Copied(index));
                }
                return true;
            }
            () = wakeup.notified() => return true,
            () = tokio::time::sleep(deadline.clamp(MIN_WAIT, SPOOL_POLL_INTERVAL)) => return true,
        };
        match ended {
            Ok(inputs) => {
                inputs.into_iter().for_each(|input| self.handle(input));
                true
            }
            Err(error) => {
                tracing::error!(%error, "upload task panicked");
                let message = format!("internal error: {error}");
                self.handle(Input::Problem(JobError::new(ErrorClass::Local, message)));
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
    async fn run(mut self) -> Result<(), JobError> {
        let is_unknown = self.spool.playlist_writer() == PlaylistWriter::Unknown;
        // A recording that may be overwritten may have had more segments and files.
        if is_unknown && !self.spool.recording().overwrite && self.is_continued_elsewhere().await? {
            let location = self.store.location();
            tracing::warn!(location, "playlists left to the owner that went on with the recording");
            self.playlists.clear();
            (self.manifest, self.receipt) = (None, None);
        }
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

    /// Whether the stored playlist has segments, or the stored manifest files and runs, that the own ones
    /// have not: another owner recorded them.
    async fn is_continued_elsewhere(&self) -> Result<bool, JobError> {
        if let Some((name, own, _)) = self.playlists.first() {
            let stored = self.store.get(name, MAX_PLAYLIST_BYTES).await?.unwrap_or_default();
            let is_segment = |line: &&str| !line.is_empty() && !line.starts_with('#');
            let own: HashSet<&str> = own.lines().filter(is_segment).collect();
            let stored = String::from_utf8_lossy(&stored);
            if stored.lines().filter(is_segment).any(|segment| !own.contains(segment)) {
                return Ok(true);
            }
        }
        let Some((object, own)) = &self.manifest else { return Ok(false) };
        if self.store.layout() != Layout::Folder {
            return Ok(false);
        }
        let stored = self.store.get(&object.object_name, MAX_PLAYLIST_BYTES).await?.unwrap_or_default();
        Ok(manifest::lists_more(&stored, own))
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
    /// Checks that the storage has no other file of this name.
    async fn check_name_is_free(&self, store: &Store) -> Result<(), JobError> {
        let existing = store.head(&self.object_name).await?;
        if existing.is_none_or(|existing| existing.bytes == file_size(&self.path)) {
            return Ok(());
        }
        let (name, location) = (&self.object_name, store.location());
        let message = format!("another owner of the recording has stored {name} in {location}");
        Err(JobError::new(ErrorClass::Permanent, message))
    }

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
            return Err(JobError::new(ErrorClass::Permanent, message));
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
            return Err(JobError::new(ErrorClass::Permanent, message));
        }
    }
    Ok(())
}

/// Whether what is in the recording's storage can be read on other machines.
fn is_shared(store: &Store, backup: Option<&Store>) -> bool {
    let is_remote = |store: &Store| !store.is_local() && store.layout() == Layout::Folder;
    is_remote(store) && backup.is_none_or(is_remote)
}

/// Converts a segment to MPEG-TS, unless that was done before.
fn convert_to_ts(spool: &Spool, segment: &Segment) -> Result<(), assemble::Error> {
    let name = spool.names().ts(segment.epoch, segment.index);
    let path = spool.path(&name);
    if path.exists() {
        return Ok(());
    }
    assemble::write_ts(&spool.segment_source(segment), &path, &spool.path(&format!("{name}.part")))?;
    spool.add_used_bytes(file_size(&path));
    Ok(())
}

/// Writes the files that are stored as one asset.
fn write_asset(spool: &Spool, segments: Vec<Segment>, playlist: &str) -> Result<(), assemble::Error> {
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
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, assemble::Error> + Send + 'static,
) -> Result<T, JobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(JobError::new(ErrorClass::Local, format!("internal error: {error}"))),
    }
}

pub(super) fn spool_error(error: io::Error) -> JobError {
    JobError::new(ErrorClass::Local, format!("cannot read or write the spool: {}", io_reason(&error)))
}

/// The time of day `ago` before now, in ms since 1970.
fn unix_ms_ago(ago: Duration) -> i64 {
    let time = SystemTime::now().checked_sub(ago).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    i64::try_from(time.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}
