//! The one place that knows str0m. What the rest of the crate needs of it has its name here.

pub(crate) mod answerer;

pub(crate) mod offerer;

use std::time::{Duration, Instant};

use str0m::media::MediaTime;
use str0m::rtp::{Extension, ExtensionMap, StreamTx};

pub(crate) use str0m::Candidate;
pub(crate) use str0m::net::{Protocol, TcpType};

/// How long a player keeps a picture back, at least and at most (the header extension playout-delay). Sound
/// always takes longer: it is made in pieces, and waits in the player's buffer and its sound card. Players
/// know that, and keep pictures back for it, but leave it at the last 30 ms, and take their time.
const PLAYOUT_DELAY: [Duration; 2] = [Duration::from_millis(60), Duration::from_secs(10)];
/// Its number; any that the others do not have.
const PLAYOUT_DELAY_ID: u8 = 6;

/// Longest time that a packet of the picture waits in the pacer while the line is clear. The pacer spreads
/// packets by the estimate, which may be wrong, and a frame that comes later than this is seen as a stumble.
const MAX_PACING_DELAY: Duration = Duration::from_millis(40);

/// How a line was when it was measured the last time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LinkStats {
    /// The time a packet takes there and back.
    pub(crate) rtt: Option<Duration>,
    /// Part of the packets of the last second that was lost, 0 to 1; unknown if none was acknowledged.
    pub(crate) loss: Option<f32>,
    /// What the estimator believes at this moment, in bit/s; the estimates that it reports are averages of
    /// three seconds.
    pub(crate) estimate_bps: Option<u64>,
}

/// What is said beside each packet.
fn extension_map() -> ExtensionMap {
    let mut extensions = ExtensionMap::standard();
    extensions.set(PLAYOUT_DELAY_ID, Extension::PlayoutDelay);
    extensions
}

fn playout_delay() -> [MediaTime; 2] {
    PLAYOUT_DELAY.map(MediaTime::from)
}

/// Whether packets of a stream have waited for the pacer for longer than they should.
fn is_pacing_overdue(stream: &StreamTx, now: Instant) -> bool {
    let waits_since = stream.queue_info().and_then(|queue| queue.first_unsent());
    waits_since.is_some_and(|since| now.saturating_duration_since(since) >= MAX_PACING_DELAY)
}
