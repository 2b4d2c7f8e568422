//! Stores files as objects: in a folder, a bucket or a video-on-demand service.
//!
//! An object counts as stored when the storage has confirmed it: requests carry a checksum, and the size is
//! checked afterwards. Storing the same bytes under the same name again is idempotent, so callers may retry.
//! Nothing is retried here.

mod bucket;
mod error;
mod http;
mod local;
mod multipart;
mod resolver;
mod vod;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pagecast_core::spec::{Storage, is_object_name};
use serde::{Deserialize, Serialize};

pub use error::{Attempt, Error, ErrorClass};
pub use vod::VodAsset;

use bucket::BucketStore;
use local::LocalStore;
pub(crate) use local::parent_folder;
use vod::VodStore;

/// Timeouts and part sizes of transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferConfig {
    /// Longest time for a connection to be established.
    pub connect_timeout: Duration,
    /// Longest time without progress on a connection.
    pub stall_timeout: Duration,
    /// Size of a part of a multipart upload, in bytes; smaller files are sent in one request. Services
    /// require at least 5 MiB.
    pub part_bytes: u64,
    /// Parts in flight at a time. One more is held in memory.
    pub max_parallel_parts: usize,
}

impl Default for TransferConfig {
    fn default() -> Self {
        let (connect_timeout, stall_timeout) = (Duration::from_secs(5), Duration::from_secs(30));
        // 8 MiB: above the services' minimum, and 32 MiB of memory for each upload.
        Self { connect_timeout, stall_timeout, part_bytes: 8 << 20, max_parallel_parts: 3 }
    }
}

/// A stored object, as the storage confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Size in bytes.
    pub bytes: u64,
    /// Entity tag of this version; `None` in folders.
    pub etag: Option<String>,
    /// The asset that a video-on-demand service made of it.
    pub vod_asset: Option<VodAsset>,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedObject {
    /// Name in the storage, with its folders.
    pub(crate) name: String,
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// When it was stored, in ms since 1970.
    pub(crate) modified_ms: i64,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnfinishedUpload {
    /// Key of the object in its bucket.
    pub(crate) key: String,
    /// The service's id of the upload. `None`: it was requested, and the service may have created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upload_id: Option<String>,
}

/// Records multipart uploads, so that the next process can abort those of a killed one.
pub(crate) trait UploadJournal: Send + Sync {
    /// Records an upload before it is requested, and again with its id before its first part is sent. An
    /// error fails the upload.
    fn started(&self, upload: &UnfinishedUpload) -> std::io::Result<()>;
    /// Records that an upload was completed or aborted.
    fn ended(&self, upload: &UnfinishedUpload);
}

/// How a storage arranges the files of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// The first MP4 file has this path, others get a number.
    SingleFile(PathBuf),
    /// All files are objects in a folder called like the recording.
    Folder,
    /// Each file becomes an asset; a playlist is stored with its segments as one asset. There are no names to
    /// look up, and nothing can be replaced.
    Assets,
}

/// An open storage.
#[derive(Debug)]
pub struct Store(Backend);

#[derive(Debug)]
enum Backend {
    Local(LocalStore),
    Bucket(Box<BucketStore>),
    Vod(Box<VodStore>),
}

impl Store {
    /// Opens a storage without sending anything yet.
    ///
    /// # Errors
    /// [`Error::InvalidStorage`] or [`Error::Open`].
    pub fn open(storage: &Storage) -> Result<Self, Error> {
        Self::open_with(storage, TransferConfig::default())
    }

    /// Opens a storage as [`Self::open`] does, with other timeouts and part sizes.
    ///
    /// # Errors
    /// [`Error::InvalidStorage`] or [`Error::Open`].
    pub fn open_with(storage: &Storage, transfer: TransferConfig) -> Result<Self, Error> {
        storage.validate()?;
        Ok(Self(match storage {
            Storage::File(path) => Backend::Local(LocalStore::File(path.clone())),
            Storage::Folder(path) => Backend::Local(LocalStore::Folder(path.clone())),
            Storage::Bucket(bucket) => Backend::Bucket(Box::new(BucketStore::open(bucket, transfer)?)),
            Storage::TencentVod(vod) => Backend::Vod(Box::new(VodStore::open(vod, transfer)?)),
        }))
    }

    /// Stores a file under `name` and waits for the confirmation. A single file (`Storage::File`) ignores the
    /// name. In video on demand the file becomes an asset.
    ///
    /// # Errors
    /// Any [`Error`]. No partial object is visible then, and uploaded parts are aborted.
    pub async fn put(&self, name: &str, file: &Path, content_type: &str) -> Result<StoredObject, Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().put(name, file).await,
            Backend::Bucket(remote) => remote.put(name, file, content_type).await,
            Backend::Vod(vod) => vod.put(name, &[(name, file)]).await,
        }
    }

    /// Stores a playlist with its segments as one asset. The last of `files` is the playlist; the names of
    /// the segments are relative to the same root.
    ///
    /// # Errors
    /// As [`Self::put`]; [`Error::Permanent`] if the storage has no assets ([`Self::is_single_asset`]).
    pub async fn put_playlist(&self, files: &[(&str, &Path)]) -> Result<StoredObject, Error> {
        for (name, _) in files {
            check_name(name)?;
        }
        let playlist = files.last().map_or("no playlist", |(name, _)| *name);
        match &self.0 {
            Backend::Vod(vod) if !files.is_empty() => vod.put(playlist, files).await,
            Backend::Local(_) | Backend::Bucket(_) | Backend::Vod(_) => {
                Err(self.unsupported("store as one asset", playlist))
            }
        }
    }

    /// Stores a small object that will be replaced, like a playlist. `cache_control` is the header's value,
    /// for example `max-age=2`.
    ///
    /// # Errors
    /// As [`Self::put`]; [`Error::Permanent`] for a single file and for video on demand.
    pub async fn put_bytes(
        &self,
        name: &str,
        bytes: Bytes,
        content_type: &str,
        cache_control: Option<&str>,
    ) -> Result<StoredObject, Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local @ LocalStore::Folder(_)) => local.clone().put_bytes(name, bytes).await,
            Backend::Bucket(remote) => remote.put_bytes(name, bytes, content_type, cache_control).await,
            Backend::Local(LocalStore::File(_)) | Backend::Vod(_) => Err(self.unsupported("store", name)),
        }
    }

    /// Looks up the object `name`; `None` if there is none. Not supported by video on demand.
    ///
    /// # Errors
    /// The lookup failed.
    pub async fn head(&self, name: &str) -> Result<Option<StoredObject>, Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().head(name).await,
            Backend::Bucket(remote) => remote.head(name).await,
            Backend::Vod(_) => Err(self.unsupported("look up", name)),
        }
    }

    /// Reads a small object, like a playlist; `None` if there is none. Not supported by video on demand.
    ///
    /// # Errors
    /// The object cannot be read, or has more than `max_bytes`.
    pub async fn get(&self, name: &str, max_bytes: usize) -> Result<Option<Bytes>, Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().get(name, max_bytes).await,
            Backend::Bucket(remote) => remote.get(name, max_bytes).await,
            Backend::Vod(_) => Err(self.unsupported("read", name)),
        }
    }

    /// Reads at most `max` bytes of an object from this offset, and its size; `None` if there is no such
    /// object. Behind the end there are no bytes. Not supported by video on demand.
    ///
    /// # Errors
    /// The object cannot be read.
    pub async fn read_range(&self, name: &str, from: u64, max: usize) -> Result<Option<(Bytes, u64)>, Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().read_range(name, from, max).await,
            Backend::Bucket(remote) => remote.read_range(name, from, max).await,
            Backend::Vod(_) => Err(self.unsupported("read", name)),
        }
    }

    /// Writes the object `name` to a file as it arrives, and stops after `max_bytes`. Returns how many bytes
    /// have arrived, more than `max_bytes` if the object is larger; `None` if there is no such object. Not
    /// supported by video on demand.
    ///
    /// # Errors
    /// The object cannot be read, or the file cannot be written.
    pub(crate) async fn download(
        &self,
        name: &str,
        to: std::fs::File,
        max_bytes: u64,
    ) -> Result<Option<u64>, Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().download(name, to, max_bytes).await,
            Backend::Bucket(remote) => remote.download(name, to, max_bytes).await,
            Backend::Vod(_) => Err(self.unsupported("read", name)),
        }
    }

    /// Lists objects in a folder and the folders below it, at most `max`; an empty name is the whole storage.
    /// Not supported by video on demand.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub(crate) async fn list(&self, folder: &str, max: usize) -> Result<Vec<ListedObject>, Error> {
        if !folder.is_empty() {
            check_name(folder)?;
        }
        match &self.0 {
            Backend::Local(local) => local.clone().list(folder, max).await,
            Backend::Bucket(remote) => remote.list(folder, max).await,
            Backend::Vod(_) => Err(self.unsupported("list", folder)),
        }
    }

    /// Removes a folder without objects. Buckets have no folders.
    pub(crate) async fn remove_folder(&self, folder: &str) {
        if let Backend::Local(local) = &self.0
            && check_name(folder).is_ok()
        {
            local.clone().remove_folder(folder).await;
        }
    }

    /// Whether the storage is a file or folder of this machine.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.0, Backend::Local(_))
    }

    /// Whether the storage responds at all, even with an error. Sends one small read-only request for `name`.
    pub async fn is_reachable(&self, name: &str) -> bool {
        let response = match &self.0 {
            Backend::Local(_) | Backend::Bucket(_) => self.head(name).await.map(drop),
            Backend::Vod(vod) => vod.probe().await,
        };
        response.err().is_none_or(|error| error.class() != ErrorClass::Transient)
    }

    /// Deletes an object, if it exists.
    ///
    /// # Errors
    /// The object still exists, or its state is unknown.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().delete(name).await,
            Backend::Bucket(remote) => remote.delete(name).await,
            Backend::Vod(_) => Err(self.unsupported("delete", name)),
        }
    }

    /// Checks that objects can be stored, by storing and deleting a small one.
    ///
    /// # Errors
    /// Why nothing can be stored: [`ErrorClass::Denied`], [`ErrorClass::NotFound`] and so on.
    pub async fn probe(&self) -> Result<(), Error> {
        match &self.0 {
            Backend::Local(local) => local.clone().probe().await,
            Backend::Bucket(remote) => remote.probe().await,
            Backend::Vod(vod) => vod.probe().await,
        }
    }

    /// Sets the journal of multipart uploads. Only buckets whose uploads have an id use it.
    pub(crate) fn set_upload_journal(&mut self, journal: Arc<dyn UploadJournal>) {
        if let Backend::Bucket(remote) = &mut self.0 {
            remote.set_journal(journal);
        }
    }

    /// Takes over multipart uploads that an earlier process started and did not end;
    /// [`Self::abort_orphaned_uploads`] aborts them.
    pub(crate) fn adopt_uploads(&self, uploads: Vec<UnfinishedUpload>) {
        if let Backend::Bucket(remote) = &self.0 {
            remote.adopt_uploads(uploads);
        }
    }

    /// Aborts multipart uploads that failed while the storage was not reachable, and those of an earlier
    /// process. Each upload does so first. Returns how many are left.
    pub async fn abort_orphaned_uploads(&self) -> usize {
        match &self.0 {
            Backend::Bucket(remote) => remote.abort_orphaned_uploads().await,
            Backend::Local(_) | Backend::Vod(_) => 0,
        }
    }

    /// How the files of a recording are arranged.
    pub(crate) fn layout(&self) -> Layout {
        match &self.0 {
            Backend::Local(LocalStore::File(path)) => Layout::SingleFile(path.clone()),
            Backend::Local(LocalStore::Folder(_)) | Backend::Bucket(_) => Layout::Folder,
            Backend::Vod(_) => Layout::Assets,
        }
    }

    /// Whether a playlist is stored together with its segments, as one asset.
    #[must_use]
    pub fn is_single_asset(&self) -> bool {
        self.layout() == Layout::Assets
    }

    /// The folder of the recording `name`: an absolute path, an address like `s3://BUCKET/PREFIX/NAME`, or,
    /// for assets, the storage in words. Also the endpoint of a bucket, if it is not the service's own.
    pub(crate) fn recording_location(&self, name: &str) -> (String, Option<String>) {
        match &self.0 {
            Backend::Local(LocalStore::File(path)) => (absolute_path(parent_folder(path)), None),
            Backend::Local(LocalStore::Folder(folder)) => (absolute_path(&folder.join(name)), None),
            Backend::Bucket(remote) => remote.recording_location(name),
            Backend::Vod(vod) => (vod.location().to_owned(), None),
        }
    }

    /// The storage in words, without secrets.
    #[must_use]
    pub fn location(&self) -> String {
        match &self.0 {
            Backend::Local(local) => local.location(),
            Backend::Bucket(remote) => remote.location().to_owned(),
            Backend::Vod(vod) => vod.location().to_owned(),
        }
    }

    fn unsupported(&self, verb: &'static str, name: &str) -> Error {
        let attempt = Attempt { verb, name: name.to_owned(), location: self.location() };
        Error::Permanent(attempt, "not supported by this kind of storage".into())
    }
}

/// An absolute path in words: its reader may have another working directory.
fn absolute_path(path: &Path) -> String {
    std::path::absolute(path).as_deref().unwrap_or(path).display().to_string()
}

/// Reason for which an object is not read.
fn too_large(max_bytes: usize) -> String {
    format!("it has more than {max_bytes} bytes")
}

fn check_name(name: &str) -> Result<(), Error> {
    if is_object_name(name) { Ok(()) } else { Err(Error::InvalidName(name.chars().take(64).collect())) }
}

/// Name of the object that [`Store::probe`] writes: unique by process id, time and a counter.
fn probe_name() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("pagecast-probe-{}-{}-{n}", std::process::id(), now.as_nanos())
}
