//! A fleet on this machine: PostgreSQL, an S3 server, nodes and a receiver of callbacks.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::page_server::PageServer;
use crate::postgres::Postgres;
use crate::postgres_proxy::PostgresProxy;
use crate::receiver::WebhookReceiver;
use crate::rtmp::free_port;
use crate::s3::S3Server;
use crate::scratch::ScratchDir;
use crate::service::{PEER_SECRET, SECRET_KEY, ServiceConfig, ServiceProcess};
use crate::tcp_forwarder::TcpForwarder;
use crate::wait::wait_until;

/// Longest time for the start of a cast, its end, or a callback.
pub const TIMEOUT: Duration = Duration::from_secs(90);
/// Longest time until a cast of a dead node is live again: the lease, a beat, and the start of a page on a
/// machine that runs three nodes and their database.
pub const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time until no process of a killed node is left.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Duration of a lease unless a test says otherwise, in seconds.
pub const LEASE_S: u64 = 6;
/// Database of the fleet.
pub const DATABASE: &str = "postgres";
/// Access key of the S3 server, and its secret.
pub const S3_KEYS: (&str, &str) = ("AKIDFLEET", "secret-of-the-bucket");
/// Bucket of recordings.
pub const BUCKET: &str = "rec";
/// Bucket of the fleet's store.
pub const STORE_BUCKET: &str = "store";

/// Settings of a fleet for tests.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Settings of each node. They are called `n0`, `n1` …
    pub nodes: Vec<NodeConfig>,
    /// Duration of a lease, in seconds.
    pub lease_s: u64,
    /// Whether closed segments go to a store of the fleet, in the bucket [`STORE_BUCKET`].
    pub has_store: bool,
}

/// Settings of a node.
#[derive(Debug, Clone, Default)]
pub struct NodeConfig {
    /// Labels of the node.
    pub labels: Vec<String>,
    /// More lines for the table `[fleet]`.
    pub fleet_toml: String,
    /// Settings of the service. Unless they say otherwise, callbacks go to the fleet's receiver, and the
    /// clouds' buckets are on its S3 server.
    pub service: ServiceConfig,
}

impl FleetConfig {
    /// A fleet of this many equal nodes, with leases of [`LEASE_S`] and no store.
    #[must_use]
    pub fn of_nodes(count: usize) -> Self {
        Self { nodes: vec![NodeConfig::default(); count], lease_s: LEASE_S, has_store: false }
    }
}

/// Nodes with a database, a bucket and a receiver of callbacks. All are stopped when it is dropped.
#[derive(Debug)]
pub struct TestFleet {
    /// The nodes.
    pub nodes: Vec<ServiceProcess>,
    /// Their database.
    pub database: Postgres,
    /// Ways of the nodes to the database, by which they can be cut off.
    pub links: Vec<PostgresProxy>,
    /// Ways of the other nodes to each node.
    pub peer_links: Vec<TcpForwarder>,
    /// Server of the buckets [`BUCKET`] and [`STORE_BUCKET`].
    pub s3: S3Server,
    /// Receiver of callbacks.
    pub callbacks: WebhookReceiver,
    /// Server of test pages.
    pub page: PageServer,
    _scratch: ScratchDir,
}

impl TestFleet {
    /// Starts a fleet of this program.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or a node does not become ready.
    pub fn start(pagecast: &str, config: &FleetConfig) -> Result<Self> {
        let (page, scratch, callbacks) =
            (PageServer::start()?, ScratchDir::new()?, WebhookReceiver::start()?);
        let s3 = S3Server::start(&scratch.join("s3"), S3_KEYS.0, S3_KEYS.1)?;
        s3.make_bucket(BUCKET)?;
        s3.make_bucket(STORE_BUCKET)?;
        let database = Postgres::start()?;
        let mut fleet = Self {
            nodes: Vec::new(),
            database,
            links: Vec::new(),
            peer_links: Vec::new(),
            s3,
            callbacks,
            page,
            _scratch: scratch,
        };
        for (number, node) in config.nodes.iter().enumerate() {
            let link = PostgresProxy::start(fleet.database.socket())?;
            let peer_port = free_port()?;
            let peer_link = TcpForwarder::start(peer_port)?;
            let top = fleet.node_toml(config, number, &link.url(DATABASE), (peer_port, peer_link.port()));
            let mut service = node.service.clone();
            service.top_level_toml = format!("{top}{}", service.top_level_toml);
            service.callback_url = service.callback_url.or_else(|| Some(fleet.callbacks.url("")));
            let buckets = format!("cos_endpoint = \"{0}\"\ns3_endpoint = \"{0}\"", fleet.s3.url());
            service.storage_toml = service.storage_toml.or(Some(buckets));
            fleet.links.push(link);
            fleet.peer_links.push(peer_link);
            fleet.nodes.push(ServiceProcess::start(pagecast, &service)?);
        }
        Ok(fleet)
    }

    /// Lines for the top of a node's configuration. `peer` is the port on which it listens for other nodes,
    /// and the one by which they reach it.
    fn node_toml(&self, config: &FleetConfig, number: usize, database: &str, peer: (u16, u16)) -> String {
        let NodeConfig { labels, fleet_toml, service } = &config.nodes[number];
        let scheme = if service.tls.is_some() { "https" } else { "http" };
        let (location, (key, secret)) = (self.s3_location(STORE_BUCKET, "fleet"), S3_KEYS);
        let keys = format!("{{ access_key = \"{key}\", secret_key = \"{secret}\" }}");
        let store = format!("store = {{ to = \"{location}\", keys = {keys} }}\n");
        let store = if config.has_store { store } else { String::new() };
        let (lease_s, (peer_port, reachable_port)) = (config.lease_s, peer);
        format!(
            "secret_key = \"{SECRET_KEY}\"\n\
             [fleet]\ndatabase = \"{database}\"\nnode = \"n{number}\"\nlease_s = {lease_s}\n\
             labels = {labels:?}\n{store}{fleet_toml}\n\
             [fleet.peer]\nlisten = \"127.0.0.1:{peer_port}\"\nsecret = \"{PEER_SECRET}\"\n\
             url = \"{scheme}://127.0.0.1:{reachable_port}\"\n"
        )
    }

    /// Cuts a node off from the database, and all nodes from each other; or connects them again.
    pub fn set_cut_off(&self, node: usize, is_cut_off: bool) {
        self.links[node].set_down(is_cut_off);
        self.peer_links.iter().for_each(|link| link.set_cut(is_cut_off));
    }

    /// URL of a folder in a bucket, as recordings name it.
    #[must_use]
    pub fn s3_location(&self, bucket: &str, folder: &str) -> String {
        let endpoint = self.s3.url().replace(':', "%3A").replace('/', "%2F");
        format!("s3://{bucket}/{folder}?endpoint={endpoint}")
    }

    /// Request for a cast of the counter page that is recorded to the bucket in this format. The page's times
    /// are comparable with those of its later loads.
    #[must_use]
    pub fn recording_request(&self, format: &str) -> Value {
        json!({
            "url": self.page.url("counter.html?absolute"), "width": 320, "height": 180, "fps": 15,
            "recording": {
                "to": self.s3_location(BUCKET, "room"),
                "keys": { "access_key": S3_KEYS.0, "secret_key": S3_KEYS.1 },
                "format": format, "segment_s": 1,
            },
        })
    }

    /// Creates a cast through this node, and returns its id.
    ///
    /// # Errors
    /// The node refuses it.
    pub fn create_cast(&self, node: usize, request: &Value) -> Result<String> {
        let made = self.nodes[node].rest("POST", "/v1/casts", Some(request))?;
        ensure!(made.status == 201, "{} {}", made.status, made.text());
        Ok(made.json()?["id"].as_str().context("no id")?.to_owned())
    }

    /// Creates a cast as in [`Self::recording_request`] through this node, and waits until it is live.
    /// Returns its id.
    ///
    /// # Errors
    /// The cast is refused, or not live in time.
    pub fn start_recording(&self, node: usize, format: &str) -> Result<String> {
        let id = self.create_cast(node, &self.recording_request(format))?;
        self.nodes[node].wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
        Ok(id)
    }

    /// The node that runs the only cast.
    ///
    /// # Errors
    /// No node runs a cast, or several do.
    pub fn owner(&mut self) -> Result<usize> {
        let runs: Vec<bool> = self.nodes.iter_mut().map(|node| !node.cast_pids().is_empty()).collect();
        let owners: Vec<usize> = (0..runs.len()).filter(|node| runs[*node]).collect();
        ensure!(owners.len() == 1, "the nodes {owners:?} run the cast");
        Ok(owners[0])
    }

    /// Kills a node: the program, its casts and their browsers.
    ///
    /// # Errors
    /// The node does not run, or a process of it is left.
    pub fn kill_node(&mut self, node: usize) -> Result<()> {
        self.nodes[node].signal_matching("", Signal::KILL)?;
        self.nodes[node].kill();
        self.nodes[node].wait_until_exited(STOP_TIMEOUT)
    }

    /// File that holds an object of a recording: `name` comes after the cast's id.
    #[must_use]
    pub fn object_path(&self, id: &str, name: &str) -> PathBuf {
        self.s3.object_path(BUCKET, &format!("room/{id}/{id}{name}"))
    }

    /// Playlist of a recording; empty if there is none.
    #[must_use]
    pub fn playlist(&self, id: &str) -> String {
        std::fs::read_to_string(self.object_path(id, ".m3u8")).unwrap_or_default()
    }

    /// Waits until the playlist has this many more segments.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn wait_for_segments(&self, id: &str, more: usize, limit: Duration) -> Result<()> {
        let count = || self.playlist(id).matches("#EXTINF").count();
        let before = count();
        wait_until("there are more segments", limit, || {
            ensure!(count() >= before + more, "{}", self.playlist(id));
            Ok(())
        })
    }

    /// Waits until another node than the first records.
    ///
    /// # Errors
    /// None does within [`TAKE_OVER_TIMEOUT`].
    pub fn wait_for_take_over(&self, id: &str) -> Result<()> {
        wait_until("another node records", TAKE_OVER_TIMEOUT, || {
            ensure!(self.playlist(id).contains("_r2_"), "{}", self.playlist(id));
            Ok(())
        })
    }

    /// Stops a cast through a node, and waits until nothing is left to do. Returns the cast.
    ///
    /// # Errors
    /// The cast is not closed in time.
    pub fn stop_cast(&self, node: usize, id: &str) -> Result<Value> {
        let stopped = self.nodes[node].rest("POST", &format!("/v1/casts/{id}/stop"), None)?;
        ensure!(stopped.status < 300, "{}", stopped.text());
        self.nodes[node].wait_until_cast(id, "it is closed", TIMEOUT, |cast| cast["closed"] == true)
    }

    /// Waits until the callbacks of a cast have reported these events, each once and in this order. Those
    /// about the connection to its room do not count.
    ///
    /// # Errors
    /// They report others.
    pub fn wait_for_callbacks(&self, id: &str, expected: &[&str]) -> Result<()> {
        wait_until("all callbacks have arrived", TIMEOUT, || {
            let of_cast = self.callbacks.received().into_iter().map(|request| request.json());
            let of_cast = of_cast.filter(|body| body["cast"] == id && body["event"] != "room");
            let reported: Vec<_> = of_cast.map(|body| body["event"].as_str().map(str::to_owned)).collect();
            ensure!(
                reported.iter().map(Option::as_deref).eq(expected.iter().map(|name| Some(*name))),
                "{reported:?}"
            );
            Ok(())
        })
    }
}
