//! The only module that uses str0m. It re-exports what the rest of the crate needs of it.

pub(crate) mod answerer;

pub(crate) mod offerer;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use str0m::media::MediaTime;
use str0m::rtp::{Extension, ExtensionMap, StreamTx};

pub(crate) use str0m::Candidate;
pub(crate) use str0m::net::{Protocol, TcpType};

/// Minimum and maximum playout delay of video (RTP header extension playout-delay). Audio always takes
/// longer, in the player's jitter buffer and its sound card. Players delay video to match it, but only
/// slowly and not for the last 30 ms.
const PLAYOUT_DELAY: [Duration; 2] = [Duration::from_millis(60), Duration::from_secs(10)];
/// Identifier of the playout-delay extension: the first that str0m's standard extensions leave free.
const PLAYOUT_DELAY_ID: u8 = 6;

/// Longest time that a video packet waits in the pacer while the link is clear. The pacer spreads packets by
/// the bandwidth estimate, which may be wrong, and a frame that is later than this is a visible stutter.
const MAX_PACING_DELAY: Duration = Duration::from_millis(40);

/// A received datagram with its addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    /// UDP or TCP.
    pub(crate) protocol: Protocol,
    /// Address of the sender.
    pub(crate) source: SocketAddr,
    /// Local address that it was sent to, as the remote peer knows it.
    pub(crate) destination: SocketAddr,
    /// Payload of the packet.
    pub(crate) data: &'a [u8],
}

/// A datagram to send.
#[derive(Debug)]
pub(crate) struct Transmit {
    /// UDP or TCP.
    pub(crate) protocol: Protocol,
    /// Local address to send from, as the remote peer knows it.
    pub(crate) source: SocketAddr,
    /// Address of the receiver.
    pub(crate) destination: SocketAddr,
    /// Payload of the packet.
    pub(crate) data: Vec<u8>,
}

impl From<str0m::net::Transmit> for Transmit {
    fn from(transmit: str0m::net::Transmit) -> Self {
        Self {
            protocol: transmit.proto,
            source: transmit.source,
            destination: transmit.destination,
            data: transmit.contents.into(),
        }
    }
}

/// The latest measurement of a network link.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LinkStats {
    /// Round-trip time.
    pub(crate) rtt: Option<Duration>,
    /// Packet loss of the last second, 0 to 1. `None` if no packet was acknowledged.
    pub(crate) loss: Option<f32>,
    /// Current bandwidth estimate, in bit/s. The estimates in events are averages of three seconds.
    pub(crate) estimate_bps: Option<u64>,
}

/// Header extensions of each RTP packet.
fn extension_map() -> ExtensionMap {
    let mut extensions = ExtensionMap::standard();
    extensions.set(PLAYOUT_DELAY_ID, Extension::PlayoutDelay);
    extensions
}

fn playout_delay() -> [MediaTime; 2] {
    PLAYOUT_DELAY.map(MediaTime::from)
}

/// Whether packets of a stream have waited in the pacer for [`MAX_PACING_DELAY`] or longer.
fn is_pacing_overdue(stream: &StreamTx, now: Instant) -> bool {
    let waits_since = stream.queue_info().and_then(|queue| queue.first_unsent());
    waits_since.is_some_and(|since| now.saturating_duration_since(since) >= MAX_PACING_DELAY)
}
