//! Files become objects: in a folder, a bucket or video on demand.
//!
//! A thing is stored when the storage has confirmed it: what was sent carries its checksum, and the size is
//! asked for afterwards. Storing the same bytes under the same name again changes nothing, so whoever calls
//! may simply try again; nothing is tried twice in here.

mod bucket;
mod error;
mod guard;
mod http;
mod local;
pub mod tc3;
mod vod;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use pagecast_core::spec::{Storage, is_object_name};

pub use error::{Attempt, Class, Error};
pub use vod::Medium;

use bucket::Remote;
use local::Local;
pub(crate) use local::folder_of;
use vod::Vod;

/// How long to wait, and in what pieces to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For a connection.
    pub connect: Duration,
    /// For anything to move on a connection.
    pub stall: Duration,
    /// Bytes of a part of an upload; a file of up to so many is sent in one piece. Services want at least 5
    /// MiB.
    pub part_bytes: u64,
    /// Parts under way at a time. So many, and one more, are in memory.
    pub parallel: usize,
}

impl Default for Pace {
    fn default() -> Self {
        let (connect, stall) = (Duration::from_secs(5), Duration::from_secs(30));
        Self { connect, stall, part_bytes: 8 << 20, parallel: 3 }
    }
}

/// What was stored, as the storage confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its size.
    pub bytes: u64,
    /// What the service calls this version of it; a folder has no such thing.
    pub etag: Option<String>,
    /// Where video on demand keeps it.
    pub medium: Option<Medium>,
}

/// A place where files are kept.
#[derive(Debug)]
pub struct Store(Kind);

#[derive(Debug)]
enum Kind {
    Local(Local),
    Remote(Box<Remote>),
    Vod(Box<Vod>),
}

impl Store {
    /// Prepares a way to this storage; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Open`].
    pub fn open(storage: &Storage) -> Result<Self, Error> {
        Self::open_at(storage, Pace::default())
    }

    /// As [`Self::open`], with another pace.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Open`].
    pub fn open_at(storage: &Storage, pace: Pace) -> Result<Self, Error> {
        storage.check()?;
        Ok(Self(match storage {
            Storage::File(path) => Kind::Local(Local::File(path.clone())),
            Storage::Folder(path) => Kind::Local(Local::Folder(path.clone())),
            Storage::Bucket(bucket) => Kind::Remote(Box::new(Remote::open(bucket, pace)?)),
            Storage::TencentVod(vod) => Kind::Vod(Box::new(Vod::open(vod, pace)?)),
        }))
    }

    /// Stores a file under `name` and waits until that is confirmed. For a single file (`Storage::File`) any
    /// name means that file. For video on demand the file becomes a medium.
    ///
    /// # Errors
    /// Any [`Error`]; nothing half is to be seen under that name then, and parts that were sent are taken
    /// back.
    pub async fn put(&self, name: &str, file: &Path, content_type: &str) -> Result<Stored, Error> {
        named(name)?;
        match &self.0 {
            Kind::Local(local) => local.clone().put(name, file).await,
            Kind::Remote(remote) => remote.put(name, file, content_type).await,
            Kind::Vod(vod) => vod.put(name, &[(name, file)]).await,
        }
    }

    /// Stores a playlist with its segments as one medium of video on demand; `files` has all of them, with
    /// names that are relative to each other, the playlist at the end.
    ///
    /// # Errors
    /// As [`Self::put`]; [`Error::Refused`] for any other storage.
    pub async fn put_playlist(&self, files: &[(&str, &Path)]) -> Result<Stored, Error> {
        for (name, _) in files {
            named(name)?;
        }
        let playlist = files.last().map_or("no playlist", |(name, _)| *name);
        match &self.0 {
            Kind::Vod(vod) if !files.is_empty() => vod.put(playlist, files).await,
            Kind::Local(_) | Kind::Remote(_) | Kind::Vod(_) => {
                Err(self.cannot("store as one medium", playlist))
            }
        }
    }

    /// Stores a small thing that will be replaced, like a playlist. `cache_control` says how long others may
    /// keep it, as in `max-age=2`.
    ///
    /// # Errors
    /// As [`Self::put`]; [`Error::Refused`] for a single file and for video on demand.
    pub async fn put_bytes(
        &self,
        name: &str,
        bytes: Bytes,
        content_type: &str,
        cache_control: Option<&str>,
    ) -> Result<Stored, Error> {
        named(name)?;
        match &self.0 {
            Kind::Local(local @ Local::Folder(_)) => local.clone().put_bytes(name, bytes).await,
            Kind::Remote(remote) => remote.put_bytes(name, bytes, content_type, cache_control).await,
            Kind::Local(Local::File(_)) | Kind::Vod(_) => Err(self.cannot("store", name)),
        }
    }

    /// What is stored under `name`; `None` when there is nothing. Video on demand has no names to ask for.
    ///
    /// # Errors
    /// The storage does not say.
    pub async fn head(&self, name: &str) -> Result<Option<Stored>, Error> {
        named(name)?;
        match &self.0 {
            Kind::Local(local) => local.clone().head(name).await,
            Kind::Remote(remote) => remote.head(name).await,
            Kind::Vod(_) => Err(self.cannot("look for", name)),
        }
    }

    /// Whether the storage answers at all, with whatever: one small request, for `name`, changes nothing.
    pub async fn answers(&self, name: &str) -> bool {
        let answer = match &self.0 {
            Kind::Local(_) | Kind::Remote(_) => self.head(name).await.map(drop),
            Kind::Vod(vod) => vod.probe().await,
        };
        answer.err().is_none_or(|error| error.class() != Class::Transient)
    }

    /// Takes something away that is not needed any more; nothing there is fine, too.
    ///
    /// # Errors
    /// It is still there, or that is not known.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        named(name)?;
        match &self.0 {
            Kind::Local(local) => local.clone().delete(name).await,
            Kind::Remote(remote) => remote.delete(name).await,
            Kind::Vod(_) => Err(self.cannot("delete", name)),
        }
    }

    /// Finds out whether things can be stored here, by storing and deleting one of a few bytes.
    ///
    /// # Errors
    /// Why not: [`Class::Denied`], [`Class::Missing`] and so on.
    pub async fn probe(&self) -> Result<(), Error> {
        match &self.0 {
            Kind::Local(local) => local.clone().probe().await,
            Kind::Remote(remote) => remote.probe().await,
            Kind::Vod(vod) => vod.probe().await,
        }
    }

    /// Takes back the parts of uploads that failed while the storage could not be reached, as each upload
    /// does before it begins. How many are left.
    pub async fn tidy(&self) -> usize {
        match &self.0 {
            Kind::Remote(remote) => remote.tidy().await,
            Kind::Local(_) | Kind::Vod(_) => 0,
        }
    }

    /// The place in words, without anything secret.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.0 {
            Kind::Local(local) => local.place(),
            Kind::Remote(remote) => remote.place().to_owned(),
            Kind::Vod(vod) => vod.place().to_owned(),
        }
    }

    fn cannot(&self, verb: &'static str, name: &str) -> Error {
        let attempt = Attempt { verb, name: name.to_owned(), place: self.place() };
        Error::Refused(attempt, "this kind of storage has no such thing".into())
    }
}

fn named(name: &str) -> Result<(), Error> {
    if is_object_name(name) { Ok(()) } else { Err(Error::Name(name.chars().take(64).collect())) }
}

/// Name of the object that [`Store::probe`] writes; of this process and moment, so that two do not meet.
fn probe_name() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("pagecast-probe-{}-{}-{n}", std::process::id(), now.as_nanos())
}
