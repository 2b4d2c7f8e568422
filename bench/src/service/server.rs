//! `pagecast serve` under measurement.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::{ScratchDir, ServiceConfig, ServiceProcess};

use super::calls::{APP_ID, KEY_COUNT, SECRET, access_key, rest_get, rest_token};

/// Runs a cast as far as the service can tell: it is live, and then complete.
const STUB_SCRIPT: &str = "#!/bin/sh
echo '{\"news\":{\"event\":\"live\"}}'
echo '{\"news\":{\"event\":{\"ended\":\"complete\"}}}'
echo '{\"done\":{\"report\":null,\"failure\":null}}'
";
/// A queue that is never full.
const CASTS_TOML: &str = "queue_limit = 1000000\nqueue_s = 60";
/// More memory is left to others than there is, so no cast is begun; each is over after a few seconds.
const NO_CAPACITY_ENV: [(&str, &str); 2] =
    [("PAGECAST__CASTS__SPARE_MEMORY_MIB", "1048575"), ("PAGECAST__CASTS__QUEUE_S", "5")];
/// As the service logs for everybody.
const LOG_ENV: (&str, &str) = ("RUST_LOG", "info");
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Until all that waits is over: the queue's time, and what a busy machine needs.
const ALL_ENDED_TIMEOUT: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Who runs casts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CastRunner {
    Disabled,
    Stub,
}

impl CastRunner {
    fn environment(self) -> Vec<(&'static str, String)> {
        let nobody = if self == Self::Disabled { &NO_CAPACITY_ENV[..] } else { &[] };
        [LOG_ENV].iter().chain(nobody).map(|(name, value)| (*name, (*value).to_owned())).collect()
    }
}

/// A service, and a copy of its program.
pub(super) struct MeasuredService {
    service: ServiceProcess,
    program_folder: ScratchDir,
    original: PathBuf,
}

impl MeasuredService {
    /// Starts one that leaves its casts in the queue.
    pub(super) fn start(pagecast: &Path) -> Result<Self> {
        let programs = ScratchDir::new()?;
        install_program(&programs, &fs::read(pagecast)?)?;
        let keys: Vec<_> = (0..KEY_COUNT)
            .map(|n| format!("{{ id = \"{}\", secret = \"{SECRET}\" }}", access_key(n)))
            .collect();
        let application = format!(
            "[[applications]]\nname = \"bench\"\napp_id = \"{APP_ID}\"\ntokens = [\"{}\"]\nmax_casts = 100000\nkeys = [{}]",
            rest_token(),
            keys.join(", ")
        );
        let setup = ServiceConfig {
            top_level_toml: application,
            casts_toml: CASTS_TOML.to_owned(),
            environment: CastRunner::Disabled.environment(),
            ..ServiceConfig::default()
        };
        let program = programs.join("pagecast");
        let service = ServiceProcess::start(&program.to_string_lossy(), &setup)?;
        Ok(Self { service, program_folder: programs, original: pagecast.to_owned() })
    }

    /// Ends it, and starts it again with what it has.
    ///
    /// The stub takes the place of the program's file once the service runs, as another version might; the service starts by that name
    /// what runs its casts. So it needs no way to name another program.
    pub(super) fn restart(&mut self, runs: CastRunner) -> Result<()> {
        self.service.stop(STOP_TIMEOUT)?;
        install_program(&self.program_folder, &fs::read(&self.original)?)?;
        self.service.environment = runs.environment();
        self.service.restart()?;
        if runs == CastRunner::Stub {
            install_program(&self.program_folder, STUB_SCRIPT.as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    pub(super) fn host(&self) -> String {
        self.service.host()
    }

    /// Waits until no cast is queued or runs.
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

/// Puts a program where the service has its own. Whoever runs the one that was there keeps it.
fn install_program(programs: &ScratchDir, bytes: &[u8]) -> Result<()> {
    let new = programs.join("new");
    fs::write(&new, bytes)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, programs.join("pagecast")).context("cannot put the program in place")
}
