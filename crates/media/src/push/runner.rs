//! The thread `pushes`: a machine for each target is told what happened, and what it decides is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::HostTime;
use pagecast_core::connection::{Input, Output, State, StateMachine};

use super::deadline::IoDeadline;
use super::target::{Command, TargetStatus};
use super::{Id, TargetEvent};

/// How long targets may take what is queued for them when the stream is over.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum Message {
    Add(Id, Box<TargetHandle>),
    Remove(Id),
    Input(Id, Input),
    Finish,
}

/// A target as the thread `pushes` sees it.
#[derive(Debug)]
pub(super) struct TargetHandle {
    pub(super) machine: StateMachine,
    pub(super) commands: SyncSender<Command>,
    pub(super) deadline: Arc<IoDeadline>,
    pub(super) status: Arc<TargetStatus>,
    pub(super) thread: JoinHandle<()>,
    /// Whether its thread has said that it ends.
    pub(super) thread_ended: bool,
}

/// The thread `pushes`.
#[derive(Debug)]
pub(super) struct Runner {
    events: SyncSender<TargetEvent>,
    /// How long a target may take for the end.
    close_timeout: Duration,
    targets: BTreeMap<Id, TargetHandle>,
    /// Once the stream is over: when targets must have taken the rest.
    drain_deadline: Option<HostTime>,
}

impl Runner {
    pub(super) fn new(news: SyncSender<TargetEvent>, close: Duration) -> Self {
        Self { events: news, close_timeout: close, targets: BTreeMap::new(), drain_deadline: None }
    }

    /// Runs until the stream is over and all targets are.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        let began = Instant::now();
        let now = || HostTime(i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX));
        while self.drain_deadline.is_none() || !self.targets.is_empty() {
            let deadlines = self.targets.values().filter_map(|target| target.machine.deadline());
            let drained = self.drain_deadline.filter(|by| *by > now());
            let message = match deadlines.chain(drained).min() {
                Some(at) => messages.recv_timeout(at.since(now())),
                None => messages.recv().map_err(RecvTimeoutError::from),
            };
            match message {
                Ok(message) => self.handle_message(now(), message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.poll_targets(now());
        }
    }

    fn handle_message(&mut self, now: HostTime, message: Message) {
        match message {
            Message::Add(id, mut target) => {
                target.machine.handle(now, Input::Start);
                self.targets.insert(id, *target);
            }
            Message::Remove(id) => self.handle_input(now, id, Input::Stop),
            Message::Input(id, input) => self.handle_input(now, id, input),
            Message::Finish => self.drain_deadline = Some(now + DRAIN_TIMEOUT),
        }
    }

    fn handle_input(&mut self, now: HostTime, id: Id, input: Input) {
        // A thread may have something to say after its target is over.
        if let Some(target) = self.targets.get_mut(&id) {
            target.thread_ended |= input == Input::Closed;
            target.machine.handle(now, input);
        }
    }

    /// Does what is due, and carries out what the machines decide.
    fn poll_targets(&mut self, now: HostTime) {
        for (id, target) in &mut self.targets {
            target.machine.handle(now, Input::Timeout);
            // Without a connection there is nothing to wait for.
            let waits = target.machine.state() == State::Running;
            if self.drain_deadline.is_some_and(|by| !waits || by <= now) {
                target.machine.handle(now, Input::Stop);
            }
            while let Some(output) = target.machine.poll() {
                match output {
                    Output::Connect => target.send_command(Command::Connect),
                    Output::Close => {
                        target.deadline.stop(self.close_timeout);
                        target.send_command(Command::Close);
                    }
                    Output::Event(event) => {
                        target.status.on_event(&event);
                        let news = TargetEvent { id: *id, url: target.status.url.clone(), event };
                        if self.events.try_send(news).is_err() {
                            tracing::debug!(id = id.0, "news of a push that nobody takes");
                        }
                    }
                }
            }
        }
        let over: Vec<_> =
            self.targets.iter().filter(|(_, t)| t.machine.is_finished()).map(|(id, _)| *id).collect();
        over.into_iter().filter_map(|id| self.targets.remove(&id)).for_each(TargetHandle::join_or_detach);
    }
}

impl TargetHandle {
    fn send_command(&self, command: Command) {
        // There is room, and a thread that is gone has nothing left to do.
        let _gone = self.commands.try_send(command);
    }

    /// Its thread has ended, or looks up a name, which nothing can interrupt: it ends after that.
    fn join_or_detach(self) {
        let url = &self.status.url;
        if !self.thread_ended {
            tracing::debug!(%url, "the thread of a push is left to end on its own");
        } else if self.thread.join().is_err() {
            tracing::error!(%url, "the thread of a push panicked");
        }
    }
}
