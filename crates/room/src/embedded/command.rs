//! What HTTP asks of the room's thread, and what it is told.

use std::net::{IpAddr, Ipv6Addr};

use tokio::sync::{oneshot, watch};

use super::viewer_state::ViewerState;

/// A question, with the way back.
#[derive(Debug)]
pub(super) enum Command {
    /// Somebody wants to publish or to watch.
    Join(JoinRequest, oneshot::Sender<Result<JoinResponse, SessionError>>),
    /// Candidates, or an ICE restart.
    Patch(PatchRequest, oneshot::Sender<Result<PatchResponse, SessionError>>),
    /// It is over.
    Leave(SessionPath, oneshot::Sender<Result<(), SessionError>>),
    /// Whether a session is still there.
    CheckSession(SessionPath, oneshot::Sender<Result<(), SessionError>>),
    /// A viewer wants another layer; `auto` for none.
    SelectLayer(SessionPath, String, oneshot::Sender<Result<(), SessionError>>),
    /// A viewer wants to hear what happens.
    Subscribe(SessionPath, oneshot::Sender<Result<watch::Receiver<ViewerState>, SessionError>>),
}

/// A session, as its address names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionPath {
    /// The room.
    pub(super) room: String,
    /// Whether it publishes.
    pub(super) publishes: bool,
    /// What nobody else knows.
    pub(super) secret: String,
}

/// Somebody joins.
#[derive(Debug)]
pub(super) struct JoinRequest {
    /// The room.
    pub(super) room: String,
    /// Whether they publish.
    pub(super) publishes: bool,
    /// As whom they publish, or whom they want to watch.
    pub(super) user: Option<String>,
    /// The SDP.
    pub(super) offer: String,
    /// Where it comes from.
    pub(super) origin: ClientOrigin,
}

/// Where a session comes from: those of one origin may only be few until they have connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ClientOrigin {
    /// The token that it was begun with, by its hash; none where no tokens are needed.
    pub(super) token: Option<u64>,
    /// The address, without the last 64 bits of an IPv6 address; none for one of this machine's own.
    pub(super) address: Option<IpAddr>,
    /// Whether a cast of this service publishes.
    pub(super) own_cast: bool,
}

impl ClientOrigin {
    /// What counts as one address: whoever has an IPv6 address has the whole network of it.
    pub(super) fn network_prefix(address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(ip) => IpAddr::V4(ip),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        }
    }
}

/// They have joined.
#[derive(Debug)]
pub(super) struct JoinResponse {
    /// The session's secret.
    pub(super) secret: String,
    /// The SDP.
    pub(super) answer: String,
    /// The ICE session.
    pub(super) etag: String,
}

/// A piece of SDP for a session (RFC 8840).
#[derive(Debug)]
pub(super) struct PatchRequest {
    /// Which one.
    pub(super) session: SessionPath,
    /// The ICE session that is meant; `*` for a new one.
    pub(super) etag: String,
    /// The SDP.
    pub(super) fragment: String,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum PatchResponse {
    /// Candidates were noted.
    CandidatesAdded,
    /// There is a new ICE session.
    IceRestarted {
        /// Our side of it.
        fragment: String,
        /// Its tag.
        etag: String,
    },
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionError {
    /// No such session.
    #[error("there is no such session")]
    NotFound,
    /// The same user publishes from elsewhere now.
    #[error("replaced: this user publishes from elsewhere now")]
    Replaced,
    /// Nothing was heard of it for too long, or it said goodbye.
    #[error("ended: this session is over")]
    Ended,
    /// There is another ICE session by now.
    #[error("this is not the current ICE session")]
    EtagMismatch,
    /// It cannot be understood.
    #[error("{0}")]
    Malformed(String),
    /// It cannot be done.
    #[error("{0}")]
    Unprocessable(String),
    /// The room has as many publishers as it may.
    #[error("this room has {0} publishers already")]
    PublisherLimit(usize),
    /// There is no place left.
    #[error("no place left: {0}")]
    CapacityExceeded(&'static str),
    /// Nobody publishes there, nor is going to.
    #[error("nobody publishes in this room: try again when somebody does")]
    NoPublisher,
    /// Too many sessions of the same origin have not connected yet.
    #[error("{0} sessions {1} are connecting already: try again in a second")]
    TooManyConnecting(usize, &'static str),
}
