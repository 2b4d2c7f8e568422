//! One who watches.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::super::choice::{Choice, Offer, Shows, Wish};
use super::super::frame::Glance;
use super::super::meter::Meter;
use super::super::news::News;
use super::super::renumber::Renumber;
use super::Key;
use super::publisher::{AUDIO_RATE, VIDEO_RATE};
use crate::congestion::Congestion;
use crate::rtc::Line;
use crate::rtc::serve::Outgoing;
use crate::rtc::serve::media::{Packet, Track};

/// Part of the estimate that is used.
const USED_PERCENT: u64 = 95;
/// What is kept free for sound whose rate is not known yet, in bit/s.
const AUDIO_AT_LEAST_BPS: u64 = 48_000;
/// The line is always tried for so much, in bit/s: a page at rest may begin to move.
const DESIRED_AT_LEAST_BPS: u64 = 1_500_000;
/// How often it is tried whether the line carries more by now. A try is a few packets.
const TRY_EVERY: Duration = Duration::from_millis(1000);
/// What was sent while the line was clear for so long, it has carried: [`Meter`] counts for two seconds.
const CARRIED_AFTER: Duration = Duration::from_secs(2);
/// An estimator that is less than that begins anew above it, as far as estimators themselves go beyond what
/// was acknowledged (draft-ietf-rmcat-gcc-02, section 5.5), and not again before it could have settled.
const RESTART_PERCENT: u64 = 150;
const RESTART_EVERY: Duration = Duration::from_secs(2);
/// A picture that waits for the line for so long is not sent any more, until a keyframe comes.
const QUEUE_AT_MOST: Duration = Duration::from_millis(1500);
/// A viewer may ask for keyframes so often.
const KEYFRAME_EVERY: Duration = Duration::from_secs(1);
/// It asked for a keyframe and none came: once more.
const KEYFRAME_AGAIN: Duration = Duration::from_secs(1);

/// One who watches.
#[derive(Debug)]
pub(super) struct Viewer {
    /// A number for those who look at statistics.
    pub(super) id: u64,
    /// Whom they want to see; none: whoever publishes.
    pub(super) user: Option<String>,
    /// Whom they see.
    pub(super) source: Option<Key>,
    /// Which layer they want.
    pub(super) wish: Wish,
    /// What is told to them.
    pub(super) news: watch::Sender<News>,
    /// What their line carries, in bit/s.
    pub(super) estimate: Option<u64>,
    /// What was sent.
    pub(super) sent: Meter,
    choice: Choice,
    congestion: Congestion,
    restarted: Option<Instant>,
    /// Whether the estimate is too low for the layer that is sent, or for a better one.
    short: bool,
    /// The layer that is to be sent, and the one that is.
    target: Option<usize>,
    current: Option<usize>,
    audio: Renumber,
    video: Renumber,
    desired: u64,
    tried: Instant,
    asked: Option<Instant>,
    honoured: Option<Instant>,
}

impl Viewer {
    /// Who has got nothing yet.
    pub(super) fn new(now: Instant, id: u64, user: Option<String>) -> Self {
        Self {
            id,
            user,
            source: None,
            wish: Wish::Auto,
            news: watch::channel(News::default()).0,
            estimate: None,
            sent: Meter::new(now),
            choice: Choice::new(),
            // Until it shows otherwise: a line that is too narrow does so with the first pictures.
            congestion: Congestion::new(true),
            restarted: None,
            short: false,
            target: None,
            current: None,
            audio: Renumber::new(AUDIO_RATE),
            video: Renumber::new(VIDEO_RATE),
            desired: 0,
            tried: now,
            asked: None,
            honoured: None,
        }
    }

    /// Sees somebody else from now on, or nobody.
    pub(super) fn watch(&mut self, source: Option<Key>) {
        if self.source != source {
            self.source = source;
            self.audio.cut();
            self.choice.restart();
            (self.target, self.current, self.asked) = (None, None, None);
        }
    }

    /// The layer that is sent.
    pub(super) fn layer(&self) -> Option<usize> {
        self.current
    }

    /// The layer that a keyframe is needed of, if it is time to ask for one.
    pub(super) fn needs_keyframe(&mut self, now: Instant) -> Option<usize> {
        let target = self.target.filter(|_| self.current != self.target)?;
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < KEYFRAME_AGAIN) {
            return None;
        }
        self.asked = Some(now);
        Some(target)
    }

    /// The viewer asks for a keyframe; of which layer, if this one may.
    pub(super) fn may_ask(&mut self, now: Instant) -> Option<usize> {
        let often = self.honoured.is_some_and(|at| now.saturating_duration_since(at) < KEYFRAME_EVERY);
        let layer = self.current.filter(|_| !often)?;
        self.honoured = Some(now);
        Some(layer)
    }

    /// The line was measured; what the estimator is to begin anew from, in bit/s, if it believes in less than
    /// the line carries.
    pub(super) fn measured(&mut self, now: Instant, line: Line) -> Option<u64> {
        self.congestion.measured(now, line.rtt, line.loss);
        let often = self.restarted.is_some_and(|at| now.saturating_duration_since(at) < RESTART_EVERY);
        let carried = self.carried(now);
        if often || line.estimate_bps? >= carried {
            return None;
        }
        self.restarted = Some(now);
        Some(carried * RESTART_PERCENT / 100)
    }

    /// Whether the line shows neither losses nor delays.
    pub(super) fn is_clear(&self, now: Instant) -> bool {
        self.congestion.is_clear(now)
    }

    /// What the line is believed to carry, in bit/s, once anything is known: what it is estimated to, but no
    /// less than it does.
    pub(super) fn capacity(&mut self, now: Instant) -> Option<u64> {
        let carried = self.carried(now);
        self.estimate.map(|estimate| estimate.max(carried))
    }

    /// What the line has carried without losses and delays, in bit/s.
    fn carried(&mut self, now: Instant) -> u64 {
        if self.congestion.clear_for(now) >= CARRIED_AFTER { self.sent.bps(now) } else { 0 }
    }

    /// Looks again at which layer to send. `named` is the layer that the viewer asked for.
    pub(super) fn choose(&mut self, now: Instant, offers: &[Offer], named: Option<usize>, audio_bps: u64) {
        let audio = audio_bps.max(AUDIO_AT_LEAST_BPS);
        // Before there is an estimate, the line is as good as it must be.
        let estimate = self.capacity(now).unwrap_or(u64::from(u32::MAX));
        let budget = (estimate * USED_PERCENT / 100).saturating_sub(audio);
        let wished = named.filter(|named| offers.iter().any(|offer| offer.layer == *named));
        let (clear, shows) = (self.is_clear(now), Shows::of(&self.congestion, now));
        let target = wished.or_else(|| self.choice.choose(now, offers, budget, shows));
        self.short = offers.first().is_some_and(|best| best.bps > budget);
        if target != self.target {
            // What the line cannot carry is not sent until the keyframe of what it can: that would come even
            // later.
            let tight =
                |current| !clear && offers.iter().any(|offer| offer.layer == current && offer.bps > budget);
            self.current = self.current.filter(|current| wished.is_some() || !tight(*current));
            tracing::debug!(viewer = self.id, ?target, budget, "another layer");
            (self.target, self.asked) = (target, None);
        }
        if target.is_none() {
            self.current = None;
        }
    }

    /// Whether to try the line again: it did not carry the best there is, but may by now.
    pub(super) fn tries(&mut self, now: Instant, offers: &[Offer]) -> Option<u64> {
        let best = self.target.is_some() && self.target == offers.first().map(|offer| offer.layer);
        let content = best && !self.short;
        if content || offers.is_empty() || now.saturating_duration_since(self.tried) < TRY_EVERY {
            return None;
        }
        self.tried = now;
        Some(self.desired)
    }

    /// What the line is to be tried for, if that has changed.
    pub(super) fn desires(&mut self, offers: &[Offer], audio_bps: u64) -> Option<u64> {
        let largest = offers.iter().map(|offer| offer.bps).max().unwrap_or(0);
        let wanted = (largest * 3 / 2 + audio_bps).max(DESIRED_AT_LEAST_BPS);
        // Up with a jump, for a little more is not worth trying the line; down slowly, as pages move and
        // rest.
        let desired = if wanted > self.desired + self.desired / 10 {
            wanted
        } else if wanted < self.desired / 2 {
            self.desired * 9 / 10
        } else {
            return None;
        };
        self.desired = desired;
        Some(desired)
    }

    /// The picture waits for the line since then; it is not made longer.
    pub(super) fn queued(&mut self, now: Instant, since: Option<Instant>) {
        if since.is_some_and(|since| now.saturating_duration_since(since) > QUEUE_AT_MOST) {
            (self.current, self.asked) = (None, None);
        }
    }

    /// What this viewer gets of a packet.
    pub(super) fn forward(
        &mut self,
        now: Instant,
        packet: &Packet,
        glance: Glance,
        made: Instant,
    ) -> Option<Outgoing> {
        let mut fresh = false;
        let numbers = match packet.track {
            Track::Audio => self.audio.next(packet, made, None)?,
            Track::Video(layer) => {
                if self.target == Some(layer) && self.current != self.target && glance.keyframe {
                    self.video.cut();
                    (self.current, fresh) = (self.target, true);
                }
                if self.current != Some(layer) {
                    return None;
                }
                self.video.next(packet, made, glance.vp8)?
            }
        };
        self.sent.add(now, packet.payload.len(), packet.marker);
        Some(Outgoing {
            audio: packet.track == Track::Audio,
            codec: packet.codec,
            seq: numbers.seq,
            timestamp: numbers.timestamp,
            made,
            marker: packet.marker,
            payload: std::sync::Arc::clone(&packet.payload),
            fresh,
            vp8: numbers.vp8,
        })
    }
}
