//! Runs `pagecast serve` with one application for tests, on free ports.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::command::{self, program};
use crate::http::{self, Response};
use crate::pagecast::RUN_MARKER_ENV;
use crate::pagecast::processes::ProcessTree;
use crate::postgres::Postgres;
use crate::rtmp::free_port;
use crate::scratch::ScratchDir;

/// `AppId` of the test application, in Volcengine's format.
pub const APP_ID: &str = "0123456789abcdef01234567";
/// `SdkAppId` of the test application, in Tencent's format.
pub const SDK_APP_ID: u64 = 1_400_000_001;
/// Access key of the test application, and its secret.
pub const ACCESS_KEY: (&str, &str) = ("AKTEST0123456789", "c2VjcmV0LW9mLXRoZS10ZXN0cw==");
/// Token of the test application for the REST API.
pub const REST_TOKEN: &str = "token-of-the-tests-0123456789";
/// Token of the administrator.
pub const ADMIN_TOKEN: &str = "administrator-of-the-tests-01";
/// Secret that signs callbacks: letters and digits, in Tencent's format.
pub const CALLBACK_SECRET: &str = "callbacksecret0123456789";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Pause between two requests for a cast. Each one is logged, and the service limits requests per second.
const REST_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Key that seals the secrets of a service on PostgreSQL.
pub(crate) const SECRET_KEY: &str = "c2VhbGluZy1rZXktb2YtdGhlLXRlc3RzLTMyLWJ5dGU=";
/// Secret of the channel between the nodes of a fleet.
pub(crate) const PEER_SECRET: &str = "secret-of-the-fleet-of-the-tests-0123456789";

/// Database of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// SQLite in the data folder: the machine is alone.
    #[default]
    Sqlite,
    /// A PostgreSQL database of its own: the service is a fleet of one node.
    Postgres,
}

/// Settings of a service for tests.
#[derive(Debug, Clone, Default)]
pub struct ServiceConfig {
    /// Where the service keeps its casts.
    pub backend: Backend,
    /// Base URL of callbacks. Each dialect's go to a path of its name below it.
    pub callback_url: Option<String>,
    /// More lines for the top of the configuration.
    pub top_level_toml: String,
    /// More lines for the table `[casts]`.
    pub casts_toml: String,
    /// More lines for the top of the application.
    pub application_toml: String,
    /// Keeps all casts queued: the service never has capacity for one.
    pub no_capacity: bool,
    /// Lines for the application's storage, instead of the folder `buckets` in the data folder.
    pub storage_toml: Option<String>,
    /// Certificate and key of the service, in files. [`http::request`] does not verify them.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Environment variables: see [`ServiceProcess::environment`].
    pub environment: Environment,
}

/// Environment variables: names and values.
pub type Environment = Vec<(&'static str, String)>;

/// A running service; killed with all its processes when dropped.
#[derive(Debug)]
pub struct ServiceProcess {
    /// Environment variables from the next [`Self::restart`] on, added to those of the test or replacing
    /// them.
    pub environment: Environment,
    program: PathBuf,
    scratch: ScratchDir,
    scheme: &'static str,
    port: u16,
    child: Option<Child>,
    processes: Option<ProcessTree>,
}

impl ServiceProcess {
    /// Starts a service and waits until it is ready.
    ///
    /// # Errors
    /// The service does not become ready within 30 s.
    pub fn start(pagecast: &str, config: &ServiceConfig) -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let port = free_port()?;
        scratch.world_writable_folder("tmp")?;
        scratch.world_writable_folder("run")?;
        let data = scratch.world_writable_folder("data")?;
        let callbacks = config.callback_url.as_ref().map_or_else(String::new, |url| {
            ["volcengine", "tencent", "native"]
                .map(|dialect| {
                    format!(
                        "[applications.callbacks.{dialect}]\nurl = \"{url}/{dialect}\"\n\
                         secret = \"{CALLBACK_SECRET}\"\n"
                    )
                })
                .concat()
        });
        let data_folder = data.display();
        let storage =
            config.storage_toml.clone().unwrap_or_else(|| format!("buckets_dir = \"{data_folder}/buckets\""));
        let ServiceConfig { top_level_toml: top, casts_toml: casts, application_toml: application, .. } =
            config;
        let (secret_key, fleet) = fleet_toml(config.backend)?;
        let tls = config.tls.as_ref().map_or_else(String::new, |(certificate, key)| {
            format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display())
        });
        let reserved_memory_mib = if config.no_capacity { (1 << 20) - 1 } else { 0 };
        let (key, secret) = ACCESS_KEY;
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\ndata = \"{data_folder}\"\nadmin_token = \"{ADMIN_TOKEN}\"\n\
             {secret_key}{top}\n\
             {fleet}{tls}[tencent]\nmin_duration_s = 10\n\
             [casts]\ncpu_share = 16.0\nreserved_memory_mib = {reserved_memory_mib}\n{casts}\n\
             [[applications]]\nname = \"test\"\napp_id = \"{APP_ID}\"\nsdk_app_id = {SDK_APP_ID}\n\
             tokens = [\"{REST_TOKEN}\"]\n\
             keys = [{{ id = \"{key}\", secret = \"{secret}\" }}]\n{application}\n\
             [applications.network]\nallow = [\"127.0.0.0/8\", \"[::1]\"]\n\
             [applications.storage]\n{storage}\n{callbacks}"
        );
        fs::write(scratch.join("pagecast.toml"), text)?;
        let environment = config.environment.clone();
        let program = pagecast.into();
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let mut service = Self { environment, program, scratch, scheme, port, child: None, processes: None };
        service.restart()?;
        Ok(service)
    }

    /// Starts the service again after [`Self::kill`] or [`Self::stop`], and waits until it is ready.
    ///
    /// # Errors
    /// The service does not become ready within 30 s.
    pub fn restart(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.scratch.join("log"))?;
        let mut command = program(&self.program);
        command.args(["serve", "--config"]).arg(self.scratch.join("pagecast.toml"));
        command.env(RUN_MARKER_ENV, self.scratch.path());
        command.env("TMPDIR", self.scratch.join("tmp")).env("XDG_RUNTIME_DIR", self.scratch.join("run"));
        command.env("RUST_LOG", "info,pagecast_server=debug,pagecast_worker=debug");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        self.processes = Some(ProcessTree::new(child.id(), self.scratch.path()));
        self.child = Some(child);
        let ready = |url: &str| http::request("GET", url, &[], b"").is_ok_and(|answer| answer.status == 200);
        let begin = Instant::now();
        while !ready(&self.url("/readyz")) {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("pagecast serve ended with {status}: {}", self.log());
            }
            ensure!(begin.elapsed() < START_TIMEOUT, "pagecast serve is not ready: {}", self.log());
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// URL of a path of the API.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", self.scheme, self.port)
    }

    /// Host and port of the API.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Process id of the service, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Data folder of the service.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.scratch.join("data")
    }

    /// Scratch folder of the test, with the data folder in it.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Whole log of the service.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    /// Kills the service but not its casts, like a crash.
    pub fn kill(&mut self) {
        command::kill_child(&mut self.child);
    }

    /// Sends a signal to the service.
    ///
    /// # Errors
    /// The service does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        command::signal_child(self.child.as_ref(), "pagecast serve", signal)
    }

    /// Stops the service with SIGTERM and waits for its end.
    ///
    /// # Errors
    /// The service takes longer than `limit`, or exits with an error.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_for_exit(limit)
    }

    /// Waits until the service ends by itself.
    ///
    /// # Errors
    /// The service takes longer than `limit`, or exits with an error.
    pub fn wait_for_exit(&mut self, limit: Duration) -> Result<()> {
        let mut child = self.child.take().context("pagecast serve does not run")?;
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begin.elapsed() >= limit {
                let _ended = child.kill();
                let _reaped = child.wait();
                bail!("pagecast serve still runs after {limit:?}: {}", self.log());
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        ensure!(status.success(), "pagecast serve ended with {status}: {}", self.log());
        Ok(())
    }

    /// Process ids of the processes that run casts.
    pub fn cast_pids(&mut self) -> Vec<u32> {
        let Some(tree) = &mut self.processes else { return Vec::new() };
        tree.refresh();
        tree.with_argument("run-cast")
    }

    /// Sends a signal to all processes of the service with `word` in an argument.
    ///
    /// # Errors
    /// There is no such process.
    pub fn signal_matching(&mut self, word: &str, signal: Signal) -> Result<()> {
        let tree = self.processes.as_mut().context("the service never ran")?;
        tree.refresh();
        let found = tree.with_arguments(|all| all.iter().any(|argument| argument.contains(word)));
        ensure!(!found.is_empty(), "the service has no process with {word}");
        // A process may end in between.
        found.into_iter().for_each(|pid| drop(command::signal_pid(pid, signal)));
        Ok(())
    }

    /// Waits until no process of the service is left, including those that a killed service had started.
    ///
    /// # Errors
    /// A process is alive after `limit`.
    pub fn wait_until_exited(&mut self, limit: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            let left = self.processes.as_mut().map(ProcessTree::describe_alive).unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
            ensure!(begin.elapsed() < limit, "left behind: {left:#?}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends a request to the REST API with the application's token.
    ///
    /// # Errors
    /// There is no response.
    pub fn rest(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        self.rest_as(REST_TOKEN, method, path, body)
    }

    /// Sends a request to the REST API with this token.
    ///
    /// # Errors
    /// There is no response.
    pub fn rest_as(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        let authorization = format!("Bearer {token}");
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        let body = body.map(Value::to_string).unwrap_or_default();
        http::request(method, &self.url(path), &headers, body.as_bytes())
    }

    /// Waits until the REST API describes a cast that `matches`, and returns it; `what` is for the error.
    ///
    /// # Errors
    /// The cast does not match within `limit`.
    pub fn wait_until_cast(
        &self,
        id: &str,
        what: &str,
        limit: Duration,
        matches: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let begin = Instant::now();
        loop {
            let cast = self.rest("GET", &format!("/v1/casts/{id}"), None)?.json()?;
            if matches(&cast) {
                return Ok(cast);
            }
            ensure!(begin.elapsed() < limit, "not within {limit:?}: {what}; the cast is {cast:#}");
            std::thread::sleep(REST_POLL_INTERVAL);
        }
    }

    /// Calls an action of either cloud's API with `pagecast call`, which signs it. Returns whether it
    /// succeeded, and the JSON of the response.
    ///
    /// # Errors
    /// There is no response.
    pub fn call(&self, action: &str, body: &Value) -> Result<(bool, Value)> {
        let mut command = program(&self.program);
        command.args(["call", action, &body.to_string(), "--endpoint", &self.url("")]);
        command.env("PAGECAST_CALL_KEY", ACCESS_KEY.0).env("PAGECAST_CALL_SECRET", ACCESS_KEY.1);
        let output = command.output().context("cannot run pagecast call")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let output_text = || format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), serde_json::from_str(&text).with_context(output_text)?))
    }
}

/// Lines for the top of the configuration, and tables, that make a service use this backend.
fn fleet_toml(backend: Backend) -> Result<(String, String)> {
    if backend == Backend::Sqlite {
        return Ok(Default::default());
    }
    let (database, peer) = (Postgres::create_shared_database()?, free_port()?);
    let tables = format!(
        "[fleet]\ndatabase = \"{database}\"\nnode = \"alone\"\n\
         [fleet.peer]\nlisten = \"127.0.0.1:{peer}\"\nsecret = \"{PEER_SECRET}\"\n"
    );
    Ok((format!("secret_key = \"{SECRET_KEY}\"\n"), tables))
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        self.kill();
        if let Some(tree) = &mut self.processes {
            tree.kill();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            #[expect(clippy::print_stderr, reason = "the log is printed together with the failure")]
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
