//! Pictures of a cast now and then, as JPEG, on the thread `thumbnails`.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ff::codec::Context;
use ff::format::Pixel;
use ff::frame;
use ffmpeg_the_third as ff;
use pagecast_core::{Fps, MediaTime};

/// Pictures that wait to be encoded. Full: one is left out, as the machine is too busy.
const PICTURES: usize = 2;
/// Encoded pictures that wait to be written. Full: the next ones wait.
const JPEGS: usize = 8;
/// Quality of a JPEG, as libav counts it: 1 best, 31 worst.
const QUALITY: i32 = 3;
/// libav's unit of quality.
const LAMBDA: i32 = 118;

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
pub struct Thumbnails {
    fps: Fps,
    every: Duration,
    /// The tick of the next one.
    next: i64,
    count: i64,
    pictures: SyncSender<(MediaTime, frame::Video)>,
}

impl Thumbnails {
    /// Starts the thread: a picture every so often, the first one at once. It ends with this.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(every: Duration, fps: Fps) -> std::io::Result<(Self, Receiver<Jpeg>, JoinHandle<()>)> {
        let (pictures, todo) = sync_channel::<(MediaTime, frame::Video)>(PICTURES);
        let (done, jpegs) = sync_channel(JPEGS);
        let run = move || {
            for (at, picture) in todo {
                match encode(&picture) {
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
        Ok((Self { fps, every, next: 0, count: 0, pictures }, jpegs, thread))
    }

    /// Looks at the picture that is on at tick `index`.
    pub(crate) fn offer(&mut self, index: i64, picture: &frame::Video) {
        if index < self.next {
            return;
        }
        let at = self.fps.time_of(index);
        // A copy: the encoder goes on with its own.
        if self.pictures.try_send((at, picture.clone())).is_err() {
            tracing::debug!(%at, "a thumbnail is left out");
        }
        while self.next <= index {
            self.count += 1;
            let nanos = i64::try_from(self.every.as_nanos()).unwrap_or(i64::MAX);
            self.next = self.fps.index_at(MediaTime(nanos.saturating_mul(self.count)));
        }
    }
}

/// One picture as JPEG.
pub(crate) fn encode(picture: &frame::Video) -> Result<Vec<u8>, ff::Error> {
    let codec = ff::encoder::find(ff::codec::Id::MJPEG).ok_or(ff::Error::EncoderNotFound)?;
    let mut context = Context::new_with_codec(codec).encoder().video()?;
    context.set_width(picture.width());
    context.set_height(picture.height());
    context.set_format(Pixel::YUVJ420P);
    context.set_time_base((1, 1));
    context.set_flags(ff::codec::Flags::QSCALE);
    context.set_global_quality(QUALITY * LAMBDA);
    let mut encoder = context.open()?;
    let mut scaled = frame::Video::empty();
    let flags = ff::software::scaling::Flags::BILINEAR;
    let (width, height) = (picture.width(), picture.height());
    let mut scaler = ff::software::scaling::Context::get(
        picture.format(),
        width,
        height,
        Pixel::YUVJ420P,
        width,
        height,
        flags,
    )?;
    scaler.run(picture, &mut scaled)?;
    scaled.set_pts(Some(0));
    encoder.send_frame(&scaled)?;
    encoder.send_eof()?;
    let mut packet = ff::Packet::empty();
    encoder.receive_packet(&mut packet)?;
    Ok(packet.data().unwrap_or_default().to_vec())
}
