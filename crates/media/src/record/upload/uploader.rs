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

use super::super::append_log::{LogReader, LogWriter};
use super::super::file_names::numbered_path;
use super::super::playlist::PlaylistState as Growth;
use super::super::spool::{RecordedEntry, Segment, Spool, StoredFile, UploadEntry as Done, write_atomically};
use super::super::{assemble, manifest::RecordedFile};
use super::backoff::{Backoff, REACHABILITY_CHECK_TIMEOUT};
use super::ledger::{Ledger, Task};
use super::{Config, PHASE_RECORDING, Shared, State, UploadReport};
use crate::chain;
use crate::store::{self, ErrorClass, Store, parent_folder};

/// Things under way at a time.
const MAX_CONCURRENT_TASKS: usize = 4;
/// How often the playlist of the whole recording is stored again, in bytes a second: it only grows.
const PLAYLIST_BYTES_PER_S: usize = 10_000;
/// How long others may keep a playlist that changes.
const LIVE_CACHE_CONTROL: &str = "max-age=1";
const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";
/// Pauses of a task that fails for reasons of its own.
const TASK_BACKOFF: Duration = Duration::from_secs(2);
const MAX_TASK_BACKOFF: Duration = Duration::from_secs(60);
const FAR_FUTURE: Duration = Duration::from_secs(1 << 30);
/// Longest time between two looks at the spool.
const SPOOL_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Why something is not done.
#[derive(Debug)]
struct TaskError {
    class: ErrorClass,
    message: String,
}

impl From<store::Error> for TaskError {
    fn from(error: store::Error) -> Self {
        Self { class: error.class(), message: chain(&error) }
    }
}

impl From<assemble::Error> for TaskError {
    fn from(error: assemble::Error) -> Self {
        // A full disk of this machine says nothing about the storage.
        Self { class: ErrorClass::Local, message: chain(&error) }
    }
}

/// What came of a task; `None` is the look whether anything can be stored at all.
type TaskOutcome = (Option<Task>, Result<Option<RecordedFile>, TaskError>);

/// A task that failed for reasons of its own, not of the storage.
struct RetryLater {
    task: Task,
    attempts: u32,
    retry_at: HostTime,
}

/// The one who carries things.
pub(super) struct Uploader {
    spool: Arc<Spool>,
    store: Arc<Store>,
    backup: Option<Arc<Store>>,
    /// Where files go: the recording's storage, or its backup.
    destination: Storage,
    config: Config,
    shared: Arc<Shared>,
    ledger: Ledger,
    backoff: Backoff,
    /// What is done again later while all else goes on.
    retries: Vec<RetryLater>,
    /// Somebody else's recording is in its place: nothing is stored.
    name_taken: bool,
    /// The spool cannot be read or written.
    spool_failed: bool,
    /// What the spool says cannot be true: nothing of it is finished.
    recorded_log_invalid: bool,
    started_at: Instant,
    on_backup: bool,
    tasks: JoinSet<TaskOutcome>,
    /// The look whether a storage that failed answers again, one at a time.
    reachability_check: JoinSet<bool>,
    /// Segments in the playlists as they are stored; when that of the whole recording was, and its length.
    stored_playlist_segments: [usize; 2],
    last_full_playlist: Option<(Instant, usize)>,
    recorded_log: Option<LogReader<RecordedEntry>>,
    upload_log: Option<LogWriter<Done>>,
    /// The last run, and what it needs to be decoded, to see whether the next one fits.
    last_run: Option<u32>,
    extradata: Option<Vec<u8>>,
}

impl Uploader {
    pub(super) fn new(
        spool: Arc<Spool>,
        (store, backup): (Arc<Store>, Option<Arc<Store>>),
        config: Config,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            ledger: Ledger::new(spool.recording(), spool.names().clone()),
            destination: spool.recording().to.clone(),
            backoff: Backoff::new(config.stuck_after, config.initial_backoff),
            store,
            backup,
            spool,
            config,
            shared,
            retries: Vec::new(),
            name_taken: false,
            spool_failed: false,
            recorded_log_invalid: false,
            started_at: Instant::now(),
            on_backup: false,
            tasks: JoinSet::new(),
            reachability_check: JoinSet::new(),
            stored_playlist_segments: [0; 2],
            last_full_playlist: None,
            recorded_log: None,
            upload_log: None,
            last_run: None,
            extradata: None,
        }
    }

    /// Until all is stored, or nobody waits any more.
    pub(super) async fn run(mut self) -> UploadReport {
        if self.config.probe {
            let (store, names) = (Arc::clone(&self.store), self.names_to_probe());
            self.tasks.spawn(async move { (None, probe(&store, &names).await.map(|()| None)) });
        }
        let shared = Arc::clone(&self.shared);
        let finished = tokio::select! {
            finished = self.upload_all() => finished,
            () = shared.cancelled.notified() => false,
        };
        self.update_status();
        self.report((!finished).then(|| self.spool.folder().to_owned()))
    }

    /// What became of it; `spool`: what is not stored is there.
    fn report(&self, spool: Option<PathBuf>) -> UploadReport {
        let mut status = self.shared.status().clone();
        if spool.is_none() {
            status.state = if self.ledger.is_empty() { State::Empty } else { State::Stored };
            status.problem = None;
        }
        let (files, duration) = (self.ledger.recorded_files(), self.ledger.duration());
        let name = &self.spool.recording().name;
        let (place, endpoint) = match &self.destination {
            Storage::File(path) => (absolute_path(parent_folder(path)), None),
            Storage::Folder(folder) => (absolute_path(&folder.join(name)), None),
            Storage::Bucket(bucket) => {
                (bucket.object_url(name), bucket.endpoint.as_ref().map(ToString::to_string))
            }
            Storage::TencentVod(_) => (self.store.location(), None),
        };
        UploadReport { location: place, endpoint, files, duration, status, spool }
    }

    /// Until all is stored. False if that will never be.
    async fn upload_all(&mut self) -> bool {
        loop {
            let mut done = self.step().await.map(|()| false);
            // Where nothing was recorded, nothing needs to be stored.
            let may = self.ledger.is_empty() || (self.backoff.may_attempt(self.now(), 0) && !self.name_taken);
            if done.is_ok() && self.ledger.is_done() && may {
                done = self.finish().await.map(|()| true);
            }
            self.spool_failed = matches!(&done, Err(TaskError { class: ErrorClass::Local, .. }));
            match done {
                Ok(true) => return true,
                Ok(false) => {}
                Err(failure) => self.handle_error(failure),
            }
            self.update_status();
            if !self.wait().await {
                return false;
            }
        }
    }

    /// What a recording that is there already would have.
    fn names_to_probe(&self) -> Vec<String> {
        let names = self.spool.names();
        if self.spool.recording().overwrite
            || matches!(self.destination, Storage::File(_) | Storage::TencentVod(_))
        {
            return Vec::new();
        }
        [names.mp4(0), names.playlist()].map(|name| self.object(&name, "").object_name).into()
    }

    /// Sees what is new, and begins what can be begun.
    async fn step(&mut self) -> Result<(), TaskError> {
        self.read_logs()?;
        self.fail_over_if_failing()?;
        while self.tasks.len() < MAX_CONCURRENT_TASKS
            && self.backoff.may_attempt(self.now(), self.tasks.len())
            && !self.name_taken
        {
            let now = self.now();
            let healed = self.retries.iter_mut().find(|ill| ill.retry_at <= now).map(|ill| {
                // Until it is known how it went.
                ill.retry_at = now + FAR_FUTURE;
                ill.task
            });
            match healed.or_else(|| self.ledger.next_task()) {
                Some(task) => self.start_task(task),
                None => break,
            }
        }
        if !self.name_taken && self.backoff.may_attempt(self.now(), self.tasks.len()) {
            self.store_playlists().await
        } else {
            Ok(())
        }
    }

    /// Takes in what was recorded.
    fn read_logs(&mut self) -> Result<(), TaskError> {
        if self.recorded_log_invalid {
            return Err(spool_error(io::ErrorKind::InvalidData.into()));
        }
        if self.upload_log.is_none() {
            let entries =
                self.spool.upload_log_reader().and_then(|mut log| log.read_new()).map_err(spool_error)?;
            for entry in entries {
                if entry == Done::SwitchedToBackup {
                    self.switch_to_backup();
                }
                self.ledger.apply_upload_entry(entry);
            }
            self.upload_log = Some(self.spool.upload_log_writer().map_err(spool_error)?);
            self.recorded_log = Some(self.spool.recorded_log_reader().map_err(spool_error)?);
        }
        // What is recorded before the end is told is read after it is told.
        let phase = self.shared.phase();
        let news =
            self.recorded_log.as_mut().map_or(Ok(Vec::new()), LogReader::read_new).map_err(spool_error)?;
        for entry in news {
            let (segments, thumbnails) = self.ledger.counts();
            if let Err(error) = entry.validate(segments, thumbnails) {
                self.recorded_log_invalid = true;
                return Err(spool_error(error));
            }
            // Only a run that has a segment has what begins it.
            let fits = match &entry {
                RecordedEntry::Segment(segment) if self.last_run != Some(segment.run) => {
                    self.last_run = Some(segment.run);
                    let init = self.spool.path(&self.spool.names().init(segment.run));
                    let before = std::mem::replace(&mut self.extradata, assemble::extradata(&init));
                    before.is_none() || before == self.extradata
                }
                _ => true,
            };
            self.ledger.apply_recorded_entry(entry, fits);
        }
        if phase != PHASE_RECORDING {
            self.ledger.end_input();
        }
        Ok(())
    }

    fn start_task(&mut self, task: Task) {
        let (spool, store) = (Arc::clone(&self.spool), Arc::clone(&self.store));
        let name = self.ledger.object_name(task);
        match task {
            Task::Assemble(part) => {
                let segments = self.ledger.segments(Some(part));
                let unix_ms = self.ledger.recorded_file(part, 0).start_unix_ms;
                self.tasks.spawn(async move {
                    let made = blocking(move || assemble_file(&spool, &segments, unix_ms, &name)).await;
                    (Some(task), made.map(|()| None))
                });
            }
            Task::VodAsset => {
                let files = self.vod_asset_names();
                let (segments, playlist) =
                    (self.ledger.segments(None), self.ledger.vod_playlist(spool.recording()));
                let whole = self.ledger.whole_recording(0);
                self.tasks.spawn(async move {
                    let written = Arc::clone(&spool);
                    let done = async {
                        blocking(move || write_vod_asset(&written, &segments, &playlist)).await?;
                        store_vod_asset(&store, &spool, &files, whole).await
                    };
                    (Some(task), done.await)
                });
            }
            Task::Segment(index) if spool.recording().format.is_ts() => {
                let segment = self.ledger.segment(index);
                let object = self.object(&name, "video/mp2t");
                self.tasks.spawn(async move {
                    let done = async {
                        blocking(move || segment.map_or(Ok(()), |segment| convert_to_ts(&spool, &segment)))
                            .await?;
                        object.upload(&store).await
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
                self.tasks.spawn(async move { (Some(task), object.upload(&store).await.map(|_| None)) });
            }
            Task::File(index) => {
                let object = self.object(&name, "video/mp4");
                let part = self.ledger.file_segments(index);
                if let Some(part) = part.filter(|_| !object.path.exists()) {
                    self.retries.retain(|ill| ill.task != task);
                    return self.ledger.reassemble(part);
                }
                let item = part.map(|part| self.ledger.recorded_file(part, file_size(&object.path)));
                self.tasks.spawn(async move {
                    let stored = object.upload(&store).await;
                    (Some(task), stored.map(|stored| item.map(|item| with_vod_asset(item, stored))))
                });
            }
        }
    }

    /// A file of the spool, and what it is called in storage.
    fn object(&self, name: &str, content_type: &'static str) -> SpooledObject {
        let recording = self.spool.recording();
        let (target, own) = match &self.destination {
            // Each file has a place of its own.
            Storage::File(path) => {
                let names = self.spool.names();
                let own = (0..=self.ledger.file_count()).find(|index| names.mp4(*index) == name);
                let own = own.map_or_else(|| path.with_file_name(name), |index| numbered_path(path, index));
                (name.to_owned(), Some((Storage::File(own), recording.overwrite)))
            }
            Storage::TencentVod(_) => (name.to_owned(), None),
            _ => (format!("{}/{name}", recording.name), None),
        };
        SpooledObject { path: self.spool.path(name), object_name: target, own_storage: own, content_type }
    }

    /// All files of a playlist, itself the last.
    fn vod_asset_names(&self) -> Vec<String> {
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
    fn on_task_ended(&mut self, (task, result): TaskOutcome) -> Result<(), TaskError> {
        let Some(task) = task else {
            self.name_taken = matches!(&result, Err(TaskError { class: ErrorClass::Permanent, .. }));
            return result.map(drop);
        };
        let ill = self.retries.iter().position(|ill| ill.task == task);
        let item = match result {
            Ok(item) => item,
            // What is wrong with the file itself does not keep others from being stored.
            Err(failure) if matches!(failure.class, ErrorClass::Local | ErrorClass::Permanent) => {
                let tries = ill.map_or(0, |at| self.retries.swap_remove(at).attempts) + 1;
                let pause = TASK_BACKOFF.saturating_mul(1 << tries.min(10)).min(MAX_TASK_BACKOFF);
                self.retries.push(RetryLater { task, attempts: tries, retry_at: self.now() + pause });
                tracing::warn!(problem = failure.message, "a part of the recording cannot be stored");
                self.shared.status().problem = Some(failure.message);
                return Ok(());
            }
            Err(failure) => {
                ill.map(|at| self.retries.swap_remove(at));
                self.ledger.requeue(task);
                return Err(failure);
            }
        };
        ill.map(|at| self.retries.swap_remove(at));
        let entry = if let Task::Assemble(part) = task {
            Done::Assembled(part)
        } else {
            self.backoff.on_success();
            if self.retries.is_empty() {
                self.shared.status().problem = None;
            }
            Done::Stored(StoredFile { name: self.ledger.object_name(task), file: item.clone() })
        };
        let spent = self.ledger.complete_task(task, item);
        // Without the entry it would only be done again.
        let logged = self.upload_log.as_mut().map_or(Ok(()), |log| log.append(&entry)).map_err(spool_error);
        if logged.is_ok() {
            spent.iter().for_each(|name| self.spool.discard(name));
        }
        logged
    }

    /// Stores the playlists, if they have grown.
    async fn store_playlists(&mut self) -> Result<(), TaskError> {
        let Some(listed) = self.ledger.listed_segments() else { return Ok(()) };
        let names = self.spool.names().clone();
        if self.stored_playlist_segments[0] != listed {
            self.put_playlist(names.live_playlist(), self.ledger.live_playlist(Growth::Running)).await?;
            self.stored_playlist_segments[0] = listed;
            self.backoff.on_success();
        }
        let pause = |length: usize| Duration::from_secs((length / PLAYLIST_BYTES_PER_S) as u64);
        if self.stored_playlist_segments[1] != listed
            && self.last_full_playlist.is_none_or(|(at, length)| at.elapsed() >= pause(length))
        {
            let text = self.ledger.whole_playlist(Growth::Running);
            self.last_full_playlist = Some((Instant::now(), text.len()));
            self.put_playlist(names.playlist(), text).await?;
            self.stored_playlist_segments[1] = listed;
        }
        Ok(())
    }

    async fn put_playlist(&self, name: String, text: String) -> Result<(), TaskError> {
        let object = self.object(&name, PLAYLIST_TYPE);
        let bytes = Bytes::from(text);
        self.store.put_bytes(&object.object_name, bytes, PLAYLIST_TYPE, Some(LIVE_CACHE_CONTROL)).await?;
        Ok(())
    }

    /// All is stored: the last words, and the spool goes.
    async fn finish(&self) -> Result<(), TaskError> {
        let names = self.spool.names().clone();
        if self.ledger.listed_segments().is_some() {
            let object = self.object(&names.playlist(), PLAYLIST_TYPE);
            let text = Bytes::from(self.ledger.whole_playlist(Growth::Complete));
            self.store.put_bytes(&object.object_name, text, PLAYLIST_TYPE, None).await?;
            // Who still watches has to learn that it is over: a playlist that is gone is an error to players.
            self.put_playlist(names.live_playlist(), self.ledger.live_playlist(Growth::Complete)).await?;
        }
        if self.spool.recording().manifest && !self.ledger.is_empty() {
            let manifest = self.ledger.manifest(&self.spool.recording().name);
            let text = serde_json::to_vec_pretty(&manifest).map_err(|e| spool_error(e.into()))?;
            let name = names.manifest();
            // In the spool, this name is another file's.
            let draft = self.spool.path(&format!("{name}.part"));
            fs::write(&draft, text).map_err(spool_error)?;
            SpooledObject { path: draft, ..self.object(&name, "application/json") }
                .upload(&self.store)
                .await?;
        }
        self.store.abort_orphaned_uploads().await;
        if let Some(receipt) = &self.spool.recording().receipt {
            let text = serde_json::to_vec(&self.report(None)).map_err(|e| spool_error(e.into()))?;
            write_atomically(receipt, &text).map_err(spool_error)?;
        }
        self.spool.remove();
        Ok(())
    }

    /// Gives the first storage up for the backup, if it has not worked for long.
    fn fail_over_if_failing(&mut self) -> Result<(), TaskError> {
        let failing = self.backoff.state(self.now()) != State::Uploading;
        if !failing || self.on_backup || self.backup.is_none() || !self.tasks.is_empty() {
            return Ok(());
        }
        self.upload_log
            .as_mut()
            .map_or(Ok(()), |log| log.append(&Done::SwitchedToBackup))
            .map_err(spool_error)?;
        self.switch_to_backup();
        self.ledger.restart_uploads();
        tracing::warn!(
            place = self.store.location(),
            "storage does not work: the recording goes to its backup"
        );
        Ok(())
    }

    fn switch_to_backup(&mut self) {
        if let (Some(store), Some(home)) = (&self.backup, &self.spool.recording().backup) {
            (self.store, self.destination, self.on_backup) = (Arc::clone(store), home.clone(), true);
            self.backoff.on_success();
            self.reachability_check.abort_all();
            self.retries.clear();
            self.name_taken = false;
            (self.stored_playlist_segments, self.last_full_playlist) = ([0; 2], None);
        }
    }

    fn handle_error(&mut self, failure: TaskError) {
        if failure.class == ErrorClass::Local {
            // It says nothing about the storage.
            tracing::debug!(problem = failure.message, "what is recorded cannot be delivered");
            self.shared.status().problem = Some(failure.message);
            return;
        }
        let noise = f64::from(self.started_at.elapsed().subsec_nanos() % 1000) / 1000.0;
        let before = self.backoff.state(self.now());
        self.backoff.on_failure(self.now(), failure.class, noise);
        if before != self.backoff.state(self.now()) {
            tracing::warn!(problem = failure.message, "what is recorded cannot be stored");
        }
        self.shared.status().problem = Some(failure.message);
    }

    fn update_status(&self) {
        // Nothing else is under way, and what is left needs somebody.
        let hopeless = self.name_taken
            || self.spool_failed
            || (!self.retries.is_empty() && self.ledger.pending() == self.retries.len());
        let mut status = self.shared.status();
        status.state = if hopeless { State::Failed } else { self.backoff.state(self.now()) };
        status.pending = self.ledger.pending();
        status.backup = self.on_backup;
        let since = self.backoff.outage_since(self.now()).map(|since| self.now().since(since));
        status.failing_since_unix_ms = since.map(unix_ms_ago);
    }

    /// Asks a storage that failed for something small: whatever it answers, it is there.
    fn check_reachability(&mut self) {
        let due = self.backoff.check_at().is_some_and(|at| at <= self.now());
        if !due || !self.reachability_check.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let name = self.object(&self.spool.names().manifest(), "").object_name;
        self.reachability_check.spawn(async move {
            let answer = tokio::time::timeout(REACHABILITY_CHECK_TIMEOUT, store.is_reachable(&name)).await;
            answer.unwrap_or(false)
        });
    }

    /// Sleeps until something has happened or is due. False if something has happened that must not.
    async fn wait(&mut self) -> bool {
        self.check_reachability();
        let now = self.now();
        let (idle, waits) = (self.tasks.is_empty(), self.reachability_check.is_empty());
        let retries =
            self.retries.iter().map(|ill| ill.retry_at).chain(self.backoff.retry_at().filter(|_| idle));
        let retries = retries.chain(self.backoff.check_at().filter(|_| waits));
        let due = retries
            .map(|at| at.since(now))
            .min()
            .map_or(SPOOL_POLL_INTERVAL, |due| due.min(SPOOL_POLL_INTERVAL));
        let bell = Arc::clone(&self.shared.wakeup);
        let ended = tokio::select! {
            Some(ended) = self.tasks.join_next() => Some(ended),
            Some(answered) = self.reachability_check.join_next() => {
                self.backoff.on_check_result(self.now(), answered.unwrap_or(false));
                None
            }
            () = bell.notified() => None,
            () = tokio::time::sleep(due.max(Duration::from_millis(10))) => None,
        };
        let result = match ended {
            Some(Ok(outcome)) => self.on_task_ended(outcome),
            Some(Err(error)) => {
                tracing::error!(%error, "a bug: a delivery panicked");
                self.shared.status().problem = Some(format!("a bug: {error}"));
                return false;
            }
            None => Ok(()),
        };
        if let Err(failure) = result {
            self.handle_error(failure);
        }
        true
    }

    /// The gate's clock.
    fn now(&self) -> HostTime {
        HostTime(0) + self.started_at.elapsed()
    }
}

/// A file on its way.
struct SpooledObject {
    path: PathBuf,
    /// What it is called in storage.
    object_name: String,
    /// A storage for it alone, and whether what is there may be replaced.
    own_storage: Option<(Storage, bool)>,
    content_type: &'static str,
}

impl SpooledObject {
    async fn upload(self, store: &Store) -> Result<store::StoredObject, TaskError> {
        let Self { path, object_name: target, own_storage: own, content_type } = self;
        let Some((own, overwrite)) = own else { return Ok(store.put(&target, &path, content_type).await?) };
        if let (Storage::File(there), false) = (&own, overwrite)
            && there.exists()
            && file_size(there) != file_size(&path)
        {
            let words =
                format!("{} exists already: remove it, then finish with `pagecast recover`", there.display());
            return Err(TaskError { class: ErrorClass::Permanent, message: words });
        }
        Ok(Store::open(&own)?.put("file", &path, content_type).await?)
    }
}

/// Whether anything can be stored, and nothing of these is there.
async fn probe(store: &Store, names: &[String]) -> Result<(), TaskError> {
    store.probe().await?;
    for name in names {
        if store.head(name).await?.is_some() {
            let words = format!(
                "{name} exists already in {}: choose another name, or replace it with --overwrite",
                store.location()
            );
            return Err(TaskError { class: ErrorClass::Permanent, message: words });
        }
    }
    Ok(())
}

/// Makes a file of its segments, which began at `unix_ms`.
fn assemble_file(
    spool: &Spool,
    segments: &[Segment],
    unix_ms: i64,
    name: &str,
) -> Result<(), assemble::Error> {
    let pieces: Vec<_> = segments.iter().map(|segment| spool.segment_source(segment)).collect();
    let path = spool.path(name);
    assemble::write_mp4(&pieces, unix_ms, &path, &spool.path(&format!("{name}.part")))?;
    spool.add_used_bytes(file_size(&path));
    Ok(())
}

/// Makes a segment of MPEG-TS, unless it is there.
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

/// Makes what is to be stored as one medium.
fn write_vod_asset(spool: &Spool, segments: &[Segment], playlist: &str) -> Result<(), assemble::Error> {
    if spool.recording().format.is_ts() {
        segments.iter().try_for_each(|segment| convert_to_ts(spool, segment))?;
    }
    let path = spool.path(&spool.names().playlist());
    fs::write(&path, playlist).map_err(|e| assemble::Error::Io(path, e))
}

async fn store_vod_asset(
    store: &Store,
    spool: &Spool,
    names: &[String],
    item: RecordedFile,
) -> Result<Option<RecordedFile>, TaskError> {
    let paths: Vec<_> = names.iter().map(|name| spool.path(name)).collect();
    let files: Vec<(&str, &Path)> =
        names.iter().map(String::as_str).zip(paths.iter().map(PathBuf::as_path)).collect();
    let stored = store.put_playlist(&files).await?;
    let bytes = paths.iter().map(|path| file_size(path)).sum();
    Ok(Some(with_vod_asset(RecordedFile { bytes, ..item }, stored)))
}

fn with_vod_asset(item: RecordedFile, stored: store::StoredObject) -> RecordedFile {
    match stored.vod_asset {
        Some(medium) => RecordedFile { file_id: Some(medium.file_id), url: Some(medium.url), ..item },
        None => item,
    }
}

/// Does something that takes the disk a while.
async fn blocking(
    work: impl FnOnce() -> Result<(), assemble::Error> + Send + 'static,
) -> Result<(), TaskError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(TaskError { class: ErrorClass::Local, message: format!("a bug: {error}") }),
    }
}

fn spool_error(error: io::Error) -> TaskError {
    TaskError { class: ErrorClass::Local, message: format!("the spool: {}", io_reason(&error)) }
}

/// The whole path: whoever reads it may be in another folder.
fn absolute_path(path: &Path) -> String {
    std::path::absolute(path).as_deref().unwrap_or(path).display().to_string()
}

/// The time that was so long ago, in ms since 1970.
fn unix_ms_ago(ago: Duration) -> i64 {
    let then = SystemTime::now().checked_sub(ago).and_then(|then| then.duration_since(UNIX_EPOCH).ok());
    i64::try_from(then.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}
