//! Opens what a service needs from the machine: data folder, fleet, listener and rooms.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pagecast_fleet::Fleet;
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_server::config::{self, Config};
use pagecast_server::listen::Listener;
use pagecast_server::{Clock, volcengine};

use super::rooms::EmbeddedRooms;
use super::{data_folder, unix_ms};

/// Everything that a service holds on the machine. Requests wait until it runs.
pub(super) struct OpenedService {
    /// The configuration, with the demo application if it has no other.
    pub(super) config: Config,
    pub(super) uses_demo_application: bool,
    pub(super) clock: Clock,
    pub(super) fleet: Arc<dyn Fleet>,
    pub(super) listener: Listener,
    pub(super) rooms: Option<Arc<EmbeddedRooms>>,
}

impl OpenedService {
    /// Opens everything in order. The fleet locks the data folder against other services before anything else
    /// uses it.
    pub(super) async fn open(mut config: Config) -> anyhow::Result<Self> {
        data_folder::prepare(&config.data)?;
        let clock: Clock = Arc::new(unix_ms);
        let fleet = open_fleet(&config, &clock)?;
        open_signature_log(&config)?;
        let uses_demo_application = add_demo_application(&mut config)?;
        let listener = Listener::bind(config.listen, config.tls.as_ref()).await?;
        let rooms = open_rooms(&config, &listener)?;
        Ok(Self { config, uses_demo_application, clock, fleet, listener, rooms })
    }
}

fn open_fleet(config: &Config, clock: &Clock) -> anyhow::Result<Arc<dyn Fleet>> {
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
    volcengine::open_signature_log(&config.data, unix_ms())
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

fn open_rooms(config: &Config, listener: &Listener) -> anyhow::Result<Option<Arc<EmbeddedRooms>>> {
    if !config.rooms.enabled {
        return Ok(None);
    }
    Ok(Some(Arc::new(EmbeddedRooms::start(config, &listener.url())?)))
}
