//! What there is to do in a fleet.

use std::time::Duration;

/// What a process may find to do in the fleet, so that its loops need not look for everything by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingWork {
    /// Whether casts may be queued.
    pub has_queued: bool,
    /// Whether there may be started casts that other workers have lost, or that have no owner.
    pub has_expired_leases: bool,
    /// Time until a lease of another worker ends unless it is renewed, if known.
    pub next_lease_end_in: Option<Duration>,
    /// Whether there may be commands for casts of this process.
    pub has_commands: bool,
    /// Whether [`crate::Casts::sweep`] may find something.
    pub needs_sweep: bool,
    /// Time until this process may find an outbox entry that is due; zero if there may be one now.
    pub next_delivery_in: Option<Duration>,
    /// Version of the documents ([`crate::Documents::documents_version`]), if known.
    pub documents_version: Option<u64>,
}

impl PendingWork {
    /// There may be anything to do.
    pub const UNKNOWN: Self = Self {
        has_queued: true,
        has_expired_leases: true,
        next_lease_end_in: None,
        has_commands: true,
        needs_sweep: true,
        next_delivery_in: Some(Duration::ZERO),
        documents_version: None,
    };
}
