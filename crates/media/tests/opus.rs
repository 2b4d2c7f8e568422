//! Encoding Opus for rooms: time stamps, latency and in-band FEC.

#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::f64::consts::TAU;
use std::sync::mpsc::sync_channel;

use anyhow::{Context as _, Result, ensure};
use ffmpeg_the_third as ff;
use pagecast_core::{MediaTime, Packet, SAMPLE_RATE, Samples, Track};
use pagecast_media::encode::{EndTime, audio};
use tokio::sync::mpsc::channel;

use stream::sample_run;

/// Samples in a packet.
const FRAME_SAMPLES: u64 = 960;
/// Lookahead of libopus, in samples.
const PRIMING_SAMPLES: i64 = 312;
const RATE: f64 = SAMPLE_RATE as f64;

/// Encodes runs of samples.
fn encode(runs: Vec<Samples>, end: EndTime) -> Result<(Vec<Packet>, std::sync::Arc<audio::Stats>)> {
    let encoder = audio::Encoder::open(audio::Config::ROOM)?;
    let stats = encoder.stats();
    let (packets_in, mut packets) = channel(10_000);
    let thread = encoder.spawn(stream::channel_of(runs), end, packets_in)?;
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    Ok((std::iter::from_fn(|| packets.blocking_recv()).collect(), stats))
}

/// Decodes the left channel; also returns the time of its first sample, in seconds.
fn decode_left(packets: &[Packet]) -> Result<(f64, Vec<f32>)> {
    let decoder = ff::decoder::find(ff::codec::Id::OPUS).context("a decoder")?;
    let mut decoder = ff::codec::Context::new_with_codec(decoder).decoder().audio()?;
    decoder.set_ch_layout(ff::ChannelLayout::STEREO);
    let mut frame = ff::frame::Audio::empty();
    let mut left = Vec::new();
    for packet in packets {
        decoder.send_packet(&ff::Packet::copy(&packet.data))?;
        while decoder.receive_frame(&mut frame).is_ok() {
            left.extend_from_slice(frame.plane::<f32>(0));
        }
    }
    Ok((packets.first().context("a packet")?.pts.as_secs_f64(), left))
}

/// A second with a beep of 10 ms from sample `begin` on.
fn beep(begin: usize) -> Vec<f32> {
    let inside = |i: usize| i >= begin && i < begin + 480;
    let value = |i: usize| (TAU * 2000.0 * (i - begin) as f64 / RATE).sin() as f32 / 2.0;
    (0..SAMPLE_RATE as usize).flat_map(|i| [if inside(i) { value(i) } else { 0.0 }; 2]).collect()
}

/// The sample at which the beep of [`beep`] starts in `pcm`: where it correlates best.
fn find_beep(pcm: &[f32]) -> usize {
    let wave = |phase: f64| -> Vec<f32> {
        (0..480).map(|i| (TAU * 2000.0 * f64::from(i) / RATE + phase).sin() as f32).collect()
    };
    let (sine, cosine) = (wave(0.0), wave(TAU / 4.0));
    let matches = |at: usize| {
        let sum = |wave: &[f32]| -> f32 { pcm[at..].iter().zip(wave).map(|(a, b)| a * b).sum() };
        sum(&sine).hypot(sum(&cosine))
    };
    (0..pcm.len() - 480).max_by(|a, b| matches(*a).total_cmp(&matches(*b))).unwrap_or(0)
}

#[test]
fn a_beep_has_the_right_time() -> Result<()> {
    let pcm = beep(24_000);
    let runs = pcm.chunks(960).zip(0_u64..).map(|(pcm, i)| Samples { start: 480 * i, pcm: pcm.into() });
    let (packets, _) = encode(runs.collect(), EndTime::new(None))?;
    let (begin, decoded) = decode_left(&packets)?;
    let at = begin + find_beep(&decoded) as f64 / RATE;
    ensure!((at - 0.5).abs() < 0.001, "it is heard at {at} s");
    Ok(())
}

#[test]
fn a_packet_leaves_as_soon_as_it_is_full() -> Result<()> {
    let (runs_in, runs) = sync_channel(0);
    let (packets_in, mut packets) = channel(100);
    let thread = audio::Encoder::open(audio::Config::ROOM)?.spawn(runs, EndTime::new(None), packets_in)?;
    for index in 0..20 {
        runs_in.send(sample_run(480 * index, 480, 0.1))?;
        // An empty run is taken only after the previous one was processed.
        runs_in.send(sample_run(480 * index + 480, 0, 0.0))?;
        let packet = packets.try_recv().ok();
        ensure!(packet.is_some() == (index % 2 == 1), "after {} samples: {packet:?}", 480 * (index + 1));
        let Some(packet) = packet else { continue };
        let start = (index / 2 * FRAME_SAMPLES).cast_signed() - PRIMING_SAMPLES;
        ensure!(packet.track == Track::Audio && packet.pts == MediaTime::from_index(start, SAMPLE_RATE));
        ensure!(packet.duration == MediaTime::from_index(960, SAMPLE_RATE), "{:?}", packet.duration);
    }
    drop(runs_in);
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    Ok(())
}

#[test]
fn gaps_are_encoded_as_silence() -> Result<()> {
    // Ten seconds of which only the first and the last tenth arrive.
    let runs = vec![sample_run(0, 4800, 0.1), sample_run(475_200, 4800, 0.1)];
    let (packets, stats) = encode(runs, EndTime::new(Some(MediaTime::from_index(10, 1))))?;
    ensure!(stats.silence_samples() == 470_400, "{} filled", stats.silence_samples());
    ensure!((500..=501).contains(&packets.len()), "{} packets", packets.len());
    for pair in packets.windows(2) {
        ensure!(pair[0].pts + pair[0].duration == pair[1].pts, "a gap after {:?}", pair[0].pts);
    }
    Ok(())
}

/// Whether a packet has voice activity, and whether it has FEC data of the previous packet (RFC 6716, 4.2.3
/// and 4.2.4).
fn fec_flags(packet: &[u8]) -> Result<(bool, bool)> {
    let (kind, stereo, frames) = (packet[0] >> 3, packet[0] >> 2 & 1, packet[0] & 3);
    ensure!(kind < 16 && stereo == 1 && frames == 0, "a packet without FEC support: {:#x}", packet[0]);
    // Both flags exist for each channel.
    Ok((packet[1] & 0b1010_0000 != 0, packet[1] & 0b0101_0000 != 0))
}

#[test]
fn packets_have_fec_data_within_the_bitrate() -> Result<()> {
    // Similar to a voice: a hum with a varying level.
    let voice = |i: u64| {
        let t = i as f64 / RATE;
        let click = if (t * 120.0).fract() < 0.1 { 0.4 } else { -0.04 };
        (click * (TAU * 4.0 * t).sin().max(0.0)) as f32
    };
    let sound = |start: u64| {
        let pcm: Vec<_> = (start..start + FRAME_SAMPLES).flat_map(|i| [voice(i), 0.9 * voice(i)]).collect();
        Samples { start, pcm: pcm.into() }
    };
    let (packets, stats) = encode((0..500).map(|i| sound(i * FRAME_SAMPLES)).collect(), EndTime::new(None))?;
    let all: Vec<_> = packets.iter().map(|packet| fec_flags(&packet.data)).collect::<Result<_>>()?;
    let (voiced, with_fec) =
        (all.iter().filter(|(voiced, _)| *voiced).count(), all.iter().filter(|(_, fec)| *fec).count());
    ensure!(voiced * 3 >= all.len() && with_fec * 10 >= voiced * 8, "{voiced} and {with_fec} packets");
    let kbps = stats.bytes() * 8 / 10 / 1000;
    ensure!((30..=110).contains(&kbps), "{kbps} kbit/s");
    Ok(())
}

#[test]
fn a_full_queue_loses_packets() -> Result<()> {
    let encoder = audio::Encoder::open(audio::Config::ROOM)?;
    let stats = encoder.stats();
    let (packets_in, mut packets) = channel(5);
    let runs = (0..20).map(|i| sample_run(i * FRAME_SAMPLES, 960, 0.1)).collect();
    let thread = encoder.spawn(stream::channel_of(runs), EndTime::new(None), packets_in)?;
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    ensure!(std::iter::from_fn(|| packets.try_recv().ok()).count() == 5);
    ensure!((15..=16).contains(&stats.lost()), "{} lost", stats.lost());
    Ok(())
}
