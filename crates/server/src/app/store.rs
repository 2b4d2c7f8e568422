//! Applications added by the admin API, stored as documents of the fleet.

use std::collections::HashSet;

use pagecast_fleet::UnixMs;
use serde::{Deserialize, Serialize};

use super::upgrade::upgrade;
use super::{Application, ValidationError, validate_all};
use crate::service::Service;

/// Document kind of applications in the fleet.
const DOCUMENT_KIND: &str = "application";

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
}

/// Loads all applications: those of the configuration file and the stored ones. A stored application that is
/// no longer valid, for example because the file now uses its name, is skipped with a warning, so that it
/// does not keep the service from starting.
///
/// # Errors
/// An application of the configuration file is invalid, or the stored ones cannot be read.
pub async fn load(service: &Service) -> Result<(), StoreError> {
    let stored = read(service).await?;
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
    service.apps.replace(all);
    Ok(())
}

/// Reads the stored applications, ordered by name.
pub(crate) async fn read(service: &Service) -> Result<Vec<StoredApplication>, StoreError> {
    let mut all = Vec::new();
    for (name, mut document) in service.fleet.documents(DOCUMENT_KIND).await? {
        document.get_mut("application").into_iter().for_each(upgrade);
        match serde_json::from_value::<StoredApplication>(document) {
            Ok(stored) if stored.application.name == name => all.push(stored),
            Ok(_) => tracing::warn!(name, "stored application name mismatch"),
            Err(error) => tracing::warn!(name, %error, "stored application unreadable"),
        }
    }
    Ok(all)
}

/// Stores an application, replacing one of the same name, and reloads all applications.
pub(crate) async fn put(service: &Service, stored: &StoredApplication) -> Result<(), StoreError> {
    load(service).await?;
    let name = &stored.application.name;
    let others = service.apps.all();
    let others = others.iter().map(AsRef::as_ref).filter(|other| other.name != *name);
    // The new one comes last, so that a conflict is reported for its fields.
    let all = others.chain([&stored.application]);
    validate_all(all, service.config.admin_token.as_ref())?;
    service.fleet.put_document(DOCUMENT_KIND, name, Some(serde_json::to_value(stored)?)).await?;
    load(service).await
}

/// Removes a stored application and reloads the others.
pub(crate) async fn remove(service: &Service, name: &str) -> Result<(), StoreError> {
    service.fleet.put_document(DOCUMENT_KIND, name, None).await?;
    load(service).await
}

/// Names of the applications of the configuration file.
pub(crate) fn configured_names(service: &Service) -> HashSet<String> {
    service.config.applications.iter().map(|app| app.name.clone()).collect()
}
