//! The timer of the loops around state machines.

use std::time::Instant;

/// Waits until a deadline, or for ever without one. Cancel-safe.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
