//! `pagecast serve` for its operator and users: configuration, REST API, queue, metrics, shutdown.
//!
//! The life of a cast and the queue are tested on both backends. Fairness and the reasons of failures are
//! tested on PostgreSQL, where they take the longer way; what has nothing to do with the database on SQLite.
//! Draining is tested on SQLite, where a service that drains refuses casts; in a fleet, another node may take
//! them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output, signal_pid};
use pagecast_testkit::service::{ADMIN_TOKEN, APP_ID, CALLBACK_SECRET, SDK_APP_ID};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    Backend, MachineLock, PageServer, PagecastCommand, Recording, ScratchDir, ServiceConfig, ServiceProcess,
    Signal, WebhookReceiver, http, self_signed_certificate, verify, wait_until,
};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the service lets running requests continue when it stops.
const REQUEST_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn one_cast_is_live_and_recorded_and_seen() -> Result<()> {
    check_one_cast(Backend::Sqlite)
}

#[test]
fn one_cast_is_live_and_recorded_and_seen_on_postgres() -> Result<()> {
    check_one_cast(Backend::Postgres)
}

fn check_one_cast(backend: Backend) -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, receiver) = (PageServer::start()?, WebhookReceiver::start()?);
    let config = ServiceConfig { backend, callback_url: Some(receiver.url("")), ..ServiceConfig::default() };
    let mut service = ServiceProcess::start(PAGECAST, &config)?;
    let request = json!({
        "url": server.url("counter.html?do=freeze&after=3000&loads=1&id=rest"),
        "width": 640, "height": 360, "fps": 15,
        "checks": { "freeze_s": 2 },
        "room": { "room": "lecture", "user": "page" },
        "recording": {},
    });
    let made = service.rest("POST", "/v1/casts", Some(&request))?;
    ensure!(made.status == 201, "{}", made.text());
    let id = made.json()?["id"].as_str().context("no id")?.to_owned();
    let cast = service.wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    wait_for_publisher(&cast)?;
    let snapshot = service.rest("GET", &format!("/v1/casts/{id}/snapshot.jpg"), None)?;
    ensure!(snapshot.status == 200 && snapshot.body.starts_with(&[0xff, 0xd8, 0xff]), "{}", snapshot.text());
    wait_for_metrics(&service)?;
    // Evidence of the fault is kept, with the log of the cast.
    receiver.wait_until("it is reloaded", TIMEOUT, |received| {
        received.iter().any(|callback| callback.json()["event"] == "reloaded")
    })?;
    let evidence = service.rest("GET", &format!("/v1/casts/{id}/evidence"), None)?.json()?;
    let names: Vec<&str> =
        evidence["files"].as_array().into_iter().flatten().filter_map(|file| file["name"].as_str()).collect();
    ensure!(
        names.iter().any(|name| name.ends_with("freeze.png")) && names.contains(&"cast.log"),
        "{names:?}"
    );
    wait_until("the log tells of the reload", TIMEOUT, || {
        let log = service.rest("GET", &format!("/v1/casts/{id}/evidence/cast.log"), None)?.text();
        ensure!(log.contains("page live") && log.contains("page reloaded"), "{log}");
        Ok(())
    })?;
    ensure!(
        service.rest("POST", &format!("/v1/casts/{id}/stop"), None)?.status < 300,
        "the cast cannot be stopped"
    );
    let cast = service.wait_until_cast(&id, "it is stored", TIMEOUT, |cast| {
        cast["recording"]["stored"]["files"].as_array().is_some_and(|f| !f.is_empty())
    })?;
    ensure!(cast["state"] == "ended" && cast["end"]["reason"] == "stopped", "{cast:#}");
    let name = cast["recording"]["stored"]["files"][0]["name"].as_str().context("no name")?;
    let file = Recording::open(&find_recording(&service, name)?)?;
    ensure!(
        file.end_s() > 2.0 && file.timecodes(TimecodePosition::PAGE)?.iter().any(|p| p.timecode.is_some()),
        "the recording does not show the page"
    );
    let callbacks = receiver.wait_until("the files are reported", TIMEOUT, |received| {
        received.iter().any(|callback| callback.json()["event"] == "stored")
    })?;
    for callback in &callbacks {
        verify::native(callback, CALLBACK_SECRET)?;
    }
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

#[test]
fn a_drained_service_ends_after_its_casts() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut service = ServiceProcess::start(PAGECAST, &ServiceConfig::default())?;
    let request = json!({
        "url": server.url("counter.html"), "width": 320, "height": 180, "fps": 15, "duration_s": 8,
        "recording": {},
    });
    let made = service.rest("POST", "/v1/casts", Some(&request))?;
    ensure!(made.status == 201, "{}", made.text());
    let id = made.json()?["id"].as_str().context("no id")?.to_owned();
    let cast = service.wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    let drain = format!("/v1/nodes/{}/drain", cast["node"].as_str().context("it has no node")?);
    let authorization = format!("Bearer {ADMIN_TOKEN}");
    let drained = http::request("POST", &service.url(&drain), &[("Authorization", &authorization)], b"")?;
    ensure!(drained.status == 202 && drained.json()?["draining"] == true, "{}", drained.text());
    let ready = http::request("GET", &service.url("/readyz"), &[], b"")?;
    ensure!(ready.status == 503 && ready.text().contains("draining"), "{}", ready.text());
    let refused = service.rest("POST", "/v1/casts", Some(&request))?;
    ensure!(refused.status == 429, "{}", refused.text());
    service.wait_for_exit(TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)?;
    service.restart()?;
    let cast = service.rest("GET", &format!("/v1/casts/{id}"), None)?.json()?;
    ensure!(cast["end"]["reason"] == "complete" && cast["node"].is_null(), "{cast:#}");
    ensure!(
        cast["recording"]["stored"]["complete"] == true,
        "it was stored before the service ended: {cast:#}"
    );
    service.stop(STOP_TIMEOUT)
}

/// Waits until a publisher is in the room of the cast.
fn wait_for_publisher(cast: &Value) -> Result<()> {
    let watch =
        cast["room"]["watch_url"].as_str().with_context(|| format!("no room in {cast:#}"))?.to_owned();
    let stats = format!("{watch}/stats");
    wait_until("there is a publisher", TIMEOUT, || {
        let stats = http::request("GET", &stats, &[], b"")?.json()?;
        let publishers = stats["publishers"].as_array().map_or(0, Vec::len);
        ensure!(publishers == 1, "{publishers} publishers at {watch}");
        Ok(())
    })
}

/// One port and one certificate serve the API, the rooms and their viewers. Casts of the service publish
/// although the certificate is not for the address that they would use.
#[test]
fn a_viewer_watches_through_the_one_port_over_tls() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (pages, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let (certificate, key) = self_signed_certificate(scratch.path())?;
    let environment = vec![("PAGECAST__ROOMS__SECRET", "secret-of-the-rooms".to_owned())];
    let tls = Some((certificate.clone(), key));
    let config = ServiceConfig { tls, environment, ..ServiceConfig::default() };
    let mut service = ServiceProcess::start(PAGECAST, &config)?;
    let request = json!({
        "url": pages.url("counter.html"), "width": 640, "height": 360, "fps": 15,
        "room": { "room": "lecture", "user": "page" },
    });
    let made = service.rest("POST", "/v1/casts", Some(&request))?;
    let id = made.json()?["id"].as_str().with_context(|| made.text())?.to_owned();
    let cast = service.wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    let watch = cast["room"]["watch_url"].as_str().with_context(|| format!("no room in {cast:#}"))?;
    let (room, token) = watch.split_once('?').context("no token")?;
    ensure!(room.starts_with(&service.url("/rooms/")), "it is not on the port of the API: {watch}");
    let page = http::request("GET", watch, &[], b"")?;
    ensure!(page.header("content-security-policy").is_some(), "{page:?}");
    ensure!(page.header("x-request-id").is_none(), "{page:?}");
    let refused = http::request("GET", &format!("{room}/stats"), &[], b"")?;
    ensure!(refused.status == 401, "statistics without a token: {}", refused.text());
    // Browsers that verify the certificate, which is for this name only.
    let browser = |url: &str| {
        let command = PagecastCommand::record(PAGECAST, &url.replace("//127.0.0.1:", "//localhost:"));
        command.option("size", "640x424").option("ca", certificate.display()).flag("allow-udp")
    };
    let _viewer_page = browser(watch).option("duration", "120s").start()?;
    service.wait_until_cast(&id, "it is watched", TIMEOUT, |cast| cast["room"]["viewers"] == 1)?;
    let url = pages.url(&format!("whep-viewer.html?whep={room}/whep?{token}"));
    let viewer = browser(&url).option("duration", "3s").flag("wait-for-start").finish(TIMEOUT)?;
    let watched = TimecodePosition { x: 0, y: 64, cell_size: 8 };
    let shown = viewer.recording()?.timecodes(watched)?;
    ensure!(shown.iter().any(|picture| picture.timecode.is_some()), "the viewer shows nothing of the page");
    // The event stream of the viewer page, which is still open, does not delay the end of the service.
    let begin = Instant::now();
    service.stop(STOP_TIMEOUT)?;
    ensure!(begin.elapsed() < REQUEST_DRAIN_TIMEOUT, "the end took {:?}", begin.elapsed());
    service.wait_until_exited(STOP_TIMEOUT)
}

fn wait_for_metrics(service: &ServiceProcess) -> Result<()> {
    let admin = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("Authorization", admin.as_str())];
    wait_until("the metrics have the cast", TIMEOUT, || {
        let metrics = http::request("GET", &service.url("/metrics"), &headers, b"")?.text();
        for line in ["pagecast_casts{state=\"live\"} 1.0", "pagecast_cast_fps{", "pagecast_cast_cpu_cores{"] {
            ensure!(metrics.contains(line), "no {line} in {metrics}");
        }
        Ok(())
    })
}

/// Finds the file with this name below the recordings of the service.
fn find_recording(service: &ServiceProcess, name: &str) -> Result<std::path::PathBuf> {
    let mut folders = vec![service.data_folder().join("recordings")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)?.flatten() {
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == name {
                return Ok(entry.path());
            }
        }
    }
    anyhow::bail!("there is no file {name}")
}

/// A vendor's API has only a code for a failure; the log and the REST API have the reason, without flags of
/// the command line.
#[test]
fn a_failure_is_reported_with_its_reason() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let config = ServiceConfig { backend: Backend::Postgres, ..ServiceConfig::default() };
    let service = ServiceProcess::start(PAGECAST, &config)?;
    let page = "http://10.1.2.3:81/";
    let bucket = json!({ "Vendor": 0, "Region": "r", "Bucket": "b-1", "AccessKey": "a", "SecretKey": "s" });
    let record =
        json!({ "SdkAppId": SDK_APP_ID, "RecordUrl": page, "StorageParams": { "CloudStorage": bucket } });
    let (good, started) = service.call("StartWebRecord", &record)?;
    let record = started["Response"]["TaskId"].as_str().context("no TaskId")?.to_owned();
    let webcast =
        json!({ "AppId": APP_ID, "RoomId": "r", "TaskId": "chosen-by-us", "UserId": "u", "SourceURL": page });
    ensure!(good && service.call("StartWebcast", &webcast)?.0, "a task was refused");
    let casts = service.rest("GET", "/v1/casts?api=volcengine", None)?.json()?;
    let webcast = casts["casts"][0]["id"].as_str().context("no cast")?.to_owned();
    for (id, task) in [(&record, record.as_str()), (&webcast, "chosen-by-us")] {
        let cast = service.wait_until_cast(id, "it has failed", TIMEOUT, |cast| cast["state"] == "ended")?;
        let message = cast["end"]["message"].as_str().context("no message")?;
        ensure!(cast["end"]["reason"] == "start-failed", "{cast:#}");
        ensure!(message.contains("10.1.2.3 is not a public address, and"), "{message}");
        let log = service.log();
        let line = log.lines().find(|line| line.contains("cast failed") && line.contains(task));
        let line = line.with_context(|| format!("no line about {task} in {log}"))?;
        ensure!(
            line.contains(message) && line.contains("start-failed") && line.contains(id.as_str()),
            "{line}"
        );
        ensure!(!log.contains("--allow-net"), "{log}");
    }
    let endpoint = format!("endpoint {}, protocol http,", service.host());
    ensure!(service.log().contains(&endpoint), "SDKs want it without http://: {}", service.log());
    Ok(())
}

#[test]
fn a_cast_without_capacity_is_queued_and_then_fails() -> Result<()> {
    check_queue(Backend::Sqlite)
}

#[test]
fn a_cast_without_capacity_is_queued_and_then_fails_on_postgres() -> Result<()> {
    check_queue(Backend::Postgres)
}

fn check_queue(backend: Backend) -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let casts = "max_running = 1\nqueue_timeout_s = 4\nmax_queued_casts = 1".to_owned();
    let config = ServiceConfig { backend, casts_toml: casts, ..ServiceConfig::default() };
    let mut service = ServiceProcess::start(PAGECAST, &config)?;
    let request =
        json!({ "url": server.url("static.html"), "width": 320, "height": 180, "fps": 5, "recording": {} });
    let make = || -> Result<http::Response> { service.rest("POST", "/v1/casts", Some(&request)) };
    let id = |made: &http::Response| -> Result<String> {
        Ok(made.json()?["id"].as_str().with_context(|| made.text())?.to_owned())
    };
    let first = id(&make()?)?;
    service.wait_until_cast(&first, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    let second = id(&make()?)?;
    let third = make()?;
    ensure!(third.status == 429 && third.header("retry-after").is_some(), "{}", third.text());
    let cast = service
        .wait_until_cast(&second, "it has waited long enough", TIMEOUT, |cast| cast["state"] == "ended")?;
    ensure!(cast["end"]["reason"] == "start-failed", "{cast:#}");
    // A queued cast starts when there is capacity.
    let fourth = id(&make()?)?;
    ensure!(
        service.rest("POST", &format!("/v1/casts/{first}/stop"), None)?.status < 300,
        "the cast cannot be stopped"
    );
    service.wait_until_cast(&fourth, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

/// Creates a second application as administrator and returns its token.
fn another_application(service: &ServiceProcess) -> Result<String> {
    let create = |path: &str, body: Value| service.rest_as(ADMIN_TOKEN, "POST", path, Some(&body));
    let settings = json!({ "network": { "allow": ["127.0.0.0/8"] } });
    let made = create("/v1/applications", json!({ "name": "other", "settings": settings }))?;
    ensure!(made.status == 201, "{}", made.text());
    let made = create("/v1/applications/other/tokens", json!({}))?.json()?;
    Ok(made["token"].as_str().with_context(|| made.to_string())?.to_owned())
}

#[test]
fn a_stop_reaches_a_cast_that_hangs() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut service = ServiceProcess::start(PAGECAST, &ServiceConfig::default())?;
    let request = json!({
        "url": server.url("counter.html?report"), "width": 320, "height": 180, "fps": 15, "recording": {},
    });
    let made = service.rest("POST", "/v1/casts", Some(&request))?;
    let id = made.json()?["id"].as_str().with_context(|| made.text())?.to_owned();
    service.wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    server.wait_for_request("/report/second-3", TIMEOUT)?;
    service.signal_matching("run-cast", Signal::STOP)?;
    ensure!(
        service.rest("POST", &format!("/v1/casts/{id}/stop"), None)?.status < 300,
        "the cast cannot be stopped"
    );
    let cast = service.wait_until_cast(&id, "it is stored", TIMEOUT, |cast| {
        cast["recording"]["stored"]["files"].as_array().is_some_and(|files| !files.is_empty())
    })?;
    ensure!(cast["state"] == "ended" && cast["end"]["reason"] == "stopped", "{cast:#}");
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

#[test]
fn it_starts_without_configuration_and_reports_invalid_ones() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let check = |config: &str| -> Result<std::process::Output> {
        let path = scratch.join("pagecast.toml");
        std::fs::write(&path, config)?;
        let mut command = program(PAGECAST);
        command
            .args(["serve", "--check-config", "--config"])
            .arg(path)
            .arg("--data")
            .arg(scratch.join("data"));
        Ok(command.output()?)
    };
    let text = |output: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let valid = check("")?;
    ensure!(valid.status.success() && text(&valid).contains("configuration valid"), "{}", text(&valid));
    for (config, words) in [
        ("lisen = \"127.0.0.1:1\"", "listen"),
        ("[casts]\nretention_h = 3", "72"),
        ("listen = \"0.0.0.0:8080\"", "demo"),
        ("[tls]\ncertificate = \"/nowhere\"\nkey = \"/nowhere\"", "/nowhere"),
    ] {
        let invalid = check(config)?;
        ensure!(invalid.status.code() == Some(2), "{config}: {:?}", invalid.status);
        ensure!(text(&invalid).contains(words), "{config}: {}", text(&invalid));
    }
    std::fs::remove_file(scratch.join("pagecast.toml"))?;
    // The service keeps its generated keys across restarts.
    let mut service = UnconfiguredService::start(&scratch)?;
    let keys = std::fs::read_to_string(scratch.join("data/credentials.json"))?;
    service.verify_api()?;
    service.stop()?;
    let mut service = UnconfiguredService::start(&scratch)?;
    ensure!(std::fs::read_to_string(scratch.join("data/credentials.json"))? == keys, "the keys have changed");
    service.verify_api()?;
    service.stop()
}

/// A service without a configuration except its ports.
struct UnconfiguredService {
    child: std::process::Child,
    port: u16,
    credentials: std::path::PathBuf,
}

impl UnconfiguredService {
    fn start(scratch: &ScratchDir) -> Result<Self> {
        let port = pagecast_testkit::rtmp::free_port()?;
        let mut command = program(PAGECAST);
        command.current_dir(scratch.path());
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data", "data"]);
        command.env("PAGECAST_ADMIN_TOKEN", ADMIN_TOKEN);
        command.stderr(std::process::Stdio::null());
        let service =
            Self { child: command.spawn()?, port, credentials: scratch.join("data/credentials.json") };
        wait_until("the service is ready", TIMEOUT, || {
            let answer = http::request("GET", &format!("http://127.0.0.1:{port}/readyz"), &[], b"")?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(())
        })?;
        Ok(service)
    }

    /// Calls each API with the generated keys.
    fn verify_api(&self) -> Result<()> {
        for action in ["GET /v1/casts", "DescribeWebRecord"] {
            let mut command = program(PAGECAST);
            command.args([
                "call",
                action,
                "--endpoint",
                &format!("http://127.0.0.1:{}", self.port),
                "--credentials",
            ]);
            command.arg(&self.credentials);
            if action == "DescribeWebRecord" {
                let refused = command.output()?;
                let stdout = String::from_utf8_lossy(&refused.stdout).into_owned();
                ensure!(
                    refused.status.code() == Some(2) && stdout.contains("MissingParameter.TaskId"),
                    "{stdout}"
                );
            } else {
                run_for_output(&mut command)?;
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        signal_pid(self.child.id(), Signal::TERM)?;
        ensure!(self.child.wait()?.success(), "the service ended with an error");
        Ok(())
    }
}

impl Drop for UnconfiguredService {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Tests of the capacity of an idle machine, so they need it for themselves.
mod exclusive {
    use super::*;

    #[test]
    fn a_cast_that_is_too_large_does_not_delay_other_tenants() -> Result<()> {
        let _turn = MachineLock::exclusive()?;
        let server = PageServer::start()?;
        // On every machine: capacity for some small casts, and none for the large one beside another.
        let cores = std::thread::available_parallelism()?.get() as f64;
        let share = (1.8 / cores).max(0.1).to_string();
        let environment = vec![("PAGECAST__CASTS__CPU_SHARE", share)];
        let casts = "queue_timeout_s = 60".to_owned();
        let config = ServiceConfig {
            backend: Backend::Postgres,
            casts_toml: casts,
            environment,
            ..ServiceConfig::default()
        };
        let mut service = ServiceProcess::start(PAGECAST, &config)?;
        let cast = |width: u32, height: u32, fps: u32, room: &str| {
            let room = json!({ "room": room, "user": "page" });
            let url = server.url("static.html");
            json!({ "url": url, "width": width, "height": height, "fps": fps, "room": room })
        };
        let id = |made: http::Response| -> Result<String> {
            Ok(made.json()?["id"].as_str().with_context(|| made.text())?.to_owned())
        };
        let small = id(service.rest("POST", "/v1/casts", Some(&cast(160, 90, 5, "a")))?)?;
        service.wait_until_cast(&small, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
        let large = id(service.rest("POST", "/v1/casts", Some(&cast(3840, 2160, 60, "b")))?)?;
        let token = another_application(&service)?;
        let others = service.rest_as(&token, "POST", "/v1/casts", Some(&cast(160, 90, 5, "c")))?;
        let path = format!("/v1/casts/{}", id(others)?);
        wait_until("another tenant's small cast is live", TIMEOUT, || {
            let cast = service.rest_as(&token, "GET", &path, None)?.json()?;
            ensure!(cast["state"] == "live", "{cast:#}");
            Ok(())
        })?;
        let waiting = service.rest("GET", &format!("/v1/casts/{large}"), None)?.json()?;
        ensure!(waiting["state"] == "queued", "{waiting:#}");
        service.stop(STOP_TIMEOUT)?;
        service.wait_until_exited(STOP_TIMEOUT)
    }
}
