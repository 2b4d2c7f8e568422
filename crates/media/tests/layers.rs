//! Encoders of room layers: content, latency, keyframes and bitrate limits.

#[path = "synthetic/layer_encoder.rs"]
mod layer_encoder;

use std::sync::mpsc::sync_channel;

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::RoomCodec;
use pagecast_core::{Packet, Picture};
use pagecast_media::encode::{EndTime, tee, video};
use pagecast_testkit::flv::parse_annex_b;
use tokio::sync::mpsc::channel;

use layer_encoder::{
    FPS, LayerEncoder, PAGE, busy_picture, config, decode, kbps, keyframes, plain_picture, tick, ticks,
    wave_picture,
};

const CODECS: [RoomCodec; 2] = [RoomCodec::H264, RoomCodec::Vp8];

/// Encodes the same ticks in layers of these sizes.
fn encode_layers(codec: RoomCodec, sizes: &[(u32, u32)], count: i64) -> Result<Vec<Vec<Packet>>> {
    let (sender, input) = sync_channel(1);
    let lengths = vec![usize::try_from(count)?; sizes.len()];
    let (queues, thread) = tee::ticks(input, &lengths)?;
    let mut running = Vec::new();
    for (number, (size, queue)) in sizes.iter().zip(queues).enumerate() {
        let encoder = video::Encoder::open(config(number, codec, *size, 1000)?)?;
        let (packets_in, packets) = channel(usize::try_from(count)?);
        running.push((encoder.spawn(queue, EndTime::new(None), packets_in)?, packets));
    }
    for index in 0..count {
        sender.send(tick(index, Some(busy_picture(index))))?;
    }
    drop(sender);
    ensure!(thread.context("a thread")?.join().is_ok());
    running
        .into_iter()
        .map(|(thread, mut packets)| {
            ensure!(thread.join().is_ok_and(|r| r.is_ok()), "an encoder failed");
            Ok(std::iter::from_fn(|| packets.blocking_recv()).collect())
        })
        .collect()
}

#[test]
fn layers_show_the_same_at_the_same_time() -> Result<()> {
    let sizes = [PAGE, (PAGE.0 / 2, PAGE.1 / 2)];
    for codec in CODECS {
        for (packets, size) in encode_layers(codec, &sizes, 45)?.iter().zip(sizes) {
            ensure!(
                keyframes(packets) == [0] && ticks(packets).into_iter().eq(0..45),
                "{:?}",
                ticks(packets)
            );
            for seen in decode(codec, packets)? {
                ensure!(seen.size == size, "{codec:?}: {:?}", seen.size);
                ensure!(seen.counter().map(i64::from) == Some(seen.tick), "{codec:?} {size:?}: {seen:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn encoders_have_no_delay() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 1000)?;
        for index in 0..10 {
            layer.feed(1, |index| Some(busy_picture(index)))?;
            let packet = layer.recv_packet()?;
            ensure!((packet.pts, packet.dts) == (FPS.time_of(index), FPS.time_of(index)));
        }
        layer.finish()?;
    }
    Ok(())
}

/// Reads an H.264 header bit by bit.
struct BitReader<'a>(&'a [u8], usize);

impl BitReader<'_> {
    fn read_bit(&mut self) -> u32 {
        let bit = self.0[self.1 / 8] >> (7 - self.1 % 8) & 1;
        self.1 += 1;
        bit.into()
    }

    /// An Exp-Golomb number (H.264, 9.1).
    fn read_ue(&mut self) -> u32 {
        let mut zeros = 0;
        while self.read_bit() == 0 {
            zeros += 1;
        }
        (0..zeros).fold(1, |number, _| number << 1 | self.read_bit()) - 1
    }
}

#[test]
fn h264_is_constrained_baseline_with_its_headers_before_each_keyframe() -> Result<()> {
    let mut layer = LayerEncoder::start(RoomCodec::H264, 1000)?;
    for _ in 0..2 {
        layer.keyframe_request.request();
        layer.feed(40, |index| Some(busy_picture(index)))?;
    }
    let packets = layer.finish()?;
    ensure!(keyframes(&packets).len() >= 2, "{:?}", keyframes(&packets));
    for packet in &packets {
        ensure!(packet.data.starts_with(&[0, 0, 0, 1]), "not Annex B");
        let units = parse_annex_b(&packet.data);
        let kinds: Vec<_> = units.iter().map(|unit| unit[0] & 0x1f).filter(|kind| *kind != 6).collect();
        ensure!(kinds == if packet.keyframe { vec![7, 8, 5] } else { vec![1] }, "{kinds:?}");
        for unit in units {
            match unit[0] & 0x1f {
                // Baseline profile with `constraint_set1_flag`.
                7 => ensure!(unit[1] == 66 && unit[2] & 0x40 != 0, "profile {} {:#x}", unit[1], unit[2]),
                8 => {
                    let mut bits = BitReader(&unit, 8);
                    let (_, _, cabac) = (bits.read_ue(), bits.read_ue(), bits.read_bit());
                    ensure!(cabac == 0, "CABAC");
                }
                kind @ (1 | 5) => {
                    let mut bits = BitReader(&unit, 8);
                    let (_, slice) = (bits.read_ue(), bits.read_ue() % 5);
                    ensure!(slice == if kind == 5 { 2 } else { 0 }, "a slice of type {slice}");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[test]
fn a_keyframe_comes_with_the_next_tick_but_not_too_often() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 1000)?;
        layer.feed(60, |index| (index == 0).then(|| plain_picture(0)))?;
        for _ in 0..2 {
            layer.keyframe_request.request();
            layer.feed(5, |_| None)?;
        }
        layer.feed(30, |_| None)?;
        let keys = keyframes(&layer.finish()?);
        // The encoder may see a request one tick early, if it has taken that tick but not checked for
        // requests.
        ensure!(keys.len() == 3 && (59..=60).contains(&keys[1]) && keys[2] == keys[1] + 15, "{keys:?}");
    }
    Ok(())
}

#[test]
fn a_keyframe_in_motion_is_as_good_as_its_neighbours() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 200)?;
        layer.feed(90, |index| Some(wave_picture(index)))?;
        layer.keyframe_request.request();
        layer.feed(30, |index| Some(wave_picture(index)))?;
        let packets = layer.finish()?;
        let keys = keyframes(&packets);
        ensure!(keys.len() == 2, "{codec:?}: {keys:?}");
        let shown = decode(codec, &packets)?;
        let error = |from: i64, to: i64| {
            let some = shown.iter().filter(|seen| (from..to).contains(&seen.tick));
            some.map(|seen| seen.mean_square_error(&wave_picture(seen.tick))).sum::<u64>()
                / (to - from).unsigned_abs()
        };
        let (before, key) = (error(keys[1] - 20, keys[1]), error(keys[1], keys[1] + 1));
        ensure!(key < 3 * before, "{codec:?}: {key} after {before}");
    }
    Ok(())
}

#[test]
fn the_size_of_a_keyframe_follows_the_current_bitrate() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 1500)?;
        let caps = [1500, 150, 1500];
        for cap in caps {
            layer.rate_target.set(cap * 1000, FPS.get());
            layer.feed(60, |index| Some(wave_picture(index)))?;
            layer.keyframe_request.request();
            layer.feed(30, |index| Some(wave_picture(index)))?;
        }
        let packets = layer.finish()?;
        let keys: Vec<_> = packets.iter().filter(|packet| packet.keyframe).collect();
        ensure!(keys.len() == 4, "{codec:?}: {:?}", keyframes(&packets));
        for (key, cap) in keys[1..].iter().zip(caps) {
            let ms = 8 * key.data.len() / cap as usize;
            ensure!(ms < 600, "{codec:?}: a keyframe takes {ms} ms at {cap} kbit/s");
        }
        for seen in decode(codec, &packets)? {
            ensure!(seen.counter().map(i64::from) == Some(seen.tick), "{codec:?}: {seen:?}");
        }
    }
    Ok(())
}

#[test]
fn the_bitrate_follows_within_a_second_and_without_keyframes() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 800)?;
        let caps = [800, 300, 800, 1500];
        for cap in caps {
            layer.rate_target.set(cap * 1000, FPS.get());
            layer.feed(90, |index| Some(busy_picture(index)))?;
        }
        let packets = layer.finish()?;
        for (phase, cap) in (0..).zip(caps) {
            let got = kbps(&packets, phase * 90 + 30, phase * 90 + 90);
            let cap = i64::from(cap);
            ensure!((cap * 7 / 10..cap * 12 / 10).contains(&got), "{codec:?}: {got} kbit/s of {cap}");
        }
        ensure!(keyframes(&packets) == [0], "{codec:?}: {:?}", keyframes(&packets));
        for seen in decode(codec, &packets)? {
            ensure!(seen.counter().map(i64::from) == Some(seen.tick), "{codec:?}: {}", seen.tick);
        }
    }
    Ok(())
}

#[test]
fn below_a_codec_s_lowest_rate_frames_are_skipped() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 1500)?;
        layer.feed(90, |index| Some(busy_picture(index)))?;
        layer.rate_target.set(50_000, FPS.get());
        layer.feed(240, |index| Some(busy_picture(index)))?;
        layer.rate_target.set(1_500_000, FPS.get());
        layer.feed(120, |index| Some(busy_picture(index)))?;
        let packets = layer.finish()?;
        let (low, high) = (kbps(&packets, 180, 329), kbps(&packets, 390, 450));
        ensure!(low < 70 && (1000..1700).contains(&high), "{codec:?}: {low} and {high} kbit/s");
        let frames = ticks(&packets).iter().filter(|tick| (180..329).contains(*tick)).count();
        ensure!(frames >= 3, "{codec:?}: {frames} frames");
        ensure!(keyframes(&packets) == [0], "{codec:?}: {:?}", keyframes(&packets));
        decode(codec, &packets)?;
    }
    Ok(())
}

#[test]
fn a_paused_encoder_sends_nothing_and_resumes_with_a_keyframe() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 1000)?;
        layer.feed(30, |index| Some(plain_picture(index)))?;
        layer.rate_target.set(0, FPS.get());
        // The last change happens during the pause.
        layer.feed(60, |index| (index < 70).then(|| plain_picture(index)))?;
        layer.rate_target.set(1_000_000, FPS.get());
        layer.feed(10, |_| None)?;
        let packets = layer.finish()?;
        let all = ticks(&packets);
        ensure!(!all.iter().any(|tick| (31..89).contains(tick)), "{codec:?}: {all:?}");
        let keys = keyframes(&packets);
        ensure!(keys.len() == 2 && (89..=90).contains(&keys[1]), "{codec:?}: {keys:?}");
        for seen in decode(codec, &packets)?.iter().filter(|seen| seen.tick > 60) {
            ensure!(seen.counter() == Some(69), "{codec:?}: {seen:?}");
        }
    }
    Ok(())
}

#[test]
fn at_a_lower_frame_rate_frames_show_the_newest_picture() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 1000)?;
        layer.rate_target.set(1_000_000, 15);
        layer.feed(60, |index| Some(plain_picture(index)))?;
        layer.rate_target.set(1_000_000, 60);
        layer.feed(30, |index| Some(plain_picture(index)))?;
        let packets = layer.finish()?;
        let all = ticks(&packets);
        let slow: Vec<_> = all.iter().copied().filter(|tick| *tick < 59).collect();
        ensure!(slow.into_iter().eq((0..59).step_by(2)), "{codec:?}: {all:?}");
        let fast = all.into_iter().filter(|tick| *tick > 60);
        ensure!(fast.eq(61..90), "{codec:?}");
        for seen in decode(codec, &packets)? {
            ensure!(seen.counter().map(i64::from) == Some(seen.tick), "{codec:?}: {seen:?}");
        }
    }
    Ok(())
}

#[test]
fn a_still_page_is_sharp_and_then_nearly_silent() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::start(codec, 600)?;
        layer.feed(300, |index| (index == 0).then(|| busy_picture(0)))?;
        let next = layer.next_tick();
        let packets = layer.finish()?;
        let quiet = kbps(&packets, 150, next);
        ensure!(quiet < 30, "{codec:?}: {quiet} kbit/s");
        let heartbeats = ticks(&packets).into_iter().filter(|tick| *tick >= 210).count();
        ensure!((3..=5).contains(&heartbeats), "{codec:?}: {:?}", ticks(&packets));
        ensure!(keyframes(&packets) == [0]);
        let shown = decode(codec, &packets)?;
        let error = shown.last().context("a picture")?.mean_square_error(&busy_picture(0));
        ensure!(error <= 8, "{codec:?}: mean square error {error}");
    }
    Ok(())
}

#[test]
fn after_an_overflow_the_stream_resumes_with_a_keyframe() -> Result<()> {
    for codec in CODECS {
        let mut layer = LayerEncoder::with_capacity(codec, 1000, 5)?;
        layer.feed(66, |index| Some(plain_picture(index)))?;
        let mut packets = layer.drain_packets();
        ensure!(ticks(&packets) == [0, 1, 2, 3, 4], "{codec:?}: {:?}", ticks(&packets));
        ensure!(layer.stats.lost() >= 50, "{} lost", layer.stats.lost());
        for _ in 0..30 {
            layer.feed(1, |index| Some(plain_picture(index)))?;
            packets.extend(layer.drain_packets());
        }
        packets.extend(layer.finish()?);
        // Keyframes are requested all the time, at most one each half second.
        ensure!(packets[5].keyframe && ticks(&packets)[5] <= 81, "{codec:?}: {:?}", ticks(&packets));
        for seen in decode(codec, &packets)? {
            ensure!(seen.counter().map(i64::from) == Some(seen.tick), "{codec:?}: {seen:?}");
        }
    }
    Ok(())
}

#[test]
fn colours_use_the_codec_s_matrix() -> Result<()> {
    // Red in ITU-R BT.709 and BT.601.
    for (codec, wanted) in [(RoomCodec::H264, [63, 102, 240]), (RoomCodec::Vp8, [81, 90, 240])] {
        let mut layer = LayerEncoder::start(codec, 1000)?;
        let mut red = Picture::new(PAGE.0, PAGE.1);
        red.bgrx_mut().chunks_exact_mut(4).for_each(|pixel| pixel[..3].copy_from_slice(&[0, 0, 255]));
        layer.feed(30, |index| (index == 0).then(|| red.clone()))?;
        let shown = decode(codec, &layer.finish()?)?;
        let middle = shown.last().context("a picture")?.center_yuv;
        let near = middle.iter().zip(wanted).all(|(got, wanted)| got.abs_diff(wanted) <= 3);
        ensure!(near, "{codec:?}: {middle:?}");
    }
    Ok(())
}
