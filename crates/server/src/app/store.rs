//! Applications that were added while the service ran: documents of the fleet, beside those of the configuration file.

use std::collections::HashSet;

use pagecast_fleet::UnixMs;
use serde::{Deserialize, Serialize};

use super::{Application, ValidationError, validate_all};
use crate::service::Service;

/// What documents of applications are called in the fleet.
const DOCUMENT_KIND: &str = "application";

/// Why applications cannot be loaded or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Those of the configuration file, or all together, cannot be as they are.
    #[error("cannot use these applications")]
    Invalid(#[from] ValidationError),
    /// They cannot be read or written.
    #[error("cannot get at the applications that were added")]
    Fleet(#[from] pagecast_fleet::Error),
    /// One is not to be written as JSON.
    #[error("cannot keep an application")]
    Json(#[from] serde_json::Error),
}

/// An application as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredApplication {
    /// It.
    pub(crate) application: Application,
    /// When it was added.
    pub(crate) created_ms: UnixMs,
    /// When it was changed.
    pub(crate) updated_ms: UnixMs,
}

/// Puts all applications into place: those of the configuration file, and those that were added. An added one that cannot be used any
/// more, because the file has taken its name, say, is left out with a warning: it must not keep the service from starting.
///
/// # Errors
/// Those of the file cannot be used, or those that were added cannot be read.
pub async fn load(service: &Service) -> Result<(), StoreError> {
    let kept = read(service).await?;
    let mut all = service.config.applications.clone();
    let admin = service.config.admin_token.as_ref();
    validate_all(&all, admin)?;
    for added in kept {
        all.push(added.application);
        if let Err(wrong) = validate_all(&all, admin) {
            tracing::warn!(%wrong, "an application that was added is left out");
            all.pop();
        }
    }
    service.apps.replace(all);
    Ok(())
}

/// Those that were added, in order of their names.
pub(crate) async fn read(service: &Service) -> Result<Vec<StoredApplication>, StoreError> {
    let mut all = Vec::new();
    for (name, document) in service.fleet.documents(DOCUMENT_KIND).await? {
        match serde_json::from_value::<StoredApplication>(document) {
            Ok(kept) if kept.application.name == name => all.push(kept),
            Ok(_) => tracing::warn!(name, "an application that was added has another name now"),
            Err(error) => tracing::warn!(name, %error, "an application that was added cannot be read"),
        }
    }
    Ok(all)
}

/// Keeps one, in place of the one of the same name, if it and all others can be; then all are in place.
pub(crate) async fn put(service: &Service, kept: &StoredApplication) -> Result<(), StoreError> {
    load(service).await?;
    let name = &kept.application.name;
    let others = service.apps.all();
    let others = others.iter().map(AsRef::as_ref).filter(|other| other.name != *name);
    // It comes last: what clashes is its own fault.
    let all = others.chain([&kept.application]);
    validate_all(all, service.config.admin_token.as_ref()).map_err(|wrong| ValidationError {
        field: wrong.field.strip_prefix(&format!("{name}.")).unwrap_or(&wrong.field).to_owned(),
        ..wrong
    })?;
    service.fleet.put_document(DOCUMENT_KIND, name, Some(serde_json::to_value(kept)?)).await?;
    load(service).await
}

/// Forgets one; then all others are in place.
pub(crate) async fn remove(service: &Service, name: &str) -> Result<(), StoreError> {
    service.fleet.put_document(DOCUMENT_KIND, name, None).await?;
    load(service).await
}

/// Those of the configuration file.
pub(crate) fn configured_names(service: &Service) -> HashSet<String> {
    service.config.applications.iter().map(|app| app.name.clone()).collect()
}
