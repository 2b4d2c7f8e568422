//! The display: a Wayland compositor for one browser, which sets the refresh and tracks what changed.
//!
//! Commits come in, [`Tick`]s go out. [`pacer`] decides when, `screen` and `scene` decide what; this file is
//! the thread that connects them. There is no keyboard, the pointer never enters, and the clipboard stays
//! inside the page.

mod geometry;
mod image;
mod limits;
mod pacer;
mod protocol;
mod scene;
mod screen;

use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::spec::Size;
use pagecast_core::wake::{SharedWaker, ThreadEnd};
use pagecast_core::{Fps, HostTime, Picture, Tick};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use smithay::reexports::wayland_server::Display as Wayland;

use crate::av_sync::RenderLatency;
use crate::child::is_browser_peer;
use crate::clock::{self, Origin, OutputMute};
use pacer::{Input, Pacer};
use protocol::{ClientState, State};

/// Most connections at a time: Chromium uses two. When full, further connections are closed.
const MAX_CLIENTS: usize = 8;
/// How long a snapshot may take: it is ready within a tick, unless the machine is stalled.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(2);

/// Configuration of a [`Display`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the socket to create. Its folder must exist; users with access to the folder may connect.
    pub socket: PathBuf,
    /// Size in pixels.
    pub size: Size,
    /// Refresh rate, and so the highest frame rate of the page.
    pub fps: Fps,
    /// Pixels per CSS pixel; ignored if there is a viewport.
    pub scale_factor: f64,
    /// Width and height of the page in CSS pixels; scaled to fit, and centred on the display.
    pub viewport: Option<(u32, u32)>,
    /// Moment of the first frame; the display sets it when the capture begins.
    pub origin: Origin,
    /// While muted, ticks carry no frame; the changes follow once it is unmuted.
    pub output_mute: OutputMute,
    /// Ticks from when the page begins to draw a frame to its commit.
    pub render_latency: RenderLatency,
    /// User id of the browser, if it is not our own.
    pub client_uid: Option<u32>,
}

/// Why the display cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be created.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The Wayland library cannot create a display.
    #[error("cannot set up the Wayland display: {0}")]
    Wayland(String),
    /// The thread cannot be started.
    #[error("cannot start the display thread")]
    Thread(#[source] std::io::Error),
}

/// Counters of the display since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ticks that carried a changed picture.
    pub frames: u64,
    /// Ticks whose change was delivered with a later tick, because the receiver was busy.
    pub dropped: u64,
    /// Frames that the browser committed to its window.
    pub commits: u64,
}

impl Stats {
    /// Grows with every change of the picture, whether delivered or not.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.frames + self.dropped
    }
}

/// A running display. Stops when dropped.
#[derive(Debug)]
pub struct Display {
    shared: Arc<Shared>,
    waker: SharedWaker,
    end: ThreadEnd,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

/// Live counters of the browser's commits.
#[derive(Debug)]
pub(crate) struct CommitCounters(Arc<Shared>);

impl CommitCounters {
    /// Frames committed so far.
    pub(crate) fn commits(&self) -> u64 {
        self.0.commits.load(Ordering::Relaxed)
    }

    /// Slots so far in which a drawing browser committed no frame, or more than one. It does so when it falls
    /// behind or catches up.
    pub(crate) fn irregular_slots(&self) -> u64 {
        self.0.irregular_slots.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Shared {
    /// Where to send the requested snapshot.
    snapshot_request: Mutex<Option<SyncSender<Picture>>>,
    wake: rustix::fd::OwnedFd,
    capture_requested: AtomicBool,
    stop_requested: AtomicBool,
    frames: AtomicU64,
    dropped: AtomicU64,
    commits: AtomicU64,
    irregular_slots: AtomicU64,
}

impl Display {
    /// Starts the thread `display`. Ticks go to `out` once [`Display::start_capture`] was called. When `out`
    /// is full, a tick without a change is dropped, and a change is delivered with a later tick.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(config: Config, out: SyncSender<Tick>) -> Result<Self, Error> {
        let listener = listen(&config.socket)?;
        let wayland = Wayland::<State>::new().map_err(|e| Error::Wayland(e.to_string()))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::Thread(e.into()))?;
        let shared = Arc::new(Shared {
            snapshot_request: Mutex::default(),
            wake,
            capture_requested: AtomicBool::new(false),
            stop_requested: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            irregular_slots: AtomicU64::new(0),
        });
        let (socket, client_uid) = (config.socket.clone(), config.client_uid);
        let emitter = TickEmitter::new(&config, out, Arc::clone(&shared));
        let state = State::new(&wayland.handle(), &config, emitter);
        let waker = SharedWaker::default();
        let end = ThreadEnd::new(&waker);
        let guard = end.guard();
        let thread = std::thread::Builder::new()
            .name("display".into())
            .spawn(move || {
                let _guard = guard;
                run(wayland, state, &listener, client_uid);
            })
            .map_err(Error::Thread)?;
        Ok(Self { shared, waker, end, thread: Some(thread), socket })
    }

    /// Sets who is woken when the thread has failed.
    pub fn set_waker(&self, waker: Waker) {
        self.waker.set(waker);
    }

    /// Starts the capture: the next tick is the first frame. Further calls change nothing.
    pub fn start_capture(&self) {
        self.shared.capture_requested.store(true, Ordering::Release);
        self.wake();
    }

    /// The browser's current screen, without the black border, even while muted. `None` if the display thread
    /// is stalled or gone.
    #[must_use]
    pub fn snapshot(&self) -> Option<Picture> {
        if self.has_failed() {
            return None;
        }
        let (request, snapshot) = sync_channel(1);
        *self.shared.snapshot_request.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
        self.wake();
        snapshot.recv_timeout(SNAPSHOT_TIMEOUT).ok()
    }

    /// Counters that other threads can read while the display runs.
    pub(crate) fn commit_counters(&self) -> CommitCounters {
        CommitCounters(Arc::clone(&self.shared))
    }

    /// Current counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            frames: self.shared.frames.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            commits: self.shared.commits.load(Ordering::Relaxed),
        }
    }

    /// Whether the thread has ended unexpectedly, which is a bug.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.end.has_ended()
    }

    fn wake(&self) {
        // Fails only if the thread has not read the counter for 2^64 calls.
        let _woken = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.shared.stop_requested.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("display thread panicked");
        }
        // Fails if the folder was removed.
        let _removed = std::fs::remove_file(&self.socket);
    }
}

fn listen(path: &Path) -> Result<UnixListener, Error> {
    let fail = |source| Error::Listen { path: path.to_owned(), source };
    let listener = UnixListener::bind(path).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

/// Sends one tick per slot.
#[derive(Debug)]
pub(crate) struct TickEmitter {
    pub(crate) pacer: Pacer,
    fps: Fps,
    origin: Origin,
    output_mute: OutputMute,
    render_latency: RenderLatency,
    out: SyncSender<Tick>,
    shared: Arc<Shared>,
}

impl TickEmitter {
    fn new(config: &Config, out: SyncSender<Tick>, shared: Arc<Shared>) -> Self {
        let pacer = Pacer::new(config.fps, clock::now());
        Self {
            pacer,
            fps: config.fps,
            origin: config.origin.clone(),
            output_mute: config.output_mute.clone(),
            render_latency: config.render_latency.clone(),
            out,
            shared,
        }
    }

    /// Position in the tick grid, for answers to clients at `now`.
    pub(crate) fn timing(&self, now: HostTime) -> screen::Timing {
        screen::Timing {
            now,
            slot: self.pacer.slot(),
            tick: self.pacer.slot_start(),
            interval: self.fps.interval(),
        }
    }

    /// Sends ticks, the last one with the current screen.
    fn emit_all(&self, due: Range<i64>, scene: &mut scene::Scene) {
        for index in due.clone() {
            if index == 0 {
                scene.mark_all_dirty();
            }
            if index == 0 || index + 1 == due.end {
                self.emit(index, scene);
            } else {
                // Dropped if the receiver is busy, as nothing changed.
                let _full = self.out.try_send(Tick { index, pts: self.fps.time_of(index), frame: None });
            }
        }
    }

    /// Sends tick `index`, with the screen if it changed.
    fn emit(&self, index: i64, scene: &mut scene::Scene) {
        // Every cast needs a first frame, so that one is sent even while muted.
        let muted = self.output_mute.is_muted() && index > 0;
        let frame = if scene.is_dirty() && !muted { scene.render_frame() } else { None };
        let changed = frame.is_some();
        if scene.is_dirty() && !muted {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        match self.out.try_send(Tick { index, pts: self.fps.time_of(index), frame }) {
            Ok(()) => {
                self.shared.frames.fetch_add(u64::from(changed), Ordering::Relaxed);
            }
            Err(TrySendError::Full(tick)) => {
                if let Some(frame) = &tick.frame {
                    scene.restore_damage(frame);
                    self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            // The receiver is gone: the cast is ending.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Hands in the render latency that was measured last.
    fn update_latency(&mut self, now: HostTime) {
        self.pacer.handle(now, Input::RenderLatency(self.render_latency.ticks()));
    }

    /// Returns whether the capture was requested and has not started.
    fn must_start_capture(&self) -> bool {
        self.shared.capture_requested.load(Ordering::Acquire) && !self.pacer.is_capturing()
    }
}

fn run(mut wayland: Wayland<State>, mut state: State, listener: &UnixListener, client_uid: Option<u32>) {
    let alive = Arc::new(());
    let shared = Arc::clone(&state.emitter.shared);
    let mut counted = state.emitter.pacer.slot();
    let (mut committed, mut was_drawing) = (0, false);
    while !shared.stop_requested.load(Ordering::Acquire) {
        state.advance(clock::now());
        state.start_capture_if_requested();
        // The Wayland library panics at malformed requests, for example invalid strings. It holds no lock
        // then.
        match catch_unwind(AssertUnwindSafe(|| wayland.dispatch_clients(&mut state))) {
            Ok(Ok(_)) => {}
            Ok(Err(reason)) => tracing::debug!(%reason, "dispatching display clients failed"),
            // The connections close with the next dispatch.
            Err(_) => limits::disconnect_all(&wayland.handle()),
        }
        state.emit_if_committed();
        let request = shared.snapshot_request.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(request) = request {
            // Fails if the request has timed out.
            let _timed_out = request.try_send(state.screen.scene.snapshot());
        }
        let slot = state.emitter.pacer.slot();
        if slot != counted {
            let slots = u64::try_from(slot - counted).unwrap_or(1);
            let pictures = state.commits - committed;
            if was_drawing && pictures != slots {
                shared.irregular_slots.fetch_add(1, Ordering::Relaxed);
            }
            (counted, committed, was_drawing) = (slot, state.commits, pictures > 0);
            limits::check_object_counts(&wayland.handle());
        }
        shared.commits.store(state.commits, Ordering::Relaxed);
        if let Err(reason) = wayland.flush_clients() {
            tracing::debug!(%reason, "flushing display clients failed");
        }
        wait(&mut wayland, &state, listener, &shared);
        while let Ok((stream, _)) = listener.accept() {
            if is_browser_peer(&stream, client_uid) {
                accept(&wayland, stream, &alive);
            } else {
                tracing::warn!(reason = "not the browser's user", "display client refused");
            }
        }
    }
}

/// Sleeps until a client sends something, a command arrives, or the next tick is due.
fn wait(wayland: &mut Wayland<State>, state: &State, listener: &UnixListener, shared: &Shared) {
    let timeout = state.deadline().map(|at| {
        let left = at.since(clock::now());
        Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        }
    });
    let backend = wayland.backend();
    let mut fds = [
        PollFd::from_borrowed_fd(backend.poll_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(shared.wake.as_fd(), PollFlags::IN),
    ];
    // Fails if interrupted by a signal: the loop then checks everything anyway.
    let _ready = poll(&mut fds, timeout.as_ref());
    if fds[2].revents().contains(PollFlags::IN) {
        let _count = rustix::io::read(&shared.wake, &mut [0_u8; 8]);
    }
}

fn accept(wayland: &Wayland<State>, stream: UnixStream, alive: &Arc<()>) {
    if Arc::strong_count(alive) > MAX_CLIENTS {
        tracing::warn!(reason = "too many clients", limit = MAX_CLIENTS, "display client refused");
        return;
    }
    if let Err(reason) = wayland.handle().insert_client(stream, Arc::new(ClientState::new(alive))) {
        tracing::debug!(%reason, "display client not accepted");
    }
}
