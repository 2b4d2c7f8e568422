//! Settings of an application. The configuration file, the REST API and the fleet's documents have the same
//! types, so a setting has one name, one form and one description.

use std::time::Duration;

use pagecast_core::spec::{self, CaBundle, NetworkPolicy, NetworkRule, RoomCodec, Secret, Size};
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::room::{Ice, RoomProvider};
use super::storage::StorageDefaults;

/// Settings of an application, the same in the configuration file and in the REST API. Absent ones have their
/// defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = ApplicationSettings)]
pub struct Settings {
    /// `AppId` in the Volcengine API. Without one, the application cannot use that API.
    #[schema(pattern = "^[A-Za-z0-9_@.-]{1,128}$")]
    pub app_id: Option<String>,
    /// `SdkAppId` in the Tencent API. Without one, the application cannot use that API.
    #[schema(minimum = 1, maximum = 4_294_967_295u64)]
    pub sdk_app_id: Option<u64>,
    /// Most casts at once, running and queued.
    #[schema(minimum = 1, maximum = 100_000)]
    pub max_casts: u32,
    /// Largest size of the stored requests, events and delivery logs of its casts, in MiB. Above it, the
    /// casts that ended first are deleted early; if that is not enough, new casts are refused. The default
    /// holds 200 casts with a script of 1 MiB each and a history of 20 000 ordinary ones.
    #[schema(minimum = 1, maximum = 1_048_576)]
    pub max_history_mib: u32,
    /// Receivers of callbacks, by the API that created the cast.
    pub callbacks: Callbacks,
    /// Server of the rooms in which pages are published. The default is the embedded rooms.
    pub room: RoomProvider,
    /// Video codec in rooms.
    #[serde(with = "RoomCodecSchema")]
    #[schema(value_type = RoomCodecSchema)]
    pub codec: RoomCodec,
    /// ICE servers for rooms.
    pub ice: Ice,
    /// Default storage of recordings, and endpoints of the vendors' object storages.
    pub storage: StorageDefaults,
    /// Addresses that pages, pushes, storages and callbacks may reach.
    #[serde(with = "Network")]
    #[schema(value_type = Network)]
    pub network: NetworkPolicy,
    /// Certificates that the pages' browsers trust in addition to their own, as PEM text: of a private
    /// authority or self-signed. At most 16, and 64 KiB. The configuration may name a file with them:
    /// `{ file = "…" }`.
    #[schema(value_type = Option<String>, max_length = 65_536)]
    pub ca: Option<CaBundle>,
    /// Limits of each cast.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            app_id: None,
            sdk_app_id: None,
            max_casts: 200,
            max_history_mib: 256,
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
}

/// Receivers of callbacks, by the API that created the cast.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    /// Receiver for casts of the Volcengine API, in Volcengine's format.
    pub volcengine: Option<CallbackReceiver>,
    /// Receiver for casts of the Tencent API, in Tencent's format.
    pub tencent: Option<CallbackReceiver>,
    /// Receiver for casts of the REST API, in Pagecast's format.
    pub native: Option<CallbackReceiver>,
}

impl Callbacks {
    /// The receivers and the names of their fields.
    pub(super) fn receivers(&self) -> [(&'static str, &Option<CallbackReceiver>); 3] {
        [("volcengine", &self.volcengine), ("tencent", &self.tencent), ("native", &self.native)]
    }

    /// The receivers and the names of their fields.
    pub(super) fn receivers_mut(&mut self) -> [(&'static str, &mut Option<CallbackReceiver>); 3] {
        [("volcengine", &mut self.volcengine), ("tencent", &mut self.tencent), ("native", &mut self.native)]
    }
}

/// A receiver of callbacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Receiver)]
pub struct CallbackReceiver {
    /// URL of the receiver, http or https. Its query is shown as `…`.
    #[serde(with = "url_text")]
    #[schema(value_type = String)]
    pub url: Url,
    /// Secret that signs callbacks. In Tencent's format it has at most 32 letters and digits.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    pub secret: Option<Secret>,
    /// How long a failing callback is retried after the vendor's own retries, in seconds since its first
    /// attempt. The delays grow to 10 minutes.
    #[serde(default)]
    #[schema(maximum = 604_800)]
    pub extra_retry_s: u64,
    /// Volcengine only: whether the nonce is also sent as `Noce`, the spelling that old receivers expect.
    #[serde(default)]
    pub noce: bool,
}

/// Video codec in rooms.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(remote = "RoomCodec", rename_all = "kebab-case")]
#[schema(as = RoomCodec)]
enum RoomCodecSchema {
    H264,
    Vp8,
}

/// Addresses that may be reached, each `HOST` or `HOST:PORT`, where `HOST` is an IP address, a network like
/// `10.0.0.0/8`, a name, `*.name` or `*`. `deny` rules are applied first, then `allow` rules; of the
/// remaining addresses, public ones are allowed and all others refused.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(remote = "NetworkPolicy", default, deny_unknown_fields)]
pub struct Network {
    /// Rules that allow addresses that are not public.
    #[schema(value_type = Vec<String>)]
    pub allow: Vec<NetworkRule>,
    /// Rules that deny addresses.
    #[schema(value_type = Vec<String>)]
    pub deny: Vec<NetworkRule>,
    /// Whether pages may send UDP past the egress proxy, as WebRTC prefers to. The rules do not apply to UDP.
    pub udp: bool,
}

/// Limits of a cast's time and resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest time from the first frame in the outputs to the end, in seconds, 10 s to 24 h. The time before
    /// that frame is limited to the same value.
    #[schema(minimum = 10, maximum = 86_400)]
    pub max_time_s: u64,
    /// Number of browsers that may be started in a row, 1 to 10: the first one and the moves.
    #[schema(minimum = 1, maximum = 10)]
    pub attempts: u32,
    /// Memory of the browser, in MiB, 256 to 262144. Exceeding it counts as a crash.
    #[schema(minimum = 256, maximum = 262_144)]
    pub memory_mib: u64,
    /// Disk space of the browser, in MiB, 256 to 262144: profile, caches, and data that pages store.
    /// Exceeding it counts as a crash.
    #[schema(minimum = 256, maximum = 262_144)]
    pub disk_mib: u64,
    /// CPU weight relative to other casts, 1 to 10000, where control groups are available.
    #[schema(minimum = 1, maximum = 10_000)]
    pub cpu_weight: u32,
    /// Largest video that the page may play, in either orientation. A larger one ends the cast.
    #[serde(with = "max_video")]
    #[schema(value_type = Option<MaxVideo>)]
    pub max_video: Option<Size>,
}

impl Default for Limits {
    fn default() -> Self {
        let limits = spec::Limits::default();
        Self {
            max_time_s: limits.max_time.as_secs(),
            attempts: limits.attempts,
            memory_mib: limits.memory_bytes >> 20,
            disk_mib: limits.disk_bytes >> 20,
            cpu_weight: limits.cpu_weight,
            max_video: limits.max_video,
        }
    }
}

impl Limits {
    /// The limits in the description of a cast.
    #[must_use]
    pub fn to_spec(&self) -> spec::Limits {
        spec::Limits {
            max_time: Duration::from_secs(self.max_time_s),
            attempts: self.attempts,
            memory_bytes: self.memory_mib << 20,
            disk_bytes: self.disk_mib << 20,
            cpu_weight: self.cpu_weight,
            max_video: self.max_video,
        }
    }
}

/// Size of a video, up to 3840x2160.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MaxVideo {
    /// Width in pixels, even.
    #[schema(minimum = 50, maximum = 3840)]
    pub width: u32,
    /// Height in pixels, even.
    #[schema(minimum = 50, maximum = 3840)]
    pub height: u32,
}

/// The form of [`Limits::max_video`].
mod max_video {
    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    use super::{Deserialize as _, MaxVideo, Serialize as _, Size};

    pub(super) fn serialize<S: Serializer>(size: &Option<Size>, serializer: S) -> Result<S::Ok, S::Error> {
        size.map(|size| MaxVideo { width: size.width(), height: size.height() }).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
        let size = Option::<MaxVideo>::deserialize(deserializer)?;
        size.map(|video| Size::new(video.width, video.height)).transpose().map_err(D::Error::custom)
    }
}

/// The form of a URL. Errors say what is allowed, and not what was rejected, which may contain secrets.
pub(super) mod url_text {
    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    use super::{Deserialize as _, Url};
    use crate::app::secrets::REDACTED;

    /// In a URL, [`REDACTED`] is encoded. It is the same URL without the encoding.
    const ENCODED_REDACTED: &str = "%E2%80%A6";

    pub(in crate::app) fn serialize<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&url.as_str().replace(ENCODED_REDACTED, REDACTED))
    }

    pub(in crate::app) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
        let text = String::deserialize(deserializer)?;
        Url::parse(&text).map_err(|_| D::Error::custom("must be a URL like https://host/path"))
    }
}
