//! Fetches segments of earlier owners into the spool, and assembles files of them, one segment at a time.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pagecast_core::ledger::Segment;

use super::super::assemble::{self, Mp4Writer};
use super::super::spool::{Origin, Spool};
use super::machine::JobError;
use super::uploader::{blocking, file_size, spool_error};
use crate::chain;
use crate::store::{ErrorClass, Store};

/// The store of the fleet, open, and the folder of the cast in it.
#[derive(Debug, Clone)]
pub(super) struct OpenFleetStore {
    pub(super) store: Arc<Store>,
    pub(super) folder: String,
}

impl OpenFleetStore {
    /// Object name of a file of the spool.
    pub(super) fn object_name(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

/// Where a segment is after [`SegmentFetcher::fetch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetched {
    /// In the spool.
    InSpool,
    /// Nowhere: its storage does not have it, or has something else.
    Lost,
}

/// Fetches segments that are not in the spool.
#[derive(Debug, Clone)]
pub(super) struct SegmentFetcher {
    pub(super) spool: Arc<Spool>,
    pub(super) fleet: Option<OpenFleetStore>,
    /// The recording's storage, and its backup.
    pub(super) stores: (Arc<Store>, Option<Arc<Store>>),
}

impl SegmentFetcher {
    /// Fetches a segment into the spool, unless it is there.
    pub(super) async fn fetch(&self, segment: &Segment, origin: Option<Origin>) -> Result<Fetched, JobError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = self.spool.names().segment(segment.epoch, segment.index);
        let path = self.spool.path(&name);
        let Some(origin) = origin.filter(|_| file_size(&path) != segment.bytes) else {
            return Ok(Fetched::InSpool);
        };
        let (store, object_name) = self.source(origin, &name)?;
        // Two tasks may fetch it at the same time.
        let draft = self.spool.path(&format!("{name}.{}.part", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&draft).map_err(spool_error)?;
        let result = match store.download(&object_name, file, segment.bytes).await {
            Ok(Some(bytes)) if bytes == segment.bytes => {
                self.spool.add_used_bytes(bytes);
                fs::rename(&draft, path).map(|()| Fetched::InSpool).map_err(spool_error)
            }
            Ok(found) => {
                let expected = segment.bytes;
                tracing::warn!(object_name, ?found, expected, "segment of an earlier owner is lost");
                Ok(Fetched::Lost)
            }
            Err(error) => Err(JobError::of_fetch(error.class(), chain(&error))),
        };
        if result != Ok(Fetched::InSpool) {
            // The next attempt has another name.
            let _ignored = fs::remove_file(&draft);
        }
        result
    }

    fn source(&self, origin: Origin, name: &str) -> Result<(&Arc<Store>, String), JobError> {
        let own_name = || format!("{}/{name}", self.spool.recording().name);
        let found = match origin {
            Origin::FleetStore => self.fleet.as_ref().map(|fleet| (&fleet.store, fleet.object_name(name))),
            Origin::Storage => Some((&self.stores.0, own_name())),
            Origin::Backup => self.stores.1.as_ref().map(|store| (store, own_name())),
        };
        let message = || format!("{name} is in the store of the fleet, which is not configured here");
        found.ok_or_else(|| JobError::of_fetch(ErrorClass::Permanent, message()))
    }

    /// Writes segments to one MP4 file; the first one started at `unix_ms`. What is fetched is removed again
    /// after each segment. Also returns the indexes of lost segments, without which the file is complete.
    pub(super) async fn assemble(
        self,
        segments: Vec<(Segment, Option<Origin>)>,
        unix_ms: i64,
        name: String,
    ) -> (Vec<u32>, Result<(), JobError>) {
        let mut lost = Vec::new();
        let result = self.write_mp4(segments, unix_ms, &name, &mut lost).await;
        (lost, result)
    }

    async fn write_mp4(
        &self,
        segments: Vec<(Segment, Option<Origin>)>,
        unix_ms: i64,
        name: &str,
        lost: &mut Vec<u32>,
    ) -> Result<(), JobError> {
        let (path, draft) = (self.spool.path(name), self.spool.path(&format!("{name}.part")));
        let mut writer = Mp4Writer::create(unix_ms, path.clone(), draft)?;
        for (segment, origin) in segments {
            if self.fetch(&segment, origin).await? == Fetched::Lost {
                lost.push(segment.index);
                continue;
            }
            let source = self.spool.segment_source(&segment);
            writer = blocking(move || writer.append(&source).map(|()| writer)).await?;
            if origin.is_some() {
                let name = self.spool.names().segment(segment.epoch, segment.index);
                self.spool.discard(&name);
            }
        }
        if writer.is_empty() {
            let message = format!("nothing of {name} is left");
            return Err(JobError::of_fetch(ErrorClass::Transient, message));
        }
        blocking(move || writer.finish()).await?;
        self.spool.add_used_bytes(file_size(&path));
        Ok(())
    }
}

impl From<assemble::Error> for JobError {
    fn from(error: assemble::Error) -> Self {
        // An error of the local disk does not count against the storage.
        Self::new(ErrorClass::Local, chain(&error))
    }
}
