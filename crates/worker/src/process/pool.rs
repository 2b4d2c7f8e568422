//! Browsers that are started before they are wanted. Each is for one cast, and gone with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::CastSpec;

use super::{Error, Process};

/// Pause after a browser could not be started: the machine may be full.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// How often those that wait are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A number of processes with a browser that waits for a cast. Dropping it ends them.
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
    /// Keeps `size` processes of `program` ready for casts like this one: of the same display and context, with the same
    /// functions, and in the same network.
    ///
    /// # Errors
    /// The thread that does it cannot be started.
    pub fn start(program: PathBuf, size: usize, like: CastSpec) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let fill = {
            let (shared, program, like) = (Arc::clone(&shared), program.clone(), like.clone());
            move || fill(&shared, size, &program, &like)
        };
        let thread = std::thread::Builder::new().name("pool".into()).spawn(fill).map_err(Error::Start)?;
        Ok(Self { program, template: like, shared, thread: Some(thread) })
    }

    /// Processes that are ready now.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// A process for this cast: a warm one if there is one and it fits, else one that starts from nothing.
    ///
    /// # Errors
    /// [`ErrorBody::Spawn`].
    pub fn take(&self, spec: &CastSpec) -> Result<Process, Error> {
        if self.template.is_compatible_with(spec) {
            let mut state = self.shared.lock();
            while let Some(process) = state.ready.pop() {
                self.shared.changed.notify_all();
                // One that died while it waited is none.
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
            tracing::error!("the pool thread panicked");
        }
    }
}

/// Starts processes until there are enough, whenever there are too few.
fn fill(shared: &Shared, size: usize, program: &Path, like: &CastSpec) {
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
        match Process::start_with_log(program).and_then(|mut process| process.warm_up(like).map(|()| process))
        {
            Ok(process) => shared.lock().ready.push(process),
            Err(error) => {
                tracing::warn!(%error, "no warm browser");
                let pause = |state: &mut State| !state.stopped;
                drop(shared.changed.wait_timeout_while(shared.lock(), RETRY_DELAY, pause));
            }
        }
    }
}
