//! Selective forwarding unit: all rooms and their sessions. Sans-IO: callers hand in the time and inputs, and
//! carry out the outputs. One thread owns it, so nothing here is locked.
//!
//! [`Sfu::handle`] takes an input, [`Sfu::poll`] returns the next output to carry out, and [`Sfu::deadline`]
//! is the latest time to hand in [`Input::Timeout`]. Requests of clients are methods with a result
//! (`sessions`); they may cause outputs, too.
//!
//! ```text
//!  datagram ─▶ demux ─▶ session ─▶ packet ─▶ publisher: clock, meters
//!           ─▶ viewers: layer selector, RTP rewriter ─▶ sessions ─▶ datagrams
//! ```

mod admission;
mod fuzz;
mod publisher;
mod reporting;
mod sessions;
mod viewer;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::fuzz::run_fuzz_input;
use self::publisher::Publisher;
use self::viewer::Viewer;
use super::command::{ClientOrigin, SessionError, SessionPath};
use super::demux::{Demux, TransportAddress, is_stun};
use super::expected_publishers::ExpectedPublishers;
use super::payload::inspect;
use super::{Limits, layer_selector::LayerPreference};
use crate::rtc::answerer::media::Packet;
use crate::rtc::answerer::{self, Certificate, Event, PeerConnection};
use crate::rtc::{Datagram, LinkStats, Protocol, Transmit};

/// Interval of layer selection and timeout checks: as often as viewers' links are measured.
const TICK_INTERVAL: Duration = Duration::from_millis(250);
/// Time after which a session that is still connecting ends.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a silent session ends. ICE sends a check every few seconds.
const SESSION_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for which the reason of an ended session is kept, for clients that ask for it.
const ENDED_SESSION_TTL: Duration = Duration::from_secs(600);
/// Most ended sessions whose reason is kept, under 1 MB; the oldest is dropped.
const MAX_ENDED_SESSIONS: usize = 4096;

/// Identifier of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SessionId(pub(super) u64);

/// Configuration of all sessions.
#[derive(Debug)]
pub(super) struct SessionConfig {
    /// DTLS certificate.
    pub(super) certificate: Certificate,
    /// Advertised addresses.
    pub(super) addresses: Vec<SocketAddr>,
    /// Whether TCP candidates are offered.
    pub(super) tcp: bool,
    /// Limits of rooms and sessions.
    pub(super) limits: Limits,
    /// Expected publishers, shared with the server's handle.
    pub(super) expected: Arc<Mutex<ExpectedPublishers>>,
}

/// All rooms and sessions.
#[derive(Debug)]
pub(super) struct Sfu {
    config: SessionConfig,
    sessions: HashMap<SessionId, Session>,
    rooms: BTreeMap<Arc<str>, Room>,
    secrets: HashMap<String, SessionId>,
    ended_sessions: VecDeque<EndedSession>,
    demux: Demux,
    /// Next deadline of each session.
    deadlines: BTreeSet<(Instant, SessionId)>,
    /// Outputs of sessions that were not processed yet.
    session_outputs: VecDeque<(SessionId, answerer::Output)>,
    /// Outputs that come before those of the sessions.
    outputs: VecDeque<Output>,
    next_tick: Instant,
    last_session_id: u64,
}

/// Input of the [`Sfu`].
#[derive(Debug)]
pub(super) enum Input<'a> {
    /// A datagram arrived.
    Datagram {
        /// Address of the sender.
        remote: TransportAddress,
        /// Payload of the datagram.
        data: &'a [u8],
    },
    /// A TCP connection was closed.
    ConnectionClosed {
        /// Remote address of the connection.
        remote: TransportAddress,
        /// Whether it was closed because the client did not read.
        queue_full: bool,
    },
    /// All sessions of this room are to be ended.
    CloseRoom(&'a str),
    /// All sessions are to be ended.
    Close,
    /// Time has passed; see [`Sfu::deadline`].
    Timeout,
}

/// Output of the [`Sfu`] that the caller carries out.
#[derive(Debug)]
pub(super) enum Output {
    /// Send a datagram.
    Transmit(Transmit),
    /// Keep the TCP connection with this remote address: a client has authenticated on it.
    KeepConnection(SocketAddr),
}

/// Sessions of a room, the earliest first.
#[derive(Debug, Default)]
struct Room {
    publishers: Vec<SessionId>,
    viewers: Vec<SessionId>,
}

/// One session.
#[derive(Debug)]
struct Session {
    room: Arc<str>,
    secret: String,
    peer: PeerConnection,
    state: RoleState,
    origin: ClientOrigin,
    created_at: Instant,
    /// Time of the last received datagram.
    last_received: Instant,
    /// Deadline of the peer connection, as in [`Sfu::deadlines`].
    deadline: Option<Instant>,
    etag: String,
    link_stats: LinkStats,
}

/// State of a session by its role.
#[derive(Debug)]
enum RoleState {
    Publisher(Box<Publisher>),
    Viewer(Box<Viewer>),
}

/// An ended session.
#[derive(Debug)]
struct EndedSession {
    ended_at: Instant,
    path: SessionPath,
    reason: SessionError,
}

impl Sfu {
    /// An SFU without rooms.
    pub(super) fn new(now: Instant, config: SessionConfig) -> Self {
        Self {
            config,
            sessions: HashMap::new(),
            rooms: BTreeMap::new(),
            secrets: HashMap::new(),
            ended_sessions: VecDeque::new(),
            demux: Demux::default(),
            deadlines: BTreeSet::new(),
            session_outputs: VecDeque::new(),
            outputs: VecDeque::new(),
            next_tick: now,
            last_session_id: 0,
        }
    }

    /// Processes an input at time `now`.
    pub(super) fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { remote, data } => self.handle_datagram(now, remote, data),
            Input::ConnectionClosed { remote, queue_full } => {
                self.handle_connection_closed(now, remote, queue_full);
            }
            Input::CloseRoom(name) => {
                let Some(room) = self.rooms.get(name) else { return };
                let all: Vec<SessionId> = room.publishers.iter().chain(&room.viewers).copied().collect();
                all.into_iter().for_each(|id| self.end_session(now, id, SessionError::Ended));
            }
            Input::Close => {
                let all: Vec<SessionId> = self.sessions.keys().copied().collect();
                all.into_iter().for_each(|id| self.end_session(now, id, SessionError::Ended));
            }
            Input::Timeout => self.handle_timeout(now),
        }
    }

    /// Returns the next output to carry out, if any. Processes what the sessions reported before it.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            match self.session_outputs.pop_front()? {
                (_, answerer::Output::Transmit(transmit)) => return Some(Output::Transmit(transmit)),
                (id, answerer::Output::Event(event)) => self.handle_event(now, id, event),
            }
        }
    }

    /// Latest time to hand in [`Input::Timeout`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.deadlines.first().map_or(self.next_tick, |(at, _)| self.next_tick.min(*at)))
    }

    fn handle_datagram(&mut self, now: Instant, remote: TransportAddress, data: &[u8]) {
        let by_address = self.demux.session_at(remote);
        let by_ufrag = if is_stun(data) { self.demux.session_by_ufrag(data) } else { None };
        let Some(id) = by_ufrag.or(by_address) else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let (protocol, source) = remote;
        let Some(destination) = self.config.local_address_for(source) else { return };
        let datagram = Datagram { protocol, source, destination, data };
        if is_stun(data) {
            // ICE authenticates STUN messages with the session's password.
            if !session.peer.accepts(now, datagram) {
                return;
            }
            if by_address != Some(id) {
                self.demux.bind_address(remote, id);
                if protocol == Protocol::Tcp {
                    self.outputs.push_back(Output::KeepConnection(source));
                }
            }
        }
        session.last_received = now;
        self.handle_in_session(now, id, answerer::Input::Datagram(datagram));
    }

    fn handle_connection_closed(&mut self, now: Instant, remote: TransportAddress, queue_full: bool) {
        let id = self.demux.session_at(remote);
        self.demux.unbind_address(remote);
        if let Some(id) = id.filter(|_| queue_full) {
            tracing::debug!("viewer dropped, send queue full");
            self.end_session(now, id, SessionError::Ended);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            self.handle_in_session(now, id, answerer::Input::Timeout);
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK_INTERVAL;
            self.tick(now);
        }
    }

    /// Hands an input to a session's connection, queues its outputs and updates its deadline.
    fn handle_in_session(&mut self, now: Instant, id: SessionId, input: answerer::Input<'_>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.peer.handle(now, input);
        while let Some(output) = session.peer.poll(now) {
            self.session_outputs.push_back((id, output));
        }
        let deadline = session.peer.deadline();
        let is_known = |at: Instant| self.deadlines.contains(&(at, id));
        if deadline != session.deadline || !deadline.is_none_or(is_known) {
            if let Some(at) = session.deadline {
                self.deadlines.remove(&(at, id));
            }
            self.deadlines.extend(deadline.map(|at| (at, id)));
            session.deadline = deadline;
        }
    }

    fn handle_event(&mut self, now: Instant, id: SessionId, event: Event) {
        match event {
            Event::Packet(packet) => self.forward_packet(now, id, &packet),
            Event::Connected => self.on_connected(now, id),
            Event::KeyframeRequested => self.on_keyframe_request(now, id),
            Event::Disconnected => self.end_session(now, id, SessionError::Ended),
            Event::SenderReport(track, report) => {
                if let Some(RoleState::Publisher(publisher)) = self.role_state(id) {
                    publisher.on_sender_report(track, report);
                }
            }
            Event::BandwidthEstimate(bps) => {
                if let Some(RoleState::Viewer(viewer)) = self.role_state(id) {
                    viewer.estimate_bps = Some(bps);
                }
                self.update_layer(now, id);
            }
            Event::LinkMeasured(link) => self.on_link_measured(now, id, link),
        }
    }

    /// Handles a measurement of a session's link.
    fn on_link_measured(&mut self, now: Instant, id: SessionId, link: LinkStats) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.link_stats = link;
        let RoleState::Viewer(viewer) = &mut session.state else { return };
        let reset = viewer.on_link_measured(now, link);
        let (viewer_id, clear) = (viewer.id, viewer.is_clear(now));
        self.handle_in_session(now, id, answerer::Input::LinkClear(clear));
        if let Some(bps) = reset {
            tracing::debug!(viewer = viewer_id, bps, ?link, "bandwidth estimate reset");
            self.handle_in_session(now, id, answerer::Input::ResetEstimate(bps));
        }
    }

    /// Forwards a publisher's packet to its viewers.
    fn forward_packet(&mut self, now: Instant, id: SessionId, packet: &Packet) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let RoleState::Publisher(publisher) = &mut session.state else { return };
        let payload = inspect(packet.codec, &packet.payload);
        let captured_at = publisher.on_packet(now, packet, payload);
        let room = Arc::clone(&session.room);
        let Some(viewers) = self.rooms.get_mut(&room).map(|room| std::mem::take(&mut room.viewers)) else {
            return;
        };
        for viewer_id in &viewers {
            let Some(session) = self.sessions.get_mut(viewer_id) else { continue };
            let RoleState::Viewer(viewer) = &mut session.state else { continue };
            if viewer.publisher != Some(id) || !session.peer.is_connected() {
                continue;
            }
            if let Some(outgoing) = viewer.forward_packet(now, packet, payload, captured_at) {
                self.handle_in_session(now, *viewer_id, answerer::Input::Packet(outgoing));
            }
        }
        if let Some(room) = self.rooms.get_mut(&room) {
            room.viewers = viewers;
        }
    }

    fn on_connected(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let room = Arc::clone(&session.room);
        tracing::debug!(%room, session = id.0, "room session connected");
        self.assign_publishers(now, &room);
    }

    /// Assigns a connected publisher to each viewer of a room, and updates the layers.
    fn assign_publishers(&mut self, now: Instant, room: &Arc<str>) {
        let Some(members) = self.rooms.get(room) else { return };
        let publishers: Vec<SessionId> = members.publishers.clone();
        for id in members.viewers.clone() {
            let Some(RoleState::Viewer(viewer)) = self.role_state(id) else { continue };
            let user = viewer.requested_user.clone();
            let source = publishers.iter().copied().find(|publisher| {
                let Some(session) = self.sessions.get(publisher) else { return false };
                let RoleState::Publisher(publisher) = &session.state else { return false };
                session.peer.is_connected() && user.as_ref().is_none_or(|user| *user == publisher.user)
            });
            if let Some(RoleState::Viewer(viewer)) = self.role_state(id) {
                viewer.set_publisher(source);
            }
            self.update_layer(now, id);
        }
    }

    /// Updates the layer of a viewer.
    fn update_layer(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let queued = session.peer.video_queued_since();
        let connected = session.peer.is_connected();
        let RoleState::Viewer(viewer) = &mut session.state else { return };
        let (preference, source) = (viewer.preference.clone(), viewer.publisher);
        let Some(RoleState::Publisher(publisher)) = source.and_then(|source| self.role_state(source)) else {
            return;
        };
        let (options, audio_bps) = (publisher.layer_options(now), publisher.audio_bps(now));
        let requested = match &preference {
            LayerPreference::Auto => None,
            LayerPreference::Layer(name) => publisher.find_layer(name),
        };
        let Some(RoleState::Viewer(viewer)) = self.role_state(id) else { return };
        viewer.on_queue_delay(now, queued);
        viewer.update_layer(now, &options, requested, audio_bps);
        let (desired, probe) =
            (viewer.updated_desired_bitrate(&options, audio_bps), viewer.probe_bitrate(now, &options));
        let keyframe_layer = if connected { viewer.take_keyframe_request(now) } else { None };
        if let Some(bps) = desired.or(probe) {
            self.handle_in_session(now, id, answerer::Input::DesiredBitrate(bps));
        }
        if let Some((layer, source)) = keyframe_layer.zip(source) {
            self.request_keyframe(now, source, layer);
        }
    }

    fn on_keyframe_request(&mut self, now: Instant, id: SessionId) {
        let Some(RoleState::Viewer(viewer)) = self.role_state(id) else { return };
        if let Some((layer, source)) = viewer.accept_keyframe_request(now).zip(viewer.publisher) {
            self.request_keyframe(now, source, layer);
        }
    }

    fn request_keyframe(&mut self, now: Instant, id: SessionId, layer: usize) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let RoleState::Publisher(publisher) = &mut session.state else { return };
        if publisher.request_keyframe(now, layer) {
            self.handle_in_session(now, id, answerer::Input::RequestKeyframe(layer));
        }
    }

    fn tick(&mut self, now: Instant) {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in all {
            let Some(session) = self.sessions.get(&id) else { continue };
            let age = now.saturating_duration_since(session.created_at);
            let connect_failed = !session.peer.is_connected() && age >= CONNECT_TIMEOUT;
            if connect_failed || now.saturating_duration_since(session.last_received) >= SESSION_TIMEOUT {
                self.end_session(now, id, SessionError::Ended);
                continue;
            }
            match &session.state {
                RoleState::Viewer(_) => self.update_layer(now, id),
                RoleState::Publisher(publisher) => {
                    if let Some(layer) = publisher.pending_keyframe_layer(now) {
                        self.request_keyframe(now, id, layer);
                    }
                }
            }
        }
        while self.ended_sessions.front().is_some_and(|ended| now - ended.ended_at > ENDED_SESSION_TTL) {
            self.ended_sessions.pop_front();
        }
        self.publish_viewer_states(now);
    }

    /// Ends a session.
    fn end_session(&mut self, now: Instant, id: SessionId, reason: SessionError) {
        let Some(mut session) = self.sessions.remove(&id) else { return };
        session.peer.handle(now, answerer::Input::Close);
        while let Some(output) = session.peer.poll(now) {
            if let answerer::Output::Transmit(transmit) = output {
                self.outputs.push_back(Output::Transmit(transmit));
            }
        }
        if let Some(at) = session.deadline {
            self.deadlines.remove(&(at, id));
        }
        self.demux.remove_session(id);
        self.secrets.remove(&session.secret);
        let publishes = matches!(session.state, RoleState::Publisher(_));
        let path = SessionPath { room: session.room.to_string(), publishes, secret: session.secret };
        tracing::debug!(room = %session.room, session = id.0, %reason, "room session ended");
        self.ended_sessions.push_back(EndedSession { ended_at: now, path, reason });
        if self.ended_sessions.len() > MAX_ENDED_SESSIONS {
            self.ended_sessions.pop_front();
        }
        let Some(room) = self.rooms.get_mut(&session.room) else { return };
        room.publishers.retain(|other| *other != id);
        room.viewers.retain(|other| *other != id);
        if room.publishers.is_empty() && room.viewers.is_empty() {
            self.rooms.remove(&session.room);
        } else if publishes {
            self.assign_publishers(now, &session.room);
        }
    }

    fn role_state(&mut self, id: SessionId) -> Option<&mut RoleState> {
        self.sessions.get_mut(&id).map(|session| &mut session.state)
    }
}

impl SessionConfig {
    /// Locks the expected publishers.
    fn lock_expected(&self) -> std::sync::MutexGuard<'_, ExpectedPublishers> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The advertised address of the same family as `source`, which that client has sent to.
    fn local_address_for(&self, source: SocketAddr) -> Option<SocketAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == source.is_ipv4())
    }
}

#[cfg(test)]
mod link_tests;
