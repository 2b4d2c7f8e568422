//! Tells whoever wants to know: from the fleet's outbox to a receiver, in the words of the dialect that a cast came by.

use std::time::Duration;

use axum::body::Bytes;

/// A message to a receiver, whole but for its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The body, as it is signed.
    pub body: Bytes,
    /// Headers besides those that every request has.
    pub headers: Vec<(&'static str, String)>,
}

/// How a vendor delivers.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// An answer must have come by then.
    pub timeout: Duration,
    /// Pause before try number `tries + 1`, for a message that was first tried `age` ago; `None`: no more tries.
    pub pause: fn(tries: u32, age: Duration) -> Option<Duration>,
}
