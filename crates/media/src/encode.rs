//! Ticks and samples become packets.
//!
//! [`planner`] decides which ticks are worth encoding, [`video`] and [`audio`] are one named thread for each encoder; where there are
//! several, [`split`] hands each of them everything.

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

/// Why nothing can be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libavcodec was built without it.
    #[error("this machine's libavcodec has no {0} encoder")]
    EncoderNotFound(&'static str),
    /// The encoder does not take these settings.
    #[error("cannot open the {0} encoder")]
    Open(&'static str, #[source] ff::Error),
    /// The encoder failed.
    #[error("the {0} encoder failed")]
    Encode(&'static str, #[source] ff::Error),
    /// The thread cannot be started.
    #[error("cannot start the thread {0}")]
    Thread(&'static str, #[source] std::io::Error),
}

/// What is encoded, for those who pack it.
#[derive(Clone)]
pub struct Tracks {
    /// H.264 and its ticks per second, if there is a picture.
    pub video: Option<(Parameters, Fps)>,
    /// AAC.
    pub audio: Parameters,
}

impl std::fmt::Debug for Tracks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let video = self.video.as_ref().map(|(parameters, fps)| (parameters.id(), *fps));
        write!(f, "Tracks({video:?}, {:?})", self.audio.id())
    }
}

/// When the cast ends: known from the start, or decided while it runs. Both encoders end exactly there.
#[derive(Debug, Clone)]
pub struct EndTime(Arc<AtomicI64>);

impl EndTime {
    /// `None` until [`EndTime::set`] says otherwise.
    #[must_use]
    pub fn new(at: Option<MediaTime>) -> Self {
        Self(Arc::new(AtomicI64::new(at.map_or(i64::MAX, |t| t.0))))
    }

    /// Ends there, or earlier if an earlier end was decided before.
    pub fn set(&self, t: MediaTime) {
        self.0.fetch_min(t.0, Ordering::AcqRel);
    }

    /// The end as decided so far.
    #[must_use]
    pub fn get(&self) -> MediaTime {
        MediaTime(self.0.load(Ordering::Acquire))
    }
}

/// Asks the video encoder for a keyframe, for a sink that begins anew.
#[derive(Debug, Clone, Default)]
pub struct KeyframeRequest(Arc<AtomicBool>);

impl KeyframeRequest {
    /// The next tick is a keyframe, or the first that is far enough from the last one.
    pub fn request(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether one was asked for since the last call.
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// Runs an encoder on a thread of this name.
fn spawn_thread(
    name: &'static str,
    run: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|e| Error::Thread(name, e))
}

/// The next packet that an encoder has ready.
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

/// Whether an encoder has no packet for now: it waits for a frame, or has ended.
fn is_again_or_eof(error: ff::Error) -> bool {
    use ff::Error::{Eof, Other};
    matches!(error, Eof)
        || matches!(error, Other { errno } if errno == rustix::io::Errno::AGAIN.raw_os_error())
}
