//! Takes a JPEG of the cast at a regular interval, on the thread `thumbnails`.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ff::frame;
use ffmpeg_the_third as ff;
use pagecast_core::{Fps, MediaTime};

use crate::convert::Matrix;
use crate::jpeg;

/// Pictures waiting to be encoded. Full: the picture is skipped, as the machine is too busy.
const MAX_QUEUED_PICTURES: usize = 2;
/// JPEGs waiting to be written. Full: the thread waits, and further pictures are skipped.
const MAX_QUEUED_JPEGS: usize = 8;

/// An encoded thumbnail.
#[derive(Debug, Clone)]
pub struct Jpeg {
    /// Media time of the picture.
    pub at: MediaTime,
    /// Contents of the JPEG file.
    pub data: Vec<u8>,
}

/// Copies the encoder's picture whenever a thumbnail is due.
#[derive(Debug)]
pub struct ThumbnailCapture {
    fps: Fps,
    interval: Duration,
    /// Tick of the next thumbnail.
    next_index: i64,
    count: i64,
    pictures: SyncSender<(MediaTime, frame::Video, Matrix)>,
}

impl ThumbnailCapture {
    /// Starts the thread. The first thumbnail is taken at once, further ones after each `interval`. The
    /// thread ends when the returned value is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(interval: Duration, fps: Fps) -> std::io::Result<(Self, Receiver<Jpeg>, JoinHandle<()>)> {
        let (pictures, queue) = sync_channel::<(MediaTime, frame::Video, Matrix)>(MAX_QUEUED_PICTURES);
        let (output, jpegs) = sync_channel(MAX_QUEUED_JPEGS);
        let run = move || {
            for (at, picture, matrix) in queue {
                match jpeg::encode_video_frame(&picture, matrix) {
                    // An error means that the receiver is gone.
                    Ok(data) => {
                        if output.send(Jpeg { at, data }).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "thumbnail encoding failed, skipped"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("thumbnails".into()).spawn(run)?;
        Ok((Self { fps, interval, next_index: 0, count: 0, pictures }, jpegs, thread))
    }

    /// Takes a thumbnail of tick `index` if one is due. `matrix` is the colour matrix of `picture`.
    pub(crate) fn offer(&mut self, index: i64, picture: &frame::Video, matrix: Matrix) {
        if index < self.next_index {
            return;
        }
        let at = self.fps.time_of(index);
        // The encoder keeps writing to the original.
        if self.pictures.try_send((at, picture.clone(), matrix)).is_err() {
            tracing::debug!(%at, "thumbnail queue full, thumbnail skipped");
        }
        while self.next_index <= index {
            self.count += 1;
            let nanos = i64::try_from(self.interval.as_nanos()).unwrap_or(i64::MAX);
            self.next_index = self.fps.index_at(MediaTime(nanos.saturating_mul(self.count)));
        }
    }
}
