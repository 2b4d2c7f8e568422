//! Callbacks match the vendors' documents: each row of their event tables, from a real page to a signed
//! callback.
//!
//! The webcasts alternate between a service on SQLite and one on PostgreSQL. The events of recordings are
//! tested on PostgreSQL, because more of them follow from kills; files in a bucket are reported on SQLite,
//! and video on demand on PostgreSQL.
#![expect(clippy::print_stdout, reason = "events are printed beside a failure")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::service::{APP_ID, CALLBACK_SECRET, SDK_APP_ID};
use pagecast_testkit::{
    Backend, MachineLock, PageResponse, PageServer, ReceivedRequest, S3Server, ServiceConfig, ServiceProcess,
    Signal, VodServer, WebhookReceiver, verify,
};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Longest wait for an event. Three casts at a time are slow on two cores.
const TIMEOUT: Duration = Duration::from_secs(120);

fn start_service(
    receiver: &WebhookReceiver,
    backend: Backend,
    storage: Option<String>,
) -> Result<ServiceProcess> {
    let setup = ServiceConfig {
        backend,
        callback_url: Some(receiver.url("")),
        storage_toml: storage,
        ..ServiceConfig::default()
    };
    ServiceProcess::start(PAGECAST, &setup)
}

/// `Status` and `Reason` of the events of a Volcengine task, in order. Checks each signature.
fn webcast_events(callbacks: &[ReceivedRequest], task: &str) -> Result<Vec<(u64, String)>> {
    let mut events = Vec::new();
    for callback in callbacks.iter().filter(|callback| callback.path == "/volcengine") {
        let data = verify::volcengine(callback, CALLBACK_SECRET)?;
        if data["TaskId"] == task {
            ensure!(data["AppId"] == APP_ID && data["RoomId"] == "room", "{data}");
            let reason = data["Reason"].as_str().context("no reason")?.to_owned();
            events.push((data["Status"].as_u64().context("no status")?, reason));
        }
    }
    Ok(events)
}

/// Group, type, `Status` and `EventMessage` of the events of a Tencent task, in order. Checks each signature.
fn record_events(callbacks: &[ReceivedRequest], task: &str) -> Result<Vec<(u64, u64, u64, String)>> {
    let mut events = Vec::new();
    for callback in callbacks.iter().filter(|callback| callback.path == "/tencent") {
        let body = verify::tencent(callback, CALLBACK_SECRET)?;
        let info = &body["EventInfo"];
        if info["TaskId"].as_str().is_some_and(|id| id.starts_with(task)) {
            let number = |value: &Value| value.as_u64().with_context(|| format!("no number in {body}"));
            let message = info["Payload"]["EventMessage"].as_str().unwrap_or_default().to_owned();
            let status = number(&info["Payload"]["Status"])?;
            events.push((number(&body["EventGroupId"])?, number(&body["EventType"])?, status, message));
        }
    }
    Ok(events)
}

/// A Volcengine task: its page, its parameters, and the expected events.
struct WebcastCase {
    name: &'static str,
    page: &'static str,
    extra_params: Value,
    expected_events: &'static [(u64, &'static str)],
}

fn webcast_cases() -> Vec<WebcastCase> {
    let cast =
        |name, page, extra_params, expected_events| WebcastCase { name, page, extra_params, expected_events };
    let notify =
        |timeout: u32| json!({ "EventNotifyConfig": { "EnableEventNotify": true, "StartTimeout": timeout } });
    let monitor = |check: &str| json!({ "MonitorConfig": { check: 2 } });
    vec![
        cast("in-time", "counter.html?start=500&end=4000", notify(20), &[(1, ""), (2, "UnknownStopReason")]),
        cast(
            "too-late",
            "counter.html",
            notify(3),
            &[
                (4, "StartEventTimeout"),
                (5, "StartEventTimeout"),
                (4, "StartEventTimeout"),
                (5, "StartEventTimeout"),
                (4, "StartEventTimeout"),
                (3, "StartEventTimeout"),
            ],
        ),
        cast(
            "frozen",
            "counter.html?do=freeze&after=500&loads=2&id=frozen",
            monitor("FreezeCheckInterval"),
            &[(1, ""), (4, "PageFreeze"), (5, "PageFreeze")],
        ),
        cast(
            "white",
            "counter.html?do=blank&after=500&loads=2&id=white",
            monitor("BlankCheckInterval"),
            &[(1, ""), (4, "PageBlank"), (5, "PageBlank")],
        ),
        cast(
            "hangs",
            "counter.html?do=loop&after=1500&loads=1&id=hangs",
            monitor("CrashCheckInterval"),
            &[(1, ""), (5, "PageCrash")],
        ),
        cast(
            "ends",
            "counter.html",
            json!({ "MaxRunningTime": 10 }),
            &[(1, ""), (2, "ExceedMaxRunningTime")],
        ),
        cast("nowhere", "missing.html", json!({}), &[(3, "StartTaskFailed")]),
    ]
}

#[test]
fn each_event_of_a_webcast_is_reported() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?.with_route("/missing.html", PageResponse::Html(404, "gone".to_owned()));
    let receiver = WebhookReceiver::start()?;
    let mut services = [
        start_service(&receiver, Backend::Sqlite, None)?,
        start_service(&receiver, Backend::Postgres, None)?,
    ];
    let casts: Vec<_> = webcast_cases().into_iter().enumerate().collect();
    // Three at a time, so that timeouts of the pages are not missed because all cores are busy.
    for group in casts.chunks(3) {
        for (number, cast) in group {
            let mut body = json!({
                "AppId": APP_ID, "RoomId": "room", "TaskId": cast.name,
                "UserId": format!("webcast_{}", cast.name),
                "SourceURL": server.url(cast.page),
                "VideoSolutions": [{ "Width": 320, "Height": 180, "FrameRate": 10 }],
            });
            body.as_object_mut()
                .context("no object")?
                .extend(cast.extra_params.as_object().cloned().unwrap_or_default());
            let (done, answer) = services[number % 2].call("StartWebcast", &body)?;
            ensure!(done && answer["Result"] == "ok", "{}: {answer}", cast.name);
        }
        for (number, cast) in group {
            verify_webcast_events(&services[number % 2], &receiver, cast)?;
        }
    }
    for service in &mut services {
        service.stop(TIMEOUT)?;
        service.wait_until_exited(TIMEOUT)?;
    }
    Ok(())
}

fn verify_webcast_events(
    service: &ServiceProcess,
    receiver: &WebhookReceiver,
    cast: &WebcastCase,
) -> Result<()> {
    let names = json!({ "AppId": APP_ID, "RoomId": "room", "TaskId": cast.name });
    let mut expected: Vec<(u64, String)> =
        cast.expected_events.iter().map(|(s, r)| (*s, (*r).to_owned())).collect();
    let has_all = |expected: &[(u64, String)]| {
        let (count, name) = (expected.len(), cast.name);
        move |callbacks: &[ReceivedRequest]| {
            webcast_events(callbacks, name).is_ok_and(|events| events.len() >= count)
        }
    };
    receiver.wait_until(cast.name, TIMEOUT, has_all(&expected))?;
    // A cast that has not ended by itself is stopped.
    if !expected.iter().any(|(status, _)| matches!(status, 2 | 3)) {
        ensure!(service.call("StopWebcast", &names)?.0, "{} does not run", cast.name);
        expected.push((2, "StopByAPI".to_owned()));
        receiver.wait_until(cast.name, TIMEOUT, has_all(&expected))?;
    }
    let events = webcast_events(&receiver.received(), cast.name)?;
    println!("{}: {events:?}", cast.name);
    ensure!(events == expected, "{}: events are {events:?}, expected {expected:?}", cast.name);
    let (_, answer) = service.call("GetWebCastTask", &names)?;
    let task = &answer["Result"]["WebCastTask"];
    let (status, reason) = expected.last().context("no events")?;
    let status = if *status == 2 { 3 } else { 4 };
    // Only the callback has the reason of the fault; the task has a general one.
    let stop_reason = if reason == "StartEventTimeout" { "StartTaskFailed" } else { reason.as_str() };
    ensure!(task["Status"] == status && task["StopReason"] == stop_reason, "{}: {task}", cast.name);
    let (_, twice) = service.call("StopWebcast", &names)?;
    let code = &twice["ResponseMetadata"]["Error"]["Code"];
    ensure!(code == "InvalidParameter.ErrorActiveTaskNotFound", "{}: {twice}", cast.name);
    Ok(())
}

/// A service with Tencent's API, a receiver of callbacks and pages.
struct TencentFixture {
    service: ServiceProcess,
    receiver: WebhookReceiver,
    server: PageServer,
}

impl TencentFixture {
    fn start(backend: Backend, storage: Option<String>) -> Result<Self> {
        let receiver = WebhookReceiver::start()?;
        let server = PageServer::start()?
            .with_route("/missing.html", PageResponse::Html(404, "gone".to_owned()))
            .with_route("/never.html", PageResponse::NoResponse);
        Ok(Self { service: start_service(&receiver, backend, storage)?, receiver, server })
    }

    /// Starts a task and returns its id.
    fn start_recording(&self, page: &str, more: &Value) -> Result<String> {
        let mut body = json!({
            "RecordUrl": self.server.url(page),
            "SdkAppId": SDK_APP_ID,
            "StorageParams": { "CloudStorage": {
                "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "rec-1250000000",
                "AccessKey": "AKIDTEST", "SecretKey": "secret-of-the-bucket", "FileNamePrefix": ["a", "b"],
            }},
            "WebRecordVideoParams": { "Width": 320, "Height": 180 },
        });
        body.as_object_mut().context("no object")?.extend(more.as_object().cloned().unwrap_or_default());
        let (done, answer) = self.service.call("StartWebRecord", &body)?;
        ensure!(done, "{page}: {answer}");
        Ok(answer["Response"]["TaskId"].as_str().context("no task")?.to_owned())
    }

    fn wait_for_event(&self, what: &str, task: &str, event: (u64, u64, u64, &str)) -> Result<()> {
        let event = (event.0, event.1, event.2, event.3.to_owned());
        let has = |callbacks: &[ReceivedRequest]| {
            record_events(callbacks, task).is_ok_and(|events| events.contains(&event))
        };
        self.receiver.wait_until(what, TIMEOUT, has).map(drop)
    }

    /// Waits until pages with `?report` were loaded this often, each for at least a second.
    fn wait_for_loads(&self, loads: usize) -> Result<()> {
        self.server.wait_for_requests("/report/second-1", loads, TIMEOUT)
    }

    fn stop_recording(&self, task: &str) -> Result<()> {
        let (done, answer) = self.service.call("StopWebRecord", &json!({ "TaskId": task }))?;
        ensure!(done, "{answer}");
        Ok(())
    }

    /// Checks that these are all events of the task, without those of pushes.
    fn verify_events(&self, task: &str, expected: &[(u64, u64, u64, &str)]) -> Result<()> {
        let events = record_events(&self.receiver.received(), task)?;
        let events: Vec<_> =
            events.iter().filter(|e| e.0 != 4).map(|e| (e.0, e.1, e.2, e.3.as_str())).collect();
        println!("{events:?}");
        ensure!(events == expected, "events are {events:?}, expected {expected:?}");
        Ok(())
    }

    fn stop_service(mut self) -> Result<()> {
        self.service.stop(TIMEOUT)?;
        self.service.wait_until_exited(TIMEOUT)
    }
}

const STARTED: (u64, u64, u64, &str) = (8, 801, 1, "Success");
const STOPPED: (u64, u64, u64, &str) = (8, 802, 1, "Success");
const STORED: (u64, u64, u64, &str) = (3, 310, 0, "");

#[test]
fn each_event_of_a_recording_is_reported() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let mut tencent = TencentFixture::start(Backend::Postgres, None)?;
    let limited = tencent.start_recording("counter.html", &json!({ "MaxDurationLimit": 10 }))?;
    let nowhere = tencent.start_recording("missing.html", &json!({}))?;
    let never = tencent.start_recording("never.html", &json!({}))?;
    let late = tencent.start_recording("counter.html", &json!({ "ReadyTimeout": 3 }))?;
    let ready = tencent.start_recording("counter.html?ready=300", &json!({ "ReadyTimeout": 30 }))?;
    let large = tencent.start_recording("counter.html?video=2560x1440&after=4000", &json!({}))?;
    tencent.wait_for_event("a page that is not there", &nowhere, (8, 801, 2, "StartRecording error"))?;
    tencent.verify_events(&nowhere, &[(8, 801, 2, "StartRecording error")])?;
    tencent.wait_for_event("a page that is never ready", &late, (8, 801, 2, "Page load timeout"))?;
    tencent.verify_events(&late, &[(8, 803, 1, "Page load timeout"), (8, 801, 2, "Page load timeout")])?;
    tencent.wait_for_event("a page that is ready", &ready, STARTED)?;
    tencent.stop_recording(&ready)?;
    tencent.wait_for_event("a page that is ready, stored", &ready, STORED)?;
    tencent.verify_events(&ready, &[STARTED, STOPPED, STORED])?;
    tencent.wait_for_event("its video is too large", &large, STORED)?;
    let too_large = (8, 804, 2, "Exceeding resolution limitation");
    tencent.verify_events(&large, &[STARTED, too_large, STORED])?;
    tencent.wait_for_event("its time is over", &limited, STORED)?;
    tencent.verify_events(&limited, &[STARTED, (8, 804, 1, "Over time limit"), STOPPED, STORED])?;
    tencent.wait_for_event("a server that never answers", &never, (8, 801, 2, "Goto url timeout"))?;
    tencent.verify_events(&never, &[(8, 801, 2, "Goto url timeout")])?;
    verify_replacements(&mut tencent)?;
    tencent.stop_service()
}

/// Kills the process of the page, of the cast, and of the service.
fn verify_replacements(tencent: &mut TencentFixture) -> Result<()> {
    let broke_off = (8, 801, 3, "Chrome exception, exit task");
    let migrated = (8, 801, 4, "Recording tasks have been migrated");
    let moved = tencent.start_recording("counter.html?report", &json!({}))?;
    tencent.wait_for_event("the page is there", &moved, STARTED)?;
    tencent.wait_for_loads(1)?;
    tencent.service.signal_matching("--type=renderer", Signal::KILL)?;
    tencent.wait_for_event("it got a fresh browser", &moved, broke_off)?;
    tencent.wait_for_loads(2)?;
    tencent.service.signal_matching("run-cast", Signal::KILL)?;
    tencent.receiver.wait_until("it got a fresh process", TIMEOUT, |callbacks| {
        let count =
            |events: Vec<(u64, u64, u64, String)>| events.iter().filter(|e| e.2 == broke_off.2).count();
        record_events(callbacks, &moved).is_ok_and(|events| count(events) == 2)
    })?;
    tencent.wait_for_loads(3)?;
    tencent.service.kill();
    tencent.service.restart()?;
    tencent.wait_for_event("the cast is resumed by the service", &moved, migrated)?;
    tencent.wait_for_loads(4)?;
    tencent.stop_recording(&moved)?;
    tencent.wait_for_event("it is stored", &moved, STORED)?;
    tencent.verify_events(&moved, &[STARTED, broke_off, broke_off, migrated, STOPPED, STORED])?;
    // A cast that crashes repeatedly is given up, and its recording is stored.
    let doomed = tencent.start_recording("counter.html?report", &json!({}))?;
    tencent.wait_for_event("the page is there", &doomed, STARTED)?;
    for load in 5..8 {
        tencent.wait_for_loads(load)?;
        let before = tencent.receiver.received().len();
        tencent.service.signal_matching("--type=renderer", Signal::KILL)?;
        tencent
            .receiver
            .wait_until("the crash is reported", TIMEOUT, |callbacks| callbacks.len() > before)?;
    }
    tencent.wait_for_event("it is stored", &doomed, STORED)?;
    let given_up = (8, 801, 5, "Exception error, exit task");
    tencent.verify_events(&doomed, &[STARTED, broke_off, broke_off, given_up, STORED])
}

#[test]
fn files_in_a_bucket_are_reported_by_name() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let root = pagecast_testkit::ScratchDir::new()?;
    let s3 = S3Server::start(root.path(), "AKIDTEST", "secret-of-the-bucket")?;
    s3.make_bucket("rec-1250000000")?;
    let storage = format!("cos_endpoint = \"{}\"", s3.url());
    let tencent = TencentFixture::start(Backend::Sqlite, Some(storage))?;
    let mp4 = tencent.start_recording("counter.html?report", &json!({}))?;
    let hls = tencent.start_recording(
        "counter.html?report",
        &json!({
            "WebRecordVideoParams": { "Width": 320, "Height": 180, "Format": "hls" },
        }),
    )?;
    let refused = json!({ "StorageParams": { "CloudStorage": {
        "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "rec-1250000000",
        "AccessKey": "AKIDTEST", "SecretKey": "guessed",
    }}});
    let refused = tencent.start_recording("counter.html", &refused)?;
    for task in [&mp4, &hls] {
        tencent.wait_for_event("it is live", task, STARTED)?;
    }
    tencent.wait_for_event("storage refuses", &refused, (8, 801, 2, "StartRecording error"))?;
    tencent.verify_events(&refused, &[(8, 801, 2, "StartRecording error")])?;
    tencent.server.wait_for_requests("/report/second-3", 2, TIMEOUT)?;
    for task in [&mp4, &hls] {
        tencent.stop_recording(task)?;
    }
    tencent.wait_for_event("the MP4 is stored", &mp4, STORED)?;
    let callbacks = tencent.receiver.wait_until("the playlist is stored", TIMEOUT, |callbacks| {
        record_events(callbacks, &hls).is_ok_and(|events| events.iter().any(|e| e.1 == 305))
    })?;
    let stored = callbacks.iter().map(ReceivedRequest::json).find(|body| {
        body["EventType"] == 310
            && body["EventInfo"]["TaskId"].as_str().is_some_and(|id| id.starts_with(&mp4))
    });
    let info = stored.context("no file was reported")?["EventInfo"].clone();
    let id = info["TaskId"].as_str().unwrap_or_default();
    ensure!(id.starts_with(&format!("{mp4}_StartTimeMs_")), "{info}");
    let file = info["Payload"]["FileList"][0].as_str().context("no file")?.to_owned();
    let message = &info["Payload"]["FileMessage"][0];
    let (begin, end) = (message["StartTimeStamp"].as_i64(), message["EndTimeStamp"].as_i64());
    ensure!(message["FileName"] == file.as_str() && begin < end && begin.is_some(), "{info}");
    let objects = s3.objects("rec-1250000000")?;
    ensure!(objects.contains_key(&format!("a/b/{mp4}/{file}")), "{file} is not among {objects:?}");
    ensure!(objects.contains_key(&format!("a/b/{hls}/{hls}.m3u8")), "no playlist among {objects:?}");
    tencent.stop_service()
}

#[test]
fn video_on_demand_is_reported() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let root = pagecast_testkit::ScratchDir::new()?;
    let vod = VodServer::start(root.path(), "AKIDVOD", "secret-of-vod")?;
    let storage = format!(
        "vod_endpoint = \"{}\"\ncos_endpoint = \"{}\"\n\
         vod_keys = {{ id = \"AKIDVOD\", secret = \"secret-of-vod\" }}",
        vod.url(),
        vod.storage().url()
    );
    let tencent = TencentFixture::start(Backend::Postgres, Some(storage))?;
    let task = tencent.start_recording(
        "counter.html?report",
        &json!({ "StorageParams": { "CloudVod": { "TencentVod": {} } } }),
    )?;
    tencent.wait_for_event("it is live", &task, STARTED)?;
    tencent.server.wait_for_request("/report/second-2", TIMEOUT)?;
    tencent.stop_recording(&task)?;
    tencent.wait_for_event("it is processed", &task, (3, 312, 0, ""))?;
    tencent.verify_events(&task, &[STARTED, STOPPED, (3, 311, 0, ""), (3, 312, 0, "")])?;
    let callbacks = tencent.receiver.received();
    let stored = callbacks
        .iter()
        .map(ReceivedRequest::json)
        .find(|body| body["EventType"] == 311)
        .context("no file")?;
    let medium = &stored["EventInfo"]["Payload"]["TencentVod"];
    ensure!(medium["FileId"].as_str().is_some_and(|id| !id.is_empty()), "{stored}");
    tencent.stop_service()
}
