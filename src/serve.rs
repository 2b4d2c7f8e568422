//! `pagecast serve`, in five steps: load the configuration; open folder, fleet and rooms; wire them to
//! handlers; run listener, node and webhook dispatcher; drain them in order.

mod rooms;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pagecast_core::CastSpec;
use pagecast_core::spec::{Source, SourceUrl};
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{Fleet, UnixMs, WorkerId};
use pagecast_room::embedded;
use pagecast_server::app::{self, ApplicationRegistry};
use pagecast_server::callback::WebhookDispatcher;
use pagecast_server::config::{self, Config};
use pagecast_server::metrics::Metrics;
use pagecast_server::{EmbeddedRooms, Service, listen, route, volcengine};
use pagecast_worker::node::{self, AdmissionConfig, Node};
use pagecast_worker::process;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::CommandError;
use crate::{cli, console};

/// How long running requests may continue at shutdown: longer than any handler takes.
const REQUEST_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a lease lasts without renewal: three renewals may fail.
const LEASE_DURATION: Duration = Duration::from_secs(15);

pub(crate) fn run(args: &cli::ServeArgs) -> Result<ExitCode, CommandError> {
    let options = config::Options { file: args.config.clone(), listen: args.listen, data: args.data.clone() };
    let config =
        config::load(&options, &config::environment()).map_err(|e| CommandError::invalid_value(e.into()))?;
    let findings = config.validate();
    let fatal = findings.iter().filter(|finding| finding.fatal).count();
    if args.check_config {
        findings.iter().for_each(|finding| console::print_result(&finding.to_string()));
        console::print_result(if fatal == 0 { "configuration valid" } else { "configuration invalid" });
        return Ok(if fatal == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) });
    }
    for finding in &findings {
        console::print_message(&finding.to_string());
    }
    if fatal > 0 {
        return Err(CommandError::invalid_value(anyhow::anyhow!("the configuration cannot be used")));
    }
    let runtime = build_runtime()?;
    runtime.block_on(async {
        let mut ends = ShutdownSignals::new()?;
        let running = RunningService::start(config).await?;
        running.print_endpoints();
        ends.wait().await;
        tracing::info!("asked to end");
        tokio::select! {
            () = running.stop() => Ok(ExitCode::SUCCESS),
            () = ends.wait() => {
                tracing::warn!("asked to end again: casts are left where they are");
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

/// A runtime for a service.
pub(crate) fn build_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
        .thread_name("service")
        .enable_all()
        .build()
        .context("cannot start the service")
}

/// SIGINT and SIGTERM.
struct ShutdownSignals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

impl ShutdownSignals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self(listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?))
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// A service that runs.
pub(crate) struct RunningService {
    service: Service,
    server: listen::Server,
    /// Where rooms are watched, if there are any.
    rooms_addr: Option<SocketAddr>,
    /// Whether there is an application only for want of another.
    uses_demo_application: bool,
    stop: watch::Sender<bool>,
    /// Stops the webhook dispatcher, last of all: ends of casts are still delivered while the node drains.
    stop_dispatcher: watch::Sender<bool>,
    node: JoinHandle<()>,
    dispatcher: JoinHandle<()>,
}

impl RunningService {
    /// Starts all of it.
    pub(crate) async fn start(mut config: Config) -> anyhow::Result<Self> {
        prepare_data_folder(&config.data)?;
        let vault = open_vault(&config)?;
        let clock: pagecast_server::Clock = Arc::new(unix_ms);
        let store_config = sqlite::Config {
            path: config.data.join("fleet.db"),
            vault,
            retention: Duration::from_secs(config.casts.retention_h * 3600),
            wall_clock: Arc::clone(&clock),
            monotonic_clock: sqlite::monotonic_clock(),
            max_bytes: config.casts.max_database_mib << 20,
        };
        let fleet: Arc<dyn Fleet> = SqliteFleet::open(store_config).context("cannot open the fleet")?;
        // The fleet has locked the folder by now.
        volcengine::open_signature_log(&config.data, unix_ms()).with_context(|| {
            format!("cannot keep the signatures of requests in {}", config.data.display())
        })?;
        // Anyone who can reach the listener and read the demo keys controls this application.
        let made = config.applications.is_empty() && config.listen.ip().is_loopback();
        if made {
            let (mut application, _) = config::demo_application(&config.data)?;
            // Requests through Tencent's API name a bucket; there is none to try it with.
            application.settings.storage.buckets_dir = Some(config.data.join("buckets"));
            config.applications.push(application);
        }
        let rooms = start_rooms(&config)?;
        let rooms_addr = rooms.as_ref().map(|(_, addr)| *addr);
        let service = Service {
            fleet: Arc::clone(&fleet),
            apps: Arc::new(ApplicationRegistry::default()),
            config: Arc::new(config),
            rooms: rooms.map(|(rooms, _)| rooms),
            clock,
            draining: Arc::default(),
        };
        app::load(&service).await.context("cannot load the applications")?;
        let (stop, stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::default());
        let config = &service.config;
        let router = route::router(service.clone(), Arc::clone(&metrics), stopped.clone());
        // The listener starts first: a service that nobody can reach must not resume casts.
        let server =
            listen::Server::start(config.listen, config.tls.as_ref(), &config.limits, router).await?;
        process::hide_from_browsers(&config.data);
        if let Some([first, last]) = config.casts.browser_uids {
            process::use_browser_uids(first, last);
        }
        let node = Node::join(node_config(config)?, Arc::clone(&fleet)).await?;
        let node = tokio::spawn(node.run(stopped));
        let (stop_dispatcher, dispatcher_stopped) = watch::channel(false);
        let dispatcher =
            tokio::spawn(WebhookDispatcher::new(service.clone(), metrics).run(dispatcher_stopped));
        Ok(Self {
            service,
            server,
            rooms_addr,
            uses_demo_application: made,
            stop,
            stop_dispatcher,
            node,
            dispatcher,
        })
    }

    /// URL of the APIs.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.server.addr)
    }

    fn scheme(&self) -> &'static str {
        if self.service.config.tls.is_some() { "https" } else { "http" }
    }

    /// The state that request handlers share.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// Prints the addresses of all endpoints.
    fn print_endpoints(&self) {
        let url = self.url();
        console::print_message(&format!("Pagecast {} listens on {url}", env!("CARGO_PKG_VERSION")));
        let (endpoint, protocol) = (self.server.addr, self.scheme());
        console::print_message(&format!(
            "  Volcengine and Tencent APIs: endpoint {endpoint}, protocol {protocol}, for their SDKs"
        ));
        console::print_message(&format!("  REST API: {url}/v1"));
        if let Some(addr) = self.rooms_addr {
            console::print_message(&format!("  rooms: http://{addr}/rooms/…"));
        }
        if self.uses_demo_application {
            let file = self.service.config.data.join("credentials.json");
            console::print_message(&format!(
                "  no application is configured: one is called demo, its keys are in {}, where pagecast \
                 call finds them",
                file.display()
            ));
        }
    }

    /// Stops the service. The next start resumes running casts.
    pub(crate) async fn stop(self) {
        let Self { service, server, stop, stop_dispatcher, node, dispatcher, .. } = self;
        service.draining.store(true, Ordering::Release);
        stop.send_replace(true);
        if node.await.is_err() {
            tracing::error!("node panicked");
        }
        server.stop(REQUEST_DRAIN_TIMEOUT).await;
        stop_dispatcher.send_replace(true);
        if dispatcher.await.is_err() {
            tracing::error!("webhook dispatcher panicked");
        }
    }
}

/// Creates the data folder for its owner only, or checks an existing one. A folder that every user can write
/// to becomes private; other modes cause a warning.
fn prepare_data_folder(data: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
    let shown = data.display();
    let folder = || format!("cannot make the folder {shown}");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).with_context(folder)?;
    let found = std::fs::metadata(data).with_context(folder)?;
    let (own, mode) = (rustix::process::geteuid().as_raw(), found.mode() & 0o777);
    anyhow::ensure!(
        found.uid() == own || found.uid() == 0,
        "the data folder {shown} belongs to another user (uid {}), who could take over the service: chown \
         it to uid {own}, or name \
         another folder (data)",
        found.uid()
    );
    let mode_shown = format!("{mode:03o}");
    if mode & 0o002 != 0 && found.uid() == own {
        let private = std::fs::Permissions::from_mode(0o700);
        let why = || format!("cannot make {shown} private: every user may write to it (mode {mode_shown})");
        std::fs::set_permissions(data, private).with_context(why)?;
        tracing::warn!(folder = %shown, mode = mode_shown, "data folder was writable by every user, mode \
            changed to 0700");
    } else if mode & 0o077 != 0 {
        tracing::warn!(
            folder = %shown,
            mode = mode_shown,
            "other users can get into the data folder, with recordings and pictures of pages in it: chmod \
             700 it"
        );
    }
    Ok(())
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

type RoomsWithAddr = (Arc<dyn EmbeddedRooms>, SocketAddr);

fn start_rooms(config: &Config) -> anyhow::Result<Option<RoomsWithAddr>> {
    let (limits, config) = (config.limits.listener_limits(), &config.rooms);
    if !config.enabled {
        return Ok(None);
    }
    let access = config.secret.clone().map_or(embedded::Access::Open, embedded::Access::Jwt);
    let server = embedded::Server::start(embedded::Config {
        http: config.listen,
        media: config.media_listen,
        advertised_addresses: config.announced_addresses.clone(),
        access,
        connection_limits: limits,
        limits: embedded::Limits {
            rooms: config.max_rooms,
            rooms_per_application: config.max_rooms_per_application,
            viewers: config.max_viewers,
            viewers_per_application: config.max_viewers_per_application,
            viewers_per_room: config.max_viewers_per_room,
            ..embedded::Limits::default()
        },
        ..embedded::Config::default()
    });
    let server = Arc::new(server.context("cannot start the embedded rooms")?);
    let addr = server.http_addr();
    let rooms = rooms::EmbeddedRooms::new(server, config.public_url.clone(), config.secret.clone());
    Ok(Some((Arc::new(rooms), addr)))
}

fn node_config(config: &Config) -> anyhow::Result<node::Config> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = |name: &str| config.data.join(name);
    let like = SourceUrl::parse("http://localhost/").map(|url| CastSpec::new(Source::new(url)))?;
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
    })
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> UnixMs {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(now.as_millis()).unwrap_or(UnixMs::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn an_existing_data_folder_is_checked() {
        let scratch = pagecast_testkit::ScratchDir::new().unwrap();
        let mode = |folder: &Path| std::fs::metadata(folder).unwrap().permissions().mode() & 0o777;
        let new = scratch.join("a/b");
        prepare_data_folder(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        for (before, after) in [(0o777, 0o700), (0o757, 0o700), (0o750, 0o750), (0o700, 0o700)] {
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(before)).unwrap();
            prepare_data_folder(&new).unwrap();
            assert_eq!(mode(&new), after, "{before:o}");
        }
        // Only root can give a folder away.
        if chown(&new, Some(12_345), None).is_ok() {
            let words = prepare_data_folder(&new).unwrap_err().to_string();
            assert!(words.contains("12345") && words.contains("chown"), "{words}");
        }
    }
}
