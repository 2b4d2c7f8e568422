//! Applications: the clients of the APIs, their credentials, and the defaults of their casts.
//!
//! Stored applications may have field names of earlier versions (`alias`); a configuration file may not.

mod network_access;
pub(crate) mod store;
mod validate;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use pagecast_core::spec::{
    Bucket, CaBundle, Ice, Limits, NetworkPolicy, RoomCodec, RoomUrl, Secret, Storage,
};
use serde::{Deserialize, Serialize};
use url::Url;

pub use store::{StoreError, load};
pub use validate::{
    MAX_CASTS, MAX_KEYS, MAX_NAME_LEN, MAX_RECEIVER_LEN, MAX_RETRY_S, MAX_SECRET_LEN, MIN_TOKEN_LEN,
    ValidationError, validate_all,
};
pub(crate) use validate::{set_storage_keys, validate_key, validate_receiver, validate_token};

/// A client of the APIs, with its credentials and the defaults of its casts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Name of the application, 1 to 64 of `a–z 0–9 _ -`.
    pub name: String,
    /// `AppId` in the Volcengine API. Without one, the application cannot use that API.
    #[serde(default)]
    pub app_id: Option<String>,
    /// `SdkAppId` in the Tencent API. Without one, the application cannot use that API.
    #[serde(default)]
    pub sdk_app_id: Option<u64>,
    /// Access keys that sign requests of both vendors' APIs. Several of them allow rotation without a pause.
    /// Applications may share an access key.
    #[serde(default)]
    pub keys: Vec<AccessKey>,
    /// Tokens for the REST API, each at least 16 characters.
    #[serde(default)]
    pub tokens: Vec<Secret>,
    /// Most casts at once, running and queued.
    #[serde(default = "max_casts")]
    pub max_casts: u32,
    /// Largest size of the stored requests, events and delivery logs of its casts, in MiB. Above it, the
    /// casts that ended first are deleted early; if that is not enough, new casts are refused. The default
    /// holds 200 casts with a script of 1 MiB each and a history of 20 000 ordinary ones.
    #[serde(default = "max_history_mib", alias = "max_kept_mib")]
    pub max_history_mib: u32,
    /// Receivers of callbacks, by the API that created the cast.
    #[serde(default)]
    pub callbacks: Callbacks,
    /// Server of the rooms in which pages are published.
    #[serde(default)]
    pub room: RoomProvider,
    /// Video codec in rooms.
    #[serde(default)]
    pub codec: RoomCodec,
    /// ICE servers for rooms.
    #[serde(default)]
    pub ice: Ice,
    /// Default storage of recordings, and endpoints of the vendors' object storages.
    #[serde(default)]
    pub storage: StorageDefaults,
    /// Addresses that pages, pushes, storages and callbacks may reach.
    #[serde(default)]
    pub network: NetworkPolicy,
    /// Certificates that the pages' browsers trust in addition to their own, as PEM text or
    /// `{ file = "…" }`: of a private authority or self-signed. At most 16, and 64 KiB.
    #[serde(default)]
    pub ca: Option<CaBundle>,
    /// Limits of each cast.
    #[serde(default)]
    pub limits: Limits,
}

impl Application {
    /// Creates an application without credentials, with default settings.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            app_id: None,
            sdk_app_id: None,
            keys: Vec::new(),
            tokens: Vec::new(),
            max_casts: max_casts(),
            max_history_mib: max_history_mib(),
            callbacks: Callbacks::default(),
            room: RoomProvider::default(),
            codec: RoomCodec::default(),
            ice: Ice::default(),
            storage: StorageDefaults::default(),
            network: NetworkPolicy::default(),
            ca: None,
            limits: Limits::default(),
        }
    }

    /// Limit of [`Self::max_history_mib`], in bytes.
    #[must_use]
    pub fn max_history_bytes(&self) -> u64 {
        u64::from(self.max_history_mib) << 20
    }

    /// Error message of a request that would exceed [`Self::max_history_mib`] while `used_bytes` are stored.
    #[must_use]
    pub(crate) fn quota_exceeded_message(&self, used_bytes: u64) -> String {
        let used_mib = used_bytes as f64 / f64::from(1 << 20);
        let limit_mib = self.max_history_mib;
        format!(
            "the application's casts already use {used_mib:.1} MiB of stored requests, events and delivery \
             logs, and \
             this request would exceed the limit of {limit_mib} MiB (max_history_mib): wait for casts to \
             end, or send \
             smaller style sheets, scripts and headers"
        )
    }
}

fn max_casts() -> u32 {
    200
}

pub(crate) fn max_history_mib() -> u32 {
    256
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

/// Receivers of callbacks, by the API that created the cast.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    /// Receiver for casts of the Volcengine API, in Volcengine's format.
    pub volcengine: Option<CallbackReceiver>,
    /// Receiver for casts of the Tencent API, in Tencent's format.
    pub tencent: Option<CallbackReceiver>,
    /// Receiver for casts of the REST API, in Pagecast's format.
    pub native: Option<CallbackReceiver>,
}

/// A receiver of callbacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallbackReceiver {
    /// URL of the receiver, http or https. Its query is never shown.
    pub url: Url,
    /// Secret that signs callbacks. In Tencent's format it has at most 32 letters and digits.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// How long a failing callback is retried after the vendor's own retries, in seconds since its first
    /// attempt. The delays grow to 10 minutes.
    #[serde(default, alias = "retry_s")]
    pub extra_retry_s: u64,
    /// Volcengine only: whether the nonce is also sent as `Noce`, the spelling that old receivers expect.
    #[serde(default)]
    pub noce: bool,
}

/// The server in whose rooms pages are published.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoomProvider {
    /// The embedded rooms of this service.
    #[default]
    Embedded,
    /// Another server.
    Service(pagecast_core::spec::RoomService),
    /// A WHIP endpoint whose rooms require tokens of Volcengine RTC.
    Volcengine(VolcengineRooms),
}

/// A WHIP endpoint whose rooms require tokens of Volcengine RTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolcengineRooms {
    /// URL of the endpoint. `{app}`, `{room}`, `{user}` and `{task}` are replaced by the identifiers.
    pub url: RoomUrl,
    /// AppKey of the `app_id`. It signs the bearer token of each cast.
    pub app_key: Secret,
}

/// Default storage of recordings, and endpoints of the vendors' object storages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageDefaults {
    /// Storage of recordings whose request names none. Without it, they are stored in the data folder.
    pub default: Option<Storage>,
    /// Local folder that replaces the vendors' object storages: `CloudStorage` is then stored in
    /// `BUCKET/PREFIX` below it.
    #[serde(alias = "buckets")]
    pub buckets_dir: Option<PathBuf>,
    /// S3 endpoint with path-style buckets that replaces Tencent's for `CloudStorage` with `Vendor` 0 (COS).
    pub cos_endpoint: Option<Url>,
    /// Endpoint that replaces Amazon's for `CloudStorage` with `Vendor` 1 (S3).
    pub s3_endpoint: Option<Url>,
    /// Endpoint that replaces Tencent's for `CloudVod`.
    pub vod_endpoint: Option<Url>,
    /// Access key for video on demand. `CloudVod` carries none.
    pub vod_keys: Option<AccessKey>,
    /// Bucket for recordings whose own storage fails.
    pub backup: Option<Bucket>,
}

/// All applications: those of the configuration file and those added by the admin API.
#[derive(Debug, Default)]
pub struct ApplicationRegistry(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    all: Vec<Arc<Application>>,
    by_key: HashMap<String, Vec<Arc<Application>>>,
}

impl ApplicationRegistry {
    /// Replaces all applications.
    pub fn replace(&self, all: Vec<Application>) {
        let mut index = Index::default();
        for app in all {
            let app = Arc::new(app);
            for key in app.keys.iter().filter(|key| !key.disabled) {
                index.by_key.entry(key.id.clone()).or_default().push(Arc::clone(&app));
            }
            index.all.push(app);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = index;
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
