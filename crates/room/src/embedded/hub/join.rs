//! How sessions begin, change and end at the wish of those whose they are.

use std::sync::Arc;
use std::time::Instant;

use super::super::choice::Wish;
use super::super::command::{Join, Joined, Patch, Patched, Refused, Session as Name};
use super::super::news::News;
use super::super::random;
use super::publisher::Publisher;
use super::viewer::Viewer;
use super::{Hub, Key, Role, Room, Session};
use crate::rtc::Line;
use crate::rtc::serve::{self, Peer, Refusal};

/// Whoever publishes without saying as whom.
const NOBODY: &str = "publisher";
/// Bytes of randomness in a session's secret, its ICE name and its ICE password.
const SECRET_BYTES: usize = 16;
const NAME_BYTES: usize = 6;
const PASSWORD_BYTES: usize = 16;
/// A session may be listened to so often at once.
const MAX_LISTENERS: usize = 3;
/// Most candidates in a fragment that are looked at.
const MAX_CANDIDATES: usize = 32;

impl Hub {
    /// Somebody joins.
    pub(in super::super) fn join(&mut self, now: Instant, join: Join) -> Result<Joined, Refused> {
        let user = if join.publishes {
            Some(join.user.clone().unwrap_or_else(|| NOBODY.to_owned()))
        } else {
            join.user.clone()
        };
        let replaces =
            user.as_deref().filter(|_| join.publishes).and_then(|user| self.publisher(&join.room, user));
        let cast = user.as_deref().filter(|_| join.publishes).map(|user| self.is_own_cast(now, &join, user));
        self.find_place(now, &join, cast == Some(true), replaces.is_some())?;
        let no_randomness = || Refused::Full("the system has no randomness yet");
        let secret = random::hex(SECRET_BYTES).ok_or_else(no_randomness)?;
        let etag = random::hex(NAME_BYTES).ok_or_else(no_randomness)?;
        let name = random::hex(NAME_BYTES).ok_or_else(no_randomness)?;
        let password = random::hex(PASSWORD_BYTES).ok_or_else(no_randomness)?;
        let setup = serve::Setup {
            certificate: &self.setup.certificate,
            addresses: &self.setup.addresses,
            tcp: self.setup.tcp,
            role: if join.publishes { serve::Role::Publisher } else { serve::Role::Viewer },
            credentials: (name.clone(), password),
        };
        let (peer, answer) = Peer::answer(now, &join.offer, setup)?;
        if let Some(replaced) = replaces {
            self.end(now, replaced, Refused::Replaced);
        }
        self.next += 1;
        let key = Key(self.next);
        let role = match (join.publishes, user) {
            (true, user) => {
                let user = user.unwrap_or_default();
                Role::Publisher(Box::new(Publisher::new(now, user, peer.layers())))
            }
            (false, user) => Role::Viewer(Box::new(Viewer::new(now, self.next, user))),
        };
        let room: Arc<str> = join.room.into();
        let members = self.rooms.entry(Arc::clone(&room)).or_default();
        members.list(join.publishes).push(key);
        self.secrets.insert(secret.clone(), key);
        self.paths.name(key, &name);
        let (wake, line) = (peer.deadline(), Line::default());
        let etag = format!("\"{etag}\"");
        self.wakes.insert((wake, key));
        let session = Session {
            room: Arc::clone(&room),
            secret: secret.clone(),
            peer,
            role,
            origin: join.origin,
            born: now,
            heard: now,
            wake,
            etag: etag.clone(),
            line,
        };
        self.sessions.insert(key, session);
        self.settle(now);
        Ok(Joined { secret, answer, etag })
    }

    fn publisher(&self, room: &str, user: &str) -> Option<Key> {
        let is_user = |key: &Key| {
            let role = self.sessions.get(key).map(|session| &session.role);
            matches!(role, Some(Role::Publisher(publisher)) if publisher.user == user)
        };
        self.rooms.get(room)?.publishers.iter().copied().find(is_user)
    }

    /// Candidates, or an ICE restart (RFC 9725, section 4.3).
    pub(in super::super) fn patch(&mut self, now: Instant, patch: &Patch) -> Result<Patched, Refused> {
        let key = self.find(&patch.session)?;
        let session = self.sessions.get_mut(&key).ok_or(Refused::Unknown)?;
        let value = |name: &str| patch.fragment.lines().find_map(|line| line.trim().strip_prefix(name));
        if patch.tag == "*" {
            let (Some(ufrag), Some(password)) = (value("a=ice-ufrag:"), value("a=ice-pwd:")) else {
                return Err(Refused::Malformed("an ICE restart needs a=ice-ufrag and a=ice-pwd".to_owned()));
            };
            let etag = random::hex(NAME_BYTES).ok_or(Refused::Full("the system has no randomness yet"))?;
            let (name, ours) = session.peer.restart(ufrag, password)?;
            session.etag = format!("\"{etag}\"");
            let mut fragment = format!("a=ice-ufrag:{name}\r\na=ice-pwd:{ours}\r\n");
            for candidate in session.peer.candidates() {
                fragment.push_str(&candidate);
                fragment.push_str("\r\n");
            }
            fragment.push_str("a=end-of-candidates\r\n");
            let etag = session.etag.clone();
            self.paths.name(key, &name);
            self.take_candidates(now, key, &patch.fragment);
            return Ok(Patched::Restarted { fragment, etag });
        }
        if patch.tag != session.etag {
            return Err(Refused::Stale);
        }
        self.take_candidates(now, key, &patch.fragment);
        Ok(Patched::Noted)
    }

    fn take_candidates(&mut self, now: Instant, key: Key, fragment: &str) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let candidates = fragment.lines().filter_map(|line| line.trim().strip_prefix("a="));
        for candidate in candidates.filter(|line| line.starts_with("candidate:")).take(MAX_CANDIDATES) {
            session.peer.add_remote(candidate);
            session.peer.pass(now, &mut self.scratch);
        }
        self.note(key);
        self.settle(now);
    }

    /// A session ends.
    pub(in super::super) fn leave(&mut self, now: Instant, name: &Name) -> Result<(), Refused> {
        let key = self.find(name)?;
        self.end(now, key, Refused::Ended);
        self.settle(now);
        Ok(())
    }

    /// Whether a session is there.
    pub(in super::super) fn ask(&self, name: &Name) -> Result<(), Refused> {
        self.find(name).map(drop)
    }

    /// A viewer wants a layer.
    pub(in super::super) fn wish(&mut self, now: Instant, name: &Name, layer: &str) -> Result<(), Refused> {
        let key = self.find(name)?;
        let wish = if layer == "auto" { Wish::Auto } else { Wish::Layer(layer.to_owned()) };
        let Some(Role::Viewer(viewer)) = self.role(key) else { return Err(Refused::Unknown) };
        let source = viewer.source;
        if let (Wish::Layer(name), Some(Role::Publisher(publisher))) =
            (&wish, source.and_then(|source| self.role(source)))
            && publisher.layer_named(name).is_none()
        {
            return Err(Refused::Unacceptable("there is no such layer".to_owned()));
        }
        if let Some(Role::Viewer(viewer)) = self.role(key) {
            viewer.wish = wish;
        }
        self.choose(now, key);
        self.settle(now);
        self.tell(now);
        Ok(())
    }

    /// A viewer wants to hear what happens.
    pub(in super::super) fn listen(
        &mut self,
        now: Instant,
        name: &Name,
    ) -> Result<tokio::sync::watch::Receiver<News>, Refused> {
        let key = self.find(name)?;
        self.tell(now);
        match self.role(key) {
            Some(Role::Viewer(viewer)) if viewer.news.receiver_count() >= MAX_LISTENERS => {
                Err(Refused::Full("this session is listened to already"))
            }
            Some(Role::Viewer(viewer)) => Ok(viewer.news.subscribe()),
            _ => Err(Refused::Unknown),
        }
    }

    fn find(&self, name: &Name) -> Result<Key, Refused> {
        if let Some(key) = self.secrets.get(&name.secret) {
            let session = self.sessions.get(key).ok_or(Refused::Unknown)?;
            let publishes = matches!(session.role, Role::Publisher(_));
            let same = *session.room == *name.room && publishes == name.publishes;
            return if same { Ok(*key) } else { Err(Refused::Unknown) };
        }
        let departed = self.departed.iter().rev().find(|departed| departed.name == *name);
        Err(departed.map_or(Refused::Unknown, |departed| departed.why.clone()))
    }
}

impl Room {
    fn list(&mut self, publishes: bool) -> &mut Vec<Key> {
        if publishes { &mut self.publishers } else { &mut self.viewers }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(_) => Self::Malformed(refusal.to_string()),
            Refusal::Unacceptable(_) => Self::Unacceptable(refusal.to_string()),
        }
    }
}
