//! Spools that are left in the data folder: of casts that other nodes went on with, or that were closed
//! before all was stored. What is in them is stored, and what is stored is reported when the cast is closed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pagecast_fleet::{Cast, CastId, EventKind, Fleet, WorkerId};
use pagecast_media::record::Spool;
use tokio::task::JoinSet;

use super::data_folder::DataFolder;
use super::event_mapper::stored_later_event;
use super::{Config, fleet_store, job};
use crate::cast::{Assignment, StopToken, UploadReport};
use crate::process::Process;

/// How often the data folder is searched: casts go to other nodes at any time.
const SEARCH_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two attempts to store the same spool.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);
/// Spools that are stored at a time, each by a process of its own.
const MAX_CONCURRENT: usize = 2;
/// Longest time for storing a spool; the next attempt goes on where it ended.
const MAX_STORE_TIME: Duration = Duration::from_secs(3600);
/// Ending of receipts of such spools, after the name of the spool.
const RECEIPT_SUFFIX: &str = ".left.json";
/// Events that are read at a time.
const EVENT_PAGE: usize = 1000;

/// A spool that is left.
#[derive(Debug, Clone)]
struct LeftSpool {
    folder: PathBuf,
    cast: CastId,
    /// It was moved aside for the spool of a later owner.
    is_aside: bool,
}

/// What to do with a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Its cast is not over, and belongs to this node or to nobody.
    Keep,
    /// Store it as the last owner.
    Finish,
    /// Store what the later owner does not have.
    StoreRemainder,
}

/// Stores spools that are left, until aborted.
pub(super) async fn run(config: Config, fleet: Arc<dyn Fleet>) {
    let data = DataFolder::new(config.data.clone());
    let mut attempts: BTreeMap<PathBuf, Instant> = BTreeMap::new();
    let mut at_start = true;
    loop {
        let mut storing = JoinSet::new();
        for spool in left_spools(&data).await {
            let is_recent = attempts.get(&spool.folder).is_some_and(|at| at.elapsed() < RETRY_INTERVAL);
            if is_recent || Spool::is_busy(&spool.folder) {
                continue;
            }
            let Ok(Some(cast)) = fleet.get(&spool.cast).await else { continue };
            let action = action(&spool, &cast, &config.worker, at_start);
            if action == Action::Keep {
                continue;
            }
            attempts.insert(spool.folder.clone(), Instant::now());
            if storing.len() >= MAX_CONCURRENT {
                let _stored = storing.join_next().await;
            }
            storing.spawn(store(config.clone(), spool, cast, action));
        }
        while storing.join_next().await.is_some() {}
        attempts.retain(|folder, _| folder.exists());
        report_stored(&data, fleet.as_ref(), &config).await;
        at_start = false;
        tokio::time::sleep(SEARCH_INTERVAL).await;
    }
}

/// Spools in the data folder, named by the ids of their casts.
async fn left_spools(data: &DataFolder) -> Vec<LeftSpool> {
    let entries = read_names(data.spools()).await.into_iter();
    let spool = |(folder, name): (PathBuf, String)| {
        let (id, is_aside) = name.split_once('.').map_or((name.as_str(), false), |(id, _)| (id, true));
        Some(LeftSpool { cast: CastId::parse(id).ok()?, folder, is_aside })
    };
    entries.filter_map(spool).collect()
}

/// Paths and names of the entries of a folder.
async fn read_names(folder: PathBuf) -> Vec<(PathBuf, String)> {
    let listed = tokio::task::spawn_blocking(move || -> Vec<_> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let named = |entry: std::fs::DirEntry| Some((entry.path(), entry.file_name().into_string().ok()?));
        entries.filter_map(named).collect()
    });
    listed.await.unwrap_or_default()
}

/// Decides what to do with a spool.
fn action(spool: &LeftSpool, cast: &Cast, node: &WorkerId, at_start: bool) -> Action {
    if cast.spec.recording.is_none() {
        return Action::Keep;
    }
    if spool.is_aside {
        return Action::StoreRemainder;
    }
    let Ok(newest) = Spool::newest_epoch(&spool.folder) else { return Action::Keep };
    let is_older = newest.is_none_or(|newest| newest < cast.epoch);
    let is_elsewhere = cast.worker.as_ref().is_some_and(|owner| owner != node);
    match (cast.closed, is_older) {
        (true, true) => Action::StoreRemainder,
        // Afterwards it is left to `pagecast recover`.
        (true, false) if at_start => Action::Finish,
        (false, true) if is_elsewhere => Action::StoreRemainder,
        _ => Action::Keep,
    }
}

/// Stores a spool.
async fn store(config: Config, spool: LeftSpool, cast: Cast, action: Action) {
    let LeftSpool { folder, cast: id, .. } = spool;
    let superseded = action == Action::StoreRemainder;
    let moved = if superseded { Spool::supersede(&folder) } else { Ok(Some(folder.clone())) };
    let folder = match moved {
        Ok(Some(folder)) => folder,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(cast = %id, error = crate::chain(&error), "spool of an earlier cast not usable");
            return;
        }
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let data = DataFolder::new(config.data.clone());
    let mut assignment = job::assignment(&data, &cast, Vec::new());
    assignment.is_left = true;
    assignment.paths.spool.clone_from(&folder);
    assignment.paths.receipt = Some(data.receipts().join(format!("{name}{RECEIPT_SUFFIX}")));
    assignment.store = config.store.clone().map(|store| fleet_store::of_cast(store, &id));
    let copies = assignment.store.clone().filter(|_| !superseded && cast.closed);
    tracing::info!(cast = %id, spool = %folder.display(), "storing what is left in a spool");
    let stored = tokio::time::timeout(MAX_STORE_TIME, run_process(config.program.clone(), assignment)).await;
    match stored {
        Ok(true) => {
            tracing::info!(cast = %id, "stored what was left in a spool");
            if let Some(copies) = copies {
                fleet_store::clear(&copies).await;
            }
        }
        Ok(false) | Err(_) => {
            tracing::warn!(cast = %id, spool = %folder.display(), "spool not stored, retrying later");
        }
    }
}

/// Stores a spool in a process of its own. Returns whether all of it is stored. The process is killed if the
/// returned future is dropped.
async fn run_process(program: PathBuf, assignment: Assignment) -> bool {
    /// Kills the process when it is dropped.
    struct KillOnDrop(StopToken);
    impl Drop for KillOnDrop {
        fn drop(&mut self) {
            self.0.abandon();
        }
    }
    let stop = KillOnDrop(StopToken::default());
    let (sender, done) = tokio::sync::oneshot::channel();
    let token = stop.0.clone();
    let thread = std::thread::Builder::new().name("left-spool".into()).spawn(move || {
        let process = Process::start_with_log(&program).map(Process::exiting_on_disconnect);
        let stored = process.is_ok_and(|process| {
            let outcome = process.finish(&assignment, &token, |_| {});
            let recording = outcome.report.and_then(|report| report.recording);
            recording.is_some_and(|recording| recording.spool.is_none())
        });
        // Nobody waits any more after a timeout.
        let _dropped = sender.send(stored);
    });
    thread.is_ok() && done.await.unwrap_or(false)
}

/// Reports what was stored of casts that are closed.
async fn report_stored(data: &DataFolder, fleet: &dyn Fleet, config: &Config) {
    for (path, name) in read_names(data.receipts()).await {
        let Some(spool) = name.strip_suffix(RECEIPT_SUFFIX) else { continue };
        let (id, is_aside) = spool.split_once('.').map_or((spool, false), |(id, _)| (id, true));
        let Ok(id) = CastId::parse(id) else { continue };
        match fleet.get(&id).await {
            Ok(Some(cast)) if cast.closed => {
                if let Err(error) = report_receipt(fleet, &id, &path, &config.worker, is_aside).await {
                    tracing::warn!(cast = %id, error = crate::chain(&error), "report failed, retrying");
                    continue;
                }
            }
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => continue,
        }
        // The next pass would report it again.
        let _missing = std::fs::remove_file(&path);
    }
}

async fn report_receipt(
    fleet: &dyn Fleet,
    id: &CastId,
    receipt: &Path,
    node: &WorkerId,
    is_aside: bool,
) -> Result<(), pagecast_fleet::Error> {
    let Some(upload) = UploadReport::read(receipt).filter(|upload| !upload.files.is_empty()) else {
        return Ok(());
    };
    let mut before = None;
    let mut after = 0;
    loop {
        let events = fleet.events(id, after, EVENT_PAGE).await?;
        let Some(last) = events.last() else { break };
        after = last.seq;
        let mut kinds = events.into_iter().map(|event| event.kind);
        before = kinds.rfind(|kind| matches!(kind, EventKind::Stored { .. })).or(before);
    }
    let event = stored_later_event(before.as_ref(), &upload, &node.0, is_aside);
    if before.as_ref() == Some(&event) { Ok(()) } else { fleet.report_stored_later(id, event).await }
}

#[cfg(test)]
mod tests {
    use pagecast_core::CastSpec;
    use pagecast_core::spec::{Recording, Source, SourceUrl, Storage};
    use pagecast_fleet::CastState;

    use super::*;

    fn cast(closed: bool, worker: Option<&str>, epoch: u64) -> Cast {
        let mut spec = CastSpec::new(Source::new(SourceUrl::parse("http://a/").unwrap()));
        spec.recording = Some(Recording::new("rec", Storage::Folder("out".into())));
        Cast {
            id: CastId::new(1, [0; 10]),
            app: String::new(),
            api: String::new(),
            key: None,
            request: serde_json::Value::Null,
            spec,
            state: CastState::Ended,
            end: None,
            created_ms: 0,
            started_ms: None,
            live_ms: Some(1),
            ended_ms: None,
            stop_requested: false,
            closed,
            worker: worker.map(|name| WorkerId(name.to_owned())),
            epoch,
            report: None,
            events_dropped: 0,
        }
    }

    #[test]
    fn only_spools_that_nobody_uses_are_stored() {
        let folder = std::env::temp_dir().join(format!("pagecast-left-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let run = r#"{"run":{"index":0,"epoch":2,"unix_ms":1,"tick":1}}"#;
        std::fs::write(folder.join("recorded.log"), format!("{run}\n")).unwrap();
        let spool = |is_aside| LeftSpool { folder: folder.clone(), cast: CastId::new(1, [0; 10]), is_aside };
        let node = WorkerId("node-a".to_owned());
        for (closed, worker, epoch, at_start, expected) in [
            (false, Some("node-a"), 2, true, Action::Keep),
            (false, None, 2, true, Action::Keep),
            (false, Some("node-a"), 3, true, Action::Keep),
            (false, None, 3, true, Action::Keep),
            (false, Some("node-b"), 3, false, Action::StoreRemainder),
            (true, None, 3, false, Action::StoreRemainder),
            (true, None, 2, true, Action::Finish),
            (true, None, 2, false, Action::Keep),
        ] {
            let cast = cast(closed, worker, epoch);
            assert_eq!(action(&spool(false), &cast, &node, at_start), expected, "{cast:?} {at_start}");
        }
        assert_eq!(
            action(&spool(true), &cast(false, Some("node-a"), 3), &node, false),
            Action::StoreRemainder
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
