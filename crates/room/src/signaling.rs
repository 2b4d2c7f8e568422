//! Signaling with a server. Each protocol is one [`SignalingClient`], which handles SDP but no media.
//!
//! ```text
//!  join ─▶ ICE servers ─▶ offer ─▶ negotiate ─▶ answer ─▶ next, next … ─▶ leave
//! ```

mod janus;
mod livekit;
mod whip;

use async_trait::async_trait;
use pagecast_core::spec::{IceServer, Room, RoomService};

/// Longest text of a server in an error, in characters: a line of a log.
const MAX_ERROR_TEXT_CHARS: usize = 200;

/// Why a server does not accept the stream, or no longer. The texts contain no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The server cannot be reached or does not answer in time. A retry may succeed.
    #[error("cannot reach {server}: {why}")]
    Unreachable {
        /// URL of the server, without secrets.
        server: String,
        /// Cause of the failure.
        why: String,
    },
    /// The server failed or its response is invalid. A retry may succeed.
    #[error("{server} failed: {why}")]
    Failed {
        /// URL of the server, without secrets.
        server: String,
        /// Text of the server.
        why: String,
    },
    /// The server refuses the stream for a lasting reason, such as a wrong token or an unknown room.
    #[error("{server} refuses: {why}")]
    Refused {
        /// URL of the server, without secrets.
        server: String,
        /// Text of the server.
        why: String,
    },
    /// Another publisher of this user replaced this one.
    #[error("another publisher took over as this user")]
    Replaced,
}

impl Error {
    /// Whether a retry may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Failed { .. })
    }
}

/// An SDP offer, with the details that some protocols send beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// SDP offer.
    pub(crate) sdp: String,
    /// `mid` of the audio.
    pub(crate) audio_mid: String,
    /// `mid` of the video.
    pub(crate) video_mid: String,
    /// Layers of the video, the larger one first.
    pub(crate) layers: Vec<OfferedLayer>,
}

/// A layer of the video in an [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfferedLayer {
    /// `rid` of the layer. `None` without simulcast.
    pub(crate) rid: Option<String>,
    /// Width and height in pixels.
    pub(crate) size: (u32, u32),
    /// Frames per second.
    pub(crate) fps: u32,
    /// Highest bitrate, in bit/s.
    pub(crate) bitrate_bps: u32,
}

/// Event that a server sends after the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerEvent {
    /// A remote candidate: the value of an `a=candidate` line, from `candidate:` on.
    Candidate(String),
    /// The subscription of a layer changed. A layer without subscribers may be paused.
    LayerSubscription {
        /// Index of the layer in the offer.
        layer: usize,
        /// Whether the layer has subscribers.
        subscribed: bool,
    },
}

/// Client of a signaling protocol, for one connection: create, join, negotiate, leave, drop. It does not
/// retry; the caller may. Each call has its own deadline. A dropped call leaves nothing running.
#[async_trait]
pub(crate) trait SignalingClient: Send {
    /// The `rid`s of two layers, the larger one first.
    fn rids(&self) -> [&'static str; 2] {
        ["h", "m"]
    }

    /// Joins the room and returns the ICE servers that the server names.
    async fn join(&mut self) -> Result<Vec<IceServer>, Error>;

    /// Sends an offer with all candidates and returns the SDP answer.
    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error>;

    /// ICE servers that came with the answer.
    fn answer_ice_servers(&mut self) -> Vec<IceServer> {
        Vec::new()
    }

    /// Sends candidates that were not in the offer, as an SDP fragment (RFC 8840).
    async fn trickle(&mut self, _fragment: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Restarts ICE with an SDP fragment of new credentials and candidates, and returns the server's
    /// fragment. `None` if the protocol has no ICE restart, so that a new session is needed.
    async fn restart_ice(&mut self, _fragment: &str) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// Waits for the next event of the server and keeps the connection alive meanwhile. Cancel-safe. An error
    /// ends the connection.
    async fn next_event(&mut self) -> Result<ServerEvent, Error>;

    /// Leaves the room, within a second. Returns why the session had ended before, if the server says so.
    async fn leave(&mut self) -> Option<Error>;
}

/// The client for a room's server.
pub(crate) fn client_for(room: &Room) -> Box<dyn SignalingClient> {
    match &room.service {
        RoomService::Whip { url, token } => Box::new(whip::WhipClient::new(url, token.as_ref(), &room.ids)),
        RoomService::LiveKit { url, key, secret } => {
            Box::new(livekit::LiveKitClient::new(url, key, secret, &room.ids))
        }
        RoomService::Janus { url, secret, room_secret, pin } => {
            Box::new(janus::JanusClient::new(url, [secret, room_secret, pin].map(Option::as_ref), &room.ids))
        }
    }
}

/// Text of a server, on one line, printable and shortened.
pub(crate) fn sanitize_text(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(MAX_ERROR_TEXT_CHARS).collect()
}
