//! How sessions begin, change and end at the wish of those whose they are.

use std::sync::Arc;
use std::time::Instant;

use super::super::command::{
    JoinRequest, JoinResponse, PatchRequest, PatchResponse, SessionError, SessionPath as Name,
};
use super::super::layer_selector::LayerPreference;
use super::super::random;
use super::super::viewer_state::ViewerState;
use super::publisher::Publisher;
use super::viewer::Viewer;
use super::{RoleState, Room, Session, SessionId, Sfu};
use crate::rtc::LinkStats;
use crate::rtc::answerer::{self, OfferError, PeerConnection};

/// Whoever publishes without saying as whom.
const DEFAULT_USER: &str = "publisher";
/// Bytes of randomness in a session's secret, its ICE name and its ICE password.
const SECRET_BYTES: usize = 16;
const UFRAG_BYTES: usize = 6;
const ICE_PWD_BYTES: usize = 16;
/// A session may be listened to so often at once.
const MAX_SUBSCRIBERS: usize = 3;
/// Most candidates in a fragment that are looked at.
const MAX_CANDIDATES: usize = 32;

impl Sfu {
    /// Somebody joins.
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
        let cast = user.as_deref().filter(|_| join.publishes).map(|user| self.is_own_cast(now, &join, user));
        self.admit(now, &join, cast == Some(true), replaces.is_some())?;
        let no_randomness = || SessionError::CapacityExceeded("the system has no randomness yet");
        let secret = random::random_hex(SECRET_BYTES).ok_or_else(no_randomness)?;
        let etag = random::random_hex(UFRAG_BYTES).ok_or_else(no_randomness)?;
        let name = random::random_hex(UFRAG_BYTES).ok_or_else(no_randomness)?;
        let password = random::random_hex(ICE_PWD_BYTES).ok_or_else(no_randomness)?;
        let setup = answerer::Config {
            certificate: &self.config.certificate,
            addresses: &self.config.addresses,
            tcp: self.config.tcp,
            role: if join.publishes { answerer::Role::Publisher } else { answerer::Role::Viewer },
            credentials: (name.clone(), password),
        };
        let (peer, answer) = PeerConnection::accept_offer(now, &join.offer, setup)?;
        if let Some(replaced) = replaces {
            self.end_session(now, replaced, SessionError::Replaced);
        }
        self.last_session_id += 1;
        let key = SessionId(self.last_session_id);
        let role = match (join.publishes, user) {
            (true, user) => {
                let user = user.unwrap_or_default();
                RoleState::Publisher(Box::new(Publisher::new(now, user, peer.layer_rids())))
            }
            (false, user) => RoleState::Viewer(Box::new(Viewer::new(now, self.last_session_id, user))),
        };
        let room: Arc<str> = join.room.into();
        let members = self.rooms.entry(Arc::clone(&room)).or_default();
        members.members(join.publishes).push(key);
        self.secrets.insert(secret.clone(), key);
        self.demux.set_ufrag(key, &name);
        let (wake, line) = (peer.deadline(), LinkStats::default());
        let etag = format!("\"{etag}\"");
        self.deadlines.insert((wake, key));
        let session = Session {
            room: Arc::clone(&room),
            secret: secret.clone(),
            peer,
            state: role,
            origin: join.origin,
            created_at: now,
            last_received: now,
            deadline: wake,
            etag: etag.clone(),
            link_stats: line,
        };
        self.sessions.insert(key, session);
        self.process_events(now);
        Ok(JoinResponse { secret, answer, etag })
    }

    fn find_publisher(&self, room: &str, user: &str) -> Option<SessionId> {
        let is_user = |key: &SessionId| {
            let role = self.sessions.get(key).map(|session| &session.state);
            matches!(role, Some(RoleState::Publisher(publisher)) if publisher.user == user)
        };
        self.rooms.get(room)?.publishers.iter().copied().find(is_user)
    }

    /// Candidates, or an ICE restart (RFC 9725, section 4.3).
    pub(in super::super) fn patch_session(
        &mut self,
        now: Instant,
        patch: &PatchRequest,
    ) -> Result<PatchResponse, SessionError> {
        let key = self.find_session(&patch.session)?;
        let session = self.sessions.get_mut(&key).ok_or(SessionError::NotFound)?;
        let value = |name: &str| patch.fragment.lines().find_map(|line| line.trim().strip_prefix(name));
        if patch.etag == "*" {
            let (Some(ufrag), Some(password)) = (value("a=ice-ufrag:"), value("a=ice-pwd:")) else {
                return Err(SessionError::Malformed(
                    "an ICE restart needs a=ice-ufrag and a=ice-pwd".to_owned(),
                ));
            };
            let etag = random::random_hex(UFRAG_BYTES)
                .ok_or(SessionError::CapacityExceeded("the system has no randomness yet"))?;
            let (name, ours) = session.peer.restart_ice(ufrag, password)?;
            session.etag = format!("\"{etag}\"");
            let mut fragment = format!("a=ice-ufrag:{name}\r\na=ice-pwd:{ours}\r\n");
            for candidate in session.peer.candidate_lines() {
                fragment.push_str(&candidate);
                fragment.push_str("\r\n");
            }
            fragment.push_str("a=end-of-candidates\r\n");
            let etag = session.etag.clone();
            self.demux.set_ufrag(key, &name);
            self.add_candidates(now, key, &patch.fragment);
            return Ok(PatchResponse::IceRestarted { fragment, etag });
        }
        if patch.etag != session.etag {
            return Err(SessionError::EtagMismatch);
        }
        self.add_candidates(now, key, &patch.fragment);
        Ok(PatchResponse::CandidatesAdded)
    }

    fn add_candidates(&mut self, now: Instant, key: SessionId, fragment: &str) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let candidates = fragment.lines().filter_map(|line| line.trim().strip_prefix("a="));
        for candidate in candidates.filter(|line| line.starts_with("candidate:")).take(MAX_CANDIDATES) {
            session.peer.add_remote_candidate(candidate);
            session.peer.handle_timeout(now, &mut self.event_buffer);
        }
        self.collect_events(key);
        self.process_events(now);
    }

    /// A session ends.
    pub(in super::super) fn leave(&mut self, now: Instant, name: &Name) -> Result<(), SessionError> {
        let key = self.find_session(name)?;
        self.end_session(now, key, SessionError::Ended);
        self.process_events(now);
        Ok(())
    }

    /// Whether a session is there.
    pub(in super::super) fn check_session(&self, name: &Name) -> Result<(), SessionError> {
        self.find_session(name).map(drop)
    }

    /// A viewer wants a layer.
    pub(in super::super) fn set_layer_preference(
        &mut self,
        now: Instant,
        name: &Name,
        layer: &str,
    ) -> Result<(), SessionError> {
        let key = self.find_session(name)?;
        let wish =
            if layer == "auto" { LayerPreference::Auto } else { LayerPreference::Layer(layer.to_owned()) };
        let Some(RoleState::Viewer(viewer)) = self.role_state(key) else {
            return Err(SessionError::NotFound);
        };
        let source = viewer.publisher;
        if let (LayerPreference::Layer(name), Some(RoleState::Publisher(publisher))) =
            (&wish, source.and_then(|source| self.role_state(source)))
            && publisher.find_layer(name).is_none()
        {
            return Err(SessionError::Unprocessable("there is no such layer".to_owned()));
        }
        if let Some(RoleState::Viewer(viewer)) = self.role_state(key) {
            viewer.preference = wish;
        }
        self.update_layer(now, key);
        self.process_events(now);
        self.publish_viewer_states(now);
        Ok(())
    }

    /// A viewer wants to hear what happens.
    pub(in super::super) fn subscribe(
        &mut self,
        now: Instant,
        name: &Name,
    ) -> Result<tokio::sync::watch::Receiver<ViewerState>, SessionError> {
        let key = self.find_session(name)?;
        self.publish_viewer_states(now);
        match self.role_state(key) {
            Some(RoleState::Viewer(viewer)) if viewer.state_sender.receiver_count() >= MAX_SUBSCRIBERS => {
                Err(SessionError::CapacityExceeded("this session is listened to already"))
            }
            Some(RoleState::Viewer(viewer)) => Ok(viewer.state_sender.subscribe()),
            _ => Err(SessionError::NotFound),
        }
    }

    fn find_session(&self, name: &Name) -> Result<SessionId, SessionError> {
        if let Some(key) = self.secrets.get(&name.secret) {
            let session = self.sessions.get(key).ok_or(SessionError::NotFound)?;
            let publishes = matches!(session.state, RoleState::Publisher(_));
            let same = *session.room == *name.room && publishes == name.publishes;
            return if same { Ok(*key) } else { Err(SessionError::NotFound) };
        }
        let departed = self.ended_sessions.iter().rev().find(|departed| departed.path == *name);
        Err(departed.map_or(SessionError::NotFound, |departed| departed.reason.clone()))
    }
}

impl Room {
    fn members(&mut self, publishes: bool) -> &mut Vec<SessionId> {
        if publishes { &mut self.publishers } else { &mut self.viewers }
    }
}

impl From<OfferError> for SessionError {
    fn from(refusal: OfferError) -> Self {
        match refusal {
            OfferError::Malformed(_) => Self::Malformed(refusal.to_string()),
            OfferError::Unsupported(_) => Self::Unprocessable(refusal.to_string()),
        }
    }
}
