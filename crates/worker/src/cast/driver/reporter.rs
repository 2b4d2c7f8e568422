//! Reports events of a cast, and its progress once a second.

use std::time::{Duration, Instant};

use super::super::report::Progress;
use super::super::{CastEvent, RoomStatus, UploadState, UploadStatus};

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What is reported with each progress.
pub(super) struct Snapshot {
    pub(super) progress: Option<Progress>,
    pub(super) room: Option<RoomStatus>,
    pub(super) has_stopped_recording: bool,
    pub(super) upload: Option<UploadStatus>,
}

/// Passes events on, and remembers what was reported already.
pub(super) struct EventReporter<'a> {
    on_event: &'a mut dyn FnMut(CastEvent),
    last_progress_at: Instant,
    /// State of the upload that was reported last: state, backup, failing.
    upload_state: (UploadState, bool, bool),
    /// The end of the recording was reported.
    recording_stopped: bool,
}

impl<'a> EventReporter<'a> {
    pub(super) fn new(on_event: &'a mut dyn FnMut(CastEvent)) -> Self {
        Self {
            on_event,
            last_progress_at: Instant::now(),
            upload_state: Default::default(),
            recording_stopped: false,
        }
    }

    pub(super) fn report(&mut self, event: CastEvent) {
        (self.on_event)(event);
    }

    /// Returns the receiver of events, for code that reports by itself.
    pub(super) fn on_event(&mut self) -> &mut dyn FnMut(CastEvent) {
        self.on_event
    }

    /// Returns whether progress is due.
    pub(super) fn is_progress_due(&self) -> bool {
        self.last_progress_at.elapsed() >= PROGRESS_INTERVAL
    }

    /// Reports progress, and what has changed since the last time.
    pub(super) fn report_progress(&mut self, snapshot: Snapshot) {
        self.last_progress_at += PROGRESS_INTERVAL;
        if let Some(progress) = snapshot.progress {
            self.report(CastEvent::Progress(progress));
        }
        if let Some(room) = snapshot.room {
            self.report(CastEvent::Room(room));
        }
        if snapshot.has_stopped_recording && !std::mem::replace(&mut self.recording_stopped, true) {
            self.report(CastEvent::RecordingStopped);
        }
        // The number of pending files changes all the time; only a change of the state is an event.
        if let Some(status) = snapshot.upload {
            let state = (status.state, status.backup, status.failing_since_unix_ms.is_some());
            if std::mem::replace(&mut self.upload_state, state) != state {
                self.report(CastEvent::Upload(status));
            }
        }
    }
}
