//! Receivers that behave, and receivers that do not.

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

/// So that a receiver that hangs does not hold up the tests for long.
const TIMEOUT: Duration = Duration::from_millis(700);

fn two_retries(tries: u32, _: Duration) -> Option<Duration> {
    (tries < 3).then_some(Duration::from_millis(30))
}

fn endless_retries(_: u32, _: Duration) -> Option<Duration> {
    Some(Duration::from_millis(30))
}

/// One message, signed by whatever the receiver's secret is.
fn render_one(receiver: &CallbackReceiver, cast: &Cast, event: &Event) -> Vec<WebhookMessage> {
    let secret = receiver.secret.as_ref().map_or("none", |secret| secret.reveal());
    let body = Bytes::from(json!({"id": event.id(&cast.id), "seq": event.seq}).to_string());
    vec![WebhookMessage { body, headers: vec![("X-Signed-By", secret.to_owned())] }]
}

/// Three messages for the first event, none for the second, one for others.
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
    panic!("a bug of ours")
}

fn volcengine_receiver(app: &Application, _: &Cast) -> Option<CallbackReceiver> {
    app.callbacks.volcengine.clone()
}

fn tencent_receiver(app: &Application, _: &Cast) -> Option<CallbackReceiver> {
    app.callbacks.tencent.clone()
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
        api: "patient",
        policy: DeliveryPolicy { timeout: Duration::from_secs(600), retry_delay: two_retries },
        render: render_one,
        receiver: volcengine_receiver,
        is_success: is_200,
    },
    CallbackFormat {
        api: "broken",
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

/// A courier that works; dropped, it is gone as if killed.
struct RunningDispatcher {
    stop: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Fixture {
    fn new(apps: Vec<Application>) -> Self {
        let outbox = FakeFleet::new();
        let service = Service {
            fleet: outbox.clone(),
            apps: Arc::new(ApplicationRegistry::default()),
            config: Arc::new(Config::default()),
            rooms: None,
            clock: Arc::new(unix_ms),
            draining: Arc::default(),
        };
        service.apps.replace(apps);
        Self { fleet: outbox, service }
    }

    fn start_dispatcher(&self) -> RunningDispatcher {
        let (stop, stopped) = watch::channel(false);
        let mut courier = WebhookDispatcher::with_formats(
            self.service.clone(),
            Arc::new(Metrics::default()),
            CALLBACK_FORMATS,
        );
        courier.drain_timeout = Duration::from_secs(60);
        let mut task = JoinSet::new();
        task.spawn(courier.run(stopped));
        RunningDispatcher { stop, task }
    }

    fn put(&self, n: u16, origin: &str, events: u64) -> CastId {
        self.put_for(n, "demo", origin, events)
    }

    fn put_for(&self, n: u16, app: &str, origin: &str, events: u64) -> CastId {
        let id = CastId::new(i64::from(n), [7; 10]);
        self.fleet.put(cast(id.clone(), app, origin), events);
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
        retry_s: 0,
        noce: false,
    }
}

fn app(url: &str) -> Application {
    app_named("demo", url)
}

/// An application that is told in all words, and may be told on this machine.
fn app_named(name: &str, url: &str) -> Application {
    let mut app: Application = serde_json::from_value(json!({"name": name})).unwrap();
    app.network =
        NetworkPolicy { allow: vec![Allow::parse("127.0.0.0/8").unwrap()], ..NetworkPolicy::default() };
    let to = Some(receiver(url, "old-secret"));
    (app.callbacks.volcengine, app.callbacks.tencent, app.callbacks.native) = (to.clone(), to.clone(), to);
    app
}

fn received_seqs(hook: &FakeReceiver, of: &CastId) -> Vec<u64> {
    let of_it = |body: &serde_json::Value| body["id"].as_str().is_some_and(|id| id.starts_with(of.as_str()));
    let bodies =
        hook.received().into_iter().map(|got| serde_json::from_str::<serde_json::Value>(&got.body).unwrap());
    bodies.filter(of_it).map(|body| body["seq"].as_u64().unwrap()).collect()
}

const DONE: Option<DeliveryOutcome> = Some(DeliveryOutcome::Delivered);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_cast_come_in_order_whatever_happens() {
    let acts = [
        FakeResponse::Status(500),
        FakeResponse::TruncatedHead,
        FakeResponse::Status(200),
        FakeResponse::Status(503),
        FakeResponse::Redirect,
        FakeResponse::Status(204),
    ];
    let hook = FakeReceiver::start(&acts, FakeResponse::Status(200)).await;
    let office = Fixture::new(vec![app(&hook.url())]);
    let cast = office.put(1, "volcengine", 3);
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    // The second event is tried three times, as the rule has it, and then given up; 204 is no success for the vendors.
    assert_eq!(received_seqs(&hook, &cast), [1, 1, 1, 2, 2, 2, 3]);
    assert_eq!(office.fleet.outcomes(&cast), [DONE, Some(DeliveryOutcome::GivenUp), DONE]);
    let got = hook.received();
    assert!(got[..3].iter().all(|again| again.body == got[0].body), "another try says something else");
    let head = &got[0].head;
    assert!(head.starts_with("post /hook?key=hidden http/1.1"), "{head}");
    for line in ["content-type: application/json", "x-signed-by: old-secret", "user-agent: pagecast/"] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    let log = office.fleet.attempt_log();
    let tried: Vec<_> = log.iter().map(|(_, a)| (a.seq, a.status, a.error.as_deref())).collect();
    assert_eq!(tried[0], (1, Some(500), Some("it answered 500")));
    assert!(tried[1].1.is_none() && tried[1].2.unwrap().starts_with("the connection broke"), "{tried:?}");
    assert_eq!(tried[2], (1, Some(200), None));
    assert_eq!(tried[4], (2, Some(302), Some("it answered 302, and redirects are not followed")));
    assert_eq!(tried[5], (2, Some(204), Some("it answered 204")));
    assert!(log.iter().all(|(_, a)| a.url == format!("http://{}/hook", hook.addr)), "{log:?}");
    assert!(!format!("{log:?}").contains("hidden"));
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_down_gets_its_events_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let office = Fixture::new(vec![app(&format!("http://{addr}/"))]);
    let cast = office.put(1, "v1", 2);
    let working = office.start_dispatcher();
    office.fleet.wait_until(|outbox| outbox.attempt_log().len() >= 3).await;
    let hook =
        FakeReceiver::on_listener(TcpListener::bind(addr).await.unwrap(), &[], FakeResponse::Status(204));
    office.fleet.wait_until_settled().await;
    assert_eq!(received_seqs(&hook, &cast), [1, 2]);
    let log = office.fleet.attempt_log();
    assert!(log[0].1.error.as_ref().unwrap().starts_with("there is no connection ("), "{log:?}");
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_slow_receiver() {
    let (slow, fast) = (
        FakeReceiver::start(&[], FakeResponse::Hang).await,
        FakeReceiver::start(&[], FakeResponse::Status(200)).await,
    );
    let office = Fixture::new(vec![app_named("slow", &slow.url()), app_named("fast", &fast.url())]);
    // More than fit in one look at the outbox, and all of them in front of the others.
    for n in 0..900 {
        office.put_for(n, "slow", "patient", 1);
    }
    let quick: Vec<_> = (900..950).map(|n| office.put_for(n, "fast", "v1", 2)).collect();
    let working = office.start_dispatcher();
    let told = |outbox: &FakeFleet| quick.iter().all(|cast| outbox.outcomes(cast) == [DONE, DONE]);
    office.fleet.wait_until(told).await;
    assert!(quick.iter().all(|cast| received_seqs(&fast, cast) == [1, 2]));
    while slow.received().len() < 8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.received().len(), 8, "the slow one gets more than its share");
    drop(working);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_is_waited_for_only_so_long() {
    let hook = FakeReceiver::start(&[FakeResponse::Hang], FakeResponse::Status(200)).await;
    let office = Fixture::new(vec![app(&hook.url())]);
    office.put(1, "v1", 1);
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    let log = office.fleet.attempt_log();
    assert_eq!(log[0].1.error.as_deref(), Some("no answer came within 0.7 s"));
    assert!(log[0].1.took_ms >= 700 && log[1].1.error.is_none(), "{log:?}");
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_messages_of_an_event_come_one_after_the_other() {
    let acts = [FakeResponse::Status(200), FakeResponse::Status(500), FakeResponse::Status(200)];
    let hook = FakeReceiver::start(&acts, FakeResponse::Status(200)).await;
    let office = Fixture::new(vec![app(&hook.url())]);
    let cast = office.put(1, "tencent", 3);
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    let bodies: Vec<_> = hook.received().into_iter().map(|got| got.body).collect();
    let part = |part: u32| json!({"seq": 1, "part": part}).to_string();
    assert_eq!(bodies[..4], [part(0), part(1), part(1), part(2)]);
    assert!(bodies[4].contains("\"seq\":3") && bodies.len() == 5, "{bodies:?}");
    assert_eq!(office.fleet.outcomes(&cast), [DONE; 3]);
    let log: Vec<_> = office.fleet.attempt_log().iter().map(|(_, a)| (a.seq, a.part)).collect();
    assert_eq!(log, [(1, 0), (1, 1), (1, 1), (1, 2), (3, 0)]);
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_dispatcher_dies() {
    let hook = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let office = Fixture::new(vec![app(&hook.url())]);
    let casts: Vec<_> = (0..20).map(|n| office.put(n, "v1", 20)).collect();
    for _ in 0..5 {
        let before = office.fleet.attempt_log().len();
        let working = office.start_dispatcher();
        office.fleet.wait_until(|outbox| outbox.attempt_log().len() > before + 10).await;
        drop(working);
    }
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    for cast in &casts {
        // Some come twice, but none before the one in front of it came once.
        let mut seen = Vec::new();
        received_seqs(&hook, cast).into_iter().for_each(|seq| {
            if !seen.contains(&seq) {
                seen.push(seq);
            }
        });
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    }
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_is_waited_for() {
    let hook = FakeReceiver::start(&[FakeResponse::Hang], FakeResponse::Status(200)).await;
    let office = Fixture::new(vec![app(&hook.url())]);
    office.put(1, "v1", 1);
    let working = office.start_dispatcher();
    while hook.received().is_empty() {
        tokio::task::yield_now().await;
    }
    working.stop_and_wait().await;
    assert_eq!(office.fleet.attempt_log().len(), 1, "what became of it was noted before the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_fails_for_a_while_makes_no_doubles() {
    let hook = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let office = Fixture::new(vec![app(&hook.url())]);
    let cast = office.put(1, "v1", 2);
    office.fleet.fail_settles(1);
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    assert_eq!(received_seqs(&hook, &cast), [1, 2]);
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_answers() {
    // A good status is what counts: what is behind it may be cut or endless.
    for act in [FakeResponse::TruncatedBody, FakeResponse::EndlessBody] {
        let hook = FakeReceiver::start(&[act], FakeResponse::Status(200)).await;
        let office = Fixture::new(vec![app(&hook.url())]);
        let cast = office.put(1, "volcengine", 2);
        let working = office.start_dispatcher();
        office.fleet.wait_until_settled().await;
        assert_eq!(received_seqs(&hook, &cast), [1, 2], "{act:?}");
        working.stop_and_wait().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let server = TlsServer::start().unwrap();
    let office = Fixture::new(vec![app(&server.url())]);
    let cast = office.put(1, "volcengine", 1);
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    assert_eq!(office.fleet.outcomes(&cast), [Some(DeliveryOutcome::GivenUp)]);
    let log = office.fleet.attempt_log();
    assert!(log[0].1.error.as_ref().unwrap().contains("certificate"), "{log:?}");
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_machine_and_its_neighbours_are_out_of_reach_unless_allowed() {
    let hook = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let port = hook.addr.port();
    let near = "its address is not public, and no rule of the application allows it";
    for (url, allow, deny, want) in [
        (format!("http://127.0.0.1:{port}/"), None, None, Some(near)),
        (format!("http://localhost:{port}/"), None, None, Some(near)),
        (format!("http://0x7f.1:{port}/"), None, None, Some(near)),
        (format!("http://[::ffff:127.0.0.1]:{port}/"), None, None, Some(near)),
        ("http://169.254.169.254/latest/".into(), None, None, Some(near)),
        ("http://10.0.0.1/".into(), Some("127.0.0.0/8"), None, Some(near)),
        (format!("http://127.0.0.1:{port}/"), Some("127.0.0.1:1"), None, Some(near)),
        (
            format!("http://127.0.0.1:{port}/"),
            Some("*"),
            Some("127.0.0.1"),
            Some("a rule of the application denies its address"),
        ),
        ("http://does-not-exist.invalid/".into(), Some("*"), None, Some("its name cannot be resolved")),
        ("ftp://127.0.0.1/".into(), Some("*"), None, Some("its address is neither http nor https")),
        (format!("http://127.0.0.1:{port}/"), Some("127.0.0.1"), None, None),
        (format!("http://localhost:{port}/"), Some("localhost"), None, None),
    ] {
        let mut app = app(&url);
        let rules = |rule: Option<&str>| rule.map(|rule| Allow::parse(rule).unwrap()).into_iter().collect();
        app.network = NetworkPolicy { allow: rules(allow), deny: rules(deny), udp: false };
        let office = Fixture::new(vec![app]);
        office.put(1, "volcengine", 1);
        let (before, working) = (hook.received().len(), office.start_dispatcher());
        office.fleet.wait_until_settled().await;
        let (log, came) = (office.fleet.attempt_log(), hook.received().len() - before);
        let error = log[0].1.error.as_deref();
        match want {
            Some(want) => assert!(came == 0 && error.unwrap().starts_with(want), "{url}: {error:?}"),
            None => assert!(came == 1 && error.is_none(), "{url}: {error:?}"),
        }
        working.stop_and_wait().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_secret_or_address_counts_at_once() {
    let (old, new) = (
        FakeReceiver::start(&[], FakeResponse::Status(500)).await,
        FakeReceiver::start(&[], FakeResponse::Status(200)).await,
    );
    let office = Fixture::new(vec![app(&old.url())]);
    office.put(1, "v1", 1);
    let working = office.start_dispatcher();
    office.fleet.wait_until(|outbox| outbox.attempt_log().len() >= 2).await;
    let mut changed = app(&new.url());
    changed.callbacks.native = Some(receiver(&new.url(), "new-secret"));
    office.service.apps.replace(vec![changed]);
    office.fleet.wait_until_settled().await;
    assert!(old.received()[0].head.contains("x-signed-by: old-secret"));
    assert!(new.received()[0].head.contains("x-signed-by: new-secret"));
    assert_eq!(new.received()[0].body, old.received()[0].body);
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cast_may_have_a_receiver_of_its_own() {
    let (apps, own) = (
        FakeReceiver::start(&[], FakeResponse::Status(200)).await,
        FakeReceiver::start(&[], FakeResponse::Status(200)).await,
    );
    let office = Fixture::new(vec![app(&apps.url())]);
    let mut with = cast(CastId::new(1, [1; 10]), "demo", "v1");
    with.request = json!({"callback": {"url": own.url(), "secret": "its-own"}});
    office.fleet.put(with, 1);
    office.put(2, "v1", 1);
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    assert!(own.received()[0].head.contains("x-signed-by: its-own"));
    assert_eq!((own.received().len(), apps.received().len()), (1, 1));
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_receiver_nothing_is_tried() {
    let mut silent = app("http://127.0.0.1:1/");
    silent.callbacks = Default::default();
    let office = Fixture::new(vec![silent]);
    let casts =
        [office.put(1, "volcengine", 2), office.put(2, "unknown", 1), office.put_for(3, "gone", "v1", 1)];
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    assert!(casts.iter().flat_map(|cast| office.fleet.outcomes(cast)).all(|settled| settled == DONE));
    assert!(office.fleet.attempt_log().is_empty());
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bug_of_ours_stops_nobody_else() {
    let hook = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let office = Fixture::new(vec![app(&hook.url())]);
    let bad = office.put(1, "broken", 1);
    let good = office.put(2, "volcengine", 2);
    let working = office.start_dispatcher();
    office.fleet.wait_until(|outbox| outbox.outcomes(&good) == [DONE, DONE]).await;
    assert_eq!(office.fleet.outcomes(&bad), [None], "it is tried again, later");
    working.stop_and_wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_s_extends_the_vendors_retries() {
    let acts = [FakeResponse::Status(500); 3];
    let hook = FakeReceiver::start(&acts, FakeResponse::Status(200)).await;
    let mut patient = app(&hook.url());
    patient.callbacks.volcengine.as_mut().unwrap().retry_s = 5;
    let office = Fixture::new(vec![patient]);
    let cast = office.put(1, "volcengine", 1);
    let working = office.start_dispatcher();
    office.fleet.wait_until_settled().await;
    assert_eq!(office.fleet.outcomes(&cast), [DONE]);
    assert_eq!(hook.received().len(), 4);
    working.stop_and_wait().await;
}
