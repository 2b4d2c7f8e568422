//! What an operator reads about a failed request, and its caller does not.

use std::error::Error;
use std::time::Duration;

use crate::request_id::RequestId;

/// Value of `Retry-After` while the fleet's database is away, in seconds: the shortest time that the header
/// allows, since each attempt waits for the database as well.
pub(crate) const FLEET_RETRY_AFTER_S: u64 = 1;

/// Longest time that one request waits for the fleet's database, all its statements together: a database that
/// answers at all takes far less, and a client that hears nothing for longer does not know what happened.
pub(crate) const FLEET_TIME_LIMIT: Duration = Duration::from_secs(5);

/// Operation that failed, and why. It goes to the log; the caller gets a general message and the request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InternalError {
    operation: &'static str,
    cause: String,
}

impl InternalError {
    /// Keeps the messages of an error and of all its sources.
    pub(crate) fn new(operation: &'static str, error: &(dyn Error + 'static)) -> Self {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            cause = format!("{cause}: {error}");
            source = error.source();
        }
        Self { operation, cause }
    }

    /// Writes the one log line of a failed request.
    pub(crate) fn log(&self, api: &str, request_id: &RequestId) {
        let Self { operation, cause: error } = self;
        tracing::warn!(api, %request_id, operation, error, "request failed");
    }
}
