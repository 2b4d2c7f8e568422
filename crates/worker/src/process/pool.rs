//! A pool of warm browsers: processes whose browser runs before a cast needs it. Each serves one cast.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::CastSpec;

use super::{Error, Process};

/// Pause after a browser failed to start: the machine may be overloaded for some seconds.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// How often waiting processes are checked for their heartbeats.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps a number of processes with a warm browser. Dropping it ends them.
#[derive(Debug)]
pub struct Pool {
    program: PathBuf,
    template: CastSpec,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Process>,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Keeps `size` processes of `program` ready for casts compatible with `template`: with the same display,
    /// context, page functions and network.
    ///
    /// # Errors
    /// [`Error::Start`] if the pool's thread cannot be started.
    pub fn start(program: PathBuf, size: usize, template: CastSpec) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let fill = {
            let (shared, program, template) = (Arc::clone(&shared), program.clone(), template.clone());
            move || fill(&shared, size, &program, &template)
        };
        let thread =
            std::thread::Builder::new().name("warm-pool".into()).spawn(fill).map_err(Error::Start)?;
        Ok(Self { program, template, shared, thread: Some(thread) })
    }

    /// Returns the number of processes that are ready.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// Takes a process for this cast: a warm one if one is ready and compatible, else a new one.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn take(&self, spec: &CastSpec) -> Result<Process, Error> {
        if self.template.is_compatible_with(spec) {
            let mut state = self.shared.lock();
            while let Some(process) = state.ready.pop() {
                self.shared.changed.notify_all();
                // A process that died while it waited is skipped.
                if process.is_alive() {
                    return Ok(process);
                }
            }
        }
        Process::start_with_log(&self.program)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("warm-pool thread panicked");
        }
    }
}

/// Starts processes whenever fewer than `size` are ready.
fn fill(shared: &Shared, size: usize, program: &Path, template: &CastSpec) {
    loop {
        let enough = |state: &mut State| state.ready.len() >= size && !state.stopped;
        let (mut state, _) = shared
            .changed
            .wait_timeout_while(shared.lock(), CHECK_INTERVAL, enough)
            .unwrap_or_else(PoisonError::into_inner);
        state.ready.retain(Process::is_alive);
        match state.ready.len() {
            _ if state.stopped => return,
            ready if ready >= size => continue,
            _ => drop(state),
        }
        match Process::start_with_log(program)
            .and_then(|mut process| process.warm_up(template).map(|()| process))
        {
            Ok(process) => shared.lock().ready.push(process),
            Err(error) => {
                tracing::warn!(%error, "cannot start warm browser");
                let running = |state: &mut State| !state.stopped;
                drop(shared.changed.wait_timeout_while(shared.lock(), RETRY_DELAY, running));
            }
        }
    }
}
