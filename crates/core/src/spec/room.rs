//! WebRTC room that the page is published in.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Secret, Size, SpecError};
use crate::time::Fps;

/// Longest identifier of an application, room, user or task, in bytes: the vendors' limit.
pub const MAX_ID_LEN: usize = 128;
/// Longest address of a room server with its templates filled in, in bytes.
pub const MAX_ROOM_URL_LEN: usize = 2048;
/// Longest token or key, in bytes.
pub const MAX_TOKEN_LEN: usize = 8192;
/// Maximum number of layers of a stream: one, or two for simulcast.
pub const MAX_LAYERS: usize = 2;
/// Range of the cap on a layer's bitrate, in kbit/s.
pub const LAYER_KBPS_RANGE: std::ops::RangeInclusive<u32> = 30..=20_000;
/// Maximum number of ICE servers; each adds candidates to gather and check.
pub const MAX_ICE_SERVERS: usize = 8;

/// Default bitrate ladder (the vendor's): pixels of a picture, and its maximum kbit/s at 30 frames per
/// second.
const BITRATE_LADDER: [(u32, u32); 10] = [
    (160 * 90, 100),
    (256 * 144, 200),
    (320 * 180, 300),
    (480 * 270, 400),
    (640 * 360, 600),
    (800 * 450, 800),
    (960 * 540, 900),
    (1120 * 630, 1000),
    (1280 * 720, 1200),
    (1920 * 1080, 3000),
];

/// A room and the stream that is published in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// Server of the room and its signalling protocol.
    pub service: RoomService,
    /// Identifiers of room and publisher.
    pub ids: RoomIds,
    /// One or two layers, the larger one first. The page is rendered at the size of the first.
    pub layers: Vec<Layer>,
    /// Video codec.
    #[serde(default)]
    pub codec: RoomCodec,
    /// ICE settings.
    #[serde(default)]
    pub ice: Ice,
}

/// Server of a room. In addresses and tokens, `{app}`, `{room}`, `{user}` and `{task}` stand for the
/// identifiers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoomService {
    /// A WHIP server (RFC 9725).
    Whip {
        /// WHIP endpoint.
        url: RoomUrl,
        /// Bearer token.
        #[serde(default)]
        token: Option<Secret>,
    },
    /// A LiveKit server; the room is created if it does not exist.
    LiveKit {
        /// Address of the server: ws, wss, http or https.
        url: RoomUrl,
        /// Name of the API key.
        key: String,
        /// Secret of the API key, with which access tokens are signed.
        secret: Secret,
    },
    /// A Janus server with the VideoRoom plugin.
    Janus {
        /// WebSocket (ws, wss) or HTTP (http, https) address of the server.
        url: RoomUrl,
        /// API secret or token, if the server requires one.
        #[serde(default)]
        secret: Option<Secret>,
        /// Secret of the room, which permits removing an earlier publisher of the same user.
        #[serde(default)]
        room_secret: Option<Secret>,
        /// PIN of the room, if it requires one to join.
        #[serde(default)]
        pin: Option<Secret>,
    },
}

/// Identifiers of room and publisher: each 1 to [`MAX_ID_LEN`] of the letters a to z and A to Z, digits, and
/// `_ @ - .`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomIds {
    /// Name of the application.
    pub app: String,
    /// Name of the room.
    pub room: String,
    /// User that publishes the page.
    pub user: String,
    /// Name of the task.
    pub task: String,
}

/// Upper bounds of one layer of a stream; congestion control may stay below them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Picture size.
    pub size: Size,
    /// Maximum frame rate, not above that of the page.
    pub fps: Fps,
    /// Maximum bitrate in kbit/s; `None` means [`default_layer_bitrate_kbps`].
    #[serde(default)]
    pub bitrate_kbps: Option<u32>,
}

/// Video codec of a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoomCodec {
    /// H.264, constrained baseline.
    #[default]
    H264,
    /// VP8 video.
    Vp8,
}

/// ICE settings (RFC 8445).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ice {
    /// ICE servers, in addition to those that the room server announces.
    #[serde(default)]
    pub servers: Vec<IceServer>,
    /// Whether to use TURN relays only.
    #[serde(default)]
    pub relay_only: bool,
}

/// A TURN or STUN server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `turn:host:port?transport=udp`, `turns:host:port?transport=tcp` or `stun:host:port` (RFC 7064, RFC
    /// 7065).
    pub url: String,
    /// User name at a TURN server.
    #[serde(default)]
    pub username: String,
    /// Password at a TURN server.
    #[serde(default)]
    pub credential: Secret,
}

/// Address of a room server, with templates. It displays scheme, host and path only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoomUrl(String);

impl RoomUrl {
    /// Parses an http, https, ws or wss address.
    ///
    /// # Errors
    /// [`SpecError::Room`].
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let bad = |why| Err(SpecError::Room { what: "the address of a room's server", why });
        if text.len() > MAX_ROOM_URL_LEN {
            return bad("it is longer than 2048 bytes");
        }
        let Ok(url) = Url::parse(&text.replace(['{', '}'], "_")) else {
            return bad("it is not a URL like https://host/whip/{room}");
        };
        if !["http", "https", "ws", "wss"].contains(&url.scheme()) {
            return bad("only http:, https:, ws: and wss: are supported");
        }
        if url.host_str().is_none_or(str::is_empty) {
            return bad("it has no host");
        }
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else { return bad("a { has no }") };
            if !["app", "room", "user", "task"].contains(&name) {
                return bad("the only templates are {app}, {room}, {user} and {task}");
            }
            rest = after;
        }
        Ok(Self(text.to_owned()))
    }

    /// The address as written, including secrets.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The address as it is displayed, without secrets.
    #[must_use]
    pub fn redacted(&self) -> Self {
        Self(self.to_string())
    }

    /// Whether the address uses TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.starts_with("https:") || self.0.starts_with("wss:")
    }
}

impl TryFrom<String> for RoomUrl {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        Self::parse(&text)
    }
}

impl From<RoomUrl> for String {
    fn from(url: RoomUrl) -> Self {
        url.0
    }
}

impl fmt::Display for RoomUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.find(['?', '#']).unwrap_or(self.0.len());
        let shown = &self.0[..end];
        // A password may stand before the host.
        match (shown.split_once("://"), shown.rfind('@')) {
            (Some((scheme, _)), Some(at)) => write!(f, "{scheme}://…{}", &shown[at..]),
            _ => f.write_str(shown),
        }
    }
}

impl fmt::Debug for RoomUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RoomService {
    /// Address of the server.
    #[must_use]
    pub fn url(&self) -> &RoomUrl {
        let (Self::Whip { url, .. } | Self::LiveKit { url, .. } | Self::Janus { url, .. }) = self;
        url
    }
}

impl RoomIds {
    /// Fills the identifiers into a template, unescaped.
    #[must_use]
    pub fn fill_template(&self, template: &str) -> String {
        self.substitute(template, str::to_owned)
    }

    /// Fills the identifiers into an address. Of their characters, only `@` needs escaping there.
    #[must_use]
    pub fn fill_url_template(&self, template: &RoomUrl) -> String {
        self.substitute(&template.0, |id| id.replace('@', "%40"))
    }

    /// Fills in all identifiers in one pass, so that an identifier which looks like a template is not filled
    /// again.
    fn substitute(&self, template: &str, write: impl Fn(&str) -> String) -> String {
        let variables =
            [("{app}", &self.app), ("{room}", &self.room), ("{user}", &self.user), ("{task}", &self.task)];
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            match variables.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, id)) => {
                    filled.push_str(&write(id));
                    rest = &rest[name.len()..];
                }
                None => {
                    filled.push('{');
                    rest = &rest[1..];
                }
            }
        }
        filled.push_str(rest);
        filled
    }

    fn validate(&self) -> Result<(), SpecError> {
        let fits = |id: &str| {
            (1..=MAX_ID_LEN).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_@-.".contains(&b))
        };
        let why = "1 to 128 of the letters a to z and A to Z, digits, and _ @ - . are possible";
        for (what, id) in [
            ("this application identifier", &self.app),
            ("this room identifier", &self.room),
            ("this user identifier", &self.user),
            ("this task identifier", &self.task),
        ] {
            if !fits(id) {
                return Err(SpecError::Room { what, why });
            }
        }
        Ok(())
    }
}

impl Layer {
    /// Cap on the layer's bitrate, in bit/s.
    #[must_use]
    pub fn bitrate_bps(&self) -> u32 {
        1000 * self.bitrate_kbps.unwrap_or_else(|| default_layer_bitrate_kbps(self.size, self.fps))
    }
}

/// Default cap on a layer's bitrate, in kbit/s: the ladder interpolated by the number of pixels and scaled by
/// the frame rate, but to no less than half.
#[must_use]
pub fn default_layer_bitrate_kbps(size: Size, fps: Fps) -> u32 {
    let pixels = f64::from(size.width() * size.height());
    let rungs = BITRATE_LADDER.map(|(pixels, kbps)| (f64::from(pixels), f64::from(kbps)));
    let (first, last) = (rungs[0], rungs[rungs.len() - 1]);
    let between = rungs.windows(2).find(|pair| pixels <= pair[1].0);
    let kbps = match between {
        _ if pixels <= first.0 => first.1 * pixels / first.0,
        Some(pair) => pair[0].1 + (pair[1].1 - pair[0].1) * (pixels - pair[0].0) / (pair[1].0 - pair[0].0),
        None => last.1 * pixels / last.0,
    };
    let scale = (f64::from(fps.get()) / 30.0).max(0.5);
    ((kbps * scale).round() as u32).clamp(*LAYER_KBPS_RANGE.start(), *LAYER_KBPS_RANGE.end())
}

impl Room {
    /// Creates a room with one layer and default settings.
    #[must_use]
    pub fn new(service: RoomService, ids: RoomIds, layer: Layer) -> Self {
        Self { service, ids, layers: vec![layer], codec: RoomCodec::default(), ice: Ice::default() }
    }

    /// Address of the server with its templates filled in, including secrets.
    #[must_use]
    pub fn url(&self) -> String {
        self.ids.fill_url_template(self.service.url())
    }

    /// Address of the server with its templates filled in, without secrets.
    #[must_use]
    pub fn redacted_url(&self) -> String {
        self.ids.fill_template(&self.service.url().to_string())
    }

    pub(super) fn validate(&self, size: Size, fps: Fps) -> Result<(), SpecError> {
        self.ids.validate()?;
        let bad = |what, why| Err(SpecError::Room { what, why });
        let layers = "these layers";
        match self.layers.as_slice() {
            [first, rest @ ..] if rest.len() < MAX_LAYERS => {
                if first.size != size {
                    return bad(layers, "the first one must have the size of the page");
                }
                let area = |layer: &Layer| layer.size.width() * layer.size.height();
                if rest.iter().any(|second| area(second) >= area(first)) {
                    return bad(layers, "the second one must be smaller than the first");
                }
            }
            _ => return bad(layers, "one or two are possible"),
        }
        if self.layers.iter().any(|layer| layer.fps.get() > fps.get()) {
            return bad(layers, "they cannot have more frames per second than the page");
        }
        for kbps in self.layers.iter().filter_map(|layer| layer.bitrate_kbps) {
            if !LAYER_KBPS_RANGE.contains(&kbps) {
                return bad("this bitrate of a layer", "30 to 20000 kbit/s are possible");
            }
        }
        self.validate_service()?;
        self.ice.validate()
    }

    fn validate_service(&self) -> Result<(), SpecError> {
        let bad = |what, why| Err(SpecError::Room { what, why });
        let (url, http_only, secrets) = match &self.service {
            RoomService::Whip { url, token } => (url, true, vec![token.as_ref()]),
            RoomService::LiveKit { url, key, secret } => {
                if key.is_empty() || secret.reveal().is_empty() {
                    return bad("this LiveKit server", "it needs the name of an API key and its secret");
                }
                if key.len() > MAX_TOKEN_LEN {
                    return bad("this API key", "its name is longer than 8192 bytes");
                }
                (url, false, vec![Some(secret)])
            }
            RoomService::Janus { url, secret, room_secret, pin } => {
                (url, false, vec![secret.as_ref(), room_secret.as_ref(), pin.as_ref()])
            }
        };
        if http_only && url.0.starts_with("ws") {
            return bad("this WHIP endpoint", "it must be an http: or https: address");
        }
        let filled = self.ids.fill_url_template(url);
        if filled.len() > MAX_ROOM_URL_LEN {
            return bad("the address of a room's server", "it is longer than 2048 bytes");
        }
        let path = filled.split(['?', '#']).next().unwrap_or_default();
        if path.split('/').any(|step| step == "." || step == "..") {
            return bad(
                "the identifiers . and ..",
                "as a path segment of the server's address they would lead to another path",
            );
        }
        if secrets.into_iter().flatten().any(|secret| secret.reveal().len() > MAX_TOKEN_LEN) {
            return bad("this token", "it is longer than 8192 bytes");
        }
        Ok(())
    }
}

impl Ice {
    fn validate(&self) -> Result<(), SpecError> {
        let what = "these servers for ICE";
        let bad = |why| Err(SpecError::Room { what, why });
        if self.servers.len() > MAX_ICE_SERVERS {
            return bad("at most 8 are allowed");
        }
        let known = ["stun:", "turn:", "turns:"];
        if self.servers.iter().any(|server| !known.iter().any(|scheme| server.url.starts_with(scheme))) {
            return bad("each must start with stun:, turn: or turns:");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> RoomIds {
        let id = |text: &str| text.to_owned();
        RoomIds { app: id("a.1"), room: id("r@x"), user: id("webcast_1"), task: id("t-1") }
    }

    fn layer(width: u32, height: u32, fps: u32) -> Layer {
        let (size, fps) = (Size::new(width, height).unwrap(), Fps::new(fps).unwrap());
        Layer { size, fps, bitrate_kbps: None }
    }

    fn whip(url: &str) -> RoomService {
        RoomService::Whip { url: RoomUrl::parse(url).unwrap(), token: None }
    }

    #[test]
    fn templates_are_filled_once() {
        let url = RoomUrl::parse("https://a.example/{app}/{room}?u={user}&t={task}").unwrap();
        assert_eq!(ids().fill_url_template(&url), "https://a.example/a.1/r%40x?u=webcast_1&t=t-1");
        assert_eq!(ids().fill_template("{room}:{user}:{other}"), "r@x:webcast_1:{other}");
        for bad in ["ftp://a", "https://", "https://a/{x}", "https://a/{room", "a"] {
            assert!(RoomUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_hide_secrets() {
        let url = RoomUrl::parse("https://me:hunter2@a.example/{room}?key=hunter2").unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://…@a.example/{room} https://…@a.example/{room}");
    }

    #[test]
    fn bitrates_follow_the_ladder() {
        let kbps = |width, height, fps| layer(width, height, fps).bitrate_bps() / 1000;
        assert_eq!([kbps(1920, 1080, 30), kbps(1280, 720, 30), kbps(640, 360, 30)], [3000, 1200, 600]);
        assert_eq!([kbps(1280, 720, 60), kbps(1280, 720, 15), kbps(1280, 720, 1)], [2400, 600, 600]);
        assert_eq!([kbps(160, 90, 30), kbps(50, 50, 15)], [100, 30]);
        assert!((1200..3000).contains(&kbps(1600, 900, 30)));
    }

    #[test]
    fn errors_name_the_value_and_its_range() {
        let room = Room::new(whip("https://a.example/{room}"), ids(), layer(1280, 720, 30));
        let error = |change: &dyn Fn(&mut Room)| {
            let mut bad = room.clone();
            change(&mut bad);
            bad.validate(Size::HD, Fps::DEFAULT).unwrap_err().to_string()
        };
        assert_eq!(room.validate(Size::HD, Fps::DEFAULT), Ok(()));
        for (message, part) in [
            (error(&|r| r.ids.user = "a b".into()), "this user identifier"),
            (error(&|r| r.ids.task = "a".repeat(129)), "this task identifier"),
            (error(&|r| r.layers.clear()), "one or two"),
            (error(&|r| r.layers = vec![layer(640, 360, 30)]), "size of the page"),
            (error(&|r| r.layers.push(layer(1280, 720, 30))), "smaller"),
            (error(&|r| r.layers[0].fps = Fps::new(31).unwrap()), "more frames"),
            (error(&|r| r.layers[0].bitrate_kbps = Some(20)), "30 to 20000"),
            (error(&|r| r.service = whip("wss://a.example")), "http: or https:"),
            (
                error(&|r| {
                    r.ice.servers = vec![IceServer {
                        url: "x".into(),
                        username: String::new(),
                        credential: Secret::default(),
                    }];
                }),
                "stun:",
            ),
        ] {
            assert!(message.contains(part), "{message}");
        }
        let mut two = room.clone();
        two.layers.push(layer(640, 360, 15));
        assert_eq!(two.validate(Size::HD, Fps::DEFAULT), Ok(()));
        let same: Room = serde_json::from_str(&serde_json::to_string(&two).unwrap()).unwrap();
        assert_eq!(same, two);
    }
}
