//! Receivers that behave, and receivers that do not.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use pagecast_core::spec::{Network, Rule as Allow};
use pagecast_fleet::{Cast, CastId, Event, Settled};
use pagecast_testkit::SelfSigned;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::testing::{Act, Hook, Outbox, cast, now};
use super::{Courier, Dialect, Message, Rule, is_2xx, is_200, native_receiver};
use crate::app::{Application, Apps, Receiver};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::service::Service;

/// So that a receiver that hangs does not hold up the tests for long.
const TIMEOUT: Duration = Duration::from_millis(700);

fn quick(tries: u32, _: Duration) -> Option<Duration> {
    (tries < 3).then_some(Duration::from_millis(30))
}

fn for_ever(_: u32, _: Duration) -> Option<Duration> {
    Some(Duration::from_millis(30))
}

/// One message, signed by whatever the receiver's secret is.
fn one(receiver: &Receiver, cast: &Cast, event: &Event) -> Vec<Message> {
    let secret = receiver.secret.as_ref().map_or("none", |secret| secret.reveal());
    let body = Bytes::from(json!({"id": event.id(&cast.id), "seq": event.seq}).to_string());
    vec![Message { body, headers: vec![("X-Signed-By", secret.to_owned())] }]
}

/// Three messages for the first event, none for the second, one for others.
fn several(receiver: &Receiver, cast: &Cast, event: &Event) -> Vec<Message> {
    let part = |part| {
        let body = Bytes::from(json!({"seq": event.seq, "part": part}).to_string());
        Message { body, headers: Vec::new() }
    };
    match event.seq {
        1 => (0..3).map(part).collect(),
        2 => Vec::new(),
        _ => one(receiver, cast, event),
    }
}

fn broken(_: &Receiver, _: &Cast, _: &Event) -> Vec<Message> {
    panic!("a bug of ours")
}

fn in_volcengine_words(app: &Application, _: &Cast) -> Option<Receiver> {
    app.callbacks.volcengine.clone()
}

fn in_tencent_words(app: &Application, _: &Cast) -> Option<Receiver> {
    app.callbacks.tencent.clone()
}

static DIALECTS: &[Dialect] = &[
    Dialect {
        origin: "volcengine",
        rule: Rule { timeout: TIMEOUT, pause: quick },
        render: one,
        receiver: in_volcengine_words,
        arrived: is_200,
    },
    Dialect {
        origin: "tencent",
        rule: Rule { timeout: TIMEOUT, pause: for_ever },
        render: several,
        receiver: in_tencent_words,
        arrived: is_200,
    },
    Dialect {
        origin: "v1",
        rule: Rule { timeout: TIMEOUT, pause: for_ever },
        render: one,
        receiver: native_receiver,
        arrived: is_2xx,
    },
    Dialect {
        origin: "patient",
        rule: Rule { timeout: Duration::from_secs(600), pause: quick },
        render: one,
        receiver: in_volcengine_words,
        arrived: is_200,
    },
    Dialect {
        origin: "broken",
        rule: Rule { timeout: TIMEOUT, pause: quick },
        render: broken,
        receiver: in_volcengine_words,
        arrived: is_200,
    },
];

struct Office {
    outbox: Arc<Outbox>,
    service: Service,
}

/// A courier that works; dropped, it is gone as if killed.
struct Working {
    stop: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Office {
    fn new(apps: Vec<Application>) -> Self {
        let outbox = Outbox::new();
        let service = Service {
            fleet: outbox.clone(),
            apps: Arc::new(Apps::default()),
            config: Arc::new(Config::default()),
            rooms: None,
            clock: Arc::new(now),
            draining: Arc::default(),
        };
        service.apps.replace(apps);
        Self { outbox, service }
    }

    fn open(&self) -> Working {
        let (stop, stopped) = watch::channel(false);
        let mut courier = Courier::speaking(self.service.clone(), Arc::new(Metrics::default()), DIALECTS);
        courier.drain = Duration::from_secs(60);
        let mut task = JoinSet::new();
        task.spawn(courier.run(stopped));
        Working { stop, task }
    }

    fn put(&self, n: u16, origin: &str, events: u64) -> CastId {
        self.put_for(n, "demo", origin, events)
    }

    fn put_for(&self, n: u16, app: &str, origin: &str, events: u64) -> CastId {
        let id = CastId::new(i64::from(n), [7; 10]);
        self.outbox.put(cast(id.clone(), app, origin), events);
        id
    }
}

impl Working {
    async fn close(mut self) {
        self.stop.send_replace(true);
        self.task.join_next().await;
    }
}

fn receiver(url: &str, secret: &str) -> Receiver {
    Receiver { url: url.parse().unwrap(), secret: Some(secret.to_owned().into()), retry_s: 0, noce: false }
}

fn app(url: &str) -> Application {
    named("demo", url)
}

/// An application that is told in all words, and may be told on this machine.
fn named(name: &str, url: &str) -> Application {
    let mut app: Application = serde_json::from_value(json!({"name": name})).unwrap();
    app.network = Network { allow: vec![Allow::parse("127.0.0.0/8").unwrap()], ..Network::default() };
    let to = Some(receiver(url, "old-secret"));
    (app.callbacks.volcengine, app.callbacks.tencent, app.callbacks.native) = (to.clone(), to.clone(), to);
    app
}

fn seqs(hook: &Hook, of: &CastId) -> Vec<u64> {
    let of_it = |body: &serde_json::Value| body["id"].as_str().is_some_and(|id| id.starts_with(of.as_str()));
    let bodies =
        hook.got().into_iter().map(|got| serde_json::from_str::<serde_json::Value>(&got.body).unwrap());
    bodies.filter(of_it).map(|body| body["seq"].as_u64().unwrap()).collect()
}

const DONE: Option<Settled> = Some(Settled::Done);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_cast_come_in_order_whatever_happens() {
    let acts =
        [Act::Answer(500), Act::Cut, Act::Answer(200), Act::Answer(503), Act::Redirect, Act::Answer(204)];
    let hook = Hook::start(&acts, Act::Answer(200)).await;
    let office = Office::new(vec![app(&hook.url())]);
    let cast = office.put(1, "volcengine", 3);
    let working = office.open();
    office.outbox.empty().await;
    // The second event is tried three times, as the rule has it, and then given up; 204 is no success for the vendors.
    assert_eq!(seqs(&hook, &cast), [1, 1, 1, 2, 2, 2, 3]);
    assert_eq!(office.outbox.settled(&cast), [DONE, Some(Settled::GivenUp), DONE]);
    let got = hook.got();
    assert!(got[..3].iter().all(|again| again.body == got[0].body), "another try says something else");
    let head = &got[0].head;
    assert!(head.starts_with("post /hook?key=hidden http/1.1"), "{head}");
    for line in ["content-type: application/json", "x-signed-by: old-secret", "user-agent: pagecast/"] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    let log = office.outbox.log();
    let tried: Vec<_> = log.iter().map(|(_, a)| (a.seq, a.status, a.error.as_deref())).collect();
    assert_eq!(tried[0], (1, Some(500), Some("it answered 500")));
    assert!(tried[1].1.is_none() && tried[1].2.unwrap().starts_with("the connection broke"), "{tried:?}");
    assert_eq!(tried[2], (1, Some(200), None));
    assert_eq!(tried[4], (2, Some(302), Some("it answered 302, and redirects are not followed")));
    assert_eq!(tried[5], (2, Some(204), Some("it answered 204")));
    assert!(log.iter().all(|(_, a)| a.url == format!("http://{}/hook", hook.addr)), "{log:?}");
    assert!(!format!("{log:?}").contains("hidden"));
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_down_is_told_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let office = Office::new(vec![app(&format!("http://{addr}/"))]);
    let cast = office.put(1, "v1", 2);
    let working = office.open();
    office.outbox.until(|outbox| outbox.log().len() >= 3).await;
    let hook = Hook::on(TcpListener::bind(addr).await.unwrap(), &[], Act::Answer(204));
    office.outbox.empty().await;
    assert_eq!(seqs(&hook, &cast), [1, 2]);
    let log = office.outbox.log();
    assert!(log[0].1.error.as_ref().unwrap().starts_with("there is no connection ("), "{log:?}");
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_slow_receiver() {
    let (slow, fast) = (Hook::start(&[], Act::Hang).await, Hook::start(&[], Act::Answer(200)).await);
    let office = Office::new(vec![named("slow", &slow.url()), named("fast", &fast.url())]);
    // More than fit in one look at the outbox, and all of them in front of the others.
    for n in 0..900 {
        office.put_for(n, "slow", "patient", 1);
    }
    let quick: Vec<_> = (900..950).map(|n| office.put_for(n, "fast", "v1", 2)).collect();
    let working = office.open();
    let told = |outbox: &Outbox| quick.iter().all(|cast| outbox.settled(cast) == [DONE, DONE]);
    office.outbox.until(told).await;
    assert!(quick.iter().all(|cast| seqs(&fast, cast) == [1, 2]));
    while slow.got().len() < 8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.got().len(), 8, "the slow one gets more than its share");
    drop(working);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_is_waited_for_only_so_long() {
    let hook = Hook::start(&[Act::Hang], Act::Answer(200)).await;
    let office = Office::new(vec![app(&hook.url())]);
    office.put(1, "v1", 1);
    let working = office.open();
    office.outbox.empty().await;
    let log = office.outbox.log();
    assert_eq!(log[0].1.error.as_deref(), Some("no answer came within 0.7 s"));
    assert!(log[0].1.took_ms >= 700 && log[1].1.error.is_none(), "{log:?}");
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_messages_of_an_event_come_one_after_the_other() {
    let acts = [Act::Answer(200), Act::Answer(500), Act::Answer(200)];
    let hook = Hook::start(&acts, Act::Answer(200)).await;
    let office = Office::new(vec![app(&hook.url())]);
    let cast = office.put(1, "tencent", 3);
    let working = office.open();
    office.outbox.empty().await;
    let bodies: Vec<_> = hook.got().into_iter().map(|got| got.body).collect();
    let part = |part: u32| json!({"seq": 1, "part": part}).to_string();
    assert_eq!(bodies[..4], [part(0), part(1), part(1), part(2)]);
    assert!(bodies[4].contains("\"seq\":3") && bodies.len() == 5, "{bodies:?}");
    assert_eq!(office.outbox.settled(&cast), [DONE; 3]);
    let log: Vec<_> = office.outbox.log().iter().map(|(_, a)| (a.seq, a.part)).collect();
    assert_eq!(log, [(1, 0), (1, 1), (1, 1), (1, 2), (3, 0)]);
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_courier_dies() {
    let hook = Hook::start(&[], Act::Answer(200)).await;
    let office = Office::new(vec![app(&hook.url())]);
    let casts: Vec<_> = (0..20).map(|n| office.put(n, "v1", 20)).collect();
    for _ in 0..5 {
        let before = office.outbox.log().len();
        let working = office.open();
        office.outbox.until(|outbox| outbox.log().len() > before + 10).await;
        drop(working);
    }
    let working = office.open();
    office.outbox.empty().await;
    for cast in &casts {
        // Some come twice, but none before the one in front of it came once.
        let mut seen = Vec::new();
        seqs(&hook, cast).into_iter().for_each(|seq| {
            if !seen.contains(&seq) {
                seen.push(seq);
            }
        });
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    }
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_is_waited_for() {
    let hook = Hook::start(&[Act::Hang], Act::Answer(200)).await;
    let office = Office::new(vec![app(&hook.url())]);
    office.put(1, "v1", 1);
    let working = office.open();
    while hook.got().is_empty() {
        tokio::task::yield_now().await;
    }
    working.close().await;
    assert_eq!(office.outbox.log().len(), 1, "what became of it was noted before the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_fails_for_a_while_makes_no_doubles() {
    let hook = Hook::start(&[], Act::Answer(200)).await;
    let office = Office::new(vec![app(&hook.url())]);
    let cast = office.put(1, "v1", 2);
    office.outbox.fail_settles(1);
    let working = office.open();
    office.outbox.empty().await;
    assert_eq!(seqs(&hook, &cast), [1, 2]);
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_answers() {
    // A good status is what counts: what is behind it may be cut or endless.
    for act in [Act::CutBody, Act::Endless] {
        let hook = Hook::start(&[act], Act::Answer(200)).await;
        let office = Office::new(vec![app(&hook.url())]);
        let cast = office.put(1, "volcengine", 2);
        let working = office.open();
        office.outbox.empty().await;
        assert_eq!(seqs(&hook, &cast), [1, 2], "{act:?}");
        working.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let server = SelfSigned::start().unwrap();
    let office = Office::new(vec![app(&server.url())]);
    let cast = office.put(1, "volcengine", 1);
    let working = office.open();
    office.outbox.empty().await;
    assert_eq!(office.outbox.settled(&cast), [Some(Settled::GivenUp)]);
    let log = office.outbox.log();
    assert!(log[0].1.error.as_ref().unwrap().contains("certificate"), "{log:?}");
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_machine_and_its_neighbours_are_out_of_reach_unless_allowed() {
    let hook = Hook::start(&[], Act::Answer(200)).await;
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
        app.network = Network { allow: rules(allow), deny: rules(deny), udp: false };
        let office = Office::new(vec![app]);
        office.put(1, "volcengine", 1);
        let (before, working) = (hook.got().len(), office.open());
        office.outbox.empty().await;
        let (log, came) = (office.outbox.log(), hook.got().len() - before);
        let error = log[0].1.error.as_deref();
        match want {
            Some(want) => assert!(came == 0 && error.unwrap().starts_with(want), "{url}: {error:?}"),
            None => assert!(came == 1 && error.is_none(), "{url}: {error:?}"),
        }
        working.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_secret_or_address_counts_at_once() {
    let (old, new) = (Hook::start(&[], Act::Answer(500)).await, Hook::start(&[], Act::Answer(200)).await);
    let office = Office::new(vec![app(&old.url())]);
    office.put(1, "v1", 1);
    let working = office.open();
    office.outbox.until(|outbox| outbox.log().len() >= 2).await;
    let mut changed = app(&new.url());
    changed.callbacks.native = Some(receiver(&new.url(), "new-secret"));
    office.service.apps.replace(vec![changed]);
    office.outbox.empty().await;
    assert!(old.got()[0].head.contains("x-signed-by: old-secret"));
    assert!(new.got()[0].head.contains("x-signed-by: new-secret"));
    assert_eq!(new.got()[0].body, old.got()[0].body);
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cast_may_have_a_receiver_of_its_own() {
    let (apps, own) = (Hook::start(&[], Act::Answer(200)).await, Hook::start(&[], Act::Answer(200)).await);
    let office = Office::new(vec![app(&apps.url())]);
    let mut with = cast(CastId::new(1, [1; 10]), "demo", "v1");
    with.request = json!({"callback": {"url": own.url(), "secret": "its-own"}});
    office.outbox.put(with, 1);
    office.put(2, "v1", 1);
    let working = office.open();
    office.outbox.empty().await;
    assert!(own.got()[0].head.contains("x-signed-by: its-own"));
    assert_eq!((own.got().len(), apps.got().len()), (1, 1));
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_receiver_nothing_is_tried() {
    let mut silent = app("http://127.0.0.1:1/");
    silent.callbacks = Default::default();
    let office = Office::new(vec![silent]);
    let casts =
        [office.put(1, "volcengine", 2), office.put(2, "unknown", 1), office.put_for(3, "gone", "v1", 1)];
    let working = office.open();
    office.outbox.empty().await;
    assert!(casts.iter().flat_map(|cast| office.outbox.settled(cast)).all(|settled| settled == DONE));
    assert!(office.outbox.log().is_empty());
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bug_of_ours_stops_nobody_else() {
    let hook = Hook::start(&[], Act::Answer(200)).await;
    let office = Office::new(vec![app(&hook.url())]);
    let bad = office.put(1, "broken", 1);
    let good = office.put(2, "volcengine", 2);
    let working = office.open();
    office.outbox.until(|outbox| outbox.settled(&good) == [DONE, DONE]).await;
    assert_eq!(office.outbox.settled(&bad), [None], "it is tried again, later");
    working.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patient_application_is_told_longer_than_the_vendor_would() {
    let acts = [Act::Answer(500); 3];
    let hook = Hook::start(&acts, Act::Answer(200)).await;
    let mut patient = app(&hook.url());
    patient.callbacks.volcengine.as_mut().unwrap().retry_s = 5;
    let office = Office::new(vec![patient]);
    let cast = office.put(1, "volcengine", 1);
    let working = office.open();
    office.outbox.empty().await;
    assert_eq!(office.outbox.settled(&cast), [DONE]);
    assert_eq!(hook.got().len(), 4);
    working.close().await;
}
