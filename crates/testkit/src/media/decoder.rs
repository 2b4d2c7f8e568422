//! Decodes media with `ffmpeg`, one picture or chunk at a time, so that memory stays bounded.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::SAMPLE_RATE;
use super::image::GrayImage;
use crate::command::{install_hint, program};

const PCM_CHUNK_SAMPLES: usize = 4096;
const BYTES_PER_STEREO_SAMPLE: usize = 8;

/// Iterator over the pictures of a recording, each with its presentation time in seconds.
#[derive(Debug)]
pub struct Frames {
    ffmpeg: Child,
    width: usize,
    height: usize,
    pts: VecDeque<f64>,
}

impl Frames {
    pub(super) fn start(path: &Path, width: usize, height: usize, pts: VecDeque<f64>) -> Result<Self> {
        let output = ["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"];
        Ok(Self { ffmpeg: spawn_decoder(path, &output)?, width, height, pts })
    }

    fn read_frame(&mut self) -> Result<Option<(f64, GrayImage)>> {
        let mut picture = GrayImage::new(self.width, self.height);
        let pipe = self.ffmpeg.stdout.as_mut().context("the decoder has no output")?;
        if read_full(pipe, &mut picture.data)? < picture.data.len() {
            let status = self.ffmpeg.wait()?;
            ensure!(status.success(), "the decoder ended with {status}");
            ensure!(self.pts.is_empty(), "{} coded pictures do not decode", self.pts.len());
            return Ok(None);
        }
        let pts = self.pts.pop_front().context("more pictures decode than are coded")?;
        Ok(Some((pts, picture)))
    }
}

impl Iterator for Frames {
    type Item = Result<(f64, GrayImage)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_frame().transpose()
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        kill_and_wait(&mut self.ffmpeg);
    }
}

/// Iterator over the sound of a recording: chunks of interleaved left and right samples.
#[derive(Debug)]
pub struct Pcm {
    ffmpeg: Child,
    /// Presentation time of the first sample, in seconds.
    pub start_s: f64,
}

impl Pcm {
    pub(super) fn start(path: &Path, start_s: f64) -> Result<Self> {
        let rate = SAMPLE_RATE.to_string();
        let output = ["-map", "0:a:0", "-f", "f32le", "-ac", "2", "-ar", &rate, "-"];
        Ok(Self { ffmpeg: spawn_decoder(path, &output)?, start_s })
    }

    /// All samples of both channels; for short recordings.
    ///
    /// # Errors
    /// The sound does not decode.
    pub fn channels(self) -> Result<[Vec<f32>; 2]> {
        let mut both = [Vec::new(), Vec::new()];
        for chunk in self {
            for pair in chunk?.chunks_exact(2) {
                both[0].push(pair[0]);
                both[1].push(pair[1]);
            }
        }
        Ok(both)
    }

    fn read_chunk(&mut self) -> Result<Option<Vec<f32>>> {
        let mut bytes = vec![0; PCM_CHUNK_SAMPLES * BYTES_PER_STEREO_SAMPLE];
        let pipe = self.ffmpeg.stdout.as_mut().context("the decoder has no output")?;
        let got = read_full(pipe, &mut bytes)?;
        if got == 0 {
            let status = self.ffmpeg.wait()?;
            ensure!(status.success(), "the decoder ended with {status}");
            return Ok(None);
        }
        let samples = bytes[..got].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Some(samples.collect()))
    }
}

impl Iterator for Pcm {
    type Item = Result<Vec<f32>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_chunk().transpose()
    }
}

impl Drop for Pcm {
    fn drop(&mut self) {
        kill_and_wait(&mut self.ffmpeg);
    }
}

fn spawn_decoder(path: &Path, output: &[&str]) -> Result<Child> {
    let mut ffmpeg = program("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(path).args(output);
    ffmpeg.stdin(Stdio::null()).stdout(Stdio::piped());
    ffmpeg.spawn().with_context(|| install_hint("ffmpeg"))
}

/// Reads until the buffer is full or the stream ends.
fn read_full(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn kill_and_wait(child: &mut Child) {
    // Both fail only if the process has ended.
    let _ended = child.kill();
    let _reaped = child.wait();
}
