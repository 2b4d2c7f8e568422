//! What an operator reads about a failed request, and its caller does not.

use std::error::Error;

use crate::request_id::RequestId;

/// Value of `Retry-After` while the fleet's database is away, in seconds: the shortest time that the header
/// allows, since each attempt waits for the database as well.
pub(crate) const FLEET_RETRY_AFTER_S: u64 = 1;

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
