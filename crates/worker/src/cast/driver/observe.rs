//! Observes the page, the outputs and the clock: waits for what can happen to a cast, without acting on it.

use std::time::{Duration, Instant};

use pagecast_core::cast::{State, Warning};
use pagecast_core::spec::ReadySignal;
use pagecast_page::browser::{self, CallError, PageState, PendingPing};
use pagecast_page::{Page, clock};

use super::super::CastEvent;
use super::super::hang::HangDetector;
use super::super::pushes::Change;
use super::{Driver, Pipeline};
use crate::usage;

/// Longest wait between two turns of the main loop. Only the browser wakes the loop; stop requests, which
/// come from a signal handler, and the ends of output threads are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a page may take to paint; after that it is shown as it is.
const PAINT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a loaded page may take to paint: an empty one never does.
const EMPTY_PAGE_GRACE: Duration = Duration::from_millis(300);
/// How long a room that is the only output may be unconnected before anybody has seen the page; then the cast
/// fails.
const ROOM_CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a selector is evaluated: each time costs the page some work.
const SELECTOR_INTERVAL: Duration = Duration::from_millis(100);

/// What can happen to a cast between two turns of its main loop.
pub(super) enum Observation {
    /// The cast is to be stopped.
    StopRequested,
    /// The outputs have ended, at their end or by a failure.
    OutputsFinished,
    /// Display or sound card failed: no more ticks or samples come.
    CaptureFailed,
    /// The browser's CPU time and memory are to be measured.
    MeasurementDue,
    /// The outputs have taken the page; a room that is the only one has connected.
    OutputsConnected,
    /// The room, the only output, has not connected in time, for this reason.
    RoomTimedOut(String),
    /// The page's scripts have not run for longer than allowed.
    ScriptsHang,
    /// The page's owner should know this.
    Warnings(Vec<Warning>),
    /// The browser or the page in it died, or exceeded a limit.
    PageCrashed(browser::Error),
    /// The page ended the cast.
    PageEnded,
    /// The page plays a video of this size, which is too large.
    OversizedVideo((u32, u32)),
    /// The page is ready except for its first picture.
    PaintPending,
    /// The selector to wait for is invalid.
    InvalidSelector(CallError),
    /// The page is ready to be shown.
    PageReady,
    /// A deadline of the state machine may have passed.
    Deadline,
    /// Changes were requested.
    Changes(Vec<Change>),
    /// Pushes or the room changed their states.
    OutputEvents(Vec<CastEvent>),
    /// Progress is to be reported.
    ProgressDue,
}

/// Where observations come from, in the order of each turn.
#[derive(Clone, Copy)]
pub(super) enum Source {
    StopToken,
    Outputs,
    Capture,
    UsageTimer,
    Connection,
    Scripts,
    Warnings,
    Page,
    Clock,
    Changes,
    OutputEvents,
    ProgressTimer,
}

impl Source {
    /// All sources: what ends the cast comes first, what reports it last.
    pub(super) const ALL: [Self; 12] = [
        Self::StopToken,
        Self::Outputs,
        Self::Capture,
        Self::UsageTimer,
        Self::Connection,
        Self::Scripts,
        Self::Warnings,
        Self::Page,
        Self::Clock,
        Self::Changes,
        Self::OutputEvents,
        Self::ProgressTimer,
    ];
}

/// What observation remembers of the current document.
pub(super) struct Observer {
    /// When the page was opened, and when it was first seen loaded.
    pub(super) opened: Option<(Instant, Option<Instant>)>,
    /// Changes of the display at the last freeze check.
    pub(super) display_changes: u64,
    /// When the selector was last evaluated.
    pub(super) selector_checked_at: Option<Instant>,
    pub(super) hangs: HangDetector<PendingPing>,
}

impl Observer {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            opened: None,
            display_changes: 0,
            selector_checked_at: None,
            hangs: HangDetector::new(started),
        }
    }

    /// Starts to observe a document that was just opened.
    pub(super) fn page_opened(&mut self) {
        self.opened = Some((Instant::now(), None));
        (self.display_changes, self.selector_checked_at) = (0, None);
    }
}

impl Driver<'_> {
    /// Sleeps until the page's state changes or something is due.
    pub(super) fn wait(&self) {
        let due = self.machine.deadline().map_or(POLL_INTERVAL, |at| at.since(clock::now()));
        let pause = due.min(POLL_INTERVAL).max(Duration::from_millis(1));
        let stopping = matches!(self.machine.state(), State::Stopping);
        let browser = self.page.as_ref().and_then(|page| page.browser().ok()).filter(|_| !stopping);
        match browser.map(|browser| (browser, browser.state())) {
            Some((browser, last)) if !last.crashed && !last.closed => {
                // The end of the browser is observed with everything else.
                let _changed = browser.wait_until(pause, |state| *state != last);
            }
            _ => std::thread::sleep(pause),
        }
    }

    /// Returns what happened at this source, if anything did.
    pub(super) fn observe(&mut self, source: Source) -> Option<Observation> {
        match source {
            Source::StopToken => self.stop.is_requested().then_some(Observation::StopRequested),
            Source::Outputs => self.outputs_finished().then_some(Observation::OutputsFinished),
            Source::Capture => {
                let failed = |page: &Page| page.display.has_failed() || page.sound.has_failed();
                self.page.as_ref().is_some_and(failed).then_some(Observation::CaptureFailed)
            }
            Source::UsageTimer => self.usage.is_due().then_some(Observation::MeasurementDue),
            Source::Connection => self.observe_connection(),
            Source::Scripts => self.observe_scripts(),
            Source::Warnings => self.page_state().map(|state| Observation::Warnings(warnings(&state))),
            Source::Page => self.page_state().and_then(|state| self.observe_page(&state)),
            Source::Clock => Some(Observation::Deadline),
            Source::Changes => Some(Observation::Changes(self.changes.try_iter().collect())),
            Source::OutputEvents => Some(Observation::OutputEvents(self.output_events())),
            Source::ProgressTimer => {
                self.reporter.get_mut().is_progress_due().then_some(Observation::ProgressDue)
            }
        }
    }

    /// Returns whether the outputs have ended.
    pub(super) fn outputs_finished(&self) -> bool {
        self.outputs.pipeline.as_ref().is_some_and(Pipeline::is_finished)
    }

    fn page_state(&self) -> Option<PageState> {
        self.page.as_ref().and_then(|page| page.browser().ok()).map(browser::Browser::state)
    }

    /// Observes whether the outputs have taken the page: recording and pushes do at their start, a room when
    /// it has connected.
    pub(super) fn observe_connection(&self) -> Option<Observation> {
        let (State::Live, Some(started_at), Some(pipeline)) =
            (self.machine.state(), self.outputs.started_at, &self.outputs.pipeline)
        else {
            return None;
        };
        match pipeline.unconnected_room() {
            None => Some(Observation::OutputsConnected),
            Some(room) if started_at.elapsed() >= ROOM_CONNECT_TIMEOUT => {
                let reason = room.status().error.unwrap_or_else(|| "the server does not answer".into());
                Some(Observation::RoomTimedOut(reason))
            }
            Some(_) => None,
        }
    }

    /// Pings the page's scripts, if the crash check is on.
    fn observe_scripts(&mut self) -> Option<Observation> {
        let limit = self.spec.checks.crash.filter(|_| self.machine.state() == State::Live)?;
        let browser = self.page.as_ref()?.browser().ok()?;
        let now = Instant::now();
        self.observer.hangs.poll(now, PendingPing::is_answered, || Some(browser.ping()));
        // Observed here, as the next check of the state machine may be almost as far away.
        (self.observer.hangs.unresponsive_for(now) >= limit).then_some(Observation::ScriptsHang)
    }

    fn observe_page(&mut self, state: &PageState) -> Option<Observation> {
        let (rss_bytes, allowed) = (self.usage.rss_bytes(), self.spec.limits.memory_bytes);
        if state.closed {
            return Some(Observation::PageCrashed(browser::Error::BrowserExited));
        }
        if state.crashed {
            return Some(Observation::PageCrashed(browser::Error::PageCrashed));
        }
        if state.signalled_end {
            return Some(Observation::PageEnded);
        }
        if let Some(size) = state.oversized_video {
            return Some(Observation::OversizedVideo(size));
        }
        if rss_bytes > allowed {
            return Some(Observation::PageCrashed(browser::Error::MemoryLimit { used: rss_bytes, allowed }));
        }
        if let Some((used, allowed)) = self.exceeded_disk_limit() {
            return Some(Observation::PageCrashed(browser::Error::DiskLimit { used, allowed }));
        }
        if self.machine.state() == State::Waiting { self.observe_readiness(state) } else { None }
    }

    /// Observes whether the page is ready to be shown.
    fn observe_readiness(&mut self, state: &PageState) -> Option<Observation> {
        let (opened, loaded) = self.observer.opened.as_mut()?;
        if state.loaded && loaded.is_none() {
            *loaded = Some(Instant::now());
        }
        let painted = state.painted
            || loaded.is_some_and(|at| at.elapsed() >= EMPTY_PAGE_GRACE)
            || opened.elapsed() >= PAINT_TIMEOUT;
        let needs_signal = self.spec.readiness.signal != ReadySignal::None;
        if needs_signal && !state.signalled_ready || self.spec.readiness.network_idle && !state.network_idle {
            return None;
        }
        match self.selector_matches() {
            Ok(false) => None,
            Ok(true) if painted => Some(Observation::PageReady),
            // A painted picture follows by itself.
            Ok(true) => needs_signal.then_some(Observation::PaintPending),
            Err(error) => Some(Observation::InvalidSelector(error)),
        }
    }

    /// Returns whether the selector to wait for matches something visible.
    fn selector_matches(&mut self) -> Result<bool, CallError> {
        let Some(selector) = &self.spec.readiness.selector else { return Ok(true) };
        if self.observer.selector_checked_at.is_some_and(|at| at.elapsed() < SELECTOR_INTERVAL) {
            return Ok(false);
        }
        self.observer.selector_checked_at = Some(Instant::now());
        let Some(Ok(browser)) = self.page.as_ref().map(Page::browser) else { return Ok(false) };
        match browser.has_visible_match(selector) {
            Ok(found) => Ok(found),
            Err(error @ CallError::InvalidSelector(_)) => Err(error),
            // The page is busy, or the browser is gone.
            Err(_) => Ok(false),
        }
    }

    /// Returns the bytes that the browser has on the disk and those allowed, if they are more.
    fn exceeded_disk_limit(&self) -> Option<(u64, u64)> {
        let disk = self.page.as_ref()?.disk_usage();
        let allowed = usage::allowed_disk_bytes(self.spec.limits.disk_bytes, disk.free_bytes);
        (disk.used_bytes > allowed).then_some((disk.used_bytes, allowed))
    }

    /// Returns the events of pushes and room since the last turn.
    fn output_events(&self) -> Vec<CastEvent> {
        let pushes = self.outputs.pipeline.iter().flat_map(Pipeline::push_events).map(CastEvent::Push);
        let room = self.outputs.room().map(super::Room::status_changes).unwrap_or_default();
        pushes.chain(room.into_iter().map(CastEvent::Room)).collect()
    }

    /// Returns whether the cast has reached its configured duration.
    pub(super) fn is_complete(&self) -> bool {
        self.outputs.pipeline.as_ref().is_some_and(|pipeline| pipeline.is_complete(self.spec))
    }
}

/// Returns the warnings that the page's state causes.
fn warnings(state: &PageState) -> Vec<Warning> {
    let found = [(state.uses_webrtc, Warning::WebRtcWithoutUdp), (state.insecure_tls, Warning::InsecureTls)];
    found.into_iter().filter(|(found, _)| *found).map(|(_, warning)| warning).collect()
}
