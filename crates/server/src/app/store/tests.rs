//! What one node of a fleet changes, the others use.

use std::path::Path;
use std::sync::Arc;

use pagecast_fleet::postgres::{Config as DatabaseConfig, PostgresFleet, monotonic_clock, tls_config};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{Error, NodeInfo, WorkerId};
use pagecast_testkit::{Postgres, ScratchDir};
use serde_json::json;

use super::*;
use crate::callback::testing::unix_ms;

/// Longest time until another node uses what was changed.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The service of a node. All nodes use one database.
async fn open_node(server: &Postgres, node: &str, data: &Path) -> Service {
    let fleet = PostgresFleet::open(DatabaseConfig {
        url: server.url("postgres"),
        direct_url: None,
        tls: tls_config(None).unwrap(),
        vault: Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap(),
        retention: Duration::from_secs(3600),
        node: node.to_owned(),
        monotonic_clock: monotonic_clock(),
    });
    let config = json!({
        "data": data,
        "applications": [{ "name": "configured", "tokens": ["token-of-the-configuration"] }],
    });
    let service = Service {
        fleet: fleet.await.unwrap(),
        apps: Arc::default(),
        config: Arc::new(serde_json::from_value(config).unwrap()),
        node: WorkerId(node.to_owned()),
        rooms: None,
        peers: None,
        clock: Arc::new(unix_ms),
        draining: Arc::default(),
        live_api_nodes: Arc::default(),
        audit: Arc::default(),
        sign_in_code: Arc::default(),
        page_checker: None,
        evidence: None,
        recordings: None,
        storage_tester: None,
    };
    load(&service).await.unwrap();
    service
}

fn stored(name: &str) -> StoredApplication {
    StoredApplication { application: Application::new(name), created_ms: 1, updated_ms: 1, version: 0 }
}

/// Waits until a condition holds.
async fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + RELOAD_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn heartbeat(service: &Service, node: &str, roles: &[Role]) {
    let roles = roles.iter().map(|role| role.as_str().to_owned()).collect();
    let node_info = NodeInfo { roles, ..NodeInfo::default() };
    let status = WorkerStatus { node: node_info, ..WorkerStatus::default() };
    service.fleet.heartbeat(&WorkerId(node.to_owned()), status).await.unwrap();
}

#[tokio::test]
async fn applications_that_one_node_changes_are_used_by_all() {
    let (server, scratch) = (Postgres::start().unwrap(), ScratchDir::new().unwrap());
    let first = open_node(&server, "first", scratch.path()).await;
    let second = open_node(&server, "second", scratch.path()).await;
    let following = tokio::spawn(follow_fleet(second.clone()));
    put(&first, &stored("three")).await.unwrap();
    assert!(first.apps.by_name("three").is_some());
    wait_for("a new application", || second.apps.by_name("three").is_some()).await;
    assert!(second.apps.by_name("configured").is_some());

    let [seen, also_seen] = [&first, &second].map(read);
    let (mut seen, mut also_seen) = (seen.await.unwrap().remove(0), also_seen.await.unwrap().remove(0));
    seen.application.settings.max_casts = 7;
    put(&first, &seen).await.unwrap();
    wait_for("a change", || second.apps.by_name("three").is_some_and(|app| app.settings.max_casts == 7))
        .await;
    also_seen.application.settings.max_casts = 8;
    let late = put(&second, &also_seen).await;
    assert!(matches!(late, Err(StoreError::Fleet(Error::DocumentChanged(_)))), "{late:?}");
    let twin = put(&second, &stored("three")).await;
    assert!(matches!(twin, Err(StoreError::Fleet(Error::DocumentChanged(_)))), "{twin:?}");
    assert_eq!(first.apps.by_name("three").unwrap().settings.max_casts, 7);

    remove(&first, "three").await.unwrap();
    wait_for("a removal", || second.apps.by_name("three").is_none()).await;
    following.abort();
}

#[tokio::test]
async fn nodes_share_the_rate_limits() {
    let (server, scratch) = (Postgres::start().unwrap(), ScratchDir::new().unwrap());
    let service = open_node(&server, "first", scratch.path()).await;
    count_api_nodes(&service).await;
    assert_eq!(service.api_nodes(), 0, "nobody has sent a heartbeat");
    heartbeat(&service, "first", &Role::ALL).await;
    heartbeat(&service, "second", &[Role::Worker, Role::Rooms]).await;
    heartbeat(&service, "third", &[Role::Api]).await;
    count_api_nodes(&service).await;
    assert_eq!(service.api_nodes(), 2);
}

#[test]
fn applications_of_an_earlier_version_replace_no_later_ones() {
    let registry = crate::app::ApplicationRegistry::default();
    registry.replace_version(5, vec![Application::new("new")]);
    registry.replace_version(4, vec![Application::new("old")]);
    assert!(registry.by_name("new").is_some() && registry.version() == 5);
    registry.replace_version(6, Vec::new());
    assert!(registry.all().is_empty());
}
