//! Carries out what the machine decides, and tells it what happened.

mod finish;

pub(super) use finish::wait_for_upload;

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use pagecast_core::cast::{
    EndReason, Event, HealthCheck, HealthFault, Input, Output, State, StateMachine, Warning,
};
use pagecast_core::spec::Push;
use pagecast_core::{CastSpec, Samples, Tick};
use pagecast_page::browser::{self, CallError, PagePolicy, PageState, PendingPing};
use pagecast_page::{Page, clock};

use super::evidence::{self, Evidence};
use super::hang::HangDetector;
use super::pipeline::{Pipeline, Prepared};
use super::pushes::{self, Change};
use super::recording::PendingUpload;
use super::report::{Progress, Report, TimelineEntry};
use super::room::Room;
use super::{CastEvent, DeliveryState, Error, Failure, StopToken};
use crate::{chain, usage};

/// Ticks on their way to the encoder. Full: a change is told with a later tick.
const MAX_QUEUED_TICKS: usize = 4;
/// Runs of samples on their way to the encoder (10 to 100 ms each). Full: they are lost and become silence.
const MAX_QUEUED_SAMPLES: usize = 256;
/// How long a page may take to draw something; after that it is shown as it is.
const PAINT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a page that is loaded may take to draw something: one that is empty never does.
const EMPTY_PAGE_GRACE: Duration = Duration::from_millis(300);
/// How often the cast looks at what it started.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Turns kept for the report; a cast that has more is the same all the time.
const MAX_TIMELINE_ENTRIES: usize = 1000;
/// How long a room that is all there is may be missing before anybody has seen the page; then the cast has
/// failed.
const ROOM_CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a selector is looked for.
const SELECTOR_INTERVAL: Duration = Duration::from_millis(100);
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the browser's CPU time and memory are measured.
const USAGE_INTERVAL: Duration = Duration::from_secs(2);

/// What the page sends into, until there is a page, and what the outputs take from, until there are outputs.
type PendingChannel<T> = (Option<SyncSender<T>>, Option<Receiver<T>>);

/// A browser that waits for its cast.
#[derive(Debug)]
pub struct WarmBrowser {
    template: CastSpec,
    page: Page,
    ticks: Receiver<Tick>,
    samples: Receiver<Samples>,
}

impl WarmBrowser {
    /// Starts display, sound card and browser for a cast like this one.
    ///
    /// # Errors
    /// See [`pagecast_page::ErrorBody`].
    pub fn start(spec: &CastSpec) -> Result<Self, pagecast_page::Error> {
        let (ticks_in, ticks) = sync_channel(MAX_QUEUED_TICKS);
        let (samples_in, samples) = sync_channel(MAX_QUEUED_SAMPLES);
        let page = Page::start(page_config(spec), ticks_in, samples_in)?;
        Ok(Self { template: spec.clone(), page, ticks, samples })
    }
}

fn page_config(spec: &CastSpec) -> pagecast_page::Config {
    pagecast_page::Config {
        source: spec.source.clone(),
        policy: PagePolicy {
            signal: spec.readiness.signal,
            max_video_size: spec.limits.max_video,
            detect_webrtc: !spec.network.udp,
        },
        network: spec.network.clone(),
        max_disk_bytes: spec.limits.disk_bytes,
    }
}

pub(super) struct Driver<'a> {
    spec: &'a CastSpec,
    started: Instant,
    stop: &'a StopToken,
    changes: &'a Receiver<Change>,
    reporter: RefCell<EventReporter<'a>>,
    machine: StateMachine,
    ticks: PendingChannel<Tick>,
    samples: PendingChannel<Samples>,
    page: Option<Page>,
    prepared: Option<Prepared>,
    pipeline: Option<Pipeline>,
    /// What is still to be stored of a recording that never began here.
    leftover_upload: Option<PendingUpload>,
    /// What to push to, until there is a line that does.
    pushes: Vec<Push>,
    /// When the outputs began, until one of them has the page.
    outputs_started_at: Option<Instant>,
    /// When the page was opened, and when it was first seen loaded.
    opened: Option<(Instant, Option<Instant>)>,
    last_checks: LastChecks,
    hangs: HangDetector<PendingPing>,
    evidence: Evidence,
    usage: Usage,
    /// A video that is larger than the page may play.
    large_video: Option<(u32, u32)>,
    /// What went wrong last.
    error: Option<Error>,
    timeline: Vec<TimelineEntry>,
    warnings: Vec<Warning>,
    reloads: u32,
    moves: u32,
}

/// What the last looks saw.
#[derive(Default)]
struct LastChecks {
    changes: u64,
    /// When the selector was looked for.
    selector_checked_at: Option<Instant>,
}

/// What the browsers took: those that are gone, and the running one.
#[derive(Default)]
struct Usage {
    past_cpu_s: f64,
    current: usage::BrowserUsage,
    peak_rss_bytes: u64,
    measured_at: Option<Instant>,
}

struct EventReporter<'a> {
    on_event: &'a mut dyn FnMut(CastEvent),
    last_progress_at: Instant,
    /// How storing the recording got on when that was told last.
    upload_state: (DeliveryState, bool, bool),
    /// It was told that nothing is recorded any more.
    recording_stopped: bool,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        spec: &'a CastSpec,
        started: Instant,
        (stop, changes): (&'a StopToken, &'a Receiver<Change>),
        warm: Option<WarmBrowser>,
        outputs: Prepared,
        tell: &'a mut dyn FnMut(CastEvent),
    ) -> Self {
        let (page, ticks, samples) = match warm.filter(|warm| warm.template.is_compatible_with(spec)) {
            Some(WarmBrowser { page, ticks, samples, .. }) => {
                (Some(page), (None, Some(ticks)), (None, Some(samples)))
            }
            None => {
                let (ticks, ticks_out) = sync_channel(MAX_QUEUED_TICKS);
                let (samples, samples_out) = sync_channel(MAX_QUEUED_SAMPLES);
                (None, (Some(ticks), Some(ticks_out)), (Some(samples), Some(samples_out)))
            }
        };
        Self {
            spec,
            started,
            stop,
            changes,
            reporter: RefCell::new(EventReporter {
                on_event: tell,
                last_progress_at: Instant::now(),
                upload_state: Default::default(),
                recording_stopped: false,
            }),
            machine: StateMachine::new(spec),
            ticks,
            samples,
            page,
            prepared: Some(outputs),
            pipeline: None,
            leftover_upload: None,
            pushes: spec.pushes.clone(),
            outputs_started_at: None,
            opened: None,
            last_checks: LastChecks::default(),
            hangs: HangDetector::new(started),
            evidence: Evidence::new(spec.evidence.clone()),
            usage: Usage::default(),
            large_video: None,
            error: None,
            timeline: Vec::new(),
            warnings: Vec::new(),
            reloads: 0,
            moves: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Report, Failure> {
        self.handle_input(Input::Start);
        let reason = loop {
            while let Some(output) = self.machine.poll() {
                self.execute(output);
            }
            if let State::Ended(reason) = self.machine.state() {
                break reason;
            }
            self.wait();
            self.observe();
            self.apply_changes();
            self.report_progress();
        };
        self.finish(reason)
    }

    fn handle_input(&mut self, input: Input) {
        self.machine.handle(clock::now(), input);
    }

    fn fail(&mut self, error: impl Into<Error>, input: Input) {
        let error = error.into();
        tracing::debug!(%error, "something failed");
        // What fails while the cast ends is a consequence of why it does.
        if !matches!(self.machine.state(), State::Stopping | State::Ended(_)) {
            self.error = Some(error);
        }
        self.handle_input(input);
    }

    fn execute(&mut self, output: Output) {
        if matches!(output, Output::StartBrowser | Output::Reload) {
            // What is asked of a page on its way out may never be answered.
            self.hangs.reset(Instant::now());
        }
        match output {
            Output::StartBrowser => self.open(),
            Output::Reload => self.load(),
            Output::GoLive => self.go_live(),
            Output::MuteOutputs => self.page.iter().for_each(|page| page.set_output_muted(true)),
            Output::RunCheck(check) => {
                let hit = self.check_health(check);
                self.handle_input(Input::CheckResult(check, hit));
            }
            Output::SaveEvidence(trouble) => self.keep_evidence(trouble),
            Output::StopOutputs => match (&self.pipeline, self.prepared.take()) {
                (Some(line), _) => line.end_now(self.spec),
                (None, prepared) => {
                    self.leftover_upload = prepared.and_then(Prepared::abandon);
                    self.handle_input(Input::Drained);
                }
            },
            Output::Event(event) => self.report_event(event),
        }
    }

    /// Opens the page in a browser that was never used.
    fn open(&mut self) {
        self.measure_usage();
        self.usage.past_cpu_s += std::mem::take(&mut self.usage.current).cpu_seconds;
        let ready = match &mut self.page {
            // Nothing was opened in it yet.
            Some(page) if self.opened.is_none() && page.browser().is_ok_and(|b| b.state().is_alive()) => {
                Ok(())
            }
            Some(page) => page.replace_browser(),
            // The page alone sends: when its threads end, whatever the reason, the outputs do.
            none => match (self.ticks.0.take(), self.samples.0.take()) {
                (Some(ticks), Some(samples)) => {
                    Page::start(page_config(self.spec), ticks, samples).map(|page| *none = Some(page))
                }
                _ => return self.fail(Error::Panic("display"), Input::OutputFailed),
            },
        };
        match ready {
            Ok(()) => self.load(),
            Err(error) => self.fail(error, Input::OpenFailed),
        }
    }

    /// Opens the page in the browser that is there.
    fn load(&mut self) {
        let Some(Ok(browser)) = self.page.as_ref().map(Page::browser) else { return };
        let (url, size) = (&self.spec.source.url, self.spec.source.size);
        tracing::info!(%url, %size, fps = self.spec.source.fps.get(), "opening the page");
        // While it is being opened, nothing is due but the end.
        let time_is_up = self.machine.deadline();
        let given_up = || {
            self.report_progress();
            let over = self.pipeline.as_ref().is_some_and(Pipeline::is_finished);
            over || self.stop.is_requested() || time_is_up.is_some_and(|at| clock::now() >= at)
        };
        let opened = browser.open(url, &given_up);
        // The outputs may have come to their end meanwhile; then nothing else matters.
        self.observe_pipeline();
        match opened {
            Ok(()) => {
                self.opened = Some((Instant::now(), None));
                self.last_checks = LastChecks::default();
                self.handle_input(Input::Opened);
            }
            // What there is instead is found in a moment.
            Err(
                error @ (browser::Error::Cancelled
                | browser::Error::PageCrashed
                | browser::Error::BrowserExited
                | browser::Error::CdpCall(CallError::Closed)),
            ) => self.error = Some(error.into()),
            Err(error) => self.load_failed(error),
        }
    }

    /// The page's server did not answer as it should: whether that may pass decides what becomes of the cast.
    fn load_failed(&mut self, error: browser::Error) {
        let passing = error.load_error().is_some_and(|error| error.is_transient());
        let why = error.to_string();
        self.fail(error, if passing { Input::OpenFailedTransiently } else { Input::OpenFailed });
        if passing && self.machine.will_retry() {
            tracing::info!(why, "the page cannot be opened yet, trying again");
            (self.reporter.get_mut().on_event)(CastEvent::LoadRetry(why));
        }
    }

    fn go_live(&mut self) {
        let Some(page) = &self.page else { return };
        self.last_checks.changes = page.display.stats().changes();
        // Also when nothing was live before: a page that crashed at once was held by the browser's word.
        page.set_output_muted(false);
        let (Some(ticks), Some(samples)) = (self.ticks.1.take(), self.samples.1.take()) else {
            return;
        };
        let Some(prepared) = self.prepared.take() else { return };
        if let Some(trouble) = prepared.start_error() {
            self.prepared = Some(prepared);
            return self.fail(trouble, Input::OutputFailed);
        }
        match prepared.start(ticks, samples, &self.pushes) {
            Ok(line) => {
                self.pipeline = Some(line);
                page.start_capture();
                self.outputs_started_at = Some(Instant::now());
                self.check_shown();
            }
            Err(error) => self.fail(error, Input::OutputFailed),
        }
    }

    /// Whether somebody gets the page by now: a recording and pushes take it from the beginning, a room when
    /// there is a connection.
    fn check_shown(&mut self) {
        let (State::Live, Some(begun), Some(line)) =
            (self.machine.state(), self.outputs_started_at, &self.pipeline)
        else {
            return;
        };
        match line.unconnected_room() {
            None => {
                self.outputs_started_at = None;
                self.handle_input(Input::WentLive);
            }
            Some(room) if begun.elapsed() >= ROOM_CONNECT_TIMEOUT => {
                self.outputs_started_at = None;
                let why = room.status().error.unwrap_or_else(|| "it does not answer".into());
                self.fail(Error::Room(why), Input::OutputFailed);
            }
            Some(_) => {}
        }
    }

    /// Changes what is to be changed, and tells what happened to pushes and room.
    fn apply_changes(&mut self) {
        let mut news = Vec::new();
        let mut pictures = Vec::new();
        for change in self.changes.try_iter() {
            news.extend(match (change, &mut self.pipeline) {
                (Change::Snapshot(path), _) => {
                    pictures.push(path);
                    None
                }
                (change, Some(line)) => line.apply_change(change, self.spec.source.fps),
                (change, None) => pushes::apply_change(&mut self.pushes, change),
            });
        }
        for path in pictures {
            let taken = self.page.as_ref().is_some_and(|page| evidence::write_snapshot(page, &path));
            (self.reporter.get_mut().on_event)(CastEvent::Snapshot(path, taken));
        }
        news.extend(self.pipeline.iter().flat_map(Pipeline::push_events));
        let news = news.into_iter().map(CastEvent::Push);
        let room = self.room().map(Room::status_changes).unwrap_or_default().into_iter().map(CastEvent::Room);
        let news: Vec<_> = news.chain(room).collect();
        news.into_iter().for_each(|news| (self.reporter.get_mut().on_event)(news));
    }

    /// The room, live or not yet.
    fn room(&self) -> Option<&Room> {
        let live = self.pipeline.as_ref().and_then(Pipeline::room);
        live.or_else(|| self.prepared.as_ref().and_then(Prepared::room))
    }

    fn report_event(&mut self, event: Event) {
        match event {
            Event::Reloaded(trouble) => {
                self.reloads += 1;
                tracing::info!(?trouble, "the page is loaded again");
            }
            Event::Moved(trouble) => {
                self.moves += 1;
                tracing::info!(?trouble, "the page gets a fresh browser");
            }
            Event::Live => tracing::info!("the page is live"),
            Event::Ended(reason) => tracing::info!(?reason, "the cast is over"),
        }
        if self.timeline.len() < MAX_TIMELINE_ENTRIES {
            self.timeline.push(TimelineEntry { at_ms: millis(self.started.elapsed()), event });
        }
        if let Event::Ended(reason) = event
            && let Some(why) = self.end_message(reason)
        {
            let cause = self.error.as_ref().and_then(Error::load_error);
            let cause = cause.filter(|_| matches!(reason, EndReason::StartFailed | EndReason::GaveUp(_)));
            (self.reporter.get_mut().on_event)(CastEvent::FailureReason(why, cause));
        }
        (self.reporter.get_mut().on_event)(CastEvent::Lifecycle(event));
    }

    /// Why it ends too early, as far as that is known before the outputs are closed.
    fn end_message(&self, reason: EndReason) -> Option<String> {
        match reason {
            EndReason::GaveUp(trouble) => Some(Error::GaveUp(trouble, self.machine.attempts()).to_string()),
            EndReason::StartFailed | EndReason::OutputFailed => self.error.as_ref().map(|error| chain(error)),
            EndReason::LargeVideo => {
                let ((width, height), most) = (self.large_video?, self.spec.limits.max_video?);
                Some(format!("the page plays a video of {width}x{height}, {most} is the most that it may"))
            }
            _ => None,
        }
    }

    /// Whether the page is in trouble.
    fn check_health(&mut self, check: HealthCheck) -> bool {
        let Some(page) = &self.page else { return false };
        match check {
            HealthCheck::Freeze => {
                let changes = page.display.stats().changes();
                std::mem::replace(&mut self.last_checks.changes, changes) == changes
            }
            HealthCheck::Blank => page.display.snapshot().is_some_and(|picture| picture.is_white()),
            HealthCheck::Crash => {
                let interval = self.spec.checks.crash;
                interval.is_some_and(|interval| self.hangs.unresponsive_for(Instant::now()) >= interval)
            }
        }
    }

    fn keep_evidence(&mut self, trouble: HealthFault) {
        let detail = self.error.as_ref().map(|error| chain(error));
        if let Some(page) = &self.page {
            self.evidence.capture(trouble, detail.as_deref(), page);
        }
    }

    /// Sleeps until the page's state changes or something is due.
    fn wait(&self) {
        let due = self.machine.deadline().map_or(POLL_INTERVAL, |at| at.since(clock::now()));
        let pause = due.min(POLL_INTERVAL).max(Duration::from_millis(1));
        let stopping = matches!(self.machine.state(), State::Stopping);
        let browser = self.page.as_ref().and_then(|page| page.browser().ok()).filter(|_| !stopping);
        match browser.map(|browser| (browser, browser.state())) {
            Some((browser, seen)) if !seen.crashed && !seen.closed => {
                // Its end is seen with everything else.
                let _seen = browser.wait_until(pause, |state| *state != seen);
            }
            _ => std::thread::sleep(pause),
        }
    }

    /// Tells the machine what can be seen to have happened.
    fn observe(&mut self) {
        if self.stop.is_requested() {
            self.handle_input(Input::Stop);
        }
        self.observe_pipeline();
        let failed = |page: &Page| page.display.has_failed() || page.sound.has_failed();
        if self.page.as_ref().is_some_and(failed) {
            self.fail(Error::Panic("display or sound"), Input::OutputFailed);
            // Nothing more comes.
            self.handle_input(Input::Drained);
        }
        if self.usage.measured_at.is_none_or(|at| at.elapsed() >= USAGE_INTERVAL) {
            self.measure_usage();
        }
        self.check_shown();
        self.check_scripts();
        let state = self.page.as_ref().and_then(|page| page.browser().ok()).map(browser::Browser::state);
        if let Some(state) = &state {
            self.report_warnings(state);
        }
        match state {
            Some(state) if state.closed => self.fail(browser::Error::BrowserExited, Input::Crashed),
            Some(state) if state.crashed => self.fail(browser::Error::PageCrashed, Input::Crashed),
            Some(state) if state.signalled_end => self.handle_input(Input::PageEnded),
            Some(PageState { oversized_video: Some(size), .. }) => {
                self.large_video = Some(size);
                self.handle_input(Input::LargeVideo);
            }
            Some(_) if self.usage.current.rss_bytes > self.spec.limits.memory_bytes => {
                let (used, allowed) = (self.usage.current.rss_bytes, self.spec.limits.memory_bytes);
                self.fail(browser::Error::MemoryLimit { used, allowed }, Input::Crashed);
            }
            Some(_) if let Some((used, allowed)) = self.exceeded_disk_limit() => {
                self.fail(browser::Error::DiskLimit { used, allowed }, Input::Crashed);
            }
            Some(state) if self.machine.state() == State::Waiting && self.is_ready(&state) => {
                self.handle_input(Input::Ready);
            }
            _ => {}
        }
        self.handle_input(Input::Timeout);
    }

    /// Asks the page's scripts for a sign of life, if it is watched for that.
    fn check_scripts(&mut self) {
        let Some(limit) = self.spec.checks.crash.filter(|_| self.machine.state() == State::Live) else {
            return;
        };
        let Some(Ok(browser)) = self.page.as_ref().map(Page::browser) else { return };
        let now = Instant::now();
        self.hangs.poll(now, PendingPing::is_answered, || Some(browser.ping()));
        // The next look may be almost as far away.
        if self.hangs.unresponsive_for(now) >= limit {
            self.handle_input(Input::CheckResult(HealthCheck::Crash, true));
        }
    }

    /// Tells once what the page's owner should know.
    fn report_warnings(&mut self, state: &PageState) {
        let seen =
            [(state.uses_webrtc, Warning::WebRtcWithoutUdp), (state.insecure_tls, Warning::InsecureTls)];
        for (_, warning) in seen.into_iter().filter(|(seen, _)| *seen) {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
                tracing::info!(warning = warning.as_str(), "the page's owner should know");
                (self.reporter.get_mut().on_event)(CastEvent::Warning(warning));
            }
        }
    }

    fn observe_pipeline(&mut self) {
        if !self.pipeline.as_ref().is_some_and(Pipeline::is_finished) {
            return;
        }
        match self.machine.state() {
            State::Stopping => self.handle_input(Input::Drained),
            State::Ended(_) => {}
            _ if self.pipeline.as_ref().is_some_and(|line| line.is_complete(self.spec)) => {
                self.handle_input(Input::Complete);
            }
            _ => self.handle_input(Input::OutputFailed),
        }
    }

    /// Whether the page may be shown.
    fn is_ready(&mut self, state: &PageState) -> bool {
        let Some((opened, loaded)) = &mut self.opened else { return false };
        if state.loaded && loaded.is_none() {
            *loaded = Some(Instant::now());
        }
        let drawn = state.painted
            || loaded.is_some_and(|at| at.elapsed() >= EMPTY_PAGE_GRACE)
            || opened.elapsed() >= PAINT_TIMEOUT;
        let silent = self.spec.readiness.signal == pagecast_core::spec::ReadySignal::None;
        let agreed = (silent || state.signalled_ready)
            && (state.network_idle || !self.spec.readiness.network_idle)
            && self.selector_matches();
        if agreed && !silent && !drawn {
            // What is missing comes by itself.
            self.handle_input(Input::ReadySignalReceived);
        }
        agreed && drawn
    }

    /// Whether there is what is waited for. The page is asked seldom: an answer takes it time.
    fn selector_matches(&mut self) -> bool {
        let Some(selector) = &self.spec.readiness.selector else { return true };
        if self.last_checks.selector_checked_at.is_some_and(|at| at.elapsed() < SELECTOR_INTERVAL) {
            return false;
        }
        self.last_checks.selector_checked_at = Some(Instant::now());
        let Some(Ok(browser)) = self.page.as_ref().map(Page::browser) else { return false };
        match browser.has_visible_match(selector) {
            Ok(found) => found,
            Err(error @ CallError::InvalidSelector(_)) => {
                self.fail(browser::Error::from(error), Input::OpenFailed);
                false
            }
            // It is busy, or gone.
            Err(_) => false,
        }
    }

    fn report_progress(&self) {
        let mut teller = self.reporter.borrow_mut();
        if teller.last_progress_at.elapsed() >= PROGRESS_INTERVAL {
            teller.last_progress_at += PROGRESS_INTERVAL;
            if let Some(progress) = self.progress() {
                (teller.on_event)(CastEvent::Progress(progress));
            }
            if let Some(room) = self.pipeline.as_ref().and_then(Pipeline::room) {
                (teller.on_event)(CastEvent::Room(room.status()));
            }
            if self.pipeline.as_ref().is_some_and(Pipeline::has_stopped_recording)
                && !std::mem::replace(&mut teller.recording_stopped, true)
            {
                (teller.on_event)(CastEvent::RecordingStopped);
            }
            // How much waits changes all the time; what it is called is news.
            if let Some(status) = self.pipeline.as_ref().and_then(Pipeline::upload_status) {
                let word = (status.state, status.backup, status.failing_since_unix_ms.is_some());
                if std::mem::replace(&mut teller.upload_state, word) != word {
                    (teller.on_event)(CastEvent::Upload(status));
                }
            }
        }
    }

    fn progress(&self) -> Option<Progress> {
        let (line, page) = (self.pipeline.as_ref()?, self.page.as_ref()?);
        let (video, display) = (&line.video_stats, page.display.stats());
        Some(Progress {
            elapsed: line.elapsed(self.spec),
            frames_captured: display.frames,
            frames_encoded: video.encoded(),
            frames_unchanged: video.unchanged(),
            frames_dropped: display.dropped,
            bytes: video.bytes() + line.audio_stats.bytes(),
            // Beyond all measure, a page can be, but a number that JSON does not have it cannot.
            peak: page.sound.stats().peak.map(|peak| peak.min(f32::MAX)),
            cpu_seconds: self.usage.past_cpu_s
                + self.usage.current.cpu_seconds
                + usage::own_cpu().as_secs_f64(),
            rss_bytes: self.usage.current.rss_bytes + usage::own_rss_bytes(),
        })
    }

    /// Bytes that the browser has on the disk and those it may have, if they are more.
    fn exceeded_disk_limit(&self) -> Option<(u64, u64)> {
        let disk = self.page.as_ref()?.disk_usage();
        let allowed = usage::allowed_disk_bytes(self.spec.limits.disk_bytes, disk.free_bytes);
        (disk.used_bytes > allowed).then_some((disk.used_bytes, allowed))
    }

    fn measure_usage(&mut self) {
        self.usage.measured_at = Some(Instant::now());
        let Some(page) = &self.page else { return };
        let Ok(browser) = page.browser() else { return };
        let now = usage::browser_usage(browser.pid());
        self.usage.peak_rss_bytes = self.usage.peak_rss_bytes.max(now.rss_bytes);
        let cpu_seconds = now.cpu_seconds.max(self.usage.current.cpu_seconds);
        self.usage.current = usage::BrowserUsage { cpu_seconds, ..now };
    }
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
