//! The one place that knows str0m. What the rest of the crate needs of it has its name here.

pub(crate) mod serve;

pub(crate) mod offer;

use std::time::Duration;

use str0m::media::MediaTime;
use str0m::rtp::{Extension, ExtensionMap};

pub(crate) use str0m::Candidate;
pub(crate) use str0m::net::{Protocol, TcpType};

/// How long a player keeps a picture back, at least and at most (the header extension playout-delay). Sound always takes longer: it
/// is made in pieces, and waits in the player's buffer and its sound card. Players know that, and keep pictures back for it, but
/// leave it at the last 30 ms, and take their time.
const PLAYOUT_DELAY: [Duration; 2] = [Duration::from_millis(60), Duration::from_secs(10)];
/// Its number; any that the others do not have.
const PLAYOUT_DELAY_ID: u8 = 6;

/// What is said beside each packet.
fn extensions() -> ExtensionMap {
    let mut extensions = ExtensionMap::standard();
    extensions.set(PLAYOUT_DELAY_ID, Extension::PlayoutDelay);
    extensions
}

fn playout_delay() -> [MediaTime; 2] {
    PLAYOUT_DELAY.map(MediaTime::from)
}
