//! How a server is asked to take a stream. Each dialect is one [`SignalingClient`]; of media it knows nothing but the words of SDP.
//!
//! ```text
//!  join ─▶ ICE servers ─▶ offer ─▶ negotiate ─▶ answer ─▶ next, next … ─▶ leave
//! ```

mod janus;
mod livekit;
mod whip;

use async_trait::async_trait;
use pagecast_core::spec::{IceServer, Room, RoomService};

/// Most characters of what a server said that are repeated.
const MAX_ERROR_TEXT_CHARS: usize = 200;

/// Why a server does not take the stream, or takes it no longer. What it says holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// It cannot be reached, or does not answer in time: worth another try.
    #[error("cannot reach {server}: {why}")]
    Unreachable {
        /// Which server, without secrets.
        server: String,
        /// What went wrong.
        why: String,
    },
    /// It answered something that cannot be understood, or failed: worth another try.
    #[error("{server} failed: {why}")]
    Failed {
        /// Which server, without secrets.
        server: String,
        /// What it said.
        why: String,
    },
    /// It refuses, and will again: a wrong token, a room that does not exist.
    #[error("{server} refuses: {why}")]
    Refused {
        /// Which server, without secrets.
        server: String,
        /// What it said.
        why: String,
    },
    /// Somebody else publishes as this user now.
    #[error("another publisher took over as this user")]
    Replaced,
}

impl Error {
    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Failed { .. })
    }
}

/// What is going to be sent, for dialects that want to know it beside the SDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The SDP.
    pub(crate) sdp: String,
    /// `mid` of the sound.
    pub(crate) audio_mid: String,
    /// `mid` of the picture.
    pub(crate) video_mid: String,
    /// The picture's layers, the larger one first.
    pub(crate) layers: Vec<OfferedLayer>,
}

/// A layer of the picture in an [`LayerOption`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfferedLayer {
    /// Its `rid`; none where there is only one.
    pub(crate) rid: Option<String>,
    /// Width and height in pixels.
    pub(crate) size: (u32, u32),
    /// Frames per second.
    pub(crate) fps: u32,
    /// Most bits per second.
    pub(crate) bitrate_bps: u32,
}

/// What a server says of itself after the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerEvent {
    /// One more way to reach it: the value of an `a=candidate` line, from `candidate:` on.
    Candidate(String),
    /// A layer is watched by nobody, or is again; by its place in the offer. It may be paused then.
    LayerSubscription {
        /// Its place in the offer.
        layer: usize,
        /// Whether anybody watches it.
        subscribed: bool,
    },
}

/// A dialect. One value is one connection: made, joined, negotiated, left, dropped. Nothing is tried twice here: whoever calls may.
/// Each call has a deadline of its own, so none lasts for ever; dropped halfway, a call leaves nothing running.
#[async_trait]
pub(crate) trait SignalingClient: Send {
    /// The `rid`s of two layers, the larger one first.
    fn rids(&self) -> [&'static str; 2] {
        ["h", "m"]
    }

    /// Greets the server: which servers for ICE it names, besides those that are configured.
    async fn join(&mut self) -> Result<Vec<IceServer>, Error>;

    /// Sends an offer, with all candidates in it; the SDP of the answer.
    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error>;

    /// Servers for ICE that only the answer named.
    fn answer_ice_servers(&mut self) -> Vec<IceServer> {
        Vec::new()
    }

    /// Tells candidates that were not in the offer, as a fragment of SDP (RFC 8840).
    async fn trickle(&mut self, _fragment: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Asks for new ways between the two, as a fragment of SDP with new credentials and candidates; the server's fragment. `None`
    /// where the dialect has no such thing: then a new session has to be made.
    async fn restart_ice(&mut self, _fragment: &str) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// Waits for what the server has to say, keeping the connection alive meanwhile. Safe to be dropped and called again: nothing is
    /// lost. An error is the end of this connection.
    async fn next_event(&mut self) -> Result<ServerEvent, Error>;

    /// Says goodbye, for a second at most. What the server has to say about why the session was over before, if it has.
    async fn leave(&mut self) -> Option<Error>;
}

/// The dialect of a room's server.
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

/// What a server said, on one line, shortened to what a person reads.
pub(crate) fn sanitize_text(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(MAX_ERROR_TEXT_CHARS).collect()
}
