//! Tests of the dialect from signed requests to responses, with the embedded fleet.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use pagecast_core::cast::{EndReason, HealthFault};
use pagecast_core::spec::{ReadySignal, RoomService, RoomUrl};
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{Cast, CastState, Casts, Documents, EventKind, Fleet, Leases, Outbox, Ticket, WorkerId};
use pagecast_testkit::scratch::ScratchDir;
use serde_json::json;

use super::*;
use crate::app::testing::pending_commands;
use crate::app::{AccessKey, Application, ApplicationRegistry, CallbackReceiver, RoomProvider};
use crate::config::Config;
use crate::outage::OutageFleet;
use crate::request_id::RequestId;
use signature::UnsignedRequest;

const NOW_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;
const HOST: &str = "127.0.0.1:8080";
const LEASE: Duration = Duration::from_secs(3600);

fn application(name: &str, app_id: &str, key: &str) -> Application {
    let mut app: Application = serde_json::from_value(json!({ "name": name, "app_id": app_id })).unwrap();
    app.keys = vec![AccessKey { id: key.to_owned(), secret: Secret::new("secret"), disabled: false }];
    let url = RoomUrl::parse("https://rooms.example/{app}/{room}").unwrap();
    app.settings.room = RoomProvider::Whip { url, token: None };
    app
}

struct Fixture {
    service: Service,
    gate: RequestGate,
    fleet: Arc<SqliteFleet>,
    now: Arc<AtomicI64>,
    _scratch: ScratchDir,
}

/// Status and body of a response.
type StatusAndBody = (u16, Value);

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    fn with(app: impl Fn(&mut Application), config: impl Fn(&mut Config)) -> Self {
        let scratch = ScratchDir::new().unwrap();
        let now = Arc::new(AtomicI64::new(NOW_MS));
        let clock: crate::Clock = {
            let now = Arc::clone(&now);
            Arc::new(move || now.load(Ordering::Relaxed))
        };
        let fleet = SqliteFleet::open(sqlite::Config {
            path: scratch.join("fleet.db"),
            vault: Vault::from_file(&scratch.join("key")).unwrap(),
            retention: Duration::from_secs(7 * 86_400),
            wall_clock: Arc::clone(&clock),
            monotonic_clock: Arc::clone(&clock),
            max_bytes: 1 << 40,
        })
        .unwrap();
        let apps = Arc::new(ApplicationRegistry::default());
        let mut mine = application("mine", "app0123456789", "AKLTMINE");
        app(&mut mine);
        apps.replace(vec![mine, application("theirs", "theirs", "AKLTTHEIRS")]);
        let mut settings = Config { data: scratch.path().to_owned(), ..Config::default() };
        config(&mut settings);
        let backend: Arc<dyn Fleet> = Arc::clone(&fleet) as _;
        let service = Service {
            node: pagecast_fleet::WorkerId("w".to_owned()),
            fleet: backend,
            apps,
            config: Arc::new(settings),
            rooms: None,
            clock,
            peers: None,
            draining: Arc::default(),
            live_api_nodes: Arc::default(),
            audit: Arc::default(),
            sign_in_code: Arc::default(),
            page_checker: None,
            evidence: None,
            recordings: None,
            storage_tester: None,
        };
        Self { service, gate: RequestGate::default(), fleet, now, _scratch: scratch }
    }

    fn advance_clock(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }

    fn signed_request(&self, key: &str, method: &str, query: &str, body: &str) -> ApiRequest {
        let unsigned =
            UnsignedRequest { method, host: HOST, query, body: body.as_bytes(), region: "cn-north-1" };
        let signed =
            signature::sign(&unsigned, key, &Secret::new("secret"), self.service.now()).unwrap().headers;
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static(HOST));
        for (name, value) in signed {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        ApiRequest {
            id: RequestId::random(),
            method: method.parse().unwrap(),
            query: query.to_owned(),
            headers,
            body: body.into(),
        }
    }

    async fn send(&self, call: &ApiRequest) -> StatusAndBody {
        let (head, body) = self.gate.handle(&self.service, call).await.into_parts();
        assert_eq!(head.headers["content-type"], "application/json; charset=utf-8");
        let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(head.headers["x-tt-logid"], call.id.as_str());
        assert_eq!(body["ResponseMetadata"]["RequestId"], call.id.as_str());
        (head.status.as_u16(), body)
    }

    async fn post(&self, action: &str, body: &Value) -> StatusAndBody {
        let query = format!("Action={action}&Version=2020-12-01");
        self.send(&self.signed_request("AKLTMINE", "POST", &query, &body.to_string())).await
    }

    async fn start(&self, change: Value) -> StatusAndBody {
        self.post("StartWebcast", &start_body(change)).await
    }

    async fn stop(&self) -> StatusAndBody {
        self.post("StopWebcast", &task_body()).await
    }

    async fn get(&self) -> StatusAndBody {
        let query = "Action=GetWebCastTask&Version=2023-11-01&AppId=app0123456789&RoomId=room1&TaskId=task1";
        self.send(&self.signed_request("AKLTMINE", "GET", query, "")).await
    }

    /// The sharing of a gate's signatures with the other nodes on a database.
    fn sharing<'a>(&self, gate: &'a RequestGate, database: &OutageFleet) -> sharing::Sharing<'a> {
        let clock = Arc::clone(&self.service.clock);
        sharing::Sharing::new(&gate.seen_signatures, database.fleet.clone(), clock)
    }

    async fn cast(&self) -> Cast {
        let task = request::TaskRef::parse(task_body().as_object().unwrap()).unwrap();
        self.fleet.find_by_key(&task::task_key(&task)).await.unwrap().unwrap()
    }

    /// Claims the queued task as a worker.
    async fn claim(&self) -> Ticket {
        let worker = WorkerId("worker".to_owned());
        self.fleet.claim(&worker, &Default::default(), LEASE, &|_| true).await.unwrap().unwrap().ticket
    }

    async fn report(&self, ticket: &Ticket, kind: EventKind) {
        self.fleet.report_event(ticket, kind).await.unwrap();
    }
}

fn task_body() -> Value {
    json!({ "AppId": "app0123456789", "RoomId": "room1", "TaskId": "task1" })
}

/// A minimal body of `StartWebcast` with these fields added or replaced.
fn start_body(change: Value) -> Value {
    let mut body = task_body();
    body["UserId"] = json!("webcast_1");
    body["SourceURL"] = json!("https://a.example/b?c=d");
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn ended(reason: EndReason) -> EventKind {
    EventKind::Ended { reason, message: None, cause: None }
}

fn status_and_code((status, body): &StatusAndBody) -> (u16, String) {
    (*status, body["ResponseMetadata"]["Error"]["Code"].as_str().unwrap_or("none").to_owned())
}

fn expected(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// A response without its request id, which is checked.
fn without_request_id((status, mut body): StatusAndBody) -> StatusAndBody {
    let id = body["ResponseMetadata"].as_object_mut().unwrap().remove("RequestId").unwrap();
    assert_eq!(id.as_str().unwrap().len(), 36, "{id}");
    (status, body)
}

fn success_response(action: &str, version: &str, result: Value) -> StatusAndBody {
    let metadata = json!({ "Action": action, "Version": version, "Service": "rtc", "Region": "cn-north-1" });
    (200, json!({ "ResponseMetadata": metadata, "Result": result }))
}

#[tokio::test]
async fn a_task_is_started_described_and_stopped() {
    let fixture = Fixture::new();
    let found = |status: i64, start: i64, end: i64, reason: &str| {
        let task = json!({
            "StartTime": start, "EndTime": end, "Status": status, "StopReason": reason,
            "UserId": "webcast_1", "SourceURL": "https://a.example/b?c=d", "MaxRunningTime": 86_400,
            "VideoSolutions": [{ "Width": 1280, "Height": 720, "FrameRate": 15, "Bitrate": 0 }],
            "MonitorConfig": { "FreezeCheckInterval": 0, "BlankCheckInterval": 0, "CrashCheckInterval": 0 },
            "EventNotifyConfig": { "EnableEventNotify": false, "StartTimeout": 0 },
        });
        success_response("GetWebCastTask", "2023-11-01", json!({ "WebCastTask": task }))
    };
    let succeeded = |action: &str| success_response(action, "2020-12-01", json!("ok"));
    assert_eq!(
        status_and_code(&fixture.get().await),
        expected(400, "InvalidParameter.ErrorActiveTaskNotFound")
    );
    assert_eq!(
        status_and_code(&fixture.stop().await),
        expected(400, "InvalidParameter.ErrorActiveTaskNotFound")
    );
    assert_eq!(without_request_id(fixture.start(json!({})).await), succeeded("StartWebcast"));
    assert_eq!(without_request_id(fixture.get().await), found(1, NOW_MS, 0, ""));
    fixture.advance_clock(1000);
    let ticket = fixture.claim().await;
    assert_eq!(without_request_id(fixture.get().await), found(1, NOW_MS + 1000, 0, ""));
    fixture.report(&ticket, EventKind::Live).await;
    assert_eq!(without_request_id(fixture.get().await), found(2, NOW_MS + 1000, 0, ""));
    for _ in 0..2 {
        assert_eq!(
            without_request_id(fixture.stop().await),
            succeeded("StopWebcast"),
            "a stop can be repeated"
        );
    }
    assert_eq!(pending_commands(&*fixture.fleet, &ticket).await.len(), 1);
    fixture.advance_clock(1000);
    fixture.report(&ticket, ended(EndReason::Stopped)).await;
    assert_eq!(without_request_id(fixture.get().await), found(3, NOW_MS + 1000, NOW_MS + 2000, "StopByAPI"));
    assert_eq!(
        status_and_code(&fixture.stop().await),
        expected(400, "InvalidParameter.ErrorActiveTaskNotFound")
    );
    assert_eq!(
        without_request_id(fixture.start(json!({})).await),
        succeeded("StartWebcast"),
        "the TaskId is free again"
    );
    assert_eq!(without_request_id(fixture.get().await), found(1, NOW_MS + 2000, 0, ""));
}

#[tokio::test]
async fn ended_tasks_have_the_vendors_stop_reasons() {
    let fixture = Fixture::new();
    for (end, live, status, reason) in [
        (EndReason::MaxTime, true, 3, "ExceedMaxRunningTime"),
        (EndReason::PageEnded, true, 3, "UnknownStopReason"),
        (EndReason::StartFailed, false, 4, "StartTaskFailed"),
        (EndReason::PageFailed(HealthFault::Freeze), true, 4, "UnknownStopReason"),
    ] {
        fixture.start(json!({})).await;
        let ticket = fixture.claim().await;
        if live {
            fixture.report(&ticket, EventKind::Live).await;
        }
        fixture.report(&ticket, ended(end)).await;
        fixture.fleet.close(&ticket, None, None).await.unwrap();
        let (_, response) = fixture.get().await;
        let task = &response["Result"]["WebCastTask"];
        assert_eq!((&task["Status"], &task["StopReason"]), (&json!(status), &json!(reason)), "{end:?}");
    }
}

#[tokio::test]
async fn a_task_is_found_for_72_hours() {
    let fixture = Fixture::new();
    fixture.start(json!({})).await;
    fixture.stop().await;
    fixture.advance_clock(72 * HOUR_MS);
    assert_eq!(fixture.get().await.0, 200);
    fixture.advance_clock(1);
    assert_eq!(
        status_and_code(&fixture.get().await),
        expected(400, "InvalidParameter.ErrorActiveTaskNotFound")
    );
}

#[tokio::test]
async fn a_task_becomes_a_cast() {
    let fixture = Fixture::with(
        |app| {
            app.settings.limits.max_time_s = 7200;
            let url = "https://receiver.example/".parse().unwrap();
            app.settings.callbacks.volcengine =
                Some(CallbackReceiver { url, secret: None, extra_retry_s: 0, noce: false });
        },
        |_| {},
    );
    fixture
        .start(json!({
            "BusinessId": "biz",
            "VideoSolutions": [
                { "Width": 641, "Height": 361, "FrameRate": 30, "Bitrate": 1 },
                { "Width": 1920, "Height": 1080, "FrameRate": 15, "Bitrate": 0 },
            ],
            "MaxRunningTime": 3600,
            "MonitorConfig": { "FreezeCheckInterval": 2, "BlankCheckInterval": 30, "CrashCheckInterval": 1 },
            "EventNotifyConfig": { "EnableEventNotify": true, "StartTimeout": 60 },
        }))
        .await;
    let cast = fixture.cast().await;
    assert_eq!((cast.app.as_str(), cast.api.as_str(), cast.state), ("mine", "volcengine", CastState::Queued));
    assert_eq!(cast.key, Some(pagecast_fleet::CastKey("webcast/app0123456789/room1/task1".to_owned())));
    assert_eq!(
        (&cast.request["BusinessId"], &cast.request["VideoSolutions"][0]["Width"]),
        (&json!("biz"), &json!(640))
    );
    let spec = cast.spec;
    assert_eq!((spec.source.size.to_string().as_str(), spec.source.fps.get()), ("1920x1080", 30));
    assert_eq!(spec.source.url.reveal(), "https://a.example/b?c=d");
    let room = spec.room.as_ref().unwrap();
    assert_eq!(room.url(), "https://rooms.example/app0123456789/room1");
    assert_eq!((room.ids.user.as_str(), room.ids.task.as_str()), ("webcast_1", "task1"));
    let layers: Vec<_> =
        room.layers.iter().map(|l| (l.size.to_string(), l.fps.get(), l.bitrate_kbps)).collect();
    assert_eq!(layers, [("1920x1080".to_owned(), 15, None), ("640x360".to_owned(), 30, Some(30))]);
    let s = Duration::from_secs;
    assert_eq!((spec.limits.max_time, spec.duration), (s(3600), None));
    assert_eq!(
        (spec.checks.freeze, spec.checks.blank, spec.checks.crash),
        (Some(s(2)), Some(s(30)), Some(s(1)))
    );
    assert_eq!((spec.readiness.signal, spec.readiness.timeout), (ReadySignal::Webcast, s(60)));
    assert!(spec.recording.is_none() && spec.pushes.is_empty());
    let due = fixture.fleet.due_entries(10, &std::collections::HashSet::new()).await.unwrap();
    assert_eq!(due.len(), 1, "its callbacks have a receiver");
}

#[tokio::test]
async fn checks_and_callbacks_are_off_by_default() {
    let fixture = Fixture::with(|app| app.settings.limits.max_time_s = 7200, |_| {});
    fixture.start(json!({ "EventNotifyConfig": { "StartTimeout": 60 } })).await;
    let spec = fixture.cast().await.spec;
    assert_eq!(spec.limits.max_time, Duration::from_secs(7200), "the limit of the application");
    assert_eq!((spec.checks.freeze, spec.checks.blank, spec.checks.crash), (None, None, None));
    assert_eq!((spec.readiness.signal, spec.readiness.timeout), (ReadySignal::None, Duration::ZERO));
    assert!(
        fixture.fleet.due_entries(10, &std::collections::HashSet::new()).await.unwrap().is_empty(),
        "callbacks are off"
    );
}

#[tokio::test]
async fn video_solutions_become_layers() {
    let solution = |(width, height, fps, kbps): (u32, u32, u32, u32)| {
        json!({
            "Width": width, "Height": height,
            "FrameRate": fps, "Bitrate": kbps,
        })
    };
    for (given, expected) in [
        (vec![(50, 50, 1, 29)], vec![("50x50", 1, Some(30))]),
        (vec![(1920, 1080, 60, 10_000)], vec![("1920x1080", 60, Some(10_000))]),
        (
            vec![(1280, 720, 30, 0), (640, 360, 15, 30)],
            vec![("1280x720", 30, None), ("640x360", 15, Some(30))],
        ),
        (vec![(1920, 50, 15, 0), (1280, 720, 15, 0)], vec![("1280x720", 15, None), ("1920x50", 15, None)]),
        (vec![(1280, 720, 15, 900), (1281, 721, 30, 800)], vec![("1280x720", 30, Some(900))]),
        (vec![(1280, 720, 30, 900), (1280, 720, 15, 0)], vec![("1280x720", 30, None)]),
        (
            vec![(1000, 500, 15, 0), (500, 1000, 10, 300)],
            vec![("1000x500", 15, None), ("500x250", 10, Some(300))],
        ),
    ] {
        let fixture = Fixture::new();
        let solutions: Vec<Value> = given.iter().copied().map(solution).collect();
        let response = fixture.start(json!({ "VideoSolutions": solutions })).await;
        assert_eq!(response.0, 200, "{response:?}");
        let room = fixture.cast().await.spec.room.unwrap();
        let layers: Vec<_> =
            room.layers.iter().map(|l| (l.size.to_string(), l.fps.get(), l.bitrate_kbps)).collect();
        let expected: Vec<_> =
            expected.into_iter().map(|(size, fps, kbps)| (size.to_owned(), fps, kbps)).collect();
        assert_eq!(layers, expected);
    }
}

#[tokio::test]
async fn a_room_with_access_control_gets_a_token() {
    let url = RoomUrl::parse("https://a.example/whip/{room}/{user}").unwrap();
    let app_key = Secret::new("appkey0123456789");
    let rooms = RoomProvider::Volcengine { url, app_key };
    let app_id = "0123456789abcdef01234567";
    let with_tokens = |app: &mut Application| {
        (app.settings.room, app.settings.app_id) = (rooms.clone(), Some(app_id.to_owned()));
    };
    let fixture = Fixture::with(with_tokens, |_| {});
    let response = fixture.start(json!({ "AppId": app_id })).await;
    assert_eq!(response.0, 200, "{response:?}");
    let key = pagecast_fleet::CastKey(format!("webcast/{app_id}/room1/task1"));
    let room = fixture.fleet.find_by_key(&key).await.unwrap().unwrap().spec.room.unwrap();
    let RoomService::Whip { token: Some(token), .. } = &room.service else { panic!("{:?}", room.service) };
    assert!(token.reveal().starts_with(&format!("001{}", room.ids.app)), "{}", token.reveal());
    let bytes = STANDARD.decode(&token.reveal()[3 + room.ids.app.len()..]).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(&room.ids.room) && text.contains(&room.ids.user), "{text}");
}

#[tokio::test]
async fn an_identifier_that_changes_the_path_of_the_room_is_refused() {
    let url = RoomUrl::parse("https://a.example/whip/{room}/{user}").unwrap();
    let whip = RoomProvider::Whip { url, token: None };
    for (room, status) in [("..", 400), (".", 400), ("...", 200), ("a..b", 200)] {
        let fixture = Fixture::with(|app| app.settings.room = whip.clone(), |_| {});
        let response = fixture.start(json!({ "RoomId": room })).await;
        assert_eq!(response.0, status, "{room}: {response:?}");
    }
}

#[tokio::test]
async fn a_repeated_start_succeeds_unless_it_is_configured_to_fail() {
    let message = "The task has been started. Please do not call the startup task interface repeatedly";
    for (strict, version, is_ok) in [
        (false, "2020-12-01", true),
        (false, "2023-11-01", true),
        (true, "2020-12-01", false),
        (true, "2023-11-01", true),
    ] {
        let fixture = Fixture::with(|_| {}, |config| config.volcengine.reject_running_task = strict);
        assert_eq!(fixture.start(json!({})).await.0, 200);
        let query = format!("Action=startwebcast&Version={version}");
        let again = fixture
            .send(&fixture.signed_request("AKLTMINE", "POST", &query, &start_body(json!({})).to_string()))
            .await;
        if is_ok {
            assert_eq!(without_request_id(again), success_response("startwebcast", version, json!(message)));
        } else {
            assert_eq!(status_and_code(&again), expected(400, "InvalidParameter.TaskAlreadyExists"));
        }
        let elsewhere = start_body(json!({ "RoomId": "room2" }));
        assert_eq!(
            fixture.post("StartWebcast", &elsewhere).await.1["Result"],
            "ok",
            "the same name in another room"
        );
    }
}

#[tokio::test]
async fn a_start_waits_for_the_stop_of_the_previous_task() {
    let fixture = Fixture::new();
    fixture.start(json!({})).await;
    let ticket = fixture.claim().await;
    fixture.report(&ticket, EventKind::Live).await;
    fixture.stop().await;
    let first = fixture.cast().await.id;
    let end = async {
        // This change wakes the waiting request, which must keep waiting.
        fixture.fleet.put_document("kind", "name", None, Some(json!(1))).await.unwrap();
        fixture.report(&ticket, ended(EndReason::Stopped)).await;
    };
    let (again, ()) = tokio::join!(fixture.start(json!({})), end);
    assert_eq!(without_request_id(again), success_response("StartWebcast", "2020-12-01", json!("ok")));
    assert_ne!(fixture.cast().await.id, first);
    let ticket = fixture.claim().await;
    fixture.report(&ticket, EventKind::Live).await;
    fixture.stop().await;
    let late = fixture.start(json!({})).await;
    assert_eq!(
        status_and_code(&late),
        expected(400, "InvalidParameter.TaskAlreadyExists"),
        "the previous task has not ended"
    );
}

#[tokio::test]
async fn quota_and_queue_limit_are_enforced() {
    let fixture = Fixture::with(|app| app.settings.max_casts = 1, |_| {});
    fixture.start(json!({})).await;
    let more = fixture.start(json!({ "TaskId": "task2" })).await;
    assert_eq!(status_and_code(&more), expected(429, "FlowLimitExceeded.TaskNumberOverLimit"));
    assert_eq!(fixture.start(json!({})).await.0, 200, "a repeated start is no further task");
    let fixture = Fixture::with(|_| {}, |config| config.casts.max_queued_casts = 1);
    fixture.start(json!({})).await;
    let more = fixture.start(json!({ "TaskId": "task2" })).await;
    assert_eq!(status_and_code(&more), expected(429, "FlowLimitExceeded.TaskNumberOverLimit"));
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let fixture = Fixture::new();
    let query = "Action=StartWebcast&Version=2020-12-01";
    let body = start_body(json!({})).to_string();
    let sent =
        |key: &str, method: &str, query: &str, body: &str| fixture.signed_request(key, method, query, body);
    let post = |change: Value| sent("AKLTMINE", "POST", query, &start_body(change).to_string());
    let mut unsigned = post(json!({}));
    unsigned.headers.remove("authorization");
    let mut forged = post(json!({}));
    forged.body = Bytes::from(start_body(json!({ "TaskId": "other" })).to_string()).into();
    let mut stale = post(json!({}));
    stale.headers.insert("x-date", HeaderValue::from_static("20231114T215819Z"));
    let get = "Action=GetWebCastTask&Version=2020-12-01&AppId=app0123456789&RoomId=room1";
    for (call, status, code, number) in [
        (sent("AKLTMINE", "POST", "Version=2020-12-01", &body), 400, "MissingParameter", Some(100_002)),
        (sent("AKLTMINE", "POST", "Action=StartWebcast", &body), 400, "MissingParameter", Some(100_002)),
        (unsigned, 401, "MissingAuthenticationToken", Some(100_003)),
        (stale, 403, "InvalidTimestamp", Some(100_006)),
        (
            sent("AKLTMINE", "POST", "Action=ListWebcast&Version=2020-12-01", &body),
            404,
            "InvalidActionOrVersion",
            Some(100_008),
        ),
        (
            sent("AKLTMINE", "POST", "Action=StartWebcast&Version=2022-06-01", &body),
            404,
            "InvalidActionOrVersion",
            Some(100_008),
        ),
        (sent("AKLTNOBODY", "POST", query, &body), 401, "InvalidAccessKey", Some(100_009)),
        (forged, 401, "SignatureDoesNotMatch", Some(100_010)),
        (sent("AKLTMINE", "GET", query, ""), 405, "MethodNotAllowed", None),
        (sent("AKLTMINE", "POST", get, ""), 405, "MethodNotAllowed", None),
        (sent("AKLTMINE", "POST", query, ""), 400, "InvalidParameter.BodyIsEmpty", None),
        (sent("AKLTMINE", "POST", query, "{"), 400, "InvalidParameter.Unmarshal", None),
        (post(json!({ "AppId": "nobody" })), 400, "InvalidParameter.NotExistAppId", None),
        (post(json!({ "AppId": "a/b" })), 400, "InvalidParameter.IllegalAppId", None),
        (post(json!({ "AppId": "theirs" })), 400, "InvalidParameter.AccountIdMismatch", None),
        (post(json!({ "RoomId": "a/b" })), 400, "InvalidParameter.IllegalRoomID", None),
        (post(json!({ "MaxRunningTime": 9 })), 400, "InvalidParameter", None),
        (post(json!({ "SourceURL": "file:///etc/passwd" })), 400, "InvalidParameter", None),
        (sent("AKLTMINE", "GET", get, ""), 400, "InvalidParameter", None),
    ] {
        let (found, body) = without_request_id(fixture.send(&call).await);
        let error = &body["ResponseMetadata"]["Error"];
        assert_eq!((found, error["Code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(error.get("CodeN").and_then(Value::as_u64), number, "{body}");
        assert!(!error["Message"].as_str().unwrap().is_empty() && body.get("Result").is_none(), "{body}");
    }
    assert!(
        fixture
            .fleet
            .list(&pagecast_fleet::Filter { limit: 10, ..Default::default() })
            .await
            .unwrap()
            .casts
            .is_empty()
    );
}

#[tokio::test]
async fn errors_have_the_vendors_envelope() {
    let fixture = Fixture::new();
    let response = without_request_id(fixture.start(json!({ "MaxRunningTime": 9 })).await);
    let metadata = json!({
        "Action": "StartWebcast", "Version": "2020-12-01", "Service": "rtc", "Region": "cn-north-1",
        "Error": { "Code": "InvalidParameter", "Message": "MaxRunningTime is 9: it must be 10 to 86400" },
    });
    assert_eq!(response, (400, json!({ "ResponseMetadata": metadata })));
    let long = format!("Action={}&Version=1", "x".repeat(5000));
    let (_, response) = fixture.send(&fixture.signed_request("AKLTMINE", "POST", &long, "{}")).await;
    assert!(response.to_string().len() < 1000, "{response}");
    assert_eq!(response["ResponseMetadata"]["Error"]["CodeN"], 100_008);
}

#[tokio::test]
async fn internal_errors_are_not_explained() {
    let fixture = Fixture::with(|app| app.settings.room = RoomProvider::Embedded, |_| {});
    let response = fixture.start(json!({})).await;
    assert_eq!(status_and_code(&response), expected(500, "InternalError"));
    assert!(!response.1.to_string().contains("embedded"), "{response:?}");
}

#[tokio::test]
async fn callers_are_asked_to_come_back_while_the_database_is_away() {
    let mut fixture = Fixture::new();
    fixture.service.fleet = crate::callback::testing::FakeFleet::new();
    for action in ["StartWebcast", "StopWebcast"] {
        let query = format!("Action={action}&Version=2020-12-01");
        let call = fixture.signed_request("AKLTMINE", "POST", &query, &start_body(json!({})).to_string());
        let (head, body) = fixture.gate.handle(&fixture.service, &call).await.into_parts();
        let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!((head.status.as_u16(), &head.headers["retry-after"]), (503, &HeaderValue::from(1)));
        assert_eq!(body["ResponseMetadata"]["Error"]["Code"], "ServiceUnavailableTemp", "{action}");
        assert!(!body.to_string().contains("fleet"), "{body}");
    }
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_can_be_repeated() {
    let mut fixture = Fixture::new();
    let database = OutageFleet::start().await;
    fixture.service.fleet = database.fleet.clone();
    let body = start_body(json!({})).to_string();
    let call = fixture.signed_request("AKLTMINE", "POST", "Action=StartWebcast&Version=2020-12-01", &body);
    database.proxy.go_down_after_commit();
    let began = Instant::now();
    assert_eq!(status_and_code(&fixture.send(&call).await), expected(503, "ServiceUnavailableTemp"));
    assert!(began.elapsed() < 2 * FLEET_TIME_LIMIT, "{:?}", began.elapsed());
    database.proxy.set_down(false);
    assert_eq!(
        fixture.send(&call).await.1["Result"],
        "The task has been started. Please do not call the \
        startup task interface repeatedly"
    );
    assert_eq!(database.fleet.count(None).await.unwrap()[0], (CastState::Queued, 1));
}

#[tokio::test]
async fn keys_can_be_rotated() {
    let with_second_key = |disabled: bool| {
        move |app: &mut Application| {
            let mut old = app.keys[0].clone();
            (old.id, old.disabled) = ("AKLTOLD".to_owned(), disabled);
            app.keys.push(old);
        }
    };
    for (disabled, expected) in [(false, expected(200, "none")), (true, expected(401, "InvalidAccessKey"))] {
        let fixture = Fixture::with(with_second_key(disabled), |_| {});
        let call = fixture.signed_request(
            "AKLTOLD",
            "POST",
            "Action=StartWebcast&Version=2020-12-01",
            &start_body(json!({})).to_string(),
        );
        assert_eq!(status_and_code(&fixture.send(&call).await), expected);
        assert_eq!(fixture.start(json!({})).await.0, 200);
    }
}

#[tokio::test]
async fn requests_are_limited_per_key_and_action() {
    let mut fixture = Fixture::new();
    fixture.gate.rate_limits = Action::ALL.map(|_| KeyedRateLimiter::once_an_hour());
    for expected in [expected(200, "none"), expected(429, "FlowLimitExceeded.QPSOverLimit")] {
        assert_eq!(status_and_code(&fixture.start(json!({})).await), expected);
        assert_eq!(status_and_code(&fixture.get().await), expected, "each action has its own limit");
    }
    let theirs = start_body(json!({ "AppId": "theirs" })).to_string();
    let call =
        fixture.signed_request("AKLTTHEIRS", "POST", "Action=StartWebcast&Version=2020-12-01", &theirs);
    assert_eq!(fixture.send(&call).await.0, 200, "each key has its own limit");
}

#[tokio::test]
async fn a_repeated_signature_is_valid_for_a_minute() {
    let fixture = Fixture::new();
    let body = start_body(json!({})).to_string();
    let call = fixture.signed_request("AKLTMINE", "POST", "Action=StartWebcast&Version=2020-12-01", &body);
    let get = "Action=GetWebCastTask&Version=2023-11-01&AppId=app0123456789&RoomId=room1&TaskId=task1";
    let get = fixture.signed_request("AKLTMINE", "GET", get, "");
    assert_eq!(
        (fixture.send(&call).await.0, fixture.send(&call).await.0),
        (200, 200),
        "HTTP clients repeat requests"
    );
    fixture.stop().await;
    assert_eq!(fixture.send(&get).await.0, 200);
    fixture.advance_clock(replay::REPEAT_WINDOW_MS + 1);
    assert_eq!(
        status_and_code(&fixture.send(&call).await),
        expected(403, "InvalidTimestamp"),
        "the repetition would restart a stopped task"
    );
    assert_eq!(fixture.send(&get).await.0, 200, "a GET changes nothing");
}

#[tokio::test]
async fn used_signatures_are_remembered_over_a_restart() {
    let mut fixture = Fixture::new();
    let data = fixture.service.config.data.clone();
    fixture.gate.seen_signatures = Mutex::new(SeenSignatures::open(&data, NOW_MS).unwrap());
    let body = start_body(json!({})).to_string();
    let call = fixture.signed_request("AKLTMINE", "POST", "Action=StartWebcast&Version=2020-12-01", &body);
    assert_eq!(fixture.send(&call).await.0, 200);
    fixture.stop().await;
    fixture.advance_clock(replay::REPEAT_WINDOW_MS + 1);
    fixture.gate = RequestGate::default();
    fixture.gate.seen_signatures = Mutex::new(SeenSignatures::open(&data, fixture.service.now()).unwrap());
    assert_eq!(status_and_code(&fixture.send(&call).await), expected(403, "InvalidTimestamp"));
    assert_eq!(
        status_and_code(&fixture.start(json!({})).await),
        expected(200, "none"),
        "a new signature is accepted"
    );
}

#[tokio::test]
async fn other_nodes_refuse_requests_that_were_answered() {
    let fixture = Fixture::new();
    let database = OutageFleet::start().await;
    fixture.gate.seen_signatures.lock().unwrap().share(NOW_MS);
    let others = [RequestGate::default(), RequestGate::default()];
    others.iter().for_each(|gate| gate.seen_signatures.lock().unwrap().share(NOW_MS));
    let (mut own, mut other) =
        (fixture.sharing(&fixture.gate, &database), fixture.sharing(&others[0], &database));
    let body = start_body(json!({})).to_string();
    let call = fixture.signed_request("AKLTMINE", "POST", "Action=StartWebcast&Version=2020-12-01", &body);
    let send = async |gate: &RequestGate| gate.handle(&fixture.service, &call).await.status().as_u16();
    assert_eq!(send(&fixture.gate).await, 503, "it does not know yet what others have answered");
    own.exchange().await.unwrap();
    other.exchange().await.unwrap();
    assert_eq!(send(&fixture.gate).await, 200);
    own.exchange().await.unwrap();
    other.exchange().await.unwrap();
    assert_eq!(send(&others[0]).await, 200, "a load balancer repeats requests");
    fixture.stop().await;
    fixture.advance_clock(replay::REPEAT_WINDOW_MS + 1);
    assert_eq!((send(&fixture.gate).await, send(&others[0]).await), (403, 403));
    // A node that joins learns of it, too.
    fixture.sharing(&others[1], &database).exchange().await.unwrap();
    assert_eq!(send(&others[1]).await, 403);
    assert_eq!(fixture.start(json!({})).await.0, 200, "a new signature is accepted");
}

#[tokio::test]
async fn temporary_keys_are_refused() {
    let fixture = Fixture::new();
    let signed = |token: &str| {
        // SDKs send the token as a signed header.
        let body = start_body(json!({})).to_string();
        let mut call =
            fixture.signed_request("AKLTMINE", "POST", "Action=StartWebcast&Version=2020-12-01", &body);
        signature::add_security_token(&mut call, token, &Secret::new("secret"));
        call
    };
    assert_eq!(status_and_code(&fixture.send(&signed("STS2abc")).await), expected(401, "InvalidAccessKey"));
    assert_eq!(
        status_and_code(&fixture.send(&signed("")).await),
        expected(200, "none"),
        "an empty token is ignored"
    );
    let mut forged = signed("STS2abc");
    forged.headers.insert("x-security-token", HeaderValue::from_static("STS2abd"));
    assert_eq!(status_and_code(&fixture.send(&forged).await), expected(401, "SignatureDoesNotMatch"));
}

/// An application that takes over an `AppId` can neither see, stop nor replace the earlier tasks.
#[tokio::test]
async fn a_moved_app_id_does_not_show_earlier_tasks() {
    let fixture = Fixture::new();
    fixture.start(json!({})).await;
    let apps: Vec<Application> = fixture.service.apps.all().iter().map(|app| (**app).clone()).collect();
    let (mut before, mut after) = (apps[0].clone(), apps[1].clone());
    (before.settings.app_id, after.settings.app_id) = (None, before.settings.app_id);
    fixture.service.apps.replace(vec![before.clone(), after.clone()]);
    let send = async |action: &str| {
        let query = format!("Action={action}&Version=2020-12-01");
        let body = if action == "StartWebcast" { start_body(json!({})) } else { task_body() };
        status_and_code(
            &fixture.send(&fixture.signed_request("AKLTTHEIRS", "POST", &query, &body.to_string())).await,
        )
    };
    let query = "Action=GetWebCastTask&Version=2023-11-01&AppId=app0123456789&RoomId=room1&TaskId=task1";
    let get = fixture.send(&fixture.signed_request("AKLTTHEIRS", "GET", query, "")).await;
    let unknown = expected(400, "InvalidParameter.ErrorActiveTaskNotFound");
    assert_eq!(status_and_code(&get), unknown);
    assert_eq!(send("StopWebcast").await, unknown);
    assert!(!fixture.cast().await.stop_requested, "the task continues");
    assert_eq!(send("StartWebcast").await, expected(400, "InvalidParameter.TaskAlreadyExists"));
    // The task is found again when the `AppId` moves back.
    (before.settings.app_id, after.settings.app_id) = (after.settings.app_id, None);
    fixture.service.apps.replace(vec![before, after]);
    assert_eq!(fixture.get().await.0, 200);
}

#[tokio::test]
async fn a_signature_in_the_query_is_accepted() {
    let fixture = Fixture::new();
    fixture.start(json!({})).await;
    let signed = r"Action;AppId;RoomId;TaskId;Version;X-Algorithm;X-Credential;X-Date;X-NotSignBody;X-SignedHeaders;X-SignedQueries";
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("Action", "GetWebCastTask"), ("Version", "2020-12-01"), ("AppId", "app0123456789")])
        .extend_pairs([("RoomId", "room1"), ("TaskId", "task1"), ("X-Date", "20231114T221320Z")])
        .extend_pairs([("X-NotSignBody", ""), ("X-Credential", "AKLTMINE/20231114/cn-north-1/rtc/request")])
        .extend_pairs([("X-Algorithm", "HMAC-SHA256"), ("X-SignedHeaders", ""), ("X-SignedQueries", signed)])
        .finish();
    let signature =
        signature::query_signature(&query, &Secret::new("secret"), "20231114T221320Z", "cn-north-1");
    let mut call = fixture.signed_request("AKLTMINE", "GET", &format!("{query}&X-Signature={signature}"), "");
    call.headers.clear();
    assert!(matches(&call));
    assert_eq!(fixture.send(&call).await.1["Result"]["WebCastTask"]["Status"], 1);
    call.query = call.query.replace("TaskId=task1", "TaskId=task2");
    assert_eq!(status_and_code(&fixture.send(&call).await), expected(401, "SignatureDoesNotMatch"));
}

#[test]
fn requests_are_recognized() {
    let call = |query: &str, headers: &[(&'static str, &'static str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        ApiRequest {
            id: RequestId::random(),
            method: Method::POST,
            query: query.to_owned(),
            headers: map,
            body: crate::route::HashedBody::empty(),
        }
    };
    for (query, headers, expected) in [
        ("Action=StartWebcast&Version=2020-12-01", &[][..], true),
        ("Action=GetWebCastTask", &[], true),
        ("Version=2023-11-01", &[], true),
        ("", &[("authorization", "HMAC-SHA256 Credential=a")], true),
        ("", &[("x-date", "20231114T221320Z")], true),
        ("X-Credential=a", &[], true),
        ("X-Algorithm=HMAC-SHA256", &[], true),
        ("", &[], false),
        ("Action=StartWebRecord", &[], false),
        ("Action=StartWebRecord&Version=2019-07-22", &[], false),
        ("Action=StartWebcast&SecretId=a", &[], false),
        ("Action=StartWebcast", &[("x-tc-action", "StartWebRecord")], false),
        ("", &[("x-tc-version", "2019-07-22"), ("x-date", "20231114T221320Z")], false),
        ("", &[("authorization", "TC3-HMAC-SHA256 Credential=a")], false),
        ("", &[("authorization", "Bearer a")], false),
    ] {
        assert_eq!(matches(&call(query, headers)), expected, "{query} {headers:?}");
    }
}
