//! Tenants of a fleet: limits hold for all nodes together, and nobody's casts keep another's waiting.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_testkit::fleet::{NodeConfig, TIMEOUT};
use pagecast_testkit::http::Response;
use pagecast_testkit::{FleetConfig, MachineLock, ServiceConfig, TestFleet, wait_until};
use serde_json::{Value, json};

use crate::PAGECAST;

const OTHER_TOKEN: &str = "token-of-another-tenant-012345";
/// Most casts in the queue by default (`casts.max_queued_casts`): as many as a node looks at when it searches
/// the queue.
const MAX_QUEUED_CASTS: usize = 100;
/// Longest time until a cast starts for which there is room: nodes look once a second.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests per second and token.
const REQUESTS_PER_S: usize = 20;
/// Requests that are sent to each node at once: more than are allowed, even if they take some seconds.
const BURST: usize = 60;

/// Sends this many requests of the other tenant to each node, to all nodes at once.
fn send_to_all(
    fleet: &TestFleet,
    count: usize,
    (method, path, body): (&str, &str, Option<&Value>),
) -> Result<Vec<Response>> {
    let send = |node: usize| -> Result<Vec<Response>> {
        (0..count).map(|_| fleet.nodes[node].rest_as(OTHER_TOKEN, method, path, body)).collect()
    };
    std::thread::scope(|scope| {
        let send = &send;
        let nodes: Vec<_> = (0..fleet.nodes.len()).map(|node| scope.spawn(move || send(node))).collect();
        let answers: Result<Vec<_>> = nodes
            .into_iter()
            .map(|node| node.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
            .collect();
        Ok(answers?.into_iter().flatten().collect())
    })
}

fn error_code(answer: &Response) -> String {
    answer.json().ok().and_then(|body| Some(body["error"]["code"].as_str()?.to_owned())).unwrap_or_default()
}

/// The other tenant fills the queue with casts that no node can run. Returns how many those are.
fn fill_queue(fleet: &TestFleet) -> Result<usize> {
    let request = json!({
        "url": fleet.page.url("static.html"), "recording": {}, "queue_timeout_s": 600,
        "placement": { "labels": ["nowhere"] },
    });
    let mut created = 0;
    wait_until("the queue is full", TIMEOUT, || {
        let answers = send_to_all(fleet, 10, ("POST", "/v1/casts", Some(&request)))?;
        created += answers.iter().filter(|answer| answer.status == 201).count();
        let refused = answers.iter().find(|answer| error_code(answer) == "queue-full");
        ensure!(refused.is_some(), "{created} casts, then {:?}", answers.last());
        Ok(())
    })?;
    Ok(created)
}

#[test]
fn tenants_share_the_fleet() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let application = format!(
        "[[applications]]\nname = \"other\"\ntokens = [\"{OTHER_TOKEN}\"]\n\
         network.allow = [\"127.0.0.0/8\"]\n"
    );
    let service = ServiceConfig {
        top_level_toml: application,
        environment: vec![("PAGECAST__LIMITS__REQUESTS_PER_S", REQUESTS_PER_S.to_string())],
        ..ServiceConfig::default()
    };
    let node = NodeConfig { service, ..NodeConfig::default() };
    let fleet =
        TestFleet::start(PAGECAST, &FleetConfig { nodes: vec![node; 3], ..FleetConfig::of_nodes(0) })?;

    // A burst, and what is added while the requests are sent. Each node by itself would allow the same.
    wait_until("the limit of requests holds for all nodes together", TIMEOUT, || {
        let began = Instant::now();
        let answers = send_to_all(&fleet, BURST, ("GET", "/v1/casts?limit=1", None))?;
        let allowed = REQUESTS_PER_S as f64 * (1.0 + began.elapsed().as_secs_f64()) + 3.0;
        let accepted = answers.iter().filter(|answer| answer.status == 200).count();
        let refused = answers.iter().filter(|answer| error_code(answer) == "too-many-requests").count();
        println!("{accepted} of {} requests accepted, {allowed:.0} allowed", answers.len());
        ensure!(accepted + refused == answers.len(), "{answers:?}");
        ensure!(refused > 0 && accepted as f64 <= allowed, "{accepted} accepted");
        ensure!(accepted >= REQUESTS_PER_S / 2, "{accepted} accepted");
        Ok(())
    })?;
    let created = fill_queue(&fleet)?;
    ensure!(created == MAX_QUEUED_CASTS, "{created} casts were accepted");

    // Nothing of that is in the way of another tenant.
    let began = Instant::now();
    let id = fleet.create_cast(1, &fleet.recording_request("mp4"))?;
    fleet.nodes[2]
        .wait_until_cast(&id, "it starts at once", START_TIMEOUT, |cast| cast["state"] != "queued")?;
    println!("claimed after {:.1} s, beside {created} queued casts", began.elapsed().as_secs_f64());
    fleet.nodes[2].wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    let queued = fleet.nodes[0].rest_as(OTHER_TOKEN, "GET", "/v1/casts?state=queued&limit=1", None)?;
    ensure!(queued.json()?["casts"][0]["state"] == "queued", "{}", queued.text());
    fleet.stop_cast(0, &id).map(drop)
}
