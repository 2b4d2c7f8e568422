//! The room itself. Sans-IO: datagrams, commands and the time in, datagrams out. One thread owns it, so
//! nothing here is locked.
//!
//! ```text
//!  datagram ─▶ paths ─▶ session ─▶ packet ─▶ publisher: clock, meters ─▶ viewers: layer, numbers ─▶ sessions ─▶ datagrams
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
use super::command::{ClientOrigin, SessionError, SessionPath as Name};
use super::demux::{Demux, TransportAddress, is_stun};
use super::expected_publishers::ExpectedPublishers;
use super::payload::inspect;
use super::{Limits, layer_selector::LayerPreference};
use crate::rtc::answerer::media::Packet;
use crate::rtc::answerer::{Certificate, Datagram, Event, PeerConnection};
use crate::rtc::{LinkStats, Protocol};

/// How often layers are chosen, and what has to be is looked at.
const TICK_INTERVAL: Duration = Duration::from_millis(250);
/// A session that has not connected by then never will.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A session of which nothing was heard for so long is dead. ICE says something every few seconds.
const SESSION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long, and of how many sessions, it is remembered why they are over.
const ENDED_SESSION_TTL: Duration = Duration::from_secs(600);
const MAX_ENDED_SESSIONS: usize = 4096;

/// A session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SessionId(pub(super) u64);

/// What all sessions are made with.
#[derive(Debug)]
pub(super) struct SessionConfig {
    /// What they prove themselves with.
    pub(super) certificate: Certificate,
    /// Where they can be reached.
    pub(super) addresses: Vec<SocketAddr>,
    /// Whether by TCP, too.
    pub(super) tcp: bool,
    /// How much there may be of everything.
    pub(super) limits: Limits,
    /// Where somebody is going to publish.
    pub(super) expected: Arc<Mutex<ExpectedPublishers>>,
}

/// All rooms.
#[derive(Debug)]
pub(super) struct Sfu {
    config: SessionConfig,
    sessions: HashMap<SessionId, Session>,
    rooms: BTreeMap<Arc<str>, Room>,
    secrets: HashMap<String, SessionId>,
    ended_sessions: VecDeque<EndedSession>,
    demux: Demux,
    /// When each session wants to be told that it is later.
    deadlines: BTreeSet<(Instant, SessionId)>,
    /// What sessions have said, and nobody has heard yet.
    pending_events: VecDeque<(SessionId, Event)>,
    event_buffer: Vec<Event>,
    transmits: Vec<Transmit>,
    next_tick: Instant,
    last_session_id: u64,
}

/// A datagram to be sent.
#[derive(Debug)]
pub(super) struct Transmit {
    /// Where to.
    pub(super) remote: TransportAddress,
    /// What.
    pub(super) data: Vec<u8>,
}

/// Who is in a room, the earliest first.
#[derive(Debug, Default)]
struct Room {
    publishers: Vec<SessionId>,
    viewers: Vec<SessionId>,
}

/// One connection.
#[derive(Debug)]
struct Session {
    room: Arc<str>,
    secret: String,
    peer: PeerConnection,
    state: RoleState,
    origin: ClientOrigin,
    created_at: Instant,
    /// When it was heard the last time.
    last_received: Instant,
    deadline: Instant,
    etag: String,
    link_stats: LinkStats,
}

/// What a connection is for.
#[derive(Debug)]
enum RoleState {
    Publisher(Box<Publisher>),
    Viewer(Box<Viewer>),
}

/// A session that is over.
#[derive(Debug)]
struct EndedSession {
    ended_at: Instant,
    path: Name,
    reason: SessionError,
}

impl Sfu {
    /// Without rooms.
    pub(super) fn new(now: Instant, setup: SessionConfig) -> Self {
        Self {
            config: setup,
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

    /// When it wants to be told the time.
    pub(super) fn deadline(&self) -> Instant {
        self.deadlines.first().map_or(self.next_tick, |(at, _)| self.next_tick.min(*at))
    }

    /// What is to be sent.
    pub(super) fn transmits(&mut self) -> std::vec::Drain<'_, Transmit> {
        self.transmits.drain(..)
    }

    /// A datagram came; whether it is of a session.
    pub(super) fn handle_datagram(&mut self, now: Instant, path: TransportAddress, data: &[u8]) -> bool {
        let known = self.demux.session_at(path);
        let named = if is_stun(data) { self.demux.session_by_ufrag(data) } else { None };
        let Some(key) = named.or(known) else { return false };
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        let (protocol, source) = path;
        let Some(destination) = self.config.local_address_for(source) else { return false };
        let datagram = Datagram { protocol, source, destination, data };
        if is_stun(data) {
            // Only who knows the password gets through here.
            if !session.peer.accepts(now, datagram) {
                return false;
            }
            self.demux.bind_address(path, key);
        }
        session.last_received = now;
        session.peer.handle_datagram(now, datagram, &mut self.event_buffer);
        self.collect_events(key);
        self.process_events(now);
        true
    }

    /// Who was at this address is there no more, or takes nothing: a connection that was closed.
    pub(super) fn handle_connection_closed(
        &mut self,
        now: Instant,
        path: TransportAddress,
        takes_nothing: bool,
    ) {
        let key = self.demux.session_at(path);
        self.demux.unbind_address(path);
        if let Some(key) = key.filter(|_| takes_nothing) {
            tracing::debug!("a viewer that reads nothing is let go");
            self.end_session(now, key, SessionError::Ended);
        }
    }

    /// It is later.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, key)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, key));
            if let Some(session) = self.sessions.get_mut(&key) {
                session.peer.handle_timeout(now, &mut self.event_buffer);
                self.collect_events(key);
            }
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK_INTERVAL;
            self.tick(now);
        }
        self.process_events(now);
    }

    /// Everything ends.
    pub(super) fn close(&mut self, now: Instant) {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        all.into_iter().for_each(|key| self.end_session(now, key, SessionError::Ended));
        self.process_events(now);
    }

    /// Takes what a session has just said.
    fn collect_events(&mut self, key: SessionId) {
        self.pending_events.extend(self.event_buffer.drain(..).map(|happening| (key, happening)));
        if let Some(session) = self.sessions.get_mut(&key) {
            let wake = session.peer.deadline();
            if wake != session.deadline || !self.deadlines.contains(&(wake, key)) {
                self.deadlines.remove(&(session.deadline, key));
                self.deadlines.insert((wake, key));
                session.deadline = wake;
            }
        }
    }

    /// Hears what sessions have said until nobody has anything to say.
    fn process_events(&mut self, now: Instant) {
        while let Some((key, happening)) = self.pending_events.pop_front() {
            match happening {
                Event::Transmit(protocol, to, data) => {
                    self.transmits.push(Transmit { remote: (protocol, to), data });
                }
                Event::Packet(packet) => self.forward_packet(now, key, &packet),
                Event::Connected => self.on_connected(now, key),
                Event::KeyframeRequested => self.on_keyframe_request(now, key),
                Event::Disconnected => self.end_session(now, key, SessionError::Ended),
                Event::SenderReport(track, report) => {
                    if let Some(RoleState::Publisher(publisher)) = self.role_state(key) {
                        publisher.on_sender_report(track, report);
                    }
                }
                Event::BandwidthEstimate(bps) => {
                    if let Some(RoleState::Viewer(viewer)) = self.role_state(key) {
                        viewer.estimate_bps = Some(bps);
                    }
                    self.update_layer(now, key);
                }
                Event::LinkMeasured(line) => self.on_link_measured(now, key, line),
            }
        }
    }

    /// A session's line was measured.
    fn on_link_measured(&mut self, now: Instant, key: SessionId, line: LinkStats) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.link_stats = line;
        let RoleState::Viewer(viewer) = &mut session.state else { return };
        let restart = viewer.on_link_measured(now, line);
        session.peer.set_link_clear(viewer.is_clear(now));
        if let Some(bps) = restart {
            tracing::debug!(
                viewer = viewer.id,
                bps,
                ?line,
                "the estimate is less than what the line carries"
            );
            session.peer.reset_estimate(now, bps, &mut self.event_buffer);
            self.collect_events(key);
        }
    }

    /// Gives a publisher's packet to those who watch.
    fn forward_packet(&mut self, now: Instant, key: SessionId, packet: &Packet) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let RoleState::Publisher(publisher) = &mut session.state else { return };
        let glance = inspect(packet.codec, &packet.payload);
        let made = publisher.on_packet(now, packet, glance);
        let room = Arc::clone(&session.room);
        let Some(viewers) = self.rooms.get_mut(&room).map(|room| std::mem::take(&mut room.viewers)) else {
            return;
        };
        for key_of_viewer in &viewers {
            let Some(session) = self.sessions.get_mut(key_of_viewer) else { continue };
            let RoleState::Viewer(viewer) = &mut session.state else { continue };
            if viewer.publisher != Some(key) || !session.peer.is_connected() {
                continue;
            }
            if let Some(outgoing) = viewer.forward_packet(now, packet, glance, made) {
                session.peer.send_packet(now, outgoing, &mut self.event_buffer);
                self.collect_events(*key_of_viewer);
            }
        }
        if let Some(room) = self.rooms.get_mut(&room) {
            room.viewers = viewers;
        }
    }

    fn on_connected(&mut self, now: Instant, key: SessionId) {
        let Some(session) = self.sessions.get(&key) else { return };
        let room = Arc::clone(&session.room);
        tracing::debug!(%room, key = key.0, "connected");
        self.assign_publishers(now, &room);
    }

    /// Sees to it that all viewers of a room watch somebody, if there is anybody, and get a layer.
    fn assign_publishers(&mut self, now: Instant, room: &Arc<str>) {
        let Some(members) = self.rooms.get(room) else { return };
        let publishers: Vec<SessionId> = members.publishers.clone();
        for key in members.viewers.clone() {
            let Some(RoleState::Viewer(viewer)) = self.role_state(key) else { continue };
            let user = viewer.requested_user.clone();
            let source = publishers.iter().copied().find(|publisher| {
                let Some(session) = self.sessions.get(publisher) else { return false };
                let RoleState::Publisher(publisher) = &session.state else { return false };
                session.peer.is_connected() && user.as_ref().is_none_or(|user| *user == publisher.user)
            });
            if let Some(RoleState::Viewer(viewer)) = self.role_state(key) {
                viewer.set_publisher(source);
            }
            self.update_layer(now, key);
        }
    }

    /// Looks again at what a viewer gets.
    fn update_layer(&mut self, now: Instant, key: SessionId) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let queued = session.peer.video_queued_since();
        let connected = session.peer.is_connected();
        let RoleState::Viewer(viewer) = &mut session.state else { return };
        let (wish, source) = (viewer.preference.clone(), viewer.publisher);
        let Some(RoleState::Publisher(publisher)) = source.and_then(|source| self.role_state(source)) else {
            return;
        };
        let (offers, audio_bps) = (publisher.layer_options(now), publisher.audio_bps(now));
        let named = match &wish {
            LayerPreference::Auto => None,
            LayerPreference::Layer(name) => publisher.find_layer(name),
        };
        let Some(RoleState::Viewer(viewer)) = self.role_state(key) else { return };
        viewer.on_queue_delay(now, queued);
        viewer.update_layer(now, &offers, named, audio_bps);
        let (desired, tries) =
            (viewer.updated_desired_bitrate(&offers, audio_bps), viewer.probe_bitrate(now, &offers));
        let wanted = if connected { viewer.take_keyframe_request(now) } else { None };
        if let (Some(bps), Some(session)) = (desired.or(tries), self.sessions.get_mut(&key)) {
            session.peer.set_desired_bitrate(now, bps, &mut self.event_buffer);
            self.collect_events(key);
        }
        if let Some((layer, source)) = wanted.zip(source) {
            self.request_keyframe(now, source, layer);
        }
    }

    fn on_keyframe_request(&mut self, now: Instant, key: SessionId) {
        let Some(RoleState::Viewer(viewer)) = self.role_state(key) else { return };
        if let Some((layer, source)) = viewer.accept_keyframe_request(now).zip(viewer.publisher) {
            self.request_keyframe(now, source, layer);
        }
    }

    fn request_keyframe(&mut self, now: Instant, key: SessionId, layer: usize) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let RoleState::Publisher(publisher) = &mut session.state else { return };
        if publisher.request_keyframe(now, layer) {
            session.peer.request_keyframe(now, layer, &mut self.event_buffer);
            self.collect_events(key);
        }
    }

    fn tick(&mut self, now: Instant) {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        for key in all {
            let Some(session) = self.sessions.get(&key) else { continue };
            let waited = now.saturating_duration_since(session.created_at);
            let late = !session.peer.is_connected() && waited >= CONNECT_TIMEOUT;
            if late || now.saturating_duration_since(session.last_received) >= SESSION_TIMEOUT {
                self.end_session(now, key, SessionError::Ended);
                continue;
            }
            match &session.state {
                RoleState::Viewer(_) => self.update_layer(now, key),
                RoleState::Publisher(publisher) => {
                    if let Some(layer) = publisher.pending_keyframe_layer(now) {
                        self.request_keyframe(now, key, layer);
                    }
                }
            }
        }
        while self.ended_sessions.front().is_some_and(|departed| now - departed.ended_at > ENDED_SESSION_TTL)
        {
            self.ended_sessions.pop_front();
        }
        self.publish_viewer_states(now);
    }

    /// A session is over.
    fn end_session(&mut self, now: Instant, key: SessionId, why: SessionError) {
        let Some(mut session) = self.sessions.remove(&key) else { return };
        session.peer.close(now, &mut self.event_buffer);
        for happening in self.event_buffer.drain(..) {
            if let Event::Transmit(protocol, to, data) = happening {
                self.transmits.push(Transmit { remote: (protocol, to), data });
            }
        }
        self.deadlines.remove(&(session.deadline, key));
        self.demux.remove_session(key);
        self.secrets.remove(&session.secret);
        let publishes = matches!(session.state, RoleState::Publisher(_));
        let name = Name { room: session.room.to_string(), publishes, secret: session.secret };
        tracing::debug!(room = %session.room, key = key.0, %why, "a session is over");
        self.ended_sessions.push_back(EndedSession { ended_at: now, path: name, reason: why });
        if self.ended_sessions.len() > MAX_ENDED_SESSIONS {
            self.ended_sessions.pop_front();
        }
        let Some(room) = self.rooms.get_mut(&session.room) else { return };
        room.publishers.retain(|other| *other != key);
        room.viewers.retain(|other| *other != key);
        if room.publishers.is_empty() && room.viewers.is_empty() {
            self.rooms.remove(&session.room);
        } else if publishes {
            self.assign_publishers(now, &session.room);
        }
    }

    fn role_state(&mut self, key: SessionId) -> Option<&mut RoleState> {
        self.sessions.get_mut(&key).map(|session| &mut session.state)
    }
}

impl SessionConfig {
    /// What is going to be published.
    fn lock_expected(&self) -> std::sync::MutexGuard<'_, ExpectedPublishers> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of ours that somebody at `source` has sent to, as far as they know.
    fn local_address_for(&self, source: SocketAddr) -> Option<SocketAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == source.is_ipv4())
    }
}

/// Whether a path is one that is read by a queue of its own.
pub(super) fn is_tcp(path: &TransportAddress) -> bool {
    path.0 == Protocol::Tcp
}
