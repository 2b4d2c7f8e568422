//! A program that calls an SDK as it is told.

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

/// How long anything may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two questions whether something has happened.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

static INSTALL_LOCK: Mutex<()> = Mutex::new(());

/// What an SDK is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    Node,
    Go,
}

/// An SDK; its program ends with it.
#[derive(Debug)]
pub(crate) struct SdkClient {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    /// What all steps have unless they say otherwise.
    defaults: Map<String, Value>,
    _home: ScratchDir,
}

impl SdkClient {
    /// Starts a client for this service, which is installed first if it is not. `None`, said on stdout, where there is no Go: in CI
    /// that is an error.
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so by name")]
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
                    println!("skipped: the SDK of {name} for Go (no Go)");
                    return Ok(None);
                }
                program(binary)
            }
        };
        Self::run(&mut command, service).map(Some)
    }

    fn run(command: &mut Command, service: &ServiceProcess) -> Result<Self> {
        // SDKs look for keys at home and in the environment, and for proxies.
        let home = ScratchDir::new()?;
        for name in ["VOLC_ACCESSKEY", "VOLC_SECRETKEY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        {
            command.env_remove(name);
        }
        let mut child =
            command.env("HOME", home.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        // One answer for each question.
        let (sender, answers) = sync_channel(1);
        std::thread::Builder::new().name("sdk".into()).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        })?;
        let (key, secret) = ACCESS_KEY;
        let usual = json!({
            "host": service.host(), "key": key, "secret": secret, "service": "rtc", "region": "cn-north-1", "method": "POST",
        });
        let Value::Object(usual) = usual else { bail!("that is an object") };
        Ok(Self { child, stdin, answers, defaults: usual, _home: home })
    }

    /// What all further steps have unless they say otherwise.
    pub(crate) fn set_defaults(&mut self, members: &Value) {
        self.defaults.extend(members.as_object().cloned().unwrap_or_default());
    }

    /// What came of a step.
    pub(crate) fn call(&mut self, step: &Value) -> Result<Value> {
        let mut whole = self.defaults.clone();
        whole.extend(step.as_object().context("a step is an object")?.clone());
        writeln!(self.stdin, "{}", Value::Object(whole)).context("the client ended")?;
        let line =
            self.answers.recv_timeout(TIMEOUT).map_err(|error| anyhow!("no answer to {step}: {error}"))?;
        serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))
    }
}

impl Drop for SdkClient {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Where the clients are, and where what they need is.
pub(crate) fn install_sdks() -> Result<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = root.join("tests/third-party/sdk");
    let _one_at_a_time = INSTALL_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    run_for_output(&mut program(sources.join("install"))).context("cannot install the SDKs")?;
    Ok((sources, root.join("target/third-party/sdk")))
}

/// Asks until the answer is like this.
pub(crate) fn poll_until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = ask()? {
            return Ok(found);
        }
        ensure!(begin.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// `base` with all members of `patch`, those of objects within it too; `null` takes a member away.
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
