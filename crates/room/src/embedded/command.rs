//! Commands from HTTP handlers to the media thread, and their responses.

use std::net::{IpAddr, Ipv6Addr};

use tokio::sync::{oneshot, watch};

use super::viewer_state::ViewerState;

/// A command, with the channel for its response.
#[derive(Debug)]
pub(super) enum Command {
    /// Creates a session that publishes or watches.
    Join(JoinRequest, oneshot::Sender<Result<JoinResponse, SessionError>>),
    /// Adds candidates or restarts ICE.
    Patch(PatchRequest, oneshot::Sender<Result<PatchResponse, SessionError>>),
    /// Ends a session.
    Leave(SessionPath, oneshot::Sender<Result<(), SessionError>>),
    /// Checks that a session exists.
    CheckSession(SessionPath, oneshot::Sender<Result<(), SessionError>>),
    /// Sets the requested layer of a viewer; `auto` for automatic selection.
    SelectLayer(SessionPath, String, oneshot::Sender<Result<(), SessionError>>),
    /// Ends all sessions of a room.
    CloseRoom(String),
    /// Subscribes to the state of a viewer.
    Subscribe(SessionPath, oneshot::Sender<Result<watch::Receiver<ViewerState>, SessionError>>),
}

/// Path of a session's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionPath {
    /// Room name.
    pub(super) room: String,
    /// Whether the session publishes rather than watches.
    pub(super) publishes: bool,
    /// Secret that authorizes requests for the session.
    pub(super) secret: String,
}

/// Request to create a session.
#[derive(Debug)]
pub(super) struct JoinRequest {
    /// Room name.
    pub(super) room: String,
    /// Whether the session publishes rather than watches.
    pub(super) publishes: bool,
    /// User that publishes, or the publisher to watch.
    pub(super) user: Option<String>,
    /// SDP offer.
    pub(super) offer: String,
    /// Origin of the request.
    pub(super) origin: ClientOrigin,
}

/// Origin of a session. The sessions of one origin that are still connecting are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ClientOrigin {
    /// Hash of the token. `None` if no tokens are needed.
    pub(super) token: Option<u64>,
    /// IPv4 address or IPv6 /64 network. `None` for an address of this machine.
    pub(super) address: Option<IpAddr>,
    /// Whether a cast of this service publishes.
    pub(super) own_cast: bool,
}

impl ClientOrigin {
    /// The IPv4 address or the IPv6 /64 network, because a client with one IPv6 address has all of them.
    pub(super) fn network_prefix(address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(ip) => IpAddr::V4(ip),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        }
    }
}

/// Response to a [`JoinRequest`].
#[derive(Debug)]
pub(super) struct JoinResponse {
    /// Secret of the session.
    pub(super) secret: String,
    /// SDP answer.
    pub(super) answer: String,
    /// Entity tag of the ICE session.
    pub(super) etag: String,
}

/// SDP fragment for a session (RFC 8840).
#[derive(Debug)]
pub(super) struct PatchRequest {
    /// Session to change.
    pub(super) session: SessionPath,
    /// Entity tag of the ICE session; `*` for a restart.
    pub(super) etag: String,
    /// SDP fragment.
    pub(super) fragment: String,
}

/// Response to a [`PatchRequest`].
#[derive(Debug)]
pub(super) enum PatchResponse {
    /// Candidates were added.
    CandidatesAdded,
    /// ICE was restarted.
    IceRestarted {
        /// SDP fragment with the new credentials and candidates.
        fragment: String,
        /// Entity tag of the new ICE session.
        etag: String,
    },
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionError {
    /// The session does not exist.
    #[error("there is no such session")]
    NotFound,
    /// A newer session of the same user replaced it.
    #[error("replaced: this user publishes in a newer session")]
    Replaced,
    /// The session was closed or timed out.
    #[error("ended: this session is over")]
    Ended,
    /// ICE was restarted since.
    #[error("this is not the current ICE session")]
    EtagMismatch,
    /// The request is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The request is valid but not supported.
    #[error("{0}")]
    Unprocessable(String),
    /// The room has its limit of publishers.
    #[error("limit reached: this room has {0} publishers")]
    PublisherLimit(usize),
    /// A limit of rooms or viewers is reached.
    #[error("limit reached: {0}")]
    CapacityExceeded(&'static str),
    /// The room has no publisher, and none is expected.
    #[error("this room has no publisher; try again when it has one")]
    NoPublisher,
    /// Too many sessions of the same origin are still connecting.
    #[error("{0} sessions {1} are connecting; try again in a second")]
    TooManyConnecting(usize, &'static str),
}
