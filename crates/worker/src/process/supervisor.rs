//! Supervises one cast from start to end across its processes: when one dies, a new one resumes the
//! recording.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use pagecast_core::HostTime;
use pagecast_core::cast::{EndReason, Event};
use pagecast_core::spec::MAX_TIME_RANGE;

use super::{
    FailureInfo, HEARTBEAT_TIMEOUT, Message, Outcome, POLL_INTERVAL, Process, ProcessCommand, STOP_TIMEOUT,
    now,
};
use crate::cast::{
    Assignment, CastEvent, Change, FailureKind, Report, StopToken, TimelineEntry, change_pushes,
    end_reason_code,
};

/// How long a process must be live before earlier deaths are forgotten: the cast has proved that it can run.
const STABLE_AFTER: Duration = Duration::from_secs(600);
/// Most timeline entries kept for the report: a cast with more of them repeats itself.
const MAX_TIMELINE_ENTRIES: usize = 1000;
/// Longest time between two turns of the main loop before its process is killed as hanging. Longer than the
/// start of a browser that answers each of its about eight calls only just within the 20 s it has.
const MAIN_LOOP_TIMEOUT: Duration = Duration::from_secs(180);
/// How far past its maximum time a cast may run before the supervisor stops it: normally the cast does so
/// itself.
const MAX_TIME_GRACE: Duration = Duration::from_secs(3);
/// Longest time from the stop request to the end of the page; the upload may take much longer. One call to a
/// hanging browser takes 20 s.
const END_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest silence of a process that was asked to stop before it is killed. Half of [`HEARTBEAT_TIMEOUT`].
const END_SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most silence counted between two checks: a longer gap was the supervisor's own pause.
const MAX_SILENT_STEP: Duration = Duration::from_secs(1);

/// Measures how long a process has sent nothing while the supervisor was reading.
#[derive(Debug, Default)]
struct SilenceTimer {
    lines: u64,
    last_check: Option<Instant>,
    duration: Duration,
}

impl SilenceTimer {
    /// Returns the silence at `at`, when `lines` were received in total. Call it often: a supervisor that was
    /// itself stopped for a minute has read nothing meanwhile.
    fn update(&mut self, at: Instant, lines: u64) -> Duration {
        let step =
            self.last_check.replace(at).map_or(Duration::ZERO, |last| at.saturating_duration_since(last));
        self.duration =
            if lines == self.lines { self.duration + step.min(MAX_SILENT_STEP) } else { Duration::ZERO };
        self.lines = lines;
        self.duration
    }
}

/// How a process ended.
enum ProcessExit {
    /// The process reported its outcome.
    Done(Box<Outcome>),
    /// The process died, with this exit status.
    Lost(String),
    /// The process was killed for another worker to resume the cast.
    Abandoned,
}

/// Supervises one cast.
pub(super) struct Supervisor<'a, T> {
    assignment: Assignment,
    began: HostTime,
    stop: &'a StopToken,
    on_event: T,
    /// When the process was asked to stop, and why.
    stopping: Option<(Instant, EndReason)>,
    /// Why the supervisor itself ended the cast, if it did.
    forced_end: Option<EndReason>,
    silence: SilenceTimer,
    /// The page has ended; the recording may still be uploading.
    ended: bool,
    live_since: Option<Instant>,
    /// When the page was first shown, which starts its running time; the start of the cast if an earlier
    /// process showed it.
    shown_at: Option<HostTime>,
    /// Processes that died since one was stable.
    recent_deaths: u32,
    /// Processes that were replaced in all.
    restarts: u32,
    timeline: Vec<TimelineEntry>,
}

impl<'a, T: FnMut(CastEvent)> Supervisor<'a, T> {
    pub(super) fn new(assignment: &Assignment, began: HostTime, stop: &'a StopToken, on_event: T) -> Self {
        Self {
            assignment: assignment.clone(),
            began,
            stop,
            on_event,
            stopping: None,
            forced_end: None,
            silence: SilenceTimer::default(),
            ended: false,
            live_since: None,
            shown_at: assignment.spec.resumed.then_some(began),
            recent_deaths: 0,
            restarts: 0,
            timeline: Vec::new(),
        }
    }

    pub(super) fn run(mut self, mut process: Process) -> Outcome {
        process.send_command(&ProcessCommand::Run(Box::new(self.assignment.clone()), self.began.0));
        loop {
            let status = match self.monitor(&mut process) {
                // A new process that failed before it resumed the recording leaves that to a third one.
                ProcessExit::Done(outcome) if self.restarts > 0 && outcome.report.is_none() => {
                    return self.finish_in_new_process(process, outcome.failure);
                }
                ProcessExit::Done(outcome) => return self.into_outcome(*outcome),
                ProcessExit::Abandoned => return Outcome::default(),
                ProcessExit::Lost(status) => status,
            };
            if !self.try_restart(&mut process) {
                if let Some(reason) = self.forced_end {
                    self.forward_event(CastEvent::Lifecycle(Event::Ended(reason)));
                    return self.finish_in_new_process(process, None);
                }
                let message =
                    format!("the cast's process ended unexpectedly ({status}); what was recorded is kept");
                return self.finish_in_new_process(
                    process,
                    Some(FailureInfo::new(FailureKind::Unexpected, message)),
                );
            }
        }
    }

    /// Receives the messages of a process until it reports its outcome or is gone.
    fn monitor(&mut self, process: &mut Process) -> ProcessExit {
        if let Some(group) = &process.cgroup {
            group.set_limits(&self.assignment.spec.limits);
        }
        self.silence = SilenceTimer::default();
        loop {
            match process.messages.recv_timeout(POLL_INTERVAL) {
                Ok(Message::Event(event)) => self.forward_event(event),
                Ok(Message::Done(outcome)) => {
                    process.wait_for_exit();
                    return ProcessExit::Done(outcome);
                }
                Ok(Message::BrowserReady | Message::Heartbeat { .. } | Message::DryRunDone(_))
                | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return ProcessExit::Lost(process.kill_and_wait()),
            }
            while let Some(change) = process.changes.1.try_recv() {
                self.apply_change(change.clone());
                process.send_command(&ProcessCommand::Change(change));
            }
            if self.stop.is_abandoned() {
                process.kill_and_wait();
                return ProcessExit::Abandoned;
            }
            if self.stop.take_restart_request() && !self.ended {
                return ProcessExit::Lost(process.kill_and_wait());
            }
            if !self.should_continue(process) {
                return ProcessExit::Lost(process.kill_and_wait());
            }
        }
    }

    fn forward_event(&mut self, mut cast_event: CastEvent) {
        if let CastEvent::Lifecycle(event) = &mut cast_event {
            // A process stopped at its maximum time knows only that it was stopped.
            if let (Event::Ended(reason @ EndReason::Stopped), Some((_, cause))) =
                (&mut *event, self.stopping)
                && cause != *reason
            {
                *reason = cause;
                self.forced_end = Some(cause);
            }
            let event = *event;
            match event {
                Event::Live => {
                    self.live_since = Some(Instant::now());
                    self.shown_at.get_or_insert_with(now);
                }
                Event::Ended(_) => self.ended = true,
                Event::Reloaded(_) | Event::Moved(_) => {}
            }
            if self.timeline.len() < MAX_TIMELINE_ENTRIES {
                let at_ms = u64::try_from(now().since(self.began).as_millis()).unwrap_or(u64::MAX);
                self.timeline.push(TimelineEntry { at_ms, event });
            }
        }
        (self.on_event)(cast_event);
    }

    /// Applies a change to the description, which a new process would start from.
    fn apply_change(&mut self, change: Change) {
        // A refusal is reported by the process.
        let _refused = change_pushes(&mut self.assignment.spec.pushes, change);
    }

    /// Passes a stop request on. Returns false if the process must be killed: it does not stop, it hangs, or
    /// the stop was requested a second time.
    fn should_continue(&mut self, process: &mut Process) -> bool {
        if self.stop.take_request() {
            // A second request during the upload only makes the process leave the rest in the spool.
            let requested_before = matches!(self.stopping, Some((_, EndReason::Stopped)));
            let first = !requested_before || std::mem::take(&mut self.ended);
            if !first {
                tracing::warn!("second stop request, killing cast process");
                return false;
            }
            self.send_stop(process, EndReason::Stopped);
        } else if self.stopping.is_none() && !self.ended && self.is_out_of_time() {
            self.send_stop(process, EndReason::MaxTime);
        }
        let silence = self.silence.update(Instant::now(), process.liveness.lines());
        let Some(reason) = self.reason_to_kill(silence, process.liveness.idle()) else { return true };
        tracing::warn!(reason, silence_s = silence.as_secs(), "cast process killed");
        if !self.ended {
            self.forced_end = self.stopping.map(|(_, reason)| reason);
        }
        false
    }

    fn send_stop(&mut self, process: &mut Process, reason: EndReason) {
        self.stopping = Some((Instant::now(), reason));
        process.send_command(&ProcessCommand::Stop);
    }

    /// Returns why a process must be killed that has been silent for so long, and whose main loop has not
    /// turned for `idle`.
    fn reason_to_kill(&self, silence: Duration, idle: Duration) -> Option<&'static str> {
        if silence >= HEARTBEAT_TIMEOUT {
            return Some("no-heartbeat");
        }
        if !self.ended && idle >= MAIN_LOOP_TIMEOUT {
            return Some("main-loop-hang");
        }
        let since = self.stopping?.0.elapsed();
        let recording = self.assignment.spec.recording.as_ref();
        let upload_timeout = recording.map_or(Duration::ZERO, |r| r.upload_timeout);
        let page_stays = !self.ended && (silence >= END_SILENCE_TIMEOUT || since >= END_TIMEOUT);
        (page_stays || since > STOP_TIMEOUT + upload_timeout).then_some("stop-timeout")
    }

    /// Returns whether the maximum time is over. Normally the process ends its cast then; a process that
    /// resumed the cast was given at least the shortest time allowed, however little was left.
    fn is_out_of_time(&self) -> bool {
        let grace = if self.restarts == 0 { MAX_TIME_GRACE } else { Duration::ZERO };
        self.running_time() >= self.assignment.spec.limits.max_time + grace
    }

    /// Returns what is left of the maximum time.
    fn time_left(&self) -> Duration {
        self.assignment.spec.limits.max_time.saturating_sub(self.running_time())
    }

    /// Returns how long the page has been shown, across all processes.
    fn running_time(&self) -> Duration {
        self.shown_at.map_or(Duration::ZERO, |at| now().since(at))
    }

    /// Restarts the cast in a new process, if it was live and has attempts left.
    fn try_restart(&mut self, process: &mut Process) -> bool {
        let live_for = self.live_since.take().map(|at| at.elapsed());
        if live_for.is_some_and(|time| time >= STABLE_AFTER) {
            self.recent_deaths = 0;
        }
        self.recent_deaths += 1;
        if self.stopping.is_none() && !self.ended && live_for.is_some() && self.time_left().is_zero() {
            self.forced_end = Some(EndReason::MaxTime);
        }
        let Assignment { spec, paths, .. } = &self.assignment;
        // Without its spool, the recording can only go on under another epoch: names would be used again.
        let may_resume = spec.recording.is_none() || paths.spool.exists();
        let may_restart = live_for.is_some()
            && self.recent_deaths < spec.limits.attempts
            && self.forced_end.is_none()
            && may_resume;
        if !may_restart || self.stopping.is_some() || self.ended || !process.restart() {
            return false;
        }
        tracing::warn!(restarts = self.restarts + 1, "cast process died, restarted");
        self.restarts += 1;
        (self.on_event)(CastEvent::Restarted);
        let mut assignment = self.assignment.clone();
        let spec = &mut assignment.spec;
        if let Some(recording) = &mut spec.recording {
            recording.resume = true;
        }
        // Only a cast whose page was shown is restarted.
        spec.resumed = true;
        spec.limits.max_time = self.time_left().max(*MAX_TIME_RANGE.start());
        process.send_command(&ProcessCommand::Run(Box::new(assignment), self.began.0));
        true
    }

    /// Finishes and uploads what the cast left, in a new process.
    fn finish_in_new_process(mut self, mut process: Process, failure: Option<FailureInfo>) -> Outcome {
        self.assignment.spec.resumed |= self.shown_at.is_some();
        if !self.assignment.has_unfinished_recording() || !process.restart() {
            return Outcome { report: None, failure };
        }
        (self.stopping, self.ended) = (None, true);
        process.send_command(&ProcessCommand::Finish(Box::new(self.assignment.clone())));
        let (report, failed) = match self.monitor(&mut process) {
            ProcessExit::Done(outcome) => (outcome.report, outcome.failure),
            ProcessExit::Lost(status) => (None, Some(upload_process_lost(&status))),
            ProcessExit::Abandoned => (None, None),
        };
        self.into_outcome(Outcome { report, failure: failure.or(failed) })
    }

    /// Finishes and uploads what an earlier process left, in this one.
    pub(super) fn finish(mut self, mut process: Process) -> Outcome {
        self.ended = true;
        process.send_command(&ProcessCommand::Finish(Box::new(self.assignment.clone())));
        match self.monitor(&mut process) {
            ProcessExit::Done(outcome) => *outcome,
            ProcessExit::Abandoned => Outcome::default(),
            ProcessExit::Lost(status) => {
                Outcome { report: None, failure: Some(upload_process_lost(&status)) }
            }
        }
    }

    fn into_outcome(self, outcome: Outcome) -> Outcome {
        let Self { timeline, restarts, forced_end, .. } = self;
        let complete = |mut report: Report| {
            // A process knows only its own part of the timeline.
            if restarts > 0 || forced_end.is_some() {
                report = Report { timeline, restarts, ..report };
            }
            if let Some(reason) = forced_end {
                end_reason_code(reason).0.clone_into(&mut report.end);
            }
            report
        };
        Outcome { report: outcome.report.map(complete), ..outcome }
    }
}

fn upload_process_lost(status: &str) -> FailureInfo {
    let message = format!("the process that uploads the recording ended unexpectedly ({status})");
    FailureInfo::new(FailureKind::Unexpected, message)
}

#[cfg(test)]
mod tests {
    use pagecast_core::CastSpec;
    use pagecast_core::spec::{Source, SourceUrl};

    use super::*;
    use crate::cast::CastPaths;

    #[test]
    fn silence_counts_only_while_the_supervisor_reads() {
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let mut silence = SilenceTimer::default();
        assert_eq!(silence.update(at(0), 0), Duration::ZERO);
        assert_eq!(silence.update(at(1), 0), Duration::from_secs(1));
        assert_eq!(silence.update(at(2), 5), Duration::ZERO, "a line was received");
        assert_eq!(silence.update(at(60), 5), MAX_SILENT_STEP, "the supervisor itself was paused");
        assert_eq!(silence.update(at(61), 6), Duration::ZERO);
        for second in 62..80 {
            let _silence = silence.update(at(second), 6);
        }
        assert_eq!(silence.update(at(80), 6), Duration::from_secs(19));
    }

    #[test]
    fn a_process_that_hangs_is_killed() {
        let spec = CastSpec::new(Source::new(SourceUrl::parse("http://a/").unwrap()));
        let stop = StopToken::default();
        let assignment = Assignment::new(spec, CastPaths::default());
        let mut supervisor = Supervisor::new(&assignment, HostTime(0), &stop, |_| {});
        let secs = Duration::from_secs;
        let kills = |supervisor: &Supervisor<'_, _>, silence, idle| {
            supervisor.reason_to_kill(secs(silence), secs(idle)).is_some()
        };
        assert!(!kills(&supervisor, 9, 179) && kills(&supervisor, 10, 0) && kills(&supervisor, 0, 180));
        supervisor.stopping = Some((Instant::now(), EndReason::Stopped));
        assert!(!kills(&supervisor, 4, 0) && kills(&supervisor, 5, 0));
        supervisor.stopping = Instant::now().checked_sub(END_TIMEOUT).map(|at| (at, EndReason::Stopped));
        assert!(kills(&supervisor, 0, 0), "it has not ended in time");
        supervisor.ended = true;
        assert!(!kills(&supervisor, 5, 200) && kills(&supervisor, 10, 0), "an upload may take long");
    }
}
