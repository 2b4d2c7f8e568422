//! One session with a server: signaling, ICE and media, from joining to leaving.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pagecast_core::spec::{Ice, Room};
use tokio::time::timeout;
use url::{Host, Url};

use super::media::{FeedTrack, MediaFeed};
use crate::net::{self, IceSockets};
use crate::rtc::Datagram;
use crate::rtc::offerer::{Error as RtcError, Event, Input, Output, PeerConnection};
use crate::sdp;
use crate::signaling::{self, ServerEvent, SignalingClient, client_for};
use crate::timer::sleep_until;

/// Longest duration of ICE and DTLS after the server's answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a datagram from the server after which ICE restarts. Servers send several per second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest duration of an ICE restart.
const RESTART_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of liveness checks and status updates.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Most datagrams received before packets and timeouts get their turn.
const MAX_RECEIVE_BATCH: usize = 32;

/// Why a session could not be opened or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// Signaling failed.
    #[error(transparent)]
    Signal(#[from] signaling::Error),
    /// Negotiation or the peer connection failed.
    #[error(transparent)]
    Rtc(#[from] RtcError),
    /// No socket could be opened.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// The server answered, but no ICE candidate pair works.
    #[error("no ICE candidate pair works; allow UDP or configure a TURN server")]
    IceFailed,
    /// Nothing arrived from the server, and the ICE restart failed.
    #[error("nothing was received from the server for {} s", SILENCE_TIMEOUT.as_secs())]
    Timeout,
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
}

impl Error {
    /// Whether another publisher of this user replaced the session.
    pub(crate) fn is_replaced(&self) -> bool {
        matches!(self, Self::Signal(signaling::Error::Replaced))
    }

    /// Whether a retry may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Signal(error) => error.is_transient(),
            Self::Rtc(error) => matches!(error, RtcError::ConnectionFailed(_)),
            Self::Net(_) | Self::IceFailed | Self::Timeout | Self::Closed => true,
        }
    }
}

/// One session with a server.
pub(crate) struct Session {
    signaling: Box<dyn SignalingClient>,
    net: IceSockets,
    peer: Box<PeerConnection>,
    /// Events of the peer connection that were not processed yet.
    events: VecDeque<Event>,
    /// Time of the last received datagram.
    last_received: Instant,
    /// Latest SDP answer.
    answer_sdp: String,
    /// Start of an ICE restart that is not finished.
    ice_restarted_at: Option<Instant>,
    /// Time of the last liveness check.
    last_check: Instant,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens a session and connects its media.
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
                let reason = signal.leave().await;
                Err(reason.map_or(error, Into::into))
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
        let servers = self.signaling.answer_ice_servers();
        if !servers.is_empty() {
            let ice = Ice { servers, relay_only: room.ice.relay_only };
            for candidate in self.net.add_ice_servers(&ice).await {
                let line = candidate.to_sdp_string();
                self.peer.add_local_candidate(candidate);
                self.signaling.trickle(&sdp::trickle_fragment(self.peer.offer_sdp(), &line)).await?;
            }
        }
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        self.drain_peer(Instant::now())?;
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

    /// Waits for a datagram, a signaling event or a deadline, and hands it in. Returns at `until` at the
    /// latest.
    async fn step(&mut self, until: Instant) -> Result<(), Error> {
        let deadline = [self.peer.deadline(), Some(until)].into_iter().flatten().min();
        tokio::select! {
            received = self.net.receive() => self.receive_batch(received)?,
            event = self.signaling.next_event() => match event? {
                ServerEvent::Candidate(line) => {
                    self.peer.handle(Instant::now(), Input::RemoteCandidate(&line));
                }
                ServerEvent::LayerSubscription { .. } => {}
            },
            () = sleep_until(deadline) => self.peer.handle(Instant::now(), Input::Timeout),
        }
        self.drain_peer(Instant::now())
    }

    fn receive_batch(&mut self, first: crate::net::ReceivedDatagram) -> Result<(), Error> {
        let mut next = Some(first);
        for _ in 0..MAX_RECEIVE_BATCH {
            let Some(received) = next else { break };
            let now = Instant::now();
            self.last_received = now;
            let (protocol, source, destination) = (received.protocol, received.from, received.to);
            let datagram = Datagram { protocol, source, destination, data: &received.data };
            self.peer.handle(now, Input::Datagram(datagram));
            self.drain_peer(now)?;
            next = self.net.try_receive();
        }
        Ok(())
    }

    /// Carries out the outputs of the peer connection, and queues its events.
    fn drain_peer(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(output) = self.peer.poll(now) {
            match output {
                Output::Transmit(t) => self.net.send(t.protocol, t.source, t.destination, &t.data),
                Output::Event(Event::Failed(error)) => return Err(error.into()),
                Output::Event(event) => self.events.push_back(event),
            }
        }
        Ok(())
    }

    /// Sends the feed until the session ends.
    pub(crate) async fn run(&mut self, media: &mut MediaFeed) -> Error {
        media.on_connected(Instant::now());
        loop {
            if let Err(error) = self.run_once(media).await {
                media.on_disconnected(Instant::now());
                return error;
            }
        }
    }

    /// Processes events, then waits for a datagram, a packet, a signaling event or a deadline, and hands it
    /// in.
    async fn run_once(&mut self, media: &mut MediaFeed) -> Result<(), Error> {
        while let Some(event) = self.events.pop_front() {
            let now = Instant::now();
            handle_event(now, &mut self.peer, media, event)?;
            self.drain_peer(now)?;
        }
        if !self.peer.is_alive() {
            return Err(Error::Closed);
        }
        let check_at = self.last_check + CHECK_INTERVAL;
        let deadline = [self.peer.deadline(), media.deadline(), Some(check_at)].into_iter().flatten().min();
        tokio::select! {
            received = self.net.receive() => self.receive_batch(received)?,
            (source, packet) = media.next_packet() => {
                let now = Instant::now();
                self.peer.handle(now, match source {
                    FeedTrack::Video(layer) => Input::Video { layer, packet: &packet },
                    FeedTrack::Audio => Input::Audio(&packet),
                });
                self.drain_peer(now)?;
            }
            event = self.signaling.next_event() => match event? {
                ServerEvent::Candidate(line) => {
                    self.peer.handle(Instant::now(), Input::RemoteCandidate(&line));
                }
                ServerEvent::LayerSubscription { layer, subscribed } => {
                    media.set_subscribed(Instant::now(), layer, subscribed);
                }
            },
            () = sleep_until(deadline) => self.peer.handle(Instant::now(), Input::Timeout),
        }
        let now = Instant::now();
        self.drain_peer(now)?;
        media.handle_timeout(now);
        if now >= check_at {
            self.check_liveness(media).await?;
        }
        Ok(())
    }

    /// Checks that the server is still there, and updates the status.
    async fn check_liveness(&mut self, media: &mut MediaFeed) -> Result<(), Error> {
        let now = Instant::now();
        self.last_check = now;
        media.update_status(now, self.peer.stats());
        let silence = now.saturating_duration_since(self.last_received);
        match self.ice_restarted_at {
            _ if silence < SILENCE_TIMEOUT => self.ice_restarted_at = None,
            None => self.restart_ice().await?,
            Some(since) if now.saturating_duration_since(since) > RESTART_TIMEOUT => {
                return Err(Error::Timeout);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Restarts ICE with the same server.
    async fn restart_ice(&mut self) -> Result<(), Error> {
        tracing::debug!("server silent, restarting ICE");
        self.ice_restarted_at = Some(Instant::now());
        let offer = self.peer.create_offer();
        self.drain_peer(Instant::now())?;
        let fragment = sdp::restart_fragment(&offer.sdp);
        let restart = self.signaling.restart_ice(&fragment);
        let fragment = match timeout(RESTART_TIMEOUT, restart).await {
            Ok(Ok(Some(fragment))) => fragment,
            Ok(Ok(None)) | Err(_) => return Err(Error::Timeout),
            Ok(Err(error)) => return Err(error.into()),
        };
        self.answer_sdp = sdp::apply_fragment(&self.answer_sdp, &fragment);
        self.peer.accept_answer(&self.answer_sdp)?;
        self.drain_peer(Instant::now())
    }

    /// Closes the session and returns why it ended: the server's reason if it gives one, else `error`.
    pub(crate) async fn close(mut self, error: Error) -> Error {
        let now = Instant::now();
        self.peer.handle(now, Input::Close);
        if let Err(error) = self.drain_peer(now) {
            tracing::debug!(%error, "peer connection close failed");
        }
        match self.signaling.leave().await {
            Some(reason) if !reason.is_transient() => reason.into(),
            _ => error,
        }
    }
}

/// Processes an event of an established connection. Poll the connection afterwards.
fn handle_event(
    now: Instant,
    peer: &mut PeerConnection,
    media: &mut MediaFeed,
    event: Event,
) -> Result<(), Error> {
    match event {
        Event::Connected | Event::Disconnected => {}
        Event::Closed => return Err(Error::Closed),
        Event::Failed(error) => return Err(error.into()),
        Event::KeyframeRequested(layer) => media.request_keyframe(layer),
        Event::BandwidthEstimate(bps) => media.on_estimate(now, bps),
        Event::ReceiverLimit(bps) => media.on_receiver_limit(now, bps),
        Event::LinkMeasured(link) => {
            let reset = media.on_link_measured(now, link);
            peer.handle(now, Input::LinkClear(media.is_clear(now)));
            if let Some(bps) = reset {
                tracing::debug!(bps, ?link, "bandwidth estimate reset");
                peer.handle(now, Input::ResetEstimate(bps));
            }
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests;
