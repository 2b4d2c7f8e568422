//! One connection to a server, from the greeting to the goodbye.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pagecast_core::spec::{Ice, Room};
use tokio::time::{sleep_until, timeout};
use url::{Host, Url};

use super::media::{Media, Source};
use crate::net::{self, Net};
use crate::rtc::offer::{Error as RtcError, Event, Output, Peer};
use crate::sdp;
use crate::signal::{self, Said, Signal, dialect};

/// How long the way to the server's media may take to be found, once it has answered.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come from the server before new ways are looked for. It has something to say many
/// times a second.
const SILENCE: Duration = Duration::from_secs(2);
/// How long looking for new ways may take.
const RESTART_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the session looks after itself.
const CARE_INTERVAL: Duration = Duration::from_millis(100);
/// Datagrams taken in one go, before anything else gets its turn.
const BATCH: usize = 32;

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The server does not take the stream.
    #[error(transparent)]
    Signal(#[from] signal::Error),
    /// It does, but not like this.
    #[error(transparent)]
    Rtc(#[from] RtcError),
    /// This machine has no way out.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// The server answered, but its media cannot be reached.
    #[error("the server answered, but there is no way to its media: is UDP let through? a TURN server helps")]
    NoWay,
    /// It was there, and is silent.
    #[error("the server is silent")]
    Silent,
    /// It closed the connection.
    #[error("the server closed the connection")]
    Closed,
}

impl Error {
    /// Whether somebody else publishes as this user now.
    pub(crate) fn is_replaced(&self) -> bool {
        matches!(self, Self::Signal(signal::Error::Replaced))
    }

    /// Whether trying again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Signal(error) => error.is_passing(),
            Self::Rtc(error) => matches!(error, RtcError::Broken(_)),
            Self::Net(_) | Self::NoWay | Self::Silent | Self::Closed => true,
        }
    }
}

/// A connection.
pub(crate) struct Session {
    signal: Box<dyn Signal>,
    net: Net,
    peer: Box<Peer>,
    events: VecDeque<Event>,
    /// When the peer wants to be told the time.
    wake: Instant,
    /// When something came from the server last.
    heard: Instant,
    /// The last answer.
    answer: String,
    /// New ways are being looked for, since then.
    restarted: Option<Instant>,
    /// When the media was looked after last.
    cared: Instant,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Session {
    /// Asks the server to take the stream, and finds a way to it.
    pub(crate) async fn open(room: &Room) -> Result<Self, Error> {
        let mut signal = dialect(room);
        match Self::negotiate(room, signal.as_mut()).await {
            Ok((net, peer, answer)) => {
                let now = Instant::now();
                let mut session = Self {
                    signal,
                    net,
                    peer,
                    events: VecDeque::new(),
                    wake: now,
                    heard: now,
                    answer,
                    restarted: None,
                    cared: now,
                };
                match session.connect(room).await {
                    Ok(()) => Ok(session),
                    Err(error) => Err(session.close(error).await),
                }
            }
            Err(error) => {
                let said = signal.leave().await;
                Err(said.map_or(error, Into::into))
            }
        }
    }

    async fn negotiate(room: &Room, signal: &mut dyn Signal) -> Result<(Net, Box<Peer>, String), Error> {
        let mut ice = room.ice.clone();
        ice.servers.extend(signal.join().await?);
        let net = Net::open(&ice, is_local(room)).await?;
        let mut peer = Box::new(Peer::new(Instant::now(), room.codec, &room.layers, signal.rids()));
        for candidate in net.candidates() {
            peer.add_local(candidate.clone());
        }
        let answer = signal.negotiate(&peer.offer()).await?;
        peer.answer(&answer)?;
        Ok((net, peer, answer))
    }

    async fn connect(&mut self, room: &Room) -> Result<(), Error> {
        let late = self.signal.late_servers();
        if !late.is_empty() {
            let ice = Ice { servers: late, relay_only: room.ice.relay_only };
            for candidate in self.net.add_servers(&ice).await {
                let line = candidate.to_sdp_string();
                self.peer.add_local(candidate);
                self.signal.trickle(&sdp::trickle(self.peer.offered(), &line)).await?;
            }
        }
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        self.pump()?;
        while !self.peer.is_connected() {
            if Instant::now() >= deadline {
                return Err(Error::NoWay);
            }
            self.step(deadline).await?;
            self.events.retain(|event| !matches!(event, Event::Silent));
            if self.events.contains(&Event::Closed) {
                return Err(Error::Closed);
            }
        }
        self.heard = Instant::now();
        Ok(())
    }

    /// Waits for a datagram, for something the server says, or until the peer or the caller wants to be
    /// woken.
    async fn step(&mut self, until: Instant) -> Result<(), Error> {
        let wake = self.wake.min(until);
        tokio::select! {
            received = self.net.receive() => self.take(received)?,
            said = self.signal.next() => match said? {
                Said::Candidate(line) => self.peer.add_remote(&line),
                Said::Wanted { .. } => {}
            },
            () = sleep_until(wake.into()) => self.peer.pass(Instant::now())?,
        }
        self.pump()
    }

    fn take(&mut self, first: crate::net::Received) -> Result<(), Error> {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(received) = next else { break };
            let now = Instant::now();
            self.heard = now;
            let way = (received.protocol, received.from, received.to);
            self.peer.receive(now, way, &received.data)?;
            self.pump()?;
            next = self.net.try_receive();
        }
        Ok(())
    }

    /// Does what the peer says, until it has nothing to say.
    fn pump(&mut self) -> Result<(), Error> {
        loop {
            match self.peer.poll()? {
                Output::Send(t) => self.net.send(t.proto, t.source, t.destination, &t.contents),
                Output::Event(event) => self.events.push_back(event),
                Output::Wait(at) => {
                    self.wake = at;
                    return Ok(());
                }
            }
        }
    }

    /// Sends what the cast has to send, until the connection ends.
    pub(crate) async fn run(&mut self, media: &mut Media) -> Error {
        media.connected(Instant::now());
        loop {
            if let Err(error) = self.turn(media).await {
                media.disconnected();
                return error;
            }
        }
    }

    async fn turn(&mut self, media: &mut Media) -> Result<(), Error> {
        while let Some(event) = self.events.pop_front() {
            let now = Instant::now();
            match event {
                Event::Connected | Event::Silent => {}
                Event::Closed => return Err(Error::Closed),
                Event::Keyframe(layer) => media.keyframe(layer),
                Event::Estimate(bps) => media.estimate(now, bps),
                Event::Limit(bps) => media.limit(now, bps),
                Event::Measured(line) => {
                    let restart = media.line(now, line);
                    self.peer.set_clear(media.is_clear(now));
                    if let Some(bps) = restart {
                        tracing::debug!(bps, ?line, "the estimate is less than what the line carries");
                        self.peer.restart_estimate(bps);
                        self.peer.pass(now)?;
                        self.pump()?;
                    }
                }
            }
        }
        if !self.peer.is_alive() {
            return Err(Error::Closed);
        }
        let care = self.cared + CARE_INTERVAL;
        let wake = self.wake.min(care);
        tokio::select! {
            received = self.net.receive() => self.take(received)?,
            (source, packet) = media.next() => {
                let now = Instant::now();
                match source {
                    Source::Layer(layer) => self.peer.write_video(now, layer, &packet)?,
                    Source::Sound => self.peer.write_audio(now, &packet)?,
                }
                self.pump()?;
                // It leaves with the next time that is told.
                self.peer.pass(now)?;
            }
            said = self.signal.next() => match said? {
                Said::Candidate(line) => self.peer.add_remote(&line),
                Said::Wanted { layer, wanted } => media.want(Instant::now(), layer, wanted),
            },
            () = sleep_until(wake.into()) => self.peer.pass(Instant::now())?,
        }
        self.pump()?;
        if Instant::now() >= care {
            self.care(media).await?;
        }
        Ok(())
    }

    /// Looks whether the server is still there.
    async fn care(&mut self, media: &mut Media) -> Result<(), Error> {
        let now = Instant::now();
        self.cared = now;
        media.measure(now, self.peer.stats());
        let silent = now.saturating_duration_since(self.heard);
        match self.restarted {
            _ if silent < SILENCE => self.restarted = None,
            None => self.restart().await?,
            Some(since) if now.saturating_duration_since(since) > RESTART_TIMEOUT => {
                return Err(Error::Silent);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Looks for new ways to the same server.
    async fn restart(&mut self) -> Result<(), Error> {
        tracing::debug!("the server is silent: new ways to it are looked for");
        self.restarted = Some(Instant::now());
        let offer = self.peer.offer();
        self.pump()?;
        let fragment = sdp::restart(&offer.sdp);
        let asked = self.signal.restart(&fragment);
        let fragment = match timeout(RESTART_TIMEOUT, asked).await {
            Ok(Ok(Some(fragment))) => fragment,
            Ok(Ok(None)) | Err(_) => return Err(Error::Silent),
            Ok(Err(error)) => return Err(error.into()),
        };
        self.answer = sdp::patched(&self.answer, &fragment);
        self.peer.answer(&self.answer)?;
        self.pump()
    }

    /// Says goodbye. `error` is why the connection ends, unless the server knows better.
    pub(crate) async fn close(mut self, error: Error) -> Error {
        self.peer.close();
        if let Err(error) = self.pump() {
            tracing::debug!(%error, "a connection does not close properly");
        }
        match self.signal.leave().await {
            Some(said) if !said.is_passing() => said.into(),
            _ => error,
        }
    }
}

/// Whether a room's server is on this machine.
fn is_local(room: &Room) -> bool {
    let Ok(url) = Url::parse(&room.url()) else { return false };
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}
