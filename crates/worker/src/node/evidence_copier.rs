//! Copies evidence, log and history of a running cast to the store of the fleet, so that they outlive the
//! node.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use pagecast_core::spec::Storage;
use pagecast_fleet::{CastId, is_stats_history};
use pagecast_media::record::EvidenceStore;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How often the folder is searched: a node that dies loses what is younger.
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest time between two copies of a log, which may grow all the time. With a new picture and at the end
/// it is copied at once.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Longest time for one copy of all files.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);
/// Most files of a cast that are copied: more than one owner captures. Later ones stay on the node.
const MAX_FILES: usize = 128;
/// Largest file that is copied, in bytes: a PNG of 3840x2160 noise has 25 MB.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// Copies files of one cast until it is finished.
#[derive(Debug)]
pub(super) struct EvidenceCopier {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl EvidenceCopier {
    /// Starts to copy files from a folder, which may not exist yet.
    pub(super) fn start(storage: &Storage, id: &CastId, folder: PathBuf) -> Option<Self> {
        let store = EvidenceStore::open(storage).inspect_err(|error| {
            tracing::warn!(cast = %id, error = crate::chain(error), "cannot use the fleet's store");
        });
        let copies = Copies {
            store: store.ok()?,
            cast: id.as_str().to_owned(),
            folder,
            done: BTreeMap::new(),
            is_failing: false,
        };
        let (stop, stopped) = watch::channel(false);
        Some(Self { stop, task: tokio::spawn(copies.run(stopped)) })
    }

    /// Copies what has changed since the last copy. Takes a minute at most.
    pub(super) async fn finish(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("copying evidence panicked");
        }
    }
}

struct Copies {
    store: EvidenceStore,
    cast: String,
    folder: PathBuf,
    /// Files that were copied, as they were then, and when.
    done: BTreeMap<String, (FileState, Instant)>,
    /// Whether the last copy failed, so that only the first failure is logged.
    is_failing: bool,
}

/// Size of a file in bytes, and when it was changed.
type FileState = (u64, SystemTime);

impl Copies {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            let is_last = *stopped.borrow_and_update();
            self.copy(is_last).await;
            if is_last {
                return;
            }
            // If the sender is gone, the node has ended.
            let stop = timeout(SEARCH_INTERVAL, stopped.changed());
            if matches!(stop.await, Ok(Err(_))) {
                return;
            }
        }
    }

    /// Copies files that have changed. What fails is copied the next time.
    async fn copy(&mut self, is_last: bool) {
        let result = timeout(COPY_TIMEOUT, self.copy_changed(is_last)).await;
        let error = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some("the store does not answer".to_owned()),
        };
        if let Some(error) = error.as_ref().filter(|_| !self.is_failing) {
            tracing::warn!(cast = self.cast, error, "evidence not copied to the fleet's store, retrying");
        }
        self.is_failing = error.is_some();
    }

    async fn copy_changed(&mut self, is_last: bool) -> Result<(), String> {
        let mut changed = list_files(self.folder.clone()).await;
        changed.retain(|name, state| match self.done.get(name) {
            Some((before, _)) => before != state,
            None => self.done.len() < MAX_FILES,
        });
        let has_picture = changed.keys().any(|name| !is_growing(name));
        if !(has_picture || is_last) {
            let is_due = |name: &str| self.done.get(name).is_none_or(|(_, at)| at.elapsed() >= LOG_INTERVAL);
            changed.retain(|name, _| is_due(name));
        }
        for (name, state) in changed {
            let path = self.folder.join(&name);
            let read = tokio::task::spawn_blocking(move || read_up_to(&path, MAX_FILE_BYTES)).await;
            let content = read.map_err(io::Error::other).flatten().map_err(|error| error.to_string())?;
            let put = self.store.put(&self.cast, &name, Bytes::from(content)).await;
            put.map_err(|error| crate::chain(&error))?;
            self.done.insert(name, (state, Instant::now()));
        }
        Ok(())
    }
}

/// Whether this is a log or a history, which grow all the time.
fn is_growing(name: &str) -> bool {
    name.starts_with("cast") && name.ends_with(".log") || is_stats_history(name)
}

/// Evidence and logs in a folder that can be copied.
async fn list_files(folder: PathBuf) -> BTreeMap<String, FileState> {
    let listed = tokio::task::spawn_blocking(move || {
        let file = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let is_evidence = [".png", ".log", ".jsonl"].iter().any(|ending| name.ends_with(ending));
            // Does not follow links.
            let meta = entry.metadata().ok().filter(|meta| is_evidence && meta.is_file())?;
            let is_copied = (1..=MAX_FILE_BYTES).contains(&meta.len());
            is_copied.then_some((name, (meta.len(), meta.modified().ok()?)))
        };
        fs::read_dir(folder).into_iter().flatten().flatten().filter_map(file).collect()
    });
    listed.await.unwrap_or_default()
}

/// Reads a file, which may grow meanwhile.
fn read_up_to(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(max_bytes).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pagecast-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[tokio::test]
    async fn files_are_copied_when_they_change() {
        let scratch = scratch("evidence-copier");
        let (folder, shared) = (scratch.join("evidence"), scratch.join("store"));
        fs::create_dir_all(&shared).unwrap();
        let storage = Storage::Folder(shared);
        let id = CastId::new(1, [0; 10]);
        let copier = EvidenceCopier::start(&storage, &id, folder.clone()).unwrap();
        let store = EvidenceStore::open(&storage).unwrap();
        let read = async |name: &str| store.read(id.as_str(), name, 100).await.unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cast.log"), "one\n").unwrap();
        fs::write(folder.join("01-freeze.png"), "picture").unwrap();
        fs::write(folder.join("notes.txt"), "no evidence").unwrap();
        fs::write(folder.join("empty.log"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("link.log")).unwrap();
        let began = Instant::now();
        while read("cast.log").await.is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "nothing is copied");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fs::write(folder.join("cast.log"), "one\ntwo\n").unwrap();
        copier.finish().await;
        assert_eq!(read("cast.log").await.as_deref(), Some(&b"one\ntwo\n"[..]));
        let mut files = store.list(id.as_str(), 10).await.unwrap();
        files.sort();
        assert_eq!(files, [("01-freeze.png".to_owned(), 7), ("cast.log".to_owned(), 8)]);
        fs::remove_dir_all(scratch).unwrap();
    }
}
