//! Runs the connection state machine of a room, on the thread `room`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pagecast_core::HostTime;
use pagecast_core::connection::{Event, Input, Output, State, StateMachine};
use pagecast_core::spec::Room;
use tokio::sync::mpsc;

use super::media::{MediaFeed, lock_status};
use super::session::{Error, Session};
use super::status::Status;
use super::{Command, EventSender, PublisherEvent};
use crate::timer::sleep_until;

/// Longest delay between two attempts: a room is live, so it must be back soon.
const MAX_BACKOFF: Duration = Duration::from_secs(3);

pub(super) struct Runner {
    room: Room,
    machine: StateMachine,
    started_at: Instant,
    commands: mpsc::Receiver<Command>,
    events: EventSender,
    status: Arc<Mutex<Status>>,
    media: MediaFeed,
    connection_count: u64,
}

/// Event of the loop.
enum LoopEvent {
    SessionEnded(Error),
    SessionOpened(Result<Box<Session>, Error>),
    Command(Command),
    Timeout,
}

impl Runner {
    pub(super) fn new(
        room: Room,
        commands: mpsc::Receiver<Command>,
        events: EventSender,
        status: Arc<Mutex<Status>>,
    ) -> Self {
        let started_at = Instant::now();
        let seed = u64::from(std::process::id()) << 32
            ^ u64::from(rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_nsec as u32);
        let machine = StateMachine::new(None, seed).with_max_backoff(MAX_BACKOFF);
        let media = MediaFeed::new(&room.layers, Arc::clone(&status));
        Self { room, machine, started_at, commands, events, status, media, connection_count: 0 }
    }

    pub(super) async fn run(mut self) {
        let mut session: Option<Box<Session>> = None;
        let mut connecting = false;
        self.handle_input(Input::Start);
        loop {
            while let Some(output) = self.machine.poll() {
                match output {
                    Output::Connect => connecting = true,
                    Output::Close => {
                        connecting = false;
                        if let Some(session) = session.take() {
                            self.media.on_disconnected(Instant::now());
                            session.close(Error::Closed).await;
                        }
                        self.handle_input(Input::Closed);
                    }
                    Output::Event(event) => self.report_event(event),
                }
            }
            if self.machine.is_finished() {
                return;
            }
            match self.wait(&mut session, connecting).await {
                LoopEvent::SessionEnded(error) => {
                    let ended = session.take();
                    let error = match ended {
                        Some(session) => session.close(error).await,
                        None => error,
                    };
                    self.report_failure(&error, error.is_transient());
                }
                LoopEvent::SessionOpened(Ok(opened)) => {
                    connecting = false;
                    session = Some(opened);
                    self.connection_count += 1;
                    self.handle_input(Input::Connected);
                }
                LoopEvent::SessionOpened(Err(error)) => {
                    connecting = false;
                    // A server that accepted the stream before may refuse until it notices the lost
                    // connection.
                    let was_accepted = self.connection_count > 0 && !error.is_replaced();
                    self.report_failure(&error, was_accepted || error.is_transient());
                }
                LoopEvent::Command(Command::Feed(feed, encoders)) => self.media.feed(feed, encoders),
                LoopEvent::Command(Command::Stop) => self.handle_input(Input::Stop),
                LoopEvent::Timeout => self.handle_input(Input::Timeout),
            }
        }
    }

    /// Waits for the next event. A command aborts a session that is being opened, which then starts again;
    /// commands are rare.
    async fn wait(&mut self, session: &mut Option<Box<Session>>, connecting: bool) -> LoopEvent {
        let deadline = self
            .machine
            .deadline()
            .map(|at| self.started_at + Duration::from_nanos(u64::try_from(at.0).unwrap_or(0)));
        let command = async { self.commands.recv().await.unwrap_or(Command::Stop) };
        match session {
            Some(session) => tokio::select! {
                command = command => LoopEvent::Command(command),
                error = session.run(&mut self.media) => LoopEvent::SessionEnded(error),
            },
            None if connecting => tokio::select! {
                command = command => LoopEvent::Command(command),
                opened = Session::open(&self.room) => LoopEvent::SessionOpened(opened.map(Box::new)),
            },
            None => tokio::select! {
                command = command => LoopEvent::Command(command),
                () = sleep_until(deadline) => LoopEvent::Timeout,
            },
        }
    }

    fn handle_input(&mut self, input: Input) {
        let now = HostTime(i64::try_from(self.started_at.elapsed().as_nanos()).unwrap_or(i64::MAX));
        self.machine.handle(now, input);
    }

    fn report_failure(&mut self, error: &Error, transient: bool) {
        let text = error.to_string();
        tracing::debug!(error = text, "room connection failed");
        self.handle_input(if transient { Input::Failed(text) } else { Input::Refused(text) });
    }

    fn report_event(&self, event: Event) {
        {
            let mut status = lock_status(&self.status);
            // The state stays `failed` when the machine becomes idle after it.
            if (status.state, event.state) != (State::Failed, State::Idle) {
                status.state = event.state;
            }
            status.error.clone_from(&event.error);
            status.reconnects = self.connection_count.saturating_sub(1);
        }
        self.events.send(PublisherEvent { event });
    }
}
