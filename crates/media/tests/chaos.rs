//! A recorder that is killed fifty times while its storage fails in every way: all that was closed is stored, and it plays.

#[path = "store/place.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod place;
#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_core::Track;
use pagecast_core::spec::{Format, Recording as Spec, Storage};
use pagecast_media::encode::End;
use pagecast_media::record::deliver::{self, Config, Delivery};
use pagecast_media::record::{Recorder, Spool};
use pagecast_testkit::strip::Place;
use pagecast_testkit::{Fault, Recording, S3, Scratch, command::program};
use serde_json::Value;

use place::{ACCESS, SECRET, bucket, pace};
use stream::{delivered, encode_audio, encode_video, in_order, numbered, tapped, tracks};

const FPS: u32 = 30;
const KILLS: u32 = 50;
/// Where a child finds what to do.
const ORDER: &str = "PAGECAST_CHAOS";
/// Pictures of one life: far more than it lives to record.
const PICTURES: u32 = 60 * FPS;
/// Time for one life to close a segment, on a machine that is busy.
const NOTICED: Duration = Duration::from_secs(60);

fn config() -> Config {
    let (stuck_after, first_pause) = (Duration::from_secs(600), Duration::from_millis(20));
    Config { stuck_after, first_pause, probe: false, pace: pace() }
}

/// The process that is killed: goes on with the recording, many times as fast as in life.
#[test]
fn child() -> Result<()> {
    let Ok(order) = std::env::var(ORDER) else { return Ok(()) };
    let (spec, life): (Spec, u32) = serde_json::from_str(&order)?;
    let ticks = (0..PICTURES).map(|i| numbered(FPS, i64::from(i), life * PICTURES + i));
    let end = || End::new(Some(pagecast_core::MediaTime::of_index(i64::from(PICTURES), FPS)));
    let (mut all, _) = encode_video(FPS, ticks.collect::<Result<_>>()?, end())?;
    all.extend(encode_audio(Vec::new(), end())?.0);
    let spool = Spool::create(&spec)?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
    let _delivery = Delivery::spawn(spool, recorder.bell(), config())?;
    let (packets, tap) = tapped(Track::Video)?;
    let _recording = recorder.spawn(tap, None)?;
    for (index, packet) in in_order(all).into_iter().enumerate() {
        packets.send(packet)?;
        if index.is_multiple_of(40) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    std::thread::sleep(NOTICED);
    anyhow::bail!("nobody killed it")
}

/// Numbers that look like nothing, the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Segments that are closed: their run and length in pictures, by index.
fn closed(spool: &Path) -> BTreeMap<u64, (u64, u64)> {
    let text = fs::read_to_string(spool.join("recorded.log")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter_map(|line| {
            let segment = line.get("segment")?;
            let pictures = (segment["duration"].as_f64()? / 1e9 * f64::from(FPS)).round() as u64;
            Some((segment["index"].as_u64()?, (segment["run"].as_u64()?, pictures)))
        })
        .collect()
}

#[test]
fn fifty_kills_lose_nothing_that_was_closed() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = S3::start(&scratch.join("s3"), ACCESS, SECRET)?;
    server.make_bucket("rec")?;
    let to = Storage::Bucket(bucket(&server));
    let base = Spec::new("rec", to.clone(), scratch.join("rec.spool"));
    let spec =
        Spec { format: Format::Both, resume: true, split: Duration::from_secs(60), manifest: true, ..base };
    let mut dice = Dice(0x5eed_0000_0000_0001);
    let faults = [None, Some(Fault::Down), Some(Fault::Error500), Some(Fault::Drop), Some(Fault::HalfUpload)];
    let mut before = 0;
    for life in 0..KILLS {
        server.set(faults[usize::try_from(dice.below(faults.len() as u64))?]);
        let mut child = program(std::env::current_exe()?)
            .args(["--exact", "child", "--nocapture"])
            .env(ORDER, serde_json::to_string(&(&spec, life))?)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        // Most of them live long enough to close something, some do not.
        let (begin, patient) = (Instant::now(), dice.below(4) > 0);
        while patient && closed(&spec.spool).len() == before {
            ensure!(begin.elapsed() < NOTICED, "life {life} closed nothing");
            ensure!(child.try_wait()?.is_none(), "life {life} ended by itself");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(dice.below(400)));
        child.kill()?;
        child.wait()?;
        before = closed(&spec.spool).len();
    }
    let at_last = closed(&spec.spool);
    server.set(None);
    let mut spool = Spool::open(&spec.spool)?;
    spool.recording_mut().to = to;
    let done = delivered(deliver::recover(Arc::new(spool), config())?);
    ensure!(done.spool.is_none() && !spec.spool.exists(), "{done:?}");
    ensure!(server.unfinished()? == 0 || server.objects("rec")?.len() > 1);

    let folder = server.file("rec", "room/rec");
    let counters = |path: &Path| -> Result<Vec<u32>> {
        Ok(Recording::open(path)?
            .strips(Place::PAGE)?
            .iter()
            .filter_map(|p| Some(p.strip?.counter))
            .collect())
    };
    let playlist = counters(&folder.join("rec.m3u8"))?;
    let mut files = Vec::new();
    for file in done.files.iter().filter(|file| file.name.ends_with(".mp4")) {
        let path = folder.join(&file.name);
        ensure!(Recording::open(&path)?.complaints()?.is_empty(), "{}", file.name);
        files.extend(counters(&path)?);
    }
    ensure!(files == playlist, "{} pictures in files, {} in the playlist", files.len(), playlist.len());
    // Each life is there from its first picture on, without a hole, at least as far as its segments were closed.
    let mut lives: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for counter in &playlist {
        lives.entry(counter / PICTURES).or_default().push(counter % PICTURES);
    }
    ensure!(lives.values().all(|seen| seen.iter().copied().eq(0..seen.len() as u32)), "holes: {lives:?}");
    ensure!(playlist.is_sorted(), "lives are mixed up");
    let mut runs: BTreeMap<u64, u64> = BTreeMap::new();
    for (run, pictures) in at_last.values() {
        *runs.entry(*run).or_default() += pictures;
    }
    // Runs are numbered by those lives that recorded anything.
    for ((life, seen), (run, pictures)) in lives.iter().zip(&runs) {
        ensure!(seen.len() as u64 >= *pictures, "life {life}, run {run}: {} of {pictures}", seen.len());
    }
    let total: u64 = runs.values().sum();
    println!("{KILLS} kills, {} segments, {} pictures, {total} closed", at_last.len(), playlist.len());
    ensure!(lives.len() >= runs.len() && playlist.len() as u64 >= total);
    Ok(())
}
