//! One connection to a server, from the greeting to the goodbye.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pagecast_core::spec::{Ice, Room};
use tokio::time::{sleep_until, timeout};
use url::{Host, Url};

use super::media::{FeedTrack, MediaFeed};
use crate::net::{self, IceSockets};
use crate::rtc::offerer::{Error as RtcError, Event, Output, PeerConnection};
use crate::sdp;
use crate::signaling::{self, ServerEvent, SignalingClient, client_for};

/// How long the way to the server's media may take to be found, once it has answered.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come from the server before new ways are looked for. It has something to say many
/// times a second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long looking for new ways may take.
const RESTART_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the session looks after itself.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Datagrams taken in one go, before anything else gets its turn.
const MAX_RECEIVE_BATCH: usize = 32;

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The server does not take the stream.
    #[error(transparent)]
    Signal(#[from] signaling::Error),
    /// It does, but not like this.
    #[error(transparent)]
    Rtc(#[from] RtcError),
    /// This machine has no way out.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// The server answered, but its media cannot be reached.
    #[error("the server answered, but there is no way to its media: is UDP let through? a TURN server helps")]
    IceFailed,
    /// It was there, and is silent.
    #[error("the server is silent")]
    Timeout,
    /// It closed the connection.
    #[error("the server closed the connection")]
    Closed,
}

impl Error {
    /// Whether somebody else publishes as this user now.
    pub(crate) fn is_replaced(&self) -> bool {
        matches!(self, Self::Signal(signaling::Error::Replaced))
    }

    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Signal(error) => error.is_transient(),
            Self::Rtc(error) => matches!(error, RtcError::ConnectionFailed(_)),
            Self::Net(_) | Self::IceFailed | Self::Timeout | Self::Closed => true,
        }
    }
}

/// A connection.
pub(crate) struct Session {
    signaling: Box<dyn SignalingClient>,
    net: IceSockets,
    peer: Box<PeerConnection>,
    events: VecDeque<Event>,
    /// When the peer wants to be told the time.
    peer_deadline: Instant,
    /// When something came from the server last.
    last_received: Instant,
    /// The last answer.
    answer_sdp: String,
    /// New ways are being looked for, since then.
    ice_restarted_at: Option<Instant>,
    /// When the media was looked after last.
    last_check: Instant,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Session {
    /// Asks the server to take the stream, and finds a way to it.
    pub(crate) async fn open(room: &Room) -> Result<Self, Error> {
        let mut signal = client_for(room);
        match Self::negotiate(room, signal.as_mut()).await {
            Ok((net, peer, answer)) => {
                let now = Instant::now();
                let mut session = Self {
                    signaling: signal,
                    net,
                    peer,
                    events: VecDeque::new(),
                    peer_deadline: now,
                    last_received: now,
                    answer_sdp: answer,
                    ice_restarted_at: None,
                    last_check: now,
                };
                match session.connect_media(room).await {
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

    async fn negotiate(
        room: &Room,
        signal: &mut dyn SignalingClient,
    ) -> Result<(IceSockets, Box<PeerConnection>, String), Error> {
        let mut ice = room.ice.clone();
        ice.servers.extend(signal.join().await?);
        let net = IceSockets::open(&ice, is_local(room)).await?;
        let mut peer = Box::new(PeerConnection::new(Instant::now(), room.codec, &room.layers, signal.rids()));
        for candidate in net.candidates() {
            peer.add_local_candidate(candidate.clone());
        }
        let answer = signal.negotiate(&peer.create_offer()).await?;
        peer.accept_answer(&answer)?;
        Ok((net, peer, answer))
    }

    async fn connect_media(&mut self, room: &Room) -> Result<(), Error> {
        let late = self.signaling.answer_ice_servers();
        if !late.is_empty() {
            let ice = Ice { servers: late, relay_only: room.ice.relay_only };
            for candidate in self.net.add_ice_servers(&ice).await {
                let line = candidate.to_sdp_string();
                self.peer.add_local_candidate(candidate);
                self.signaling.trickle(&sdp::trickle_fragment(self.peer.offer_sdp(), &line)).await?;
            }
        }
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        self.drain_peer()?;
        while !self.peer.is_connected() {
            if Instant::now() >= deadline {
                return Err(Error::IceFailed);
            }
            self.step(deadline).await?;
            self.events.retain(|event| !matches!(event, Event::Disconnected));
            if self.events.contains(&Event::Closed) {
                return Err(Error::Closed);
            }
        }
        self.last_received = Instant::now();
        Ok(())
    }

    /// Waits for a datagram, for something the server says, or until the peer or the caller wants to be
    /// woken.
    async fn step(&mut self, until: Instant) -> Result<(), Error> {
        let wake = self.peer_deadline.min(until);
        tokio::select! {
            received = self.net.receive() => self.receive_batch(received)?,
            said = self.signaling.next_event() => match said? {
                ServerEvent::Candidate(line) => self.peer.add_remote_candidate(&line),
                ServerEvent::LayerSubscription { .. } => {}
            },
            () = sleep_until(wake.into()) => self.peer.handle_timeout(Instant::now())?,
        }
        self.drain_peer()
    }

    fn receive_batch(&mut self, first: crate::net::ReceivedDatagram) -> Result<(), Error> {
        let mut next = Some(first);
        for _ in 0..MAX_RECEIVE_BATCH {
            let Some(received) = next else { break };
            let now = Instant::now();
            self.last_received = now;
            let way = (received.protocol, received.from, received.to);
            self.peer.handle_datagram(now, way, &received.data)?;
            self.drain_peer()?;
            next = self.net.try_receive();
        }
        Ok(())
    }

    /// Does what the peer says, until it has nothing to say.
    fn drain_peer(&mut self) -> Result<(), Error> {
        loop {
            match self.peer.poll()? {
                Output::Transmit(t) => self.net.send(t.proto, t.source, t.destination, &t.contents),
                Output::Event(event) => self.events.push_back(event),
                Output::Timeout(at) => {
                    self.peer_deadline = at;
                    return Ok(());
                }
            }
        }
    }

    /// Sends what the cast has to send, until the connection ends.
    pub(crate) async fn run(&mut self, media: &mut MediaFeed) -> Error {
        media.on_connected(Instant::now());
        loop {
            if let Err(error) = self.run_once(media).await {
                media.on_disconnected();
                return error;
            }
        }
    }

    async fn run_once(&mut self, media: &mut MediaFeed) -> Result<(), Error> {
        while let Some(event) = self.events.pop_front() {
            let now = Instant::now();
            match event {
                Event::Connected | Event::Disconnected => {}
                Event::Closed => return Err(Error::Closed),
                Event::KeyframeRequested(layer) => media.request_keyframe(layer),
                Event::BandwidthEstimate(bps) => media.on_estimate(now, bps),
                Event::ReceiverLimit(bps) => media.on_receiver_limit(now, bps),
                Event::LinkMeasured(line) => {
                    let restart = media.on_link_measured(now, line);
                    self.peer.set_link_clear(media.is_clear(now));
                    if let Some(bps) = restart {
                        tracing::debug!(bps, ?line, "the estimate is less than what the line carries");
                        self.peer.reset_estimate(bps);
                        self.peer.handle_timeout(now)?;
                        self.drain_peer()?;
                    }
                }
            }
        }
        if !self.peer.is_alive() {
            return Err(Error::Closed);
        }
        let care = self.last_check + CHECK_INTERVAL;
        let wake = self.peer_deadline.min(care);
        tokio::select! {
            received = self.net.receive() => self.receive_batch(received)?,
            (source, packet) = media.next_packet() => {
                let now = Instant::now();
                match source {
                    FeedTrack::Video(layer) => self.peer.write_video(now, layer, &packet)?,
                    FeedTrack::Audio => self.peer.write_audio(now, &packet)?,
                }
                self.drain_peer()?;
                // It leaves with the next time that is told.
                self.peer.handle_timeout(now)?;
            }
            said = self.signaling.next_event() => match said? {
                ServerEvent::Candidate(line) => self.peer.add_remote_candidate(&line),
                ServerEvent::LayerSubscription { layer, subscribed } => media.set_subscribed(Instant::now(), layer, subscribed),
            },
            () = sleep_until(wake.into()) => self.peer.handle_timeout(Instant::now())?,
        }
        self.drain_peer()?;
        if Instant::now() >= care {
            self.check_liveness(media).await?;
        }
        Ok(())
    }

    /// Looks whether the server is still there.
    async fn check_liveness(&mut self, media: &mut MediaFeed) -> Result<(), Error> {
        let now = Instant::now();
        self.last_check = now;
        media.update_status(now, self.peer.stats());
        let silent = now.saturating_duration_since(self.last_received);
        match self.ice_restarted_at {
            _ if silent < SILENCE_TIMEOUT => self.ice_restarted_at = None,
            None => self.restart_ice().await?,
            Some(since) if now.saturating_duration_since(since) > RESTART_TIMEOUT => {
                return Err(Error::Timeout);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Looks for new ways to the same server.
    async fn restart_ice(&mut self) -> Result<(), Error> {
        tracing::debug!("the server is silent: new ways to it are looked for");
        self.ice_restarted_at = Some(Instant::now());
        let offer = self.peer.create_offer();
        self.drain_peer()?;
        let fragment = sdp::restart_fragment(&offer.sdp);
        let asked = self.signaling.restart_ice(&fragment);
        let fragment = match timeout(RESTART_TIMEOUT, asked).await {
            Ok(Ok(Some(fragment))) => fragment,
            Ok(Ok(None)) | Err(_) => return Err(Error::Timeout),
            Ok(Err(error)) => return Err(error.into()),
        };
        self.answer_sdp = sdp::apply_fragment(&self.answer_sdp, &fragment);
        self.peer.accept_answer(&self.answer_sdp)?;
        self.drain_peer()
    }

    /// Says goodbye. `error` is why the connection ends, unless the server knows better.
    pub(crate) async fn close(mut self, error: Error) -> Error {
        self.peer.close();
        if let Err(error) = self.drain_peer() {
            tracing::debug!(%error, "a connection does not close properly");
        }
        match self.signaling.leave().await {
            Some(said) if !said.is_transient() => said.into(),
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
