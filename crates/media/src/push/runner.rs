//! The thread `pushes`: a machine for each target is told what happened, and what it decides is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::HostTime;
use pagecast_core::push::{Input, Machine, Output, State};

use super::target::{Command, Gauge};
use super::watch::Watch;
use super::{Id, News};

/// How long targets may take what is queued for them when the stream is over.
const DRAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum Message {
    Add(Id, Box<Running>),
    Remove(Id),
    Heard(Id, Input),
    Finish,
}

/// A target as the thread `pushes` sees it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) machine: Machine,
    pub(super) commands: SyncSender<Command>,
    pub(super) watch: Arc<Watch>,
    pub(super) gauge: Arc<Gauge>,
    pub(super) thread: JoinHandle<()>,
    /// Whether its thread has said that it ends.
    pub(super) closed: bool,
}

/// The thread `pushes`.
#[derive(Debug)]
pub(super) struct Runner {
    news: SyncSender<News>,
    /// How long a target may take for the end.
    close: Duration,
    targets: BTreeMap<Id, Running>,
    /// Once the stream is over: when targets must have taken the rest.
    drained_by: Option<HostTime>,
}

impl Runner {
    pub(super) fn new(news: SyncSender<News>, close: Duration) -> Self {
        Self { news, close, targets: BTreeMap::new(), drained_by: None }
    }

    /// Runs until the stream is over and all targets are.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        let began = Instant::now();
        let now = || HostTime(i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX));
        while self.drained_by.is_none() || !self.targets.is_empty() {
            let deadlines = self.targets.values().filter_map(|target| target.machine.deadline());
            let drained = self.drained_by.filter(|by| *by > now());
            let message = match deadlines.chain(drained).min() {
                Some(at) => messages.recv_timeout(at.since(now())),
                None => messages.recv().map_err(RecvTimeoutError::from),
            };
            match message {
                Ok(message) => self.take(now(), message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.pass(now());
        }
    }

    fn take(&mut self, now: HostTime, message: Message) {
        match message {
            Message::Add(id, mut target) => {
                target.machine.handle(now, Input::Start);
                self.targets.insert(id, *target);
            }
            Message::Remove(id) => self.hear(now, id, Input::Stop),
            Message::Heard(id, input) => self.hear(now, id, input),
            Message::Finish => self.drained_by = Some(now + DRAIN),
        }
    }

    fn hear(&mut self, now: HostTime, id: Id, input: Input) {
        // A thread may have something to say after its target is over.
        if let Some(target) = self.targets.get_mut(&id) {
            target.closed |= input == Input::Closed;
            target.machine.handle(now, input);
        }
    }

    /// Does what is due, and carries out what the machines decide.
    fn pass(&mut self, now: HostTime) {
        for (id, target) in &mut self.targets {
            target.machine.handle(now, Input::Time);
            // Without a connection there is nothing to wait for.
            let waits = target.machine.state() == State::Running;
            if self.drained_by.is_some_and(|by| !waits || by <= now) {
                target.machine.handle(now, Input::Stop);
            }
            while let Some(output) = target.machine.poll() {
                match output {
                    Output::Connect => target.order(Command::Connect),
                    Output::Close => {
                        target.watch.stop(self.close);
                        target.order(Command::Close);
                    }
                    Output::Tell(event) => {
                        target.gauge.set(&event);
                        let news = News { id: *id, url: target.gauge.url.clone(), event };
                        if self.news.try_send(news).is_err() {
                            tracing::debug!(id = id.0, "news of a push that nobody takes");
                        }
                    }
                }
            }
        }
        let over: Vec<_> =
            self.targets.iter().filter(|(_, t)| t.machine.is_over()).map(|(id, _)| *id).collect();
        over.into_iter().filter_map(|id| self.targets.remove(&id)).for_each(Running::put_away);
    }
}

impl Running {
    fn order(&self, command: Command) {
        // There is room, and a thread that is gone has nothing left to do.
        let _gone = self.commands.try_send(command);
    }

    /// Its thread has ended, or looks up a name, which nothing can interrupt: it ends after that.
    fn put_away(self) {
        let url = &self.gauge.url;
        if !self.closed {
            tracing::debug!(%url, "the thread of a push is left to end on its own");
        } else if self.thread.join().is_err() {
            tracing::error!(%url, "the thread of a push panicked");
        }
    }
}
