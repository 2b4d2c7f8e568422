//! Settings of an application, with one format for reading and writing. Secrets are shown as `…`; a client
//! that sends `…` back keeps the secret.

use std::time::Duration;

use pagecast_core::spec::{
    Bucket, CaBundle, Ice, IceServer, Limits, NetworkPolicy, NetworkRule, RoomCodec, RoomService, RoomUrl,
    Secret, Size, Storage, StorageKeys,
};
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::ApiError;
use super::storage::{StorageKeysBody, storage_url};
use crate::app::{
    AccessKey, Application, CallbackReceiver, Callbacks, RoomProvider, StorageDefaults, VolcengineRooms,
    set_storage_keys,
};

/// Shown in place of a secret.
pub(super) const REDACTED: &str = "…";

/// Settings of an application. Absent fields have their defaults.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ApplicationSettings {
    /// `AppId` in Volcengine's API, if the application uses it.
    #[schema(pattern = "^[A-Za-z0-9_@.-]{1,128}$")]
    app_id: Option<String>,
    /// `SdkAppId` in Tencent's API, if the application uses it.
    #[schema(minimum = 1, maximum = 4_294_967_295u64)]
    sdk_app_id: Option<u64>,
    /// Most casts at the same time.
    #[schema(minimum = 1, maximum = 100_000)]
    max_casts: u32,
    /// Most requests, events and delivery logs kept of its casts, in MiB. Above it the history of the casts
    /// that ended first is deleted early; if that is not enough, new casts are refused.
    #[schema(minimum = 1, maximum = 1_048_576)]
    max_history_mib: u32,
    /// Receivers of callbacks.
    callbacks: CallbacksBody,
    /// Provider of the rooms for its pages.
    room: RoomProviderBody,
    /// Video codec in rooms.
    codec: RoomCodecBody,
    /// How to reach servers of rooms.
    ice: IceBody,
    /// Storages of recordings.
    storage: StorageDefaultsBody,
    /// Addresses that its pages, pushes, storages and callbacks may reach.
    network: NetworkBody,
    /// Certificates that its browsers trust besides their own, as PEM; at most 16.
    #[schema(max_length = 65_536)]
    ca: Option<String>,
    /// Limits of each cast.
    limits: LimitsBody,
}

/// Receivers of callbacks, by the API that a cast was created through.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Callbacks)]
struct CallbacksBody {
    /// Receiver for casts of Volcengine's API, in its format.
    volcengine: Option<ReceiverBody>,
    /// Receiver for casts of Tencent's API, in its format.
    tencent: Option<ReceiverBody>,
    /// Receiver for casts of the REST API.
    native: Option<ReceiverBody>,
}

/// Receiver of callbacks.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Receiver)]
struct ReceiverBody {
    /// Address, http or https. Its query is shown as `…`.
    url: String,
    /// Secret that signs the callbacks.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    secret: Option<Secret>,
    /// Time for further attempts after the vendor's own retries, in seconds.
    #[serde(default)]
    #[schema(maximum = 604_800)]
    extra_retry_s: u64,
    /// Volcengine only: whether to send the nonce as `Noce`, too, which old receivers expect.
    #[serde(default)]
    noce: bool,
}

/// Provider of rooms: this service, or another server.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
#[schema(as = RoomProvider)]
enum RoomProviderBody {
    /// The rooms of this service.
    #[default]
    Embedded,
    /// A WHIP server. In addresses and tokens, `{app}`, `{room}`, `{user}` and `{task}` are replaced by the
    /// identifiers.
    Whip {
        /// Endpoint of the server.
        url: String,
        /// Bearer token for the endpoint.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        token: Option<Secret>,
    },
    /// A WHIP gateway into rooms that require tokens of Volcengine RTC. A token is made for each cast.
    Volcengine {
        /// Endpoint of the gateway, as in `whip`.
        url: String,
        /// AppKey of the application's `app_id`.
        #[schema(value_type = String)]
        app_key: Secret,
    },
    /// A LiveKit server.
    Livekit {
        /// Address of the server.
        url: String,
        /// API key.
        key: String,
        /// Secret of the API key.
        #[schema(value_type = String)]
        secret: Secret,
    },
    /// A Janus server with the VideoRoom plugin.
    Janus {
        /// Address of the server.
        url: String,
        /// API secret or token, if the server requires one.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        secret: Option<Secret>,
        /// Secret of the room.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        room_secret: Option<Secret>,
        /// PIN of the room, if it has one.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        pin: Option<Secret>,
    },
}

/// Video codec in rooms.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = RoomCodec)]
enum RoomCodecBody {
    #[default]
    H264,
    Vp8,
}

/// How to reach servers of rooms.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Ice)]
struct IceBody {
    /// ICE servers besides those that the room's server names, at most 8.
    servers: Vec<IceServerBody>,
    /// Whether to connect through TURN servers only.
    relay_only: bool,
}

/// TURN or STUN server.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IceServer)]
struct IceServerBody {
    /// `turn:host:port?transport=udp`, `turns:host:port?transport=tcp` or `stun:host:port`.
    url: String,
    /// User name, for TURN servers.
    #[serde(default)]
    username: String,
    /// Password, for TURN servers.
    #[serde(default)]
    #[schema(value_type = String)]
    credential: Secret,
}

/// Storages of recordings.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = StorageDefaults)]
struct StorageDefaultsBody {
    /// Storage of recordings whose request names none. Default is a folder of the service.
    default: Option<StorageLocationBody>,
    /// Bucket for recordings whose own storage does not answer.
    backup: Option<StorageLocationBody>,
    /// Folder of the server that replaces the vendor's object storages: `CloudStorage` is stored in
    /// `BUCKET/PREFIX` below it.
    buckets_dir: Option<String>,
    /// Endpoint for `CloudStorage` with `Vendor` 0 (COS), instead of Tencent's.
    cos_endpoint: Option<String>,
    /// Endpoint for `CloudStorage` with `Vendor` 1 (S3), instead of Amazon's.
    s3_endpoint: Option<String>,
    /// Endpoint for `CloudVod`, instead of Tencent's.
    vod_endpoint: Option<String>,
    /// Keys for `CloudVod`, which names none itself.
    vod_keys: Option<VodKeysBody>,
}

/// Location of recordings.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StorageLocation)]
struct StorageLocationBody {
    /// Folder of the server, or `s3://BUCKET/PREFIX?region=…&endpoint=…&path-style=true`, or `gs://`,
    /// `az://`, `cos://`, `tos://`, `oss://`.
    to: String,
    /// Keys. Default are those of the service's environment.
    #[serde(default)]
    keys: Option<StorageKeysBody>,
}

/// Keys for video on demand.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = VodKeys)]
struct VodKeysBody {
    /// SecretId: 1 to 128 letters, digits and `_ - .`
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,128}$")]
    id: String,
    /// SecretKey of the pair.
    #[schema(value_type = String)]
    secret: Secret,
}

/// Addresses that may be reached, each `HOST` or `HOST:PORT`, where `HOST` is an IP address, a network like
/// `10.0.0.0/8`, a name, `*.name` or `*`.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Network)]
struct NetworkBody {
    /// Addresses to allow although they are not public.
    allow: Vec<String>,
    /// Addresses to deny although they are public.
    deny: Vec<String>,
    /// Whether pages may send UDP, which WebRTC prefers. UDP bypasses the egress proxy.
    udp: bool,
}

/// Limits of a cast.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Limits)]
struct LimitsBody {
    /// Longest time from the first frame to the end, in seconds.
    #[schema(minimum = 10, maximum = 86_400)]
    max_time_s: u64,
    /// Most browsers that are started for a cast.
    #[schema(minimum = 1, maximum = 10)]
    attempts: u32,
    /// Memory of the browser, in MiB.
    #[schema(minimum = 256, maximum = 262_144)]
    memory_mib: u64,
    /// Disk space that the browser may use, in MiB.
    #[schema(minimum = 256, maximum = 262_144)]
    disk_mib: u64,
    /// Weight of its CPU time against that of other casts.
    #[schema(minimum = 1, maximum = 10_000)]
    cpu_weight: u32,
    /// Largest video that the page may play, in either orientation. A larger one ends the cast.
    max_video: Option<MaxVideoBody>,
}

/// Size of a video, up to 3840x2160.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MaxVideo)]
struct MaxVideoBody {
    /// Width in pixels, even.
    #[schema(minimum = 50, maximum = 3840)]
    width: u32,
    /// Height in pixels, even.
    #[schema(minimum = 50, maximum = 3840)]
    height: u32,
}

impl Default for ApplicationSettings {
    fn default() -> Self {
        Self {
            app_id: None,
            sdk_app_id: None,
            max_casts: 200,
            max_history_mib: crate::app::max_history_mib(),
            callbacks: CallbacksBody::default(),
            room: RoomProviderBody::default(),
            codec: RoomCodecBody::default(),
            ice: IceBody::default(),
            storage: StorageDefaultsBody::default(),
            network: NetworkBody::default(),
            ca: None,
            limits: LimitsBody::default(),
        }
    }
}

impl Default for LimitsBody {
    fn default() -> Self {
        Self::from_limits(&Limits::default())
    }
}

fn redacted() -> Secret {
    Secret::new(REDACTED)
}

/// Returns the sent secret, or the old one if `…` was sent.
fn merge_secret(field: &str, sent: Secret, old: Option<&Secret>) -> Result<Secret, ApiError> {
    match old {
        _ if sent.reveal() != REDACTED => Ok(sent),
        Some(old) => Ok(old.clone()),
        None => Err(ApiError::invalid_parameter(
            field,
            "… keeps the old secret, but there is none: send the secret",
        )),
    }
}

fn merge_optional_secret(
    field: &str,
    sent: Option<Secret>,
    old: Option<&Secret>,
) -> Result<Option<Secret>, ApiError> {
    sent.map(|sent| merge_secret(field, sent, old)).transpose()
}

/// Parses the certificates of a request.
pub(super) fn parse_ca_bundle(field: &str, text: &str) -> Result<CaBundle, ApiError> {
    CaBundle::parse(text).map_err(|error| ApiError::invalid_parameter(field, error.to_string()))
}

fn parse_url(field: &str, text: Option<&String>) -> Result<Option<Url>, ApiError> {
    let parse =
        |text: &String| Url::parse(text).map_err(|_| ApiError::invalid_parameter(field, "it must be a URL"));
    text.map(parse).transpose()
}

impl ApplicationSettings {
    /// Settings of an application, without secrets.
    pub(super) fn from_application(app: &Application) -> Self {
        Self {
            app_id: app.app_id.clone(),
            sdk_app_id: app.sdk_app_id,
            max_casts: app.max_casts,
            max_history_mib: app.max_history_mib,
            callbacks: CallbacksBody {
                volcengine: app.callbacks.volcengine.as_ref().map(ReceiverBody::from_receiver),
                tencent: app.callbacks.tencent.as_ref().map(ReceiverBody::from_receiver),
                native: app.callbacks.native.as_ref().map(ReceiverBody::from_receiver),
            },
            room: RoomProviderBody::from_provider(&app.room),
            codec: match app.codec {
                RoomCodec::H264 => RoomCodecBody::H264,
                RoomCodec::Vp8 => RoomCodecBody::Vp8,
            },
            ice: IceBody {
                servers: app.ice.servers.iter().map(IceServerBody::from_server).collect(),
                relay_only: app.ice.relay_only,
            },
            storage: StorageDefaultsBody::from_defaults(&app.storage),
            network: NetworkBody {
                allow: app.network.allow.iter().map(ToString::to_string).collect(),
                deny: app.network.deny.iter().map(ToString::to_string).collect(),
                udp: app.network.udp,
            },
            ca: app.ca.as_ref().map(|ca| ca.as_str().to_owned()),
            limits: LimitsBody::from_limits(&app.limits),
        }
    }

    /// Builds an application with these settings. Keys and tokens are taken from `old`.
    pub(super) fn into_application(
        self,
        name: String,
        old: Option<&Application>,
    ) -> Result<Application, ApiError> {
        let mut codec = RoomCodec::H264;
        if let RoomCodecBody::Vp8 = self.codec {
            codec = RoomCodec::Vp8;
        }
        Ok(Application {
            name,
            app_id: self.app_id,
            sdk_app_id: self.sdk_app_id,
            keys: old.map(|old| old.keys.clone()).unwrap_or_default(),
            tokens: old.map(|old| old.tokens.clone()).unwrap_or_default(),
            max_casts: self.max_casts,
            max_history_mib: self.max_history_mib,
            callbacks: self.callbacks.into_callbacks(old.map(|old| &old.callbacks))?,
            room: self.room.into_provider(old.map(|old| &old.room))?,
            codec,
            ice: self.ice.into_ice(old.map(|old| &old.ice))?,
            storage: self.storage.into_defaults(old.map(|old| &old.storage))?,
            network: self.network.into_network()?,
            ca: self.ca.as_deref().map(|text| parse_ca_bundle("ca", text)).transpose()?,
            limits: self.limits.into_limits()?,
        })
    }
}

impl CallbacksBody {
    fn into_callbacks(self, old: Option<&Callbacks>) -> Result<Callbacks, ApiError> {
        let receiver = |name: &str, body: Option<ReceiverBody>, old: Option<&CallbackReceiver>| {
            body.map(|body| body.into_receiver(&format!("callbacks.{name}"), old)).transpose()
        };
        Ok(Callbacks {
            volcengine: receiver("volcengine", self.volcengine, old.and_then(|old| old.volcengine.as_ref()))?,
            tencent: receiver("tencent", self.tencent, old.and_then(|old| old.tencent.as_ref()))?,
            native: receiver("native", self.native, old.and_then(|old| old.native.as_ref()))?,
        })
    }
}

impl ReceiverBody {
    fn from_receiver(receiver: &CallbackReceiver) -> Self {
        Self {
            url: Self::redact_url(&receiver.url),
            secret: receiver.secret.as_ref().map(|_| redacted()),
            extra_retry_s: receiver.extra_retry_s,
            noce: receiver.noce,
        }
    }

    fn redact_url(url: &Url) -> String {
        let text = url.as_str();
        let path = &text[..text.find(['?', '#']).unwrap_or(text.len())];
        if path.len() == text.len() { path.to_owned() } else { format!("{path}?{REDACTED}") }
    }

    fn into_receiver(
        self,
        field: &str,
        old: Option<&CallbackReceiver>,
    ) -> Result<CallbackReceiver, ApiError> {
        let url = match old {
            Some(old) if Self::redact_url(&old.url) == self.url => old.url.clone(),
            _ => Url::parse(&self.url).map_err(|_| {
                ApiError::invalid_parameter(format!("{field}.url"), "it must be a URL like https://host/path")
            })?,
        };
        let old = old.and_then(|old| old.secret.as_ref());
        let secret = merge_optional_secret(&format!("{field}.secret"), self.secret, old)?;
        Ok(CallbackReceiver { url, secret, extra_retry_s: self.extra_retry_s, noce: self.noce })
    }
}

impl RoomProviderBody {
    fn from_provider(room: &RoomProvider) -> Self {
        let service = match room {
            RoomProvider::Embedded => return Self::Embedded,
            RoomProvider::Volcengine(rooms) => {
                return Self::Volcengine { url: rooms.url.to_string(), app_key: redacted() };
            }
            RoomProvider::Service(service) => service,
        };
        let url = service.url().to_string();
        let redact = |secret: &Option<Secret>| secret.as_ref().map(|_| redacted());
        match service {
            RoomService::Whip { token, .. } => Self::Whip { url, token: redact(token) },
            RoomService::LiveKit { key, .. } => Self::Livekit { url, key: key.clone(), secret: redacted() },
            RoomService::Janus { secret, room_secret, pin, .. } => Self::Janus {
                url,
                secret: redact(secret),
                room_secret: redact(room_secret),
                pin: redact(pin),
            },
        }
    }

    fn into_provider(self, old: Option<&RoomProvider>) -> Result<RoomProvider, ApiError> {
        let (old_url, old_value) = match old {
            Some(RoomProvider::Volcengine(rooms)) => (Some(&rooms.url), Some(&rooms.app_key)),
            Some(RoomProvider::Service(service)) => (Some(service.url()), None),
            _ => (None, None),
        };
        let old = match old {
            Some(RoomProvider::Service(service)) => Some(service),
            _ => None,
        };
        // The address is shown without secrets; if it comes back unchanged, the old one stays.
        let address = |text: String| match old_url {
            Some(old_url) if old_url.to_string() == text => Ok(old_url.clone()),
            _ => RoomUrl::parse(&text)
                .map_err(|error| ApiError::invalid_parameter("room.url", error.to_string())),
        };
        Ok(RoomProvider::Service(match self {
            Self::Embedded => return Ok(RoomProvider::Embedded),
            Self::Volcengine { url, app_key } => {
                let app_key = merge_secret("room.app_key", app_key, old_value)?;
                return Ok(RoomProvider::Volcengine(VolcengineRooms { url: address(url)?, app_key }));
            }
            Self::Whip { url, token } => {
                let old_value = match old {
                    Some(RoomService::Whip { token, .. }) => token.as_ref(),
                    _ => None,
                };
                RoomService::Whip {
                    url: address(url)?,
                    token: merge_optional_secret("room.token", token, old_value)?,
                }
            }
            Self::Livekit { url, key, secret } => {
                let old_value = match old {
                    Some(RoomService::LiveKit { secret, .. }) => Some(secret),
                    _ => None,
                };
                RoomService::LiveKit {
                    url: address(url)?,
                    key,
                    secret: merge_secret("room.secret", secret, old_value)?,
                }
            }
            Self::Janus { url, secret, room_secret, pin } => {
                let old_value = match old {
                    Some(RoomService::Janus { secret, room_secret, pin, .. }) => {
                        [secret.as_ref(), room_secret.as_ref(), pin.as_ref()]
                    }
                    _ => [None; 3],
                };
                RoomService::Janus {
                    url: address(url)?,
                    secret: merge_optional_secret("room.secret", secret, old_value[0])?,
                    room_secret: merge_optional_secret("room.room_secret", room_secret, old_value[1])?,
                    pin: merge_optional_secret("room.pin", pin, old_value[2])?,
                }
            }
        }))
    }
}

impl IceBody {
    fn into_ice(self, old: Option<&Ice>) -> Result<Ice, ApiError> {
        let server = |(i, body): (usize, IceServerBody)| {
            let old_value = old.and_then(|old| {
                old.servers.iter().find(|old| old.url == body.url && old.username == body.username)
            });
            let field = format!("ice.servers[{i}].credential");
            let credential = merge_secret(&field, body.credential, old_value.map(|old| &old.credential))?;
            Ok(IceServer { url: body.url, username: body.username, credential })
        };
        let servers = self.servers.into_iter().enumerate().map(server).collect::<Result<_, ApiError>>()?;
        Ok(Ice { servers, relay_only: self.relay_only })
    }
}

impl IceServerBody {
    fn from_server(server: &IceServer) -> Self {
        let none = server.credential.reveal().is_empty();
        let credential = if none { Secret::default() } else { redacted() };
        Self { url: server.url.clone(), username: server.username.clone(), credential }
    }
}

impl StorageDefaultsBody {
    fn from_defaults(storage: &StorageDefaults) -> Self {
        let text = |url: &Option<Url>| url.as_ref().map(ToString::to_string);
        let backup = storage.backup.clone().map(Storage::Bucket);
        Self {
            default: storage.default.as_ref().map(StorageLocationBody::from_storage),
            backup: backup.as_ref().map(StorageLocationBody::from_storage),
            buckets_dir: storage.buckets_dir.as_ref().map(|path| path.display().to_string()),
            cos_endpoint: text(&storage.cos_endpoint),
            s3_endpoint: text(&storage.s3_endpoint),
            vod_endpoint: text(&storage.vod_endpoint),
            vod_keys: storage
                .vod_keys
                .as_ref()
                .map(|key| VodKeysBody { id: key.id.clone(), secret: redacted() }),
        }
    }

    fn into_defaults(self, old: Option<&StorageDefaults>) -> Result<StorageDefaults, ApiError> {
        let old_backup = old.and_then(|old| old.backup.clone()).map(Storage::Bucket);
        let backup = self
            .backup
            .map(|location| location.into_storage("storage.backup", old_backup.as_ref()))
            .transpose()?;
        let backup = backup.map(require_bucket).transpose()?;
        let old_default = old.and_then(|old| old.default.as_ref());
        let default =
            self.default.map(|location| location.into_storage("storage.default", old_default)).transpose()?;
        let old_vod = old.and_then(|old| old.vod_keys.as_ref());
        let vod_key = |keys: VodKeysBody| {
            let old_value = old_vod.filter(|old| old.id == keys.id).map(|old| &old.secret);
            let secret = merge_secret("storage.vod_keys.secret", keys.secret, old_value)?;
            Ok::<_, ApiError>(AccessKey { id: keys.id, secret, disabled: false })
        };
        Ok(StorageDefaults {
            default,
            buckets_dir: self.buckets_dir.map(Into::into),
            cos_endpoint: parse_url("storage.cos_endpoint", self.cos_endpoint.as_ref())?,
            s3_endpoint: parse_url("storage.s3_endpoint", self.s3_endpoint.as_ref())?,
            vod_endpoint: parse_url("storage.vod_endpoint", self.vod_endpoint.as_ref())?,
            vod_keys: self.vod_keys.map(vod_key).transpose()?,
            backup,
        })
    }
}

fn require_bucket(storage: Storage) -> Result<Bucket, ApiError> {
    match storage {
        Storage::Bucket(bucket) => Ok(bucket),
        Storage::File(_) | Storage::Folder(_) | Storage::TencentVod(_) => Err(ApiError::invalid_parameter(
            "storage.backup.to",
            "the backup must be a bucket: use s3://… or another service",
        )),
    }
}

impl StorageLocationBody {
    fn from_storage(storage: &Storage) -> Self {
        let mut copy = storage.clone();
        let keys = copy.keys_mut().and_then(|keys| keys.take());
        let keys = keys.map(|keys| StorageKeysBody {
            access_key: redacted(),
            secret_key: redacted(),
            session_token: keys.session_token.map(|_| redacted()),
        });
        Self { to: storage_url(storage), keys }
    }

    fn into_storage(self, field: &str, old: Option<&Storage>) -> Result<Storage, ApiError> {
        let storage = Storage::parse(&self.to)
            .map_err(|error| ApiError::invalid_parameter(format!("{field}.to"), error.to_string()))?;
        // Old keys are only kept for the same storage, so that they are never sent to another one.
        let same_storage = old.filter(|old| storage_url(old) == storage_url(&storage)).cloned();
        let old_value = same_storage.and_then(|mut old| old.keys_mut().and_then(|keys| keys.take()));
        let field = format!("{field}.keys");
        let merge = |keys: StorageKeysBody| {
            let old_value = old_value.as_ref();
            Ok::<_, ApiError>(StorageKeys {
                access_key: merge_secret(&field, keys.access_key, old_value.map(|keys| &keys.access_key))?,
                secret_key: merge_secret(&field, keys.secret_key, old_value.map(|keys| &keys.secret_key))?,
                session_token: merge_optional_secret(
                    &field,
                    keys.session_token,
                    old_value.and_then(|keys| keys.session_token.as_ref()),
                )?,
            })
        };
        let keys = self.keys.map(merge).transpose()?;
        set_storage_keys(storage, keys).map_err(|reason| ApiError::invalid_parameter(field, reason))
    }
}

impl NetworkBody {
    fn into_network(self) -> Result<NetworkPolicy, ApiError> {
        let rules = |field: &str, list: Vec<String>| {
            let rule = |(i, text): (usize, String)| {
                NetworkRule::parse(&text).map_err(|error| {
                    ApiError::invalid_parameter(format!("network.{field}[{i}]"), error.to_string())
                })
            };
            list.into_iter().enumerate().map(rule).collect::<Result<Vec<_>, _>>()
        };
        Ok(NetworkPolicy {
            allow: rules("allow", self.allow)?,
            deny: rules("deny", self.deny)?,
            udp: self.udp,
        })
    }
}

impl LimitsBody {
    fn from_limits(limits: &Limits) -> Self {
        Self {
            max_time_s: limits.max_time.as_secs(),
            attempts: limits.attempts,
            memory_mib: limits.memory_bytes >> 20,
            disk_mib: limits.disk_bytes >> 20,
            cpu_weight: limits.cpu_weight,
            max_video: limits
                .max_video
                .map(|size| MaxVideoBody { width: size.width(), height: size.height() }),
        }
    }

    fn into_limits(self) -> Result<Limits, ApiError> {
        let bytes = |field: &str, mib: u64| {
            mib.checked_mul(1 << 20)
                .ok_or_else(|| ApiError::invalid_parameter(field, "it must be 256 to 262144 MiB"))
        };
        let video = |video: MaxVideoBody| {
            let size = Size::new(video.width, video.height);
            size.map_err(|error| ApiError::invalid_parameter("limits.max_video", error.to_string()))
        };
        Ok(Limits {
            max_time: Duration::from_secs(self.max_time_s),
            attempts: self.attempts,
            memory_bytes: bytes("limits.memory_mib", self.memory_mib)?,
            disk_bytes: bytes("limits.disk_mib", self.disk_mib)?,
            cpu_weight: self.cpu_weight,
            max_video: self.max_video.map(video).transpose()?,
        })
    }
}
