//! Server of an application's rooms, and its ICE servers.

use pagecast_core::spec::{self, RoomService, RoomUrl, Secret};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Server in whose rooms pages are published. In addresses and tokens, `{app}`, `{room}`, `{user}` and
/// `{task}` stand for the identifiers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "kebab-case", try_from = "RoomFields")]
pub enum RoomProvider {
    /// The embedded rooms of this service.
    #[default]
    Embedded,
    /// A WHIP server (RFC 9725).
    Whip {
        /// WHIP endpoint.
        #[schema(value_type = String)]
        url: RoomUrl,
        /// Bearer token.
        #[schema(value_type = Option<String>)]
        token: Option<Secret>,
    },
    /// A WHIP endpoint whose rooms require tokens of Volcengine RTC. A token is made for each cast.
    Volcengine {
        /// WHIP endpoint.
        #[schema(value_type = String)]
        url: RoomUrl,
        /// AppKey of the application's `app_id`.
        #[schema(value_type = String)]
        app_key: Secret,
    },
    /// A LiveKit server; the room is created if it does not exist.
    Livekit {
        /// Address of the server: ws, wss, http or https.
        #[schema(value_type = String)]
        url: RoomUrl,
        /// Name of the API key.
        key: String,
        /// Secret of the API key, with which access tokens are signed.
        #[schema(value_type = String)]
        secret: Secret,
    },
    /// A Janus server with the VideoRoom plugin.
    Janus {
        /// WebSocket (ws, wss) or HTTP (http, https) address of the server.
        #[schema(value_type = String)]
        url: RoomUrl,
        /// API secret or token, if the server requires one.
        #[schema(value_type = Option<String>)]
        secret: Option<Secret>,
        /// Secret of the room, which permits removing an earlier publisher of the same user.
        #[schema(value_type = Option<String>)]
        room_secret: Option<Secret>,
        /// PIN of the room, if it requires one to join.
        #[schema(value_type = Option<String>)]
        pin: Option<Secret>,
    },
}

impl RoomProvider {
    /// Address of the server.
    pub(super) fn url_mut(&mut self) -> Option<&mut RoomUrl> {
        match self {
            Self::Embedded => None,
            Self::Whip { url, .. }
            | Self::Volcengine { url, .. }
            | Self::Livekit { url, .. }
            | Self::Janus { url, .. } => Some(url),
        }
    }

    /// The server in the description of a cast; `None` for the embedded rooms. `volcengine_token` makes the
    /// token of Volcengine RTC from the AppKey.
    pub(crate) fn service<E>(
        &self,
        volcengine_token: impl FnOnce(&Secret) -> Result<Secret, E>,
    ) -> Result<Option<RoomService>, E> {
        Ok(Some(match self.clone() {
            Self::Embedded => return Ok(None),
            Self::Whip { url, token } => RoomService::Whip { url, token },
            Self::Volcengine { url, app_key } => {
                RoomService::Whip { url, token: Some(volcengine_token(&app_key)?) }
            }
            Self::Livekit { url, key, secret } => RoomService::LiveKit { url, key, secret },
            Self::Janus { url, secret, room_secret, pin } => {
                RoomService::Janus { url, secret, room_secret, pin }
            }
        }))
    }
}

/// The fields of all providers. They are read before it is known which of them belong to the type, so that
/// errors name the field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoomFields {
    #[serde(rename = "type")]
    kind: RoomType,
    url: Option<RoomUrl>,
    token: Option<Secret>,
    app_key: Option<Secret>,
    key: Option<String>,
    secret: Option<Secret>,
    room_secret: Option<Secret>,
    pin: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RoomType {
    Embedded,
    Whip,
    Volcengine,
    Livekit,
    Janus,
}

impl TryFrom<RoomFields> for RoomProvider {
    type Error = String;

    fn try_from(fields: RoomFields) -> Result<Self, String> {
        let RoomFields {
            kind,
            mut url,
            mut token,
            mut app_key,
            mut key,
            mut secret,
            mut room_secret,
            mut pin,
        } = fields;
        let mut url_field = || take("url", &mut url);
        let room = match kind {
            RoomType::Embedded => Self::Embedded,
            RoomType::Whip => Self::Whip { url: url_field()?, token: token.take() },
            RoomType::Volcengine => {
                Self::Volcengine { url: url_field()?, app_key: take("app_key", &mut app_key)? }
            }
            RoomType::Livekit => Self::Livekit {
                url: url_field()?,
                key: take("key", &mut key)?,
                secret: take("secret", &mut secret)?,
            },
            RoomType::Janus => Self::Janus {
                url: url_field()?,
                secret: secret.take(),
                room_secret: room_secret.take(),
                pin: pin.take(),
            },
        };
        let superfluous = [
            ("url", url.is_some()),
            ("token", token.is_some()),
            ("app_key", app_key.is_some()),
            ("key", key.is_some()),
            ("secret", secret.is_some()),
            ("room_secret", room_secret.is_some()),
            ("pin", pin.is_some()),
        ];
        match superfluous.iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => Err(format!("{name} does not belong to rooms of this type: remove it")),
            None => Ok(room),
        }
    }
}

/// Takes a required field, with the error message of serde if it is absent.
fn take<T>(name: &str, field: &mut Option<T>) -> Result<T, String> {
    field.take().ok_or_else(|| format!("missing field `{name}`"))
}

/// ICE settings (RFC 8445).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ice {
    /// ICE servers, in addition to those that the room server announces, at most 8.
    pub servers: Vec<IceServer>,
    /// Whether to use TURN relays only.
    pub relay_only: bool,
}

/// A TURN or STUN server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// `turn:host:port?transport=udp`, `turns:host:port?transport=tcp` or `stun:host:port` (RFC 7064, RFC
    /// 7065).
    pub url: String,
    /// User name at a TURN server.
    #[serde(default)]
    pub username: String,
    /// Password at a TURN server.
    #[serde(default)]
    #[schema(value_type = String)]
    pub credential: Secret,
}

impl Ice {
    /// The settings in the description of a cast.
    #[must_use]
    pub fn to_spec(&self) -> spec::Ice {
        let server = |IceServer { url, username, credential }| spec::IceServer { url, username, credential };
        spec::Ice { servers: self.servers.iter().cloned().map(server).collect(), relay_only: self.relay_only }
    }
}
