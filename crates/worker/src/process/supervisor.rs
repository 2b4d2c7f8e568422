//! One cast from its beginning to its end, whichever process runs it: when one dies, another goes on with
//! what it recorded.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use pagecast_core::cast::{EndReason, Event};
use pagecast_core::spec::MAX_TIME_RANGE;
use pagecast_core::{CastSpec, HostTime};

use super::{
    FailureInfo, HEARTBEAT_TIMEOUT, Message, Outcome, POLL_INTERVAL, Process, ProcessCommand, STOP_TIMEOUT,
    now,
};
use crate::cast::{
    CastEvent, Change, FailureKind, Report, StopToken, TimelineEntry, change_pushes, end_word,
};

/// A process that was live for so long has proved that the cast can be run: it may die as often as at first.
const STABLE_AFTER: Duration = Duration::from_secs(600);
/// Turns kept for the report; a cast that has more is the same all the time.
const MAX_TIMELINE_ENTRIES: usize = 1000;
/// A main loop that has not turned for so long hangs, and its process is killed. Longer than the start of a
/// browser that answers each of its about eight calls only just within the 20 s it has.
const MAIN_LOOP_TIMEOUT: Duration = Duration::from_secs(180);
/// How much longer than its maximum time a cast may run before the supervisor ends it: as a rule the cast
/// does so itself.
const MAX_TIME_GRACE: Duration = Duration::from_secs(3);
/// Time for a cast that was asked to stop to end its page; what it recorded may be stored long after. One
/// call to a browser that hangs takes 20 s.
const END_TIMEOUT: Duration = Duration::from_secs(25);
/// A process that has been silent for so long when its cast is to end is killed at once. Half of
/// [`HEARTBEAT_TIMEOUT`].
const END_SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time between two looks that counts as silence: what is longer was the supervisor's own pause.
const MAX_SILENT_STEP: Duration = Duration::from_secs(1);

/// For how long a process has reported nothing while it was listened to.
#[derive(Debug, Default)]
struct SilenceTimer {
    lines: u64,
    last_check: Option<Instant>,
    duration: Duration,
}

impl SilenceTimer {
    /// Its length at `at`, when `lines` have been received in all. Call it often: a supervisor that was
    /// itself stopped for a minute has listened to nobody meanwhile.
    fn update(&mut self, at: Instant, lines: u64) -> Duration {
        let step =
            self.last_check.replace(at).map_or(Duration::ZERO, |last| at.saturating_duration_since(last));
        self.duration =
            if lines == self.lines { self.duration + step.min(MAX_SILENT_STEP) } else { Duration::ZERO };
        self.lines = lines;
        self.duration
    }
}

/// What became of a process.
enum ProcessExit {
    /// It said so itself.
    Done(Box<Outcome>),
    /// It is gone: its status.
    Lost(String),
    /// It was killed, so that somebody else can go on.
    Abandoned,
}

/// A cast that is watched.
pub(super) struct Supervisor<'a, T> {
    spec: CastSpec,
    began: HostTime,
    stop: &'a StopToken,
    on_event: T,
    /// When it was asked to stop, and why.
    stopping: Option<(Instant, EndReason)>,
    /// Why the supervisor ended the cast itself, if it did.
    forced_end: Option<EndReason>,
    silence: SilenceTimer,
    /// Nothing is recorded any more; what was may still be being stored.
    ended: bool,
    live_since: Option<Instant>,
    /// When the page was first shown: its running time counts from then, or from the beginning if an earlier
    /// process showed it.
    shown_at: Option<HostTime>,
    /// Processes that died since one was stable, and in all.
    recent_deaths: u32,
    restarts: u32,
    timeline: Vec<TimelineEntry>,
}

impl<'a, T: FnMut(CastEvent)> Supervisor<'a, T> {
    pub(super) fn new(spec: &CastSpec, began: HostTime, stop: &'a StopToken, tell: T) -> Self {
        Self {
            spec: spec.clone(),
            began,
            stop,
            on_event: tell,
            stopping: None,
            forced_end: None,
            silence: SilenceTimer::default(),
            ended: false,
            live_since: None,
            shown_at: spec.resumed.then_some(began),
            recent_deaths: 0,
            restarts: 0,
            timeline: Vec::new(),
        }
    }

    pub(super) fn run(mut self, mut process: Process) -> Outcome {
        process.send_command(&ProcessCommand::Run(Box::new(self.spec.clone()), self.began.0));
        loop {
            let status = match self.monitor(&mut process) {
                // One that never got as far as the recording leaves it to others.
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

    /// Hears what a process says until it has said all, or is gone.
    fn monitor(&mut self, process: &mut Process) -> ProcessExit {
        if let Some(group) = &process.cgroup {
            group.set_limits(&self.spec.limits);
        }
        self.silence = SilenceTimer::default();
        loop {
            match process.messages.recv_timeout(POLL_INTERVAL) {
                Ok(Message::Event(news)) => self.forward_event(news),
                Ok(Message::Done(outcome)) => {
                    process.wait_for_exit();
                    return ProcessExit::Done(outcome);
                }
                Ok(Message::BrowserReady | Message::Heartbeat { .. }) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return ProcessExit::Lost(process.kill_and_wait()),
            }
            while let Ok(change) = process.changes.1.try_recv() {
                self.apply_change(change.clone());
                process.send_command(&ProcessCommand::Change(change));
            }
            if self.stop.is_abandoned() {
                process.kill_and_wait();
                return ProcessExit::Abandoned;
            }
            if !self.should_continue(process) {
                return ProcessExit::Lost(process.kill_and_wait());
            }
        }
    }

    fn forward_event(&mut self, mut news: CastEvent) {
        if let CastEvent::Lifecycle(event) = &mut news {
            // A process that is stopped because its time is up knows only that it was stopped.
            if let (Event::Ended(reason @ EndReason::Stopped), Some((_, why))) = (&mut *event, self.stopping)
                && why != *reason
            {
                *reason = why;
                self.forced_end = Some(why);
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
        (self.on_event)(news);
    }

    /// Another process must know of it.
    fn apply_change(&mut self, change: Change) {
        // The process tells if it cannot be made.
        let _refused = change_pushes(&mut self.spec.pushes, change);
    }

    /// Hands on that the cast shall stop. False if it does not, if it hangs, or if whoever asked has asked
    /// again.
    fn should_continue(&mut self, process: &mut Process) -> bool {
        if self.stop.take_request() {
            // Asked while the recording is being stored, it leaves that to others.
            let asked_before = matches!(self.stopping, Some((_, EndReason::Stopped)));
            let first = !asked_before || std::mem::take(&mut self.ended);
            if !first {
                tracing::warn!("asked to stop again: the cast is killed");
                return false;
            }
            self.send_stop(process, EndReason::Stopped);
        } else if self.stopping.is_none() && !self.ended && self.is_out_of_time() {
            self.send_stop(process, EndReason::MaxTime);
        }
        let silent = self.silence.update(Instant::now(), process.liveness.lines());
        let Some(why) = self.reason_to_kill(silent, process.liveness.idle()) else { return true };
        tracing::warn!(silent_s = silent.as_secs(), "{why}: its process is killed");
        if !self.ended {
            self.forced_end = self.stopping.map(|(_, reason)| reason);
        }
        false
    }

    fn send_stop(&mut self, process: &mut Process, reason: EndReason) {
        self.stopping = Some((Instant::now(), reason));
        process.send_command(&ProcessCommand::Stop);
    }

    /// Why a process that has been silent for so long, and whose main loop has not turned for `idle`, must
    /// not go on.
    fn reason_to_kill(&self, silent: Duration, idle: Duration) -> Option<&'static str> {
        if silent >= HEARTBEAT_TIMEOUT {
            return Some("the cast reports nothing");
        }
        if !self.ended && idle >= MAIN_LOOP_TIMEOUT {
            return Some("the cast hangs");
        }
        let since = self.stopping?.0.elapsed();
        let patience = self.spec.recording.as_ref().map_or(Duration::ZERO, |r| r.upload_timeout);
        let page_stays = !self.ended && (silent >= END_SILENCE_TIMEOUT || since >= END_TIMEOUT);
        (page_stays || since > STOP_TIMEOUT + patience).then_some("the cast does not stop")
    }

    /// Whether its maximum time is over. A process ends its cast itself then; one that took it over was given
    /// at least the shortest time there is, however little was left.
    fn is_out_of_time(&self) -> bool {
        let grace = if self.restarts == 0 { MAX_TIME_GRACE } else { Duration::ZERO };
        self.running_time() >= self.spec.limits.max_time + grace
    }

    /// What is left of its maximum time.
    fn time_left(&self) -> Duration {
        self.spec.limits.max_time.saturating_sub(self.running_time())
    }

    /// How long the page has been shown, whichever processes the cast had.
    fn running_time(&self) -> Duration {
        self.shown_at.map_or(Duration::ZERO, |at| now().since(at))
    }

    /// Has another process go on with the cast, if that makes sense.
    fn try_restart(&mut self, process: &mut Process) -> bool {
        let live_for = self.live_since.take().map(|at| at.elapsed());
        if live_for.is_some_and(|time| time >= STABLE_AFTER) {
            self.recent_deaths = 0;
        }
        self.recent_deaths += 1;
        if self.stopping.is_none() && !self.ended && live_for.is_some() && self.time_left().is_zero() {
            self.forced_end = Some(EndReason::MaxTime);
        }
        let may =
            live_for.is_some() && self.recent_deaths < self.spec.limits.attempts && self.forced_end.is_none();
        if !may || self.stopping.is_some() || self.ended || !process.restart() {
            return false;
        }
        tracing::warn!("the cast's process died, another one goes on");
        self.restarts += 1;
        (self.on_event)(CastEvent::Restarted);
        let mut spec = self.spec.clone();
        if let Some(recording) = &mut spec.recording {
            recording.resume = true;
        }
        // Only a page that was shown gets here.
        spec.resumed = true;
        spec.limits.max_time = self.time_left().max(*MAX_TIME_RANGE.start());
        process.send_command(&ProcessCommand::Run(Box::new(spec), self.began.0));
        true
    }

    /// Has what the cast left finished and stored.
    fn finish_in_new_process(mut self, mut process: Process, failure: Option<FailureInfo>) -> Outcome {
        if self.spec.recording.as_ref().is_none_or(|r| !r.spool.exists()) || !process.restart() {
            return Outcome { report: None, failure };
        }
        (self.stopping, self.ended) = (None, true);
        process.send_command(&ProcessCommand::Finish(Box::new(self.spec.clone())));
        let (report, failed) = match self.monitor(&mut process) {
            ProcessExit::Done(outcome) => (outcome.report, outcome.failure),
            ProcessExit::Lost(status) => (None, Some(upload_process_lost(&status))),
            ProcessExit::Abandoned => (None, None),
        };
        self.into_outcome(Outcome { report, failure: failure.or(failed) })
    }

    /// Has what an earlier process left finished and stored.
    pub(super) fn finish(mut self, mut process: Process) -> Outcome {
        self.ended = true;
        process.send_command(&ProcessCommand::Finish(Box::new(self.spec.clone())));
        match self.monitor(&mut process) {
            ProcessExit::Done(outcome) => *outcome,
            ProcessExit::Abandoned => Outcome::default(),
            ProcessExit::Lost(status) => {
                Outcome { report: None, failure: Some(upload_process_lost(&status)) }
            }
        }
    }

    fn into_outcome(self, outcome: Outcome) -> Outcome {
        let Self { timeline, restarts, forced_end: ended_by_us, .. } = self;
        let add = |mut report: Report| {
            // A process knows of its own turns only.
            if restarts > 0 || ended_by_us.is_some() {
                report = Report { timeline, restarts, ..report };
            }
            if let Some(reason) = ended_by_us {
                end_word(reason).0.clone_into(&mut report.end);
            }
            report
        };
        Outcome { report: outcome.report.map(add), ..outcome }
    }
}

fn upload_process_lost(status: &str) -> FailureInfo {
    let message = format!("the process that stores the recording ended unexpectedly ({status})");
    FailureInfo::new(FailureKind::Unexpected, message)
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::{Source, SourceUrl};

    use super::*;

    #[test]
    fn silence_is_what_was_listened_to() {
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let mut silence = SilenceTimer::default();
        assert_eq!(silence.update(at(0), 0), Duration::ZERO);
        assert_eq!(silence.update(at(1), 0), Duration::from_secs(1));
        assert_eq!(silence.update(at(2), 5), Duration::ZERO, "it reported something");
        assert_eq!(silence.update(at(60), 5), MAX_SILENT_STEP, "the supervisor was away itself");
        assert_eq!(silence.update(at(61), 6), Duration::ZERO);
        for second in 62..80 {
            let _so_far = silence.update(at(second), 6);
        }
        assert_eq!(silence.update(at(80), 6), Duration::from_secs(19));
    }

    #[test]
    fn a_process_that_hangs_must_not_go_on() {
        let spec = CastSpec::new(Source::new(SourceUrl::parse("http://a/").unwrap()));
        let stop = StopToken::default();
        let mut watch = Supervisor::new(&spec, HostTime(0), &stop, |_| {});
        let secs = Duration::from_secs;
        let kills = |watch: &Supervisor<'_, _>, silent, idle| {
            watch.reason_to_kill(secs(silent), secs(idle)).is_some()
        };
        assert!(!kills(&watch, 9, 179) && kills(&watch, 10, 0) && kills(&watch, 0, 180));
        watch.stopping = Some((Instant::now(), EndReason::Stopped));
        assert!(!kills(&watch, 4, 0) && kills(&watch, 5, 0));
        watch.stopping = Instant::now().checked_sub(END_TIMEOUT).map(|at| (at, EndReason::Stopped));
        assert!(kills(&watch, 0, 0), "it has not ended its page");
        watch.ended = true;
        assert!(!kills(&watch, 5, 200) && kills(&watch, 10, 0), "a recording may take long to store");
    }
}
