//! Lock of the machine, so that no other test disturbs a test that measures time.

use std::fs::File;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

/// Held while a test runs a browser; released when dropped.
#[derive(Debug)]
pub struct MachineLock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl MachineLock {
    /// Waits until no other test holds the lock: for tests that measure time. They belong in a module
    /// `exclusive` at the root of their file: `scripts/run-tests` runs it when everything else has ended,
    /// because not every test that needs the processor holds a lock.
    ///
    /// # Errors
    /// The test is in another module, or the lock file cannot be opened.
    pub fn exclusive() -> Result<Self> {
        if let Some(test) = std::thread::current().name().filter(|name| *name != "main") {
            ensure!(test.starts_with("exclusive::"), "{test} belongs in a module `exclusive`");
        }
        Self::acquire(FlockOperation::LockExclusive)
    }

    /// Waits until no test holds the lock exclusively: for tests that check results only.
    ///
    /// # Errors
    /// The lock file cannot be opened.
    pub fn shared() -> Result<Self> {
        Self::acquire(FlockOperation::LockShared)
    }

    fn acquire(operation: FlockOperation) -> Result<Self> {
        // Outside of the target folder, as all checkouts on a machine share its cores.
        let path =
            std::env::temp_dir().join(format!("pagecast-tests-{}.lock", rustix::process::getuid().as_raw()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        flock(&file, operation).context("cannot lock")?;
        Ok(Self(File::from(file)))
    }
}
