//! What is recorded arrives in storage, exactly once, whatever storage does meanwhile.

#[path = "store/place.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod place;
#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Format, Keys, Media, Recording as Spec, Storage, Vod};
use pagecast_core::{Packet, Track};
use pagecast_media::record::deliver::{self, Config, Delivered, Delivery, State, Status};
use pagecast_media::record::{Added, Error, Recorder, Spool};
use pagecast_testkit::strip::Place;
use pagecast_testkit::vod::BUCKET;
use pagecast_testkit::{Fault, Recording, S3, Scratch, VodServer};

use place::{ACCESS, SECRET, bucket, pace};
use stream::{delivered, in_order, some, tapped, tracks};

const FPS: u32 = 30;
/// Time for anything to be noticed, on a machine that is busy.
const NOTICED: Duration = Duration::from_secs(60);

fn storage(scratch: &Scratch, name: &str) -> Result<S3> {
    let server = S3::start(&scratch.join(name), ACCESS, SECRET)?;
    server.make_bucket("rec")?;
    Ok(server)
}

fn spec(scratch: &Scratch, server: &S3, format: Format) -> Spec {
    let to = Storage::Bucket(bucket(server));
    Spec { format, manifest: true, ..Spec::new("rec", to, scratch.join("rec.spool")) }
}

/// Waits for storage as long as nobody would, but gives up on it soon.
fn config() -> Config {
    Config {
        stuck_after: Duration::from_millis(1500),
        first_pause: Duration::from_millis(50),
        pace: pace(),
        probe: false,
    }
}

/// A recording that is being made and delivered.
struct Running {
    packets: Option<SyncSender<Packet>>,
    recorder: JoinHandle<Result<Added, Error>>,
    delivery: Delivery,
}

impl Running {
    fn start(spec: &Spec, config: Config) -> Result<Self> {
        let spool = Spool::create(spec)?;
        let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
        let delivery = Delivery::spawn(spool, recorder.bell(), config)?;
        let (packets, tap) = tapped(Track::Video)?;
        Ok(Self { packets: Some(packets), recorder: recorder.spawn(tap, None)?, delivery })
    }

    fn send(&self, packets: &[Packet]) -> Result<()> {
        let sender = self.packets.as_ref().context("it is over")?;
        packets.iter().try_for_each(|packet| Ok(sender.send(packet.clone())?))
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Result<()> {
        let begin = Instant::now();
        while !is_so(&self.delivery.status()) {
            ensure!(begin.elapsed() < NOTICED, "not {what}: {:?}", self.delivery.status());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends the recording.
    fn end(&mut self) {
        self.packets = None;
        while !self.recorder.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.delivery.end();
    }

    fn finish(mut self) -> Result<Delivered> {
        self.end();
        self.recorder.join().ok().context("a panic")??;
        Ok(delivered(self.delivery))
    }
}

fn counters(path: &Path) -> Result<Vec<u32>> {
    Ok(Recording::open(path)?.strips(Place::PAGE)?.iter().filter_map(|p| Some(p.strip?.counter)).collect())
}

/// That a bucket holds ten seconds, complete, and nothing else.
fn is_whole(server: &S3) -> Result<()> {
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
    ensure!(server.unfinished()? == 0, "half uploads are left");
    for name in ["rec_0.mp4", "rec.m3u8"] {
        let seen = counters(&server.file("rec", &format!("room/rec/{name}")))?;
        ensure!(seen == (0..300).collect::<Vec<_>>(), "{name}: {seen:?}");
    }
    Ok(())
}

#[test]
fn segments_are_stored_as_they_close_and_the_rest_at_the_end() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = storage(&scratch, "s3")?;
    let spec = spec(&scratch, &server, Format::Both);
    let running = Running::start(&spec, config())?;
    let all = in_order(some(FPS, 10)?);
    let half = all.len() * 6 / 10;
    running.send(&all[..half])?;
    let begin = Instant::now();
    let listed = |name: &str| -> Result<String> {
        let path = server.file("rec", &format!("room/rec/{name}"));
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if text.contains("rec_0.m4s") => return Ok(text),
                _ => ensure!(begin.elapsed() < NOTICED, "no {name}: {:?}", server.objects("rec")?),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    ensure!(!listed("rec_live.m3u8")?.contains("PLAYLIST-TYPE"));
    let event = listed("rec.m3u8")?;
    ensure!(event.contains("PLAYLIST-TYPE:EVENT") && !event.contains("ENDLIST"), "{event}");
    for entry in fs::read_dir(&spec.spool)?.flatten() {
        // What is stored meanwhile is removed.
        let content = fs::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&content);
        ensure!(!text.contains(SECRET) && !text.contains(ACCESS), "{:?} tells the keys", entry.path());
    }
    running.send(&all[half..])?;
    let done = running.finish()?;
    ensure!(done.spool.is_none() && !spec.spool.exists(), "{done:?}");
    ensure!(done.files.iter().map(|f| f.name.as_str()).eq(["rec_0.mp4", "rec.m3u8"]), "{done:?}");
    is_whole(&server)
}

#[test]
fn storage_that_is_away_is_waited_for() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = storage(&scratch, "s3")?;
    server.set(Some(Fault::Down));
    let spec = spec(&scratch, &server, Format::Both);
    let running = Running::start(&spec, config())?;
    running.send(&in_order(some(FPS, 10)?))?;
    running.wait("stuck", |status| status.state == State::Stuck && status.problem.is_some())?;
    server.set(None);
    running.wait("going on", |status| status.state == State::Uploading && status.problem.is_none())?;
    let done = running.finish()?;
    ensure!(done.spool.is_none(), "{done:?}");
    is_whole(&server)
}

#[test]
fn storage_that_is_back_is_tried_at_once_and_its_outage_is_told() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = storage(&scratch, "s3")?;
    server.set(Some(Fault::Down));
    // The pause after the first failure is 45 to 75 s.
    let config = Config { first_pause: Duration::from_secs(60), ..config() };
    let mut running = Running::start(&spec(&scratch, &server, Format::Both), config)?;
    running.send(&in_order(some(FPS, 10)?))?;
    running.end();
    running.wait("told", |status| status.failing_since_unix_ms.is_some() && status.problem.is_some())?;
    server.set(None);
    let back = Instant::now();
    running.wait("back", |status| status.failing_since_unix_ms.is_none() && status.problem.is_none())?;
    ensure!(back.elapsed() < Duration::from_secs(40), "it waited for its pause: {:?}", back.elapsed());
    ensure!(running.finish()?.spool.is_none(), "something is left");
    is_whole(&server)
}

#[test]
fn every_trouble_passes() -> Result<()> {
    for fault in [Fault::Drop, Fault::Error500, Fault::HalfUpload, Fault::Stall, Fault::Slow(40_000)] {
        let scratch = Scratch::new()?;
        let server = storage(&scratch, "s3")?;
        let running = Running::start(&spec(&scratch, &server, Format::Both), config())?;
        let all = in_order(some(FPS, 10)?);
        let (first, rest) = all.split_at(all.len() / 2);
        running.send(first)?;
        server.set(Some(fault));
        running.send(rest)?;
        if !matches!(fault, Fault::Slow(_)) {
            running.wait("noticed", |status| status.problem.is_some())?;
        }
        server.set(None);
        let done = running.finish()?;
        ensure!(done.spool.is_none(), "{fault:?}: {done:?}");
        is_whole(&server).with_context(|| format!("{fault:?}"))?;
    }
    Ok(())
}

#[test]
fn wrong_keys_lose_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = storage(&scratch, "s3")?;
    let mut wrong = bucket(&server);
    wrong.keys = Some(Keys::new(ACCESS, "not this one"));
    let spec = Spec { to: Storage::Bucket(wrong), ..spec(&scratch, &server, Format::Both) };
    let mut running = Running::start(&spec, Config { probe: true, ..config() })?;
    running.wait("refused", |status| status.state == State::Failed)?;
    running.send(&in_order(some(FPS, 10)?))?;
    running.end();
    let done = delivered(running.delivery);
    ensure!(done.spool.as_deref() == Some(spec.spool.as_path()), "{done:?}");
    let problem = done.status.problem.context("a problem")?;
    ensure!(problem.contains("rec") && !problem.contains("not this one"), "{problem}");
    ensure!(server.objects("rec")?.is_empty());
    // Somebody puts it right.
    let mut spool = Spool::open(&spec.spool)?;
    let mut right = Storage::Bucket(bucket(&server));
    ensure!(spool.recording().to == right.without_keys(), "keys are in the spool");
    std::mem::swap(&mut spool.recording_mut().to, &mut right);
    let done = delivered(deliver::recover(Arc::new(spool), config())?);
    ensure!(done.spool.is_none() && !spec.spool.exists(), "{done:?}");
    is_whole(&server)
}

#[test]
fn a_backup_gets_all_of_it() -> Result<()> {
    let scratch = Scratch::new()?;
    let (server, backup) = (storage(&scratch, "s3")?, storage(&scratch, "backup")?);
    let to_backup = Some(Storage::Bucket(bucket(&backup)));
    let spec = Spec { backup: to_backup, ..spec(&scratch, &server, Format::Both) };
    let running = Running::start(&spec, config())?;
    let all = in_order(some(FPS, 10)?);
    let (first, rest) = all.split_at(all.len() * 6 / 10);
    running.send(first)?;
    let begin = Instant::now();
    while !server.objects("rec")?.contains_key("room/rec/rec_0.m4s") {
        ensure!(begin.elapsed() < NOTICED, "nothing is stored");
        std::thread::sleep(Duration::from_millis(10));
    }
    server.set(Some(Fault::Down));
    running.send(rest)?;
    running.wait("on the backup", |status| status.backup && status.state == State::Uploading)?;
    let done = running.finish()?;
    ensure!(done.spool.is_none() && done.status.backup, "{done:?}");
    is_whole(&backup)
}

#[test]
fn nobody_has_to_wait() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = storage(&scratch, "s3")?;
    server.set(Some(Fault::Stall));
    let spec = spec(&scratch, &server, Format::Both);
    let mut running = Running::start(&spec, config())?;
    running.send(&in_order(some(FPS, 10)?))?;
    running.end();
    let begin = Instant::now();
    running.delivery.give_up();
    let done = delivered(running.delivery);
    ensure!(done.spool.is_some() && begin.elapsed() < NOTICED, "{done:?}");
    server.set(None);
    let mut spool = Spool::open(&spec.spool)?;
    spool.recording_mut().to = Storage::Bucket(bucket(&server));
    let done = delivered(deliver::recover(Arc::new(spool), config())?);
    ensure!(done.spool.is_none(), "{done:?}");
    is_whole(&server)
}

#[test]
fn video_on_demand_gets_the_file_and_the_playlist() -> Result<()> {
    let scratch = Scratch::new()?;
    let server = VodServer::start(&scratch.join("vod"), ACCESS, SECRET)?;
    let to = Storage::TencentVod(Vod {
        keys: Some(Keys::new(ACCESS, SECRET)),
        media: Media::HlsMp4,
        endpoint: server.url().parse().ok(),
        storage_endpoint: server.storage().url().parse().ok(),
        ..Vod::default()
    });
    let spec = Spec { format: Format::BothTs, ..Spec::new("rec", to, scratch.join("rec.spool")) };
    let running = Running::start(&spec, Config { probe: true, ..config() })?;
    running.send(&in_order(some(FPS, 10)?))?;
    let done = running.finish()?;
    ensure!(done.spool.is_none() && !spec.spool.exists(), "{done:?}");
    ensure!(done.files.len() == 2, "{done:?}");
    for (file, name) in done.files.iter().zip(["rec_0.mp4", "rec.m3u8"]) {
        ensure!(file.name == name && file.file_id.is_some() && file.bytes > 0, "{file:?}");
        let url = file.url.as_deref().context("an address")?;
        let object = url.split_once("/upload/").context("an upload")?.1;
        let seen = counters(&server.storage().file(BUCKET, &format!("upload/{object}")))?;
        ensure!(seen == (0..300).collect::<Vec<_>>(), "{name}: {} pictures", seen.len());
    }
    ensure!(server.calls("CommitUpload").len() == 2, "each is one medium");
    Ok(())
}
