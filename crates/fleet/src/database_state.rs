//! Whether the database answers a node, as other nodes may ask for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the database answered when this node last renewed its leases. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct DatabaseState(Arc<AtomicBool>);

impl DatabaseState {
    /// Sets whether the database answered.
    pub fn set_answers(&self, answers: bool) {
        self.0.store(answers, Ordering::Release);
    }

    /// Returns whether the database answered.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
