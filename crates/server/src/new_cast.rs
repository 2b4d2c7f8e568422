//! Assembles a [`NewCast`] from what a dialect decides, the application and the configuration.

use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_fleet::{CastId, CastKey, KeyRetention, NewCast};
use serde_json::Value;

use crate::app::Application;
use crate::service::Service;

/// The parts of a new cast that its dialect decides.
pub(crate) struct CastDraft {
    pub(crate) id: CastId,
    /// Name of the API.
    pub(crate) api: &'static str,
    /// Key that no other cast may have at the same time, and how long it is kept.
    pub(crate) key: Option<(CastKey, KeyRetention)>,
    /// What the dialect needs of the request later, for answers and callbacks.
    pub(crate) request: Value,
    pub(crate) spec: CastSpec,
    /// Longest wait for a worker; the operator's default if `None`.
    pub(crate) queue_timeout: Option<Duration>,
    /// Whether somebody receives callbacks about the cast.
    pub(crate) notify: bool,
}

impl CastDraft {
    /// Adds the quotas of the application and the limits of the service.
    pub(crate) fn into_new_cast(self, service: &Service, app: &Application) -> NewCast {
        let limits = &service.config.casts;
        let (key, key_retention) = self.key.unzip();
        NewCast {
            id: self.id,
            app: app.name.clone(),
            api: self.api.to_owned(),
            key,
            key_retention: key_retention.unwrap_or(KeyRetention::UntilEnded),
            request: self.request,
            spec: self.spec,
            queue_timeout: self.queue_timeout.unwrap_or(Duration::from_secs(limits.queue_timeout_s)),
            quota: app.settings.max_casts,
            max_bytes: app.max_history_bytes(),
            queue_limit: limits.max_queued_casts,
            notify: self.notify,
        }
    }
}
