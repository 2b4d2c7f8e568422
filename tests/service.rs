//! `pagecast serve` as its operator and its users have it: started with nothing, looked at, asked by REST,
//! ended.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output, signal_pid};
use pagecast_testkit::service::{ADMIN_TOKEN, APP_ID, CALLBACK_SECRET, SDK_APP_ID};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    MachineLock, PageServer, Recording, ScratchDir, ServiceConfig, ServiceProcess, Signal, WebhookReceiver,
    http, verify,
};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until the REST API says this of a cast.
fn wait_for_cast(
    service: &ServiceProcess,
    id: &str,
    what: &str,
    like: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let begin = Instant::now();
    loop {
        let cast = service.rest("GET", &format!("/v1/casts/{id}"), None)?.json()?;
        if like(&cast) {
            return Ok(cast);
        }
        ensure!(begin.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {what}; it is {cast:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn one_cast_is_live_and_recorded_and_seen() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, receiver) = (PageServer::start()?, WebhookReceiver::start()?);
    let setup = ServiceConfig { callback_url: Some(receiver.url("")), ..ServiceConfig::default() };
    let mut service = ServiceProcess::start(PAGECAST, &setup)?;
    let wish = json!({
        "url": server.url("counter.html?do=freeze&after=3000&loads=1&id=rest"),
        "width": 640, "height": 360, "fps": 15,
        "checks": { "freeze_s": 2 },
        "room": { "room": "lecture", "user": "page" },
        "recording": {},
    });
    let made = service.rest("POST", "/v1/casts", Some(&wish))?;
    ensure!(made.status == 201, "{}", made.text());
    let id = made.json()?["id"].as_str().context("no id")?.to_owned();
    let cast = wait_for_cast(&service, &id, "it is live", |cast| cast["state"] == "live")?;
    wait_for_publisher(&cast)?;
    let snapshot = service.rest("GET", &format!("/v1/casts/{id}/snapshot.jpg"), None)?;
    ensure!(snapshot.status == 200 && snapshot.body.starts_with(&[0xff, 0xd8, 0xff]), "{}", snapshot.text());
    wait_for_metrics(&service)?;
    // What was wrong with the page is kept, with the log of the cast.
    receiver.wait_until("it is loaded again", TIMEOUT, |told| {
        told.iter().any(|told| told.json()["event"] == "reloaded")
    })?;
    let evidence = service.rest("GET", &format!("/v1/casts/{id}/evidence"), None)?.json()?;
    let names: Vec<&str> =
        evidence["files"].as_array().into_iter().flatten().filter_map(|file| file["name"].as_str()).collect();
    ensure!(
        names.iter().any(|name| name.ends_with("freeze.png")) && names.contains(&"cast.log"),
        "{names:?}"
    );
    let log = || {
        Ok::<_, anyhow::Error>(
            service.rest("GET", &format!("/v1/casts/{id}/evidence/cast.log"), None)?.text(),
        )
    };
    let begin = Instant::now();
    while !(log()?.contains("the page is live") && log()?.contains("the page is loaded again")) {
        ensure!(begin.elapsed() < TIMEOUT, "{}", log()?);
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(
        service.rest("POST", &format!("/v1/casts/{id}/stop"), None)?.status < 300,
        "it cannot be stopped"
    );
    let cast = wait_for_cast(&service, &id, "it is stored", |cast| {
        cast["recording"]["stored"]["files"].as_array().is_some_and(|f| !f.is_empty())
    })?;
    ensure!(cast["state"] == "ended" && cast["end"]["reason"] == "stopped", "{cast:#}");
    let name = cast["recording"]["stored"]["files"][0]["name"].as_str().context("no name")?;
    let file = Recording::open(&find_recording(&service, name)?)?;
    ensure!(
        file.end_s() > 2.0 && file.timecodes(TimecodePosition::PAGE)?.iter().any(|p| p.timecode.is_some()),
        "nothing is in it"
    );
    let told = receiver.wait_until("the files are told", TIMEOUT, |told| {
        told.iter().any(|told| told.json()["event"] == "stored")
    })?;
    for told in &told {
        verify::native(told, CALLBACK_SECRET)?;
    }
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

/// The room is where it says.
fn wait_for_publisher(cast: &Value) -> Result<()> {
    let watch =
        cast["room"]["watch_url"].as_str().with_context(|| format!("no room in {cast:#}"))?.to_owned();
    let stats = format!("{watch}/stats");
    let publishes = || -> Result<bool> {
        let stats = http::request("GET", &stats, &[], b"")?.json()?;
        Ok(stats["publishers"].as_array().is_some_and(|publishers| publishers.len() == 1))
    };
    let begin = Instant::now();
    while !publishes()? {
        ensure!(begin.elapsed() < TIMEOUT, "nobody publishes at {watch}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn wait_for_metrics(service: &ServiceProcess) -> Result<()> {
    let begin = Instant::now();
    for line in ["pagecast_casts{state=\"live\"} 1.0", "pagecast_cast_fps{", "pagecast_cast_cpu_cores{"] {
        let admin = format!("Bearer {ADMIN_TOKEN}");
        let metrics =
            || http::request("GET", &service.url("/metrics"), &[("Authorization", admin.as_str())], b"");
        while !metrics()?.text().contains(line) {
            ensure!(begin.elapsed() < TIMEOUT, "no {line} among the metrics");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// A file of this name, somewhere below the recordings of the service.
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
    anyhow::bail!("{name} is not there")
}

/// A vendor's API has a word for a failure; the log and the REST API have the reason, and neither speaks of
/// flags.
#[test]
fn a_failure_is_reported_with_its_reason() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let service = ServiceProcess::start(PAGECAST, &ServiceConfig::default())?;
    let page = "http://10.1.2.3:81/";
    let bucket = json!({ "Vendor": 0, "Region": "r", "Bucket": "b-1", "AccessKey": "a", "SecretKey": "s" });
    let record =
        json!({ "SdkAppId": SDK_APP_ID, "RecordUrl": page, "StorageParams": { "CloudStorage": bucket } });
    let (good, started) = service.call("StartWebRecord", &record)?;
    let record = started["Response"]["TaskId"].as_str().context("no TaskId")?.to_owned();
    let webcast =
        json!({ "AppId": APP_ID, "RoomId": "r", "TaskId": "chosen-by-us", "UserId": "u", "SourceURL": page });
    ensure!(good && service.call("StartWebcast", &webcast)?.0, "it was refused");
    let casts = service.rest("GET", "/v1/casts?origin=volcengine", None)?.json()?;
    let webcast = casts["casts"][0]["id"].as_str().context("no cast")?.to_owned();
    for (id, task) in [(&record, record.as_str()), (&webcast, "chosen-by-us")] {
        let cast = wait_for_cast(&service, id, "it has failed", |cast| cast["state"] == "ended")?;
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
fn what_is_full_waits_and_then_fails() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let casts = "max = 1\nqueue_s = 4\nqueue_limit = 1".to_owned();
    let mut service =
        ServiceProcess::start(PAGECAST, &ServiceConfig { casts_toml: casts, ..ServiceConfig::default() })?;
    let wish =
        json!({ "url": server.url("still.html"), "width": 320, "height": 180, "fps": 5, "recording": {} });
    let make = || -> Result<http::Response> { service.rest("POST", "/v1/casts", Some(&wish)) };
    let id = |made: &http::Response| -> Result<String> {
        Ok(made.json()?["id"].as_str().with_context(|| made.text())?.to_owned())
    };
    let first = id(&make()?)?;
    wait_for_cast(&service, &first, "it is live", |cast| cast["state"] == "live")?;
    let second = id(&make()?)?;
    let third = make()?;
    ensure!(third.status == 429 && third.header("retry-after").is_some(), "{}", third.text());
    let cast =
        wait_for_cast(&service, &second, "it has waited long enough", |cast| cast["state"] == "ended")?;
    ensure!(cast["end"]["reason"] == "start-failed", "{cast:#}");
    // One that waits is begun when there is room.
    let fourth = id(&make()?)?;
    ensure!(
        service.rest("POST", &format!("/v1/casts/{first}/stop"), None)?.status < 300,
        "it cannot be stopped"
    );
    wait_for_cast(&service, &fourth, "it is live", |cast| cast["state"] == "live")?;
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

/// An application beside the one for tests, made by its administrator: its token.
fn another_application(service: &ServiceProcess) -> Result<String> {
    let admin = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("Authorization", admin.as_str()), ("Content-Type", "application/json")];
    let settings = json!({ "network": { "allow": ["127.0.0.0/8"] } });
    let body = json!({ "name": "other", "settings": settings }).to_string();
    let made = http::request("POST", &service.url("/v1/applications"), &headers, body.as_bytes())?;
    ensure!(made.status == 201, "{}", made.text());
    let made =
        http::request("POST", &service.url("/v1/applications/other/tokens"), &headers, b"{}")?.json()?;
    Ok(made["token"].as_str().with_context(|| made.to_string())?.to_owned())
}

#[test]
fn a_cast_that_fits_nowhere_keeps_no_other_tenant_waiting() -> Result<()> {
    let _turn = MachineLock::exclusive()?;
    let server = PageServer::start()?;
    // Room for some small casts on every machine, and never for the large one beside another.
    let cores = std::thread::available_parallelism()?.get() as f64;
    let share = (1.8 / cores).max(0.1).to_string();
    let environment = vec![("PAGECAST__CASTS__CPU_SHARE", share)];
    let casts = "queue_s = 60".to_owned();
    let mut service = ServiceProcess::start(
        PAGECAST,
        &ServiceConfig { casts_toml: casts, environment, ..ServiceConfig::default() },
    )?;
    let cast = |width: u32, height: u32, fps: u32, room: &str| {
        let room = json!({ "room": room, "user": "page" });
        json!({ "url": server.url("still.html"), "width": width, "height": height, "fps": fps, "room": room })
    };
    let id = |made: http::Response| -> Result<String> {
        Ok(made.json()?["id"].as_str().with_context(|| made.text())?.to_owned())
    };
    let small = id(service.rest("POST", "/v1/casts", Some(&cast(160, 90, 5, "a")))?)?;
    wait_for_cast(&service, &small, "it is live", |cast| cast["state"] == "live")?;
    let large = id(service.rest("POST", "/v1/casts", Some(&cast(3840, 2160, 60, "b")))?)?;
    let token = format!("Bearer {}", another_application(&service)?);
    let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
    let body = cast(160, 90, 5, "c").to_string();
    let others = id(http::request("POST", &service.url("/v1/casts"), &headers, body.as_bytes())?)?;
    let begin = Instant::now();
    loop {
        let path = service.url(&format!("/v1/casts/{others}"));
        let cast = http::request("GET", &path, &headers, b"")?.json()?;
        if cast["state"] == "live" {
            break;
        }
        ensure!(begin.elapsed() < TIMEOUT, "another tenant's small cast waits: {cast:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let waiting = service.rest("GET", &format!("/v1/casts/{large}"), None)?.json()?;
    ensure!(waiting["state"] == "queued", "{waiting:#}");
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

#[test]
fn a_stop_reaches_a_cast_whose_process_stands_still() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut service = ServiceProcess::start(PAGECAST, &ServiceConfig::default())?;
    let wish = json!({ "url": server.url("counter.html?say"), "width": 320, "height": 180, "fps": 15, "recording": {} });
    let made = service.rest("POST", "/v1/casts", Some(&wish))?;
    let id = made.json()?["id"].as_str().with_context(|| made.text())?.to_owned();
    wait_for_cast(&service, &id, "it is live", |cast| cast["state"] == "live")?;
    server.wait_for_request("/said/second-3", TIMEOUT)?;
    service.signal_matching("run-cast", Signal::STOP)?;
    ensure!(
        service.rest("POST", &format!("/v1/casts/{id}/stop"), None)?.status < 300,
        "it cannot be stopped"
    );
    let cast = wait_for_cast(&service, &id, "it is stored", |cast| {
        cast["recording"]["stored"]["files"].as_array().is_some_and(|files| !files.is_empty())
    })?;
    ensure!(cast["state"] == "ended" && cast["end"]["reason"] == "stopped", "{cast:#}");
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

#[test]
fn it_starts_without_configuration_and_reports_what_is_wrong() -> Result<()> {
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
    let sound = check("")?;
    ensure!(
        sound.status.success() && text(&sound).contains("the configuration is sound"),
        "{}",
        text(&sound)
    );
    for (config, words) in [
        ("lisen = \"127.0.0.1:1\"", "listen"),
        ("[casts]\nhistory_h = 3", "72"),
        ("listen = \"0.0.0.0:8080\"", "demo"),
        ("[tls]\ncertificate = \"/nowhere\"\nkey = \"/nowhere\"", "/nowhere"),
    ] {
        let wrong = check(config)?;
        ensure!(wrong.status.code() == Some(2), "{config}: {:?}", wrong.status);
        ensure!(text(&wrong).contains(words), "{config}: {}", text(&wrong));
    }
    std::fs::remove_file(scratch.join("pagecast.toml"))?;
    // The same keys each time, for nobody but their owner.
    let mut service = UnconfiguredService::start(&scratch)?;
    let keys = std::fs::read_to_string(scratch.join("data/credentials.json"))?;
    service.verify_api()?;
    service.stop()?;
    let mut service = UnconfiguredService::start(&scratch)?;
    ensure!(std::fs::read_to_string(scratch.join("data/credentials.json"))? == keys, "the keys are others");
    service.verify_api()?;
    service.stop()
}

/// A service without any configuration but its ports.
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
        command.env("PAGECAST__ROOMS__LISTEN", "127.0.0.1:0").env("PAGECAST_ADMIN_TOKEN", ADMIN_TOKEN);
        command.stderr(std::process::Stdio::null());
        let service =
            Self { child: command.spawn()?, port, credentials: scratch.join("data/credentials.json") };
        let begin = Instant::now();
        let ready = || http::request("GET", &format!("http://127.0.0.1:{port}/readyz"), &[], b"");
        while !ready().is_ok_and(|answer| answer.status == 200) {
            ensure!(begin.elapsed() < TIMEOUT, "it is not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(service)
    }

    /// With the keys that it made.
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
                let said = String::from_utf8_lossy(&refused.stdout).into_owned();
                ensure!(
                    refused.status.code() == Some(2) && said.contains("MissingParameter.TaskId"),
                    "{said}"
                );
            } else {
                run_for_output(&mut command)?;
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        signal_pid(self.child.id(), Signal::TERM)?;
        ensure!(self.child.wait()?.success(), "it ended with an error");
        Ok(())
    }
}

impl Drop for UnconfiguredService {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
