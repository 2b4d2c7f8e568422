//! The room itself. Sans-IO: datagrams, commands and the time in, datagrams out. One thread owns it, so
//! nothing here is locked.
//!
//! ```text
//!  datagram ─▶ paths ─▶ session ─▶ packet ─▶ publisher: clock, meters ─▶ viewers: layer, numbers ─▶ sessions ─▶ datagrams
//! ```

mod endure;
mod join;
mod places;
mod publisher;
mod report;
mod viewer;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use self::endure::endure;
use self::publisher::Publisher;
use self::viewer::Viewer;
use super::command::{Origin, Refused, Session as Name};
use super::expected::Expected;
use super::frame::look;
use super::paths::{Path, Paths, is_stun};
use super::{Limits, choice::Wish};
use crate::rtc::serve::media::Packet;
use crate::rtc::serve::{Certificate, Datagram, Happening, Peer};
use crate::rtc::{Line, Protocol};

/// How often layers are chosen, and what has to be is looked at.
const TICK: Duration = Duration::from_millis(250);
/// A session that has not connected by then never will.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A session of which nothing was heard for so long is dead. ICE says something every few seconds.
const SILENT: Duration = Duration::from_secs(15);
/// How long, and of how many sessions, it is remembered why they are over.
const REMEMBER: Duration = Duration::from_secs(600);
const REMEMBER_AT_MOST: usize = 4096;

/// A session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) u64);

/// What all sessions are made with.
#[derive(Debug)]
pub(super) struct Setup {
    /// What they prove themselves with.
    pub(super) certificate: Certificate,
    /// Where they can be reached.
    pub(super) addresses: Vec<SocketAddr>,
    /// Whether by TCP, too.
    pub(super) tcp: bool,
    /// How much there may be of everything.
    pub(super) limits: Limits,
    /// Where somebody is going to publish.
    pub(super) expected: Arc<Mutex<Expected>>,
}

/// All rooms.
#[derive(Debug)]
pub(super) struct Hub {
    setup: Setup,
    sessions: HashMap<Key, Session>,
    rooms: BTreeMap<Arc<str>, Room>,
    secrets: HashMap<String, Key>,
    departed: VecDeque<Departed>,
    paths: Paths,
    /// When each session wants to be told that it is later.
    wakes: BTreeSet<(Instant, Key)>,
    /// What sessions have said, and nobody has heard yet.
    work: VecDeque<(Key, Happening)>,
    scratch: Vec<Happening>,
    out: Vec<Transmit>,
    tick_at: Instant,
    next: u64,
}

/// A datagram to be sent.
#[derive(Debug)]
pub(super) struct Transmit {
    /// Where to.
    pub(super) path: Path,
    /// What.
    pub(super) data: Vec<u8>,
}

/// Who is in a room, the earliest first.
#[derive(Debug, Default)]
struct Room {
    publishers: Vec<Key>,
    viewers: Vec<Key>,
}

/// One connection.
#[derive(Debug)]
struct Session {
    room: Arc<str>,
    secret: String,
    peer: Peer,
    role: Role,
    origin: Origin,
    born: Instant,
    /// When it was heard the last time.
    heard: Instant,
    wake: Instant,
    etag: String,
    line: Line,
}

/// What a connection is for.
#[derive(Debug)]
enum Role {
    Publisher(Box<Publisher>),
    Viewer(Box<Viewer>),
}

/// A session that is over.
#[derive(Debug)]
struct Departed {
    at: Instant,
    name: Name,
    why: Refused,
}

impl Hub {
    /// Without rooms.
    pub(super) fn new(now: Instant, setup: Setup) -> Self {
        Self {
            setup,
            sessions: HashMap::new(),
            rooms: BTreeMap::new(),
            secrets: HashMap::new(),
            departed: VecDeque::new(),
            paths: Paths::default(),
            wakes: BTreeSet::new(),
            work: VecDeque::new(),
            scratch: Vec::new(),
            out: Vec::new(),
            tick_at: now,
            next: 0,
        }
    }

    /// When it wants to be told the time.
    pub(super) fn deadline(&self) -> Instant {
        self.wakes.first().map_or(self.tick_at, |(at, _)| self.tick_at.min(*at))
    }

    /// What is to be sent.
    pub(super) fn transmits(&mut self) -> std::vec::Drain<'_, Transmit> {
        self.out.drain(..)
    }

    /// A datagram came; whether it is of a session.
    pub(super) fn receive(&mut self, now: Instant, path: Path, data: &[u8]) -> bool {
        let known = self.paths.at(path);
        let named = if is_stun(data) { self.paths.named(data) } else { None };
        let Some(key) = named.or(known) else { return false };
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        let (protocol, source) = path;
        let Some(destination) = self.setup.destination(source) else { return false };
        let datagram = Datagram { protocol, source, destination, data };
        if is_stun(data) {
            // Only who knows the password gets through here.
            if !session.peer.accepts(now, datagram) {
                return false;
            }
            self.paths.found(path, key);
        }
        session.heard = now;
        session.peer.receive(now, datagram, &mut self.scratch);
        self.note(key);
        self.settle(now);
        true
    }

    /// Who was at this address is there no more, or takes nothing: a connection that was closed.
    pub(super) fn cut(&mut self, now: Instant, path: Path, takes_nothing: bool) {
        let key = self.paths.at(path);
        self.paths.lost(path);
        if let Some(key) = key.filter(|_| takes_nothing) {
            tracing::debug!("a viewer that reads nothing is let go");
            self.end(now, key, Refused::Ended);
        }
    }

    /// It is later.
    pub(super) fn pass(&mut self, now: Instant) {
        while let Some((at, key)) = self.wakes.first().copied().filter(|(at, _)| *at <= now) {
            self.wakes.remove(&(at, key));
            if let Some(session) = self.sessions.get_mut(&key) {
                session.peer.pass(now, &mut self.scratch);
                self.note(key);
            }
        }
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            self.tick(now);
        }
        self.settle(now);
    }

    /// Everything ends.
    pub(super) fn close(&mut self, now: Instant) {
        let all: Vec<Key> = self.sessions.keys().copied().collect();
        all.into_iter().for_each(|key| self.end(now, key, Refused::Ended));
        self.settle(now);
    }

    /// Takes what a session has just said.
    fn note(&mut self, key: Key) {
        self.work.extend(self.scratch.drain(..).map(|happening| (key, happening)));
        if let Some(session) = self.sessions.get_mut(&key) {
            let wake = session.peer.deadline();
            if wake != session.wake || !self.wakes.contains(&(wake, key)) {
                self.wakes.remove(&(session.wake, key));
                self.wakes.insert((wake, key));
                session.wake = wake;
            }
        }
    }

    /// Hears what sessions have said until nobody has anything to say.
    fn settle(&mut self, now: Instant) {
        while let Some((key, happening)) = self.work.pop_front() {
            match happening {
                Happening::Send(protocol, to, data) => self.out.push(Transmit { path: (protocol, to), data }),
                Happening::Packet(packet) => self.forward(now, key, &packet),
                Happening::Connected => self.connected(now, key),
                Happening::Keyframe => self.viewer_asks(now, key),
                Happening::Gone => self.end(now, key, Refused::Ended),
                Happening::Report(track, report) => {
                    if let Some(Role::Publisher(publisher)) = self.role(key) {
                        publisher.report(track, report);
                    }
                }
                Happening::Estimate(bps) => {
                    if let Some(Role::Viewer(viewer)) = self.role(key) {
                        viewer.estimate = Some(bps);
                    }
                    self.choose(now, key);
                }
                Happening::Measured(line) => self.measured(now, key, line),
            }
        }
    }

    /// A session's line was measured.
    fn measured(&mut self, now: Instant, key: Key, line: Line) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.line = line;
        let Role::Viewer(viewer) = &mut session.role else { return };
        let restart = viewer.measured(now, line);
        session.peer.set_clear(viewer.is_clear(now));
        if let Some(bps) = restart {
            tracing::debug!(
                viewer = viewer.id,
                bps,
                ?line,
                "the estimate is less than what the line carries"
            );
            session.peer.restart_estimate(now, bps, &mut self.scratch);
            self.note(key);
        }
    }

    /// Gives a publisher's packet to those who watch.
    fn forward(&mut self, now: Instant, key: Key, packet: &Packet) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Role::Publisher(publisher) = &mut session.role else { return };
        let glance = look(packet.codec, &packet.payload);
        let made = publisher.take(now, packet, glance);
        let room = Arc::clone(&session.room);
        let Some(viewers) = self.rooms.get_mut(&room).map(|room| std::mem::take(&mut room.viewers)) else {
            return;
        };
        for key_of_viewer in &viewers {
            let Some(session) = self.sessions.get_mut(key_of_viewer) else { continue };
            let Role::Viewer(viewer) = &mut session.role else { continue };
            if viewer.source != Some(key) || !session.peer.is_connected() {
                continue;
            }
            if let Some(outgoing) = viewer.forward(now, packet, glance, made) {
                session.peer.send(now, outgoing, &mut self.scratch);
                self.note(*key_of_viewer);
            }
        }
        if let Some(room) = self.rooms.get_mut(&room) {
            room.viewers = viewers;
        }
    }

    fn connected(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get(&key) else { return };
        let room = Arc::clone(&session.room);
        tracing::debug!(%room, key = key.0, "connected");
        self.assign(now, &room);
    }

    /// Sees to it that all viewers of a room watch somebody, if there is anybody, and get a layer.
    fn assign(&mut self, now: Instant, room: &Arc<str>) {
        let Some(members) = self.rooms.get(room) else { return };
        let publishers: Vec<Key> = members.publishers.clone();
        for key in members.viewers.clone() {
            let Some(Role::Viewer(viewer)) = self.role(key) else { continue };
            let user = viewer.user.clone();
            let source = publishers.iter().copied().find(|publisher| {
                let Some(session) = self.sessions.get(publisher) else { return false };
                let Role::Publisher(publisher) = &session.role else { return false };
                session.peer.is_connected() && user.as_ref().is_none_or(|user| *user == publisher.user)
            });
            if let Some(Role::Viewer(viewer)) = self.role(key) {
                viewer.watch(source);
            }
            self.choose(now, key);
        }
    }

    /// Looks again at what a viewer gets.
    fn choose(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let queued = session.peer.queued_since();
        let connected = session.peer.is_connected();
        let Role::Viewer(viewer) = &mut session.role else { return };
        let (wish, source) = (viewer.wish.clone(), viewer.source);
        let Some(Role::Publisher(publisher)) = source.and_then(|source| self.role(source)) else { return };
        let (offers, audio_bps) = (publisher.offers(now), publisher.audio_bps(now));
        let named = match &wish {
            Wish::Auto => None,
            Wish::Layer(name) => publisher.layer_named(name),
        };
        let Some(Role::Viewer(viewer)) = self.role(key) else { return };
        viewer.queued(now, queued);
        viewer.choose(now, &offers, named, audio_bps);
        let (desired, tries) = (viewer.desires(&offers, audio_bps), viewer.tries(now, &offers));
        let wanted = if connected { viewer.needs_keyframe(now) } else { None };
        if let (Some(bps), Some(session)) = (desired.or(tries), self.sessions.get_mut(&key)) {
            session.peer.desire(now, bps, &mut self.scratch);
            self.note(key);
        }
        if let Some((layer, source)) = wanted.zip(source) {
            self.want_keyframe(now, source, layer);
        }
    }

    fn viewer_asks(&mut self, now: Instant, key: Key) {
        let Some(Role::Viewer(viewer)) = self.role(key) else { return };
        if let Some((layer, source)) = viewer.may_ask(now).zip(viewer.source) {
            self.want_keyframe(now, source, layer);
        }
    }

    fn want_keyframe(&mut self, now: Instant, key: Key, layer: usize) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Role::Publisher(publisher) = &mut session.role else { return };
        if publisher.want_keyframe(now, layer) {
            session.peer.request_keyframe(now, layer, &mut self.scratch);
            self.note(key);
        }
    }

    fn tick(&mut self, now: Instant) {
        let all: Vec<Key> = self.sessions.keys().copied().collect();
        for key in all {
            let Some(session) = self.sessions.get(&key) else { continue };
            let waited = now.saturating_duration_since(session.born);
            let late = !session.peer.is_connected() && waited >= CONNECT_WITHIN;
            if late || now.saturating_duration_since(session.heard) >= SILENT {
                self.end(now, key, Refused::Ended);
                continue;
            }
            match &session.role {
                Role::Viewer(_) => self.choose(now, key),
                Role::Publisher(publisher) => {
                    if let Some(layer) = publisher.wanted(now) {
                        self.want_keyframe(now, key, layer);
                    }
                }
            }
        }
        while self.departed.front().is_some_and(|departed| now - departed.at > REMEMBER) {
            self.departed.pop_front();
        }
        self.tell(now);
    }

    /// A session is over.
    fn end(&mut self, now: Instant, key: Key, why: Refused) {
        let Some(mut session) = self.sessions.remove(&key) else { return };
        session.peer.close(now, &mut self.scratch);
        for happening in self.scratch.drain(..) {
            if let Happening::Send(protocol, to, data) = happening {
                self.out.push(Transmit { path: (protocol, to), data });
            }
        }
        self.wakes.remove(&(session.wake, key));
        self.paths.forget(key);
        self.secrets.remove(&session.secret);
        let publishes = matches!(session.role, Role::Publisher(_));
        let name = Name { room: session.room.to_string(), publishes, secret: session.secret };
        tracing::debug!(room = %session.room, key = key.0, %why, "a session is over");
        self.departed.push_back(Departed { at: now, name, why });
        if self.departed.len() > REMEMBER_AT_MOST {
            self.departed.pop_front();
        }
        let Some(room) = self.rooms.get_mut(&session.room) else { return };
        room.publishers.retain(|other| *other != key);
        room.viewers.retain(|other| *other != key);
        if room.publishers.is_empty() && room.viewers.is_empty() {
            self.rooms.remove(&session.room);
        } else if publishes {
            self.assign(now, &session.room);
        }
    }

    fn role(&mut self, key: Key) -> Option<&mut Role> {
        self.sessions.get_mut(&key).map(|session| &mut session.role)
    }
}

impl Setup {
    /// What is going to be published.
    fn expected(&self) -> std::sync::MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of ours that somebody at `source` has sent to, as far as they know.
    fn destination(&self, source: SocketAddr) -> Option<SocketAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == source.is_ipv4())
    }
}

/// Whether a path is one that is read by a queue of its own.
pub(super) fn is_tcp(path: &Path) -> bool {
    path.0 == Protocol::Tcp
}
