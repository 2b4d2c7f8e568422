//! What a node serves for the others, and the check of their tokens in front of all of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use pagecast_core::spec::Secret;
use pagecast_fleet::{CastId, DatabaseState, RunningCasts, WorkerId};
use pagecast_listen::{Limits, RequestSource};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::messages::{CastOwner, EvidenceResponse, MAX_OWNERS, OwnersRequest, OwnersResponse, PeerStatus};
use super::token::{self, FleetKey, Refusal, Target, Verifier};
use super::{REFUSED_HEADER, SIZE_HEADER, TAKEN_AT_HEADER};
use crate::rest::{
    EvidenceContent, PendingSnapshots, SnapshotError, is_evidence_name, list_evidence, read_evidence,
    read_recording, take_snapshot,
};
use crate::service::Service;

/// Longest body of a request, in bytes.
const MAX_BODY_LEN: usize = 256 << 10;
/// Longest time that a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for reading the owners of casts.
const OWNERS_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of log lines about refused requests, of which there can be thousands per second.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Most connections of the listener.
const MAX_CONNECTIONS: usize = 2048;

/// What a node serves for the others.
#[derive(Debug)]
pub struct Node {
    /// Name of this node.
    pub id: WorkerId,
    /// Secret of the fleet.
    pub secret: Secret,
    /// State shared by all APIs.
    pub service: Service,
    /// Casts that run here.
    pub running: RunningCasts,
    /// Whether the database answers this node.
    pub database: DatabaseState,
    /// The rooms that this node carries, at `/rooms`; empty if it carries none.
    pub rooms: Router,
}

#[derive(Clone)]
struct NodeState {
    service: Service,
    running: RunningCasts,
    database: DatabaseState,
    snapshots: Arc<PendingSnapshots>,
}

/// Limits of the listener. Each viewer of a room can have event streams through another node.
#[must_use]
pub fn listener_limits(max_event_streams: usize) -> Limits {
    Limits {
        max_connections: MAX_CONNECTIONS,
        // Another node may pass on the requests of all its users.
        max_connections_per_address: MAX_CONNECTIONS / 2,
        max_event_streams,
        ..Limits::default()
    }
}

/// Router of the channel. It needs a listener of its own.
pub fn router(node: Node) -> Router {
    let Node { id, secret, service, running, database, rooms } = node;
    let key = FleetKey::new(&secret, id, Arc::clone(&service.clock));
    let gate = Gate { verifier: Verifier::new(key), log: RefusalLog::default() };
    let state = NodeState { service, running, database, snapshots: Arc::default() };
    Router::new()
        .route("/peer/status", get(status))
        .route("/peer/owners", post(owners))
        .route("/peer/snapshots/{id}", get(snapshot))
        .route("/peer/evidence/{id}", get(evidence_list))
        .route("/peer/evidence/{id}/{name}", get(evidence_file))
        .route("/peer/recordings/{id}/{name}/{from}", get(recording_chunk))
        .with_state(state)
        .nest("/peer", rooms)
        .layer(from_fn_with_state(Arc::new(gate), authenticate))
}

/// Lets only nodes of the fleet in.
#[derive(Debug)]
struct Gate {
    verifier: Verifier,
    log: RefusalLog,
}

/// Counts refused requests, and logs one of them each minute.
#[derive(Debug, Default)]
struct RefusalLog(Mutex<(Option<Instant>, u64)>);

impl RefusalLog {
    fn write(&self, refusal: Refusal, address: Option<SocketAddr>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (logged_at, suppressed) = &mut *state;
        if logged_at.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            *suppressed += 1;
            return;
        }
        *logged_at = Some(Instant::now());
        let suppressed = std::mem::take(suppressed);
        let address = address.map(|address| tracing::field::display(address.ip()));
        tracing::info!(address, code = refusal.code(), suppressed, "peer request refused");
    }
}

/// Checks the token of a request, and then its body.
async fn authenticate(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| *address);
    match verified_request(&gate.verifier, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => {
            gate.log.write(refusal, address);
            let headers = [(REFUSED_HEADER, HeaderValue::from_static("1"))];
            (StatusCode::UNAUTHORIZED, headers, "this is not a request of a node of this fleet\n")
                .into_response()
        }
    }
}

async fn verified_request(verifier: &Verifier, request: Request) -> Result<Request, Refusal> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let target = Target { method: &parts.method, path };
    let verified = verifier.verify(target, parts.headers.get(token::HEADER))?;
    let body = timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_LEN)).await;
    let body: Bytes = body.ok().and_then(Result::ok).ok_or(Refusal::WrongBody)?;
    if !verified.has_body(&body) {
        return Err(Refusal::WrongBody);
    }
    parts.headers.remove(token::HEADER);
    // Rooms limit users by their addresses.
    parts.extensions.insert(RequestSource::forwarded(verified.client));
    tracing::trace!(sender = verified.sender.0, path = parts.uri.path(), "peer request");
    Ok(Request::from_parts(parts, Body::from(body)))
}

async fn status(State(node): State<NodeState>) -> Response {
    // The list first: a cast that starts meanwhile has a lease, which its owner's database knows.
    let casts = node.running.list();
    let database = node.database.answers();
    json(&PeerStatus { database, casts })
}

async fn owners(State(node): State<NodeState>, body: Bytes) -> Result<Response, StatusCode> {
    let request: OwnersRequest = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    if request.casts.len() > MAX_OWNERS {
        return Err(StatusCode::BAD_REQUEST);
    }
    let read = async {
        let mut owners = Vec::new();
        for id in request.casts {
            let Some(cast) = node.service.fleet.get(&id).await? else { continue };
            owners.extend(cast.worker.map(|worker| CastOwner { id, worker, epoch: cast.epoch }));
        }
        Ok::<_, pagecast_fleet::Error>(owners)
    };
    match timeout(OWNERS_TIMEOUT, read).await {
        Ok(Ok(owners)) => Ok(json(&OwnersResponse { owners })),
        _ => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn snapshot(State(node): State<NodeState>, Path(id): Path<String>) -> Result<Response, StatusCode> {
    let id = parse_id(&id)?;
    if !node.running.contains(&id) {
        return Err(StatusCode::NOT_FOUND);
    }
    match take_snapshot(&node.service, &node.snapshots, &id).await {
        Ok((taken, jpeg)) => {
            let headers = [
                (TAKEN_AT_HEADER, HeaderValue::from(taken)),
                ("content-type", HeaderValue::from_static("image/jpeg")),
            ];
            Ok((headers, jpeg).into_response())
        }
        Err(SnapshotError::Ended) => Err(StatusCode::CONFLICT),
        Err(SnapshotError::Timeout) => Err(StatusCode::GATEWAY_TIMEOUT),
        Err(SnapshotError::Fleet(_)) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn evidence_list(
    State(node): State<NodeState>,
    Path(id): Path<String>,
) -> Result<Response, StatusCode> {
    let id = parse_id(&id)?;
    let files = list_evidence(&node.service, &id).await.map_err(|error| failed(&id, &error))?;
    Ok(json(&EvidenceResponse { files }))
}

async fn evidence_file(
    State(node): State<NodeState>,
    Path((id, name)): Path<(String, String)>,
) -> Result<Response, StatusCode> {
    let id = parse_id(&id)?;
    if !is_evidence_name(&name) {
        return Err(StatusCode::NOT_FOUND);
    }
    match read_evidence(&node.service, &id, name).await.map_err(|error| failed(&id, &error))? {
        EvidenceContent::Bytes(bytes) => Ok(bytes.into_response()),
        EvidenceContent::NotFound => Err(StatusCode::NOT_FOUND),
        EvidenceContent::TooLarge => Err(StatusCode::PAYLOAD_TOO_LARGE),
    }
}

/// Sends a chunk of a file of a recording, from this offset.
async fn recording_chunk(
    State(node): State<NodeState>,
    Path((id, name, from)): Path<(String, String, u64)>,
) -> Result<Response, StatusCode> {
    let id = parse_id(&id)?;
    let cast = node.service.fleet.get(&id).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let cast = cast.ok_or(StatusCode::NOT_FOUND)?;
    let found =
        read_recording(&node.service, &cast, &name, from).await.map_err(|error| failed(&id, &error))?;
    let (chunk, size) = found.ok_or(StatusCode::NOT_FOUND)?;
    Ok(([(SIZE_HEADER, HeaderValue::from(size))], chunk).into_response())
}

fn failed(cast: &CastId, error: &std::io::Error) -> StatusCode {
    tracing::warn!(%cast, %error, "cannot read a file for another node");
    StatusCode::INTERNAL_SERVER_ERROR
}

fn parse_id(id: &str) -> Result<CastId, StatusCode> {
    CastId::parse(id).map_err(|_| StatusCode::NOT_FOUND)
}

fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).unwrap_or_default();
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
