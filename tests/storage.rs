//! A page recorded to a storage that checks signatures: through its failures, through those of the cast, and
//! not with wrong keys.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{output_of, program};
use pagecast_testkit::strip::Place;
use pagecast_testkit::{Fault, Pagecast, Recording, S3, Scratch, Server, Signal, Turn};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(120);
const ACCESS: &str = "AKIDHUNTER";
const SECRET: &str = "hunter2hunter2";

fn storage(scratch: &Scratch) -> Result<S3> {
    let server = S3::start(&scratch.join("s3"), ACCESS, SECRET)?;
    server.make_bucket("rec")?;
    Ok(server)
}

/// `pagecast record` of the counter page to the bucket, as `room/talk/…`.
fn record(server: &Server, storage: &S3, secret: &str, spool: &str) -> Pagecast {
    Pagecast::record(PAGECAST, &server.url("counter.html?say"))
        .output(PathBuf::from("s3://rec/room"))
        .with("name", "talk")
        .with("size", "640x360")
        .with("segment", "1s")
        .with("spool", spool)
        .with("storage-endpoint", storage.url())
        .env("AWS_ACCESS_KEY_ID", ACCESS)
        .env("AWS_SECRET_ACCESS_KEY", secret)
}

fn wait_for(storage: &S3, name: &str) -> Result<()> {
    let begin = Instant::now();
    while !storage.objects("rec")?.contains_key(name) {
        ensure!(begin.elapsed() < LIMIT, "no {name}: {:?}", storage.objects("rec")?);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// When the page's pictures in a file were drawn.
fn drawn(storage: &S3, name: &str) -> Result<Vec<f64>> {
    let file = Recording::open(&storage.file("rec", name))?;
    ensure!(file.complaints()?.is_empty(), "{name}: {}", file.complaints()?);
    Ok(file.strips(Place::PAGE)?.iter().filter_map(|p| Some(p.strip?.page_s())).collect())
}

#[test]
fn a_recording_arrives_whole_whoever_fails_meanwhile() -> Result<()> {
    let _turn = Turn::shared()?;
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let storage = storage(&scratch)?;
    let spool = scratch.join("talk.spool");
    let mut run = record(&server, &storage, SECRET, &spool.display().to_string())
        .with("format", "both-ts")
        .with("thumbnails", "2s")
        .flag("manifest")
        .start()?;
    wait_for(&storage, "room/talk/talk_1.ts")?;
    storage.set(Some(Fault::Down));
    server.wait_for("/said/second-6", LIMIT)?;
    run.kill_those_with("run-cast")?;
    server.wait_for_times("/said/second-3", 2, LIMIT)?;
    ensure!(spool.exists(), "nothing is kept of what cannot be stored");
    storage.set(None);
    wait_for(&storage, "room/talk/talk_4.ts")?;
    run.signal(Signal::INT)?;
    let outcome = run.finish(LIMIT)?;
    let report = outcome.report()?;
    ensure!(report.restarts == 1 && !spool.exists(), "{report:?}");
    let stored = report.recording.as_ref().context("no recording")?;
    ensure!(stored["place"] == "s3://rec/room/talk" && stored["status"]["state"] == "stored", "{stored}");
    ensure!(stored["endpoint"] == format!("{}/", storage.url()) && stored["spool"].is_null(), "{stored}");
    for told in [&outcome.stdout, &outcome.stderr] {
        ensure!(!told.contains("hunter2") && !told.contains(ACCESS), "keys are told: {told}");
    }
    let objects = storage.objects("rec")?;
    ensure!(
        objects.contains_key("room/talk/talk_0.jpg") && objects.contains_key("room/talk/talk.json"),
        "{objects:?}"
    );
    ensure!(storage.unfinished()? == 0, "half uploads are left");
    let (file, playlist) =
        (drawn(&storage, "room/talk/talk_0.mp4")?, drawn(&storage, "room/talk/talk.m3u8")?);
    ensure!(file == playlist, "{} pictures in the file, {} in the playlist", file.len(), playlist.len());
    let seam = file.windows(2).position(|pair| pair[1] < pair[0]).context("no second page")?;
    ensure!(file[seam] > 3.0 && file[..=seam].is_sorted() && file[seam + 1..].is_sorted(), "{file:?}");
    Ok(())
}

#[test]
fn wrong_keys_are_told_before_anything_is_recorded() -> Result<()> {
    let _turn = Turn::shared()?;
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let storage = storage(&scratch)?;
    let spool = scratch.join("talk.spool");
    let run = record(&server, &storage, "wrong", &spool.display().to_string()).with("duration", "3s");
    let outcome = run.finish(LIMIT)?;
    outcome.expect_failure(4, &["stored", "127.0.0.1"])?;
    ensure!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    ensure!(!spool.exists() && storage.objects("rec")?.is_empty(), "something was recorded");
    Ok(())
}

#[test]
fn what_could_not_be_stored_is_stored_later() -> Result<()> {
    let _turn = Turn::shared()?;
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let mut storage = storage(&scratch)?;
    let spool = scratch.join("of/the week/talk.spool");
    std::fs::create_dir_all(scratch.join("of/the week"))?;
    storage.stop();
    let outcome = record(&server, &storage, SECRET, &spool.display().to_string())
        .with("duration", "4s")
        .with("storage-patience", "1s")
        .finish(LIMIT)?;
    outcome.expect_failure(4, &["not stored", "nothing listens there", "pagecast recover", "talk.spool"])?;
    ensure!(!outcome.stderr.contains("os error"), "{}", outcome.stderr);
    let kept = outcome.any_report()?.recording.context("no recording")?;
    ensure!(kept["status"]["state"] != "stored" && kept["spool"] == spool.display().to_string(), "{kept}");
    ensure!(!outcome.stdout.contains("os error"), "{}", outcome.stdout);
    storage.restart()?;
    let said = output_of(
        program(PAGECAST)
            .arg("recover")
            // A folder with spools below it.
            .arg(scratch.path())
            .env("AWS_ACCESS_KEY_ID", ACCESS)
            .env("AWS_SECRET_ACCESS_KEY", SECRET),
    )?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.contains("s3://rec/room/talk/talk_0.mp4") && !spool.exists(), "{said}");
    let file = drawn(&storage, "room/talk/talk_0.mp4")?;
    ensure!(file.len() > 90 && file.is_sorted(), "{} pictures", file.len());
    Ok(())
}
