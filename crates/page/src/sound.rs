//! The browser's sound card: a server that speaks PulseAudio's protocol, counts on the cast's clock and hands
//! out [`Samples`].
//!
//! ```text
//! socket ─▶ client ─▶ command ─▶ stream (queue ─▶ format ─▶ remix ─▶ resample) ─▶ mix ─▶ Samples
//! ```
//!
//! [`server::PulseServer`] is all of it but the socket, and never looks at a clock. Samples are contiguous from the
//! cast's first frame on, silence included; what a stream is asked to give up at a moment is what is heard at
//! that moment.
//!
//! Deliberately absent: recording (a page never gets a microphone), shared memory, more than one sink.

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
use std::thread::JoinHandle;

use pagecast_core::Samples;
use thiserror::Error;

use crate::av_sync::MediaElementDelay;
use crate::clock::{self, Origin, OutputMute};
use event_loop::EventLoop;
use server::PulseServer;

/// Where the sound card listens, and when the cast begins.
#[derive(Debug, Clone)]
pub struct Config {
    /// The socket; it must not exist, its folder must, and who may enter that folder may play.
    pub socket: PathBuf,
    /// The moment at which sample 0 is heard.
    pub origin: Origin,
    /// Shut: what streams play is not heard.
    pub output_mute: OutputMute,
    /// How much later than it is a media element is told that it will be heard, so that its pictures match.
    pub media_element_delay: MediaElementDelay,
    /// The user that clients run as, if it is not ours.
    pub client_uid: Option<u32>,
}

/// What the sound card has to say about itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Streams that exist.
    pub streams_open: u32,
    /// Streams that are heard.
    pub streams_playing: u32,
    /// Times a stream had nothing to play, since the start.
    pub underruns: u64,
    /// Samples that the receiver was too slow to take or that were never mixed, since the start.
    pub dropped_samples: u64,
    /// Highest level left and right since the last call, 1.0 being full scale.
    pub peak: [f32; 2],
}

/// Why there is no sound card.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket could not be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its thread could not be started.
    #[error("cannot start the sound thread")]
    Start(#[source] io::Error),
}

/// The running sound card. Dropping it stops it.
#[derive(Debug)]
pub struct SoundCard {
    shared: Arc<SharedStats>,
    stop: Arc<rustix::fd::OwnedFd>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

/// Starts the sound card. `out` is never waited for: samples that do not fit are dropped and counted, and the
/// next ones that do carry their true index.
///
/// # Errors
/// The socket or the thread could not be made.
pub fn start(config: Config, out: SyncSender<Samples>) -> Result<SoundCard, Error> {
    let Config { socket, origin, output_mute: gate, media_element_delay: player_delay, client_uid } = config;
    let listener = listen(&socket).map_err(|source| Error::Listen { path: socket.clone(), source })?;
    let shared = Arc::new(SharedStats::default());
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let stop = Arc::new(rustix::event::eventfd(0, flags).map_err(|e| Error::Start(e.into()))?);
    let server = EventLoop::new(
        (listener, client_uid),
        Arc::clone(&stop),
        (origin, gate),
        out,
        Arc::clone(&shared),
        PulseServer::new(clock::now(), player_delay),
    );
    let thread =
        std::thread::Builder::new().name("sound".into()).spawn(|| server.run()).map_err(Error::Start)?;
    Ok(SoundCard { shared, stop, thread: Some(thread), socket })
}

impl SoundCard {
    /// The state of things now.
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

    /// Whether the thread has ended without being asked to: a bug of ours.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// The socket that clients connect to.
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
            tracing::error!(%error, "the sound thread could not be told to stop");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the sound thread panicked");
        }
        if let Err(error) = std::fs::remove_file(&self.socket)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(socket = %self.socket.display(), %error, "the sound socket could not be removed");
        }
    }
}

/// What the sound thread tells the others.
#[derive(Debug, Default)]
struct SharedStats {
    streams_open: AtomicU32,
    streams_playing: AtomicU32,
    underruns: AtomicU64,
    dropped_samples: AtomicU64,
    /// Bits of the floats; those of positive floats are ordered like the floats.
    peak: [AtomicU32; 2],
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
