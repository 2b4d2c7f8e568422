//! `pagecast serve`, with an application for tests, on ports of its own.

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
use crate::rtmp::free_port;
use crate::scratch::ScratchDir;

/// `AppId` of the application for tests, as Volcengine's have them.
pub const APP_ID: &str = "0123456789abcdef01234567";
/// `SdkAppId` of it, as Tencent's have them.
pub const SDK_APP_ID: u64 = 1_400_000_001;
/// Its access key, and the secret.
pub const ACCESS_KEY: (&str, &str) = ("AKTEST0123456789", "c2VjcmV0LW9mLXRoZS10ZXN0cw==");
/// Its token for the REST API.
pub const REST_TOKEN: &str = "token-of-the-tests-0123456789";
/// The administrator's.
pub const ADMIN_TOKEN: &str = "administrator-of-the-tests-01";
/// Signs callbacks: letters and digits, as Tencent has them.
pub const CALLBACK_SECRET: &str = "callbacksecret0123456789";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a service is like.
#[derive(Debug, Clone, Default)]
pub struct ServiceConfig {
    /// Where all callbacks go, each dialect's below a folder of its name.
    pub callback_url: Option<String>,
    /// Further lines of the configuration, at its top.
    pub top_level_toml: String,
    /// Further lines about how casts are run (`[casts]`).
    pub casts_toml: String,
    /// Further lines about the application, at its top.
    pub application_toml: String,
    /// Whether no cast is ever begun: there is no room for one.
    pub no_capacity: bool,
    /// Lines about its storage instead of a folder of the service, `buckets`.
    pub storage_toml: Option<String>,
    /// Its environment: see [`ServiceProcess::environment`].
    pub environment: Environment,
}

/// Names and values.
pub type Environment = Vec<(&'static str, String)>;

/// A service; killed when dropped, with all that it started.
#[derive(Debug)]
pub struct ServiceProcess {
    /// Variables of its environment from the next [`Self::run`] on, besides those that it has here and instead of them.
    pub environment: Environment,
    program: PathBuf,
    scratch: ScratchDir,
    port: u16,
    rooms_port: u16,
    child: Option<Child>,
    processes: Option<ProcessTree>,
}

impl ServiceProcess {
    /// Starts it.
    ///
    /// # Errors
    /// It does not come to be ready.
    pub fn start(pagecast: &str, setup: &ServiceConfig) -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let (port, rooms) = (free_port()?, free_port()?);
        scratch.world_writable_folder("tmp")?;
        scratch.world_writable_folder("run")?;
        let data = scratch.world_writable_folder("data")?;
        let callbacks = setup.callback_url.as_ref().map_or_else(String::new, |url| {
            ["volcengine", "tencent", "native"]
                .map(|dialect| {
                    format!("[applications.callbacks.{dialect}]\nurl = \"{url}/{dialect}\"\nsecret = \"{CALLBACK_SECRET}\"\n")
                })
                .concat()
        });
        let data_folder = data.display();
        let storage =
            setup.storage_toml.clone().unwrap_or_else(|| format!("buckets = \"{data_folder}/buckets\""));
        let ServiceConfig { top_level_toml: top, casts_toml: casts, application_toml: application, .. } =
            setup;
        let spare_memory_mib = if setup.no_capacity { (1 << 20) - 1 } else { 0 };
        let (key, secret) = ACCESS_KEY;
        let config = format!(
            "listen = \"127.0.0.1:{port}\"\ndata = \"{data_folder}\"\nadmin_token = \"{ADMIN_TOKEN}\"\n{top}\n\
             [rooms]\nlisten = \"127.0.0.1:{rooms}\"\n[tencent]\nmin_duration_s = 10\n\
             [casts]\ncpu_share = 16.0\nspare_memory_mib = {spare_memory_mib}\n{casts}\n\
             [[applications]]\nname = \"test\"\napp_id = \"{APP_ID}\"\nsdk_app_id = {SDK_APP_ID}\ntokens = [\"{REST_TOKEN}\"]\n\
             keys = [{{ id = \"{key}\", secret = \"{secret}\" }}]\n{application}\n\
             [applications.network]\nallow = [\"127.0.0.0/8\", \"[::1]\"]\n\
             [applications.storage]\n{storage}\n{callbacks}"
        );
        fs::write(scratch.join("pagecast.toml"), config)?;
        let environment = setup.environment.clone();
        let program = pagecast.into();
        let mut service =
            Self { environment, program, scratch, port, rooms_port: rooms, child: None, processes: None };
        service.restart()?;
        Ok(service)
    }

    /// Starts it again, after [`Self::kill`] or [`Self::stop`], and waits until it is ready.
    ///
    /// # Errors
    /// It does not come to be ready.
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

    /// The address of something in its API.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Host and port of its API.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address of something in its rooms.
    #[must_use]
    pub fn rooms_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.rooms_port)
    }

    /// Its folder.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.scratch.join("data")
    }

    /// A folder of the test, beside its own.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// All that it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    /// Kills the service alone, as a crash would.
    pub fn kill(&mut self) {
        command::kill_child(&mut self.child);
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        command::signal_child(self.child.as_ref(), "pagecast serve", signal)
    }

    /// Ends it as an operator does, and waits for its end.
    ///
    /// # Errors
    /// It takes longer than `limit`, or ends with an error.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
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
        let Some(family) = &mut self.processes else { return Vec::new() };
        family.refresh();
        family.with_argument("run-cast")
    }

    /// Sends all of its processes that have `word` on their command line a signal.
    ///
    /// # Errors
    /// There is none.
    pub fn signal_matching(&mut self, word: &str, signal: Signal) -> Result<()> {
        let family = self.processes.as_mut().context("it never ran")?;
        family.refresh();
        let found = family.with_arguments(|all| all.iter().any(|argument| argument.contains(word)));
        ensure!(!found.is_empty(), "it has no process with {word}");
        // One that ends meanwhile is none that matters.
        found.into_iter().for_each(|pid| drop(command::signal_pid(pid, signal)));
        Ok(())
    }

    /// Waits until none of its processes is left. Ones that were started by a service that was killed count too.
    ///
    /// # Errors
    /// Some live longer than `limit`.
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

    /// Asks the REST API, with the application's token.
    ///
    /// # Errors
    /// There is no answer.
    pub fn rest(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        let authorization = format!("Bearer {REST_TOKEN}");
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        let body = body.map(Value::to_string).unwrap_or_default();
        http::request(method, &self.url(path), &headers, body.as_bytes())
    }

    /// Calls an action of either cloud's API with `pagecast call`, which signs it: the answer's JSON, and whether it was a success.
    ///
    /// # Errors
    /// There is no answer.
    pub fn call(&self, action: &str, body: &Value) -> Result<(bool, Value)> {
        let mut command = program(&self.program);
        command.args(["call", action, &body.to_string(), "--endpoint", &self.url("")]);
        command.env("PAGECAST_CALL_KEY", ACCESS_KEY.0).env("PAGECAST_CALL_SECRET", ACCESS_KEY.1);
        let output = command.output().context("cannot run pagecast call")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = || format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), serde_json::from_str(&text).with_context(said)?))
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        self.kill();
        if let Some(family) = &mut self.processes {
            family.kill();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            #[expect(clippy::print_stderr, reason = "what went wrong is told together with the failure")]
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
