//! Wires what was opened: request handlers, node and webhook dispatcher around one shared state.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pagecast_core::CastSpec;
use pagecast_core::spec::{Source, SourceUrl};
use pagecast_fleet::WorkerId;
use pagecast_server::Service;
use pagecast_server::app::{self, ApplicationRegistry};
use pagecast_server::callback::WebhookDispatcher;
use pagecast_server::config::Config;
use pagecast_server::listen::Listener;
use pagecast_server::metrics::Metrics;
use pagecast_server::route::{self, Router};
use pagecast_worker::node::{self, AdmissionConfig, CompleteSpec, Node};
use pagecast_worker::process;
use tokio::sync::watch;

use super::RunningService;
use super::open::OpenedService;
use super::rooms::{EmbeddedRooms, RoomEndpoint};

/// How long a lease lasts without renewal: three renewals may fail.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// A service that is complete but does not run yet.
pub(super) struct WiredService {
    service: Service,
    listener: Listener,
    router: Router,
    rooms: Option<Arc<EmbeddedRooms>>,
    node: node::Config,
    dispatcher: WebhookDispatcher,
    uses_demo_application: bool,
    stop: watch::Sender<bool>,
}

impl WiredService {
    /// Loads the applications and connects all parts.
    pub(super) async fn wire(opened: OpenedService) -> anyhow::Result<Self> {
        let OpenedService { config, uses_demo_application, clock, fleet, listener, rooms } = opened;
        let node = node_config(&config, rooms.as_ref())?;
        let service = Service {
            fleet,
            apps: Arc::new(ApplicationRegistry::default()),
            config: Arc::new(config),
            rooms: rooms.clone().map(|rooms| rooms as _),
            clock,
            draining: Arc::default(),
        };
        app::load(&service).await.context("cannot load the applications")?;
        let (stop, stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::default());
        let room_router = rooms.as_ref().map(|rooms| rooms.main_router()).unwrap_or_default();
        let router = route::router(service.clone(), Arc::clone(&metrics), stopped, room_router);
        let dispatcher = WebhookDispatcher::new(service.clone(), metrics);
        Ok(Self { service, listener, router, rooms, node, dispatcher, uses_demo_application, stop })
    }

    /// Runs listener, node and webhook dispatcher. The listener comes first: a service that nobody can reach
    /// must not resume casts.
    pub(super) async fn run(self) -> anyhow::Result<RunningService> {
        let Self { service, listener, router, rooms, node, dispatcher, uses_demo_application, stop } = self;
        let config = &service.config;
        let url = listener.url();
        let mut limits = config.limits.listener_limits();
        limits.max_event_streams = rooms.as_ref().map_or(0, |rooms| rooms.max_event_streams());
        let server = listener.serve(limits, router);
        separate_browsers(config);
        let node = Node::join(node, Arc::clone(&service.fleet)).await?;
        let node = tokio::spawn(node.run(stop.subscribe()));
        let (stop_dispatcher, dispatcher_stopped) = watch::channel(false);
        let dispatcher = tokio::spawn(dispatcher.run(dispatcher_stopped));
        Ok(RunningService {
            service,
            server,
            url,
            rooms,
            uses_demo_application,
            stop,
            stop_dispatcher,
            node,
            dispatcher,
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

fn node_config(config: &Config, rooms: Option<&Arc<EmbeddedRooms>>) -> anyhow::Result<node::Config> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = |name: &str| config.data.join(name);
    let like = SourceUrl::parse("http://localhost/").map(|url| CastSpec::new(Source::new(url)))?;
    let room_endpoint =
        |rooms: &Arc<EmbeddedRooms>| -> Arc<dyn CompleteSpec> { Arc::new(RoomEndpoint(Arc::clone(rooms))) };
    Ok(node::Config {
        program,
        // The data folder is locked, so there is only one.
        worker: WorkerId("embedded".into()),
        lease: LEASE_DURATION,
        admission: AdmissionConfig {
            cpu_share: config.casts.cpu_share,
            reserved_memory_bytes: config.casts.reserved_memory_mib << 20,
            min_free_disk_bytes: config.casts.min_free_disk_mib << 20,
            max_casts: config.casts.max_running as usize,
        },
        warm_browsers: Some((config.casts.warm_browsers, like)),
        scratch: folder("scratch"),
        folders: ["spool", "recordings", "receipts"].map(folder).into(),
        evidence: folder("evidence"),
        disks: vec![config.data.clone(), std::env::temp_dir()],
        // Closing the database itself would give up SQLite's locks; its log has none.
        reserved: vec![folder("fleet.db-wal")],
        drain_timeout: Duration::from_secs(config.casts.drain_timeout_s),
        spec_completer: rooms.map(room_endpoint),
    })
}
