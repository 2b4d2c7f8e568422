//! What must be known of Chromium so that its pictures and its sound agree in the recording.
//!
//! The display stamps a picture with the tick on which the page began to draw it: what a page draws in
//! `requestAnimationFrame` is then exactly as old as its time stamp says. Two things differ from that, both measured with
//! pages that flash and beep (`tests/sync.rs`).

use std::time::Duration;

use pagecast_core::Fps;

/// Above this rate, drawing a frame takes about as long as the time there is for it.
const TIGHT: Duration = Duration::from_millis(20);
/// More than this is not said about any screen.
const MOST: Duration = Duration::from_millis(500);

/// How much earlier than the picture's the sound's first moment is. At high rates the page is as often one tick behind as
/// it is not, for as long as it keeps drawing; half a tick of lead leaves half a tick of error either way.
pub(crate) fn sound_lead(fps: Fps) -> Duration {
    let interval = fps.interval();
    if interval < TIGHT { interval / 2 } else { Duration::ZERO }
}

/// How much later than it is a media element must believe that it is heard. Chromium picks the frame of a `<video>` that
/// is due two intervals after it begins to draw, when a screen would show it; our time stamp says when it began.
pub(crate) fn player_delay(fps: Fps) -> Duration {
    (fps.interval() * 2 + sound_lead(fps)).min(MOST)
}
