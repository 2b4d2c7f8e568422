//! Rooms of a fleet: each is carried by one node, and every node takes requests for it.
//!
//! Whoever publishes first in a room gets it assigned, to the node with the fewest viewers. Requests for the
//! room are passed on to that node, which checks the user's token; media go there directly. The node renews
//! the room's lease while the room is not empty ([`renew_rooms`]). When the node dies, the lease ends, and
//! publishers and viewers, who try again by themselves, get the room on another node.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Router};
use pagecast_core::spec::MAX_ID_LEN;
use pagecast_fleet::{Rooms, WorkerId, WorkerStatus};
use pagecast_listen::{EventStream, RequestSource};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;

use super::client::{PeerClient, PeerRequest, read_body};
use super::messages::PeerError;
use crate::config::Role;
use crate::service::error_chain;

/// Longest body of a user's request, in bytes: the rooms' limit for offers.
const MAX_BODY_LEN: usize = 64 << 10;
/// Longest time that a user's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer of another node that is no event stream, in bytes.
const MAX_ANSWER_LEN: usize = 256 << 10;
/// Longest time for another node's answer: its rooms answer in milliseconds, and give up after 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);
/// Longest wait for the database. Afterwards, what was known of the room counts.
const TABLE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the owner of a room counts without the database.
const OWNER_LIFETIME: Duration = Duration::from_secs(1);
/// Most rooms whose owners are remembered; 1 MB. When full, all are forgotten.
const MAX_OWNERS: usize = 4096;
/// When a client should try again while a room has no node, in seconds.
const RETRY_AFTER_S: &str = "1";
/// When a viewer should try again while nobody publishes, in seconds.
const NO_PUBLISHER_RETRY_AFTER_S: &str = "2";

/// Characters of a path segment that are escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Headers of users that their room's node gets. Rooms without tokens refuse what a proxy passed on, and what
/// is for another host.
const PASSED_REQUEST_HEADERS: [HeaderName; 13] = [
    header::HOST,
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::ORIGIN,
    header::ACCESS_CONTROL_REQUEST_HEADERS,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName::from_static("last-event-id"),
];
/// Headers of another node's answer that users do not get, because they are about its connection.
const DROPPED_RESPONSE_HEADERS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// The embedded rooms that a node carries, if it carries any.
pub trait RoomServer: fmt::Debug + Send + Sync {
    /// Returns the rooms that have a publisher or a viewer.
    fn occupied_rooms(&self) -> Vec<OccupiedRoom>;
    /// Ends all sessions of a room, which another node carries now.
    fn close_room(&self, room: &str);
    /// Whether a token allows publishing in a room. Without one, it must be a room that needs none.
    fn may_publish(&self, room: &str, token: Option<&str>) -> bool;
}

/// A room that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OccupiedRoom {
    /// Name of the room.
    pub name: String,
    /// Number of its viewers.
    pub viewers: usize,
}

/// Passes on users' requests to the node that carries their room.
#[derive(Debug)]
pub struct RoomForwarder {
    /// The other nodes.
    pub peers: PeerClient,
    /// Which node carries which room.
    pub table: Arc<dyn Rooms>,
    /// Lease of a room.
    pub lease: Duration,
    /// The rooms of this node, at `/rooms`, if it carries any.
    pub local: Option<Router>,
    /// The same rooms, and the check of tokens.
    pub rooms: Arc<dyn RoomServer>,
    /// Owners of rooms that were found lately.
    pub owners: OwnerCache,
}

impl RoomForwarder {
    /// Router of everything below `/rooms`, for users and for the casts of this node.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new().route("/rooms", any(handle)).route("/rooms/{*path}", any(handle)).with_state(self)
    }
}

async fn handle(State(forwarder): State<Arc<RoomForwarder>>, request: Request) -> Response {
    // The body cannot be shared between threads while others are waited for.
    let (parts, body) = request.into_parts();
    match forwarder.route(&parts).await {
        Ok(Route::Node(node, path)) if node != *forwarder.peers.own() => {
            forwarder.pass_on(&node, path, parts, body).await
        }
        Ok(_) => forwarder.answer_here(parts, body).await,
        Err(error) => error.into_response(),
    }
}

/// Who answers a request.
enum Route {
    /// This node, whether it carries the room or not.
    Local,
    /// The node that carries the room, with path and query as it gets them.
    Node(WorkerId, String),
}

/// An answer of this node instead of a room's.
#[derive(Debug)]
struct RoomError {
    status: StatusCode,
    message: &'static str,
    retry_after_s: Option<&'static str>,
}

impl RoomError {
    const fn not_found(message: &'static str) -> Self {
        Self { status: StatusCode::NOT_FOUND, message, retry_after_s: None }
    }

    /// The room has no node now, or its node does not answer.
    const fn unavailable(message: &'static str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message, retry_after_s: Some(RETRY_AFTER_S) }
    }
}

impl IntoResponse for RoomError {
    fn into_response(self) -> Response {
        // Scripts of any site may read it, as answers of rooms with tokens.
        let headers = [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After"),
        ];
        let mut response = (self.status, headers, format!("{}\n", self.message)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

/// What a request below `/rooms` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A new session of a publisher.
    Publish,
    /// A new session of a viewer.
    Watch,
    /// A session that exists, or the statistics of a room.
    Existing,
    /// Something that every node with rooms answers alike: the viewer page, or a preflight request.
    AnyNode,
}

/// A room in a path, and what the request is for.
#[derive(Debug, PartialEq, Eq)]
struct RoomRequest {
    room: String,
    purpose: Purpose,
    /// Normalized path, as the room's node gets it.
    path: String,
}

impl RoomRequest {
    /// Reads method and path. `None` if no room has such an address.
    fn parse(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix("/rooms/")?.split('/').collect();
        let (room, rest) = segments.split_first()?;
        let room = percent_decode_str(room).decode_utf8().ok()?.into_owned();
        if !is_room_name(&room) || !rest.iter().all(|segment| is_plain(segment)) {
            return None;
        }
        let purpose = match rest {
            [] => Purpose::AnyNode,
            ["whip" | "whep"] if method == Method::OPTIONS => Purpose::AnyNode,
            ["whip"] => Purpose::Publish,
            ["whep"] => Purpose::Watch,
            ["stats"] | ["whip" | "whep", _] | ["whep", _, "layer" | "events"] => Purpose::Existing,
            _ => return None,
        };
        let mut path = format!("/rooms/{}", utf8_percent_encode(&room, ESCAPED));
        rest.iter().for_each(|segment| path.extend(["/", segment]));
        Some(Self { room, purpose, path })
    }
}

/// Whether this can be the name of a room: an identifier, or two of them joined by `~`. A dot alone is none,
/// because it means something else in a path.
fn is_room_name(name: &str) -> bool {
    let is_id = |id: &str| {
        (1..=MAX_ID_LEN).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_@-.".contains(&byte))
    };
    let (first, second) = name.split_once('~').map_or((name, None), |(first, second)| (first, Some(second)));
    is_id(first) && second.is_none_or(is_id) && !matches!(name, "." | "..")
}

/// Whether a segment needs no escapes: a word, or the secret of a session.
fn is_plain(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

impl RoomForwarder {
    /// Decides who answers a request.
    async fn route(&self, parts: &Parts) -> Result<Route, RoomError> {
        let uri = &parts.uri;
        let Some(RoomRequest { room, purpose, path }) = RoomRequest::parse(&parts.method, uri.path()) else {
            return Ok(Route::Local);
        };
        let node = match purpose {
            Purpose::AnyNode if self.local.is_some() => return Ok(Route::Local),
            Purpose::AnyNode => self.candidate(&room).ok_or(NO_NODE)?,
            Purpose::Publish => {
                // Only who may publish can have a room assigned. The room's node answers the others.
                let token = token_of(&parts.headers, uri);
                if !self.rooms.may_publish(&room, token.as_deref()) {
                    return match self.local {
                        Some(_) => Ok(Route::Local),
                        None => Err(RoomError { status: StatusCode::UNAUTHORIZED, ..NOT_ALLOWED }),
                    };
                }
                self.assign(&room).await?
            }
            Purpose::Watch => self.owner(&room).await?.ok_or(NO_PUBLISHER)?,
            Purpose::Existing => {
                self.owner(&room).await?.ok_or(RoomError::not_found("there is no such session"))?
            }
        };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Route::Node(node, format!("{path}{query}")))
    }

    /// Finds the node for a room in which somebody is about to publish.
    async fn assign(&self, room: &str) -> Result<WorkerId, RoomError> {
        let candidate = self.candidate(room).ok_or(NO_NODE)?;
        let assigned = timeout(TABLE_TIMEOUT, self.table.assign_room(room, &candidate, self.lease)).await;
        match assigned {
            Ok(Ok(node)) => {
                self.owners.put(room, node.clone());
                Ok(node)
            }
            // Without the database, the room stays where it is.
            _ => self.owners.get(room, None).ok_or(NO_DATABASE),
        }
    }

    /// Finds the node that carries a room, or carried it last.
    async fn owner(&self, room: &str) -> Result<Option<WorkerId>, RoomError> {
        if let Some(owner) = self.owners.get(room, Some(OWNER_LIFETIME)) {
            return Ok(Some(owner));
        }
        match timeout(TABLE_TIMEOUT, self.table.room_owner(room)).await {
            Ok(Ok(Some(node))) => {
                self.owners.put(room, node.clone());
                Ok(Some(node))
            }
            Ok(Ok(None)) => Ok(None),
            _ => self.owners.get(room, None).ok_or(NO_DATABASE).map(Some),
        }
    }

    /// The live node with the role `rooms` that has the fewest viewers.
    fn candidate(&self, room: &str) -> Option<WorkerId> {
        let nodes = self.peers.live_nodes();
        let carries_rooms = |status: &WorkerStatus| {
            !status.draining && status.node.roles.iter().any(|role| role == Role::Rooms.as_str())
        };
        let candidates = nodes.into_iter().filter(|(_, status)| carries_rooms(status));
        // Rooms that begin at the same moment are spread over the nodes.
        let place = |node: &WorkerId| {
            let mut hasher = DefaultHasher::new();
            (room, &node.0).hash(&mut hasher);
            hasher.finish()
        };
        candidates.min_by_key(|(id, status)| (status.viewers, place(id))).map(|(id, _)| id)
    }

    async fn answer_here(&self, parts: Parts, body: Body) -> Response {
        let Parts { method, uri, headers, extensions, .. } = parts;
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        // Other extensions are parameters of this router's paths, which the rooms would take for theirs.
        if let Some(source) = extensions.get::<RequestSource>() {
            request.extensions_mut().insert(*source);
        }
        match &self.local {
            Some(rooms) => rooms.clone().oneshot(request).await.unwrap_or_else(|never| match never {}),
            None => RoomError::not_found("there is no such room").into_response(),
        }
    }

    /// Passes a request on to another node, and its answer back.
    async fn pass_on(&self, node: &WorkerId, path: String, parts: Parts, body: Body) -> Response {
        let body = match timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_LEN)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
            Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
        };
        let answer = async {
            passed_answer(node, self.peers.send(node, peer_request(parts, path, body)).await?).await
        };
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => self.unanswered(node, &error),
            Err(_) => self.unanswered(node, &PeerError::Timeout(node.clone())),
        }
    }

    fn unanswered(&self, node: &WorkerId, error: &PeerError) -> Response {
        tracing::debug!(node = node.0, error = error_chain(error), "room request failed");
        // The room may have moved.
        self.owners.forget_node(node);
        NODE_SILENT.into_response()
    }
}

const NO_NODE: RoomError = RoomError::unavailable("no node carries rooms now; try again");
const NO_DATABASE: RoomError = RoomError::unavailable("the rooms are not available; try again");
const NODE_SILENT: RoomError = RoomError::unavailable("the node of this room does not answer; try again");
const NO_PUBLISHER: RoomError = RoomError {
    retry_after_s: Some(NO_PUBLISHER_RETRY_AFTER_S),
    ..RoomError::not_found("this room has no publisher; try again when it has one")
};
const NOT_ALLOWED: RoomError = RoomError::not_found("a token that allows publishing is needed");

/// The token of a request: a bearer token, or the query parameter `token`.
fn token_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let in_query = || {
        let mut pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        pairs.find(|(name, _)| name == "token").map(|(_, token)| token.into_owned())
    };
    bearer.map(|(_, token)| token.trim().to_owned()).or_else(in_query)
}

fn peer_request(parts: Parts, path: String, body: Bytes) -> PeerRequest {
    let client = parts.extensions.get::<RequestSource>().and_then(RequestSource::non_local_ip);
    let mut headers = HeaderMap::new();
    for name in PASSED_REQUEST_HEADERS {
        if let Some(value) = parts.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    PeerRequest { method: parts.method, path, headers, body, client }
}

/// Makes the answer of another node one of this node.
async fn passed_answer(node: &WorkerId, response: reqwest::Response) -> Result<Response, PeerError> {
    let status = response.status();
    let mut headers = response.headers().clone();
    for name in DROPPED_RESPONSE_HEADERS {
        headers.remove(name);
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_stream = status == StatusCode::OK && content_type == Some("text/event-stream");
    let mut passed = if is_stream {
        (Extension(EventStream), Body::new(reqwest::Body::from(response))).into_response()
    } else {
        Body::from(read_body(node, response, MAX_ANSWER_LEN).await?).into_response()
    };
    *passed.status_mut() = status;
    *passed.headers_mut() = headers;
    Ok(passed)
}

/// Owners of rooms that were found lately.
#[derive(Debug, Default)]
pub struct OwnerCache(Mutex<HashMap<String, (WorkerId, Instant)>>);

impl OwnerCache {
    /// The owner of a room, if it was found within `lifetime`.
    fn get(&self, room: &str, lifetime: Option<Duration>) -> Option<WorkerId> {
        let owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (node, at) = owners.get(room)?;
        lifetime.is_none_or(|lifetime| at.elapsed() < lifetime).then(|| node.clone())
    }

    fn put(&self, room: &str, node: WorkerId) {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.len() >= MAX_OWNERS && !owners.contains_key(room) {
            owners.clear();
        }
        owners.insert(room.to_owned(), (node, Instant::now()));
    }

    fn forget_node(&self, node: &WorkerId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (owner, _)| owner != node);
    }
}

/// Renews the leases of a node's rooms until `stop`, then ends them. Counts viewers for the heartbeat.
pub async fn renew_rooms(
    node: WorkerId,
    table: Arc<dyn Rooms>,
    rooms: Arc<dyn RoomServer>,
    lease: Duration,
    viewers: Arc<AtomicUsize>,
    mut stop: watch::Receiver<bool>,
) {
    let interval = lease / 3;
    loop {
        let occupied = rooms.occupied_rooms();
        viewers.store(occupied.iter().map(|room| room.viewers).sum(), Ordering::Relaxed);
        let names: Vec<String> = occupied.into_iter().map(|room| room.name).collect();
        match timeout(lease, table.renew_rooms(&node, &names, lease)).await {
            Ok(Ok(lost)) => {
                for room in lost {
                    tracing::warn!(room, "room lost to another node, its sessions end");
                    rooms.close_room(&room);
                }
            }
            Ok(Err(error)) => tracing::warn!(error = error_chain(&error), "renewing rooms failed, retrying"),
            Err(_) => tracing::warn!("renewing rooms timed out, retrying"),
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            // An error means that the service is gone.
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    if !matches!(timeout(TABLE_TIMEOUT, table.release_rooms(&node)).await, Ok(Ok(()))) {
        tracing::warn!("rooms not released, their leases end by themselves");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_their_room_and_nothing_else() {
        let parsed = |method: Method, path: &str| {
            RoomRequest::parse(&method, path).map(|request| (request.room, request.purpose, request.path))
        };
        let expected = |room: &str, purpose, path: &str| Some((room.to_owned(), purpose, path.to_owned()));
        for (method, path, want) in [
            (Method::GET, "/rooms/a~r@1", expected("a~r@1", Purpose::AnyNode, "/rooms/a~r%401")),
            (Method::POST, "/rooms/a~r%401/whip", expected("a~r@1", Purpose::Publish, "/rooms/a~r%401/whip")),
            (Method::POST, "/rooms/a/whep", expected("a", Purpose::Watch, "/rooms/a/whep")),
            (Method::OPTIONS, "/rooms/a/whep", expected("a", Purpose::AnyNode, "/rooms/a/whep")),
            (Method::PATCH, "/rooms/a/whip/0f", expected("a", Purpose::Existing, "/rooms/a/whip/0f")),
            (
                Method::GET,
                "/rooms/a/whep/0f/events",
                expected("a", Purpose::Existing, "/rooms/a/whep/0f/events"),
            ),
            (Method::GET, "/rooms/a/stats", expected("a", Purpose::Existing, "/rooms/a/stats")),
        ] {
            assert_eq!(parsed(method, path), want, "{path}");
        }
        for path in [
            "/rooms",
            "/rooms/",
            "/rooms/../status",
            "/rooms/%2e%2e/stats",
            "/rooms/./whip",
            "/rooms/a/whip/..",
            "/rooms/a/whip/%2e%2e",
            "/rooms/a/whip/x/../../../status",
            "/rooms/a%2fb/whip",
            "/rooms/a/whip/x/events",
            "/rooms/a/other",
            "/rooms/a/whip/",
            "/rooms/a~b~c/whip",
            "/rooms/%ff/whip",
        ] {
            assert_eq!(parsed(Method::GET, path), None, "{path}");
        }
    }

    #[test]
    fn tokens_are_in_a_header_or_in_the_query() {
        let uri: Uri = "/rooms/a/whip?user=u&token=x%2By".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(token_of(&headers, &uri).as_deref(), Some("x+y"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic eA"));
        assert_eq!(token_of(&headers, &uri).as_deref(), Some("x+y"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer  z "));
        assert_eq!(token_of(&headers, &uri).as_deref(), Some("z"));
        assert_eq!(token_of(&HeaderMap::new(), &Uri::from_static("/rooms/a/whip")), None);
    }

    #[test]
    fn owners_are_remembered_within_limits() {
        let (cache, node) = (OwnerCache::default(), WorkerId("a".to_owned()));
        for room in 0..=MAX_OWNERS {
            cache.put(&room.to_string(), node.clone());
        }
        assert_eq!(cache.0.lock().unwrap().len(), 1);
        assert_eq!(cache.get(&MAX_OWNERS.to_string(), Some(OWNER_LIFETIME)), Some(node.clone()));
        assert_eq!(cache.get(&MAX_OWNERS.to_string(), Some(Duration::ZERO)), None);
        cache.forget_node(&node);
        assert_eq!(cache.get(&MAX_OWNERS.to_string(), None), None);
    }
}
