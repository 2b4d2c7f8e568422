//! Encodes ticks and samples to packets.
//!
//! [`planner`] decides which ticks are encoded. [`video`] and [`audio`] run each encoder on a named thread of
//! its own; [`tee`] copies the input to several encoders.

pub mod audio;
mod packet_sender;
mod planner;
mod rate;
pub mod tee;
pub mod video;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;

use ff::codec::Parameters;
use ffmpeg_the_third as ff;
use pagecast_core::{Fps, MediaTime};

pub use packet_sender::{PacketSender, SendOutcome};
pub use planner::{FrameCost, FrameDecision, FramePlanner, GopPolicy};
pub use rate::RateTarget;

/// Errors of the encoders.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libavcodec was built without this encoder.
    #[error("this machine's libavcodec has no {0} encoder")]
    EncoderNotFound(&'static str),
    /// The encoder rejected the settings.
    #[error("cannot open the {0} encoder")]
    Open(&'static str, #[source] ff::Error),
    /// The encoder failed.
    #[error("the {0} encoder failed")]
    Encode(&'static str, #[source] ff::Error),
    /// The encoder's thread cannot be started.
    #[error("cannot start the thread {0}")]
    Thread(&'static str, #[source] std::io::Error),
}

/// Codec parameters of the encoded tracks, for muxers.
#[derive(Clone)]
pub struct Tracks {
    /// H.264 parameters and ticks per second; `None` without a picture.
    pub video: Option<(Parameters, Fps)>,
    /// AAC parameters.
    pub audio: Parameters,
}

impl std::fmt::Debug for Tracks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let video = self.video.as_ref().map(|(parameters, fps)| (parameters.id(), *fps));
        write!(f, "Tracks({video:?}, {:?})", self.audio.id())
    }
}

/// Media time at which the cast ends, known from the start or set later. Both encoders end exactly there.
#[derive(Debug, Clone)]
pub struct EndTime(Arc<AtomicI64>);

impl EndTime {
    /// An end at `at`, or no end until [`EndTime::set`] is called.
    #[must_use]
    pub fn new(at: Option<MediaTime>) -> Self {
        Self(Arc::new(AtomicI64::new(at.map_or(i64::MAX, |t| t.0))))
    }

    /// Sets the end to `t`, unless an earlier end is set already.
    pub fn set(&self, t: MediaTime) {
        self.0.fetch_min(t.0, Ordering::AcqRel);
    }

    /// The end that is set now; [`i64::MAX`] if none is.
    #[must_use]
    pub fn get(&self) -> MediaTime {
        MediaTime(self.0.load(Ordering::Acquire))
    }
}

/// Requests a keyframe from the video encoder, for a sink that starts or reconnects.
#[derive(Debug, Clone, Default)]
pub struct KeyframeRequest(Arc<AtomicBool>);

impl KeyframeRequest {
    /// Makes the next tick a keyframe, or the first one after the least interval between requested keyframes.
    pub fn request(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether a keyframe was requested since the last call.
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// Runs an encoder on a thread called `name`.
fn spawn_thread(
    name: &'static str,
    run: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|e| Error::Thread(name, e))
}

/// The next finished packet of an encoder; `None` if there is none yet.
fn receive_packet(
    encoder: &mut ff::encoder::Encoder,
    name: &'static str,
) -> Result<Option<ff::Packet>, Error> {
    let mut packet = ff::Packet::empty();
    match encoder.receive_packet(&mut packet) {
        Ok(()) => Ok(Some(packet)),
        Err(e) if is_again_or_eof(e) => Ok(None),
        Err(e) => Err(Error::Encode(name, e)),
    }
}

/// Whether an encoder has no packet now: it needs another frame, or has ended.
fn is_again_or_eof(error: ff::Error) -> bool {
    use ff::Error::{Eof, Other};
    matches!(error, Eof)
        || matches!(error, Other { errno } if errno == rustix::io::Errno::AGAIN.raw_os_error())
}
