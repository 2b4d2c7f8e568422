//! The store of a fleet: copies of the closed segments of running recordings. Whoever finishes a recording on
//! another machine makes its files from them.

use std::collections::BTreeMap;
use std::time::Duration;

use pagecast_core::spec::Storage;
use serde::{Deserialize, Serialize};

use crate::store::{Error, Store, TransferConfig};

/// Part size of copies, in bytes. Segments are smaller, so that none is stored by a multipart upload, whose
/// parts would be left if its process is killed.
const PART_BYTES: u64 = 128 << 20;
/// Objects that are listed at once, some 100 bytes each.
const MAX_LISTED: usize = 100_000;

/// Most listings of one folder: more than a recording of a day needs, and an end if a listing is outdated.
const MAX_LISTINGS: usize = 20;

/// Where a fleet keeps copies of the segments of one cast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetStore {
    /// A bucket, or a folder that all machines share.
    pub storage: Storage,
    /// Folder of the cast in it.
    pub folder: String,
}

impl FleetStore {
    /// Opens the storage.
    pub(super) fn open(&self, transfer: TransferConfig) -> Result<Store, Error> {
        Store::open_with(&self.storage, TransferConfig { part_bytes: PART_BYTES, ..transfer })
    }

    /// Removes all copies of the cast. Returns how many there were.
    ///
    /// # Errors
    /// The folder cannot be listed, or one of the copies not removed.
    pub async fn clear(&self) -> Result<usize, Error> {
        let store = self.open(TransferConfig::default())?;
        let mut removed = 0;
        for _ in 0..MAX_LISTINGS {
            let listed = store.list(&self.folder, MAX_LISTED).await?;
            if listed.is_empty() {
                break;
            }
            for object in &listed {
                store.delete(&object.name).await?;
            }
            removed += listed.len();
        }
        store.remove_folder(&self.folder).await;
        Ok(removed)
    }
}

/// Folders of a fleet's store with copies, and how long ago the newest copy was stored. A very large store is
/// listed in part.
///
/// # Errors
/// The storage cannot be opened or listed.
pub async fn list_folders(storage: &Storage) -> Result<BTreeMap<String, Duration>, Error> {
    let listed = Store::open(storage)?.list("", MAX_LISTED).await?;
    let now = chrono::Utc::now().timestamp_millis();
    let mut folders = BTreeMap::<String, Duration>::new();
    for object in listed {
        let Some((folder, _)) = object.name.split_once('/') else { continue };
        let age = Duration::from_millis(u64::try_from(now - object.modified_ms).unwrap_or(0));
        folders.entry(folder.to_owned()).and_modify(|newest| *newest = age.min(*newest)).or_insert(age);
    }
    Ok(folders)
}
