//! Servers that the bench starts for casts, which are not part of a cast.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

static EXCLUDED_PIDS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A process that is neither counted nor killed while this is held.
#[derive(Debug)]
pub(crate) struct ExcludedProcess(i32);

impl ExcludedProcess {
    pub(crate) fn exclude(pid: u32) -> Self {
        let pid = pid.cast_signed();
        excluded_pids().insert(pid);
        Self(pid)
    }
}

impl Drop for ExcludedProcess {
    fn drop(&mut self) {
        excluded_pids().remove(&self.0);
    }
}

pub(super) fn is_excluded(pid: i32) -> bool {
    excluded_pids().contains(&pid)
}

fn excluded_pids() -> MutexGuard<'static, BTreeSet<i32>> {
    EXCLUDED_PIDS.lock().unwrap_or_else(PoisonError::into_inner)
}
