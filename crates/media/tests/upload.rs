//! Uploading recordings to storages that fail, recover, or are replaced by a backup.

#[path = "store/storage_fixture.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod storage_fixture;
#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::{Format, Recording as Spec, Storage, StorageKeys, Vod, VodMediaType};
use pagecast_core::{MediaTime, Packet, Track};
use pagecast_media::record::upload::{self, Config, State, Status, UploadReport, UploadTask};
use pagecast_media::record::{Error, Recorder, RunSummary, Spool, SpoolConfig};
use pagecast_media::thumbnail::Jpeg;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::vod::BUCKET;
use pagecast_testkit::{InjectedFault, Recording, S3Server, ScratchDir, VodServer, wait_until};

use storage_fixture::{ACCESS, PART_BYTES, SECRET, bucket, transfer_config};
use stream::{sorted_by_dts, subscribed, test_packets, tracks, wait_for_upload};

const FPS: u32 = 30;
/// Longest wait for a status, for busy machines.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn start_s3(scratch: &ScratchDir, name: &str) -> Result<S3Server> {
    let server = S3Server::start(&scratch.join(name), ACCESS, SECRET)?;
    server.make_bucket("rec")?;
    Ok(server)
}

fn recording_spec(scratch: &ScratchDir, server: &S3Server, format: Format) -> SpoolConfig {
    let spec = Spec { format, manifest: true, ..Spec::new("rec", Storage::Bucket(bucket(server))) };
    SpoolConfig::new(spec, scratch.join("rec.spool"))
}

/// Short pauses, and stuck soon.
fn upload_config() -> Config {
    Config {
        stuck_after: Duration::from_millis(1500),
        initial_backoff: Duration::from_millis(50),
        transfer: transfer_config(),
        probe: false,
    }
}

/// A recording that is running and being uploaded.
struct RunningRecording {
    packets: Option<SyncSender<Packet>>,
    recorder: JoinHandle<Result<RunSummary, Error>>,
    upload: UploadTask,
}

impl RunningRecording {
    fn start(spec: &SpoolConfig, config: Config) -> Result<Self> {
        let spool = Spool::create(spec)?;
        let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
        let upload = UploadTask::spawn(spool, recorder.wakeup(), config)?;
        let (packets, subscription) = subscribed(Track::Video)?;
        Ok(Self { packets: Some(packets), recorder: recorder.spawn(subscription, None)?, upload })
    }

    fn send(&self, packets: &[Packet]) -> Result<()> {
        let sender = self.packets.as_ref().context("the recording has ended")?;
        packets.iter().try_for_each(|packet| Ok(sender.send(packet.clone())?))
    }

    fn wait_for(&self, state: &str, reached: impl Fn(&Status) -> bool) -> Result<()> {
        wait_until(state, WAIT_TIMEOUT, || {
            let status = self.upload.status();
            ensure!(reached(&status), "{status:?}");
            Ok(())
        })
    }

    /// Ends the recording.
    fn end_input(&mut self) -> Result<()> {
        self.packets = None;
        wait_until("the recorder ends", WAIT_TIMEOUT, || {
            ensure!(self.recorder.is_finished(), "it runs");
            Ok(())
        })?;
        self.upload.end_input();
        Ok(())
    }

    fn finish(mut self) -> Result<UploadReport> {
        self.end_input()?;
        self.recorder.join().ok().context("a panic")??;
        Ok(wait_for_upload(self.upload))
    }
}

fn counters(path: &Path) -> Result<Vec<u32>> {
    Ok(Recording::open(path)?
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .filter_map(|p| Some(p.timecode?.counter))
        .collect())
}

/// Checks that a bucket holds a complete recording of ten seconds and nothing else.
fn ensure_complete(server: &S3Server) -> Result<()> {
    let names: Vec<_> = server.objects("rec")?.into_keys().collect();
    let mut wanted = [
        "rec.json",
        "rec.m3u8",
        "rec_0.m4s",
        "rec_0.mp4",
        "rec_1.m4s",
        "rec_2.m4s",
        "rec_init.mp4",
        "rec_live.m3u8",
    ];
    wanted.sort_unstable();
    ensure!(names == wanted.map(|name| format!("room/rec/{name}")), "{names:?}");
    ensure!(server.pending_uploads()? == 0, "unfinished multipart uploads are left");
    for name in ["rec_0.mp4", "rec.m3u8"] {
        let seen = counters(&server.object_path("rec", &format!("room/rec/{name}")))?;
        ensure!(seen == (0..300).collect::<Vec<_>>(), "{name}: {seen:?}");
    }
    Ok(())
}

#[test]
fn segments_are_stored_as_they_close_and_the_rest_at_the_end() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    let spec = recording_spec(&scratch, &server, Format::Both);
    let running = RunningRecording::start(&spec, upload_config())?;
    let all = sorted_by_dts(test_packets(FPS, 10)?);
    let half = all.len() * 6 / 10;
    running.send(&all[..half])?;
    let listed = |name: &str| {
        let path = server.object_path("rec", &format!("room/rec/{name}"));
        wait_until("the playlist has a segment", WAIT_TIMEOUT, || {
            let text = fs::read_to_string(&path)?;
            ensure!(text.contains("rec_0.m4s"), "{text}");
            Ok(text)
        })
    };
    ensure!(!listed("rec_live.m3u8")?.contains("PLAYLIST-TYPE"));
    let event = listed("rec.m3u8")?;
    ensure!(event.contains("PLAYLIST-TYPE:EVENT") && !event.contains("ENDLIST"), "{event}");
    for entry in fs::read_dir(&spec.folder)?.flatten() {
        // Stored files are removed at the same time.
        let content = fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&content);
        ensure!(!text.contains(SECRET) && !text.contains(ACCESS), "{:?} contains the keys", entry.path());
    }
    running.send(&all[half..])?;
    let done = running.finish()?;
    ensure!(done.spool.is_none() && !spec.folder.exists(), "{done:?}");
    ensure!(done.files.iter().map(|f| f.name.as_str()).eq(["rec_0.mp4", "rec.m3u8"]), "{done:?}");
    ensure_complete(&server)
}

#[test]
fn uploads_resume_after_an_outage() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    server.set_fault(Some(InjectedFault::Down));
    let spec = recording_spec(&scratch, &server, Format::Both);
    let running = RunningRecording::start(&spec, upload_config())?;
    running.send(&sorted_by_dts(test_packets(FPS, 10)?))?;
    running.wait_for("stuck", |status| status.state == State::Stuck && status.problem.is_some())?;
    server.set_fault(None);
    running.wait_for("uploading", |status| status.state == State::Uploading && status.problem.is_none())?;
    let done = running.finish()?;
    ensure!(done.spool.is_none(), "{done:?}");
    ensure_complete(&server)
}

#[test]
fn an_outage_is_reported_and_ends_as_soon_as_the_storage_responds() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    server.set_fault(Some(InjectedFault::Down));
    // The pause after the first failure is 45 to 75 s.
    let config = Config { initial_backoff: Duration::from_secs(60), ..upload_config() };
    let mut running = RunningRecording::start(&recording_spec(&scratch, &server, Format::Both), config)?;
    running.send(&sorted_by_dts(test_packets(FPS, 10)?))?;
    running.end_input()?;
    running
        .wait_for("reported", |status| status.failing_since_unix_ms.is_some() && status.problem.is_some())?;
    server.set_fault(None);
    let back = Instant::now();
    running
        .wait_for("resolved", |status| status.failing_since_unix_ms.is_none() && status.problem.is_none())?;
    ensure!(back.elapsed() < Duration::from_secs(40), "it waited for the whole pause: {:?}", back.elapsed());
    ensure!(running.finish()?.spool.is_none(), "something is left");
    ensure_complete(&server)
}

#[test]
fn every_storage_fault_is_survived() -> Result<()> {
    for fault in [
        InjectedFault::ResetMidBody,
        InjectedFault::Error500,
        InjectedFault::DiscardBody,
        InjectedFault::Stall,
        InjectedFault::Throttled(40_000),
    ] {
        let scratch = ScratchDir::new()?;
        let server = start_s3(&scratch, "s3")?;
        let running =
            RunningRecording::start(&recording_spec(&scratch, &server, Format::Both), upload_config())?;
        let all = sorted_by_dts(test_packets(FPS, 10)?);
        let (first, rest) = all.split_at(all.len() / 2);
        running.send(first)?;
        server.set_fault(Some(fault));
        running.send(rest)?;
        if !matches!(fault, InjectedFault::Throttled(_)) {
            running.wait_for("noticed", |status| status.problem.is_some())?;
        }
        server.set_fault(None);
        let done = running.finish()?;
        ensure!(done.spool.is_none(), "{fault:?}: {done:?}");
        ensure_complete(&server).with_context(|| format!("{fault:?}"))?;
    }
    Ok(())
}

#[test]
fn wrong_keys_lose_nothing() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    let mut wrong = bucket(&server);
    wrong.keys = Some(StorageKeys::new(ACCESS, "not this one"));
    let mut spec = recording_spec(&scratch, &server, Format::Both);
    spec.recording.to = Storage::Bucket(wrong);
    let mut running = RunningRecording::start(&spec, Config { probe: true, ..upload_config() })?;
    running.wait_for("refused", |status| status.state == State::Failed)?;
    running.send(&sorted_by_dts(test_packets(FPS, 10)?))?;
    running.end_input()?;
    let done = wait_for_upload(running.upload);
    ensure!(done.spool.as_deref() == Some(spec.folder.as_path()), "{done:?}");
    let problem = done.status.problem.context("a problem")?;
    ensure!(problem.contains("rec") && !problem.contains("not this one"), "{problem}");
    ensure!(server.objects("rec")?.is_empty());
    // An operator corrects the keys.
    let mut spool = Spool::open(&spec.folder)?;
    let mut right = Storage::Bucket(bucket(&server));
    ensure!(spool.recording().to == right.without_keys(), "keys are in the spool");
    std::mem::swap(&mut spool.recording_mut().to, &mut right);
    let done = wait_for_upload(upload::recover(Arc::new(spool), upload_config())?);
    ensure!(done.spool.is_none() && !spec.folder.exists(), "{done:?}");
    ensure_complete(&server)
}

#[test]
fn a_backup_gets_the_whole_recording() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let (server, backup) = (start_s3(&scratch, "s3")?, start_s3(&scratch, "backup")?);
    let mut spec = recording_spec(&scratch, &server, Format::Both);
    spec.recording.backup = Some(Storage::Bucket(bucket(&backup)));
    let running = RunningRecording::start(&spec, upload_config())?;
    let all = sorted_by_dts(test_packets(FPS, 10)?);
    let (first, rest) = all.split_at(all.len() * 6 / 10);
    running.send(first)?;
    wait_until("a segment is stored", WAIT_TIMEOUT, || {
        ensure!(server.objects("rec")?.contains_key("room/rec/rec_0.m4s"), "{:?}", server.objects("rec")?);
        Ok(())
    })?;
    server.set_fault(Some(InjectedFault::Down));
    running.send(rest)?;
    running.wait_for("on the backup", |status| status.backup && status.state == State::Uploading)?;
    let done = running.finish()?;
    ensure!(done.spool.is_none() && done.status.backup, "{done:?}");
    ensure_complete(&backup)
}

#[test]
fn a_cancelled_upload_keeps_its_spool() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    server.set_fault(Some(InjectedFault::Stall));
    let spec = recording_spec(&scratch, &server, Format::Both);
    let mut running = RunningRecording::start(&spec, upload_config())?;
    running.send(&sorted_by_dts(test_packets(FPS, 10)?))?;
    running.end_input()?;
    let begin = Instant::now();
    running.upload.cancel();
    let done = wait_for_upload(running.upload);
    ensure!(done.spool.is_some() && begin.elapsed() < WAIT_TIMEOUT, "{done:?}");
    server.set_fault(None);
    let mut spool = Spool::open(&spec.folder)?;
    spool.recording_mut().to = Storage::Bucket(bucket(&server));
    let done = wait_for_upload(upload::recover(Arc::new(spool), upload_config())?);
    ensure!(done.spool.is_none(), "{done:?}");
    ensure_complete(&server)
}

/// Records a thumbnail of more than one part while the storage has a fault, and cancels the upload when
/// `is_interrupted` holds: this drops the same state as a kill.
fn interrupt_upload(
    server: &S3Server,
    spec: &SpoolConfig,
    fault: InjectedFault,
    is_interrupted: impl Fn() -> Result<bool>,
) -> Result<()> {
    let spool = Spool::create(spec)?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
    let upload = UploadTask::spawn(spool, recorder.wakeup(), upload_config())?;
    let (packets, subscription) = subscribed(Track::Video)?;
    let (thumbnails, thumbnail_receiver) = std::sync::mpsc::sync_channel(1);
    let recorder = recorder.spawn(subscription, Some(thumbnail_receiver))?;
    server.set_fault(Some(fault));
    let data = vec![1; usize::try_from(PART_BYTES)? + 1];
    thumbnails.send(Jpeg { at: MediaTime::ZERO, data })?;
    for packet in sorted_by_dts(test_packets(FPS, 5)?) {
        packets.send(packet)?;
    }
    wait_until("the upload is interrupted", WAIT_TIMEOUT, || {
        ensure!(is_interrupted()?, "{:?}", upload.status());
        Ok(())
    })?;
    drop((packets, thumbnails));
    recorder.join().ok().context("a panic")??;
    upload.cancel();
    let done = wait_for_upload(upload);
    ensure!(done.spool.is_some() && server.pending_uploads()? > 0, "nothing was interrupted: {done:?}");
    server.set_fault(None);
    Ok(())
}

/// Stores the rest, and checks that no multipart upload is left.
fn recover_interrupted_upload(server: &S3Server, spec: &SpoolConfig) -> Result<()> {
    let mut spool = Spool::open(&spec.folder)?;
    spool.recording_mut().to = Storage::Bucket(bucket(server));
    let done = wait_for_upload(upload::recover(Arc::new(spool), upload_config())?);
    ensure!(done.spool.is_none(), "{done:?}");
    ensure!(server.objects("rec")?.contains_key("room/rec/rec_0.jpg"), "{:?}", server.objects("rec")?);
    ensure!(server.pending_uploads()? == 0, "the interrupted upload is left");
    Ok(())
}

/// A recorder's process that is killed in the middle of a multipart upload leaves its parts in the bucket.
#[test]
fn parts_of_an_interrupted_upload_are_aborted_by_the_next_one() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    let spec = recording_spec(&scratch, &server, Format::Hls);
    // The first part takes ten seconds, much longer than this test waits.
    let fault = InjectedFault::Throttled(PART_BYTES / 10);
    interrupt_upload(&server, &spec, fault, || Ok(server.request_count("part") > 0))?;
    recover_interrupted_upload(&server, &spec)
}

/// A process that is killed between the service's response and its log leaves an upload without parts.
#[test]
fn an_upload_whose_id_was_never_logged_is_aborted_by_the_next_one() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    let spec = recording_spec(&scratch, &server, Format::Hls);
    let is_created = || Ok(server.pending_uploads()? > 0);
    interrupt_upload(&server, &spec, InjectedFault::LostUploadId, is_created)?;
    recover_interrupted_upload(&server, &spec)
}

#[test]
fn video_on_demand_gets_the_file_and_the_playlist() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = VodServer::start(&scratch.join("vod"), ACCESS, SECRET)?;
    let to = Storage::TencentVod(Vod {
        keys: Some(StorageKeys::new(ACCESS, SECRET)),
        media: VodMediaType::HlsMp4,
        endpoint: server.url().parse().ok(),
        storage_endpoint: server.storage().url().parse().ok(),
        ..Vod::default()
    });
    let spec = Spec { format: Format::BothTs, ..Spec::new("rec", to) };
    let spec = SpoolConfig::new(spec, scratch.join("rec.spool"));
    let running = RunningRecording::start(&spec, Config { probe: true, ..upload_config() })?;
    running.send(&sorted_by_dts(test_packets(FPS, 10)?))?;
    let done = running.finish()?;
    ensure!(done.spool.is_none() && !spec.folder.exists(), "{done:?}");
    ensure!(done.files.len() == 2, "{done:?}");
    for (file, name) in done.files.iter().zip(["rec_0.mp4", "rec.m3u8"]) {
        ensure!(file.name == name && file.file_id.is_some() && file.bytes > 0, "{file:?}");
        let url = file.url.as_deref().context("an address")?;
        let object = url.split_once("/upload/").context("an upload")?.1;
        let seen = counters(&server.storage().object_path(BUCKET, &format!("upload/{object}")))?;
        ensure!(seen == (0..300).collect::<Vec<_>>(), "{name}: {} pictures", seen.len());
    }
    ensure!(server.calls("CommitUpload").len() == 2, "each is one asset");
    Ok(())
}

/// Contents of all objects in the bucket, except for those that change.
fn stored_files(server: &S3Server) -> Result<BTreeMap<String, Vec<u8>>> {
    let names = server.objects("rec")?.into_keys();
    let kept = names.filter(|name| !name.ends_with(".m3u8") && !name.ends_with(".json"));
    kept.map(|name| Ok((name.clone(), fs::read(server.object_path("rec", &name))?))).collect()
}

/// Records ten seconds, of which two segments are stored and the third is lost with the spool. Returns the
/// recording as its next owner gets it.
fn record_and_lose_spool(scratch: &ScratchDir, server: &S3Server, format: Format) -> Result<SpoolConfig> {
    let spec = recording_spec(scratch, server, format);
    let mut running = RunningRecording::start(&spec, upload_config())?;
    running.send(&sorted_by_dts(test_packets(FPS, 10)?))?;
    let mut rows = BTreeMap::new();
    let is_stored = |row: &LedgerRow| match row {
        LedgerRow::Segment { stored, .. } => stored.is_some() || !format.has_hls(),
        _ => false,
    };
    let begin = Instant::now();
    while rows.values().filter(|row| is_stored(row)).count() < 2 {
        ensure!(begin.elapsed() < WAIT_TIMEOUT, "{rows:?}");
        rows.extend(running.upload.take_ledger_rows().into_iter().map(|row| (row.key(), row)));
        std::thread::sleep(Duration::from_millis(5));
    }
    running.upload.cancel();
    running.packets = None;
    running.recorder.join().ok().context("a panic")??;
    ensure!(wait_for_upload(running.upload).spool.is_some(), "everything is stored");
    fs::rename(&spec.folder, scratch.join("lost"))?;
    let earlier = rows.into_values().collect();
    let recording = Spec { resume: true, ..spec.recording };
    Ok(SpoolConfig { recording, epoch: 2, earlier, has_earlier: true, ..spec })
}

#[test]
fn a_recording_goes_on_from_its_ledger_and_overwrites_nothing() -> Result<()> {
    for (format, segment) in [(Format::Both, "m4s"), (Format::BothTs, "ts")] {
        let scratch = ScratchDir::new()?;
        let server = start_s3(&scratch, "s3")?;
        let spec = record_and_lose_spool(&scratch, &server, format)?;
        let before = stored_files(&server)?;
        let running = RunningRecording::start(&spec, upload_config())?;
        running.send(&sorted_by_dts(test_packets(FPS, 5)?))?;
        let done = running.finish()?;
        ensure!(done.spool.is_none() && !spec.folder.exists(), "{done:?}");
        let after = stored_files(&server)?;
        ensure!(before.iter().all(|(name, content)| after.get(name) == Some(content)), "overwritten");
        let added: Vec<&str> = after
            .keys()
            .filter(|name| !before.contains_key(*name))
            .map(|n| &n["room/rec/".len()..])
            .collect();
        let own = [2, 3].map(|index| format!("rec_r2_{index:06}.{segment}"));
        let init = (segment == "m4s").then(|| "rec_r2_init_1.mp4".to_owned());
        let wanted: Vec<String> = ["rec_1.mp4".to_owned()].into_iter().chain(own).chain(init).collect();
        ensure!(added == wanted, "{added:?}");

        let text = fs::read_to_string(server.object_path("rec", "room/rec/rec.m3u8"))?;
        ensure!(text.matches("#EXT-X-DISCONTINUITY\n").count() == 1 && text.ends_with("ENDLIST\n"), "{text}");
        let whole: Vec<u32> = (0..240).chain(0..150).collect();
        let played = counters(&server.object_path("rec", "room/rec/rec.m3u8"))?;
        ensure!(played == whole, "{format:?}: {played:?}");
        let part = counters(&server.object_path("rec", "room/rec/rec_1.mp4"))?;
        ensure!(part == (0..150).collect::<Vec<_>>(), "{format:?}: {part:?}");
        ensure!(done.files.iter().map(|f| f.name.as_str()).eq(["rec_1.mp4", "rec.m3u8"]), "{done:?}");
        let missing = done.missing.context("nothing is missing")?;
        ensure!(missing.starts_with("rec_0.mp4 cannot be stored"), "{missing}");
    }
    Ok(())
}

#[test]
fn an_owner_without_the_spool_completes_the_playlist() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    let spec = record_and_lose_spool(&scratch, &server, Format::Hls)?;
    let done = wait_for_upload(upload::recover(Spool::create(&spec)?, upload_config())?);
    ensure!(done.spool.is_none() && done.missing.is_none() && !spec.folder.exists(), "{done:?}");
    let path = server.object_path("rec", "room/rec/rec.m3u8");
    ensure!(fs::read_to_string(&path)?.ends_with("rec_1.m4s\n#EXT-X-ENDLIST\n"));
    ensure!(counters(&path)? == (0..240).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_file_of_another_owner_is_not_replaced() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let server = start_s3(&scratch, "s3")?;
    let spec = record_and_lose_spool(&scratch, &server, Format::Mp4)?;
    let taken = server.object_path("rec", "room/rec/rec_1.mp4");
    fs::create_dir_all(taken.parent().context("no folder")?)?;
    fs::write(&taken, "precious")?;
    let mut running = RunningRecording::start(&spec, upload_config())?;
    running.send(&sorted_by_dts(test_packets(FPS, 5)?))?;
    running.end_input()?;
    let done = wait_for_upload(running.upload);
    ensure!(done.spool.is_some() && fs::read(&taken)? == b"precious", "{done:?}");
    ensure!(done.status.problem.is_some_and(|problem| problem.contains("another owner")));
    Ok(())
}
