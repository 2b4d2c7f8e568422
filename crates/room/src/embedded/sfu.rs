//! Selective forwarding unit: all rooms and their sessions. Sans-IO: datagrams, commands and the time in,
//! datagrams out. One thread owns it, so nothing here is locked.
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
use crate::rtc::answerer::{Certificate, Datagram, Event, PeerConnection};
use crate::rtc::{LinkStats, Protocol};

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
    /// Events of sessions that were not processed yet.
    pending_events: VecDeque<(SessionId, Event)>,
    event_buffer: Vec<Event>,
    transmits: Vec<Transmit>,
    next_tick: Instant,
    last_session_id: u64,
}

/// A datagram to send.
#[derive(Debug)]
pub(super) struct Transmit {
    /// Remote address.
    pub(super) remote: TransportAddress,
    /// Content of the datagram.
    pub(super) data: Vec<u8>,
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
    deadline: Instant,
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
            pending_events: VecDeque::new(),
            event_buffer: Vec::new(),
            transmits: Vec::new(),
            next_tick: now,
            last_session_id: 0,
        }
    }

    /// When [`Self::handle_timeout`] must be called next.
    pub(super) fn deadline(&self) -> Instant {
        self.deadlines.first().map_or(self.next_tick, |(at, _)| self.next_tick.min(*at))
    }

    /// Takes the datagrams to send.
    pub(super) fn transmits(&mut self) -> std::vec::Drain<'_, Transmit> {
        self.transmits.drain(..)
    }

    /// Handles a received datagram. Returns whether it belongs to a session.
    pub(super) fn handle_datagram(&mut self, now: Instant, remote: TransportAddress, data: &[u8]) -> bool {
        let by_address = self.demux.session_at(remote);
        let by_ufrag = if is_stun(data) { self.demux.session_by_ufrag(data) } else { None };
        let Some(id) = by_ufrag.or(by_address) else { return false };
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let (protocol, source) = remote;
        let Some(destination) = self.config.local_address_for(source) else { return false };
        let datagram = Datagram { protocol, source, destination, data };
        if is_stun(data) {
            // ICE authenticates STUN messages with the session's password.
            if !session.peer.accepts(now, datagram) {
                return false;
            }
            self.demux.bind_address(remote, id);
        }
        session.last_received = now;
        session.peer.handle_datagram(now, datagram, &mut self.event_buffer);
        self.collect_events(id);
        self.process_events(now);
        true
    }

    /// Handles a closed TCP connection. `queue_full`: it was closed because the client did not read.
    pub(super) fn handle_connection_closed(
        &mut self,
        now: Instant,
        remote: TransportAddress,
        queue_full: bool,
    ) {
        let id = self.demux.session_at(remote);
        self.demux.unbind_address(remote);
        if let Some(id) = id.filter(|_| queue_full) {
            tracing::debug!("viewer dropped, send queue full");
            self.end_session(now, id, SessionError::Ended);
        }
    }

    /// Handles the passing of time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            if let Some(session) = self.sessions.get_mut(&id) {
                session.peer.handle_timeout(now, &mut self.event_buffer);
                self.collect_events(id);
            }
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK_INTERVAL;
            self.tick(now);
        }
        self.process_events(now);
    }

    /// Ends all sessions.
    pub(super) fn close(&mut self, now: Instant) {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        all.into_iter().for_each(|id| self.end_session(now, id, SessionError::Ended));
        self.process_events(now);
    }

    /// Queues the events that a session just returned, and updates its deadline.
    fn collect_events(&mut self, id: SessionId) {
        self.pending_events.extend(self.event_buffer.drain(..).map(|event| (id, event)));
        if let Some(session) = self.sessions.get_mut(&id) {
            let deadline = session.peer.deadline();
            if deadline != session.deadline || !self.deadlines.contains(&(deadline, id)) {
                self.deadlines.remove(&(session.deadline, id));
                self.deadlines.insert((deadline, id));
                session.deadline = deadline;
            }
        }
    }

    /// Processes events until none is left.
    fn process_events(&mut self, now: Instant) {
        while let Some((id, event)) = self.pending_events.pop_front() {
            match event {
                Event::Transmit(protocol, to, data) => {
                    self.transmits.push(Transmit { remote: (protocol, to), data });
                }
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
    }

    /// Handles a measurement of a session's link.
    fn on_link_measured(&mut self, now: Instant, id: SessionId, link: LinkStats) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.link_stats = link;
        let RoleState::Viewer(viewer) = &mut session.state else { return };
        let reset = viewer.on_link_measured(now, link);
        session.peer.set_link_clear(viewer.is_clear(now));
        if let Some(bps) = reset {
            tracing::debug!(viewer = viewer.id, bps, ?link, "bandwidth estimate reset");
            session.peer.reset_estimate(now, bps, &mut self.event_buffer);
            self.collect_events(id);
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
                session.peer.send_packet(now, outgoing, &mut self.event_buffer);
                self.collect_events(*viewer_id);
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
        if let (Some(bps), Some(session)) = (desired.or(probe), self.sessions.get_mut(&id)) {
            session.peer.set_desired_bitrate(now, bps, &mut self.event_buffer);
            self.collect_events(id);
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
            session.peer.request_keyframe(now, layer, &mut self.event_buffer);
            self.collect_events(id);
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
        session.peer.close(now, &mut self.event_buffer);
        for event in self.event_buffer.drain(..) {
            if let Event::Transmit(protocol, to, data) = event {
                self.transmits.push(Transmit { remote: (protocol, to), data });
            }
        }
        self.deadlines.remove(&(session.deadline, id));
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

/// Whether a remote address belongs to a TCP connection.
pub(super) fn is_tcp(remote: &TransportAddress) -> bool {
    remote.0 == Protocol::Tcp
}
