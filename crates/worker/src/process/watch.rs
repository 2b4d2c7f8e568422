//! One cast from its beginning to its end, whichever process runs it: when one dies, another goes on with what it recorded.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use pagecast_core::cast::Event;
use pagecast_core::spec::MAX_TIME_RANGE;
use pagecast_core::{CastSpec, HostTime};

use super::{Failed, LOOK, Message, Order, Outcome, Process, STOP_GRACE, now};
use crate::cast::{Change, Kind, News, Report, Stop, Turn, change_pushes};

/// A process that was live for so long has proved that the cast can be run: it may die as often as at first.
const STABLE: Duration = Duration::from_secs(600);
/// Turns kept for the report; a cast that has more is the same all the time.
const MAX_TURNS: usize = 1000;

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
    /// When it was asked to stop.
    stopping: Option<Instant>,
    /// Nothing is recorded any more; what was may still be being stored.
    ended: bool,
    live_since: Option<Instant>,
    /// When the page was first shown: its running time counts from then, or from the beginning if an earlier process showed it.
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
        loop {
            match process.messages.recv_timeout(LOOK) {
                Ok(Message::News(news)) => self.pass_on(news),
                Ok(Message::Done(outcome)) => {
                    // It has nothing left to do.
                    process.orders = None;
                    let _ended = process.child.wait();
                    return Followed::Done(outcome);
                }
                Ok(Message::Warm) | Err(RecvTimeoutError::Timeout) => {}
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

    fn pass_on(&mut self, news: News) {
        if let News::Event(event) = news {
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

    /// Hands on that the cast shall stop. False if it does not, or whoever asked has asked again.
    fn may_go_on(&mut self, process: &mut Process) -> bool {
        if self.stop.take() {
            // Asked while the recording is being stored, it leaves that to others.
            let first = self.stopping.is_none() || std::mem::take(&mut self.ended);
            if !first {
                tracing::warn!("asked to stop again: the cast is killed");
                return false;
            }
            self.stopping = Some(Instant::now());
            process.order(&Order::Stop);
        }
        let patience = self.spec.recording.as_ref().map_or(Duration::ZERO, |r| r.patience);
        let goes = self.stopping.is_none_or(|since| since.elapsed() <= STOP_GRACE + patience);
        if !goes {
            tracing::warn!("the cast does not stop: it is killed");
        }
        goes
    }

    /// Has another process go on with the cast, if that makes sense.
    fn go_on(&mut self, process: &mut Process) -> bool {
        let live_for = self.live_since.take().map(|at| at.elapsed());
        if live_for.is_some_and(|time| time >= STABLE) {
            self.died = 0;
        }
        self.died += 1;
        let may = live_for.is_some() && self.died < self.spec.limits.attempts;
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
        let left = spec.limits.max_time.saturating_sub(now().since(self.shown_at.unwrap_or(self.began)));
        spec.limits.max_time = left.max(*MAX_TIME_RANGE.start());
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
        let report = match self.follow(&mut process) {
            Followed::Done(outcome) => outcome.report,
            Followed::Lost(_) | Followed::Abandoned => None,
        };
        self.complete(Outcome { report, failure })
    }

    /// Has what an earlier process left finished and stored.
    pub(super) fn finish(mut self, mut process: Process) -> Outcome {
        self.ended = true;
        process.order(&Order::Finish(Box::new(self.spec.clone())));
        match self.follow(&mut process) {
            Followed::Done(outcome) => *outcome,
            Followed::Abandoned => Outcome::default(),
            Followed::Lost(status) => {
                let message = format!("the process that stores the recording ended unexpectedly ({status})");
                Outcome { report: None, failure: Some(Failed::new(Kind::Unexpected, message)) }
            }
        }
    }

    fn complete(self, outcome: Outcome) -> Outcome {
        let Self { timeline, restarts, .. } = self;
        // A process knows of its own turns only.
        let timeline =
            |report: Report| if restarts == 0 { report } else { Report { timeline, restarts, ..report } };
        Outcome { report: outcome.report.map(timeline), ..outcome }
    }
}
