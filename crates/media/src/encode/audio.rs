//! AAC-LC by libavcodec, on the thread `encode-audio`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;

use ff::codec::Parameters;
use ff::format::Sample;
use ff::format::sample::Type::Planar;
use ff::frame;
use ffmpeg_the_third as ff;
use pagecast_core::{CHANNELS, MediaTime, Packet, SAMPLE_RATE, Samples, Track};

use super::{End, Error, drain, spawn};

const NAME: &str = "AAC";
/// Bitrate in bit/s.
const BITRATE_BPS: usize = 128_000;
/// Longest gap that is filled at once, in samples; a longer one means that the clock jumped, and is filled in steps.
const MAX_FILL: usize = SAMPLE_RATE as usize;

/// Counted while the encoder runs.
#[derive(Debug, Default)]
pub struct Stats {
    bytes: AtomicU64,
    filled: AtomicU64,
}

impl Stats {
    /// Bytes of all packets.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Samples that never arrived and were replaced by silence.
    #[must_use]
    pub fn filled(&self) -> u64 {
        self.filled.load(Ordering::Relaxed)
    }
}

/// An open encoder.
pub struct Encoder {
    inner: ff::encoder::audio::Encoder,
    frame: frame::Audio,
    /// Samples in `frame`.
    fill: usize,
    /// Samples taken so far.
    taken: u64,
    /// Nobody takes packets any more.
    unwanted: bool,
    stats: Arc<Stats>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Opens the encoder.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        let codec = ff::encoder::find(ff::codec::Id::AAC).ok_or(Error::Missing(NAME))?;
        let fail = |e| Error::Open(NAME, e);
        let mut audio = ff::codec::Context::new_with_codec(codec).encoder().audio().map_err(fail)?;
        audio.set_rate(SAMPLE_RATE as i32);
        audio.set_format(Sample::F32(Planar));
        audio.set_ch_layout(ff::ChannelLayout::STEREO);
        audio.set_bit_rate(BITRATE_BPS);
        audio.set_time_base((1, SAMPLE_RATE as i32));
        audio.set_flags(ff::codec::Flags::GLOBAL_HEADER);
        let inner = audio.open().map_err(fail)?;
        let size = inner.frame_size() as usize;
        let mut frame = frame::Audio::new(Sample::F32(Planar), size, ff::ChannelLayoutMask::STEREO);
        frame.set_rate(SAMPLE_RATE);
        Ok(Self { inner, frame, fill: 0, taken: 0, unwanted: false, stats: Arc::default() })
    }

    /// What a muxer must know.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters::from(&self.inner)
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Encodes samples until `end`, or until nobody sends or takes any more. Samples that are missing are silence.
    ///
    /// # Errors
    /// [`Error::Thread`]; the thread itself ends with [`Error::Encode`].
    pub fn spawn(
        mut self,
        samples: Receiver<Samples>,
        end: End,
        out: SyncSender<Packet>,
    ) -> Result<JoinHandle<Result<(), Error>>, Error> {
        spawn("encode-audio", move || self.run(&samples, &end, &out))
    }

    fn run(&mut self, samples: &Receiver<Samples>, end: &End, out: &SyncSender<Packet>) -> Result<(), Error> {
        while let Ok(run) = samples.recv() {
            // The end may be decided late, and then lies before what was taken already.
            let last = samples_until(end.get());
            let gap = run.start.min(last).saturating_sub(self.taken);
            self.stats.filled.fetch_add(gap, Ordering::Relaxed);
            self.silence(gap, out)?;
            let known = index(self.taken.saturating_sub(run.start)).min(run.len());
            let wanted = index(last.saturating_sub(self.taken)).min(run.len() - known);
            self.push(&run.pcm[known * CHANNELS..(known + wanted) * CHANNELS], out)?;
            if self.taken >= last || self.unwanted {
                break;
            }
        }
        self.finish(end, out)
    }

    /// Fills up to the end, if there is one, and flushes.
    fn finish(&mut self, end: &End, out: &SyncSender<Packet>) -> Result<(), Error> {
        let last = end.get();
        if last != MediaTime(i64::MAX) {
            let missing = samples_until(last).saturating_sub(self.taken);
            self.silence(missing, out)?;
        }
        let fail = |e| Error::Encode(NAME, e);
        if self.fill > 0 {
            self.frame.set_samples(self.fill);
            self.encode(out)?;
        }
        self.inner.send_eof().map_err(fail)?;
        self.drain(out)
    }

    fn silence(&mut self, mut samples: u64, out: &SyncSender<Packet>) -> Result<(), Error> {
        let zeros = vec![0.0; index(samples).min(MAX_FILL) * CHANNELS];
        while samples > 0 && !self.unwanted {
            let step = samples.min(MAX_FILL as u64);
            self.push(&zeros[..step as usize * CHANNELS], out)?;
            samples -= step;
        }
        Ok(())
    }

    fn push(&mut self, mut pcm: &[f32], out: &SyncSender<Packet>) -> Result<(), Error> {
        let size = self.inner.frame_size() as usize;
        while !pcm.is_empty() {
            let count = (size - self.fill).min(pcm.len() / CHANNELS);
            let (now, later) = pcm.split_at(count * CHANNELS);
            for channel in 0..CHANNELS {
                let plane = &mut self.frame.plane_mut::<f32>(channel)[self.fill..self.fill + count];
                for (to, from) in plane.iter_mut().zip(now.iter().skip(channel).step_by(CHANNELS)) {
                    *to = from.clamp(-1.0, 1.0);
                }
            }
            self.fill += count;
            self.taken += count as u64;
            pcm = later;
            if self.fill == size {
                self.encode(out)?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, out: &SyncSender<Packet>) -> Result<(), Error> {
        let start = i64::try_from(self.taken).unwrap_or(i64::MAX) - self.fill as i64;
        self.frame.set_pts(Some(start));
        self.fill = 0;
        self.inner.send_frame(&self.frame).map_err(|e| Error::Encode(NAME, e))?;
        self.drain(out)
    }

    fn drain(&mut self, out: &SyncSender<Packet>) -> Result<(), Error> {
        let wanted = drain(&mut self.inner, NAME, &self.stats.bytes, out, |packet, data| {
            let pts = MediaTime::of_index(packet.pts().unwrap_or_default(), SAMPLE_RATE);
            let duration = MediaTime::of_index(packet.duration(), SAMPLE_RATE);
            Packet { track: Track::Audio, data, pts, dts: pts, duration, keyframe: true }
        })?;
        self.unwanted |= !wanted;
        Ok(())
    }
}

fn index(samples: u64) -> usize {
    usize::try_from(samples).unwrap_or(usize::MAX)
}

fn samples_until(t: MediaTime) -> u64 {
    u64::try_from(t.to_index(SAMPLE_RATE)).unwrap_or(0)
}
