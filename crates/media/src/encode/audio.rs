//! Encodes AAC-LC with libavcodec (thread `encode-audio`) and Opus with libopus (thread `encode-room-audio`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use ff::codec::Parameters;
use ff::format::Sample;
use ff::format::sample::Type::{Packed, Planar};
use ff::frame;
use ffmpeg_the_third as ff;
use pagecast_core::{CHANNELS, MediaTime, Packet, SAMPLE_RATE, Samples, Track};

use super::packet_sender::{PacketSender, SendOutcome};
use super::{EndTime, Error, receive_packet, spawn_thread};

/// Bitrates in bit/s: transparent for most stereo content in their codec.
const AAC_BITRATE_BPS: u32 = 128_000;
const OPUS_BITRATE_BPS: u32 = 96_000;
/// Packet loss that Opus is tuned for, in per cent. From 9 % on, libopus (1.3) protects everything with
/// in-band FEC, using its speech modes. Below, it does not protect music, which sounds better while nothing
/// is lost.
const OPUS_EXPECTED_LOSS_PERCENT: u32 = 10;
/// Longest run of silence that is pushed at once, in samples: one second, to bound the memory for long gaps.
const MAX_SILENCE_SAMPLES: usize = SAMPLE_RATE as usize;

/// Settings of an audio encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Codec to encode with.
    pub codec: Codec,
    /// Bitrate in bit/s.
    pub bitrate_bps: u32,
    /// Packet loss to protect against, in per cent; ignored by AAC.
    pub expected_loss_percent: u32,
}

/// An audio codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// AAC-LC, for files and pushes.
    Aac,
    /// Opus in packets of 20 ms with in-band FEC, for rooms.
    Opus,
}

impl Config {
    /// For files and pushes.
    pub const FILES: Self =
        Self { codec: Codec::Aac, bitrate_bps: AAC_BITRATE_BPS, expected_loss_percent: 0 };
    /// For rooms.
    pub const ROOM: Self = Self {
        codec: Codec::Opus,
        bitrate_bps: OPUS_BITRATE_BPS,
        expected_loss_percent: OPUS_EXPECTED_LOSS_PERCENT,
    };
}

impl Codec {
    /// Name in error messages.
    const fn display_name(self) -> &'static str {
        match self {
            Self::Aac => "AAC",
            Self::Opus => "Opus (libopus)",
        }
    }

    const fn thread_name(self) -> &'static str {
        match self {
            Self::Aac => "encode-audio",
            Self::Opus => "encode-room-audio",
        }
    }
}

/// Counters of a running encoder.
#[derive(Debug, Default)]
pub struct Stats {
    bytes: AtomicU64,
    lost: AtomicU64,
    silence_samples: AtomicU64,
}

impl Stats {
    /// Bytes of all packets.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Packets dropped because the receiver's queue was full.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Samples that did not arrive and were replaced by silence.
    #[must_use]
    pub fn silence_samples(&self) -> u64 {
        self.silence_samples.load(Ordering::Relaxed)
    }
}

/// An open audio encoder.
pub struct Encoder {
    inner: ff::encoder::audio::Encoder,
    codec: Codec,
    frame: frame::Audio,
    /// Samples in `frame`.
    frame_fill: usize,
    /// Samples taken so far.
    samples_in: u64,
    /// Whether the receiver of packets is gone.
    output_closed: bool,
    stats: Arc<Stats>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("taken", &self.samples_in).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Opens the encoder.
    ///
    /// # Errors
    /// [`Error::EncoderNotFound`] or [`Error::Open`].
    pub fn open(config: Config) -> Result<Self, Error> {
        let name = config.codec.display_name();
        let fail = |e| Error::Open(name, e);
        let (library, format) = match config.codec {
            Codec::Aac => ("aac", Sample::F32(Planar)),
            Codec::Opus => ("libopus", Sample::F32(Packed)),
        };
        let codec = ff::encoder::find_by_name(library).ok_or(Error::EncoderNotFound(name))?;
        let mut audio = ff::codec::Context::new_with_codec(codec).encoder().audio().map_err(fail)?;
        audio.set_rate(SAMPLE_RATE as i32);
        audio.set_format(format);
        audio.set_ch_layout(ff::ChannelLayout::STEREO);
        audio.set_bit_rate(config.bitrate_bps as usize);
        audio.set_time_base((1, SAMPLE_RATE as i32));
        let mut options = ff::Dictionary::new();
        match config.codec {
            Codec::Aac => audio.set_flags(ff::codec::Flags::GLOBAL_HEADER),
            Codec::Opus => {
                options.set("application", "audio");
                options.set("frame_duration", "20");
                options.set("vbr", "constrained");
                options.set("fec", "1");
                options.set("packet_loss", config.expected_loss_percent.to_string());
            }
        }
        let inner = audio.open_with(options).map_err(fail)?;
        let size = inner.frame_size() as usize;
        let mut frame = frame::Audio::new(format, size, ff::ChannelLayoutMask::STEREO);
        frame.set_rate(SAMPLE_RATE);
        let (stats, codec) = (Arc::default(), config.codec);
        Ok(Self { inner, codec, frame, frame_fill: 0, samples_in: 0, output_closed: false, stats })
    }

    /// Codec parameters for muxers.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters::from(&self.inner)
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Encodes samples until `end`, or until the input or output is closed. Missing samples become silence.
    ///
    /// # Errors
    /// [`Error::Thread`]; the thread itself ends with [`Error::Encode`].
    pub fn spawn(
        mut self,
        samples: Receiver<Samples>,
        end: EndTime,
        mut out: impl PacketSender,
    ) -> Result<JoinHandle<Result<(), Error>>, Error> {
        spawn_thread(self.codec.thread_name(), move || self.run(&samples, &end, &mut out))
    }

    fn run(
        &mut self,
        samples: &Receiver<Samples>,
        end: &EndTime,
        out: &mut dyn PacketSender,
    ) -> Result<(), Error> {
        while let Ok(run) = samples.recv() {
            // The end may be set late and then lie before samples that were taken already.
            let last = samples_until(end.get());
            let gap = run.start.min(last).saturating_sub(self.samples_in);
            self.stats.silence_samples.fetch_add(gap, Ordering::Relaxed);
            self.push_silence(gap, out)?;
            let known = to_usize(self.samples_in.saturating_sub(run.start)).min(run.len());
            let wanted = to_usize(last.saturating_sub(self.samples_in)).min(run.len() - known);
            self.push_samples(&run.pcm[known * CHANNELS..(known + wanted) * CHANNELS], out)?;
            if self.samples_in >= last || self.output_closed {
                break;
            }
        }
        self.finish(end, out)
    }

    /// Adds silence up to the end, if one is set, and flushes the encoder.
    fn finish(&mut self, end: &EndTime, out: &mut dyn PacketSender) -> Result<(), Error> {
        let last = end.get();
        if last != MediaTime(i64::MAX) {
            let missing = samples_until(last).saturating_sub(self.samples_in);
            self.push_silence(missing, out)?;
        }
        if self.frame_fill > 0 {
            self.frame.set_samples(self.frame_fill);
            self.encode_frame(out)?;
        }
        self.inner.send_eof().map_err(|e| Error::Encode(self.codec.display_name(), e))?;
        self.drain_packets(out)
    }

    fn push_silence(&mut self, mut samples: u64, out: &mut dyn PacketSender) -> Result<(), Error> {
        let zeros = vec![0.0; to_usize(samples).min(MAX_SILENCE_SAMPLES) * CHANNELS];
        while samples > 0 && !self.output_closed {
            let step = samples.min(MAX_SILENCE_SAMPLES as u64);
            self.push_samples(&zeros[..step as usize * CHANNELS], out)?;
            samples -= step;
        }
        Ok(())
    }

    fn push_samples(&mut self, mut pcm: &[f32], out: &mut dyn PacketSender) -> Result<(), Error> {
        let size = self.inner.frame_size() as usize;
        while !pcm.is_empty() {
            let count = (size - self.frame_fill).min(pcm.len() / CHANNELS);
            let (now, later) = pcm.split_at(count * CHANNELS);
            self.copy_to_frame(now, count);
            self.frame_fill += count;
            self.samples_in += count as u64;
            pcm = later;
            if self.frame_fill == size {
                self.encode_frame(out)?;
            }
        }
        Ok(())
    }

    /// Appends `count` samples to the frame.
    fn copy_to_frame(&mut self, pcm: &[f32], count: usize) {
        let range = self.frame_fill..self.frame_fill + count;
        if self.frame.is_planar() {
            for channel in 0..CHANNELS {
                let plane = &mut self.frame.plane_mut::<f32>(channel)[range.clone()];
                for (to, from) in plane.iter_mut().zip(pcm.iter().skip(channel).step_by(CHANNELS)) {
                    *to = from.clamp(-1.0, 1.0);
                }
            }
        } else {
            let pairs = &mut self.frame.plane_mut::<(f32, f32)>(0)[range];
            for (to, [left, right]) in pairs.iter_mut().zip(pcm.as_chunks().0) {
                *to = (left.clamp(-1.0, 1.0), right.clamp(-1.0, 1.0));
            }
        }
    }

    fn encode_frame(&mut self, out: &mut dyn PacketSender) -> Result<(), Error> {
        let start = i64::try_from(self.samples_in).unwrap_or(i64::MAX) - self.frame_fill as i64;
        self.frame.set_pts(Some(start));
        self.frame_fill = 0;
        self.inner.send_frame(&self.frame).map_err(|e| Error::Encode(self.codec.display_name(), e))?;
        self.drain_packets(out)
    }

    fn drain_packets(&mut self, out: &mut dyn PacketSender) -> Result<(), Error> {
        while let Some(packet) = receive_packet(&mut self.inner, self.codec.display_name())? {
            let data: Arc<[u8]> = packet.data().unwrap_or_default().into();
            self.stats.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            let pts = MediaTime::from_index(packet.pts().unwrap_or_default(), SAMPLE_RATE);
            let duration = MediaTime::from_index(packet.duration(), SAMPLE_RATE);
            let packet = Packet { track: Track::Audio, data, pts, dts: pts, duration, keyframe: true };
            match out.send_packet(packet) {
                SendOutcome::Sent => {}
                SendOutcome::Lost => _ = self.stats.lost.fetch_add(1, Ordering::Relaxed),
                SendOutcome::Closed => self.output_closed = true,
            }
        }
        Ok(())
    }
}

fn to_usize(samples: u64) -> usize {
    usize::try_from(samples).unwrap_or(usize::MAX)
}

fn samples_until(t: MediaTime) -> u64 {
    u64::try_from(t.to_index(SAMPLE_RATE)).unwrap_or(0)
}
