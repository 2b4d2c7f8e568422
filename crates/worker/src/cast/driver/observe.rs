//! Observes the page, the outputs and the clock: what can happen to a cast, without acting on it.

use std::time::Duration;

use pagecast_core::HostTime;
use pagecast_core::cast::{State, StateMachine, Warning};
use pagecast_core::spec::ReadySignal;
use pagecast_page::browser::{self, Browser, CallError, PageLoad, PageState, PendingPing};
use pagecast_page::{Page, clock};

use super::super::hang::{self, HangDetector};
use super::super::{CastEvent, Change, UploadState, UploadStatus};
use super::{Driver, Pipeline};
use crate::usage;

/// Shortest wait, so that an overdue deadline does not become a busy loop.
const MIN_WAIT: Duration = Duration::from_millis(1);
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
    /// The page is open, or cannot be opened.
    LoadEnded(Result<(), browser::Error>),
    /// A deadline of the state machine may have passed.
    Deadline,
    /// Changes were requested.
    Changes(Vec<Change>),
    /// The lease has ended, so that another node may own the cast.
    LeaseEnded,
    /// Pushes or the room changed their states.
    OutputEvents(Vec<CastEvent>),
    /// The recording stopped while the cast continues.
    RecordingStopped,
    /// The state of the upload changed.
    UploadChanged(UploadStatus),
    /// Progress is to be reported.
    ProgressDue,
}

/// Where observations come from, in the order of each turn. Each source wakes the driver, or has a deadline.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// Woken by the stop token.
    StopToken,
    /// Woken by the ends of the threads of outputs; a deadline when only one encoder has ended.
    Outputs,
    /// Woken by the ends of the threads of display and sound card.
    Capture,
    /// A deadline every two seconds.
    UsageTimer,
    /// Woken by the room; a deadline until it is connected.
    Connection,
    /// A deadline for each ping; the answer is found with the next one.
    Scripts,
    /// Woken by the browser.
    Warnings,
    /// Woken by the browser, its end and its use of the disk; deadlines until the page is ready.
    Page,
    /// Woken by the browser's answers; a deadline for each.
    Load,
    /// The deadline of the state machine.
    Clock,
    /// Woken by the queue of changes.
    Changes,
    /// The end of the lease, behind the changes, which may extend it.
    Lease,
    /// Woken by pushes, room and the upload's ledger.
    OutputEvents,
    /// Woken by the end of the recorder's thread.
    Recorder,
    /// Woken by the upload.
    Upload,
    /// A deadline every second.
    ProgressTimer,
}

impl Source {
    /// All sources: what ends the cast comes first, what reports it last.
    pub(super) const ALL: [Self; 16] = [
        Self::StopToken,
        Self::Outputs,
        Self::Capture,
        Self::UsageTimer,
        Self::Connection,
        Self::Scripts,
        Self::Warnings,
        Self::Page,
        Self::Load,
        Self::Clock,
        Self::Changes,
        Self::Lease,
        Self::OutputEvents,
        Self::Recorder,
        Self::Upload,
        Self::ProgressTimer,
    ];
}

/// What observation remembers of the current document and of the outputs.
pub(super) struct Observer {
    /// When the page was opened, and when it was first seen loaded.
    opened: Option<(HostTime, Option<HostTime>)>,
    /// When the page may be ready without a change of its state.
    ready_check_at: Option<HostTime>,
    /// Changes of the display at the last freeze check.
    pub(super) display_changes: u64,
    /// When the selector was last evaluated.
    selector_checked_at: Option<HostTime>,
    pub(super) hangs: HangDetector,
    /// The ping that [`Observer::hangs`] waits for.
    pub(super) ping: Option<PendingPing>,
    /// The end of the recording was observed.
    recording_stopped: bool,
    /// What was last observed of the upload, see [`UploadStatus::summary`].
    upload: (UploadState, bool, bool),
}

impl Observer {
    /// Observes a cast that began at `started`, and whose scripts may be silent for `hang_limit`.
    pub(super) fn new(started: HostTime, hang_limit: Option<Duration>) -> Self {
        Self {
            opened: None,
            ready_check_at: None,
            display_changes: 0,
            selector_checked_at: None,
            hangs: HangDetector::new(started, hang_limit),
            ping: None,
            recording_stopped: false,
            upload: Default::default(),
        }
    }

    /// Starts to observe a document that was just opened.
    pub(super) fn page_opened(&mut self) {
        self.opened = Some((clock::now(), None));
        (self.display_changes, self.selector_checked_at) = (0, None);
    }

    /// Returns whether a page was opened.
    pub(super) fn has_opened(&self) -> bool {
        self.opened.is_some()
    }
}

impl Driver<'_> {
    /// When something is due without a wake-up.
    pub(super) fn deadline(&self) -> HostTime {
        let connecting_since = self.outputs.started_at.filter(|_| self.machine.state() == State::Live);
        let scripts = live_browser(&self.machine, self.page.as_ref());
        let deadlines = [
            self.machine.deadline(),
            self.usage.deadline(),
            self.load.as_ref().map(PageLoad::deadline),
            self.outputs.pipeline.as_ref().and_then(Pipeline::deadline),
            connecting_since.map(|at| at + ROOM_CONNECT_TIMEOUT),
            scripts.and_then(|_| self.observer.hangs.deadline()),
            self.observer.ready_check_at,
            self.publish_until,
        ];
        let earliest = deadlines.into_iter().flatten().fold(self.reporter.deadline(), HostTime::min);
        earliest.max(clock::now() + MIN_WAIT)
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
            Source::UsageTimer => self.usage.is_due(clock::now()).then_some(Observation::MeasurementDue),
            Source::Connection => self.observe_connection(),
            Source::Scripts => self.observe_scripts(),
            Source::Warnings => self.page_state().map(|state| Observation::Warnings(warnings(&state))),
            Source::Page => self.page_state().and_then(|state| self.observe_page(&state)),
            Source::Load => self.poll_load().map(Observation::LoadEnded),
            Source::Clock => Some(Observation::Deadline),
            Source::Changes => {
                Some(Observation::Changes(std::iter::from_fn(|| self.changes.try_recv()).collect()))
            }
            Source::Lease => {
                self.publish_until.filter(|until| *until <= clock::now()).map(|_| Observation::LeaseEnded)
            }
            Source::OutputEvents => Some(Observation::OutputEvents(self.output_events())),
            Source::Recorder => self.observe_recorder(),
            Source::Upload => self.observe_upload(),
            Source::ProgressTimer => {
                (self.reporter.deadline() <= clock::now()).then_some(Observation::ProgressDue)
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
    fn observe_connection(&self) -> Option<Observation> {
        let (State::Live, Some(started_at), Some(pipeline)) =
            (self.machine.state(), self.outputs.started_at, &self.outputs.pipeline)
        else {
            return None;
        };
        match pipeline.unconnected_room() {
            None => Some(Observation::OutputsConnected),
            Some(room) if started_at + ROOM_CONNECT_TIMEOUT <= clock::now() => {
                let reason = room.status().error.unwrap_or_else(|| "the server does not answer".into());
                Some(Observation::RoomTimedOut(reason))
            }
            Some(_) => None,
        }
    }

    /// Pings the page's scripts, if the crash check is on.
    fn observe_scripts(&mut self) -> Option<Observation> {
        let now = clock::now();
        if let Some(at) = self.observer.ping.as_ref().and_then(PendingPing::answered_at) {
            self.observer.ping = None;
            self.observer.hangs.handle(now, hang::Input::Answered(at));
        }
        let browser = live_browser(&self.machine, self.page.as_ref())?;
        while let Some(output) = self.observer.hangs.poll(now) {
            match output {
                hang::Output::SendPing => self.observer.ping = Some(browser.ping()),
                // Observed here, as the next check of the state machine may be almost as far away.
                hang::Output::Unresponsive => return Some(Observation::ScriptsHang),
            }
        }
        None
    }

    fn poll_load(&mut self) -> Option<Result<(), browser::Error>> {
        let browser = self.page.as_ref()?.browser().ok()?;
        self.load.as_mut()?.poll(browser)
    }

    fn observe_recorder(&mut self) -> Option<Observation> {
        let stopped = self.outputs.pipeline.as_ref().is_some_and(Pipeline::has_stopped_recording);
        (stopped && !std::mem::replace(&mut self.observer.recording_stopped, true))
            .then_some(Observation::RecordingStopped)
    }

    /// Observes the state of the upload. The number of its files changes all the time, and is no observation.
    fn observe_upload(&mut self) -> Option<Observation> {
        let status = self.outputs.pipeline.as_ref()?.upload_status()?;
        let summary = status.summary();
        (std::mem::replace(&mut self.observer.upload, summary) != summary)
            .then_some(Observation::UploadChanged(status))
    }

    fn observe_page(&mut self, state: &PageState) -> Option<Observation> {
        self.observer.ready_check_at = None;
        let (rss_bytes, allowed) = (self.usage.rss_bytes(), self.spec.limits.memory_bytes);
        if state.closed {
            return Some(Observation::PageCrashed(browser::Error::BrowserExited));
        }
        if state.crashed {
            return Some(Observation::PageCrashed(browser::Error::PageCrashed));
        }
        // Until the page is open, it may be the page of an error.
        if state.signalled_end && self.load.is_none() {
            return Some(Observation::PageEnded);
        }
        if let Some(size) = state.oversized_video.filter(|_| self.load.is_none()) {
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
        let now = clock::now();
        let (opened, loaded) = self.observer.opened.as_mut()?;
        if state.loaded && loaded.is_none() {
            *loaded = Some(now);
        }
        let timeout = *opened + PAINT_TIMEOUT;
        let shown_at = loaded.map_or(timeout, |at| timeout.min(at + EMPTY_PAGE_GRACE));
        let painted = state.painted || shown_at <= now;
        let needs_signal = self.spec.readiness.signal != ReadySignal::None;
        if needs_signal && !state.signalled_ready || self.spec.readiness.network_idle && !state.network_idle {
            return None;
        }
        match self.selector_matches(now) {
            Ok(false) => {
                self.observer.ready_check_at =
                    self.observer.selector_checked_at.map(|at| at + SELECTOR_INTERVAL);
                None
            }
            Ok(true) if painted => Some(Observation::PageReady),
            // A painted picture follows by itself.
            Ok(true) => {
                self.observer.ready_check_at = Some(shown_at);
                needs_signal.then_some(Observation::PaintPending)
            }
            Err(error) => Some(Observation::InvalidSelector(error)),
        }
    }

    /// Returns whether the selector to wait for matches something visible.
    fn selector_matches(&mut self, now: HostTime) -> Result<bool, CallError> {
        let Some(selector) = &self.spec.readiness.selector else { return Ok(true) };
        if self.observer.selector_checked_at.is_some_and(|at| now < at + SELECTOR_INTERVAL) {
            return Ok(false);
        }
        self.observer.selector_checked_at = Some(now);
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
        pushes.chain(room.into_iter().map(CastEvent::Room)).chain(self.ledger_event()).collect()
    }

    /// Returns the changes of the recording's ledger, if there are any.
    fn ledger_event(&self) -> Option<CastEvent> {
        let rows = self.outputs.pipeline.as_ref()?.take_ledger_rows();
        (!rows.is_empty()).then_some(CastEvent::Ledger(rows))
    }

    /// Returns whether the cast has reached its configured duration.
    pub(super) fn is_complete(&self) -> bool {
        self.outputs.pipeline.as_ref().is_some_and(|pipeline| pipeline.is_complete(self.spec))
    }
}

/// Returns the browser of a live page, whose scripts are pinged.
fn live_browser<'a>(machine: &StateMachine, page: Option<&'a Page>) -> Option<&'a Browser> {
    page.filter(|_| machine.state() == State::Live)?.browser().ok()
}

/// Returns the warnings that the page's state causes.
fn warnings(state: &PageState) -> Vec<Warning> {
    let found = [(state.uses_webrtc, Warning::WebRtcWithoutUdp), (state.insecure_tls, Warning::InsecureTls)];
    found.into_iter().filter(|(found, _)| *found).map(|(_, warning)| warning).collect()
}
