//! Wires what was opened: request handlers, node and webhook dispatcher around one shared state.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pagecast_core::CastSpec;
use pagecast_core::spec::{Source, SourceUrl};
use pagecast_fleet::{AnsweredRequests, DatabaseState, NodeInfo, RunningCasts, WorkerId};
use pagecast_server::Service;
use pagecast_server::app::{self, ApplicationRegistry, StorageLocation};
use pagecast_server::callback::WebhookDispatcher;
use pagecast_server::config::{Config, Role};
use pagecast_server::listen::Listener;
use pagecast_server::metrics::Metrics;
use pagecast_server::route::{self, Router};
use pagecast_server::volcengine;
use pagecast_worker::node::{self, AdmissionConfig, CompleteSpec, Node};
use pagecast_worker::process;
use tokio::sync::watch;

use super::RunningService;
use super::check;
use super::data_folder::DataFolderLock;
use super::evidence;
use super::open::OpenedService;
use super::peers::{NodePeers, OpenedPeers, WiredPeers};
use super::recordings;
use super::rooms::{EmbeddedRooms, RoomEndpoint};
use super::storage_tester::RecordingStorageTester;

/// A service that is complete but does not run yet.
pub(super) struct WiredService {
    service: Service,
    listener: Listener,
    router: Router,
    rooms: Option<Arc<EmbeddedRooms>>,
    node: node::Config,
    /// Delivers callbacks, on a node with the role `api`.
    dispatcher: Option<WebhookDispatcher>,
    peers: Option<WiredPeers>,
    uses_demo_application: bool,
    stop: watch::Sender<bool>,
    data_lock: Option<DataFolderLock>,
    answered: Option<Arc<dyn AnsweredRequests>>,
}

impl WiredService {
    /// Loads the applications and connects all parts.
    pub(super) async fn wire(opened: OpenedService) -> anyhow::Result<Self> {
        let OpenedService {
            config,
            uses_demo_application,
            clock,
            fleet,
            node,
            data_lock,
            answered,
            listener,
            rooms,
            peers,
        } = opened;
        let sends_callbacks = config.fleet.has_role(Role::Api);
        let start_client = |peers: &OpenedPeers| peers.start_client(&config, &node, &fleet, &clock);
        let client = peers.as_ref().map(start_client).transpose()?;
        let peer_url = peers.as_ref().map(OpenedPeers::url);
        let mut node = node_config(&config, node, rooms.as_ref(), peer_url)?;
        node.peers = client.clone().map(|client| Arc::new(NodePeers(client)) as _);
        let evidence = evidence::open(&config)?;
        let recordings = recordings::open(&config);
        let storage_tester = RecordingStorageTester { data: config.data.clone() };
        let service = Service {
            fleet,
            node: node.worker.clone(),
            apps: Arc::new(ApplicationRegistry::default()),
            config: Arc::new(config),
            rooms: rooms.clone().map(|rooms| rooms as _),
            peers: client.clone(),
            page_checker: check::page_checker(&node),
            clock,
            draining: Arc::default(),
            live_api_nodes: Arc::default(),
            audit: Arc::default(),
            sign_in_code: Arc::default(),
            evidence,
            recordings: Some(recordings),
            storage_tester: Some(Arc::new(storage_tester)),
        };
        app::load(&service).await.context("cannot load the applications")?;
        let (stop, stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::default());
        let (peers, room_router) = match peers.zip(client) {
            Some((peers, client)) => {
                let (peers, router) = peers.wire(&service, client, rooms.clone(), &node);
                (Some(peers), Some(router))
            }
            None => (None, rooms.as_ref().and_then(|rooms| rooms.server_router())),
        };
        let room_router = rooms.as_ref().zip(room_router).map(|(rooms, router)| rooms.main_router(router));
        let room_router = room_router.unwrap_or_default();
        let router = route::router(service.clone(), Arc::clone(&metrics), stopped, room_router);
        let dispatcher = sends_callbacks.then(|| WebhookDispatcher::new(service.clone(), metrics));
        Ok(Self {
            service,
            listener,
            router,
            rooms,
            node,
            dispatcher,
            peers,
            uses_demo_application,
            stop,
            data_lock,
            answered,
        })
    }

    /// Runs listeners, node and webhook dispatcher. The listeners come first: a service that nobody can reach
    /// must not resume casts.
    pub(super) async fn run(self) -> anyhow::Result<RunningService> {
        let config = &self.service.config;
        if let Some(table) = self.answered.filter(|_| config.fleet.has_role(Role::Api)) {
            volcengine::share_signatures(table, Arc::clone(&self.service.clock)).await;
        }
        let url = self.listener.url();
        let mut limits = config.limits.listener_limits();
        limits.max_event_streams = self.rooms.as_ref().map_or(0, |rooms| rooms.max_event_streams());
        let server = self.listener.serve(limits, self.router);
        let peers = self.peers.map(|peers| peers.run(config, Arc::clone(&self.node.viewers)));
        separate_browsers(config);
        tokio::spawn(app::follow_fleet(self.service.clone()));
        let node = Node::join(self.node, Arc::clone(&self.service.fleet)).await?;
        let (node_end, node_ended) = watch::channel(None);
        let running = node.run(self.stop.subscribe());
        let node = tokio::spawn(async move {
            node_end.send_replace(Some(running.await));
        });
        let (stop_dispatcher, dispatcher_stopped) = watch::channel(false);
        let recorder = self.service.clone();
        let stopped = dispatcher_stopped.clone();
        let recorder = tokio::spawn(async move {
            recorder.audit.run(&*recorder.fleet, &recorder.clock, stopped).await;
        });
        let dispatcher = self.dispatcher.map(|dispatcher| tokio::spawn(dispatcher.run(dispatcher_stopped)));
        Ok(RunningService {
            service: self.service,
            server,
            url,
            rooms: self.rooms,
            peers,
            uses_demo_application: self.uses_demo_application,
            stop: self.stop,
            stop_dispatcher,
            node,
            node_ended,
            dispatcher,
            recorder,
            _data_lock: self.data_lock,
        })
    }
}

/// Keeps browsers out of the data folder, and gives them the configured users.
fn separate_browsers(config: &Config) {
    process::hide_from_browsers(&config.data);
    if let Some([first, last]) = config.casts.browser_uids {
        process::use_browser_uids(first, last);
    }
}

fn node_config(
    config: &Config,
    worker: WorkerId,
    rooms: Option<&Arc<EmbeddedRooms>>,
    peer_url: Option<String>,
) -> anyhow::Result<node::Config> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let like = SourceUrl::parse("http://localhost/").map(|url| CastSpec::new(Source::new(url)))?;
    let room_endpoint =
        |rooms: &Arc<EmbeddedRooms>| -> Arc<dyn CompleteSpec> { Arc::new(RoomEndpoint(Arc::clone(rooms))) };
    Ok(node::Config {
        program,
        worker,
        info: node_info(config, peer_url),
        runs_casts: config.fleet.has_role(Role::Worker),
        lease: config.fleet.lease(),
        admission: AdmissionConfig {
            cpu_share: config.casts.cpu_share,
            reserved_memory_bytes: config.casts.reserved_memory_mib << 20,
            min_free_disk_bytes: config.casts.min_free_disk_mib << 20,
            max_casts: config.casts.max_running as usize,
        },
        warm_browsers: Some((config.casts.warm_browsers, like))
            .filter(|_| config.fleet.has_role(Role::Worker)),
        store: config.fleet.store.as_ref().map(StorageLocation::to_spec),
        data: config.data.clone(),
        disks: vec![config.data.clone(), std::env::temp_dir()],
        // Closing the database itself would give up SQLite's locks; its log has none.
        reserved: vec![config.data.join("fleet.db-wal")],
        drain_timeout: Duration::from_secs(config.casts.drain_timeout_s),
        spec_completer: rooms.map(room_endpoint),
        peers: None,
        running: RunningCasts::default(),
        database: DatabaseState::default(),
        viewers: Arc::default(),
    })
}

/// What this node says of itself to the others.
fn node_info(config: &Config, peer_url: Option<String>) -> NodeInfo {
    let fleet = &config.fleet;
    NodeInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        roles: fleet.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        labels: fleet.labels.clone(),
        peer_url,
        instance: pagecast_fleet::vault::random_u64(),
    }
}
