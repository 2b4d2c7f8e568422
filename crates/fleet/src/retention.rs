//! Limits of the upkeep of casts, the same for every backend.
//!
//! A cast may be deleted when it is closed, none of its events is pending, and no key is held by it.

/// Maximum number of casts in one step, so that a step takes a few milliseconds.
pub(crate) const SWEEP_BATCH: i64 = 50;
/// Maximum number of audit entries in one step, which are much smaller.
pub(crate) const AUDIT_SWEEP_BATCH: i64 = 500;
/// Maximum number of steps that free bytes for one request, because other writes wait for it.
pub(crate) const MAX_EVICTION_BATCHES: usize = 8;
/// Maximum number of an application's oldest casts considered for deletion, so that requests cannot make the
/// service search a long history again and again.
pub(crate) const MAX_EVICTION_CANDIDATES: i64 = 1000;
