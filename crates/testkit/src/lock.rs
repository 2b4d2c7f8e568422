//! Lock of the machine, so that no other test disturbs a test that measures time.

use std::fs::File;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

/// Held while a test runs a browser; released when dropped.
#[derive(Debug)]
pub struct MachineLock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl MachineLock {
    /// Waits until no other test holds the lock: for tests that measure time.
    ///
    /// # Errors
    /// The lock file cannot be opened.
    pub fn exclusive() -> Result<Self> {
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
