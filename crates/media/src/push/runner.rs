//! The thread `pushes`: feeds a state machine for each target and carries out its outputs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::HostTime;
use pagecast_core::connection::{Input, Output, State, StateMachine};
use pagecast_core::wake::SharedWaker;

use super::deadline::IoDeadline;
use super::target::{Command, TargetStatus};
use super::{Id, TargetEvent};

/// Longest time for sending the queued rest when the stream has ended: more than a healthy target needs.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum Message {
    Add(Id, Box<TargetHandle>),
    Remove(Id),
    Input(Id, Input),
    Finish,
}

/// The side of a target that the thread `pushes` holds.
#[derive(Debug)]
pub(super) struct TargetHandle {
    pub(super) machine: StateMachine,
    pub(super) commands: SyncSender<Command>,
    pub(super) deadline: Arc<IoDeadline>,
    pub(super) status: Arc<TargetStatus>,
    pub(super) thread: JoinHandle<()>,
    /// Whether its thread has reported its end.
    pub(super) thread_ended: bool,
}

/// State of the thread `pushes`.
#[derive(Debug)]
pub(super) struct Runner {
    events: SyncSender<TargetEvent>,
    /// Woken by each event.
    waker: SharedWaker,
    /// Longest time for a target to close.
    close_timeout: Duration,
    targets: BTreeMap<Id, TargetHandle>,
    /// Once the stream has ended: when the queued rest is given up.
    drain_deadline: Option<HostTime>,
}

impl Runner {
    pub(super) fn new(events: SyncSender<TargetEvent>, waker: SharedWaker, close_timeout: Duration) -> Self {
        Self { events, waker, close_timeout, targets: BTreeMap::new(), drain_deadline: None }
    }

    /// Runs until the stream and all targets have ended.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        let started_at = Instant::now();
        let now = || HostTime(i64::try_from(started_at.elapsed().as_nanos()).unwrap_or(i64::MAX));
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
        // A thread may report something after its target was removed.
        if let Some(target) = self.targets.get_mut(&id) {
            target.thread_ended |= input == Input::Closed;
            target.machine.handle(now, input);
        }
    }

    /// Handles timeouts and carries out the machines' outputs.
    fn poll_targets(&mut self, now: HostTime) {
        for (id, target) in &mut self.targets {
            target.machine.handle(now, Input::Timeout);
            // Only a connected target can still send its queued rest.
            let draining = target.machine.state() == State::Running;
            if self.drain_deadline.is_some_and(|by| !draining || by <= now) {
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
                        let event = TargetEvent { id: *id, url: target.status.url.clone(), event };
                        if self.events.try_send(event).is_err() {
                            tracing::debug!(push = id.0, "push event queue full, event dropped");
                        }
                        self.waker.wake();
                    }
                }
            }
        }
        let ended: Vec<_> =
            self.targets.iter().filter(|(_, t)| t.machine.is_finished()).map(|(id, _)| *id).collect();
        ended.into_iter().filter_map(|id| self.targets.remove(&id)).for_each(TargetHandle::join_or_detach);
    }
}

impl TargetHandle {
    fn send_command(&self, command: Command) {
        // The queue has room for one command of each kind; a thread that has ended needs none.
        let _gone = self.commands.try_send(command);
    }

    /// Joins the thread if it has ended. Name resolution cannot be interrupted: such a thread is detached.
    fn join_or_detach(self) {
        let url = &self.status.url;
        if !self.thread_ended {
            tracing::debug!(%url, "push thread still blocked, detached");
        } else if self.thread.join().is_err() {
            tracing::error!(%url, "push thread panicked");
        }
    }
}
