//! Audio and video analysis of recordings, decoded by FFmpeg as a player would.

pub mod beeps;
mod decoder;
pub mod image;
pub mod probe;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use crate::command::{program, run_for_output};
use crate::scratch::ScratchDir;
use crate::timecode::{Timecode, TimecodePosition};

pub use decoder::{Frames, Pcm};
pub use image::{GrayImage, RgbImage};
pub use probe::{Packet, Stream};

/// Sample rate of all decoded sound, in Hz.
pub const SAMPLE_RATE: u32 = 48_000;

/// A finished or interrupted recording.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    /// The video stream.
    pub video: Stream,
    /// All coded pictures, in presentation order.
    pub video_packets: Vec<Packet>,
    /// The audio stream, if there is one.
    pub audio: Option<Stream>,
    /// The folder with the file.
    #[expect(dead_code, reason = "deletes the file when dropped")]
    scratch: Option<Arc<ScratchDir>>,
}

/// Time stamp and timecode of a picture.
#[derive(Debug, Clone, Copy)]
pub struct FrameTimecode {
    /// Presentation time, in seconds.
    pub pts_s: f64,
    /// The timecode, if it is readable.
    pub timecode: Option<Timecode>,
}

impl Recording {
    /// Opens a file and reads its streams and packets.
    ///
    /// # Errors
    /// The file cannot be played, or has no picture.
    pub fn open(path: &Path) -> Result<Self> {
        let mut streams = probe::streams(path)?;
        let at = streams.iter().position(|s| s.kind == "video").context("the file has no picture")?;
        let video = streams.swap_remove(at);
        let audio = streams.into_iter().find(|s| s.kind == "audio");
        let mut pictures = probe::packets(path, "v:0")?;
        pictures.retain(|p| !p.discarded);
        pictures.sort_by_key(|p| p.pts);
        ensure!(!pictures.is_empty(), "the file has no coded picture");
        Ok(Self { path: path.to_owned(), video, video_packets: pictures, audio, scratch: None })
    }

    /// Keeps the folder of the file until the recording is dropped.
    #[must_use]
    pub(crate) fn keep_scratch(self, scratch: Arc<ScratchDir>) -> Self {
        Self { scratch: Some(scratch), ..self }
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of the display tick of each picture.
    ///
    /// # Errors
    /// A time stamp is not a multiple of `1 / fps`; the message has the first one.
    pub fn ticks(&self, fps: u32) -> Result<Vec<i64>> {
        let tick = |p: &Packet| {
            let (n, d) = (p.pts * self.video.time_base.0 * i64::from(fps), self.video.time_base.1);
            ensure!(
                n % d == 0,
                "the picture at {} s is not on the grid of {fps} fps",
                self.video.seconds(p.pts)
            );
            Ok(n / d)
        };
        self.video_packets.iter().map(tick).collect()
    }

    /// End of the last picture, in seconds.
    #[must_use]
    pub fn end_s(&self) -> f64 {
        self.video_packets.last().map_or(0.0, |p| self.video.seconds(p.pts + p.duration))
    }

    /// Decodes all pictures, one at a time.
    ///
    /// # Errors
    /// The decoder cannot be started.
    pub fn frames(&self) -> Result<Frames> {
        let pts = self.video_packets.iter().map(|p| self.video.seconds(p.pts)).collect();
        Frames::start(&self.path, self.video.width, self.video.height, pts)
    }

    /// Reads the timecode at `position` in every picture.
    ///
    /// # Errors
    /// The file does not decode.
    pub fn timecodes(&self, position: TimecodePosition) -> Result<Vec<FrameTimecode>> {
        Ok(self
            .timecodes_at(&[position])?
            .into_iter()
            .map(|(pts_s, timecodes)| FrameTimecode { pts_s, timecode: timecodes[0] })
            .collect())
    }

    /// Reads the timecodes at several positions in every picture.
    ///
    /// # Errors
    /// The file does not decode.
    pub fn timecodes_at(&self, positions: &[TimecodePosition]) -> Result<Vec<(f64, Vec<Option<Timecode>>)>> {
        self.frames()?
            .map(|frame| {
                let (pts_s, picture) = frame?;
                Ok((pts_s, positions.iter().map(|p| Timecode::read(&picture, *p)).collect()))
            })
            .collect()
    }

    /// The picture that is shown at `seconds`.
    ///
    /// # Errors
    /// The file does not decode, or shows nothing at that time.
    pub fn frame_at(&self, seconds: f64) -> Result<RgbImage> {
        let shown =
            self.video_packets.iter().take_while(|p| self.video.seconds(p.pts) <= seconds + 1e-6).count();
        ensure!(shown > 0, "nothing is shown at {seconds} s");
        let mut ffmpeg = program("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(&self.path);
        ffmpeg.args(["-map", "0:v:0", "-vf", &format!("select=eq(n\\,{})", shown - 1), "-frames:v", "1"]);
        ffmpeg.args([
            "-sws_flags",
            "accurate_rnd+full_chroma_int",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ]);
        let data = run_for_output(&mut ffmpeg)?.stdout;
        RgbImage::from_raw(self.video.width, self.video.height, data)
    }

    /// Decodes the sound as interleaved stereo floats at [`SAMPLE_RATE`].
    ///
    /// # Errors
    /// There is no sound, or the decoder cannot be started.
    pub fn pcm(&self) -> Result<Pcm> {
        let stream = self.audio.as_ref().context("the file has no sound")?;
        Pcm::start(&self.path, probe::first_pts_s(&self.path, stream)?)
    }

    /// Decodes the whole file and returns the warnings of the decoder: empty for a valid file.
    ///
    /// # Errors
    /// The decoder cannot be started or fails.
    pub fn decoder_warnings(&self) -> Result<String> {
        let mut ffmpeg = program("ffmpeg");
        ffmpeg.args(["-v", "warning", "-nostdin", "-i"]).arg(&self.path).args(["-f", "null", "-"]);
        let output = run_for_output(ffmpeg.stdin(Stdio::null()))?;
        Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
