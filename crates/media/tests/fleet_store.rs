//! A recording begun by one owner and finished by another, with nothing but the ledger and the store of their
//! fleet.

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
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::{Bucket, Format, Recording as Spec, Storage, StorageKeys};
use pagecast_core::{MediaTime, Packet, Track};
use pagecast_media::record::fleet_store::list_folders;
use pagecast_media::record::upload::{self, Config, UploadReport, UploadTask};
use pagecast_media::record::{Error, FleetStore, Recorder, RunSummary, Spool, SpoolConfig};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{InjectedFault, Recording, S3Server, ScratchDir, wait_until};

use storage_fixture::{ACCESS, SECRET, block_on, bucket, transfer_config};
use stream::{sorted_by_dts, subscribed, test_packets, tracks, wait_for_upload};

const FPS: u32 = 30;
/// Longest wait for a condition, for busy machines.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Seconds of a segment, and what the first owner records: two segments and a part of a third.
const SEGMENT_S: u32 = 4;
const FIRST_S: i64 = 10;

/// The recording's storage, and the store of the fleet.
struct Fixture {
    scratch: ScratchDir,
    storage: S3Server,
    fleet: S3Server,
}

impl Fixture {
    fn start() -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let start = |name: &str| -> Result<S3Server> {
            let server = S3Server::start(&scratch.join(name), ACCESS, SECRET)?;
            server.make_bucket("rec")?;
            Ok(server)
        };
        let (storage, fleet) = (start("storage")?, start("fleet")?);
        Ok(Self { scratch, storage, fleet })
    }

    fn fleet_store(&self) -> FleetStore {
        FleetStore { storage: Storage::Bucket(bucket(&self.fleet)), folder: "cast-1".to_owned() }
    }

    fn spec(&self, format: Format) -> SpoolConfig {
        let to = Storage::Bucket(bucket(&self.storage));
        let spec = Spec { format, manifest: true, ..Spec::new("rec", to) };
        let spool = SpoolConfig::new(spec, self.scratch.join("rec.spool"));
        SpoolConfig { store: Some(self.fleet_store()), ..spool }
    }

    fn stored(&self, name: &str) -> PathBuf {
        self.storage.object_path("rec", &format!("room/rec/{name}"))
    }

    /// Names of the copies in the store of the fleet.
    fn copies(&self) -> Result<Vec<String>> {
        Ok(self.fleet.objects("rec")?.into_keys().collect())
    }

    /// Records as the first owner until the ledger has `segments` that others can read, and moves the spool
    /// away. Returns the recording as the next owner gets it.
    fn record_and_lose_spool(&self, format: Format, segments: usize) -> Result<SpoolConfig> {
        let spec = self.spec(format);
        let running = Running::start(&spec)?;
        running.send(test_packets(FPS, FIRST_S)?)?;
        let mut rows = BTreeMap::new();
        running.wait_for_rows(&mut rows, |rows| readable(rows, format) >= segments)?;
        if format.has_hls() {
            wait_until("the playlist is stored", WAIT_TIMEOUT, || {
                let listed = fs::read_to_string(self.stored("rec.m3u8"))?.matches("#EXTINF").count();
                ensure!(listed >= segments, "{listed} segments");
                Ok(())
            })?;
        }
        running.kill()?;
        fs::rename(&spec.folder, self.scratch.join("lost"))?;
        Ok(next_owner(spec, 2, rows))
    }

    fn clear_store(&self) -> Result<()> {
        let folders = block_on(async { Ok(list_folders(&self.fleet_store().storage).await?) })?;
        ensure!(folders.keys().all(|folder| folder == "cast-1"), "{folders:?}");
        block_on(async { Ok(self.fleet_store().clear().await?) })?;
        ensure!(self.copies()?.is_empty(), "{:?}", self.copies()?);
        Ok(())
    }
}

type Rows = BTreeMap<(u8, u32), LedgerRow>;

/// Number of segments that the next owner can read.
fn readable(rows: &Rows, format: Format) -> usize {
    let is_readable = |row: &&LedgerRow| match row {
        LedgerRow::Segment { stored, copied, .. } => {
            *copied || stored.is_some() && (format != Format::BothTs)
        }
        _ => false,
    };
    rows.values().filter(is_readable).count()
}

/// The recording as its next owner gets it.
fn next_owner(spec: SpoolConfig, epoch: u64, rows: Rows) -> SpoolConfig {
    let recording = Spec { resume: true, ..spec.recording };
    SpoolConfig { recording, epoch, earlier: rows.into_values().collect(), has_earlier: true, ..spec }
}

/// Short pauses.
fn upload_config() -> Config {
    let initial_backoff = Duration::from_millis(50);
    Config { initial_backoff, transfer: transfer_config(), ..Config::default() }
}

/// A recording in progress.
struct Running {
    packets: SyncSender<Packet>,
    recorder: JoinHandle<Result<RunSummary, Error>>,
    upload: UploadTask,
}

impl Running {
    fn start(spec: &SpoolConfig) -> Result<Self> {
        let spool = Spool::create(spec)?;
        let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
        let upload = UploadTask::spawn(spool, recorder.wakeup(), upload_config())?;
        let (packets, subscription) = subscribed(Track::Video)?;
        Ok(Self { packets, recorder: recorder.spawn(subscription, None)?, upload })
    }

    fn send(&self, packets: Vec<Packet>) -> Result<()> {
        sorted_by_dts(packets).into_iter().try_for_each(|packet| Ok(self.packets.send(packet)?))
    }

    fn wait_for_rows(&self, rows: &mut Rows, reached: impl Fn(&Rows) -> bool) -> Result<()> {
        let begin = Instant::now();
        while !reached(rows) {
            ensure!(begin.elapsed() < WAIT_TIMEOUT, "{:?} {rows:?}", self.upload.status());
            rows.extend(self.upload.take_ledger_rows().into_iter().map(|row| (row.key(), row)));
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the recording and its upload at once.
    fn kill(self) -> Result<()> {
        self.upload.cancel();
        drop(self.packets);
        self.recorder.join().ok().context("a panic")??;
        ensure!(wait_for_upload(self.upload).spool.is_some(), "everything is stored");
        Ok(())
    }

    fn finish(self) -> Result<UploadReport> {
        drop(self.packets);
        self.recorder.join().ok().context("a panic")??;
        self.upload.end_input();
        Ok(wait_for_upload(self.upload))
    }
}

fn counters(path: &Path) -> Result<Vec<u32>> {
    let file = Recording::open(path).with_context(|| format!("{}", path.display()))?;
    if path.extension().is_some_and(|ending| ending == "mp4") {
        let warnings = file.decoder_warnings()?;
        ensure!(warnings.is_empty(), "{warnings}");
    }
    Ok(file.timecodes(TimecodePosition::PAGE)?.iter().filter_map(|p| Some(p.timecode?.counter)).collect())
}

/// The counters of so many segments of the first owner, and then of a run of so many seconds.
fn expected(segments: u32, then_s: u32) -> Vec<u32> {
    (0..segments * SEGMENT_S * FPS).chain(0..then_s * FPS).collect()
}

#[test]
fn two_owners_make_one_file() -> Result<()> {
    for format in [Format::Mp4, Format::Both, Format::BothTs, Format::HlsTs] {
        let fixture = Fixture::start()?;
        let spec = fixture.record_and_lose_spool(format, 2)?;
        let running = Running::start(&spec)?;
        running.send(test_packets(FPS, 5)?)?;
        let done = running.finish()?;
        ensure!(done.spool.is_none() && !spec.folder.exists(), "{format:?}: {done:?}");
        ensure!(done.missing.is_none(), "{format:?}: {done:?}");
        if format.has_mp4() {
            let played = counters(&fixture.stored("rec_0.mp4"))?;
            ensure!(played == expected(2, 5), "{format:?}: {played:?}");
            ensure!(!fixture.stored("rec_1.mp4").exists(), "a second file");
        }
        if format.has_hls() {
            let played = counters(&fixture.stored("rec.m3u8"))?;
            ensure!(played == expected(2, 5), "{format:?}: {played:?}");
            let text = fs::read_to_string(fixture.stored("rec.m3u8"))?;
            ensure!(text.matches("#EXT-X-DISCONTINUITY\n").count() == 1, "{text}");
        }
        let twice = fixture.storage.write_counts("rec").into_iter();
        let twice: Vec<_> = twice
            .filter(|(name, n)| *n > 1 && !name.ends_with(".m3u8") && !name.ends_with(".json"))
            .collect();
        ensure!(twice.is_empty(), "{format:?}: written twice: {twice:?}");
        fixture.clear_store()?;
    }
    Ok(())
}

#[test]
fn stored_segments_are_found_that_were_not_reported() -> Result<()> {
    for format in [Format::Mp4, Format::Both, Format::BothTs, Format::Hls, Format::HlsTs] {
        let fixture = Fixture::start()?;
        let mut spec = fixture.record_and_lose_spool(format, 2)?;
        // The first owner was lost before it could report its second segment.
        spec.earlier.retain(|row| row.key().0 != 1 || row.key().1 == 0);
        if format.has_hls() {
            // Nobody has a segment that only the playlist has.
            let (path, ending) = (fixture.stored("rec.m3u8"), if format.is_ts() { "ts" } else { "m4s" });
            let text = fs::read_to_string(&path)?;
            fs::write(&path, format!("{text}#EXTINF:4.000000,\nrec_2.{ending}\n"))?;
        }
        let running = Running::start(&spec)?;
        running.send(test_packets(FPS, 5)?)?;
        let done = running.finish()?;
        ensure!(done.spool.is_none() && done.missing.is_none(), "{format:?}: {done:?}");
        for (name, is_made) in [("rec_0.mp4", format.has_mp4()), ("rec.m3u8", format.has_hls())] {
            if is_made {
                let played = counters(&fixture.stored(name))?;
                ensure!(played == expected(2, 5), "{format:?} {name}: {played:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn segments_in_the_recordings_own_storage_are_not_copied() -> Result<()> {
    let fixture = Fixture::start()?;
    let spec = fixture.record_and_lose_spool(Format::Both, 2)?;
    // Segments that the storage has had for long would be copied by now.
    let running = Running::start(&spec)?;
    running.send(test_packets(FPS, 9)?)?;
    let mut rows = BTreeMap::new();
    running.wait_for_rows(&mut rows, |rows| readable(rows, Format::Both) >= 2)?;
    std::thread::sleep(Duration::from_secs(6));
    ensure!(fixture.copies()?.is_empty(), "{:?}", fixture.copies()?);
    let done = running.finish()?;
    ensure!(done.missing.is_none() && done.spool.is_none(), "{done:?}");
    let played = counters(&fixture.stored("rec_0.mp4"))?;
    ensure!(played == expected(2, 9), "{played:?}");
    Ok(())
}

#[test]
fn three_owners_make_one_file_and_the_last_records_nothing() -> Result<()> {
    let fixture = Fixture::start()?;
    let spec = fixture.record_and_lose_spool(Format::Mp4, 2)?;
    let mut rows: Rows = spec.earlier.iter().map(|row| (row.key(), row.clone())).collect();
    let running = Running::start(&spec)?;
    running.send(test_packets(FPS, 6)?)?;
    running.wait_for_rows(&mut rows, |rows| readable(rows, Format::Mp4) >= 3)?;
    running.kill()?;
    fs::rename(&spec.folder, fixture.scratch.join("second"))?;
    let spec = next_owner(spec, 3, rows);
    let done = wait_for_upload(upload::recover(Spool::create(&spec)?, upload_config())?);
    ensure!(done.spool.is_none() && done.missing.is_none(), "{done:?}");
    let played = counters(&fixture.stored("rec_0.mp4"))?;
    ensure!(played == expected(2, SEGMENT_S), "{played:?}");
    ensure!(done.files.len() == 1 && done.files[0].bytes == fs::metadata(fixture.stored("rec_0.mp4"))?.len());
    fixture.clear_store()
}

#[test]
fn a_store_that_is_away_delays_nothing_and_gets_its_copies_later() -> Result<()> {
    let mut fixture = Fixture::start()?;
    fixture.fleet.set_fault(Some(InjectedFault::Down));
    let spec = fixture.spec(Format::BothTs);
    let running = Running::start(&spec)?;
    running.send(test_packets(FPS, FIRST_S)?)?;
    let mut rows = BTreeMap::new();
    let stored = |rows: &Rows| {
        rows.values().filter(|row| matches!(row, LedgerRow::Segment { stored: Some(_), .. })).count()
    };
    running.wait_for_rows(&mut rows, |rows| stored(rows) >= 2)?;
    let status = running.upload.status();
    ensure!(status.problem.is_none() && readable(&rows, Format::BothTs) == 0, "{status:?}");
    fixture.fleet.set_fault(None);
    running.wait_for_rows(&mut rows, |rows| readable(rows, Format::BothTs) >= 2)?;
    running.kill()?;
    fs::rename(&spec.folder, fixture.scratch.join("lost"))?;

    // Finishing waits for it.
    fixture.fleet.set_fault(Some(InjectedFault::Error500));
    let spec = next_owner(spec, 2, rows);
    let upload = upload::recover(Spool::create(&spec)?, upload_config())?;
    wait_until("the failure is noticed", WAIT_TIMEOUT, || {
        ensure!(upload.status().problem.is_some() && !upload.is_finished(), "{:?}", upload.status());
        Ok(())
    })?;
    ensure!(upload.status().state == upload::State::Uploading, "{:?}", upload.status());
    fixture.fleet.restart()?;
    fixture.fleet.set_fault(None);
    let done = wait_for_upload(upload);
    ensure!(done.spool.is_none() && done.missing.is_none(), "{done:?}");
    let played = counters(&fixture.stored("rec_0.mp4"))?;
    ensure!(played == expected(2, 0), "{played:?}");
    Ok(())
}

#[test]
fn a_store_that_refuses_does_not_fail_the_recording() -> Result<()> {
    let fixture = Fixture::start()?;
    let refused = Bucket { keys: Some(StorageKeys::new(ACCESS, "wrong")), ..bucket(&fixture.fleet) };
    let spec = fixture.spec(Format::Mp4);
    let store = Some(FleetStore { storage: Storage::Bucket(refused), ..fixture.fleet_store() });
    let spec = SpoolConfig { store, ..spec };
    let running = Running::start(&spec)?;
    running.send(test_packets(FPS, FIRST_S)?)?;
    let done = running.finish()?;
    ensure!(done.spool.is_none() && done.missing.is_none(), "{done:?}");
    ensure!(counters(&fixture.stored("rec_0.mp4"))? == expected(0, FIRST_S as u32));
    ensure!(fixture.copies()?.is_empty());
    Ok(())
}

#[test]
fn a_lost_copy_is_a_gap_and_is_reported() -> Result<()> {
    let fixture = Fixture::start()?;
    let spec = fixture.record_and_lose_spool(Format::Mp4, 2)?;
    let copies = fixture.copies()?;
    let second = copies.iter().find(|name| name.ends_with("rec_1.m4s")).context("no second segment")?;
    fs::remove_file(fixture.fleet.object_path("rec", second))?;
    let running = Running::start(&spec)?;
    running.send(test_packets(FPS, 5)?)?;
    let done = running.finish()?;
    ensure!(done.spool.is_none(), "{done:?}");
    let missing = done.missing.context("nothing is missing")?;
    ensure!(missing.starts_with("4.0 s of the recording cannot be stored"), "{missing}");
    let path = fixture.stored("rec_0.mp4");
    ensure!(counters(&path)? == expected(1, 5));
    // The gap is one in time.
    let end = Recording::open(&path)?.end_s();
    ensure!((end - 13.0).abs() < 0.2, "{end} s");
    Ok(())
}

#[test]
fn the_first_owner_stores_what_nobody_else_has() -> Result<()> {
    let fixture = Fixture::start()?;
    // The second segment is closed while the store is away, the third one never.
    let spec = fixture.spec(Format::Mp4);
    let running = Running::start(&spec)?;
    let (first, rest): (Vec<_>, Vec<_>) =
        test_packets(FPS, FIRST_S)?.into_iter().partition(|p| p.dts < MediaTime::from_index(5, 1));
    running.send(first)?;
    let mut rows = BTreeMap::new();
    running.wait_for_rows(&mut rows, |rows| readable(rows, Format::Mp4) >= 1)?;
    fixture.fleet.set_fault(Some(InjectedFault::Down));
    running.send(rest)?;
    running.wait_for_rows(&mut rows, |rows| rows.keys().filter(|(kind, _)| *kind == 1).count() >= 2)?;
    running.kill()?;
    fixture.fleet.set_fault(None);
    let lost = fixture.scratch.join("lost");
    fs::rename(&spec.folder, &lost)?;
    let second = next_owner(spec.clone(), 2, rows);
    let running = Running::start(&second)?;
    running.send(test_packets(FPS, 5)?)?;
    let done = running.finish()?;
    ensure!(done.spool.is_none(), "{done:?}");
    ensure!(counters(&fixture.stored("rec_0.mp4"))? == expected(1, 5));
    ensure!(done.missing.is_some_and(|missing| missing.starts_with("4.0 s of the recording")));

    let manifest = fs::read(fixture.stored("rec.json"))?;
    let before = fixture.storage.write_counts("rec");
    let kept = Spool::supersede(&lost)?.context("nothing is left")?;
    ensure!(!lost.exists() && Spool::newest_epoch(&kept)? == Some(1));
    let left = SpoolConfig { folder: kept.clone(), receipt: Some(fixture.scratch.join("left.json")), ..spec };
    let done = wait_for_upload(upload::recover(Spool::open_left(&left)?, upload_config())?);
    ensure!(done.spool.is_none() && !kept.exists(), "{done:?}");
    let names: Vec<_> = done.files.iter().map(|file| file.name.as_str()).collect();
    ensure!(names == ["rec_r1_000000.mp4"], "{names:?}");
    let rest = counters(&fixture.stored("rec_r1_000000.mp4"))?;
    ensure!(rest == (SEGMENT_S * FPS..FIRST_S as u32 * FPS).collect::<Vec<_>>(), "{rest:?}");
    let receipt = UploadReport::read(&fixture.scratch.join("left.json")).context("no receipt")?;
    ensure!(receipt.files == done.files, "{receipt:?}");
    ensure!(fs::read(fixture.stored("rec.json"))? == manifest, "the manifest is another one");
    let after = fixture.storage.write_counts("rec").into_iter();
    let added: Vec<_> = after.filter(|(name, n)| before.get(name) != Some(n)).map(|(name, _)| name).collect();
    ensure!(added.len() == 1 && added[0].ends_with("rec_r1_000000.mp4"), "{added:?}");
    Ok(())
}

#[test]
fn a_recovered_spool_keeps_the_manifest_of_a_later_run() -> Result<()> {
    let fixture = Fixture::start()?;
    let spec = SpoolConfig { store: None, ..fixture.spec(Format::Mp4) };
    let running = Running::start(&spec)?;
    running.send(test_packets(FPS, FIRST_S)?)?;
    let mut rows = BTreeMap::new();
    running.wait_for_rows(&mut rows, |rows| rows.keys().filter(|(kind, _)| *kind == 1).count() >= 2)?;
    running.kill()?;
    let lost = fixture.scratch.join("lost");
    fs::rename(&spec.folder, &lost)?;
    let running = Running::start(&next_owner(spec.clone(), 2, rows))?;
    running.send(test_packets(FPS, 5)?)?;
    ensure!(running.finish()?.spool.is_none());
    let manifest = fs::read(fixture.stored("rec.json"))?;
    // As `pagecast recover` does, which does not know of the later owner.
    let mut spool = Spool::open(&lost)?;
    spool.recording_mut().to = spec.recording.to;
    let done = wait_for_upload(upload::recover(Arc::new(spool), upload_config())?);
    ensure!(done.spool.is_none(), "{done:?}");
    ensure!(counters(&fixture.stored("rec_0.mp4"))? == expected(0, FIRST_S as u32));
    ensure!(fs::read(fixture.stored("rec.json"))? == manifest, "the manifest was replaced");
    Ok(())
}
