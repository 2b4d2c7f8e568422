//! The thread of the sound card: moves bytes between sockets and [`PulseServer`], and samples to the
//! receiver.

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
use super::server::{Input, Output, PulseServer};
use crate::child::is_browser_peer;
use crate::clock::{self, Origin, OutputMute};

/// Most bytes read from one client before the next one is served.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Most connections accepted before clients are served.
const MAX_ACCEPTS_PER_POLL: usize = 32;
/// Pause after a failed accept, for example when the process has no file descriptor left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The sockets, and the server behind them.
#[derive(Debug)]
pub(super) struct EventLoop {
    listener: UnixListener,
    /// User id of the browser, if it is not our own.
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

/// Reason why the thread woke up.
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
        (origin, output_mute): (Origin, OutputMute),
        out: SyncSender<Samples>,
        shared: Arc<SharedStats>,
        pulse_server: PulseServer,
    ) -> Self {
        let now = clock::now();
        Self {
            listener,
            client_uid,
            stop,
            origin,
            output_mute,
            out,
            shared,
            pulse_server,
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
                    tracing::error!(%error, "polling sound clients failed");
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
            self.start_capture_if_requested();
            self.carry_out_outputs();
            self.send_all();
            // Commands that waited until something was sent may have outputs.
            self.carry_out_outputs();
            self.publish_stats();
        }
    }

    /// Waits until a socket is ready or samples are due.
    fn wait(&self) -> rustix::io::Result<Vec<PollEvent>> {
        let now = clock::now();
        let may_accept = now >= self.accept_after;
        let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN)];
        fds.push(PollFd::new(&self.listener, if may_accept { PollFlags::IN } else { PollFlags::empty() }));
        for (id, socket) in &self.sockets {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, self.pulse_server.wants_input(*id));
            interest.set(PollFlags::OUT, !self.pulse_server.pending_output(*id).is_empty());
            fds.push(PollFd::new(socket, interest));
        }
        let timeout = self.pulse_server.deadline().map(|at| {
            let left = at.since(now);
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let mut events = Vec::new();
        if !ready[0].is_empty() {
            events.push(PollEvent::Stop);
        }
        if ready[1].contains(PollFlags::IN) {
            events.push(PollEvent::Connection);
        }
        for (id, flags) in self.sockets.keys().zip(&ready[2..]) {
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
                    tracing::warn!(%error, "accepting a sound client failed");
                    self.accept_after = clock::now() + ACCEPT_RETRY_DELAY;
                    return;
                }
            }
        }
    }

    fn add_client(&mut self, socket: UnixStream) {
        if !is_browser_peer(&socket, self.client_uid) {
            tracing::warn!(reason = "not the browser's user", "sound client refused");
            return;
        }
        if let Err(error) = socket.set_nonblocking(true) {
            tracing::warn!(%error, "setting up a sound client failed");
            return;
        }
        let Some(id) = self.pulse_server.free_client_id() else {
            tracing::debug!(reason = "too many clients", "sound client refused");
            return;
        };
        self.pulse_server.handle(clock::now(), Input::Connected(id));
        self.sockets.insert(id, socket);
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
            Ok(len) => {
                let input =
                    Input::Received { client: id, bytes: &self.buffer[..len], wall: SystemTime::now() };
                self.pulse_server.handle(clock::now(), input);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::debug!(client = id, %error, "sound client disconnected");
                self.disconnect(id);
            }
        }
    }

    fn disconnect(&mut self, id: u32) {
        self.sockets.remove(&id);
        self.pulse_server.handle(clock::now(), Input::Disconnected(id));
    }

    fn start_capture_if_requested(&mut self) {
        if !self.pulse_server.is_capturing()
            && let Some(origin) = self.origin.get()
        {
            self.pulse_server.handle(clock::now(), Input::StartCapture { origin });
        }
    }

    /// Carries out what the server decides up to now.
    fn carry_out_outputs(&mut self) {
        let now = clock::now();
        while let Some(output) = self.pulse_server.poll(now) {
            match output {
                Output::Samples(samples) => self.send_samples(samples),
                Output::Disconnect { client, reason } => {
                    tracing::warn!(client, %reason, "sound client cut off");
                    self.sockets.remove(&client);
                }
            }
        }
    }

    fn send_samples(&mut self, mut samples: Samples) {
        if self.output_mute.is_muted() {
            samples.pcm = vec![0.0; samples.pcm.len()].into();
        }
        self.shared.update_peak(&samples);
        let len = samples.len() as u64;
        match self.out.try_send(samples) {
            Ok(()) => {}
            // Blocking would stall every stream of the page, which is worse than one gap.
            Err(TrySendError::Full(_)) => self.dropped_samples += len,
            // The receiver is gone; the page still needs its clock.
            Err(TrySendError::Disconnected(_)) => {}
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
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        match socket.write(self.pulse_server.pending_output(id)) {
            Ok(len) => {
                let input = Input::Sent { client: id, bytes: len, wall: SystemTime::now() };
                self.pulse_server.handle(clock::now(), input);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::debug!(client = id, %error, "sound client disconnected");
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
