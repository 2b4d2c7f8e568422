//! Servers that what is measured talks to: they run below the bench, but are no part of any cast.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

static PIDS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// While this is held, a process is neither counted nor swept.
#[derive(Debug)]
pub(crate) struct Apart(i32);

impl Apart {
    pub(crate) fn new(pid: u32) -> Self {
        let pid = pid.cast_signed();
        pids().insert(pid);
        Self(pid)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        pids().remove(&self.0);
    }
}

pub(super) fn is_apart(pid: i32) -> bool {
    pids().contains(&pid)
}

fn pids() -> MutexGuard<'static, BTreeSet<i32>> {
    PIDS.lock().unwrap_or_else(PoisonError::into_inner)
}
