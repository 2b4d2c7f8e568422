//! Commands of clients: creates, changes and ends sessions.

use std::sync::Arc;
use std::time::Instant;

use super::super::MAX_EVENT_STREAMS_PER_VIEWER;
use super::super::command::{
    JoinRequest, JoinResponse, PatchRequest, PatchResponse, SessionError, SessionPath,
};
use super::super::layer_selector::LayerPreference;
use super::super::random;
use super::super::viewer_state::ViewerState;
use super::publisher::Publisher;
use super::viewer::Viewer;
use super::{RoleState, Room, Session, SessionId, Sfu};
use crate::rtc::LinkStats;
use crate::rtc::answerer::{self, OfferError, PeerConnection};

/// User name of a publisher that gives none.
const DEFAULT_USER: &str = "publisher";
/// Length of a session's secret, in random bytes: it authorizes requests, so 128 bits.
const SECRET_BYTES: usize = 16;
/// Length of an ICE user fragment, in random bytes; RFC 8445 needs 24 bits.
const UFRAG_BYTES: usize = 6;
/// Length of an ICE password, in random bytes; RFC 8445 needs 128 bits.
const ICE_PWD_BYTES: usize = 16;
/// Most candidates in a fragment that are added; browsers send a few.
const MAX_CANDIDATES: usize = 32;

impl Sfu {
    /// Creates a session.
    pub(in super::super) fn join(
        &mut self,
        now: Instant,
        join: JoinRequest,
    ) -> Result<JoinResponse, SessionError> {
        let user = if join.publishes {
            Some(join.user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned()))
        } else {
            join.user.clone()
        };
        let replaces =
            user.as_deref().filter(|_| join.publishes).and_then(|user| self.find_publisher(&join.room, user));
        let own_cast =
            user.as_deref().filter(|_| join.publishes).map(|user| self.is_own_cast(now, &join, user));
        self.admit(now, &join, own_cast == Some(true), replaces.is_some())?;
        let no_randomness = || SessionError::CapacityExceeded("no random numbers are available yet");
        let secret = random::random_hex(SECRET_BYTES).ok_or_else(no_randomness)?;
        let etag = random::random_hex(UFRAG_BYTES).ok_or_else(no_randomness)?;
        let ufrag = random::random_hex(UFRAG_BYTES).ok_or_else(no_randomness)?;
        let password = random::random_hex(ICE_PWD_BYTES).ok_or_else(no_randomness)?;
        let config = answerer::Config {
            certificate: &self.config.certificate,
            addresses: &self.config.addresses,
            tcp: self.config.tcp,
            role: if join.publishes { answerer::Role::Publisher } else { answerer::Role::Viewer },
            credentials: (ufrag.clone(), password),
        };
        let (peer, answer) = PeerConnection::accept_offer(now, &join.offer, config)?;
        if let Some(replaced) = replaces {
            self.end_session(now, replaced, SessionError::Replaced);
        }
        self.last_session_id += 1;
        let id = SessionId(self.last_session_id);
        let role = match (join.publishes, user) {
            (true, user) => {
                let user = user.unwrap_or_default();
                RoleState::Publisher(Box::new(Publisher::new(now, user, peer.layer_rids())))
            }
            (false, user) => RoleState::Viewer(Box::new(Viewer::new(now, self.last_session_id, user))),
        };
        let room: Arc<str> = join.room.into();
        let members = self.rooms.entry(Arc::clone(&room)).or_default();
        members.members(join.publishes).push(id);
        self.secrets.insert(secret.clone(), id);
        self.demux.set_ufrag(id, &ufrag);
        let deadline = peer.deadline();
        let etag = format!("\"{etag}\"");
        self.deadlines.extend(deadline.map(|at| (at, id)));
        let session = Session {
            room: Arc::clone(&room),
            secret: secret.clone(),
            peer,
            state: role,
            origin: join.origin,
            created_at: now,
            last_received: now,
            deadline,
            etag: etag.clone(),
            link_stats: LinkStats::default(),
        };
        self.sessions.insert(id, session);
        Ok(JoinResponse { secret, answer, etag })
    }

    fn find_publisher(&self, room: &str, user: &str) -> Option<SessionId> {
        let is_user = |id: &SessionId| {
            let role = self.sessions.get(id).map(|session| &session.state);
            matches!(role, Some(RoleState::Publisher(publisher)) if publisher.user == user)
        };
        self.rooms.get(room)?.publishers.iter().copied().find(is_user)
    }

    /// Adds candidates or restarts ICE (RFC 9725, section 4.3).
    pub(in super::super) fn patch_session(
        &mut self,
        now: Instant,
        patch: &PatchRequest,
    ) -> Result<PatchResponse, SessionError> {
        let id = self.find_session(&patch.session)?;
        let session = self.sessions.get_mut(&id).ok_or(SessionError::NotFound)?;
        let value = |name: &str| patch.fragment.lines().find_map(|line| line.trim().strip_prefix(name));
        if patch.etag == "*" {
            let (Some(ufrag), Some(password)) = (value("a=ice-ufrag:"), value("a=ice-pwd:")) else {
                return Err(SessionError::Malformed(
                    "an ICE restart needs a=ice-ufrag and a=ice-pwd".to_owned(),
                ));
            };
            let etag = random::random_hex(UFRAG_BYTES)
                .ok_or(SessionError::CapacityExceeded("no random numbers are available yet"))?;
            let (local_ufrag, local_password) = session.peer.restart_ice(ufrag, password)?;
            session.etag = format!("\"{etag}\"");
            let mut fragment = format!("a=ice-ufrag:{local_ufrag}\r\na=ice-pwd:{local_password}\r\n");
            for candidate in session.peer.candidate_lines() {
                fragment.push_str(&candidate);
                fragment.push_str("\r\n");
            }
            fragment.push_str("a=end-of-candidates\r\n");
            let etag = session.etag.clone();
            self.demux.set_ufrag(id, &local_ufrag);
            self.add_candidates(now, id, &patch.fragment);
            return Ok(PatchResponse::IceRestarted { fragment, etag });
        }
        if patch.etag != session.etag {
            return Err(SessionError::EtagMismatch);
        }
        self.add_candidates(now, id, &patch.fragment);
        Ok(PatchResponse::CandidatesAdded)
    }

    fn add_candidates(&mut self, now: Instant, id: SessionId, fragment: &str) {
        let candidates = fragment.lines().filter_map(|line| line.trim().strip_prefix("a="));
        for candidate in candidates.filter(|line| line.starts_with("candidate:")).take(MAX_CANDIDATES) {
            self.handle_in_session(now, id, answerer::Input::RemoteCandidate(candidate));
        }
    }

    /// Ends a session.
    pub(in super::super) fn leave(&mut self, now: Instant, path: &SessionPath) -> Result<(), SessionError> {
        let id = self.find_session(path)?;
        self.end_session(now, id, SessionError::Ended);
        Ok(())
    }

    /// Checks that a session exists.
    pub(in super::super) fn check_session(&self, path: &SessionPath) -> Result<(), SessionError> {
        self.find_session(path).map(drop)
    }

    /// Sets the requested layer of a viewer; `auto` for automatic selection.
    pub(in super::super) fn set_layer_preference(
        &mut self,
        now: Instant,
        path: &SessionPath,
        layer: &str,
    ) -> Result<(), SessionError> {
        let id = self.find_session(path)?;
        let preference =
            if layer == "auto" { LayerPreference::Auto } else { LayerPreference::Layer(layer.to_owned()) };
        let Some(RoleState::Viewer(viewer)) = self.role_state(id) else {
            return Err(SessionError::NotFound);
        };
        let source = viewer.publisher;
        if let (LayerPreference::Layer(name), Some(RoleState::Publisher(publisher))) =
            (&preference, source.and_then(|source| self.role_state(source)))
            && publisher.find_layer(name).is_none()
        {
            return Err(SessionError::Unprocessable("there is no such layer".to_owned()));
        }
        if let Some(RoleState::Viewer(viewer)) = self.role_state(id) {
            viewer.preference = preference;
        }
        self.update_layer(now, id);
        self.publish_viewer_states(now);
        Ok(())
    }

    /// Subscribes to the state of a viewer.
    pub(in super::super) fn subscribe(
        &mut self,
        now: Instant,
        path: &SessionPath,
    ) -> Result<tokio::sync::watch::Receiver<ViewerState>, SessionError> {
        let id = self.find_session(path)?;
        self.publish_viewer_states(now);
        match self.role_state(id) {
            Some(RoleState::Viewer(viewer))
                if viewer.state_sender.receiver_count() >= MAX_EVENT_STREAMS_PER_VIEWER =>
            {
                Err(SessionError::CapacityExceeded("event streams of this session"))
            }
            Some(RoleState::Viewer(viewer)) => Ok(viewer.state_sender.subscribe()),
            _ => Err(SessionError::NotFound),
        }
    }

    fn find_session(&self, path: &SessionPath) -> Result<SessionId, SessionError> {
        if let Some(id) = self.secrets.get(&path.secret) {
            let session = self.sessions.get(id).ok_or(SessionError::NotFound)?;
            let publishes = matches!(session.state, RoleState::Publisher(_));
            let matches = *session.room == *path.room && publishes == path.publishes;
            return if matches { Ok(*id) } else { Err(SessionError::NotFound) };
        }
        let ended = self.ended_sessions.iter().rev().find(|ended| ended.path == *path);
        Err(ended.map_or(SessionError::NotFound, |ended| ended.reason.clone()))
    }
}

impl Room {
    fn members(&mut self, publishes: bool) -> &mut Vec<SessionId> {
        if publishes { &mut self.publishers } else { &mut self.viewers }
    }
}

impl From<OfferError> for SessionError {
    fn from(error: OfferError) -> Self {
        match error {
            OfferError::Malformed(_) => Self::Malformed(error.to_string()),
            OfferError::Unsupported(_) => Self::Unprocessable(error.to_string()),
        }
    }
}
