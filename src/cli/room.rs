//! Options of the room that a page is published to.

use std::net::SocketAddr;

use clap::Args;
use pagecast_core::SpecError;
use pagecast_core::spec::{self, Ice, IceServer, Layer, RoomCodec, RoomIds, RoomService, RoomUrl, Secret};

use super::{cast::CastOptions, parse_fps, parse_kbps, parse_size};

const HELP_HEADING: &str = "The room";

/// Options of the room.
#[derive(Debug, Args)]
#[command(next_help_heading = HELP_HEADING)]
pub(crate) struct RoomOptions {
    /// The room. Without one of the three servers below, Pagecast opens the room itself, and prints the
    /// viewer URL
    #[arg(long, default_value = "demo", value_name = "NAME")]
    room: String,
    /// User to publish the page as; another publisher of the same name is removed from the room
    #[arg(long, default_value = "webcast", value_name = "NAME")]
    user: String,
    /// Value of {app} in addresses and tokens
    #[arg(long, default_value = "pagecast", value_name = "NAME")]
    app: String,
    /// Value of {task} in addresses and tokens
    #[arg(long, default_value = "cast", value_name = "NAME")]
    task: String,
    /// Publish to a WHIP endpoint, like https://host/whip/{room}; {app}, {room}, {user} and {task} are filled
    /// in. The bearer token is read from the environment: PAGECAST_ROOM_TOKEN
    #[arg(long, value_name = "URL", value_parser = RoomUrl::parse, group = "server")]
    whip: Option<RoomUrl>,
    /// Publish to a LiveKit server, like wss://host; LIVEKIT_API_KEY and LIVEKIT_API_SECRET are read from the
    /// environment
    #[arg(long, value_name = "URL", value_parser = RoomUrl::parse, group = "server")]
    livekit: Option<RoomUrl>,
    /// Publish to a Janus VideoRoom, like ws://host:8188 or http://host:8088/janus; JANUS_SECRET (of the
    /// API), JANUS_ROOM_SECRET and JANUS_ROOM_PIN are read from the environment, where the server needs them
    #[arg(long, value_name = "URL", value_parser = RoomUrl::parse, group = "server")]
    janus: Option<RoomUrl>,
    /// A second, smaller simulcast layer for viewers with little bandwidth, like 640x360 or 640x360@15
    #[arg(long, value_name = "WxH[@FPS]", value_parser = parse_layer)]
    layer: Option<(spec::Size, Option<pagecast_core::Fps>)>,
    /// Limit of the video bitrate in the room, like 1200k or 1.2M; RATE,RATE for two layers; a plain number
    /// is kbit/s; 0 is automatic [default: by size and rate, 1200k for 1280x720 at 30]
    #[arg(long, value_name = "RATE", value_delimiter = ',', num_args = 1..=2, value_parser = parse_kbps)]
    room_bitrate: Vec<u32>,
    /// Video codec in the room
    #[arg(long, value_enum, default_value = "h264")]
    room_codec: CodecName,
    /// A STUN or TURN server, like turn:host:3478?transport=udp; user and password of a TURN server are read
    /// from the environment: PAGECAST_TURN_USER, PAGECAST_TURN_PASSWORD; may be repeated
    #[arg(long, value_name = "URL")]
    ice_server: Vec<String>,
    /// Send media through a TURN server only
    #[arg(long)]
    relay_only: bool,
    /// Address of Pagecast's own room for browsers. Reachable from other machines, it requires tokens, signed
    /// with PAGECAST_ROOM_SECRET
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Address for the media of Pagecast's own room, UDP and TCP [default: the same address, any free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen_media: Option<SocketAddr>,
    /// The address at which viewers reach the media of Pagecast's own room, if it is a different one; port 0
    /// is the same port; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) public_address: Vec<SocketAddr>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum CodecName {
    H264,
    Vp8,
}

/// Looks up an environment variable. Secrets are read from the environment, as the list of processes shows
/// arguments.
pub(crate) type EnvLookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl RoomOptions {
    /// Returns whether Pagecast opens the room itself.
    pub(crate) fn is_embedded(&self) -> bool {
        self.whip.is_none() && self.livekit.is_none() && self.janus.is_none()
    }

    /// Returns the name of the room.
    pub(crate) fn name(&self) -> &str {
        &self.room
    }

    /// Returns the name of the user.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Returns the description of the room. `own` is Pagecast's own server, used if no other is named.
    pub(crate) fn spec(
        &self,
        cast: &CastOptions,
        own: Option<RoomService>,
        environment: EnvLookup<'_>,
    ) -> Result<spec::Room, SpecError> {
        let ids = RoomIds {
            app: self.app.clone(),
            room: self.room.clone(),
            user: self.user.clone(),
            task: self.task.clone(),
        };
        let kbps = |index: usize| self.room_bitrate.get(index).copied().filter(|kbps| *kbps > 0);
        let first = Layer { size: cast.size, fps: cast.fps, bitrate_kbps: kbps(0) };
        let mut room = spec::Room::new(self.service(own, environment)?, ids, first);
        if let Some((size, fps)) = self.layer {
            room.layers.push(Layer { size, fps: fps.unwrap_or(cast.fps), bitrate_kbps: kbps(1) });
        }
        room.codec = match self.room_codec {
            CodecName::H264 => RoomCodec::H264,
            CodecName::Vp8 => RoomCodec::Vp8,
        };
        let server = |url: &String| IceServer {
            url: url.clone(),
            username: environment("PAGECAST_TURN_USER").unwrap_or_default(),
            credential: Secret::new(environment("PAGECAST_TURN_PASSWORD").unwrap_or_default()),
        };
        room.ice = Ice { servers: self.ice_server.iter().map(server).collect(), relay_only: self.relay_only };
        Ok(room)
    }

    fn service(
        &self,
        own: Option<RoomService>,
        environment: EnvLookup<'_>,
    ) -> Result<RoomService, SpecError> {
        let secret = |name| environment(name).map(Secret::new);
        if let Some(url) = &self.whip {
            return Ok(RoomService::Whip { url: url.clone(), token: secret("PAGECAST_ROOM_TOKEN") });
        }
        if let Some(url) = &self.livekit {
            let (key, secret) = (environment("LIVEKIT_API_KEY"), secret("LIVEKIT_API_SECRET"));
            let (Some(key), Some(secret)) = (key, secret) else {
                let why = "set LIVEKIT_API_KEY and LIVEKIT_API_SECRET in the environment";
                return Err(SpecError::Room { what: "this LiveKit server", why });
            };
            return Ok(RoomService::LiveKit { url: url.clone(), key, secret });
        }
        if let Some(url) = &self.janus {
            return Ok(RoomService::Janus {
                url: url.clone(),
                secret: secret("JANUS_SECRET"),
                room_secret: secret("JANUS_ROOM_SECRET"),
                pin: secret("JANUS_ROOM_PIN"),
            });
        }
        own.ok_or(SpecError::Room { what: "this room", why: "name a server" })
    }
}

/// Parses a layer: `640x360` or `640x360@15`.
fn parse_layer(text: &str) -> Result<(spec::Size, Option<pagecast_core::Fps>), String> {
    let (size, fps) = text.split_once('@').map_or((text, None), |(size, fps)| (size, Some(fps)));
    Ok((parse_size(size)?, fps.map(parse_fps).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        cast: CastOptions,
        #[command(flatten)]
        room: RoomOptions,
    }

    fn room(arguments: &[&str]) -> Result<spec::Room, SpecError> {
        let line = TestCli::parse_from(["x", "http://a.example"].iter().chain(arguments));
        let own =
            RoomService::Whip { url: RoomUrl::parse("http://127.0.0.1:1/{room}").unwrap(), token: None };
        line.room.spec(&line.cast, Some(own), &|name| (name == "LIVEKIT_API_KEY").then(|| "key".to_owned()))
    }

    #[test]
    fn rooms() {
        let own = room(&["--room", "a", "--layer", "640x360@15", "--room-bitrate", "0,300"]).unwrap();
        assert_eq!((own.url().as_str(), own.layers.len()), ("http://127.0.0.1:1/a", 2));
        assert_eq!((own.layers[0].bitrate_bps(), own.layers[1].bitrate_bps()), (1_200_000, 300_000));
        assert_eq!(own.layers[1].fps.get(), 15);
        let whip = room(&["--whip", "https://b.example/{user}", "--room-codec", "vp8"]).unwrap();
        assert_eq!((whip.url().as_str(), whip.codec), ("https://b.example/webcast", RoomCodec::Vp8));
        assert!(
            room(&["--livekit", "wss://c.example"]).unwrap_err().to_string().contains("LIVEKIT_API_SECRET")
        );
        let two = ["x", "http://a.example", "--whip", "http://b", "--janus", "ws://c"];
        assert!(TestCli::try_parse_from(two).is_err(), "one server is enough");
    }
}
