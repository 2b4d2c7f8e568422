//! Files become objects: in a folder, a bucket or video on demand.
//!
//! A thing is stored when the storage has confirmed it: what was sent carries its checksum, and the size is
//! asked for afterwards. Storing the same bytes under the same name again changes nothing, so whoever calls
//! may simply try again; nothing is tried twice in here.

mod bucket;
mod error;
mod http;
mod local;
mod resolver;
pub mod tc3;
mod vod;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use pagecast_core::spec::{Storage, is_object_name};

pub use error::{Attempt, Error, ErrorClass};
pub use vod::VodAsset;

use bucket::BucketStore;
use local::LocalStore;
pub(crate) use local::parent_folder;
use vod::VodStore;

/// How long to wait, and in what pieces to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferConfig {
    /// For a connection.
    pub connect_timeout: Duration,
    /// For anything to move on a connection.
    pub stall_timeout: Duration,
    /// Bytes of a part of an upload; a file of up to so many is sent in one piece. Services want at least 5
    /// MiB.
    pub part_bytes: u64,
    /// Parts under way at a time. So many, and one more, are in memory.
    pub max_parallel_parts: usize,
}

impl Default for TransferConfig {
    fn default() -> Self {
        let (connect, stall) = (Duration::from_secs(5), Duration::from_secs(30));
        Self { connect_timeout: connect, stall_timeout: stall, part_bytes: 8 << 20, max_parallel_parts: 3 }
    }
}

/// What was stored, as the storage confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its size.
    pub bytes: u64,
    /// What the service calls this version of it; a folder has no such thing.
    pub etag: Option<String>,
    /// Where video on demand keeps it.
    pub vod_asset: Option<VodAsset>,
}

/// A place where files are kept.
#[derive(Debug)]
pub struct Store(Backend);

#[derive(Debug)]
enum Backend {
    Local(LocalStore),
    Bucket(Box<BucketStore>),
    Vod(Box<VodStore>),
}

impl Store {
    /// Prepares a way to this storage; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorBody::InvalidStorage`] or [`ErrorBody::OpenNotLoopback`].
    pub fn open(storage: &Storage) -> Result<Self, Error> {
        Self::open_with(storage, TransferConfig::default())
    }

    /// As [`Self::open`], with another pace.
    ///
    /// # Errors
    /// [`ErrorBody::InvalidStorage`] or [`ErrorBody::OpenNotLoopback`].
    pub fn open_with(storage: &Storage, pace: TransferConfig) -> Result<Self, Error> {
        storage.validate()?;
        Ok(Self(match storage {
            Storage::File(path) => Backend::Local(LocalStore::File(path.clone())),
            Storage::Folder(path) => Backend::Local(LocalStore::Folder(path.clone())),
            Storage::Bucket(bucket) => Backend::Bucket(Box::new(BucketStore::open(bucket, pace)?)),
            Storage::TencentVod(vod) => Backend::Vod(Box::new(VodStore::open(vod, pace)?)),
        }))
    }

    /// Stores a file under `name` and waits until that is confirmed. For a single file (`Storage::File`) any
    /// name means that file. For video on demand the file becomes a medium.
    ///
    /// # Errors
    /// Any [`ErrorBody`]; nothing half is to be seen under that name then, and parts that were sent are taken
    /// back.
    pub async fn put(&self, name: &str, file: &Path, content_type: &str) -> Result<StoredObject, Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().put(name, file).await,
            Backend::Bucket(remote) => remote.put(name, file, content_type).await,
            Backend::Vod(vod) => vod.put(name, &[(name, file)]).await,
        }
    }

    /// Stores a playlist with its segments as one medium of video on demand; `files` has all of them, with
    /// names that are relative to each other, the playlist at the end.
    ///
    /// # Errors
    /// As [`Self::put`]; [`ErrorBody::Permanent`] for any other storage.
    pub async fn put_playlist(&self, files: &[(&str, &Path)]) -> Result<StoredObject, Error> {
        for (name, _) in files {
            check_name(name)?;
        }
        let playlist = files.last().map_or("no playlist", |(name, _)| *name);
        match &self.0 {
            Backend::Vod(vod) if !files.is_empty() => vod.put(playlist, files).await,
            Backend::Local(_) | Backend::Bucket(_) | Backend::Vod(_) => {
                Err(self.unsupported("store as one medium", playlist))
            }
        }
    }

    /// Stores a small thing that will be replaced, like a playlist. `cache_control` says how long others may
    /// keep it, as in `max-age=2`.
    ///
    /// # Errors
    /// As [`Self::put`]; [`ErrorBody::Permanent`] for a single file and for video on demand.
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

    /// What is stored under `name`; `None` when there is nothing. Video on demand has no names to ask for.
    ///
    /// # Errors
    /// The storage does not say.
    pub async fn head(&self, name: &str) -> Result<Option<StoredObject>, Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().head(name).await,
            Backend::Bucket(remote) => remote.head(name).await,
            Backend::Vod(_) => Err(self.unsupported("look for", name)),
        }
    }

    /// Whether the storage answers at all, with whatever: one small request, for `name`, changes nothing.
    pub async fn is_reachable(&self, name: &str) -> bool {
        let answer = match &self.0 {
            Backend::Local(_) | Backend::Bucket(_) => self.head(name).await.map(drop),
            Backend::Vod(vod) => vod.probe().await,
        };
        answer.err().is_none_or(|error| error.class() != ErrorClass::Transient)
    }

    /// Takes something away that is not needed any more; nothing there is fine, too.
    ///
    /// # Errors
    /// It is still there, or that is not known.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        match &self.0 {
            Backend::Local(local) => local.clone().delete(name).await,
            Backend::Bucket(remote) => remote.delete(name).await,
            Backend::Vod(_) => Err(self.unsupported("delete", name)),
        }
    }

    /// Finds out whether things can be stored here, by storing and deleting one of a few bytes.
    ///
    /// # Errors
    /// Why not: [`ErrorClass::Denied`], [`ErrorClass::NotFound`] and so on.
    pub async fn probe(&self) -> Result<(), Error> {
        match &self.0 {
            Backend::Local(local) => local.clone().probe().await,
            Backend::Bucket(remote) => remote.probe().await,
            Backend::Vod(vod) => vod.probe().await,
        }
    }

    /// Takes back the parts of uploads that failed while the storage could not be reached, as each upload
    /// does before it begins. How many are left.
    pub async fn abort_orphaned_uploads(&self) -> usize {
        match &self.0 {
            Backend::Bucket(remote) => remote.abort_orphaned_uploads().await,
            Backend::Local(_) | Backend::Vod(_) => 0,
        }
    }

    /// The place in words, without anything secret.
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
        Error::Permanent(attempt, "this kind of storage has no such thing".into())
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if is_object_name(name) { Ok(()) } else { Err(Error::InvalidName(name.chars().take(64).collect())) }
}

/// Name of the object that [`Store::probe`] writes; of this process and moment, so that two do not meet.
fn probe_name() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("pagecast-probe-{}-{}-{n}", std::process::id(), now.as_nanos())
}
