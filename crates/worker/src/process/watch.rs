//! One cast from its beginning to its end, whichever process runs it: when one dies, another goes on with
//! what it recorded.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use pagecast_core::cast::{EndReason, Event};
use pagecast_core::spec::MAX_TIME_RANGE;
use pagecast_core::{CastSpec, HostTime};

use super::{Failed, HEARTBEAT_TIMEOUT, LOOK, Message, Order, Outcome, Process, STOP_GRACE, now};
use crate::cast::{Change, Kind, News, Report, Stop, Turn, change_pushes, end_word};

/// A process that was live for so long has proved that the cast can be run: it may die as often as at first.
const STABLE: Duration = Duration::from_secs(600);
/// Turns kept for the report; a cast that has more is the same all the time.
const MAX_TURNS: usize = 1000;
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
const END_SILENCE: Duration = Duration::from_secs(5);
/// Longest time between two looks that counts as silence: what is longer was the supervisor's own pause.
const MAX_SILENT_STEP: Duration = Duration::from_secs(1);

/// For how long a process has reported nothing while it was listened to.
#[derive(Debug, Default)]
struct Silence {
    lines: u64,
    looked: Option<Instant>,
    length: Duration,
}

impl Silence {
    /// Its length at `at`, when `lines` have been received in all. Call it often: a supervisor that was
    /// itself stopped for a minute has listened to nobody meanwhile.
    fn note(&mut self, at: Instant, lines: u64) -> Duration {
        let step = self.looked.replace(at).map_or(Duration::ZERO, |last| at.saturating_duration_since(last));
        self.length =
            if lines == self.lines { self.length + step.min(MAX_SILENT_STEP) } else { Duration::ZERO };
        self.lines = lines;
        self.length
    }
}

/// What became of a process.
enum Followed {
    /// It said so itself.
    Done(Box<Outcome>),
    /// It is gone: its status.
    Lost(String),
    /// It was killed, so that somebody else can go on.
    Abandoned,
}

/// A cast that is watched.
pub(super) struct Watch<'a, T> {
    spec: CastSpec,
    began: HostTime,
    stop: &'a Stop,
    tell: T,
    /// When it was asked to stop, and why.
    stopping: Option<(Instant, EndReason)>,
    /// Why the supervisor ended the cast itself, if it did.
    ended_by_us: Option<EndReason>,
    silence: Silence,
    /// Nothing is recorded any more; what was may still be being stored.
    ended: bool,
    live_since: Option<Instant>,
    /// When the page was first shown: its running time counts from then, or from the beginning if an earlier
    /// process showed it.
    shown_at: Option<HostTime>,
    /// Processes that died since one was stable, and in all.
    died: u32,
    restarts: u32,
    timeline: Vec<Turn>,
}

impl<'a, T: FnMut(News)> Watch<'a, T> {
    pub(super) fn new(spec: &CastSpec, began: HostTime, stop: &'a Stop, tell: T) -> Self {
        Self {
            spec: spec.clone(),
            began,
            stop,
            tell,
            stopping: None,
            ended_by_us: None,
            silence: Silence::default(),
            ended: false,
            live_since: None,
            shown_at: spec.resumed.then_some(began),
            died: 0,
            restarts: 0,
            timeline: Vec::new(),
        }
    }

    pub(super) fn run(mut self, mut process: Process) -> Outcome {
        process.order(&Order::Run(Box::new(self.spec.clone()), self.began.0));
        loop {
            let status = match self.follow(&mut process) {
                // One that never got as far as the recording leaves it to others.
                Followed::Done(outcome) if self.restarts > 0 && outcome.report.is_none() => {
                    return self.save(process, outcome.failure);
                }
                Followed::Done(outcome) => return self.complete(*outcome),
                Followed::Abandoned => return Outcome::default(),
                Followed::Lost(status) => status,
            };
            if !self.go_on(&mut process) {
                if let Some(reason) = self.ended_by_us {
                    self.pass_on(News::Event(Event::Ended(reason)));
                    return self.save(process, None);
                }
                let message =
                    format!("the cast's process ended unexpectedly ({status}); what was recorded is kept");
                return self.save(process, Some(Failed::new(Kind::Unexpected, message)));
            }
        }
    }

    /// Hears what a process says until it has said all, or is gone.
    fn follow(&mut self, process: &mut Process) -> Followed {
        if let Some(group) = &process.cgroup {
            group.limit(&self.spec.limits);
        }
        self.silence = Silence::default();
        loop {
            match process.messages.recv_timeout(LOOK) {
                Ok(Message::News(news)) => self.pass_on(news),
                Ok(Message::Done(outcome)) => {
                    process.wait_for_exit();
                    return Followed::Done(outcome);
                }
                Ok(Message::Warm | Message::Heartbeat { .. }) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Followed::Lost(process.wait()),
            }
            while let Ok(change) = process.changes.1.try_recv() {
                self.note(change.clone());
                process.order(&Order::Change(change));
            }
            if self.stop.is_abandoned() {
                process.wait();
                return Followed::Abandoned;
            }
            if !self.may_go_on(process) {
                return Followed::Lost(process.wait());
            }
        }
    }

    fn pass_on(&mut self, mut news: News) {
        if let News::Event(event) = &mut news {
            // A process that is stopped because its time is up knows only that it was stopped.
            if let (Event::Ended(reason @ EndReason::Stopped), Some((_, why))) = (&mut *event, self.stopping)
                && why != *reason
            {
                *reason = why;
                self.ended_by_us = Some(why);
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
            if self.timeline.len() < MAX_TURNS {
                let at_ms = u64::try_from(now().since(self.began).as_millis()).unwrap_or(u64::MAX);
                self.timeline.push(Turn { at_ms, event });
            }
        }
        (self.tell)(news);
    }

    /// Another process must know of it.
    fn note(&mut self, change: Change) {
        // The process tells if it cannot be made.
        let _refused = change_pushes(&mut self.spec.pushes, change);
    }

    /// Hands on that the cast shall stop. False if it does not, if it hangs, or if whoever asked has asked
    /// again.
    fn may_go_on(&mut self, process: &mut Process) -> bool {
        if self.stop.take() {
            // Asked while the recording is being stored, it leaves that to others.
            let asked_before = matches!(self.stopping, Some((_, EndReason::Stopped)));
            let first = !asked_before || std::mem::take(&mut self.ended);
            if !first {
                tracing::warn!("asked to stop again: the cast is killed");
                return false;
            }
            self.order_stop(process, EndReason::Stopped);
        } else if self.stopping.is_none() && !self.ended && self.is_out_of_time() {
            self.order_stop(process, EndReason::MaxTime);
        }
        let silent = self.silence.note(Instant::now(), process.life_signs.lines());
        let Some(why) = self.reason_to_kill(silent, process.life_signs.idle()) else { return true };
        tracing::warn!(silent_s = silent.as_secs(), "{why}: its process is killed");
        if !self.ended {
            self.ended_by_us = self.stopping.map(|(_, reason)| reason);
        }
        false
    }

    fn order_stop(&mut self, process: &mut Process, reason: EndReason) {
        self.stopping = Some((Instant::now(), reason));
        process.order(&Order::Stop);
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
        let patience = self.spec.recording.as_ref().map_or(Duration::ZERO, |r| r.patience);
        let page_stays = !self.ended && (silent >= END_SILENCE || since >= END_TIMEOUT);
        (page_stays || since > STOP_GRACE + patience).then_some("the cast does not stop")
    }

    /// Whether its maximum time is over. A process ends its cast itself then; one that took it over was given
    /// at least the shortest time there is, however little was left.
    fn is_out_of_time(&self) -> bool {
        let grace = if self.restarts == 0 { MAX_TIME_GRACE } else { Duration::ZERO };
        self.run_for() >= self.spec.limits.max_time + grace
    }

    /// What is left of its maximum time.
    fn time_left(&self) -> Duration {
        self.spec.limits.max_time.saturating_sub(self.run_for())
    }

    /// How long the page has been shown, whichever processes the cast had.
    fn run_for(&self) -> Duration {
        self.shown_at.map_or(Duration::ZERO, |at| now().since(at))
    }

    /// Has another process go on with the cast, if that makes sense.
    fn go_on(&mut self, process: &mut Process) -> bool {
        let live_for = self.live_since.take().map(|at| at.elapsed());
        if live_for.is_some_and(|time| time >= STABLE) {
            self.died = 0;
        }
        self.died += 1;
        if self.stopping.is_none() && !self.ended && live_for.is_some() && self.time_left().is_zero() {
            self.ended_by_us = Some(EndReason::MaxTime);
        }
        let may = live_for.is_some() && self.died < self.spec.limits.attempts && self.ended_by_us.is_none();
        if !may || self.stopping.is_some() || self.ended || !process.restart() {
            return false;
        }
        tracing::warn!("the cast's process died, another one goes on");
        self.restarts += 1;
        (self.tell)(News::Restarted);
        let mut spec = self.spec.clone();
        if let Some(recording) = &mut spec.recording {
            recording.resume = true;
        }
        // Only a page that was shown gets here.
        spec.resumed = true;
        spec.limits.max_time = self.time_left().max(*MAX_TIME_RANGE.start());
        process.order(&Order::Run(Box::new(spec), self.began.0));
        true
    }

    /// Has what the cast left finished and stored.
    fn save(mut self, mut process: Process, failure: Option<Failed>) -> Outcome {
        if self.spec.recording.as_ref().is_none_or(|r| !r.spool.exists()) || !process.restart() {
            return Outcome { report: None, failure };
        }
        (self.stopping, self.ended) = (None, true);
        process.order(&Order::Finish(Box::new(self.spec.clone())));
        let (report, failed) = match self.follow(&mut process) {
            Followed::Done(outcome) => (outcome.report, outcome.failure),
            Followed::Lost(status) => (None, Some(lost_while_storing(&status))),
            Followed::Abandoned => (None, None),
        };
        self.complete(Outcome { report, failure: failure.or(failed) })
    }

    /// Has what an earlier process left finished and stored.
    pub(super) fn finish(mut self, mut process: Process) -> Outcome {
        self.ended = true;
        process.order(&Order::Finish(Box::new(self.spec.clone())));
        match self.follow(&mut process) {
            Followed::Done(outcome) => *outcome,
            Followed::Abandoned => Outcome::default(),
            Followed::Lost(status) => Outcome { report: None, failure: Some(lost_while_storing(&status)) },
        }
    }

    fn complete(self, outcome: Outcome) -> Outcome {
        let Self { timeline, restarts, ended_by_us, .. } = self;
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

fn lost_while_storing(status: &str) -> Failed {
    let message = format!("the process that stores the recording ended unexpectedly ({status})");
    Failed::new(Kind::Unexpected, message)
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::{Source, SourceUrl};

    use super::*;

    #[test]
    fn silence_is_what_was_listened_to() {
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let mut silence = Silence::default();
        assert_eq!(silence.note(at(0), 0), Duration::ZERO);
        assert_eq!(silence.note(at(1), 0), Duration::from_secs(1));
        assert_eq!(silence.note(at(2), 5), Duration::ZERO, "it reported something");
        assert_eq!(silence.note(at(60), 5), MAX_SILENT_STEP, "the supervisor was away itself");
        assert_eq!(silence.note(at(61), 6), Duration::ZERO);
        for second in 62..80 {
            let _so_far = silence.note(at(second), 6);
        }
        assert_eq!(silence.note(at(80), 6), Duration::from_secs(19));
    }

    #[test]
    fn a_process_that_hangs_must_not_go_on() {
        let spec = CastSpec::new(Source::new(SourceUrl::parse("http://a/").unwrap()));
        let stop = Stop::default();
        let mut watch = Watch::new(&spec, HostTime(0), &stop, |_| {});
        let secs = Duration::from_secs;
        let kills =
            |watch: &Watch<'_, _>, silent, idle| watch.reason_to_kill(secs(silent), secs(idle)).is_some();
        assert!(!kills(&watch, 9, 179) && kills(&watch, 10, 0) && kills(&watch, 0, 180));
        watch.stopping = Some((Instant::now(), EndReason::Stopped));
        assert!(!kills(&watch, 4, 0) && kills(&watch, 5, 0));
        watch.stopping = Instant::now().checked_sub(END_TIMEOUT).map(|at| (at, EndReason::Stopped));
        assert!(kills(&watch, 0, 0), "it has not ended its page");
        watch.ended = true;
        assert!(!kills(&watch, 5, 200) && kills(&watch, 10, 0), "a recording may take long to store");
    }
}
