//! `pagecast serve` under measurement.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::{Scratch, Service, Setup};

use super::calls::{APP_ID, KEYS, SECRET, key, rest, token};

/// Runs a cast as far as the service can tell: it is live, and then complete.
const STUB: &str = "#!/bin/sh
echo '{\"news\":{\"event\":\"live\"}}'
echo '{\"news\":{\"event\":{\"ended\":\"complete\"}}}'
echo '{\"done\":{\"report\":null,\"failure\":null}}'
";
/// A queue that is never full.
const CASTS: &str = "queue_limit = 1000000\nqueue_s = 60";
/// More memory is left to others than there is, so no cast is begun; each is over after a few seconds.
const NOBODY: [(&str, &str); 2] =
    [("PAGECAST__CASTS__SPARE_MEMORY_MIB", "1048575"), ("PAGECAST__CASTS__QUEUE_S", "5")];
/// As the service logs for everybody.
const LOG: (&str, &str) = ("RUST_LOG", "info");
const STOP: Duration = Duration::from_secs(60);
/// Until all that waits is over: the queue's time, and what a busy machine needs.
const OVER: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);

/// Who runs casts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    Nobody,
    ByStub,
}

impl Runs {
    fn environment(self) -> Vec<(&'static str, String)> {
        let nobody = if self == Self::Nobody { &NOBODY[..] } else { &[] };
        [LOG].iter().chain(nobody).map(|(name, value)| (*name, (*value).to_owned())).collect()
    }
}

/// A service, and a copy of its program.
pub(super) struct Server {
    service: Service,
    programs: Scratch,
    original: PathBuf,
}

impl Server {
    /// Starts one that leaves its casts in the queue.
    pub(super) fn start(pagecast: &Path) -> Result<Self> {
        let programs = Scratch::new()?;
        put(&programs, &fs::read(pagecast)?)?;
        let keys: Vec<_> =
            (0..KEYS).map(|n| format!("{{ id = \"{}\", secret = \"{SECRET}\" }}", key(n))).collect();
        let application = format!(
            "[[applications]]\nname = \"bench\"\napp_id = \"{APP_ID}\"\ntokens = [\"{}\"]\nmax_casts = 100000\nkeys = [{}]",
            token(),
            keys.join(", ")
        );
        let setup = Setup {
            top: application,
            casts: CASTS.to_owned(),
            environment: Runs::Nobody.environment(),
            ..Setup::default()
        };
        let program = programs.join("pagecast");
        let service = Service::start(&program.to_string_lossy(), &setup)?;
        Ok(Self { service, programs, original: pagecast.to_owned() })
    }

    /// Ends it, and starts it again with what it has.
    ///
    /// The stub takes the place of the program's file once the service runs, as another version might; the service starts by that name
    /// what runs its casts. So it needs no way to name another program.
    pub(super) fn restart(&mut self, runs: Runs) -> Result<()> {
        self.service.stop(STOP)?;
        put(&self.programs, &fs::read(&self.original)?)?;
        self.service.environment = runs.environment();
        self.service.run()?;
        if runs == Runs::ByStub {
            put(&self.programs, STUB.as_bytes())?;
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
    pub(super) fn wait_until_all_are_over(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let left = rest("/v1/casts?state=queued,starting,live&limit=1").ask(&self.url())?.json()?;
            if left["casts"].as_array().context("no list of casts")?.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < OVER, "casts do not end: {left}");
            std::thread::sleep(LOOK);
        }
    }
}

/// Puts a program where the service has its own. Whoever runs the one that was there keeps it.
fn put(programs: &Scratch, bytes: &[u8]) -> Result<()> {
    let new = programs.join("new");
    fs::write(&new, bytes)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, programs.join("pagecast")).context("cannot put the program in place")
}
