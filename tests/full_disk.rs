//! On a full disk, commands still work and recordings are kept.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    MachineLock, PageServer, Recording, ScratchDir, ServiceConfig, ServiceProcess, Signal, Tmpfs, wait_until,
};
use serde_json::json;

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Longest wait. Uploads are retried after up to a minute.
const TIMEOUT: Duration = Duration::from_secs(150);

/// Fills a disk to the last byte.
fn fill_disk(disk: &Path) -> Result<()> {
    let mut filler = std::fs::File::create(disk.join("filler"))?;
    for size in [1 << 20, 4096, 1] {
        while filler.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}

#[test]
fn a_cast_is_stopped_and_stored_though_the_disk_is_full() -> Result<()> {
    let _turn = MachineLock::shared()?;
    if !Tmpfs::is_supported_or_skip() {
        return Ok(());
    }
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let disk = Tmpfs::mount(scratch.join("disk"), 256 << 20)?;
    let data = disk.path().join("data").display().to_string();
    // By default no cast starts on a disk as small as this one.
    let config = ServiceConfig {
        casts_toml: "min_free_disk_mib = 0".into(),
        environment: vec![("PAGECAST__DATA", data.clone())],
        ..ServiceConfig::default()
    };
    let mut service = ServiceProcess::start(PAGECAST, &config)?;
    let request = json!({
        "url": server.url("counter.html?report"), "width": 640, "height": 360, "fps": 15,
        "recording": {},
    });
    let made = service.rest("POST", "/v1/casts", Some(&request))?;
    ensure!(made.status == 201, "{}", made.text());
    let id = made.json()?["id"].as_str().context("no id")?.to_owned();
    service.wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    server.wait_for_request("/report/second-6", TIMEOUT)?;
    fill_disk(disk.path())?;
    // Evidence is written too, to reserved space.
    service.signal_matching("--type=renderer", Signal::KILL)?;
    let picture = wait_until("there is evidence on a full disk", TIMEOUT, || {
        let picture = service.rest("GET", &format!("/v1/casts/{id}/evidence/01-crash.png"), None)?;
        ensure!(picture.status == 200, "{}", picture.text());
        Ok(picture)
    })?;
    ensure!(picture.body.ends_with(b"IEND\xae\x42\x60\x82"), "{} bytes of a picture", picture.body.len());
    let stopped = service.rest("POST", &format!("/v1/casts/{id}/stop"), None)?;
    ensure!(stopped.status < 300, "a stop command is refused on a full disk: {}", stopped.text());
    let cast = service.wait_until_cast(&id, "it has ended", TIMEOUT, |cast| cast["state"] == "ended")?;
    // The stop command and the failed write race.
    let reason = cast["end"]["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason == "stopped" || reason == "output-failed", "{cast:#}");
    std::fs::remove_file(disk.path().join("filler"))?;
    let cast = service.wait_until_cast(&id, "it is stored", TIMEOUT, |cast| {
        cast["recording"]["stored"]["files"].as_array().is_some_and(|files| !files.is_empty())
    })?;
    let name = cast["recording"]["stored"]["files"][0]["name"].as_str().context("no name")?;
    let file = find_file(Path::new(&data), name)?;
    let recording = Recording::open(&file)?;
    let last = recording
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .rev()
        .find_map(|p| p.timecode)
        .context("no page")?;
    // The page was six seconds old when the disk became full.
    ensure!(last.page_s() >= 5.5, "the last picture of the page was drawn at {:.2} s", last.page_s());
    ensure!(recording.decoder_warnings()?.is_empty(), "{}", recording.decoder_warnings()?);
    Ok(())
}

/// Finds the file with this name below a folder.
fn find_file(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let file_name = Path::new(name).file_name().context("no name")?.to_owned();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)?.flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == file_name {
                return Ok(entry.path());
            }
        }
    }
    anyhow::bail!("there is no file {name}")
}
