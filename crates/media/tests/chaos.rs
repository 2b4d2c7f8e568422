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
use pagecast_media::encode::EndTime;
use pagecast_media::record::upload::{self, Config, UploadTask};
use pagecast_media::record::{Recorder, Spool};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{InjectedFault, Recording, S3Server, ScratchDir, command::program};
use serde_json::Value;

use place::{ACCESS, SECRET, bucket, transfer_config};
use stream::{encode_audio, encode_video, numbered_tick, sorted_by_dts, subscribed, tracks, wait_for_upload};

const FPS: u32 = 30;
const KILLS: u32 = 50;
/// Where a child finds what to do.
const CHILD_SPEC_ENV: &str = "PAGECAST_CHAOS";
/// Pictures of one life: far more than it lives to record.
const PICTURES_PER_RUN: u32 = 60 * FPS;
/// Time for one life to close a segment, on a machine that is busy.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn upload_config() -> Config {
    let (stuck_after, first_pause) = (Duration::from_secs(600), Duration::from_millis(20));
    Config { stuck_after, initial_backoff: first_pause, probe: false, transfer: transfer_config() }
}

/// The process that is killed: goes on with the recording, many times as fast as in life.
#[test]
fn child() -> Result<()> {
    let Ok(order) = std::env::var(CHILD_SPEC_ENV) else { return Ok(()) };
    let (spec, life): (Spec, u32) = serde_json::from_str(&order)?;
    let ticks = (0..PICTURES_PER_RUN).map(|i| numbered_tick(FPS, i64::from(i), life * PICTURES_PER_RUN + i));
    let end = || EndTime::new(Some(pagecast_core::MediaTime::from_index(i64::from(PICTURES_PER_RUN), FPS)));
    let (mut all, _) = encode_video(FPS, ticks.collect::<Result<_>>()?, end())?;
    all.extend(encode_audio(Vec::new(), end())?.0);
    let spool = Spool::create(&spec)?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
    let _delivery = UploadTask::spawn(spool, recorder.wakeup(), upload_config())?;
    let (packets, tap) = subscribed(Track::Video)?;
    let _recording = recorder.spawn(tap, None)?;
    for (index, packet) in sorted_by_dts(all).into_iter().enumerate() {
        packets.send(packet)?;
        if index.is_multiple_of(40) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    std::thread::sleep(WAIT_TIMEOUT);
    anyhow::bail!("nobody killed it")
}

/// Numbers that look like nothing, the same every time.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Segments that are closed: their run and length in pictures, by index.
fn closed_segments(spool: &Path) -> BTreeMap<u64, (u64, u64)> {
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

/// Starts recorders that go on with the same recording, while storage fails in all ways, and kills each.
fn kill_recorders(server: &S3Server, spec: &Spec) -> Result<()> {
    let mut dice = Rng(0x5eed_0000_0000_0001);
    let faults = [
        None,
        Some(InjectedFault::Down),
        Some(InjectedFault::Error500),
        Some(InjectedFault::ResetMidBody),
        Some(InjectedFault::DiscardBody),
    ];
    let mut before = 0;
    for life in 0..KILLS {
        server.set_fault(faults[usize::try_from(dice.below(faults.len() as u64))?]);
        let mut child = program(std::env::current_exe()?)
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD_SPEC_ENV, serde_json::to_string(&(spec, life))?)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        // Most of them live long enough to close something, some do not.
        let (begin, patient) = (Instant::now(), dice.below(4) > 0);
        while patient && closed_segments(&spec.spool).len() == before {
            ensure!(begin.elapsed() < WAIT_TIMEOUT, "life {life} closed nothing");
            ensure!(child.try_wait()?.is_none(), "life {life} ended by itself");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(dice.below(400)));
        child.kill()?;
        child.wait()?;
        before = closed_segments(&spec.spool).len();
    }
    Ok(())
}

#[test]
fn fifty_kills_lose_nothing_that_was_closed() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = S3Server::start(&scratch.join("s3"), ACCESS, SECRET)?;
    server.make_bucket("rec")?;
    let to = Storage::Bucket(bucket(&server));
    let base = Spec::new("rec", to.clone(), scratch.join("rec.spool"));
    let spec =
        Spec { format: Format::Both, resume: true, split: Duration::from_secs(60), manifest: true, ..base };
    kill_recorders(&server, &spec)?;
    let at_last = closed_segments(&spec.spool);
    server.set_fault(None);
    let mut spool = Spool::open(&spec.spool)?;
    spool.recording_mut().to = to;
    let done = wait_for_upload(upload::recover(Arc::new(spool), upload_config())?);
    ensure!(done.spool.is_none() && !spec.spool.exists(), "{done:?}");
    ensure!(server.pending_uploads()? == 0 || server.objects("rec")?.len() > 1);

    let folder = server.object_path("rec", "room/rec");
    let counters = |path: &Path| -> Result<Vec<u32>> {
        Ok(Recording::open(path)?
            .timecodes(TimecodePosition::PAGE)?
            .iter()
            .filter_map(|p| Some(p.timecode?.counter))
            .collect())
    };
    let playlist = counters(&folder.join("rec.m3u8"))?;
    let mut files = Vec::new();
    for file in done.files.iter().filter(|file| file.name.ends_with(".mp4")) {
        let path = folder.join(&file.name);
        ensure!(Recording::open(&path)?.decoder_warnings()?.is_empty(), "{}", file.name);
        files.extend(counters(&path)?);
    }
    ensure!(files == playlist, "{} pictures in files, {} in the playlist", files.len(), playlist.len());
    // Each life is there from its first picture on, without a hole, at least as far as its segments were closed.
    let mut lives: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for counter in &playlist {
        lives.entry(counter / PICTURES_PER_RUN).or_default().push(counter % PICTURES_PER_RUN);
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
