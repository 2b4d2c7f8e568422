//! The thread of the sound card: carries bytes between sockets and [`PulseServer`], and samples to whoever records
//! them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, SystemTime};

use pagecast_core::{HostTime, Samples};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;

use super::SharedStats;
use super::server::{PulseServer, Timestamp};
use crate::child::is_browser_peer;
use crate::clock::{self, Origin, OutputMute};

/// Bytes taken from one client before the others have their turn.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Connections taken before anything else has its turn.
const MAX_ACCEPTS_PER_POLL: usize = 32;
/// Pause after a connection could not be taken, because descriptors are short for instance.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The sockets, and the sound card behind them.
#[derive(Debug)]
pub(super) struct EventLoop {
    listener: UnixListener,
    /// The user that clients run as, if it is not ours.
    client_uid: Option<u32>,
    stop: Arc<OwnedFd>,
    origin: Origin,
    output_mute: OutputMute,
    out: SyncSender<Samples>,
    shared: Arc<SharedStats>,
    pulse_server: PulseServer,
    sockets: BTreeMap<u32, UnixStream>,
    accept_after: HostTime,
    buffer: Vec<u8>,
    dropped_samples: u64,
}

/// What woke the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PollEvent {
    Stop,
    Connection,
    Client { id: u32, readable: bool, writable: bool },
}

impl EventLoop {
    pub(super) fn new(
        (listener, client_uid): (UnixListener, Option<u32>),
        stop: Arc<OwnedFd>,
        (origin, gate): (Origin, OutputMute),
        out: SyncSender<Samples>,
        shared: Arc<SharedStats>,
        core: PulseServer,
    ) -> Self {
        let now = clock::now();
        Self {
            listener,
            client_uid,
            stop,
            origin,
            output_mute: gate,
            out,
            shared,
            pulse_server: core,
            sockets: BTreeMap::new(),
            accept_after: now,
            buffer: vec![0; READ_BUFFER_BYTES],
            dropped_samples: 0,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let events = match self.wait() {
                Ok(events) => events,
                Err(error) => {
                    tracing::error!(%error, "the sound card cannot wait for its clients");
                    return;
                }
            };
            for event in events {
                match event {
                    PollEvent::Stop => return,
                    PollEvent::Connection => self.accept(),
                    PollEvent::Client { id, readable, writable } => {
                        self.handle_client(id, readable, writable);
                    }
                }
            }
            self.advance();
            self.send_all();
            self.publish_stats();
        }
    }

    /// Sleeps until something happens or samples are due.
    fn wait(&self) -> rustix::io::Result<Vec<PollEvent>> {
        let now = clock::now();
        let accepts = now >= self.accept_after;
        let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN)];
        fds.push(PollFd::new(&self.listener, if accepts { PollFlags::IN } else { PollFlags::empty() }));
        for (id, socket) in &self.sockets {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, self.pulse_server.wants_input(*id));
            interest.set(PollFlags::OUT, !self.pulse_server.pending_output(*id).is_empty());
            fds.push(PollFd::new(socket, interest));
        }
        let sleep = self.pulse_server.deadline().since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(sleep.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(sleep.subsec_nanos()),
        };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let happened: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let mut events = Vec::new();
        if !happened[0].is_empty() {
            events.push(PollEvent::Stop);
        }
        if happened[1].contains(PollFlags::IN) {
            events.push(PollEvent::Connection);
        }
        for (id, flags) in self.sockets.keys().zip(&happened[2..]) {
            let readable = flags.intersects(PollFlags::IN | gone);
            let writable = flags.contains(PollFlags::OUT);
            if readable || writable {
                events.push(PollEvent::Client { id: *id, readable, writable });
            }
        }
        Ok(events)
    }

    fn accept(&mut self) {
        for _ in 0..MAX_ACCEPTS_PER_POLL {
            match self.listener.accept() {
                Ok((socket, _)) => self.add_client(socket),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection to the sound card could not be taken");
                    self.accept_after = clock::now() + ACCEPT_RETRY_DELAY;
                    return;
                }
            }
        }
    }

    fn add_client(&mut self, socket: UnixStream) {
        if !is_browser_peer(&socket, self.client_uid) {
            tracing::warn!(
                "a connection to the sound card was refused: it runs as another user than the browser"
            );
            return;
        }
        if let Err(error) = socket.set_nonblocking(true) {
            tracing::warn!(%error, "a connection to the sound card could not be used");
            return;
        }
        match self.pulse_server.connect() {
            Some(id) => drop(self.sockets.insert(id, socket)),
            None => tracing::debug!("a connection to the sound card was refused: there are too many"),
        }
    }

    fn handle_client(&mut self, id: u32, readable: bool, writable: bool) {
        if writable {
            self.send(id);
        }
        if !readable {
            return;
        }
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        match socket.read(&mut self.buffer) {
            Ok(0) => self.disconnect(id),
            Ok(len) => self.receive(id, len),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::debug!(client = id, %error, "a client of the sound card is gone");
                self.disconnect(id);
            }
        }
    }

    fn receive(&mut self, id: u32, len: usize) {
        let now = Timestamp { monotonic: clock::now(), wall: SystemTime::now() };
        if let Err(violation) = self.pulse_server.receive(id, &self.buffer[..len], now) {
            tracing::warn!(client = id, reason = %violation, "a client of the sound card was cut off");
            self.disconnect(id);
        }
    }

    fn disconnect(&mut self, id: u32) {
        self.sockets.remove(&id);
        self.pulse_server.disconnect(id, clock::now());
    }

    /// Brings the sound card up to now and passes on what there is to hear.
    fn advance(&mut self) {
        let now = clock::now();
        if !self.pulse_server.is_capturing()
            && let Some(origin) = self.origin.get()
        {
            self.pulse_server.start_capture(origin, now);
        }
        self.pulse_server.advance(now);
        for mut samples in self.pulse_server.drain_samples() {
            if self.output_mute.is_muted() {
                samples.pcm = vec![0.0; samples.pcm.len()].into();
            }
            self.shared.update_peak(&samples);
            let len = samples.len() as u64;
            match self.out.try_send(samples) {
                Ok(()) => {}
                // Waiting would stop every stream of the page; a gap is only heard once.
                Err(TrySendError::Full(_)) => self.dropped_samples += len,
                // Nobody records any more; the page still needs its clock.
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }

    fn send_all(&mut self) {
        let waiting: Vec<u32> = self
            .sockets
            .keys()
            .copied()
            .filter(|id| !self.pulse_server.pending_output(*id).is_empty())
            .collect();
        waiting.into_iter().for_each(|id| self.send(id));
    }

    fn send(&mut self, id: u32) {
        if self.pulse_server.has_overflowed(id) {
            tracing::warn!(client = id, "a client of the sound card was cut off: it does not read");
            self.disconnect(id);
            return;
        }
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        match socket.write(self.pulse_server.pending_output(id)) {
            Ok(len) => {
                self.pulse_server.consume_output(id, len);
                // What the client said before it was made to wait.
                self.receive(id, 0);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::debug!(client = id, %error, "a client of the sound card is gone");
                self.disconnect(id);
            }
        }
    }

    fn publish_stats(&self) {
        let counts = self.pulse_server.stats();
        self.shared.streams_open.store(counts.streams_open, Ordering::Relaxed);
        self.shared.streams_playing.store(counts.streams_playing, Ordering::Relaxed);
        self.shared.underruns.store(counts.underruns, Ordering::Relaxed);
        self.shared.dropped_samples.store(self.dropped_samples + counts.skipped_samples, Ordering::Relaxed);
    }
}

impl SharedStats {
    fn update_peak(&self, samples: &Samples) {
        let mut peak = [0.0_f32; 2];
        for [left, right] in samples.pcm.as_chunks().0 {
            peak = [peak[0].max(left.abs()), peak[1].max(right.abs())];
        }
        for (shared, peak) in self.peak.iter().zip(peak) {
            shared.fetch_max(peak.to_bits(), Ordering::Relaxed);
        }
    }
}
