//! Copies in the store of the fleet: where those of a cast are, and when they and evidence are removed.

use std::sync::Arc;
use std::time::Duration;

use pagecast_core::spec::Storage;
use pagecast_fleet::{Cast, CastId, Fleet};
use pagecast_media::record::fleet_store::list_folders;
use pagecast_media::record::{EvidenceStore, FleetStore};

/// Time between two sweeps of the store: copies are normally removed when their cast is closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Age at which copies of a cast that the fleet does not know are removed. The fleet knows its casts for
/// days; this protects the copies of another fleet that uses the same folder by mistake.
const MIN_UNKNOWN_AGE: Duration = Duration::from_secs(86_400);
/// Casts of which evidence is kept after which a sweep ends: each is a query, and only a few that ran for
/// long are older than those that can be deleted.
const MAX_KNOWN_CASTS: usize = 200;
/// Longest time for removing the copies of a cast that is closed. The next sweep removes the rest.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns where the copies of a cast are.
pub(super) fn of_cast(storage: Storage, id: &CastId) -> FleetStore {
    FleetStore { storage, folder: id.as_str().to_owned() }
}

/// Removes the copies of a cast.
pub(super) async fn clear(copies: &FleetStore) {
    let folder = &copies.folder;
    match tokio::time::timeout(CLEAR_TIMEOUT, copies.clear()).await {
        Ok(Ok(removed)) => tracing::debug!(folder, removed, "copies removed from the fleet's store"),
        Ok(Err(error)) => {
            let error = crate::chain(&error);
            tracing::warn!(folder, error, "copies not removed from the fleet's store, retrying later");
        }
        Err(_) => tracing::warn!(folder, "removal of copies from the fleet's store took too long"),
    }
}

/// Removes copies of casts that are closed, and evidence of those that the fleet has deleted, at the start
/// and then each hour, until aborted: their node may have died before it did, or woken up after it.
pub(super) async fn run(storage: Option<Storage>, fleet: Arc<dyn Fleet>) {
    let Some(storage) = storage else { return std::future::pending().await };
    loop {
        match list_folders(&storage).await {
            Ok(folders) => {
                for (folder, age) in folders {
                    let Ok(id) = CastId::parse(&folder) else { continue };
                    if fleet.get(&id).await.is_ok_and(|cast| are_unneeded(cast.as_ref(), age)) {
                        clear(&of_cast(storage.clone(), &id)).await;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = crate::chain(&error), "cannot list the fleet's store");
            }
        }
        if let Err(error) = clear_evidence(&storage, fleet.as_ref()).await {
            tracing::warn!(error = crate::chain(&error), "cannot remove evidence from the fleet's store");
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

/// Removes evidence and logs of casts that the fleet has deleted, the oldest first.
async fn clear_evidence(storage: &Storage, fleet: &dyn Fleet) -> Result<(), pagecast_media::store::Error> {
    let store = EvidenceStore::open(storage)?;
    let mut known = 0;
    for (cast, age) in store.casts().await? {
        let Ok(id) = CastId::parse(&cast) else { continue };
        match fleet.get(&id).await {
            Ok(None) if age >= MIN_UNKNOWN_AGE => store.remove(&cast).await?,
            Ok(_) | Err(_) => known += 1,
        }
        // Later casts have larger ids, and are deleted later.
        if known >= MAX_KNOWN_CASTS {
            break;
        }
    }
    Ok(())
}

/// Returns whether the copies of a cast are not needed any more; the newest has this age.
fn are_unneeded(cast: Option<&Cast>, age: Duration) -> bool {
    let Some(cast) = cast else { return age >= MIN_UNKNOWN_AGE };
    // A recording that is not stored is left in a spool, which may need them.
    let spool = cast.report.as_ref().map(|report| &report["recording"]["spool"]);
    cast.closed && spool.map_or(age >= MIN_UNKNOWN_AGE, serde_json::Value::is_null)
}
