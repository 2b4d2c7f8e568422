//! Drives one cast: hands what happened to the state machine, and carries out what it decides.

mod browser_usage;
mod finish;
mod history;
mod observe;
mod reporter;

pub(super) use finish::wait_for_upload;

use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use pagecast_core::cast::{EndReason, Event, HealthCheck, HealthFault, Input, Output, State, StateMachine};
use pagecast_core::spec::Push;
use pagecast_core::{CastSpec, HostTime, Samples, Tick};
use pagecast_page::browser::{self, CallError, PageLoad};
use pagecast_page::{Page, clock};

use super::assignment::Assignment;
use super::evidence::{self, Evidence};
use super::hang;
use super::pipeline::{Pipeline, Prepared};
use super::pushes;
use super::recording::PendingUpload;
use super::report::{Progress, Report};
use super::room::Room;
use super::wakeup::{WaitResult, Wakeup};
use super::warm_browser::{self, WarmBrowser};
use super::{CastEvent, Change, ChangeReceiver, Error, Failure, StopToken};
use crate::{chain, usage};
use browser_usage::BrowserUsage;
use history::History;
use observe::{Observation, Observer, Source};
use reporter::EventReporter;

/// The sender until there is a page, and the receiver until there are outputs.
type PendingChannel<T> = (Option<SyncSender<T>>, Option<Receiver<T>>);

/// Drives one cast. It sleeps until one of its [sources](Source) reports a change, or until the earliest
/// deadline.
pub(super) struct Driver<'a> {
    spec: &'a CastSpec,
    started: HostTime,
    /// Everything that [`Source::ALL`] is about wakes the driver by this.
    wakeup: Wakeup,
    wakes: Wakes,
    stop: &'a StopToken,
    changes: &'a ChangeReceiver,
    reporter: EventReporter<'a>,
    machine: StateMachine,
    page: Option<Page>,
    /// The page that is being opened.
    load: Option<PageLoad>,
    outputs: Outputs,
    observer: Observer,
    evidence: Evidence,
    usage: BrowserUsage,
    history: History,
    /// When the cast stops publishing, unless its lease is renewed.
    publish_until: Option<HostTime>,
    /// The lease has ended.
    isolated: bool,
    /// Size of a video that is larger than allowed.
    large_video: Option<(u32, u32)>,
    /// The last failure.
    error: Option<Error>,
}

/// How often the driver was woken.
#[derive(Debug, Default)]
struct Wakes {
    changes: u64,
    deadlines: u64,
}

/// The outputs of a cast in all their stages.
struct Outputs {
    ticks: PendingChannel<Tick>,
    samples: PendingChannel<Samples>,
    /// Outputs that are open, until they start.
    prepared: Option<Prepared>,
    /// Outputs that are running.
    pipeline: Option<Pipeline>,
    /// Upload of a recording of an earlier process, if this one never started to record.
    leftover_upload: Option<PendingUpload>,
    /// Where to push, until the outputs start.
    pushes: Vec<Push>,
    /// When the outputs started, until one of them has the page.
    started_at: Option<HostTime>,
}

impl Outputs {
    /// Returns the room, live or not yet.
    fn room(&self) -> Option<&Room> {
        let live = self.pipeline.as_ref().and_then(Pipeline::room);
        live.or_else(|| self.prepared.as_ref().and_then(Prepared::room))
    }
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        assignment: &'a Assignment,
        started: HostTime,
        wakeup: Wakeup,
        (stop, changes): (&'a StopToken, &'a ChangeReceiver),
        warm: Option<WarmBrowser>,
        prepared: Prepared,
        on_event: &'a mut dyn FnMut(CastEvent),
    ) -> Self {
        let spec = &assignment.spec;
        let (page, ticks, samples) = match warm.filter(|warm| warm.template.is_compatible_with(spec)) {
            Some(WarmBrowser { page, ticks, samples, .. }) => {
                (Some(page), (None, Some(ticks)), (None, Some(samples)))
            }
            None => {
                let (tick_sender, ticks) = warm_browser::tick_queue();
                let (sample_sender, samples) = warm_browser::sample_queue();
                (None, (Some(tick_sender), Some(ticks)), (Some(sample_sender), Some(samples)))
            }
        };
        stop.set_waker(wakeup.waker().clone());
        changes.set_waker(wakeup.waker().clone());
        if let Some(page) = &page {
            page.set_waker(wakeup.waker());
        }
        Self {
            spec,
            started,
            wakeup,
            wakes: Wakes::default(),
            stop,
            changes,
            reporter: EventReporter::new(on_event),
            machine: StateMachine::new(spec),
            page,
            load: None,
            outputs: Outputs {
                ticks,
                samples,
                prepared: Some(prepared),
                pipeline: None,
                leftover_upload: None,
                pushes: spec.pushes.clone(),
                started_at: None,
            },
            observer: Observer::new(started, spec.checks.crash),
            evidence: Evidence::new(assignment.paths.evidence.clone(), assignment.epoch),
            usage: BrowserUsage::default(),
            history: History::default(),
            publish_until: None,
            isolated: false,
            large_video: None,
            error: None,
        }
    }

    /// Runs the cast to its end.
    pub(super) fn run(mut self) -> Result<Report, Failure> {
        self.handle_input(Input::Start);
        loop {
            let acted = self.turn();
            if let State::Ended(reason) = self.machine.state() {
                return self.finish(reason);
            }
            // What was observed in one state may matter in the next one, and wakes nobody again.
            if !acted {
                self.wait();
            }
        }
    }

    /// Handles what happened at all sources; returns whether the machine acted or changed its state.
    fn turn(&mut self) -> bool {
        let before = self.machine.state();
        let mut acted = false;
        for source in Source::ALL {
            if let Some(observation) = self.observe(source) {
                self.handle_observation(observation);
            }
            while let Some(output) = self.machine.poll() {
                self.execute(output);
                acted = true;
            }
            if matches!(self.machine.state(), State::Ended(_)) {
                break;
            }
        }
        acted || self.machine.state() != before
    }

    /// Sleeps until a source reports a change or something is due.
    fn wait(&mut self) {
        match self.wakeup.wait_until(self.deadline()) {
            WaitResult::Changed => self.wakes.changes += 1,
            WaitResult::DeadlinePassed => self.wakes.deadlines += 1,
        }
    }

    fn handle_input(&mut self, input: Input) {
        self.machine.handle(clock::now(), input);
    }

    fn report(&mut self, event: CastEvent) {
        self.reporter.report(event);
    }

    /// Hands a failure to the machine, and keeps its error for the report.
    fn fail(&mut self, error: impl Into<Error>, input: Input) {
        let error = error.into();
        tracing::debug!(%error, "step failed");
        // A failure during the end of the cast is a consequence of that end.
        if !matches!(self.machine.state(), State::Stopping | State::Ended(_)) {
            self.error = Some(error);
        }
        self.handle_input(input);
    }

    /// Turns an observation into inputs of the machine, or does what it asks for.
    fn handle_observation(&mut self, observation: Observation) {
        match observation {
            Observation::StopRequested => self.handle_input(Input::Stop),
            Observation::OutputsFinished => self.handle_outputs_finished(),
            Observation::CaptureFailed => {
                self.fail(Error::Panic("display or sound"), Input::OutputFailed);
                // The outputs get no more input.
                self.handle_input(Input::Drained);
            }
            Observation::MeasurementDue => self.usage.measure(self.page.as_ref()),
            Observation::OutputsConnected => {
                self.outputs.started_at = None;
                self.handle_input(Input::WentLive);
            }
            Observation::RoomTimedOut(reason) => {
                self.outputs.started_at = None;
                self.fail(Error::Room(reason), Input::OutputFailed);
            }
            Observation::ScriptsHang => {
                self.handle_input(Input::CheckResult { check: HealthCheck::Crash, failed: true });
            }
            Observation::Warnings(warnings) => {
                for warning in warnings {
                    if self.history.warn(warning) {
                        self.report(CastEvent::Warning(warning));
                    }
                }
            }
            Observation::PageCrashed(error) => {
                self.load = None;
                self.fail(error, Input::Crashed);
            }
            Observation::PageEnded => self.handle_input(Input::PageEnded),
            Observation::OversizedVideo(size) => {
                self.large_video = Some(size);
                self.handle_input(Input::LargeVideo);
            }
            Observation::PaintPending => self.handle_input(Input::ReadySignalReceived),
            Observation::InvalidSelector(error) => {
                self.fail(browser::Error::from(error), Input::OpenFailed);
            }
            Observation::PageReady => self.handle_input(Input::Ready),
            Observation::LoadEnded(result) => self.handle_load_end(result),
            Observation::Deadline => self.handle_input(Input::Timeout),
            Observation::Changes(changes) => self.apply_changes(changes),
            Observation::LeaseEnded => self.isolate(),
            Observation::OutputEvents(events) => events.into_iter().for_each(|event| self.report(event)),
            Observation::RecordingStopped => self.report(CastEvent::RecordingStopped),
            Observation::UploadChanged(status) => self.report(CastEvent::Upload(status)),
            Observation::ProgressDue => self.report_progress(),
        }
    }

    fn handle_outputs_finished(&mut self) {
        match self.machine.state() {
            State::Stopping => self.handle_input(Input::Drained),
            State::Ended(_) => {}
            _ if self.is_complete() => self.handle_input(Input::Complete),
            _ => self.handle_input(Input::OutputFailed),
        }
    }

    /// Carries out an output of the machine.
    fn execute(&mut self, output: Output) {
        if matches!(output, Output::StartBrowser | Output::Reload) {
            // A page that is replaced may never answer its ping.
            self.observer.hangs.handle(clock::now(), hang::Input::PageReplaced);
            self.observer.ping = None;
        }
        match output {
            Output::StartBrowser => self.open(),
            Output::Reload => self.load(),
            Output::GoLive => self.go_live(),
            Output::MuteOutputs => self.page.iter().for_each(|page| page.set_output_muted(true)),
            Output::RunCheck(check) => {
                let failed = self.check_health(check);
                self.handle_input(Input::CheckResult { check, failed });
            }
            Output::SaveEvidence(fault) => self.save_evidence(fault),
            Output::StopOutputs => match (&self.outputs.pipeline, self.outputs.prepared.take()) {
                (Some(pipeline), _) => pipeline.end_now(self.spec),
                (None, prepared) => {
                    self.outputs.leftover_upload = prepared.and_then(Prepared::abandon);
                    self.handle_input(Input::Drained);
                }
            },
            Output::Event(event) => self.report_event(event),
        }
    }

    /// Opens the page in a new browser, or in a warm one that was never used.
    fn open(&mut self) {
        self.load = None;
        self.usage.end_browser(self.page.as_ref());
        let never_opened = !self.observer.has_opened();
        let ready = match &mut self.page {
            Some(page) if never_opened && page.browser().is_ok_and(|b| b.state().is_alive()) => Ok(()),
            Some(page) => page.replace_browser(),
            // The page owns the senders: when its threads end, for whatever reason, so do the outputs.
            none => match (self.outputs.ticks.0.take(), self.outputs.samples.0.take()) {
                (Some(ticks), Some(samples)) => {
                    let config = warm_browser::page_config(self.spec);
                    Page::start(config, ticks, samples).map(|page| {
                        page.set_waker(self.wakeup.waker());
                        *none = Some(page);
                    })
                }
                _ => return self.fail(Error::Panic("display"), Input::OutputFailed),
            },
        };
        match ready {
            Ok(()) => self.load(),
            Err(error) => self.fail(error, Input::OpenFailed),
        }
    }

    /// Starts to open the page in the current browser.
    fn load(&mut self) {
        let Some(Ok(browser)) = self.page.as_ref().map(Page::browser) else { return };
        let (url, size) = (&self.spec.source.url, self.spec.source.size);
        tracing::info!(%url, %size, fps = self.spec.source.fps.get(), "opening page");
        self.load = Some(browser.open(url));
    }

    fn handle_load_end(&mut self, result: Result<(), browser::Error>) {
        self.load = None;
        match result {
            Ok(()) => {
                self.observer.page_opened();
                self.handle_input(Input::Opened);
            }
            // The end of the browser is observed by itself.
            Err(error @ browser::Error::CdpCall(CallError::Closed)) => self.error = Some(error.into()),
            Err(error) => self.load_failed(error),
        }
    }

    /// Hands a failed load to the machine, which retries it if the failure is transient.
    fn load_failed(&mut self, error: browser::Error) {
        let transient = error.load_error().is_some_and(|error| error.is_transient());
        let message = error.to_string();
        self.fail(error, if transient { Input::OpenFailedTransiently } else { Input::OpenFailed });
        if transient && self.machine.will_retry() {
            tracing::info!(error = message, "page load failed, retrying");
            self.report(CastEvent::LoadRetry(message));
        }
    }

    /// Shows the page in the outputs, and starts them the first time.
    fn go_live(&mut self) {
        let Some(page) = self.page.as_ref().filter(|_| !self.isolated || self.outputs.pipeline.is_some())
        else {
            return;
        };
        self.observer.display_changes = page.display.stats().changes();
        // Also before the first start: a page that crashed at once was muted on the browser's report.
        page.set_output_muted(false);
        let (Some(ticks), Some(samples)) = (self.outputs.ticks.1.take(), self.outputs.samples.1.take())
        else {
            return;
        };
        let Some(prepared) = self.outputs.prepared.take() else { return };
        if let Some(error) = prepared.start_error() {
            self.outputs.prepared = Some(prepared);
            return self.fail(error, Input::OutputFailed);
        }
        match prepared.start(ticks, samples, &self.outputs.pushes) {
            Ok(pipeline) => {
                self.outputs.pipeline = Some(pipeline);
                page.start_capture();
                self.outputs.started_at = Some(clock::now());
            }
            Err(error) => self.fail(error, Input::OutputFailed),
        }
    }

    fn apply_changes(&mut self, changes: Vec<Change>) {
        let mut refused = Vec::new();
        for change in changes {
            match (change, &mut self.outputs.pipeline) {
                (Change::Snapshot(path), _) => {
                    let taken = self.page.as_ref().is_some_and(|page| evidence::write_snapshot(page, &path));
                    self.report(CastEvent::Snapshot(path, taken));
                }
                (Change::PublishUntil(until), _) => self.publish_until = Some(until),
                (change, Some(pipeline)) => {
                    refused.extend(pipeline.apply_change(change, self.spec.source.fps));
                }
                (change, None) => refused.extend(pushes::apply_change(&mut self.outputs.pushes, change)),
            }
        }
        refused.into_iter().for_each(|event| self.report(CastEvent::Push(event)));
    }

    /// Stops publishing and storing, as the lease has ended. A later lease needs a new process.
    fn isolate(&mut self) {
        self.publish_until = None;
        self.isolated = true;
        // Nobody sees the page any more, so the cast does not become live.
        self.outputs.started_at = None;
        if let Some(pipeline) = &mut self.outputs.pipeline {
            pipeline.isolate();
        }
        let is_recording = self.outputs.pipeline.is_some() && self.spec.recording.is_some();
        self.report(CastEvent::Isolated { is_recording });
    }

    fn report_event(&mut self, event: Event) {
        self.history.record(millis(clock::now().since(self.started)), event);
        if let Event::Ended(reason) = event
            && let Some(message) = self.end_message(reason)
        {
            let cause = self.error.as_ref().and_then(Error::load_error);
            let cause = cause.filter(|_| matches!(reason, EndReason::StartFailed | EndReason::PageFailed(_)));
            self.report(CastEvent::FailureReason(message, cause));
        }
        self.report(CastEvent::Lifecycle(event));
    }

    /// Returns why the cast fails, as far as that is known before the outputs are closed.
    fn end_message(&self, reason: EndReason) -> Option<String> {
        match reason {
            EndReason::PageFailed(fault) => Some(Error::GaveUp(fault, self.machine.attempts()).to_string()),
            EndReason::StartFailed | EndReason::OutputFailed => self.error.as_ref().map(|error| chain(error)),
            EndReason::VideoTooLarge => {
                let ((width, height), max) = (self.large_video?, self.spec.limits.max_video?);
                Some(format!("the page plays a video of {width}x{height}, the limit is {max}"))
            }
            _ => None,
        }
    }

    /// Runs a health check; returns whether it found a fault.
    fn check_health(&mut self, check: HealthCheck) -> bool {
        let Some(page) = &self.page else { return false };
        match check {
            HealthCheck::Freeze => {
                let changes = page.display.stats().changes();
                std::mem::replace(&mut self.observer.display_changes, changes) == changes
            }
            HealthCheck::Blank => page.display.snapshot().is_some_and(|picture| picture.is_white()),
            HealthCheck::Crash => {
                let limit = self.spec.checks.crash;
                limit.is_some_and(|limit| self.observer.hangs.unresponsive_for(clock::now()) >= limit)
            }
        }
    }

    fn save_evidence(&mut self, fault: HealthFault) {
        let detail = self.error.as_ref().map(|error| chain(error));
        if let Some(page) = &self.page {
            self.evidence.capture(fault, detail.as_deref(), page);
        }
    }

    fn report_progress(&mut self) {
        let progress = self.progress();
        let room = self.outputs.pipeline.as_ref().and_then(Pipeline::room).map(Room::status);
        self.reporter.report_progress(progress, room);
    }

    fn progress(&self) -> Option<Progress> {
        let (pipeline, page) = (self.outputs.pipeline.as_ref()?, self.page.as_ref()?);
        let (video, display) = (&pipeline.video_stats, page.display.stats());
        Some(Progress {
            elapsed: pipeline.elapsed(self.spec),
            frames_captured: display.frames,
            frames_encoded: video.encoded(),
            frames_unchanged: video.unchanged(),
            frames_dropped: display.dropped,
            bytes: video.bytes() + pipeline.audio_stats.bytes(),
            // Samples can be infinite, which JSON cannot express.
            peak: page.sound.stats().peak.map(|peak| peak.min(f32::MAX)),
            cpu_seconds: self.usage.cpu_s() + usage::own_cpu().as_secs_f64(),
            rss_bytes: self.usage.rss_bytes() + usage::own_rss_bytes(),
        })
    }
}

/// Returns the duration in whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
