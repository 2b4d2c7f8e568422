//! A recording of a whole day, faster than real time: times, counts and memory at its end.

#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Format, Recording as Spec, Storage};
use pagecast_core::{Fps, MediaTime, Packet, SAMPLE_RATE, Track};
use pagecast_media::fanout::{FanOut, QueueLimit};
use pagecast_media::record::upload::{Config, UploadTask};
use pagecast_media::record::{Recorder, Spool, SpoolConfig};
use pagecast_testkit::media::probe::packets;
use pagecast_testkit::{Recording, ScratchDir, wait_until};

use stream::{sorted_by_dts, test_packets, tracks};

const DAY_S: i64 = 86_400;
const FPS: u32 = 30;
/// Samples of an AAC frame.
const AAC_FRAME_SAMPLES: i64 = 1024;

/// Resident memory of this process, in bytes.
fn resident_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib * 1024)
}

#[test]
fn a_day_ends_as_it_began() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let to = Storage::Folder(scratch.join("out"));
    let segment = Duration::from_secs(60);
    let spec = Spec { format: Format::BothTs, segment, ..Spec::new("day", to) };
    let spec = SpoolConfig::new(spec, scratch.join("day.spool"));
    let pattern = sorted_by_dts(test_packets(FPS, 1)?);
    let key = pattern.iter().find(|p| p.track == Track::Video).context("a picture")?;
    let audio = pattern.iter().filter(|p| p.track == Track::Audio).nth(2).context("sound")?;
    let fps = Fps::new(FPS).context("a rate")?;

    let spool = Spool::create(&spec)?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
    let upload = UploadTask::spawn(spool, recorder.wakeup(), Config::default())?;
    // The unlimited queue never blocks the sender, so the test waits for the recorder below.
    let (packets_in, fan_out) = FanOut::spawn(Track::Video)?;
    let subscription = fan_out.subscribe("test", QueueLimit { bytes: usize::MAX, duration: Duration::MAX });
    let thread = recorder.spawn(subscription, None)?;
    let closed =
        || fs::read_to_string(spec.folder.join("recorded.log")).map_or(0, |log| log.lines().count() as i64);
    let mut at_hour = Vec::new();
    let mut frame = -1;
    for second in 0..DAY_S {
        // A still page: a heartbeat each second, a keyframe every four.
        let pts = fps.time_of(second * i64::from(FPS));
        packets_in.send(Packet { pts, dts: pts, keyframe: second % 4 == 0, ..key.clone() })?;
        while frame * AAC_FRAME_SAMPLES < (second + 1) * i64::from(SAMPLE_RATE) {
            let pts = MediaTime::from_index(frame * AAC_FRAME_SAMPLES, SAMPLE_RATE);
            packets_in.send(Packet { pts, dts: pts, ..audio.clone() })?;
            frame += 1;
        }
        if second % 3600 == 3599 {
            wait_until("the segments of the hour are closed", Duration::from_secs(60), || {
                ensure!(closed() >= second / 60 - 2, "{} segments", closed());
                Ok(())
            })?;
            at_hour.push(resident_bytes()?);
        }
    }
    drop(packets_in);
    let summary = thread.join().ok().context("a panic")??;
    let log = fs::read_to_string(spec.folder.join("recorded.log"))?;
    let last: serde_json::Value =
        serde_json::from_str(log.lines().rev().find(|line| line.contains("segment")).context("a segment")?)?;
    ensure!(last["segment"]["index"] == 1439, "{last}");
    ensure!(last["segment"]["start"] == 86_340_000_000_000_i64, "{last}");
    ensure!(
        summary.duration.as_secs_f64() > 86_399.0 && summary.duration.as_secs_f64() < 86_400.1,
        "{summary:?}"
    );
    println!("resident after 1, 12, 24 hours: {:?} MB", [0, 11, 23].map(|h: usize| at_hour[h] >> 20));
    ensure!(at_hour[23] < at_hour[0] + (96 << 20), "memory grows: {at_hour:?}");

    upload.end_input();
    let done = upload.join().context("a panic")?;
    ensure!(done.spool.is_none() && done.files.len() == 2, "{done:?}");
    println!("resident when everything is stored: {} MB", resident_bytes()? >> 20);
    let folder = scratch.join("out/day");
    let file = Recording::open(&folder.join("day_0.mp4"))?;
    ensure!((file.end_s() - 86_399.0).abs() < 1.1, "{} s", file.end_s());
    let pictures = packets(&folder.join("day_0.mp4"), "v:0")?;
    ensure!(pictures.len() as i64 == DAY_S, "{} pictures", pictures.len());
    let times = pictures.iter().map(|p| file.video.seconds(p.pts));
    ensure!(times.enumerate().all(|(second, at)| (at - second as f64).abs() < 1e-6), "times have drifted");
    // The last segment of MPEG-TS, whose clock has 33 bits: 26.5 hours.
    let ts = packets(&folder.join("day_1439.ts"), "v:0")?;
    let first = ts.first().context("a picture")?.pts as f64 / 90_000.0;
    ensure!((first - 86_341.4).abs() < 1e-3, "{first} s");
    let playlist = fs::read_to_string(folder.join("day.m3u8"))?;
    ensure!(playlist.matches("#EXTINF:60.000000,").count() == 1439 && playlist.len() < 100_000);
    Ok(())
}
