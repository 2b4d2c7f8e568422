//! A recording goes on without the spool of its earlier owner, as on another machine: nothing that is stored
//! is overwritten, and what is not here does not count as stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    InjectedFault, MachineLock, PageServer, Recording, S3Server, ScratchDir, ServiceConfig, ServiceProcess,
    wait_until,
};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const KEYS: (&str, &str) = ("AKIDHANDOVER", "secret-of-the-bucket");

/// A service that records the counter page to a bucket.
struct Fixture {
    service: ServiceProcess,
    s3: S3Server,
    scratch: ScratchDir,
    _page: PageServer,
    id: String,
}

impl Fixture {
    /// Starts a recording in this format, and waits until it is live.
    fn start(format: &str) -> Result<Self> {
        Self::start_with(format, false)
    }

    /// Starts a recording in this format, with or without a store of the fleet.
    fn start_with(format: &str, has_store: bool) -> Result<Self> {
        let (page, scratch) = (PageServer::start()?, ScratchDir::new()?);
        let s3 = S3Server::start(&scratch.join("s3"), KEYS.0, KEYS.1)?;
        s3.make_bucket("rec")?;
        s3.make_bucket("fleet")?;
        let endpoint = s3.url().replace(':', "%3A").replace('/', "%2F");
        let (key, secret) = KEYS;
        let store = format!(
            "fleet.store = {{ to = \"s3://fleet/store?endpoint={endpoint}\", \
             keys = {{ access_key = \"{key}\", secret_key = \"{secret}\" }} }}"
        );
        let top_level_toml = if has_store { store } else { String::new() };
        let service =
            ServiceProcess::start(PAGECAST, &ServiceConfig { top_level_toml, ..ServiceConfig::default() })?;
        let request = json!({
            "url": page.url("counter.html"), "width": 640, "height": 360, "fps": 15,
            "recording": {
                "to": format!("s3://rec/room?endpoint={endpoint}"),
                "keys": { "access_key": KEYS.0, "secret_key": KEYS.1 },
                "format": format, "segment_s": 1, "manifest": true, "thumbnails_s": 1,
            },
        });
        let made = service.rest("POST", "/v1/casts", Some(&request))?;
        ensure!(made.status == 201, "{}", made.text());
        let id = made.json()?["id"].as_str().context("no id")?.to_owned();
        let fixture = Self { service, s3, scratch, _page: page, id };
        fixture.wait_for_cast("it is live", |cast| cast["state"] == "live")?;
        Ok(fixture)
    }

    fn wait_for_cast(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Result<Value> {
        self.service.wait_until_cast(&self.id, what, TIMEOUT, matches)
    }

    fn object_path(&self, name: &str) -> PathBuf {
        self.s3.object_path("rec", &format!("room/{0}/{0}{name}", self.id))
    }

    fn playlist(&self) -> String {
        std::fs::read_to_string(self.object_path(".m3u8")).unwrap_or_default()
    }

    /// Contents of all stored objects except those that change.
    fn stored_files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let names = self.s3.objects("rec")?.into_keys();
        let kept = names.filter(|name| !name.ends_with(".m3u8") && !name.ends_with(".json"));
        kept.map(|name| Ok((name.clone(), std::fs::read(self.s3.object_path("rec", &name))?))).collect()
    }

    /// Waits until the playlist has this many more segments.
    fn wait_for_segments(&self, more: usize) -> Result<()> {
        let count = || self.playlist().matches("#EXTINF").count();
        let (begin, before) = (Instant::now(), count());
        while count() < before + more {
            ensure!(begin.elapsed() < TIMEOUT, "no more segments than in {}", self.playlist());
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Names of the copies of segments in the store of the fleet.
    fn copies(&self) -> Result<Vec<String>> {
        let is_evidence = |name: &String| name.contains("/evidence/");
        Ok(self.s3.objects("fleet")?.into_keys().filter(|name| !is_evidence(name)).collect())
    }

    /// Waits until the store of the fleet has this many copies whose names contain `part`.
    fn wait_for_copies(&self, part: &str, count: usize) -> Result<()> {
        wait_until("there are copies", TIMEOUT, || {
            let copies = self.copies()?;
            let found = copies.iter().filter(|name| name.contains(part) && name.contains(&self.id)).count();
            ensure!(found >= count, "{copies:?}");
            Ok(())
        })
    }

    /// Puts a spool into the data folder of the service, which does not run, and starts the service.
    fn bring_back(&mut self, spool: &Path) -> Result<()> {
        self.service.stop(STOP_TIMEOUT)?;
        self.service.wait_until_exited(STOP_TIMEOUT)?;
        std::fs::rename(spool, self.spool())?;
        self.service.restart()
    }

    /// Waits until the node has stored a spool that was left, and told so. Returns what is stored then.
    fn wait_for_later_part(&self, file: &str) -> Result<Value> {
        let name = format!("{}{file}", self.id);
        let cast = self.wait_for_cast("the part is stored", |cast| {
            let files = cast["recording"]["stored"]["files"].as_array();
            files.is_some_and(|files| files.iter().any(|file| file["name"] == name))
        })?;
        ensure!(!self.spool().exists(), "the spool was kept");
        Ok(cast["recording"]["stored"].clone())
    }

    fn spool(&self) -> PathBuf {
        self.service.data_folder().join("spool").join(&self.id)
    }

    /// Kills the service and its casts, moves the spool away, and starts the service again. Returns where the
    /// spool is now.
    fn lose_spool(&mut self, name: &str) -> Result<PathBuf> {
        self.service.kill();
        self.service.wait_until_exited(STOP_TIMEOUT)?;
        let lost = self.scratch.join(name);
        std::fs::rename(self.spool(), &lost).context("there is no spool")?;
        Ok(lost)
    }

    /// Stops the cast and waits until nothing is left to do. Returns what was stored, as the API tells it.
    fn stop_cast(&self) -> Result<Value> {
        let stopped = self.service.rest("POST", &format!("/v1/casts/{}/stop", self.id), None)?;
        ensure!(stopped.status < 300, "{}", stopped.text());
        let cast = self.wait_for_cast("it is closed", |cast| cast["closed"] == true)?;
        Ok(cast["recording"]["stored"].clone())
    }

    /// Checks that no object was written twice, except for those that change.
    fn ensure_written_once(&self) -> Result<()> {
        let changing = |name: &str| name.ends_with(".m3u8") || name.ends_with(".json");
        let writes = self.s3.write_counts("rec").into_iter();
        let twice: Vec<_> =
            writes.filter(|(name, count)| *count > 1 && name.contains(&self.id) && !changing(name)).collect();
        ensure!(twice.is_empty(), "written more than once: {twice:?}");
        Ok(())
    }

    /// Checks that all objects of `before` are as they were.
    fn ensure_unchanged(&self, before: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        let after = self.stored_files()?;
        let changed: Vec<_> = before
            .iter()
            .filter(|(name, content)| after.get(*name) != Some(content))
            .map(|(n, _)| n)
            .collect();
        ensure!(changed.is_empty(), "changed: {changed:?}");
        Ok(())
    }

    /// Plays a stored file, or a playlist with all its segments; returns the page's counters in order.
    fn play(&self, name: &str) -> Result<Vec<u32>> {
        let path = self.object_path(name);
        let file = Recording::open(&path).with_context(|| format!("{}", path.display()))?;
        // FFmpeg warns of the second initialization segment of a playlist.
        let warnings = if name.ends_with(".mp4") { file.decoder_warnings()? } else { String::new() };
        ensure!(warnings.is_empty(), "{name}: {warnings}");
        let pictures = file.timecodes(TimecodePosition::PAGE)?;
        Ok(pictures.iter().filter_map(|picture| Some(picture.timecode?.counter)).collect())
    }
}

/// How often the page was loaded again.
fn reloads(counters: &[u32]) -> usize {
    counters.windows(2).filter(|pair| pair[1] < pair[0]).count()
}

#[test]
fn a_recording_goes_on_without_its_spool() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let mut fixture = Fixture::start("both")?;
    fixture.wait_for_segments(3)?;
    let first_spool = fixture.lose_spool("first")?;
    let before = fixture.stored_files()?;
    let listed = fixture.playlist();
    fixture.service.restart()?;
    fixture.wait_for_segments(2)?;
    fixture.ensure_unchanged(&before)?;
    // The earlier owner comes back with its old spool, and the later one's is lost as well.
    fixture.lose_spool("second")?;
    std::fs::rename(&first_spool, fixture.spool())?;
    let before = fixture.stored_files()?;
    fixture.service.restart()?;
    fixture.wait_for_segments(2)?;
    let stored = fixture.stop_cast()?;
    println!("{stored}");
    fixture.ensure_unchanged(&before)?;
    fixture.ensure_written_once()?;

    let playlist = fixture.playlist();
    println!("{playlist}");
    ensure!(playlist.ends_with("#EXT-X-ENDLIST\n"), "{playlist}");
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 2, "{playlist}");
    // The last segment of an owner may have been stored when nobody knew of it yet.
    let names: Vec<&str> = listed.lines().filter(|line| line.ends_with(".m4s")).collect();
    ensure!(
        names.len() >= 3 && names[..names.len() - 1].iter().all(|name| playlist.contains(name)),
        "{names:?}"
    );
    for (epoch, runs) in [("_r2_", 1), ("_r3_", 1)] {
        ensure!(playlist.matches(&format!("{epoch}init")).count() == runs, "{epoch}: {playlist}");
    }
    let counters = fixture.play(".m3u8")?;
    ensure!(reloads(&counters) == 2, "{counters:?}");
    // Each owner's MP4 file is a part of its own; the first two are in spools that are not here.
    let file = fixture.play("_2.mp4")?;
    ensure!(file.len() > 15 && file.is_sorted() && !fixture.object_path("_0.mp4").exists(), "{file:?}");
    ensure!(stored["complete"] == false && stored["files"][0]["name"] == format!("{}_2.mp4", fixture.id));
    let error = stored["error"].as_str().unwrap_or_default();
    ensure!(error.contains("_0.mp4 to ") && error.contains("_1.mp4 cannot be stored"), "{stored}");

    // The spool of the first owner was kept, and the node stores its part. That of the second is found. Each
    // stores its part without touching the rest.
    let kept = PathBuf::from(format!("{}.1", fixture.spool().display()));
    let before = fixture.stored_files()?;
    let stored = fixture.wait_for_later_part("_0.mp4")?;
    ensure!(stored["complete"] == false && !kept.exists(), "{stored}");
    let spool = fixture.scratch.join("second");
    let mut recover = program(PAGECAST);
    recover.arg("recover").arg(&spool);
    recover.env("AWS_ACCESS_KEY_ID", KEYS.0).env("AWS_SECRET_ACCESS_KEY", KEYS.1);
    run_for_output(&mut recover)?;
    fixture.ensure_unchanged(&before)?;
    ensure!(fixture.playlist() == playlist && !spool.exists(), "the playlist is another one");
    for file in ["_0.mp4", "_1.mp4"] {
        let part = fixture.play(file)?;
        ensure!(part.len() > 15 && part.is_sorted(), "{file}: {part:?}");
    }
    fixture.service.stop(STOP_TIMEOUT)?;
    fixture.service.wait_until_exited(STOP_TIMEOUT)
}

#[test]
fn the_next_owner_makes_one_file_with_the_fleets_store() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let mut fixture = Fixture::start_with("mp4", true)?;
    fixture.wait_for_copies("", 3)?;
    // Nobody else can read what is recorded now.
    fixture.s3.set_fault(Some(InjectedFault::Down));
    std::thread::sleep(Duration::from_secs(3));
    let first = fixture.lose_spool("first")?;
    fixture.s3.set_fault(None);
    fixture.service.restart()?;
    fixture.wait_for_copies("_r2_", 2)?;
    fixture.lose_spool("second")?;
    fixture.service.restart()?;
    fixture.wait_for_copies("_r3_", 1)?;
    let stored = fixture.stop_cast()?;
    println!("{stored}");
    let file = fixture.play("_0.mp4")?;
    ensure!(file.len() > 6 * 15 - 15 && reloads(&file) == 2, "{file:?}");
    ensure!(
        !fixture.object_path("_1.mp4").exists() && stored["files"].as_array().is_some_and(|f| f.len() == 1)
    );
    ensure!(stored["complete"] == false, "{stored}");
    ensure!(stored["error"].as_str().is_some_and(|error| error.contains(" s of the recording")), "{stored}");
    fixture.ensure_written_once()?;
    wait_until("the store is empty", TIMEOUT, || {
        ensure!(fixture.copies()?.is_empty(), "{:?}", fixture.copies()?);
        Ok(())
    })?;

    let before = fixture.stored_files()?;
    fixture.bring_back(&first)?;
    let stored = fixture.wait_for_later_part("_r1_000000.mp4")?;
    println!("{stored}");
    ensure!(
        stored["complete"] == true && stored["files"].as_array().is_some_and(|f| f.len() == 2),
        "{stored}"
    );
    fixture.ensure_unchanged(&before)?;
    let part = fixture.play("_r1_000000.mp4")?;
    ensure!(part.len() >= 15 && part.is_sorted() && !file.contains(&part[0]), "{part:?}");
    // The log of the last owner outlives its disk.
    std::fs::remove_dir_all(fixture.service.data_folder().join("evidence").join(&fixture.id))?;
    let evidence = format!("/v1/casts/{}/evidence", fixture.id);
    let listed = fixture.service.rest("GET", &evidence, None)?;
    ensure!(listed.text().contains("/evidence/cast_r3.log"), "{}", listed.text());
    let log = fixture.service.rest("GET", &format!("{evidence}/cast_r3.log"), None)?;
    ensure!(log.status == 200 && log.text().contains("INFO"), "{} {}", log.status, log.text());
    fixture.service.stop(STOP_TIMEOUT)?;
    fixture.service.wait_until_exited(STOP_TIMEOUT)
}

#[test]
fn a_spool_that_is_not_here_does_not_count_as_stored() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let mut fixture = Fixture::start("mp4")?;
    std::thread::sleep(Duration::from_secs(2));
    fixture.s3.set_fault(Some(InjectedFault::Down));
    let stopped = fixture.service.rest("POST", &format!("/v1/casts/{}/stop", fixture.id), None)?;
    ensure!(stopped.status < 300, "{}", stopped.text());
    fixture.wait_for_cast("it has ended", |cast| cast["state"] == "ended")?;
    let spool = fixture.lose_spool("lost")?;
    fixture.s3.set_fault(None);
    fixture.service.restart()?;
    let cast = fixture.wait_for_cast("it is closed", |cast| cast["closed"] == true)?;
    let stored = &cast["recording"]["stored"];
    ensure!(stored["complete"] == false, "{cast:#}");
    ensure!(
        stored["error"].as_str().is_some_and(|error| error.contains("_0.mp4 cannot be stored")),
        "{stored}"
    );
    ensure!(!fixture.object_path("_0.mp4").exists() && spool.exists());

    // The spool comes back, and the node stores what it has.
    fixture.bring_back(&spool)?;
    let stored = fixture.wait_for_later_part("_0.mp4")?;
    ensure!(stored["complete"] == true && stored["error"].is_null(), "{stored}");
    let part = fixture.play("_0.mp4")?;
    ensure!(part.len() > 15 && part.is_sorted(), "{part:?}");
    fixture.service.stop(STOP_TIMEOUT)?;
    fixture.service.wait_until_exited(STOP_TIMEOUT)
}
