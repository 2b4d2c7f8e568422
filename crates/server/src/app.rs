//! Applications: who may ask for casts, with which keys, and what their casts get unless they say otherwise.

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

pub(crate) use network_access::local_addresses;
pub use store::{StoreError, load};
pub use validate::{
    MAX_CASTS, MAX_KEYS, MAX_NAME_LEN, MAX_RECEIVER_LEN, MAX_RETRY_S, MAX_SECRET_LEN, MIN_TOKEN_LEN,
    ValidationError, validate_all,
};
pub(crate) use validate::{set_storage_keys, validate_key, validate_receiver, validate_token};

/// Somebody who asks for casts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Names it, 1 to 64 of `a–z 0–9 _ -`.
    pub name: String,
    /// `AppId` of the Volcengine API, if it uses that.
    #[serde(default)]
    pub app_id: Option<String>,
    /// `SdkAppId` of the Tencent API, if it uses that.
    #[serde(default)]
    pub sdk_app_id: Option<u64>,
    /// Pairs that sign requests of either cloud's API; several, so that they can be changed without a pause.
    /// The same pair may be another application's too.
    #[serde(default)]
    pub keys: Vec<AccessKey>,
    /// Tokens for the REST API, each at least 16 characters.
    #[serde(default)]
    pub tokens: Vec<Secret>,
    /// Casts that it may have at the same time.
    #[serde(default = "max_casts")]
    pub max_casts: u32,
    /// Requests, events and delivery logs that are kept of its casts, in MiB. Beyond it its casts that ended
    /// first are forgotten early, and if that is not enough, no more are taken. The usual 256 are 200 casts
    /// with a script of 1 MiB each, beside a history of 20 000 ordinary ones.
    #[serde(default = "max_kept_mib")]
    pub max_kept_mib: u32,
    /// What its casts are told about, in the words of the API they came by.
    #[serde(default)]
    pub callbacks: Callbacks,
    /// Rooms for pages to be published in.
    #[serde(default)]
    pub room: RoomProvider,
    /// How its rooms are encoded and reached.
    #[serde(default)]
    pub codec: RoomCodec,
    /// Servers for ICE.
    #[serde(default)]
    pub ice: Ice,
    /// Where recordings go that name no place, and where the clouds' object storages are.
    #[serde(default)]
    pub storage: StorageDefaults,
    /// What its pages may reach, and its pushes, storages and callbacks may be sent to.
    #[serde(default)]
    pub network: NetworkPolicy,
    /// Certificates that its pages' browsers trust besides their own, as PEM text or `{ file = "…" }`: of its
    /// own authority, or of a server that signs for itself. At most 16, and 64 KiB.
    #[serde(default)]
    pub ca: Option<CaBundle>,
    /// What each of its casts may use.
    #[serde(default)]
    pub limits: Limits,
}

impl Application {
    /// An application of this name that nobody can use yet, with all else as usual.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            app_id: None,
            sdk_app_id: None,
            keys: Vec::new(),
            tokens: Vec::new(),
            max_casts: max_casts(),
            max_kept_mib: max_kept_mib(),
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

    /// Bytes that may be kept of its casts.
    #[must_use]
    pub fn max_kept_bytes(&self) -> u64 {
        u64::from(self.max_kept_mib) << 20
    }

    /// Why a cast is not taken, for whoever asked for it, if so many bytes are kept.
    #[must_use]
    pub(crate) fn quota_exceeded_message(&self, kept: u64) -> String {
        let kept = kept as f64 / f64::from(1 << 20);
        let most = self.max_kept_mib;
        format!(
            "{kept:.1} MiB of requests, events and delivery logs are kept for the application's casts, and with this one it would be \
             more than {most} MiB (max_kept_mib): wait for casts to end, or send smaller style sheets, scripts and headers"
        )
    }
}

fn max_casts() -> u32 {
    200
}

pub(crate) fn max_kept_mib() -> u32 {
    256
}

/// A pair that signs requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// Access key id; Tencent's SecretId. 1 to 128 letters, digits and `_ - .`
    pub id: String,
    /// The secret; Tencent's SecretKey.
    pub secret: Secret,
    /// Whether it is refused for the time being.
    #[serde(default)]
    pub disabled: bool,
}

/// Who is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    /// In Volcengine's words.
    pub volcengine: Option<CallbackReceiver>,
    /// In Tencent's words.
    pub tencent: Option<CallbackReceiver>,
    /// In Pagecast's own words.
    pub native: Option<CallbackReceiver>,
}

/// Where callbacks are sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallbackReceiver {
    /// http or https. Not shown beyond its path.
    pub url: Url,
    /// Signs them. Tencent's has up to 32 letters and digits.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// How long it is tried beyond what the vendor does, in seconds: then with pauses that grow to 10
    /// minutes.
    #[serde(default)]
    pub retry_s: u64,
    /// Volcengine: whether the nonce is also sent as `Noce`, as old receivers expect it.
    #[serde(default)]
    pub noce: bool,
}

/// Servers that take a page.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoomProvider {
    /// The rooms of this service.
    #[default]
    Embedded,
    /// Another server.
    Service(pagecast_core::spec::RoomService),
    /// A way by WHIP into rooms that are guarded by tokens of Volcengine RTC.
    Volcengine(VolcengineRooms),
}

/// Rooms guarded by tokens of Volcengine RTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolcengineRooms {
    /// The endpoint; `{app}`, `{room}`, `{user}` and `{task}` stand for the identifiers.
    pub url: RoomUrl,
    /// The AppKey of the `app_id`: the bearer token of each cast is made with it.
    pub app_key: Secret,
}

/// Storages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageDefaults {
    /// Where recordings go that name no place; a folder of the service, if there is none.
    pub default: Option<Storage>,
    /// A folder of this machine instead of the clouds' object storages: `CloudStorage` then goes to
    /// `BUCKET/PREFIX` in it.
    pub buckets: Option<PathBuf>,
    /// Another server than Tencent's for `CloudStorage` with `Vendor` 0 (COS), by the S3 protocol with the
    /// bucket in the path.
    pub cos_endpoint: Option<Url>,
    /// Another server than Amazon's for `Vendor` 1 (S3).
    pub s3_endpoint: Option<Url>,
    /// Another server than Tencent's for `CloudVod`.
    pub vod_endpoint: Option<Url>,
    /// Keys for video on demand, which `CloudVod` does not name.
    pub vod_keys: Option<AccessKey>,
    /// Where recordings are kept if their own place does not answer.
    pub backup: Option<Bucket>,
}

/// All applications: those of the configuration file, and those that were added while it runs.
#[derive(Debug, Default)]
pub struct ApplicationRegistry(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    all: Vec<Arc<Application>>,
    by_key: HashMap<String, Vec<Arc<Application>>>,
}

impl ApplicationRegistry {
    /// These, in place of all before.
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

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Application>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).all.clone()
    }

    /// Those that have this access key.
    #[must_use]
    pub fn by_key(&self, id: &str) -> Vec<Arc<Application>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_key.get(id).cloned().unwrap_or_default()
    }

    /// The one of this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<Application>> {
        self.all().into_iter().find(|app| app.name == name)
    }
}
