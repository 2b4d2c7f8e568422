//! The store of a fleet: copies of the closed segments of running recordings, from which whoever finishes a
//! recording on another machine makes its files, and evidence and logs of casts, which outlive their nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pagecast_core::spec::Storage;
use serde::{Deserialize, Serialize};

use crate::store::{Error, ListedObject, Store, TransferConfig};

/// Part size of copies, in bytes. Segments are smaller, so that none is stored by a multipart upload, whose
/// parts would be left if its process is killed.
const PART_BYTES: u64 = 128 << 20;
/// Objects that are listed at once, some 100 bytes each.
const MAX_LISTED: usize = 100_000;

/// Most listings of one folder: more than a recording of a day needs, and an end if a listing is outdated.
const MAX_LISTINGS: usize = 20;

/// Folder with the evidence and logs of all casts. Other folders are called like casts.
const EVIDENCE_FOLDER: &str = "evidence";

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
    let folders = folder_ages(&listed, "");
    Ok(folders.into_iter().filter(|(folder, _)| folder != EVIDENCE_FOLDER).collect())
}

/// Folders below `root`, which ends with a slash or is empty, with the ages of their newest objects.
fn folder_ages(listed: &[ListedObject], root: &str) -> BTreeMap<String, Duration> {
    let now = chrono::Utc::now().timestamp_millis();
    let mut folders = BTreeMap::<String, Duration>::new();
    for object in listed {
        let below = object.name.strip_prefix(root).and_then(|name| name.split_once('/'));
        let Some((folder, _)) = below else { continue };
        let age = Duration::from_millis(u64::try_from(now - object.modified_ms).unwrap_or(0));
        folders.entry(folder.to_owned()).and_modify(|newest| *newest = age.min(*newest)).or_insert(age);
    }
    folders
}

/// Evidence and logs of casts in the store of a fleet.
#[derive(Debug)]
pub struct EvidenceStore(Store);

impl EvidenceStore {
    /// Opens the storage without sending anything yet.
    ///
    /// # Errors
    /// The storage cannot be opened.
    pub fn open(storage: &Storage) -> Result<Self, Error> {
        Store::open(storage).map(Self)
    }

    /// Stores a file of a cast, or replaces it.
    ///
    /// # Errors
    /// The storage refuses it.
    pub async fn put(&self, cast: &str, file: &str, content: Bytes) -> Result<(), Error> {
        let content_type = if file.ends_with(".png") { "image/png" } else { "text/plain; charset=utf-8" };
        self.0.put_bytes(&object_name(cast, file), content, content_type, None).await.map(drop)
    }

    /// Names and sizes of the files of a cast, at most `max`.
    ///
    /// # Errors
    /// The storage cannot be listed.
    pub async fn list(&self, cast: &str, max: usize) -> Result<Vec<(String, u64)>, Error> {
        let folder = object_name(cast, "");
        let listed = self.0.list(folder.trim_end_matches('/'), max).await?;
        let file = |object: ListedObject| Some((object.name.strip_prefix(&folder)?.to_owned(), object.bytes));
        Ok(listed.into_iter().filter_map(file).collect())
    }

    /// Reads a file of a cast; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or has more than `max_bytes`.
    pub async fn read(&self, cast: &str, file: &str, max_bytes: usize) -> Result<Option<Bytes>, Error> {
        self.0.get(&object_name(cast, file), max_bytes).await
    }

    /// Casts with files, in the order of their names, each with the age of its newest file. A very large
    /// store is listed in part.
    ///
    /// # Errors
    /// The storage cannot be listed.
    pub async fn casts(&self) -> Result<BTreeMap<String, Duration>, Error> {
        let listed = self.0.list(EVIDENCE_FOLDER, MAX_LISTED).await?;
        Ok(folder_ages(&listed, &format!("{EVIDENCE_FOLDER}/")))
    }

    /// Removes the files of a cast.
    ///
    /// # Errors
    /// The folder cannot be listed, or one of the files not removed.
    pub async fn remove(&self, cast: &str) -> Result<(), Error> {
        let folder = object_name(cast, "");
        let folder = folder.trim_end_matches('/');
        for object in self.0.list(folder, MAX_LISTED).await? {
            self.0.delete(&object.name).await?;
        }
        self.0.remove_folder(folder).await;
        Ok(())
    }
}

fn object_name(cast: &str, file: &str) -> String {
    format!("{EVIDENCE_FOLDER}/{cast}/{file}")
}
