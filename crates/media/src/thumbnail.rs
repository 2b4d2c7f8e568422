//! Pictures of a cast now and then, as JPEG, on the thread `thumbnails`.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ff::frame;
use ffmpeg_the_third as ff;
use pagecast_core::{Fps, MediaTime};

use crate::convert::Matrix;
use crate::jpeg;

/// Pictures that wait to be encoded. Full: one is left out, as the machine is too busy.
const MAX_QUEUED_PICTURES: usize = 2;
/// Encoded pictures that wait to be written. Full: the next ones wait.
const MAX_QUEUED_JPEGS: usize = 8;

/// A picture.
#[derive(Debug, Clone)]
pub struct Jpeg {
    /// When it was on.
    pub at: MediaTime,
    /// The file.
    pub data: Vec<u8>,
}

/// Takes pictures when they are due.
#[derive(Debug)]
pub struct ThumbnailCapture {
    fps: Fps,
    interval: Duration,
    /// The tick of the next one.
    next_index: i64,
    count: i64,
    pictures: SyncSender<(MediaTime, frame::Video, Matrix)>,
}

impl ThumbnailCapture {
    /// Starts the thread: a picture every so often, the first one at once. It ends with this.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(every: Duration, fps: Fps) -> std::io::Result<(Self, Receiver<Jpeg>, JoinHandle<()>)> {
        let (pictures, todo) = sync_channel::<(MediaTime, frame::Video, Matrix)>(MAX_QUEUED_PICTURES);
        let (done, jpegs) = sync_channel(MAX_QUEUED_JPEGS);
        let run = move || {
            for (at, picture, matrix) in todo {
                match jpeg::encode_video_frame(&picture, matrix) {
                    // Nobody wants any more.
                    Ok(data) => {
                        if done.send(Jpeg { at, data }).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "a thumbnail is left out"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("thumbnails".into()).spawn(run)?;
        Ok((Self { fps, interval: every, next_index: 0, count: 0, pictures }, jpegs, thread))
    }

    /// Looks at the picture that is on at tick `index`, whose colours are coded by `matrix`.
    pub(crate) fn offer(&mut self, index: i64, picture: &frame::Video, matrix: Matrix) {
        if index < self.next_index {
            return;
        }
        let at = self.fps.time_of(index);
        // A copy: the encoder goes on with its own.
        if self.pictures.try_send((at, picture.clone(), matrix)).is_err() {
            tracing::debug!(%at, "a thumbnail is left out");
        }
        while self.next_index <= index {
            self.count += 1;
            let nanos = i64::try_from(self.interval.as_nanos()).unwrap_or(i64::MAX);
            self.next_index = self.fps.index_at(MediaTime(nanos.saturating_mul(self.count)));
        }
    }
}
