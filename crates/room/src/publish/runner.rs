//! Carries out what the machine of a room decides, on the thread `room`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pagecast_core::HostTime;
use pagecast_core::push::{Event, Input, Machine, Output, State};
use pagecast_core::spec::Room;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::media::{Media, lock};
use super::session::{Error, Session};
use super::status::Status;
use super::{Command, News};

/// Longest pause between two attempts: a room is live, so it has to be back soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

pub(super) struct Runner {
    room: Room,
    machine: Machine,
    began: Instant,
    commands: mpsc::Receiver<Command>,
    news: std::sync::mpsc::SyncSender<News>,
    status: Arc<Mutex<Status>>,
    media: Media,
    connections: u64,
}

/// What ended a wait.
enum Woken {
    Session(Error),
    Opened(Result<Box<Session>, Error>),
    Command(Command),
    Time,
}

impl Runner {
    pub(super) fn new(
        room: Room,
        commands: mpsc::Receiver<Command>,
        news: std::sync::mpsc::SyncSender<News>,
        status: Arc<Mutex<Status>>,
    ) -> Self {
        let began = Instant::now();
        let seed = u64::from(std::process::id()) << 32
            ^ u64::from(rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_nsec as u32);
        let machine = Machine::new(None, seed).with_longest_pause(LONGEST_PAUSE);
        let media = Media::new(&room.layers, Arc::clone(&status));
        Self { room, machine, began, commands, news, status, media, connections: 0 }
    }

    pub(super) async fn run(mut self) {
        let mut session: Option<Box<Session>> = None;
        let mut wants_one = false;
        self.give(Input::Start);
        loop {
            while let Some(output) = self.machine.poll() {
                match output {
                    Output::Connect => wants_one = true,
                    Output::Close => {
                        wants_one = false;
                        if let Some(session) = session.take() {
                            self.media.disconnected();
                            session.close(Error::Closed).await;
                        }
                        self.give(Input::Closed);
                    }
                    Output::Tell(event) => self.tell(event),
                }
            }
            if self.machine.is_over() {
                return;
            }
            match self.wait(&mut session, wants_one).await {
                Woken::Session(error) => {
                    let ended = session.take();
                    let error = match ended {
                        Some(session) => session.close(error).await,
                        None => error,
                    };
                    self.fail(&error, error.is_passing());
                }
                Woken::Opened(Ok(opened)) => {
                    wants_one = false;
                    session = Some(opened);
                    self.connections += 1;
                    self.give(Input::Connected);
                }
                Woken::Opened(Err(error)) => {
                    wants_one = false;
                    // A server that took the stream once may not have noticed yet that the connection is lost.
                    let known = self.connections > 0 && !error.is_replaced();
                    self.fail(&error, known || error.is_passing());
                }
                Woken::Command(Command::Feed(feed, encoders)) => self.media.feed(feed, encoders),
                Woken::Command(Command::Stop) => self.give(Input::Stop),
                Woken::Time => self.give(Input::Time),
            }
        }
    }

    /// Waits for whatever comes first. A session that is being opened when a command comes is given up, and opened anew
    /// after it: commands are few.
    async fn wait(&mut self, session: &mut Option<Box<Session>>, wants_one: bool) -> Woken {
        let deadline = self
            .machine
            .deadline()
            .map(|at| self.began + Duration::from_nanos(u64::try_from(at.0).unwrap_or(0)));
        let time = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let command = async { self.commands.recv().await.unwrap_or(Command::Stop) };
        match session {
            Some(session) => tokio::select! {
                command = command => Woken::Command(command),
                error = session.run(&mut self.media) => Woken::Session(error),
            },
            None if wants_one => tokio::select! {
                command = command => Woken::Command(command),
                opened = Session::open(&self.room) => Woken::Opened(opened.map(Box::new)),
            },
            None => tokio::select! {
                command = command => Woken::Command(command),
                () = time => Woken::Time,
            },
        }
    }

    fn give(&mut self, input: Input) {
        let now = HostTime(i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX));
        self.machine.handle(now, input);
    }

    fn fail(&mut self, error: &Error, passing: bool) {
        let text = error.to_string();
        tracing::debug!(error = text, "a room's connection");
        self.give(if passing { Input::Failed(text) } else { Input::Refused(text) });
    }

    fn tell(&self, event: Event) {
        {
            let mut status = lock(&self.status);
            // Given up is given up, also when nothing is left of the connection.
            if (status.state, event.state) != (State::Failed, State::Idle) {
                status.state = event.state;
            }
            status.error.clone_from(&event.error);
            status.reconnects = self.connections.saturating_sub(1);
        }
        // Full: nobody listens, and the status says it, too.
        if let Err(error) = self.news.try_send(News { event }) {
            tracing::trace!(%error, "news of a room are not heard");
        }
    }
}
