//! `pagecast serve`, in five steps: load the configuration; [`open`] data folder, fleet, listener and rooms;
//! [`wire`] them to each other; run listener, node and webhook dispatcher; drain them in order.

mod check;
mod data_folder;
mod evidence;
mod open;
mod peers;
mod recordings;
mod rooms;
mod shutdown_signals;
mod storage_tester;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pagecast_fleet::UnixMs;
use pagecast_server::config::{self, Config, Role};
use pagecast_server::{Service, listen};
use pagecast_worker::node::NodeEnd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::CommandError;
use crate::{cli, console};
use data_folder::DataFolderLock;
use open::OpenedService;
use peers::RunningPeers;
use rooms::EmbeddedRooms;
use shutdown_signals::ShutdownSignals;
use wire::WiredService;

/// How long running requests may continue at shutdown: longer than any handler takes.
const REQUEST_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &cli::ServeArgs) -> Result<ExitCode, CommandError> {
    let config = load(args)?;
    if args.check_config {
        return Ok(print_findings(&config));
    }
    refuse_invalid(&config)?;
    build_runtime()?.block_on(run_until_shutdown(config))
}

/// Loads the configuration from file, environment and flags.
fn load(args: &cli::ServeArgs) -> Result<Config, CommandError> {
    let options = config::Options { file: args.config.clone(), listen: args.listen, data: args.data.clone() };
    config::load(&options, &config::environment()).map_err(|error| CommandError::invalid_value(error.into()))
}

/// Prints everything that is wrong or risky in a configuration, for `--check-config`.
fn print_findings(config: &Config) -> ExitCode {
    let findings = config.validate();
    findings.iter().for_each(|finding| console::print_result(&finding.to_string()));
    let is_valid = !findings.iter().any(|finding| finding.fatal);
    console::print_result(if is_valid { "configuration valid" } else { "configuration invalid" });
    if is_valid { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

/// Reports what is wrong or risky in a configuration, and refuses one that cannot be used.
fn refuse_invalid(config: &Config) -> Result<(), CommandError> {
    let findings = config.validate();
    findings.iter().for_each(|finding| console::print_message(&finding.to_string()));
    if findings.iter().any(|finding| finding.fatal) {
        return Err(CommandError::invalid_value(anyhow::anyhow!("the configuration cannot be used")));
    }
    Ok(())
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

/// Runs the service until a signal asks it to stop. A second signal ends it at once.
async fn run_until_shutdown(config: Config) -> Result<ExitCode, CommandError> {
    let mut signals = ShutdownSignals::new()?;
    let running = tokio::select! {
        running = RunningService::start(config) => running?,
        // It may wait for the fleet's database.
        () = signals.wait() => return Ok(ExitCode::SUCCESS),
    };
    running.print_endpoints();
    let mut node_ended = running.node_ended.clone();
    let is_expected = tokio::select! {
        () = signals.wait() => true,
        ended = node_ended.wait_for(Option::is_some) => {
            ended.is_ok_and(|end| *end == Some(NodeEnd::Drained))
        }
    };
    tracing::info!(is_expected, "shutting down");
    tokio::select! {
        () = running.stop() => {}
        () = signals.wait() => tracing::warn!("shutdown requested again, casts left to the next start"),
    }
    if is_expected {
        return Ok(ExitCode::SUCCESS);
    }
    Err(anyhow::anyhow!("the node has ended by itself: the log says why").into())
}

/// A running service.
pub(crate) struct RunningService {
    service: Service,
    server: listen::Server,
    /// Base URL of the main listener.
    url: String,
    rooms: Option<Arc<EmbeddedRooms>>,
    peers: Option<RunningPeers>,
    uses_demo_application: bool,
    stop: watch::Sender<bool>,
    /// Stops webhook dispatcher and record of requests, last of all: ends of casts are still delivered while
    /// the node drains.
    stop_dispatcher: watch::Sender<bool>,
    node: JoinHandle<()>,
    /// Why the node has ended, by itself or because it was asked to.
    node_ended: watch::Receiver<Option<NodeEnd>>,
    dispatcher: Option<JoinHandle<()>>,
    /// Stores the record of requests.
    recorder: JoinHandle<()>,
    _data_lock: Option<DataFolderLock>,
}

impl RunningService {
    /// Opens, wires and runs a service.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Self> {
        let opened = OpenedService::open(config).await?;
        let wired = WiredService::wire(opened).await?;
        wired.run().await
    }

    /// URL of the APIs.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The state that request handlers share.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// Prints the addresses of all endpoints.
    fn print_endpoints(&self) {
        let Self { url, rooms, service, .. } = self;
        console::print_message(&format!("Pagecast {} listens on {url}", env!("CARGO_PKG_VERSION")));
        let protocol = if service.config.tls.is_some() { "https" } else { "http" };
        console::print_message(&format!(
            "  Volcengine and Tencent APIs: endpoint {}, protocol {protocol}, for their SDKs",
            self.server.addr
        ));
        console::print_message(&format!("  REST API: {url}/v1"));
        if service.config.fleet.has_role(Role::Api) {
            console::print_message(&format!("  console: {url}/console/{}", self.sign_in_link()));
        }
        if let Some(rooms) = rooms {
            console::print_message(&format!("  rooms: {}/rooms/…", rooms.public_url()));
        }
        if self.uses_demo_application {
            let file = service.config.data.join("credentials.json");
            console::print_message(&format!(
                "  no application is configured: one is called demo, its keys are in {}, where pagecast \
                 call finds them",
                file.display()
            ));
        }
    }

    /// End of the console's address: on loopback, whoever sees it may sign in once without a token.
    fn sign_in_link(&self) -> String {
        if !self.server.addr.ip().is_loopback() {
            return String::new();
        }
        format!("sign-in#code={} (valid once, for ten minutes)", self.service.sign_in_code.create())
    }

    /// Drains the service: casts first, then rooms, requests and callbacks. The next start resumes running
    /// casts.
    pub(crate) async fn stop(self) {
        let Self {
            service, server, rooms, mut peers, stop, stop_dispatcher, node, dispatcher, recorder, ..
        } = self;
        service.draining.store(true, Ordering::Release);
        stop.send_replace(true);
        if node.await.is_err() {
            tracing::error!("node panicked");
        }
        // Event streams of viewers would otherwise keep the listener for its whole timeout.
        if let Some(rooms) = rooms {
            rooms.shutdown();
        }
        if let Some(peers) = &mut peers {
            peers.release_rooms().await;
        }
        server.stop(REQUEST_DRAIN_TIMEOUT).await;
        stop_dispatcher.send_replace(true);
        if let Some(dispatcher) = dispatcher
            && dispatcher.await.is_err()
        {
            tracing::error!("webhook dispatcher panicked");
        }
        if recorder.await.is_err() {
            tracing::error!("recorder of requests panicked");
        }
        if let Some(peers) = peers {
            peers.stop().await;
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> UnixMs {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(now.as_millis()).unwrap_or(UnixMs::MAX)
}
