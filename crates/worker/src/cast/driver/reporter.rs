//! Reports events of a cast, and its progress once a second.

use std::time::Duration;

use pagecast_core::HostTime;
use pagecast_page::clock;

use super::super::report::Progress;
use super::super::{CastEvent, RoomStatus};

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Passes events on, and knows when progress is due.
pub(super) struct EventReporter<'a> {
    on_event: &'a mut dyn FnMut(CastEvent),
    progress_due_at: HostTime,
}

impl<'a> EventReporter<'a> {
    pub(super) fn new(on_event: &'a mut dyn FnMut(CastEvent)) -> Self {
        Self { on_event, progress_due_at: clock::now() + PROGRESS_INTERVAL }
    }

    pub(super) fn report(&mut self, event: CastEvent) {
        (self.on_event)(event);
    }

    /// Returns the receiver of events, for code that reports by itself.
    pub(super) fn on_event(&mut self) -> &mut dyn FnMut(CastEvent) {
        self.on_event
    }

    /// When progress is due.
    pub(super) fn deadline(&self) -> HostTime {
        self.progress_due_at
    }

    /// Reports progress and the status of the room, as far as there are any.
    pub(super) fn report_progress(&mut self, progress: Option<Progress>, room: Option<RoomStatus>) {
        // After a pause, for the start of a browser, nothing is made up for.
        self.progress_due_at = (self.progress_due_at + PROGRESS_INTERVAL).max(clock::now());
        if let Some(progress) = progress {
            self.report(CastEvent::Progress(progress));
        }
        if let Some(room) = room {
            self.report(CastEvent::Room(room));
        }
    }
}
