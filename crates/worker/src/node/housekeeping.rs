//! Housekeeping of a node: sweeps the fleet, removes stale evidence, and reserves disk space.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pagecast_fleet::{CastId, Error, Fleet};
use pagecast_media::disk;

/// How often the fleet is swept: deadlines of queued casts have whole seconds.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often the reserved space is renewed, for what was written meanwhile.
const RESERVE_INTERVAL: Duration = Duration::from_secs(2);
/// Space reserved behind each file, in bytes: some 500 commands and events, for a disk that stays full until
/// somebody frees space. With what SQLite's log reserves by itself, it stays below the 4062 pages of 4 KiB
/// for which SQLite would need room in another file.
const RESERVE_BYTES: u64 = 8 << 20;
/// How often evidence of deleted casts is removed: it is kept for days, so an hour more does not matter.
const EVIDENCE_CLEANUP_INTERVAL: Duration = Duration::from_secs(3600);

/// Sweeps the fleet and removes stale evidence, until aborted.
pub(super) async fn run(fleet: Arc<dyn Fleet>, evidence: PathBuf) {
    let mut last_cleanup: Option<Instant> = None;
    loop {
        if let Err(error) = sweep(fleet.as_ref()).await {
            tracing::warn!(error = crate::chain(&error), "fleet sweep failed");
        }
        if last_cleanup.is_none_or(|at| at.elapsed() >= EVIDENCE_CLEANUP_INTERVAL) {
            remove_stale_evidence(fleet.as_ref(), &evidence).await;
            last_cleanup = Some(Instant::now());
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

/// Sweeps the fleet if there is something to do.
async fn sweep(fleet: &dyn Fleet) -> Result<(), Error> {
    if fleet.pending_work().await?.needs_sweep { fleet.sweep().await } else { Ok(()) }
}

/// Keeps space reserved behind files, until aborted.
pub(super) async fn reserve_disk_space(files: Vec<PathBuf>) {
    loop {
        let files = files.clone();
        let reserved = tokio::task::spawn_blocking(move || {
            for file in files {
                // Fails if the file does not exist yet, or if the disk is full and earlier reserves must
                // suffice.
                let _retried = disk::preallocate(&file, RESERVE_BYTES);
            }
        });
        let _done = reserved.await;
        tokio::time::sleep(RESERVE_INTERVAL).await;
    }
}

/// Removes the evidence of casts that the fleet has deleted.
async fn remove_stale_evidence(fleet: &dyn Fleet, evidence: &Path) {
    let folder = evidence.to_owned();
    let listed = tokio::task::spawn_blocking(move || -> Vec<CastId> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| CastId::parse(entry.file_name().to_str()?).ok()).collect()
    });
    for id in listed.await.unwrap_or_default() {
        if !matches!(fleet.get(&id).await, Ok(None)) {
            continue;
        }
        let folder = evidence.join(id.as_str());
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::warn!(cast = %id, "cannot remove stale evidence");
        }
    }
}
