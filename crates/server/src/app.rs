//! Applications: the clients of the APIs, their credentials, and the defaults of their casts.

mod network_access;
mod room;
mod secrets;
mod settings;
mod storage;
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod testing;
mod upgrade;
mod validate;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};

pub use room::{Ice, IceServer, RoomProvider};
pub use settings::{CallbackReceiver, Callbacks, Limits, MaxVideo, Network, Settings};
pub(crate) use storage::public_url;
pub use storage::{StorageDefaults, StorageKeys, StorageLocation, VodKeys};
pub use store::{StoreError, follow_fleet, load};
pub use validate::{
    MAX_CASTS, MAX_KEYS, MAX_NAME_LEN, MAX_RECEIVER_LEN, MAX_RETRY_S, MAX_SECRET_LEN, MIN_TOKEN_LEN,
    ValidationError, validate_all,
};
pub(crate) use validate::{
    find_errors, validate_key, validate_location, validate_name, validate_receiver, validate_token,
};

/// A client of the APIs, with its credentials and the defaults of its casts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// Name of the application, 1 to 64 of `a–z 0–9 _ -`.
    pub name: String,
    /// Access keys that sign requests of both vendors' APIs. Several of them allow rotation without a pause.
    /// Applications may share an access key.
    #[serde(default)]
    pub keys: Vec<AccessKey>,
    /// Tokens for the REST API, each at least 16 characters.
    #[serde(default)]
    pub tokens: Vec<Secret>,
    /// Settings. In the configuration and in documents they are beside the other fields.
    #[serde(flatten)]
    pub settings: Settings,
}

impl Application {
    /// Names of the fields other than the settings.
    pub(crate) const OWN_FIELDS: &[&str] = &["name", "keys", "tokens"];

    /// Creates an application without credentials, with default settings.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), keys: Vec::new(), tokens: Vec::new(), settings: Settings::default() }
    }

    /// Limit of [`Settings::max_history_mib`], in bytes.
    #[must_use]
    pub fn max_history_bytes(&self) -> u64 {
        u64::from(self.settings.max_history_mib) << 20
    }

    /// Error message of a request that would exceed the quota while `used_bytes` are stored.
    #[must_use]
    pub(crate) fn quota_exceeded_message(&self, used_bytes: u64) -> String {
        let used_mib = used_bytes as f64 / f64::from(1 << 20);
        let limit_mib = self.settings.max_history_mib;
        format!(
            "the application's casts already use {used_mib:.1} MiB of stored requests, events and delivery \
             logs, and \
             this request would exceed the limit of {limit_mib} MiB (max_history_mib): wait for casts to \
             end, or send \
             smaller style sheets, scripts and headers"
        )
    }
}

/// An access key: a pair of id and secret that signs requests of the vendors' APIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// Access key id (`SecretId` at Tencent), 1 to 128 letters, digits and `_ - .`
    pub id: String,
    /// Secret access key (`SecretKey` at Tencent).
    pub secret: Secret,
    /// Whether requests with this key are refused.
    #[serde(default)]
    pub disabled: bool,
}

/// All applications: those of the configuration file and those added by the admin API.
#[derive(Debug, Default)]
pub struct ApplicationRegistry(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    /// Version of the fleet's documents that the applications are from.
    version: u64,
    all: Vec<Arc<Application>>,
    by_key: HashMap<String, Vec<Arc<Application>>>,
}

impl ApplicationRegistry {
    /// Replaces all applications.
    pub fn replace(&self, all: Vec<Application>) {
        self.replace_version(0, all);
    }

    /// Replaces all applications by those of a version of the fleet's documents, unless they are from a later
    /// one.
    pub(crate) fn replace_version(&self, version: u64, all: Vec<Application>) {
        let mut index = Index { version, ..Index::default() };
        for app in all {
            let app = Arc::new(app);
            for key in app.keys.iter().filter(|key| !key.disabled) {
                index.by_key.entry(key.id.clone()).or_default().push(Arc::clone(&app));
            }
            index.all.push(app);
        }
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if version == 0 || version >= current.version {
            *current = index;
        }
    }

    /// Version of the fleet's documents that the applications are from.
    pub(crate) fn version(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).version
    }

    /// Returns all applications.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Application>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).all.clone()
    }

    /// Returns the applications that have this access key enabled.
    #[must_use]
    pub fn by_key(&self, id: &str) -> Vec<Arc<Application>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_key.get(id).cloned().unwrap_or_default()
    }

    /// Returns the application of this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<Application>> {
        self.all().into_iter().find(|app| app.name == name)
    }
}
