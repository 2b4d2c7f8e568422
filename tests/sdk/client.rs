//! Client programs that call an SDK step by step.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::service::ACCESS_KEY;
use pagecast_testkit::{ScratchDir, ServiceProcess};
use serde_json::{Map, Value, json};

/// Longest wait for a step or a condition.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

static INSTALL_LOCK: Mutex<()> = Mutex::new(());

/// Language of an SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    Node,
    Go,
}

/// A running client of an SDK; killed when dropped.
#[derive(Debug)]
pub(crate) struct SdkClient {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    /// Members of all steps, unless a step has its own.
    defaults: Map<String, Value>,
    _home: ScratchDir,
}

impl SdkClient {
    /// Installs the SDKs if needed, and starts a client for this service. `None` without Go: the test is then
    /// skipped as by [`pagecast_testkit::skip()`].
    pub(crate) fn start(language: Language, name: &str, service: &ServiceProcess) -> Result<Option<Self>> {
        let (sources, installed) = install_sdks()?;
        let mut command = match language {
            Language::Python => {
                let mut python = program(installed.join("python/bin/python3"));
                python.arg("-B").arg(sources.join("python").join(name).with_extension("py"));
                python
            }
            Language::Node => {
                let mut node = program("node");
                node.arg(sources.join("node").join(name).with_extension("js"));
                node.env("PACKAGES", installed.join("node"));
                node
            }
            Language::Go => {
                let binary = installed.join("go").join(name);
                if !binary.exists() {
                    pagecast_testkit::skip(&format!("the SDK of {name} for Go needs Go"));
                    return Ok(None);
                }
                program(binary)
            }
        };
        Self::run(&mut command, service).map(Some)
    }

    fn run(command: &mut Command, service: &ServiceProcess) -> Result<Self> {
        // SDKs use keys and proxies of the environment and the home folder.
        let home = ScratchDir::new()?;
        for name in ["VOLC_ACCESSKEY", "VOLC_SECRETKEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        {
            command.env_remove(name);
        }
        let mut child =
            command.env("HOME", home.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        // One response for each step.
        let (sender, answers) = sync_channel(1);
        std::thread::Builder::new().name("sdk".into()).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        })?;
        let (key, secret) = ACCESS_KEY;
        let defaults = json!({
            "host": service.host(), "key": key, "secret": secret, "service": "rtc", "region": "cn-north-1",
            "method": "POST",
        });
        let Value::Object(defaults) = defaults else { bail!("the defaults are not an object") };
        Ok(Self { child, stdin, answers, defaults, _home: home })
    }

    /// Sends all further steps to this service.
    pub(crate) fn connect_to(&mut self, service: &ServiceProcess) {
        self.defaults.insert("host".to_owned(), service.host().into());
    }

    /// Sets members of all further steps, unless a step has its own.
    pub(crate) fn set_defaults(&mut self, members: &Value) {
        self.defaults.extend(members.as_object().cloned().unwrap_or_default());
    }

    /// Carries out a step and returns its result.
    pub(crate) fn call(&mut self, step: &Value) -> Result<Value> {
        let mut whole = self.defaults.clone();
        whole.extend(step.as_object().context("a step is an object")?.clone());
        writeln!(self.stdin, "{}", Value::Object(whole)).context("the client ended")?;
        let line =
            self.answers.recv_timeout(TIMEOUT).map_err(|error| anyhow!("no answer to {step}: {error}"))?;
        serde_json::from_str(&line).with_context(|| format!("the result is not JSON: {line}"))
    }
}

impl Drop for SdkClient {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Installs the SDKs. Returns the folders of the clients' sources and of the installed SDKs.
pub(crate) fn install_sdks() -> Result<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = root.join("tests/third-party/sdk");
    let _one_at_a_time = INSTALL_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    run_for_output(&mut program(sources.join("install"))).context("cannot install the SDKs")?;
    Ok((sources, root.join("target/third-party/sdk")))
}

/// Calls `check` until it returns a value; `what` is for the error.
pub(crate) fn poll_until<T>(what: &str, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = check()? {
            return Ok(found);
        }
        ensure!(begin.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// `base` with `patch` applied (RFC 7396): members of objects are merged, and `null` removes a member.
pub(crate) fn merge_patch(mut base: Value, patch: &Value) -> Value {
    match (base.as_object_mut(), patch) {
        (Some(into), Value::Object(patch)) => {
            for (name, value) in patch {
                match (into.remove(name), value) {
                    (_, Value::Null) => {}
                    (Some(old @ Value::Object(_)), Value::Object(_)) => {
                        into.insert(name.clone(), merge_patch(old, value));
                    }
                    (_, new) => {
                        into.insert(name.clone(), new.clone());
                    }
                }
            }
            base
        }
        _ => patch.clone(),
    }
}
