//! The memory and disk space that finishing a large recording of another owner takes.

#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::{Recording as Spec, Storage};
use pagecast_core::{MediaTime, Packet, SAMPLE_RATE, Track};
use pagecast_media::record::upload::{self, UploadTask};
use pagecast_media::record::{FleetStore, Recorder, Spool, SpoolConfig};
use pagecast_testkit::ScratchDir;

use stream::{fast_retry_config, subscribed, test_packets, tracks, wait_for_upload};

const FPS: u32 = 30;
/// Segments of one second, and the size of the picture in each.
const SEGMENTS: u32 = 60;
const PICTURE_BYTES: usize = 4 << 20;
/// Samples of an AAC frame.
const AAC_FRAME_SAMPLES: i64 = 1024;
/// Longest wait for the copies, for busy machines.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

/// Resident memory of this process, in bytes.
fn resident_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib * 1024)
}

#[test]
fn a_large_recording_is_finished_with_little_memory_and_disk() -> Result<()> {
    let scratch = ScratchDir::new()?;
    for folder in ["copies", "out"] {
        fs::create_dir(scratch.join(folder))?;
    }
    let to = Storage::Folder(scratch.join("out"));
    let spec = Spec { segment: Duration::from_secs(1), ..Spec::new("rec", to) };
    let store = FleetStore { storage: Storage::Folder(scratch.join("copies")), folder: "cast-1".to_owned() };
    let spec = SpoolConfig { store: Some(store), ..SpoolConfig::new(spec, scratch.join("rec.spool")) };

    let spool = Spool::create(&spec)?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
    let upload = UploadTask::spawn(spool, recorder.wakeup(), fast_retry_config())?;
    let (packets, subscription) = subscribed(Track::Video)?;
    let recorder = recorder.spawn(subscription, None)?;
    let pattern = test_packets(FPS, 1)?;
    let key = pattern.iter().find(|p| p.track == Track::Video).context("a picture")?;
    let sound = pattern.iter().filter(|p| p.track == Track::Audio).nth(2).context("sound")?;
    // Nobody decodes the pictures.
    let data: Vec<u8> = key.data.iter().copied().cycle().take(PICTURE_BYTES).collect();
    let mut frame = 0;
    for second in 0..i64::from(SEGMENTS) + 2 {
        let pts = MediaTime::from_index(second, 1);
        packets.send(Packet { pts, dts: pts, data: data.clone().into(), ..key.clone() })?;
        while frame * AAC_FRAME_SAMPLES < (second + 1) * i64::from(SAMPLE_RATE) {
            let pts = MediaTime::from_index(frame * AAC_FRAME_SAMPLES, SAMPLE_RATE);
            packets.send(Packet { pts, dts: pts, ..sound.clone() })?;
            frame += 1;
        }
    }
    let (mut rows, begin) = (BTreeMap::new(), Instant::now());
    let is_copied = |row: &LedgerRow| matches!(row, LedgerRow::Segment { copied: true, .. });
    while rows.values().filter(|row| is_copied(row)).count() < SEGMENTS as usize {
        ensure!(begin.elapsed() < WAIT_TIMEOUT, "{:?} {:?}", upload.status(), rows.values().last());
        rows.extend(upload.take_ledger_rows().into_iter().map(|row| (row.key(), row)));
        std::thread::sleep(Duration::from_millis(5));
    }
    upload.cancel();
    drop(packets);
    recorder.join().ok().context("a panic")??;
    ensure!(wait_for_upload(upload).spool.is_some());
    fs::remove_dir_all(&spec.folder)?;

    let recording = Spec { resume: true, ..spec.recording };
    let earlier = rows.into_values().collect();
    let spec = SpoolConfig { recording, epoch: 2, earlier, has_earlier: true, ..spec };
    let before = resident_bytes()?;
    let upload = upload::recover(Spool::create(&spec)?, fast_retry_config())?;
    let (mut most_memory, mut most_segments) = (before, 0);
    while !upload.is_finished() {
        most_memory = most_memory.max(resident_bytes()?);
        let files = fs::read_dir(&spec.folder).into_iter().flatten().flatten();
        let segments = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "m4s"));
        most_segments = most_segments.max(segments.count());
        std::thread::sleep(Duration::from_millis(1));
    }
    let done = upload.join().context("a panic")?;
    ensure!(done.spool.is_none() && done.missing.is_none(), "{done:?}");
    ensure!(done.files[0].bytes > u64::from(SEGMENTS) * PICTURE_BYTES as u64, "{done:?}");
    let grown_mb = (most_memory - before) >> 20;
    println!("{grown_mb} MB more, {most_segments} segments at a time");
    ensure!(grown_mb < 48, "memory grows by {grown_mb} MB");
    ensure!(most_segments <= 2, "{most_segments} segments were fetched at a time");
    Ok(())
}
