//! What must be known of Chromium so that its pictures and its sound agree in the recording.
//!
//! The display stamps a picture with the tick on which the page began to draw it: what a page draws in
//! `requestAnimationFrame` is then exactly as old as its time stamp says. Two things differ from that, both measured with
//! pages that flash and beep (`tests/sync.rs`).

use std::time::Duration;

use pagecast_core::Fps;

/// Above this rate, drawing a frame takes about as long as the time there is for it.
const TIGHT: Duration = Duration::from_millis(20);

/// How much earlier than the picture's the sound's first moment is. At high rates the page is as often one tick behind as
/// it is not, for as long as it keeps drawing; half a tick of lead leaves half a tick of error either way.
pub(crate) fn sound_lead(fps: Fps) -> Duration {
    let interval = fps.interval();
    if interval < TIGHT { interval / 2 } else { Duration::ZERO }
}

/// How much later than it is a media element must believe that it is heard: the lead is for what the page draws, not for
/// what it plays.
///
/// A page that draws all the time *and* shows a `<video>` still has its sound late by two intervals: Chromium picks the
/// video's frame that much ahead then, and cannot be told from the page that only plays it, which needs no correction.
/// Sound that is late is noticed less than sound that is early, so the latter page is the one that is exact.
pub(crate) fn player_delay(fps: Fps) -> Duration {
    sound_lead(fps)
}
