//! What a node does beside its casts: what is overdue or old goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pagecast_fleet::{CastId, Fleet};
use pagecast_media::disk;

/// How often the fleet is swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often space is reserved anew, for what was written meanwhile.
const RESERVE_INTERVAL: Duration = Duration::from_secs(2);
/// Space behind each file: some 500 commands and events, for a disk that stays full until somebody makes
/// room. With what a log of SQLite has by itself, it stays below the 4062 pages of 4 KiB for which SQLite
/// would need room in another file.
const RESERVE_BYTES: u64 = 8 << 20;
/// How often evidence of casts that are forgotten is looked for.
const EVIDENCE_CLEANUP_INTERVAL: Duration = Duration::from_secs(3600);

/// Sweeps and tidies for ever.
pub(super) async fn run(fleet: Arc<dyn Fleet>, evidence: PathBuf) {
    let mut tidied: Option<Instant> = None;
    loop {
        if let Err(error) = fleet.sweep().await {
            tracing::warn!(error = crate::chain(&error), "the fleet is not swept");
        }
        if tidied.is_none_or(|at| at.elapsed() >= EVIDENCE_CLEANUP_INTERVAL) {
            remove_stale_evidence(fleet.as_ref(), &evidence).await;
            tidied = Some(Instant::now());
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

/// Keeps space reserved behind files, for ever.
pub(super) async fn reserve_disk_space(files: Vec<PathBuf>) {
    loop {
        let files = files.clone();
        let reserved = tokio::task::spawn_blocking(move || {
            for file in files {
                // It is not there yet, or the disk is full and what was reserved before has to do.
                let _later = disk::preallocate(&file, RESERVE_BYTES);
            }
        });
        let _done = reserved.await;
        tokio::time::sleep(RESERVE_INTERVAL).await;
    }
}

/// Removes what is kept of casts that the fleet has forgotten.
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
            tracing::warn!(cast = %id, "the evidence of a cast that is forgotten stays");
        }
    }
}
