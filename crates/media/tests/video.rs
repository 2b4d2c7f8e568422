//! Encoding ticks as video: times, keyframes, heartbeats and the end.

#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::sync::mpsc::sync_channel;

use anyhow::{Result, ensure};
use pagecast_core::{MediaTime, Packet, Tick};
use pagecast_media::encode::{EndTime, video};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{Recording, ScratchDir};

use stream::{encode_video, record_to_file, tick};

fn ticks(fps: u32, all: impl Iterator<Item = i64>, changed: impl Fn(i64) -> bool) -> Result<Vec<Tick>> {
    all.map(|index| tick(fps, index, changed(index))).collect()
}

fn end_time(seconds: i64) -> EndTime {
    EndTime::new(Some(MediaTime::from_index(seconds, 1)))
}

/// Indexes of the ticks that have a packet.
fn encoded_ticks(fps: u32, packets: &[Packet]) -> Vec<i64> {
    packets.iter().map(|p| p.pts.to_index(fps)).collect()
}

/// Indexes of the keyframes.
fn keyframes(fps: u32, packets: &[Packet]) -> Vec<i64> {
    packets.iter().filter(|p| p.keyframe).map(|p| p.pts.to_index(fps)).collect()
}

/// Ticks and burnt-in counters of the decoded pictures.
fn decode_counters(fps: u32, packets: Vec<Packet>) -> Result<(Recording, Vec<(i64, u32)>)> {
    let scratch = ScratchDir::new()?;
    let path = scratch.join("picture.mp4");
    record_to_file(&path, fps, packets)?;
    let file = Recording::open(&path)?;
    let counters =
        file.timecodes(TimecodePosition::PAGE)?.into_iter().filter_map(|seen| Some(seen.timecode?.counter));
    let shown = file.ticks(fps)?.into_iter().zip(counters).collect();
    Ok((file, shown))
}

#[test]
fn every_changed_tick_is_shown_at_its_time() -> Result<()> {
    for fps in [7, 30, 60] {
        let count = i64::from(fps) * 2;
        let (packets, stats) = encode_video(fps, ticks(fps, 0..count, |_| true)?, end_time(2))?;
        let (file, shown) = decode_counters(fps, packets)?;
        let wanted: Vec<_> = (0..count).map(|i| (i, u32::try_from(i).unwrap_or(0))).collect();
        ensure!(shown == wanted, "{fps} fps: {shown:?}");
        ensure!((file.end_s() - 2.0).abs() < 1e-3, "{fps} fps: it ends at {} s", file.end_s());
        ensure!((stats.encoded(), stats.unchanged(), stats.missed()) == (count.unsigned_abs(), 0, 0));
    }
    Ok(())
}

#[test]
fn keyframes_come_first_and_every_four_seconds() -> Result<()> {
    for changed in [|_| true, |i| i == 0] as [fn(i64) -> bool; 2] {
        let (packets, _) = encode_video(10, ticks(10, 0..100, changed)?, end_time(10))?;
        ensure!(keyframes(10, &packets) == [0, 40, 80], "{:?}", keyframes(10, &packets));
    }
    Ok(())
}

#[test]
fn a_requested_keyframe_is_encoded() -> Result<()> {
    let (ticks_in, ticks) = sync_channel(0);
    let (packets_in, packets) = sync_channel(1000);
    let encoder = video::Encoder::open(stream::config(10)?)?;
    let requests = encoder.keyframe_request();
    let thread = encoder.spawn(ticks, EndTime::new(None), packets_in)?;
    for index in 0..30 {
        if index == 16 {
            requests.request();
        }
        ticks_in.send(tick(10, index, index == 0)?)?;
    }
    drop(ticks_in);
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    let packets: Vec<_> = packets.iter().collect();
    // The encoder may see the request one tick early, if it has taken that tick but not checked for requests.
    let keys = keyframes(10, &packets);
    ensure!(keys == [0, 15] || keys == [0, 16], "{keys:?}");
    Ok(())
}

#[test]
fn a_still_picture_costs_heartbeats_and_lasts_to_the_end() -> Result<()> {
    let (packets, stats) = encode_video(30, ticks(30, 0..150, |i| i == 0)?, end_time(5))?;
    ensure!(
        encoded_ticks(30, &packets) == [0, 4, 11, 24, 54, 84, 114, 120, 149],
        "{:?}",
        encoded_ticks(30, &packets)
    );
    ensure!(stats.unchanged() == 149 && stats.ticks() == 150);
    let (file, shown) = decode_counters(30, packets)?;
    ensure!(shown.iter().all(|(_, counter)| *counter == 0), "{shown:?}");
    ensure!((file.end_s() - 5.0).abs() < 1e-3, "it ends at {} s", file.end_s());
    Ok(())
}

#[test]
fn missing_ticks_show_the_picture_before_them() -> Result<()> {
    // Of 60 ticks, some in the middle are missing, and all after the 40th.
    let arriving = (0..20).chain(30..40).chain([75]);
    let (packets, stats) = encode_video(30, ticks(30, arriving, |_| true)?, end_time(2))?;
    ensure!(
        (stats.missed(), stats.ticks()) == (30, 60),
        "{} missed, {} in all",
        stats.missed(),
        stats.ticks()
    );
    let (file, shown) = decode_counters(30, packets)?;
    ensure!((file.end_s() - 2.0).abs() < 1e-3, "it ends at {} s", file.end_s());
    let last = &shown[shown.len() - 2..];
    ensure!(last == [(39, 39), (59, 39)], "{last:?}");
    ensure!(shown.windows(2).any(|w| w == [(19, 19), (30, 30)]), "{shown:?}");
    Ok(())
}

#[test]
fn no_ticks_give_no_packets() -> Result<()> {
    for (ticks, end) in [
        (Vec::new(), end_time(1)),
        (Vec::new(), EndTime::new(None)),
        (ticks(30, 0..5, |_| true)?, EndTime::new(Some(MediaTime::ZERO))),
        (ticks(30, 40..45, |_| true)?, end_time(1)),
    ] {
        let (packets, stats) = encode_video(30, ticks, end)?;
        ensure!(packets.is_empty() && stats.ticks() == 0 && stats.first_frame_at().is_none());
    }
    Ok(())
}

#[test]
fn without_an_end_the_last_tick_is_the_end() -> Result<()> {
    let (packets, _) = encode_video(30, ticks(30, 0..10, |i| i == 0)?, EndTime::new(None))?;
    ensure!(encoded_ticks(30, &packets) == [0, 4, 9], "{:?}", encoded_ticks(30, &packets));
    Ok(())
}

#[test]
fn an_end_in_the_past_ends_the_encoder_at_once() -> Result<()> {
    let (ticks_in, ticks) = sync_channel(0);
    let (packets_in, packets) = sync_channel(1000);
    let end = EndTime::new(None);
    let thread = video::Encoder::open(stream::config(30)?)?.spawn(ticks, end.clone(), packets_in)?;
    for index in 0..30 {
        ticks_in.send(tick(30, index, true)?)?;
    }
    end.set(MediaTime::from_index(10, 30));
    // Fails if the encoder has ended already.
    let _ended = ticks_in.send(tick(30, 30, true)?);
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    let packets: Vec<_> = packets.iter().collect();
    // The last tick may be taken before or after the end is known.
    let seen = encoded_ticks(30, &packets);
    ensure!((29..=30).contains(&seen.len()) && seen.iter().copied().eq(0..seen.len() as i64), "{seen:?}");
    Ok(())
}
