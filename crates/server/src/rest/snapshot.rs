//! Snapshots: a picture of a running cast, taken on request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use pagecast_fleet::{CastId, CastState, Command, UnixMs};
use tokio::time::{Instant, timeout_at};

use super::error::ErrorResponse;
use super::view::rfc3339;
use super::{ApiError, Caller, ErrorCode, RestState};
use crate::service::{Service, error_chain};

/// Longest wait for a picture: clients would give up on a longer request.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time between two checks for the picture, because the fleet does not report pictures as changes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Requested pictures, at most one of each cast however many clients wait: more would fill the command queue.
#[derive(Debug, Default)]
pub(crate) struct PendingSnapshots(Mutex<HashMap<CastId, UnixMs>>);

/// A requested picture; dropping it withdraws the request.
struct SnapshotRequest {
    pending: Arc<PendingSnapshots>,
    cast: CastId,
}

impl PendingSnapshots {
    /// Time when the pending picture was requested, and the request itself if this caller made it.
    fn request(self: &Arc<Self>, cast: &CastId, now: UnixMs) -> (UnixMs, Option<SnapshotRequest>) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requested_ms) = pending.get(cast) {
            return (*requested_ms, None);
        }
        pending.insert(cast.clone(), now);
        (now, Some(SnapshotRequest { pending: Arc::clone(self), cast: cast.clone() }))
    }
}

impl Drop for SnapshotRequest {
    fn drop(&mut self) {
        self.pending.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.cast);
    }
}

/// Take a picture of a running cast.
#[utoipa::path(get, path = "/v1/casts/{id}/snapshot.jpg", tag = "casts", operation_id = "getSnapshot",
    params(("id" = String, Path, description = "Id of the cast.")),
    responses(
        (status = 200, description = "The picture as JPEG.", body = [u8], content_type = "image/jpeg",
            headers(("Pagecast-Taken-At" = String, description = "Time of the picture (RFC 3339)."))),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse),
        (status = 409, description = "`not-running`: no worker runs the cast yet; \
                                      `cast-ended`.", body = ErrorResponse),
        (status = 504, description = "`snapshot-timeout`: no picture was taken within 5 \
                                      s.", body = ErrorResponse),
    ))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    match cast.state {
        CastState::Queued => {
            return Err(ApiError::new(ErrorCode::NotRunning, "no worker runs this cast yet"));
        }
        CastState::Ended => return Err(cast_ended_error()),
        CastState::Starting | CastState::Live => {}
    }
    let (taken, jpeg) = match rest.service.other_node_of(&cast) {
        None => take(&rest.service, &rest.snapshots, &cast.id).await?,
        Some((peers, node)) => peers.snapshot(node, &cast.id).await.map_err(|error| {
            let error = error_chain(&error);
            tracing::warn!(cast = %cast.id, node = node.0, error, "no snapshot from node");
            SnapshotError::Timeout
        })??,
    };
    let mut response = Response::new(Body::from(jpeg));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("image/jpeg"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Ok(taken) = HeaderValue::from_str(&rfc3339(taken)) {
        headers.insert("pagecast-taken-at", taken);
    }
    Ok(response)
}

/// Why there is no picture.
#[derive(Debug)]
pub(crate) enum SnapshotError {
    /// The cast has ended.
    Ended,
    /// No picture was taken in time.
    Timeout,
    /// The fleet failed.
    Fleet(pagecast_fleet::Error),
}

impl From<SnapshotError> for ApiError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Ended => cast_ended_error(),
            SnapshotError::Timeout => snapshot_timeout_error(),
            SnapshotError::Fleet(error) => error.into(),
        }
    }
}

impl From<pagecast_fleet::Error> for SnapshotError {
    fn from(error: pagecast_fleet::Error) -> Self {
        Self::Fleet(error)
    }
}

/// Takes a picture of a cast that runs on this node.
pub(crate) async fn take(
    service: &Service,
    snapshots: &Arc<PendingSnapshots>,
    id: &CastId,
) -> Result<(UnixMs, Bytes), SnapshotError> {
    let fleet = &service.fleet;
    let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
    let mut changes = fleet.changes();
    let (requested_ms, own_request) = snapshots.request(id, service.now());
    let before = fleet.snapshot(id).await.map_or(UnixMs::MIN, |(taken, _)| taken);
    if own_request.is_some() {
        fleet.send_command(id, Command::Snapshot).await?;
    }
    loop {
        if let Some((taken, jpeg)) = fleet.snapshot(id).await
            && (taken > before || taken >= requested_ms && own_request.is_none())
        {
            return Ok((taken, jpeg));
        }
        if Instant::now() >= deadline {
            let has_ended = fleet.get(id).await?.is_none_or(|cast| cast.state == CastState::Ended);
            return Err(if has_ended { SnapshotError::Ended } else { SnapshotError::Timeout });
        }
        // Pictures are not reported as changes.
        let next = deadline.min(Instant::now() + POLL_INTERVAL);
        if let Ok(Err(_)) = timeout_at(next, changes.changed()).await {
            return Err(SnapshotError::Timeout);
        }
    }
}

fn cast_ended_error() -> ApiError {
    ApiError::new(ErrorCode::CastEnded, "this cast has ended")
}

fn snapshot_timeout_error() -> ApiError {
    let message = "no picture was taken within 5 s, because the worker is busy or the cast is changing \
                   workers: try again";
    ApiError::new(ErrorCode::SnapshotTimeout, message)
}
