//! Nodes of the fleet, for the administrator: list them, get one, and drain one.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_fleet::{WorkerId, WorkerStatus};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::{Administrator, ApiError, ErrorCode, RestState, json_response};
use crate::service::Service;

/// Nodes of the fleet.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeList {
    /// The nodes that sent a heartbeat in the last 30 s, by name.
    nodes: Vec<NodeView>,
}

/// Node of the fleet: one running service.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub(super) struct NodeView {
    /// Name of the node.
    #[schema(example = "worker-7")]
    name: String,
    /// Version of its program.
    version: String,
    /// Roles: `api` answers requests and sends callbacks, `worker` runs casts, `rooms` carries rooms.
    #[schema(example = json!(["api", "worker", "rooms"]))]
    roles: Vec<String>,
    /// Labels that casts may ask for with `placement.labels`.
    labels: Vec<String>,
    /// CPU cores available to the node.
    cores: f64,
    /// CPU cores in use, by any program.
    cores_used: f64,
    /// Memory available to the node, used or not, in bytes.
    memory_bytes: u64,
    /// Free memory, in bytes.
    memory_free_bytes: u64,
    /// Number of casts that the node runs or stores.
    casts: usize,
    /// Whether the node claims no more casts, because it drains or shuts down.
    draining: bool,
    /// Time since the node's last heartbeat, in seconds; a healthy one sends one each second.
    heartbeat_age_s: f64,
    /// Leases of its casts; absent without casts.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseView>,
}

/// Leases of a node's casts.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeLease)]
struct LeaseView {
    /// Health: `ok`, `late` (the last renewal failed), or `expired` (other nodes take over the casts).
    #[schema(example = "ok")]
    health: &'static str,
    /// Time since the last renewal that succeeded, in seconds.
    renewal_age_s: f64,
}

impl NodeView {
    /// Describes a node of a fleet with leases of this length.
    fn new(id: WorkerId, status: WorkerStatus, lease: Duration) -> Self {
        let renewal_age = renewal_age(&status);
        Self {
            name: id.0,
            version: status.node.version,
            roles: status.node.roles,
            labels: status.node.labels,
            cores: status.cores,
            cores_used: status.cores_used,
            memory_bytes: status.memory_bytes,
            memory_free_bytes: status.memory_free_bytes,
            casts: status.casts,
            draining: status.draining,
            heartbeat_age_s: Duration::from_millis(status.heartbeat_age_ms).as_secs_f64(),
            lease: renewal_age
                .map(|age| LeaseView { health: lease_health(age, lease), renewal_age_s: age.as_secs_f64() }),
        }
    }
}

/// Time since a node last renewed its leases, or `None` without casts. A node that cannot reach the fleet
/// cannot say how late it is, so its silence counts as well.
pub(crate) fn renewal_age(status: &WorkerStatus) -> Option<Duration> {
    let age_ms = status.renewal_age_ms?.saturating_add(status.heartbeat_age_ms);
    Some(Duration::from_millis(age_ms))
}

/// Health of leases that were renewed so long ago. They are renewed after each third of their length.
fn lease_health(age: Duration, lease: Duration) -> &'static str {
    if age >= lease {
        "expired"
    } else if age >= lease * 2 / 3 {
        "late"
    } else {
        "ok"
    }
}

async fn list_nodes(service: &Service) -> Result<Vec<NodeView>, ApiError> {
    let workers = service.fleet.workers().await;
    if workers.is_empty() {
        // This node is one of them, so the database may be away: then this says so.
        service.fleet.count(None).await?;
    }
    let lease = service.config.fleet.lease();
    Ok(workers.into_iter().map(|(id, status)| NodeView::new(id, status, lease)).collect())
}

async fn find_node(service: &Service, name: &str) -> Result<NodeView, ApiError> {
    let found = list_nodes(service).await?.into_iter().find(|node| node.name == name);
    found.ok_or_else(no_such_node)
}

fn no_such_node() -> ApiError {
    ApiError::new(ErrorCode::NoSuchNode, "there is no such node, or it sent no heartbeat in the last 30 s")
}

/// List the nodes of the fleet.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", operation_id = "listNodes",
    responses((status = 200, description = "The nodes.", body = NodeList),
        (status = 403, description = "`forbidden`: the token is not the administrator's.",
            body = ErrorResponse)))]
pub(super) async fn list(State(rest): State<RestState>, _: Administrator) -> Result<Response, ApiError> {
    let nodes = list_nodes(&rest.service).await?;
    Ok(json_response(StatusCode::OK, &NodeList { nodes }))
}

/// Get a node.
#[utoipa::path(get, path = "/v1/nodes/{id}", tag = "nodes", operation_id = "getNode",
    params(("id" = String, Path, description = "Name of the node.")),
    responses((status = 200, description = "The node.", body = NodeView),
        (status = 403, description = "`forbidden`: the token is not the administrator's.",
            body = ErrorResponse),
        (status = 404, description = "`no-such-node`.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    _: Administrator,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(json_response(StatusCode::OK, &find_node(&rest.service, &id).await?))
}

/// Drain a node. Draining it again changes nothing.
///
/// The node claims no more casts. Its casts run until they end; then its service ends as after SIGTERM. It
/// claims casts again when it is started again.
#[utoipa::path(post, path = "/v1/nodes/{id}/drain", tag = "nodes", operation_id = "drainNode",
    params(("id" = String, Path, description = "Name of the node.")),
    responses((status = 202, description = "The node drains within a second or two.", body = NodeView),
        (status = 403, description = "`forbidden`: the token is not the administrator's.",
            body = ErrorResponse),
        (status = 404, description = "`no-such-node`.", body = ErrorResponse)))]
pub(super) async fn drain(
    State(rest): State<RestState>,
    _: Administrator,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    // The name is only taken from a node that exists, whatever the path contains.
    let node = find_node(service, &id).await?;
    if !service.fleet.request_drain(&WorkerId(node.name.clone())).await? {
        return Err(no_such_node());
    }
    tracing::info!(node = node.name, "drain of node requested");
    Ok(json_response(StatusCode::ACCEPTED, &NodeView { draining: true, ..node }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_health_of_leases_follows_their_age() {
        let lease = Duration::from_secs(6);
        let health = |renewal_age_ms, heartbeat_age_ms| {
            let status = WorkerStatus { renewal_age_ms, heartbeat_age_ms, ..WorkerStatus::default() };
            renewal_age(&status).map(|age| lease_health(age, lease))
        };
        assert_eq!(health(None, 60_000), None);
        assert_eq!([health(Some(0), 0), health(Some(3000), 999)], [Some("ok"); 2]);
        assert_eq!([health(Some(4000), 0), health(Some(1000), 4999)], [Some("late"); 2]);
        assert_eq!([health(Some(6000), 0), health(Some(u64::MAX), 9)], [Some("expired"); 2]);
    }
}
