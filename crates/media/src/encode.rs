//! Ticks and samples become packets.
//!
//! [`plan`] decides which ticks are worth encoding, [`video`] and [`audio`] are one named thread each.

pub mod audio;
mod plan;
pub mod video;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pagecast_core::MediaTime;

pub use plan::{Choice, Plan};

/// Why nothing can be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libavcodec was built without it.
    #[error("this machine's libavcodec has no {0} encoder")]
    Missing(&'static str),
    /// The encoder does not take these settings.
    #[error("cannot open the {0} encoder")]
    Open(&'static str, #[source] ffmpeg_the_third::Error),
    /// The encoder failed.
    #[error("the {0} encoder failed")]
    Encode(&'static str, #[source] ffmpeg_the_third::Error),
    /// The thread cannot be started.
    #[error("cannot start the thread {0}")]
    Thread(&'static str, #[source] std::io::Error),
}

/// When the cast ends: known from the start, or decided while it runs. Both encoders end exactly there.
#[derive(Debug, Clone)]
pub struct End(Arc<AtomicI64>);

impl End {
    /// `None` until [`End::at`] says otherwise.
    #[must_use]
    pub fn new(at: Option<MediaTime>) -> Self {
        Self(Arc::new(AtomicI64::new(at.map_or(i64::MAX, |t| t.0))))
    }

    /// Ends there, or earlier if an earlier end was decided before.
    pub fn at(&self, t: MediaTime) {
        self.0.fetch_min(t.0, Ordering::AcqRel);
    }

    /// The end as decided so far.
    #[must_use]
    pub fn get(&self) -> MediaTime {
        MediaTime(self.0.load(Ordering::Acquire))
    }
}

/// Whether an encoder has no packet for now: it waits for a frame, or has ended.
fn wants_more(error: ffmpeg_the_third::Error) -> bool {
    use ffmpeg_the_third::Error::{Eof, Other};
    matches!(error, Eof)
        || matches!(error, Other { errno } if errno == rustix::io::Errno::AGAIN.raw_os_error())
}
