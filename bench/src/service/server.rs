//! The measured `pagecast serve`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::service::Environment;
use pagecast_testkit::{ScratchDir, ServiceConfig, ServiceProcess};

use super::calls::{APP_ID, KEY_COUNT, SECRET, access_key, rest_get, rest_token};
use crate::usage::process_cpu_s;

/// Stub of the process of a cast: it is live, and then complete.
const STUB_SCRIPT: &str = "#!/bin/sh
echo '{\"event\":{\"lifecycle\":\"live\"}}'
echo '{\"event\":{\"lifecycle\":{\"ended\":\"complete\"}}}'
echo '{\"done\":{\"report\":null,\"failure\":null}}'
";
/// Stub of the process of a cast that is live until it is killed. Every second it reports progress, in which
/// all numbers change.
const LIVE_STUB_SCRIPT: &str = "#!/bin/sh
echo '{\"event\":{\"lifecycle\":\"live\"}}'
n=0
while sleep 1; do
    n=$((n + 1))
    echo '{\"heartbeat\":{\"idle_ms\":1}}'
    printf '{\"event\":{\"progress\":{\"elapsed\":%d000000000,\"frames_captured\":%d,\
\"frames_encoded\":%d,\"frames_unchanged\":%d,\"frames_dropped\":0,\"bytes\":%d,\
\"peak\":[0.%d,0.25],\"cpu_seconds\":%d.%02d,\"rss_bytes\":%d}}}\\n' \\
        $n $((n * 29)) $((n * 28)) $n $((n * 400000)) \\
        $((n % 9 + 1)) $((n / 100)) $((n % 100)) $((300000000 + n * 4096))
done
";
/// Settings for a queue that is never full.
const CASTS_TOML: &str = "max_queued_casts = 1000000\nqueue_timeout_s = 60";
/// Reserves more memory than any machine has, so that no cast starts and each ends after five seconds.
const NO_CAPACITY_ENV: [(&str, &str); 2] =
    [("PAGECAST__CASTS__RESERVED_MEMORY_MIB", "1048575"), ("PAGECAST__CASTS__QUEUE_TIMEOUT_S", "5")];
/// The default log level.
const LOG_ENV: (&str, &str) = ("RUST_LOG", "info");
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time until all queued casts have ended: their time in the queue, and the load of the machine.
const ALL_ENDED_TIMEOUT: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Program that runs casts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CastRunner {
    Disabled,
    /// Casts end at once.
    Stub,
    /// Casts are live until they are killed.
    LiveStub,
}

impl CastRunner {
    fn environment(self) -> Environment {
        let extra = if self == Self::Disabled { &NO_CAPACITY_ENV[..] } else { &[] };
        [LOG_ENV].iter().chain(extra).map(|(name, value)| (*name, (*value).to_owned())).collect()
    }
}

/// A service with its own copy of the program.
pub(super) struct MeasuredService {
    service: ServiceProcess,
    /// Further environment variables.
    environment: Environment,
    program_folder: ScratchDir,
    original: PathBuf,
}

impl MeasuredService {
    /// Starts a service that leaves its casts in the queue.
    pub(super) fn start(pagecast: &Path, environment: Environment) -> Result<Self> {
        let programs = ScratchDir::new()?;
        install_program(&programs, &fs::read(pagecast)?)?;
        let keys: Vec<_> = (0..KEY_COUNT)
            .map(|n| format!("{{ id = \"{}\", secret = \"{SECRET}\" }}", access_key(n)))
            .collect();
        let application = format!(
            "[[applications]]\nname = \"bench\"\napp_id = \"{APP_ID}\"\ntokens = [\"{}\"]\nmax_casts = \
             100000\n\
             keys = [{}]",
            rest_token(),
            keys.join(", ")
        );
        let config = ServiceConfig {
            top_level_toml: application,
            casts_toml: CASTS_TOML.to_owned(),
            environment: [CastRunner::Disabled.environment(), environment.clone()].concat(),
            ..ServiceConfig::default()
        };
        let program = programs.join("pagecast");
        let service = ServiceProcess::start(&program.to_string_lossy(), &config)?;
        Ok(Self { service, environment, program_folder: programs, original: pagecast.to_owned() })
    }

    /// Stops the service and starts it again with the same data.
    ///
    /// The stub replaces the program's file when the service runs. The service starts casts by that path, so
    /// it needs no setting for another program.
    pub(super) fn restart(&mut self, runner: CastRunner) -> Result<()> {
        self.service.stop(STOP_TIMEOUT)?;
        install_program(&self.program_folder, &fs::read(&self.original)?)?;
        self.service.environment = [runner.environment(), self.environment.clone()].concat();
        self.service.restart()?;
        match runner {
            CastRunner::Disabled => Ok(()),
            CastRunner::Stub => install_program(&self.program_folder, STUB_SCRIPT.as_bytes()),
            CastRunner::LiveStub => install_program(&self.program_folder, LIVE_STUB_SCRIPT.as_bytes()),
        }
    }

    /// CPU time of the service so far, without the processes of its casts, in seconds.
    pub(super) fn cpu_s(&self) -> Result<f64> {
        process_cpu_s(self.service.pid().context("the service has ended")?)
    }

    /// Waits until this many casts are live.
    pub(super) fn wait_until_live(&self, count: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let list = rest_get("/v1/casts?state=live&limit=500").send(&self.url())?.json()?;
            let live = list["casts"].as_array().context("no list of casts")?.len();
            if live == count {
                return Ok(());
            }
            ensure!(begun.elapsed() < ALL_ENDED_TIMEOUT, "{live} of {count} casts are live");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    pub(super) fn host(&self) -> String {
        self.service.host()
    }

    /// Waits until all casts have ended.
    pub(super) fn wait_until_all_ended(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let left = rest_get("/v1/casts?state=queued,starting,live&limit=1").send(&self.url())?.json()?;
            if left["casts"].as_array().context("no list of casts")?.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < ALL_ENDED_TIMEOUT, "casts do not end: {left}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Replaces the program of the service. Running processes keep the previous file.
fn install_program(programs: &ScratchDir, bytes: &[u8]) -> Result<()> {
    let new = programs.join("new");
    fs::write(&new, bytes)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, programs.join("pagecast")).context("cannot replace the program")
}
