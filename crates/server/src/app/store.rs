//! Applications added by the admin API, stored as documents of the fleet.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pagecast_fleet::{Document, UnixMs, WorkerStatus};
use serde::{Deserialize, Serialize};

use super::upgrade::upgrade;
use super::{Application, ValidationError, validate_all};
use crate::config::Role;
use crate::service::{Service, error_chain};

#[cfg(test)]
mod tests;

/// Document kind of applications in the fleet.
const DOCUMENT_KIND: &str = "application";
/// Interval at which a node looks for applications that another one has changed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two looks, however often the fleet changes.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Interval at which the API nodes are counted: a node that dies is noticed much later.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Why applications cannot be loaded or stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An application is invalid, or conflicts with another one.
    #[error("invalid application")]
    Invalid(#[from] ValidationError),
    /// The fleet cannot read or write the documents.
    #[error("cannot access the stored applications")]
    Fleet(#[from] pagecast_fleet::Error),
    /// An application cannot be serialized.
    #[error("cannot serialize the application")]
    Json(#[from] serde_json::Error),
}

/// An application as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredApplication {
    /// The application itself.
    pub(crate) application: Application,
    /// Time of its creation.
    pub(crate) created_ms: UnixMs,
    /// Time of its last change.
    #[serde(alias = "changed_ms")]
    pub(crate) updated_ms: UnixMs,
    /// Version of the document that it was read from; 0 if it is new.
    #[serde(skip)]
    pub(crate) version: u64,
}

/// Loads all applications: those of the configuration file and the stored ones. A stored application that is
/// no longer valid, for example because the file now uses its name, is skipped with a warning, so that it
/// does not keep the service from starting.
///
/// # Errors
/// An application of the configuration file is invalid, or the stored ones cannot be read.
pub async fn load(service: &Service) -> Result<(), StoreError> {
    let (version, stored) = read_list(service).await?;
    let mut all = service.config.applications.clone();
    let admin = service.config.admin_token.as_ref();
    validate_all(&all, admin)?;
    for added in stored {
        all.push(added.application);
        if let Err(error) = validate_all(&all, admin) {
            tracing::warn!(%error, "stored application invalid, skipped");
            all.pop();
        }
    }
    service.apps.replace_version(version, all);
    Ok(())
}

/// Reads the stored applications, ordered by name.
pub(crate) async fn read(service: &Service) -> Result<Vec<StoredApplication>, StoreError> {
    Ok(read_list(service).await?.1)
}

/// Reads the stored applications with the version of the fleet's documents that they are from.
async fn read_list(service: &Service) -> Result<(u64, Vec<StoredApplication>), StoreError> {
    let list = service.fleet.documents(DOCUMENT_KIND).await?;
    let mut all = Vec::new();
    for Document { name, version, mut content } in list.documents {
        content.get_mut("application").into_iter().for_each(upgrade);
        match serde_json::from_value::<StoredApplication>(content) {
            Ok(stored) if stored.application.name == name => {
                all.push(StoredApplication { version, ..stored });
            }
            Ok(_) => tracing::warn!(name, "stored application name mismatch"),
            Err(error) => tracing::warn!(name, %error, "stored application unreadable"),
        }
    }
    Ok((list.version, all))
}

/// Stores an application, replacing the one that it was made from, and reloads all applications.
///
/// # Errors
/// It is invalid, or another node has changed it meanwhile.
pub(crate) async fn put(service: &Service, stored: &StoredApplication) -> Result<(), StoreError> {
    load(service).await?;
    let name = &stored.application.name;
    let others = service.apps.all();
    let others = others.iter().map(AsRef::as_ref).filter(|other| other.name != *name);
    // The new one comes last, so that a conflict is reported for its fields.
    let all = others.chain([&stored.application]);
    validate_all(all, service.config.admin_token.as_ref())?;
    service
        .fleet
        .put_document(DOCUMENT_KIND, name, Some(stored.version), Some(serde_json::to_value(stored)?))
        .await?;
    load(service).await
}

/// Removes a stored application and reloads the others.
pub(crate) async fn remove(service: &Service, name: &str) -> Result<(), StoreError> {
    service.fleet.put_document(DOCUMENT_KIND, name, None, None).await?;
    load(service).await
}

/// Names of the applications of the configuration file.
pub(crate) fn configured_names(service: &Service) -> HashSet<String> {
    service.config.applications.iter().map(|app| app.name.clone()).collect()
}

/// Follows what other nodes of the fleet do: reloads the applications when one has changed them, and counts
/// the nodes that share the rate limits. It never returns, unless this node is alone or answers no requests.
pub async fn follow_fleet(service: Service) {
    if !service.fleet.is_shared() || !service.config.fleet.has_role(Role::Api) {
        return;
    }
    let mut changes = service.fleet.changes();
    let mut count_nodes_at = Instant::now();
    loop {
        if Instant::now() >= count_nodes_at {
            count_nodes_at = Instant::now() + COUNT_INTERVAL;
            count_api_nodes(&service).await;
        }
        if let Err(error) = reload_if_changed(&service).await {
            tracing::warn!(error = error_chain(&error), "cannot reload applications, retrying");
        }
        tokio::time::sleep(MIN_POLL_INTERVAL).await;
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

async fn reload_if_changed(service: &Service) -> Result<(), StoreError> {
    let version = match service.fleet.pending_work().await?.documents_version {
        Some(version) => version,
        None => service.fleet.documents_version().await?,
    };
    if version != service.apps.version() {
        load(service).await?;
        tracing::info!(version, "applications reloaded");
    }
    Ok(())
}

/// Counts the live API nodes. While the fleet cannot tell, or before this node's own heartbeat, the last
/// number counts.
async fn count_api_nodes(service: &Service) {
    let workers = service.fleet.recent_workers().await;
    let is_api = |status: &WorkerStatus| status.node.roles.iter().any(|role| role == Role::Api.as_str());
    let count = workers.iter().filter(|(_, status)| is_api(status)).count();
    if count > 0 {
        service.live_api_nodes.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}
