//! A fleet on PostgreSQL, for tests, whose database can be taken away.

use std::sync::Arc;
use std::time::Duration;

use pagecast_fleet::postgres::{Config, PostgresFleet, monotonic_clock, tls_config};
use pagecast_fleet::vault::Vault;
use pagecast_testkit::{Postgres, PostgresProxy};

/// A database with a proxy in front of it, and the fleet of a node.
pub(crate) struct OutageFleet {
    // Fields drop in this order.
    pub(crate) fleet: Arc<PostgresFleet>,
    pub(crate) proxy: PostgresProxy,
    _server: Postgres,
}

impl OutageFleet {
    pub(crate) async fn start() -> Self {
        // The proxy starts a runtime of its own.
        let started = tokio::task::spawn_blocking(|| {
            let server = Postgres::start().unwrap();
            (PostgresProxy::start(server.socket()).unwrap(), server)
        });
        let (proxy, server) = started.await.unwrap();
        let config = Config {
            url: proxy.url("postgres"),
            direct_url: None,
            tls: tls_config(None).unwrap(),
            vault: Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap(),
            retention: Duration::from_secs(100 * 3600),
            node: "node".to_owned(),
            monotonic_clock: monotonic_clock(),
        };
        Self { fleet: PostgresFleet::open(config).await.unwrap(), proxy, _server: server }
    }
}
