//! Turns on the machine, so that a test that measures time is never disturbed by another test.

use std::fs::File;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

/// Held while a test runs a browser; dropped, the next one starts.
#[derive(Debug)]
pub struct MachineLock(#[expect(dead_code, reason = "closing it ends the turn")] File);

impl MachineLock {
    /// Waits until nobody else on this machine has a turn: for tests that measure time.
    ///
    /// # Errors
    /// The lock file cannot be opened.
    pub fn exclusive() -> Result<Self> {
        Self::acquire(FlockOperation::LockExclusive)
    }

    /// Waits until nobody has a turn alone: for tests that only look at what happened.
    ///
    /// # Errors
    /// The lock file cannot be opened.
    pub fn shared() -> Result<Self> {
        Self::acquire(FlockOperation::LockShared)
    }

    fn acquire(how: FlockOperation) -> Result<Self> {
        // Outside of the target folder, because two checkouts on one machine share its cores too.
        let path =
            std::env::temp_dir().join(format!("pagecast-tests-{}.lock", rustix::process::getuid().as_raw()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::RUSR | Mode::WUSR)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        flock(&file, how).context("cannot wait for a turn")?;
        Ok(Self(File::from(file)))
    }
}
