//! Evidence of casts in the store of a fleet, as the REST API reads it.

use std::io;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use pagecast_fleet::CastId;
use pagecast_media::record::EvidenceStore;
use pagecast_server::StoredEvidence;
use pagecast_server::app::StorageLocation;
use pagecast_server::config::Config;

/// Evidence in the store of the fleet.
#[derive(Debug)]
struct FleetEvidence(EvidenceStore);

/// Opens the store, if the fleet has one.
pub(super) fn open(config: &Config) -> anyhow::Result<Option<Arc<dyn StoredEvidence>>> {
    let Some(location) = &config.fleet.store else { return Ok(None) };
    let store = EvidenceStore::open(&StorageLocation::to_spec(location)).context("cannot use fleet.store")?;
    Ok(Some(Arc::new(FleetEvidence(store))))
}

#[async_trait]
impl StoredEvidence for FleetEvidence {
    async fn list(&self, cast: &CastId, max: usize) -> io::Result<Vec<(String, u64)>> {
        self.0.list(cast.as_str(), max).await.map_err(io::Error::other)
    }

    async fn read(&self, cast: &CastId, name: &str, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
        let found = self.0.read(cast.as_str(), name, max_bytes).await.map_err(io::Error::other)?;
        Ok(found.map(Vec::from))
    }
}
