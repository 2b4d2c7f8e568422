//! Tests both vendors' callbacks from the embedded fleet to a receiver that verifies them, across a crash of
//! the service.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use pagecast_core::CastSpec;
use pagecast_core::cast::{EndReason, HealthFault};
use pagecast_core::spec::{
    Layer, NetworkPolicy, NetworkRule, Room, RoomCodec, RoomIds, RoomService, RoomUrl, Secret, Size, Source,
    SourceUrl,
};
use pagecast_core::time::Fps;
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{
    CastId, Casts, EventKind, Fleet, KeyRetention, Leases, NewCast, Outbox, Ticket, WorkerId,
};
use pagecast_testkit::ScratchDir;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::WebhookDispatcher;
use super::testing::{FakeReceiver, FakeResponse, ReceivedRequest, unix_ms};
use crate::app::{Application, ApplicationRegistry, CallbackReceiver};
use crate::config::Config;
use crate::service::Service;

const SECRET: &str = "callbackkey123";
const CAST_COUNT: u8 = 6;

fn open_fleet(scratch: &ScratchDir) -> Arc<SqliteFleet> {
    let config = sqlite::Config {
        path: scratch.join("fleet.db"),
        vault: Vault::from_file(&scratch.join("key")).unwrap(),
        retention: Duration::from_secs(7 * 86_400),
        wall_clock: Arc::new(unix_ms),
        monotonic_clock: sqlite::monotonic_clock(),
        max_bytes: 1 << 40,
    };
    SqliteFleet::open(config).unwrap()
}

fn service(fleet: &Arc<SqliteFleet>, url: &str) -> Service {
    let mut app: Application = serde_json::from_value(json!({"name": "demo", "app_id": "demo"})).unwrap();
    let url = url.parse().unwrap();
    let receiver =
        CallbackReceiver { url, secret: Some(Secret::new(SECRET)), extra_retry_s: 60, noce: false };
    (app.settings.callbacks.volcengine, app.settings.callbacks.tencent) =
        (Some(receiver.clone()), Some(receiver));
    app.settings.network =
        NetworkPolicy { allow: vec![NetworkRule::parse("127.0.0.1").unwrap()], ..NetworkPolicy::default() };
    let apps = Arc::new(ApplicationRegistry::default());
    apps.replace(vec![app]);
    let fleet: Arc<dyn Fleet> = Arc::clone(fleet) as _;
    Service {
        node: pagecast_fleet::WorkerId("w".to_owned()),
        fleet,
        apps,
        config: Arc::new(Config::default()),
        rooms: None,
        clock: Arc::new(unix_ms),
        peers: None,
        draining: Arc::default(),
        live_api_nodes: Arc::default(),
        audit: Arc::default(),
        sign_in_code: Arc::default(),
        page_checker: None,
        evidence: None,
        recordings: None,
        storage_tester: None,
    }
}

fn new_cast(n: u8) -> NewCast {
    let api = if n.is_multiple_of(2) { "volcengine" } else { "tencent" };
    let id = CastId::new(unix_ms(), [n; 10]);
    let task = || format!("task{n}");
    let mut spec = CastSpec::new(Source::new(SourceUrl::parse("http://example.com/").unwrap()));
    spec.room = Some(Room {
        service: RoomService::Whip { url: RoomUrl::parse("http://example.com/whip").unwrap(), token: None },
        ids: RoomIds { app: "demo".into(), room: "room".into(), user: "page".into(), task: task() },
        layers: vec![Layer {
            size: Size::new(1280, 720).unwrap(),
            fps: Fps::new(30).unwrap(),
            bitrate_kbps: None,
        }],
        codec: RoomCodec::default(),
        ice: Default::default(),
    });
    NewCast {
        id,
        app: "demo".into(),
        api: api.into(),
        key: None,
        key_retention: KeyRetention::UntilEnded,
        request: json!({"SdkAppId": 1_400_000_001, "TaskId": task()}),
        spec,
        queue_timeout: Duration::from_secs(600),
        max_bytes: 1 << 40,
        quota: 100,
        queue_limit: 100,
        notify: true,
    }
}

async fn create_live_cast(fleet: &SqliteFleet, n: u8) -> Ticket {
    fleet.create(new_cast(n)).await.unwrap();
    let claim = fleet
        .claim(&WorkerId("w".into()), &Default::default(), Duration::from_secs(600), &|_| true)
        .await
        .unwrap()
        .unwrap();
    fleet.report_event(&claim.ticket, EventKind::Live).await.unwrap();
    claim.ticket
}

/// Verifies a message's signature and returns its task and its status.
fn verify(request: &ReceivedRequest) -> (String, String) {
    let body: Value = serde_json::from_str(&request.body).unwrap();
    if let Some(sign) = request.raw_head.lines().find_map(|line| line.strip_prefix("sign: ")) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        hmac::verify(&key, request.body.as_bytes(), &BASE64_STANDARD.decode(sign).unwrap()).unwrap();
        let info = &body["EventInfo"];
        let status = format!("{}/{}", body["EventType"], info["Payload"]["Status"]);
        return (info["TaskId"].as_str().unwrap().to_owned(), status);
    }
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let names = ["EventType", "EventData", "EventTime", "EventId", "Version", "AppId", "Nonce"];
    let mut values = names.map(text).to_vec();
    values.push(SECRET.to_owned());
    values.sort();
    let sum = digest::digest(&digest::SHA256, values.concat().as_bytes());
    let hex: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text("Signature"), hex);
    let data: Value = serde_json::from_str(&text("EventData")).unwrap();
    (data["TaskId"].as_str().unwrap().to_owned(), data["Status"].to_string())
}

/// Waits until the outbox is empty.
async fn wait_until_drained(fleet: &SqliteFleet) {
    let mut changes = fleet.changes();
    let drained = async {
        while fleet.backlog().await.unwrap().pending > 0 {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(120), drained)
        .await
        .expect("all callbacks are delivered in time");
}

#[test]
fn callbacks_survive_a_crash_complete_and_in_order() {
    let scratch = ScratchDir::new().unwrap();
    let runtime = Runtime::new().unwrap();
    let receiver = runtime.block_on(FakeReceiver::start(
        &[FakeResponse::Status(500), FakeResponse::Hang, FakeResponse::TruncatedHead],
        FakeResponse::Status(200),
    ));
    let before = {
        let fleet = open_fleet(&scratch);
        let crashing = Runtime::new().unwrap();
        let (_stop, stopped) = watch::channel(false);
        crashing.spawn(WebhookDispatcher::new(service(&fleet, &receiver.url()), Arc::default()).run(stopped));
        let tickets = runtime.block_on(async {
            let mut tickets = Vec::new();
            for n in 0..CAST_COUNT {
                tickets.push(create_live_cast(&fleet, n).await);
            }
            for ticket in &tickets {
                let reloaded = EventKind::Reloaded { fault: HealthFault::Freeze };
                fleet.report_event(ticket, reloaded).await.unwrap();
            }
            // Crash while the first messages are delivered.
            while receiver.received().len() < 4 {
                tokio::task::yield_now().await;
            }
            tickets
        });
        crashing.shutdown_timeout(Duration::from_secs(60));
        tickets
    };
    let fleet = open_fleet(&scratch);
    runtime.block_on(async {
        for ticket in &before {
            let ended = EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None };
            fleet.report_event(ticket, ended).await.unwrap();
        }
        let (stop, stopped) = watch::channel(false);
        let dispatcher = tokio::spawn(
            WebhookDispatcher::new(service(&fleet, &receiver.url()), Arc::default()).run(stopped),
        );
        wait_until_drained(&fleet).await;
        stop.send_replace(true);
        dispatcher.await.unwrap();
        assert_eq!(fleet.backlog().await.unwrap().given_up, 0);
    });
    let requests = receiver.received();
    for n in 0..CAST_COUNT {
        let id =
            if n.is_multiple_of(2) { format!("task{n}") } else { before[usize::from(n)].cast.to_string() };
        let messages: Vec<_> = requests.iter().filter(|request| verify(request).0 == id).collect();
        let mut statuses: Vec<String> = Vec::new();
        messages.iter().map(|request| verify(request).1).for_each(|status| {
            if !statuses.contains(&status) {
                statuses.push(status);
            }
        });
        let want = if n.is_multiple_of(2) { ["1", "4", "2"] } else { ["801/1", "803/1", "802/1"] };
        assert_eq!(statuses, want, "{messages:#?}");
        let bodies: HashSet<_> = messages.iter().map(|request| &request.body).collect();
        assert_eq!(bodies.len(), 3, "a repeated message differs");
    }
}
