//! Recordings to an S3 storage: complete despite failures of the storage and of the cast, and refused with
//! wrong keys.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    InjectedFault, MachineLock, PageServer, PagecastCommand, Recording, S3Server, ScratchDir, Signal,
    wait_until,
};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(120);
const ACCESS_KEY: &str = "AKIDHUNTER";
const SECRET_KEY: &str = "hunter2hunter2";

fn start_storage(scratch: &ScratchDir) -> Result<S3Server> {
    let server = S3Server::start(&scratch.join("s3"), ACCESS_KEY, SECRET_KEY)?;
    server.make_bucket("rec")?;
    Ok(server)
}

/// `pagecast record` of the counter page to the bucket, as `room/talk/…`.
fn record_command(server: &PageServer, storage: &S3Server, secret: &str, spool: &str) -> PagecastCommand {
    PagecastCommand::record(PAGECAST, &server.url("counter.html?report"))
        .output(PathBuf::from("s3://rec/room"))
        .option("name", "talk")
        .option("size", "640x360")
        .option("segment", "1s")
        .option("spool", spool)
        .option("storage-endpoint", storage.url())
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", secret)
}

fn wait_for_object(storage: &S3Server, name: &str) -> Result<()> {
    wait_until("it is stored", TIMEOUT, || {
        let objects = storage.objects("rec")?;
        ensure!(objects.contains_key(name), "no {name}: {objects:?}");
        Ok(())
    })
}

/// Page times of the pictures in a stored file, in seconds.
fn page_times_s(storage: &S3Server, name: &str) -> Result<Vec<f64>> {
    let file = Recording::open(&storage.object_path("rec", name))?;
    ensure!(file.decoder_warnings()?.is_empty(), "{name}: {}", file.decoder_warnings()?);
    Ok(file.timecodes(TimecodePosition::PAGE)?.iter().filter_map(|p| Some(p.timecode?.page_s())).collect())
}

#[test]
fn a_recording_is_complete_despite_failures() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let storage = start_storage(&scratch)?;
    let spool = scratch.join("talk.spool");
    let mut run = record_command(&server, &storage, SECRET_KEY, &spool.display().to_string())
        .option("format", "both-ts")
        .option("thumbnails", "2s")
        .flag("manifest")
        .start()?;
    wait_for_object(&storage, "room/talk/talk_1.ts")?;
    storage.set_fault(Some(InjectedFault::Down));
    server.wait_for_request("/report/second-6", TIMEOUT)?;
    run.kill_matching("run-cast")?;
    server.wait_for_requests("/report/second-3", 2, TIMEOUT)?;
    ensure!(spool.exists(), "the spool is gone although uploads fail");
    storage.set_fault(None);
    wait_for_object(&storage, "room/talk/talk_4.ts")?;
    run.signal(Signal::INT)?;
    let outcome = run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    ensure!(report.restarts == 1 && !spool.exists(), "{report:?}");
    let stored = report.recording.as_ref().context("no recording")?;
    ensure!(stored["location"] == "s3://rec/room/talk" && stored["status"]["state"] == "stored", "{stored}");
    ensure!(stored["endpoint"] == format!("{}/", storage.url()) && stored["spool"].is_null(), "{stored}");
    for output in [&outcome.stdout, &outcome.stderr] {
        ensure!(!output.contains("hunter2") && !output.contains(ACCESS_KEY), "keys are printed: {output}");
    }
    let objects = storage.objects("rec")?;
    ensure!(
        objects.contains_key("room/talk/talk_0.jpg") && objects.contains_key("room/talk/talk.json"),
        "{objects:?}"
    );
    ensure!(storage.pending_uploads()? == 0, "multipart uploads are left");
    let (file, playlist) =
        (page_times_s(&storage, "room/talk/talk_0.mp4")?, page_times_s(&storage, "room/talk/talk.m3u8")?);
    ensure!(file == playlist, "{} pictures in the file, {} in the playlist", file.len(), playlist.len());
    let seam = file.windows(2).position(|pair| pair[1] < pair[0]).context("no second page")?;
    ensure!(file[seam] > 3.0 && file[..=seam].is_sorted() && file[seam + 1..].is_sorted(), "{file:?}");
    Ok(())
}

#[test]
fn wrong_keys_are_reported_before_anything_is_recorded() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let storage = start_storage(&scratch)?;
    let spool = scratch.join("talk.spool");
    let run =
        record_command(&server, &storage, "wrong", &spool.display().to_string()).option("duration", "3s");
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_failure(4, &["cannot store", "127.0.0.1"])?;
    ensure!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    ensure!(!spool.exists() && storage.objects("rec")?.is_empty(), "something was recorded");
    Ok(())
}

#[test]
fn a_recording_that_was_not_stored_is_recovered_later() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let mut storage = start_storage(&scratch)?;
    let spool = scratch.join("of/the week/talk.spool");
    std::fs::create_dir_all(scratch.join("of/the week"))?;
    storage.stop();
    let outcome = record_command(&server, &storage, SECRET_KEY, &spool.display().to_string())
        .option("duration", "4s")
        .option("upload-timeout", "1s")
        .finish(TIMEOUT)?;
    outcome
        .expect_failure(4, &["not uploaded", "nothing listens there", "pagecast recover", "talk.spool"])?;
    ensure!(!outcome.stderr.contains("os error"), "{}", outcome.stderr);
    let kept = outcome.parse_report()?.recording.context("no recording")?;
    ensure!(kept["status"]["state"] != "stored" && kept["spool"] == spool.display().to_string(), "{kept}");
    ensure!(!outcome.stdout.contains("os error"), "{}", outcome.stdout);
    storage.restart()?;
    let output = run_for_output(
        program(PAGECAST)
            .arg("recover")
            // A folder with spools in its subfolders.
            .arg(scratch.path())
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    )?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(stderr.contains("s3://rec/room/talk/talk_0.mp4") && !spool.exists(), "{stderr}");
    let file = page_times_s(&storage, "room/talk/talk_0.mp4")?;
    ensure!(file.len() > 90 && file.is_sorted(), "{} pictures", file.len());
    Ok(())
}
