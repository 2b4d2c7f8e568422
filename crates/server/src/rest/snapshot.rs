//! A picture of a cast, taken now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use pagecast_fleet::{CastId, CastState, Command, UnixMs};
use tokio::time::{Instant, timeout_at};

use super::error::ErrorResponse;
use super::view::rfc3339;
use super::{ApiError, Caller, RestState};

/// How long a picture is waited for.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to look for one, at least.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Pictures that are on order: one for each cast, however many wait for it. More would fill the place for other commands.
#[derive(Default)]
pub(super) struct PendingSnapshots(Mutex<HashMap<CastId, UnixMs>>);

/// An order of ours; it is none any more when this is dropped.
struct SnapshotRequest {
    pending: Arc<PendingSnapshots>,
    cast: CastId,
}

impl PendingSnapshots {
    /// When the picture that is on order was ordered, and the order if it is ours.
    fn request(self: &Arc<Self>, cast: &CastId, now: UnixMs) -> (UnixMs, Option<SnapshotRequest>) {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ordered) = orders.get(cast) {
            return (*ordered, None);
        }
        orders.insert(cast.clone(), now);
        (now, Some(SnapshotRequest { pending: Arc::clone(self), cast: cast.clone() }))
    }
}

impl Drop for SnapshotRequest {
    fn drop(&mut self) {
        self.pending.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.cast);
    }
}

/// A picture of a cast that runs, taken now; waited for 5 seconds at most.
#[utoipa::path(get, path = "/v1/casts/{id}/snapshot.jpg", tag = "casts", operation_id = "getSnapshot",
    params(("id" = String, Path, description = "The cast.")),
    responses(
        (status = 200, description = "JPEG.", body = [u8], content_type = "image/jpeg",
            headers(("Pagecast-Taken-At" = String, description = "When it was taken (RFC 3339)."))),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse),
        (status = 409, description = "`not-running`: nobody runs it yet; `over`.", body = ErrorResponse),
        (status = 504, description = "`no-picture`: none was taken in time.", body = ErrorResponse),
    ))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    match cast.state {
        CastState::Queued => return Err(ApiError::conflict("not-running", "nobody runs this cast yet")),
        CastState::Ended => return Err(cast_ended_error()),
        CastState::Starting | CastState::Live => {}
    }
    let (taken, jpeg) = take_snapshot(&rest, &cast.id).await?;
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

async fn take_snapshot(rest: &RestState, id: &CastId) -> Result<(UnixMs, Bytes), ApiError> {
    let fleet = &rest.service.fleet;
    let deadline = Instant::now() + SNAPSHOT_TIMEOUT;
    let mut changes = fleet.changes();
    let (ordered, order) = rest.snapshots.request(id, rest.service.now());
    let before = fleet.snapshot(id).await.map_or(UnixMs::MIN, |(taken, _)| taken);
    if order.is_some() {
        fleet.send_command(id, Command::Snapshot).await?;
    }
    loop {
        if let Some((taken, jpeg)) = fleet.snapshot(id).await
            && (taken > before || taken >= ordered && order.is_none())
        {
            return Ok((taken, jpeg));
        }
        if Instant::now() >= deadline {
            let over = fleet.get(id).await?.is_none_or(|cast| cast.state == CastState::Ended);
            return Err(if over { cast_ended_error() } else { snapshot_timeout_error() });
        }
        // A picture is no change of the fleet's, so nobody may tell of it.
        let next = deadline.min(Instant::now() + POLL_INTERVAL);
        if let Ok(Err(_)) = timeout_at(next, changes.changed()).await {
            return Err(snapshot_timeout_error());
        }
    }
}

fn cast_ended_error() -> ApiError {
    ApiError::conflict("over", "this cast is over")
}

fn snapshot_timeout_error() -> ApiError {
    let words = "no picture was taken within 5 s: the machine is busy, or the cast is changing its worker";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "no-picture", words)
}
