//! What has happened to a cast, for its report.

use pagecast_core::cast::{Event, Warning};

use super::super::report::TimelineEntry;

/// Most timeline entries kept for the report: a cast with more of them repeats itself.
const MAX_TIMELINE_ENTRIES: usize = 1000;

/// The events and warnings of a cast so far.
#[derive(Default)]
pub(super) struct History {
    pub(super) timeline: Vec<TimelineEntry>,
    pub(super) warnings: Vec<Warning>,
    pub(super) reloads: u32,
    pub(super) moves: u32,
}

impl History {
    /// Records and logs an event, `at_ms` after the start of the cast.
    pub(super) fn record(&mut self, at_ms: u64, event: Event) {
        match event {
            Event::Reloaded(fault) => {
                self.reloads += 1;
                tracing::info!(?fault, "page reloaded");
            }
            Event::Moved(fault) => {
                self.moves += 1;
                tracing::info!(?fault, "page moved to a new browser");
            }
            Event::Live => tracing::info!("page live"),
            Event::Ended(reason) => tracing::info!(?reason, "cast finished"),
        }
        if self.timeline.len() < MAX_TIMELINE_ENTRIES {
            self.timeline.push(TimelineEntry { at_ms, event });
        }
    }

    /// Records and logs a warning; returns false if it is known already.
    pub(super) fn warn(&mut self, warning: Warning) -> bool {
        if self.warnings.contains(&warning) {
            return false;
        }
        self.warnings.push(warning);
        tracing::info!(warning = warning.as_str(), "page warning");
        true
    }
}
