//! Recordings in their storages, as the REST API reads them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_core::spec::Storage;
use pagecast_fleet::Cast;
use pagecast_media::store::Store;
use pagecast_server::config::Config;
use pagecast_server::{RecordingReader, StoredRecordings};

/// Recordings of the casts of a service.
#[derive(Debug)]
struct Recordings {
    /// Folder that relative folders of recordings are in.
    data: PathBuf,
}

/// Files of one recording: all objects in a folder of the storage.
#[derive(Debug)]
struct Reader {
    store: Store,
    folder: String,
    is_local: bool,
}

/// Gives access to recordings in folders of this machine and in buckets.
pub(super) fn open(config: &Config) -> Arc<dyn StoredRecordings> {
    Arc::new(Recordings { data: config.data.clone() })
}

impl StoredRecordings for Recordings {
    fn open(&self, cast: &Cast, backup: bool) -> io::Result<Arc<dyn RecordingReader>> {
        let recording = cast.spec.recording.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let storage = if backup { recording.backup.as_ref() } else { Some(&recording.to) };
        let storage = match storage.ok_or(io::ErrorKind::NotFound)? {
            Storage::Folder(path) => Storage::Folder(self.data.join(path)),
            Storage::Bucket(bucket) => Storage::Bucket(bucket.clone()),
            Storage::File(_) | Storage::TencentVod(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let is_local = matches!(storage, Storage::Folder(_));
        let store = Store::open(&storage).map_err(io::Error::other)?;
        Ok(Arc::new(Reader { store, folder: recording.name.clone(), is_local }))
    }
}

#[async_trait]
impl RecordingReader for Reader {
    async fn read(&self, name: &str, from: u64, max: usize) -> io::Result<Option<(Bytes, u64)>> {
        let name = format!("{}/{name}", self.folder);
        self.store.read_range(&name, from, max).await.map_err(io::Error::other)
    }

    fn is_local(&self) -> bool {
        self.is_local
    }
}
