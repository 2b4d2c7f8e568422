//! Tests of the dispatcher with receivers that answer well, badly, late or not at all.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use pagecast_core::spec::{NetworkPolicy, NetworkRule as Allow};
use pagecast_fleet::{Cast, CastId, DeliveryOutcome, Event};
use pagecast_testkit::TlsServer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::testing::{FakeFleet, FakeReceiver, FakeResponse, cast, unix_ms};
use super::{
    CallbackFormat, DeliveryPolicy, WebhookDispatcher, WebhookMessage, is_2xx, is_200, native_receiver,
};
use crate::app::{Application, ApplicationRegistry, CallbackReceiver};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::service::Service;

/// Response timeout, short so that receivers that hang do not slow down the tests.
const TIMEOUT: Duration = Duration::from_millis(700);

fn two_retries(attempts: u32, _: Duration) -> Option<Duration> {
    (attempts < 3).then_some(Duration::from_millis(30))
}

fn endless_retries(_: u32, _: Duration) -> Option<Duration> {
    Some(Duration::from_millis(30))
}

/// Renders one message, with the receiver's secret in a header.
fn render_one(receiver: &CallbackReceiver, cast: &Cast, event: &Event) -> Vec<WebhookMessage> {
    let secret = receiver.secret.as_ref().map_or("none", |secret| secret.reveal());
    let body = Bytes::from(json!({"id": event.id(&cast.id), "seq": event.seq}).to_string());
    vec![WebhookMessage { body, headers: vec![("X-Signed-By", secret.to_owned())] }]
}

/// Renders three messages for the first event, none for the second, and one for each other event.
fn render_parts(receiver: &CallbackReceiver, cast: &Cast, event: &Event) -> Vec<WebhookMessage> {
    let part = |part| {
        let body = Bytes::from(json!({"seq": event.seq, "part": part}).to_string());
        WebhookMessage { body, headers: Vec::new() }
    };
    match event.seq {
        1 => (0..3).map(part).collect(),
        2 => Vec::new(),
        _ => render_one(receiver, cast, event),
    }
}

fn render_panics(_: &CallbackReceiver, _: &Cast, _: &Event) -> Vec<WebhookMessage> {
    panic!("a bug in a format")
}

fn volcengine_receiver(app: &Application, _: &Cast) -> Option<CallbackReceiver> {
    app.settings.callbacks.volcengine.clone()
}

fn tencent_receiver(app: &Application, _: &Cast) -> Option<CallbackReceiver> {
    app.settings.callbacks.tencent.clone()
}

static CALLBACK_FORMATS: &[CallbackFormat] = &[
    CallbackFormat {
        api: "volcengine",
        policy: DeliveryPolicy { timeout: TIMEOUT, retry_delay: two_retries },
        render: render_one,
        receiver: volcengine_receiver,
        is_success: is_200,
    },
    CallbackFormat {
        api: "tencent",
        policy: DeliveryPolicy { timeout: TIMEOUT, retry_delay: endless_retries },
        render: render_parts,
        receiver: tencent_receiver,
        is_success: is_200,
    },
    CallbackFormat {
        api: "v1",
        policy: DeliveryPolicy { timeout: TIMEOUT, retry_delay: endless_retries },
        render: render_one,
        receiver: native_receiver,
        is_success: is_2xx,
    },
    CallbackFormat {
        api: "slow-receiver",
        policy: DeliveryPolicy { timeout: Duration::from_secs(600), retry_delay: two_retries },
        render: render_one,
        receiver: volcengine_receiver,
        is_success: is_200,
    },
    CallbackFormat {
        api: "panicking",
        policy: DeliveryPolicy { timeout: TIMEOUT, retry_delay: two_retries },
        render: render_panics,
        receiver: volcengine_receiver,
        is_success: is_200,
    },
];

struct Fixture {
    fleet: Arc<FakeFleet>,
    service: Service,
}

/// A running dispatcher. Dropping it aborts it, like a crash.
struct RunningDispatcher {
    stop: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Fixture {
    fn new(apps: Vec<Application>) -> Self {
        let outbox = FakeFleet::new();
        let service = Service {
            node: pagecast_fleet::WorkerId("w".to_owned()),
            fleet: outbox.clone(),
            apps: Arc::new(ApplicationRegistry::default()),
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
        };
        service.apps.replace(apps);
        Self { fleet: outbox, service }
    }

    fn start_dispatcher(&self) -> RunningDispatcher {
        let (stop, stopped) = watch::channel(false);
        let mut dispatcher = WebhookDispatcher::with_formats(
            self.service.clone(),
            Arc::new(Metrics::default()),
            CALLBACK_FORMATS,
        );
        dispatcher.drain_timeout = Duration::from_secs(60);
        let mut task = JoinSet::new();
        task.spawn(dispatcher.run(stopped));
        RunningDispatcher { stop, task }
    }

    fn put(&self, n: u16, api: &str, events: u64) -> CastId {
        self.put_for(n, "demo", api, events)
    }

    fn put_for(&self, n: u16, app: &str, api: &str, events: u64) -> CastId {
        let id = CastId::new(i64::from(n), [7; 10]);
        self.fleet.put(cast(id.clone(), app, api), events);
        id
    }
}

impl RunningDispatcher {
    async fn stop_and_wait(mut self) {
        self.stop.send_replace(true);
        self.task.join_next().await;
    }
}

fn receiver(url: &str, secret: &str) -> CallbackReceiver {
    CallbackReceiver {
        url: url.parse().unwrap(),
        secret: Some(secret.to_owned().into()),
        extra_retry_s: 0,
        noce: false,
    }
}

fn app(url: &str) -> Application {
    app_named("demo", url)
}

/// An application with a receiver for each format, which may be on loopback.
fn app_named(name: &str, url: &str) -> Application {
    let mut app: Application = serde_json::from_value(json!({"name": name})).unwrap();
    app.settings.network =
        NetworkPolicy { allow: vec![Allow::parse("127.0.0.0/8").unwrap()], ..NetworkPolicy::default() };
    let receiver = Some(receiver(url, "old-secret"));
    (app.settings.callbacks.volcengine, app.settings.callbacks.tencent, app.settings.callbacks.native) =
        (receiver.clone(), receiver.clone(), receiver);
    app
}

fn received_seqs(receiver: &FakeReceiver, cast: &CastId) -> Vec<u64> {
    let is_of_cast =
        |body: &serde_json::Value| body["id"].as_str().is_some_and(|id| id.starts_with(cast.as_str()));
    let bodies = receiver
        .received()
        .into_iter()
        .map(|request| serde_json::from_str::<serde_json::Value>(&request.body).unwrap());
    bodies.filter(is_of_cast).map(|body| body["seq"].as_u64().unwrap()).collect()
}

const DONE: Option<DeliveryOutcome> = Some(DeliveryOutcome::Delivered);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_cast_arrive_in_order_despite_failures() {
    let script = [
        FakeResponse::Status(500),
        FakeResponse::TruncatedHead,
        FakeResponse::Status(200),
        FakeResponse::Status(503),
        FakeResponse::Redirect,
        FakeResponse::Status(204),
    ];
    let receiver = FakeReceiver::start(&script, FakeResponse::Status(200)).await;
    let fixture = Fixture::new(vec![app(&receiver.url())]);
    let cast = fixture.put(1, "volcengine", 3);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    // The policy gives up the second event after three attempts. The vendors do not accept 204 as success.
    assert_eq!(received_seqs(&receiver, &cast), [1, 1, 1, 2, 2, 2, 3]);
    assert_eq!(fixture.fleet.outcomes(&cast), [DONE, Some(DeliveryOutcome::GivenUp), DONE]);
    let received = receiver.received();
    assert!(received[..3].iter().all(|again| again.body == received[0].body), "a retry has the same body");
    let head = &received[0].head;
    assert!(head.starts_with("post /hook?key=hidden http/1.1"), "{head}");
    for line in ["content-type: application/json", "x-signed-by: old-secret", "user-agent: pagecast/"] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    let log = fixture.fleet.attempt_log();
    let attempts: Vec<_> = log.iter().map(|(_, a)| (a.seq, a.status, a.error.as_deref())).collect();
    assert_eq!(attempts[0], (1, Some(500), Some("the receiver answered 500")));
    assert!(attempts[1].1.is_none() && attempts[1].2.unwrap().starts_with("connection lost"), "{attempts:?}");
    assert_eq!(attempts[2], (1, Some(200), None));
    let answers: Vec<_> = log.iter().map(|(_, a)| a.answer.as_deref()).take(3).collect();
    assert_eq!(answers, [Some("ok"), None, Some("ok")]);
    assert_eq!(
        attempts[4],
        (2, Some(302), Some("the receiver answered 302, and redirects are not followed"))
    );
    assert_eq!(attempts[5], (2, Some(204), Some("the receiver answered 204")));
    assert!(log.iter().all(|(_, a)| a.url == format!("http://{}/hook", receiver.addr)), "{log:?}");
    assert!(!format!("{log:?}").contains("hidden"));
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_down_gets_its_events_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let fixture = Fixture::new(vec![app(&format!("http://{addr}/"))]);
    let cast = fixture.put(1, "v1", 2);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until(|outbox| outbox.attempt_log().len() >= 3).await;
    let receiver =
        FakeReceiver::on_listener(TcpListener::bind(addr).await.unwrap(), &[], FakeResponse::Status(204));
    fixture.fleet.wait_until_settled().await;
    assert_eq!(received_seqs(&receiver, &cast), [1, 2]);
    let log = fixture.fleet.attempt_log();
    assert!(log[0].1.error.as_ref().unwrap().starts_with("cannot connect ("), "{log:?}");
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_does_not_delay_others() {
    let (slow, fast) = (
        FakeReceiver::start(&[], FakeResponse::Hang).await,
        FakeReceiver::start(&[], FakeResponse::Status(200)).await,
    );
    let fixture = Fixture::new(vec![app_named("slow", &slow.url()), app_named("fast", &fast.url())]);
    // More events than one batch of the outbox, all of them older than the others.
    for n in 0..900 {
        fixture.put_for(n, "slow", "slow-receiver", 1);
    }
    let quick: Vec<_> = (900..950).map(|n| fixture.put_for(n, "fast", "v1", 2)).collect();
    let dispatcher = fixture.start_dispatcher();
    let arrived = |outbox: &FakeFleet| quick.iter().all(|cast| outbox.outcomes(cast) == [DONE, DONE]);
    fixture.fleet.wait_until(arrived).await;
    assert!(quick.iter().all(|cast| received_seqs(&fast, cast) == [1, 2]));
    while slow.received().len() < 8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.received().len(), 8, "concurrent deliveries to one receiver are limited");
    drop(dispatcher);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_awaited_until_the_timeout() {
    let receiver = FakeReceiver::start(&[FakeResponse::Hang], FakeResponse::Status(200)).await;
    let fixture = Fixture::new(vec![app(&receiver.url())]);
    fixture.put(1, "v1", 1);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    let log = fixture.fleet.attempt_log();
    assert_eq!(log[0].1.error.as_deref(), Some("no response within 0.7 s"));
    assert!(log[0].1.took_ms >= 700 && log[1].1.error.is_none(), "{log:?}");
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_an_event_arrive_in_order() {
    let script = [FakeResponse::Status(200), FakeResponse::Status(500), FakeResponse::Status(200)];
    let receiver = FakeReceiver::start(&script, FakeResponse::Status(200)).await;
    let fixture = Fixture::new(vec![app(&receiver.url())]);
    let cast = fixture.put(1, "tencent", 3);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    let bodies: Vec<_> = receiver.received().into_iter().map(|received| received.body).collect();
    let part = |part: u32| json!({"seq": 1, "part": part}).to_string();
    assert_eq!(bodies[..4], [part(0), part(1), part(1), part(2)]);
    assert!(bodies[4].contains("\"seq\":3") && bodies.len() == 5, "{bodies:?}");
    assert_eq!(fixture.fleet.outcomes(&cast), [DONE; 3]);
    let log: Vec<_> = fixture.fleet.attempt_log().iter().map(|(_, a)| (a.seq, a.part)).collect();
    assert_eq!(log, [(1, 0), (1, 1), (1, 1), (1, 2), (3, 0)]);
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_dispatcher_dies() {
    let receiver = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let fixture = Fixture::new(vec![app(&receiver.url())]);
    let casts: Vec<_> = (0..20).map(|n| fixture.put(n, "v1", 20)).collect();
    for _ in 0..5 {
        let before = fixture.fleet.attempt_log().len();
        let dispatcher = fixture.start_dispatcher();
        fixture.fleet.wait_until(|outbox| outbox.attempt_log().len() > before + 10).await;
        drop(dispatcher);
    }
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    for cast in &casts {
        // Some events arrive twice, but none before its predecessor.
        let mut seen = Vec::new();
        received_seqs(&receiver, cast).into_iter().for_each(|seq| {
            if !seen.contains(&seq) {
                seen.push(seq);
            }
        });
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    }
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_deliveries_are_awaited_at_shutdown() {
    let receiver = FakeReceiver::start(&[FakeResponse::Hang], FakeResponse::Status(200)).await;
    let fixture = Fixture::new(vec![app(&receiver.url())]);
    fixture.put(1, "v1", 1);
    let dispatcher = fixture.start_dispatcher();
    while receiver.received().is_empty() {
        tokio::task::yield_now().await;
    }
    dispatcher.stop_and_wait().await;
    assert_eq!(fixture.fleet.attempt_log().len(), 1, "the outcome is stored before the dispatcher ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_database_causes_no_duplicates() {
    let receiver = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let fixture = Fixture::new(vec![app(&receiver.url())]);
    let cast = fixture.put(1, "v1", 2);
    fixture.fleet.fail_settles(1);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    assert_eq!(received_seqs(&receiver, &cast), [1, 2]);
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_responses_with_status_200_are_success() {
    // Only the status counts: the body may be truncated or endless.
    for response in [FakeResponse::TruncatedBody, FakeResponse::EndlessBody] {
        let receiver = FakeReceiver::start(&[response], FakeResponse::Status(200)).await;
        let fixture = Fixture::new(vec![app(&receiver.url())]);
        let cast = fixture.put(1, "volcengine", 2);
        let dispatcher = fixture.start_dispatcher();
        fixture.fleet.wait_until_settled().await;
        assert_eq!(received_seqs(&receiver, &cast), [1, 2], "{response:?}");
        dispatcher.stop_and_wait().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusted_certificate_is_refused() {
    let server = TlsServer::start().unwrap();
    let fixture = Fixture::new(vec![app(&server.url())]);
    let cast = fixture.put(1, "volcengine", 1);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    assert_eq!(fixture.fleet.outcomes(&cast), [Some(DeliveryOutcome::GivenUp)]);
    let log = fixture.fleet.attempt_log();
    assert!(log[0].1.error.as_ref().unwrap().contains("certificate"), "{log:?}");
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_addresses_are_unreachable_unless_allowed() {
    let receiver = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let port = receiver.addr.port();
    let private = "the address is not public and no rule of the application allows it";
    for (url, allow, deny, want) in [
        (format!("http://127.0.0.1:{port}/"), None, None, Some(private)),
        (format!("http://localhost:{port}/"), None, None, Some(private)),
        (format!("http://0x7f.1:{port}/"), None, None, Some(private)),
        (format!("http://[::ffff:127.0.0.1]:{port}/"), None, None, Some(private)),
        ("http://169.254.169.254/latest/".into(), None, None, Some(private)),
        ("http://10.0.0.1/".into(), Some("127.0.0.0/8"), None, Some(private)),
        (format!("http://127.0.0.1:{port}/"), Some("127.0.0.1:1"), None, Some(private)),
        (
            format!("http://127.0.0.1:{port}/"),
            Some("*"),
            Some("127.0.0.1"),
            Some("a rule of the application denies the address"),
        ),
        ("http://does-not-exist.invalid/".into(), Some("*"), None, Some("the host name cannot be resolved")),
        ("ftp://127.0.0.1/".into(), Some("*"), None, Some("the URL scheme is neither http nor https")),
        (format!("http://127.0.0.1:{port}/"), Some("127.0.0.1"), None, None),
        (format!("http://localhost:{port}/"), Some("localhost"), None, None),
    ] {
        let mut app = app(&url);
        let rules = |rule: Option<&str>| rule.map(|rule| Allow::parse(rule).unwrap()).into_iter().collect();
        app.settings.network = NetworkPolicy { allow: rules(allow), deny: rules(deny), udp: false };
        let fixture = Fixture::new(vec![app]);
        fixture.put(1, "volcengine", 1);
        let (before, dispatcher) = (receiver.received().len(), fixture.start_dispatcher());
        fixture.fleet.wait_until_settled().await;
        let (log, received) = (fixture.fleet.attempt_log(), receiver.received().len() - before);
        let error = log[0].1.error.as_deref();
        match want {
            Some(want) => assert!(received == 0 && error.unwrap().starts_with(want), "{url}: {error:?}"),
            None => assert!(received == 1 && error.is_none(), "{url}: {error:?}"),
        }
        dispatcher.stop_and_wait().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_receiver_is_used_at_the_next_attempt() {
    let (old, new) = (
        FakeReceiver::start(&[], FakeResponse::Status(500)).await,
        FakeReceiver::start(&[], FakeResponse::Status(200)).await,
    );
    let fixture = Fixture::new(vec![app(&old.url())]);
    fixture.put(1, "v1", 1);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until(|outbox| outbox.attempt_log().len() >= 2).await;
    let mut changed = app(&new.url());
    changed.settings.callbacks.native = Some(receiver(&new.url(), "new-secret"));
    fixture.service.apps.replace(vec![changed]);
    fixture.fleet.wait_until_settled().await;
    assert!(old.received()[0].head.contains("x-signed-by: old-secret"));
    assert!(new.received()[0].head.contains("x-signed-by: new-secret"));
    assert_eq!(new.received()[0].body, old.received()[0].body);
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cast_can_have_its_own_receiver() {
    let (apps, own) = (
        FakeReceiver::start(&[], FakeResponse::Status(200)).await,
        FakeReceiver::start(&[], FakeResponse::Status(200)).await,
    );
    let fixture = Fixture::new(vec![app(&apps.url())]);
    let mut cast_with_receiver = cast(CastId::new(1, [1; 10]), "demo", "v1");
    cast_with_receiver.request = json!({"callback": {"url": own.url(), "secret": "its-own"}});
    fixture.fleet.put(cast_with_receiver, 1);
    fixture.put(2, "v1", 1);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    assert!(own.received()[0].head.contains("x-signed-by: its-own"));
    assert_eq!((own.received().len(), apps.received().len()), (1, 1));
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_without_a_receiver_are_settled() {
    let mut without_receivers = app("http://127.0.0.1:1/");
    without_receivers.settings.callbacks = Default::default();
    let fixture = Fixture::new(vec![without_receivers]);
    let casts =
        [fixture.put(1, "volcengine", 2), fixture.put(2, "unknown", 1), fixture.put_for(3, "gone", "v1", 1)];
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    assert!(casts.iter().flat_map(|cast| fixture.fleet.outcomes(cast)).all(|settled| settled == DONE));
    assert!(fixture.fleet.attempt_log().is_empty());
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_affects_one_cast_only() {
    let receiver = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let fixture = Fixture::new(vec![app(&receiver.url())]);
    let bad = fixture.put(1, "panicking", 1);
    let good = fixture.put(2, "volcengine", 2);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until(|outbox| outbox.outcomes(&good) == [DONE, DONE]).await;
    assert_eq!(fixture.fleet.outcomes(&bad), [None], "it is retried later");
    dispatcher.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extra_retry_s_extends_the_vendors_retries() {
    let script = [FakeResponse::Status(500); 3];
    let receiver = FakeReceiver::start(&script, FakeResponse::Status(200)).await;
    let mut app = app(&receiver.url());
    app.settings.callbacks.volcengine.as_mut().unwrap().extra_retry_s = 5;
    let fixture = Fixture::new(vec![app]);
    let cast = fixture.put(1, "volcengine", 1);
    let dispatcher = fixture.start_dispatcher();
    fixture.fleet.wait_until_settled().await;
    assert_eq!(fixture.fleet.outcomes(&cast), [DONE]);
    assert_eq!(receiver.received().len(), 4);
    dispatcher.stop_and_wait().await;
}
