//! The browser's sound card: a server for PulseAudio's protocol that runs on the cast's clock and emits
//! [`Samples`].
//!
//! ```text
//! socket ─▶ client ─▶ command ─▶ stream (queue ─▶ format ─▶ remix ─▶ resample) ─▶ mix ─▶ Samples
//! ```
//!
//! [`server::PulseServer`] is everything but the sockets, and reads no clock. Samples are contiguous from the
//! cast's first frame on, silence included. A sample that is taken from a stream at a moment is heard at that
//! moment.
//!
//! Deliberately absent: recording (a page gets no microphone), shared memory, more than one sink.

mod buffer_attr;
mod client;
mod command;
mod event_loop;
mod format;
mod introspect;
mod mix;
mod queue;
mod remix;
mod resample;
#[doc(hidden)]
pub mod server;
mod stream;
mod stream_config;
mod wire;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::task::Waker;
use std::thread::JoinHandle;

use pagecast_core::Samples;
use pagecast_core::wake::{SharedWaker, ThreadEnd};
use thiserror::Error;

use crate::av_sync::MediaElementDelay;
use crate::clock::{self, Origin, OutputMute};
use event_loop::EventLoop;
use server::PulseServer;

/// Configuration of a [`SoundCard`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the socket to create. Its folder must exist; users with access to the folder may connect.
    pub socket: PathBuf,
    /// The moment at which sample 0 is heard.
    pub origin: Origin,
    /// While muted, the samples are silent.
    pub output_mute: OutputMute,
    /// Extra latency that media elements are told, so that their video matches their sound.
    pub media_element_delay: MediaElementDelay,
    /// User id of the browser, if it is not our own.
    pub client_uid: Option<u32>,
}

/// Counters and levels of the sound card.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Number of open streams.
    pub streams_open: u32,
    /// Number of streams that play.
    pub streams_playing: u32,
    /// Number of underruns of all streams, since the start.
    pub underruns: u64,
    /// Samples that were lost because the receiver or this process was too slow, since the start.
    pub dropped_samples: u64,
    /// Peak level left and right since the last call; 1.0 is full scale.
    pub peak: [f32; 2],
}

/// Why the sound card cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be created.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the sound thread")]
    Start(#[source] io::Error),
}

/// A running sound card. Stops when dropped.
#[derive(Debug)]
pub struct SoundCard {
    shared: Arc<SharedStats>,
    stop: Arc<rustix::fd::OwnedFd>,
    waker: SharedWaker,
    end: ThreadEnd,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

/// Starts the sound card on the thread `sound`. It never blocks on `out`: samples that do not fit are dropped
/// and counted, and later ones carry their true index.
///
/// # Errors
/// The socket or the thread cannot be created.
pub fn start(config: Config, out: SyncSender<Samples>) -> Result<SoundCard, Error> {
    let Config { socket, origin, output_mute, media_element_delay, client_uid } = config;
    let listener = listen(&socket).map_err(|source| Error::Listen { path: socket.clone(), source })?;
    let shared = Arc::new(SharedStats::default());
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let stop = Arc::new(rustix::event::eventfd(0, flags).map_err(|e| Error::Start(e.into()))?);
    let server = EventLoop::new(
        (listener, client_uid),
        Arc::clone(&stop),
        (origin, output_mute),
        out,
        Arc::clone(&shared),
        PulseServer::new(clock::now(), media_element_delay),
    );
    let waker = SharedWaker::default();
    let end = ThreadEnd::new(&waker);
    let guard = end.guard();
    let run = move || {
        let _guard = guard;
        server.run();
    };
    let thread = std::thread::Builder::new().name("sound".into()).spawn(run).map_err(Error::Start)?;
    Ok(SoundCard { shared, stop, waker, end, thread: Some(thread), socket })
}

impl SoundCard {
    /// Current counters and levels. Resets the peak.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        Stats {
            streams_open: shared.streams_open.load(Ordering::Relaxed),
            streams_playing: shared.streams_playing.load(Ordering::Relaxed),
            underruns: shared.underruns.load(Ordering::Relaxed),
            dropped_samples: shared.dropped_samples.load(Ordering::Relaxed),
            peak: shared.peak.each_ref().map(|p| f32::from_bits(p.swap(0, Ordering::Relaxed))),
        }
    }

    /// Whether the thread has ended unexpectedly, which is a bug.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.end.has_ended()
    }

    /// Sets who is woken when the thread has failed.
    pub fn set_waker(&self, waker: Waker) {
        self.waker.set(waker);
    }

    /// Path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops the sound card and removes its socket.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for SoundCard {
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "stopping the sound thread failed");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("sound thread panicked");
        }
        if let Err(error) = std::fs::remove_file(&self.socket)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(socket = %self.socket.display(), %error, "removing the sound socket failed");
        }
    }
}

/// Counters that the sound thread publishes.
#[derive(Debug, Default)]
struct SharedStats {
    streams_open: AtomicU32,
    streams_playing: AtomicU32,
    underruns: AtomicU64,
    dropped_samples: AtomicU64,
    /// Peak levels as bits of floats; the bits of positive floats are ordered like the floats.
    peak: [AtomicU32; 2],
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
