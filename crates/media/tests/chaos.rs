//! Kills a recorder fifty times while its storage fails in every way: every closed segment is stored and
//! plays.

#[path = "store/storage_fixture.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod storage_fixture;
#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_core::spec::{Format, Recording as Spec, Storage};
use pagecast_core::{MediaTime, Track};
use pagecast_media::encode::EndTime;
use pagecast_media::record::upload::{self, Config, UploadTask};
use pagecast_media::record::{Recorder, Spool, SpoolConfig};
use pagecast_media::thumbnail::Jpeg;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{InjectedFault, Recording, S3Server, ScratchDir, command::program};
use serde_json::Value;

use storage_fixture::{ACCESS, MIB, PART_BYTES, SECRET, bucket, transfer_config};
use stream::{encode_audio, encode_video, numbered_tick, sorted_by_dts, subscribed, tracks, wait_for_upload};

const FPS: u32 = 30;
const KILLS: u32 = 50;
/// Variable with the recording and number of a child process.
const CHILD_SPEC_ENV: &str = "PAGECAST_CHAOS";
/// Pictures of one process: more than it can record before it is killed.
const PICTURES_PER_RUN: u32 = 60 * FPS;
/// Every how many processes a thumbnail is so large that it is uploaded in parts: often enough to be killed
/// in the middle, seldom enough for a fast test.
const THUMBNAIL_INTERVAL: u32 = 5;
/// Longest time to close a segment, for busy machines.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn upload_config() -> Config {
    let (stuck_after, initial_backoff) = (Duration::from_secs(600), Duration::from_millis(20));
    Config { stuck_after, initial_backoff, probe: false, transfer: transfer_config() }
}

/// The process that is killed: resumes the recording, many times faster than real time.
#[test]
fn child() -> Result<()> {
    let Ok(arguments) = std::env::var(CHILD_SPEC_ENV) else { return Ok(()) };
    let (spec, folder, life): (Spec, PathBuf, u32) = serde_json::from_str(&arguments)?;
    let ticks = (0..PICTURES_PER_RUN).map(|i| numbered_tick(FPS, i64::from(i), life * PICTURES_PER_RUN + i));
    let end = || EndTime::new(Some(MediaTime::from_index(i64::from(PICTURES_PER_RUN), FPS)));
    let (mut all, _) = encode_video(FPS, ticks.collect::<Result<_>>()?, end())?;
    all.extend(encode_audio(Vec::new(), end())?.0);
    let spool = Spool::create(&SpoolConfig::new(spec, folder))?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
    let _upload = UploadTask::spawn(spool, recorder.wakeup(), upload_config())?;
    let (packets, subscription) = subscribed(Track::Video)?;
    let (thumbnails, thumbnail_receiver) = sync_channel(1);
    let _recording = recorder.spawn(subscription, Some(thumbnail_receiver))?;
    if life.is_multiple_of(THUMBNAIL_INTERVAL) {
        thumbnails.send(Jpeg { at: MediaTime::ZERO, data: vec![life as u8; PART_BYTES as usize + 1] })?;
    }
    for (index, packet) in sorted_by_dts(all).into_iter().enumerate() {
        packets.send(packet)?;
        if index.is_multiple_of(40) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    std::thread::sleep(WAIT_TIMEOUT);
    anyhow::bail!("it was not killed")
}

/// A pseudo-random generator with a fixed seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Closed segments: run and length in pictures, by index.
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

/// Starts processes that resume the same recording while its storage fails, and kills each.
fn kill_recorders(server: &S3Server, spec: &SpoolConfig) -> Result<()> {
    let mut rng = Rng(0x5eed_0000_0000_0001);
    let faults = [
        None,
        Some(InjectedFault::Down),
        Some(InjectedFault::Error500),
        Some(InjectedFault::ResetMidBody),
        Some(InjectedFault::DiscardBody),
        // A part takes more than a second, so processes are killed in the middle of one.
        Some(InjectedFault::Throttled(4 * MIB)),
    ];
    let mut before = 0;
    for life in 0..KILLS {
        server.set_fault(faults[usize::try_from(rng.below(faults.len() as u64))?]);
        let mut child = program(std::env::current_exe()?)
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD_SPEC_ENV, serde_json::to_string(&(&spec.recording, &spec.folder, life))?)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        // Three of four processes are killed after they closed a segment.
        let (started_at, wait) = (Instant::now(), rng.below(4) > 0);
        while wait && closed_segments(&spec.folder).len() == before {
            ensure!(started_at.elapsed() < WAIT_TIMEOUT, "process {life} closed no segment");
            ensure!(child.try_wait()?.is_none(), "process {life} ended by itself");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(rng.below(400)));
        child.kill()?;
        child.wait()?;
        before = closed_segments(&spec.folder).len();
    }
    Ok(())
}

/// Checks that no multipart upload is left, also none of a killed process that never learned its id.
fn ensure_no_uploads_left(server: &S3Server) -> Result<()> {
    let (begun, completed) = (server.request_count("begin"), server.request_count("complete"));
    ensure!(begun > completed, "none of {begun} multipart uploads was interrupted");
    let left = server.pending_uploads()?;
    ensure!(left == 0, "{left} multipart uploads and parts are left");
    Ok(())
}

#[test]
fn fifty_kills_lose_nothing_that_was_closed() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = S3Server::start(&scratch.join("s3"), ACCESS, SECRET)?;
    server.make_bucket("rec")?;
    let to = Storage::Bucket(bucket(&server));
    let base = Spec::new("rec", to.clone());
    let spec =
        Spec { format: Format::Both, resume: true, split: Duration::from_secs(60), manifest: true, ..base };
    let spec = SpoolConfig::new(spec, scratch.join("rec.spool"));
    kill_recorders(&server, &spec)?;
    let closed = closed_segments(&spec.folder);
    server.set_fault(None);
    let mut spool = Spool::open(&spec.folder)?;
    spool.recording_mut().to = to;
    let done = wait_for_upload(upload::recover(Arc::new(spool), upload_config())?);
    ensure!(done.spool.is_none() && !spec.folder.exists(), "{done:?}");
    ensure_no_uploads_left(&server)?;

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
    // The pictures of each process are complete from the first one to at least the end of its closed
    // segments.
    let mut lives: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for counter in &playlist {
        lives.entry(counter / PICTURES_PER_RUN).or_default().push(counter % PICTURES_PER_RUN);
    }
    ensure!(lives.values().all(|seen| seen.iter().copied().eq(0..seen.len() as u32)), "gaps: {lives:?}");
    ensure!(playlist.is_sorted(), "pictures of different processes are mixed");
    let mut runs: BTreeMap<u64, u64> = BTreeMap::new();
    for (run, pictures) in closed.values() {
        *runs.entry(*run).or_default() += pictures;
    }
    // Only processes that recorded something have a run.
    for ((life, seen), (run, pictures)) in lives.iter().zip(&runs) {
        ensure!(seen.len() as u64 >= *pictures, "life {life}, run {run}: {} of {pictures}", seen.len());
    }
    let total: u64 = runs.values().sum();
    println!("{KILLS} kills, {} segments, {} pictures, {total} closed", closed.len(), playlist.len());
    ensure!(lives.len() >= runs.len() && playlist.len() as u64 >= total);
    Ok(())
}
