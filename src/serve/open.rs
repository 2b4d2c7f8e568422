//! Opens what a service needs from the machine: data folder, fleet, listener and rooms.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pagecast_core::spec::is_label;
use pagecast_fleet::postgres::{self, PostgresFleet};
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{AnsweredRequests, Fleet, Rooms, WorkerId};
use pagecast_server::config::{self, Config, Role};
use pagecast_server::listen::Listener;
use pagecast_server::{Clock, volcengine};

use super::data_folder::{self, DataFolderLock};
use super::peers::OpenedPeers;
use super::rooms::EmbeddedRooms;
use super::unix_ms;

/// Pause between two attempts to reach the fleet's database at the start, when it may start, too.
const DATABASE_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Everything that a service holds on the machine. Requests wait until it runs.
pub(super) struct OpenedService {
    /// The configuration, with the demo application if it has no other.
    pub(super) config: Config,
    pub(super) uses_demo_application: bool,
    pub(super) clock: Clock,
    pub(super) fleet: Arc<dyn Fleet>,
    /// Name of this node in the fleet.
    pub(super) node: WorkerId,
    /// Keeps other services out of the data folder, if the fleet's database does not.
    pub(super) data_lock: Option<DataFolderLock>,
    /// Which requests the nodes of a fleet have answered.
    pub(super) answered: Option<Arc<dyn AnsweredRequests>>,
    pub(super) listener: Listener,
    pub(super) rooms: Option<Arc<EmbeddedRooms>>,
    /// The channel to the other nodes.
    pub(super) peers: Option<OpenedPeers>,
}

impl OpenedService {
    /// Opens everything in order. The data folder is locked against other services before anything else uses
    /// it.
    pub(super) async fn open(mut config: Config) -> anyhow::Result<Self> {
        data_folder::prepare(&config.data)?;
        let clock: Clock = Arc::new(unix_ms);
        let (node, data_lock, fleet, tables) = if config.fleet.database.is_some() {
            let node = node_name(&config)?;
            let lock = DataFolderLock::acquire(&config.data)?;
            let fleet = open_shared_fleet(&config, &node).await?;
            let tables: (Arc<dyn Rooms>, Arc<dyn AnsweredRequests>) = (fleet.clone(), fleet.clone());
            (node, Some(lock), fleet as Arc<dyn Fleet>, Some(tables))
        } else {
            // The data folder has only one service, so any name will do; it must not change.
            (WorkerId("embedded".into()), None, open_local_fleet(&config, &clock)?, None)
        };
        let (room_table, answered) = tables.unzip();
        open_signature_log(&config)?;
        let uses_demo_application = add_demo_application(&mut config)?;
        let listener = Listener::bind(config.listen, config.tls.as_ref()).await?;
        let peers = match room_table {
            Some(table) => OpenedPeers::open(&config, table).await?,
            None => None,
        };
        let rooms = open_rooms(&config, &listener, peers.as_ref())?;
        Ok(Self {
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
        })
    }
}

/// Opens the database in the data folder, and locks the folder.
fn open_local_fleet(config: &Config, clock: &Clock) -> anyhow::Result<Arc<dyn Fleet>> {
    let fleet = SqliteFleet::open(sqlite::Config {
        path: config.data.join("fleet.db"),
        vault: open_vault(config)?,
        retention: Duration::from_secs(config.casts.retention_h * 3600),
        wall_clock: Arc::clone(clock),
        monotonic_clock: sqlite::monotonic_clock(),
        max_bytes: config.casts.max_database_mib << 20,
    });
    Ok(fleet.context("cannot open the fleet")?)
}

/// Connects to the database of a fleet of nodes. Waits while the database cannot be reached: when power is
/// back in a data centre, it may come last.
async fn open_shared_fleet(config: &Config, node: &WorkerId) -> anyhow::Result<Arc<PostgresFleet>> {
    let settings = &config.fleet;
    let url = settings.database.as_ref().context("there is no fleet.database")?;
    let tls = postgres::tls_config(settings.ca.as_deref()).context("cannot use fleet.ca")?;
    loop {
        let opened = PostgresFleet::open(postgres::Config {
            url: url.reveal().to_owned(),
            direct_url: settings.direct_database.as_ref().map(|url| url.reveal().to_owned()),
            tls: Arc::clone(&tls),
            vault: open_vault(config)?,
            retention: Duration::from_secs(config.casts.retention_h * 3600),
            node: node.0.clone(),
            monotonic_clock: postgres::monotonic_clock(),
        });
        match opened.await {
            Ok(fleet) => return Ok(fleet),
            Err(error) if error.is_transient() => {
                let error = anyhow::Error::from(error);
                tracing::warn!("cannot reach fleet.database, retrying: {error:#}");
                tokio::time::sleep(DATABASE_RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error).context("cannot use fleet.database"),
        }
    }
}

/// Name of this node in a fleet: the configured one, or that of the machine.
fn node_name(config: &Config) -> anyhow::Result<WorkerId> {
    if let Some(name) = &config.fleet.node {
        return Ok(WorkerId(name.clone()));
    }
    let system = rustix::system::uname();
    let name = system.nodename().to_str().unwrap_or_default();
    anyhow::ensure!(
        is_label(name),
        "the name of this machine cannot be that of a node: set fleet.node to letters, digits and _ - ."
    );
    Ok(WorkerId(name.to_owned()))
}

/// Opens the vault that seals secrets, with the configured key or one that is created in the data folder.
fn open_vault(config: &Config) -> anyhow::Result<Vault> {
    match &config.secret_key {
        Some(key) => Vault::from_text(key.reveal()).context("cannot use secret_key (PAGECAST_SECRET_KEY)"),
        None => {
            let file = config.data.join("secret.key");
            Vault::from_file(&file).with_context(|| format!("cannot use the key in {}", file.display()))
        }
    }
}

fn open_signature_log(config: &Config) -> anyhow::Result<()> {
    volcengine::open_signature_log(&config.data, unix_ms(), config.fleet.database.is_some())
        .with_context(|| format!("cannot keep the signatures of requests in {}", config.data.display()))
}

/// Adds the demo application to a configuration without any, and returns whether it did. Anyone who can reach
/// the listener and read the demo keys controls this application, so it exists on loopback only.
fn add_demo_application(config: &mut Config) -> anyhow::Result<bool> {
    if !config.applications.is_empty() || !config.listen.ip().is_loopback() {
        return Ok(false);
    }
    let (mut application, _) = config::demo_application(&config.data)?;
    // Requests through Tencent's API name a bucket; there is none to try it with.
    application.settings.storage.buckets_dir = Some(config.data.join("buckets"));
    config.applications.push(application);
    Ok(true)
}

fn open_rooms(
    config: &Config,
    listener: &Listener,
    peers: Option<&OpenedPeers>,
) -> anyhow::Result<Option<Arc<EmbeddedRooms>>> {
    // A node that carries no rooms still hands requests on to those that do.
    let can_reach_rooms = config.fleet.has_role(Role::Rooms) || peers.is_some();
    if !config.rooms.enabled || !can_reach_rooms {
        return Ok(None);
    }
    let fleet_listener = peers.and_then(OpenedPeers::room_address);
    Ok(Some(Arc::new(EmbeddedRooms::start(config, &listener.url(), fleet_listener)?)))
}
