//! HTTP interface of the rooms: WHIP (RFC 9725) to publish, WHEP (draft-ietf-wish-whep) to watch, statistics
//! and a viewer page.

mod events;
mod page;
mod response;
pub(super) mod serve;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use pagecast_listen::RequestSource;
use tokio::sync::{mpsc, oneshot};

use self::response::{ErrorResponse, json_response, with_cors};
use super::command::{
    ClientOrigin, Command, JoinRequest, PatchRequest, PatchResponse, SessionError, SessionPath,
};
use super::stats::RoomStats;
use super::token::{self, Action};
use super::{Access, Limits};

/// Longest duration of receiving a request's body: an offer has a few kilobytes.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the media thread, which answers in milliseconds unless it is overloaded.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const SDP_CONTENT_TYPE: &str = "application/sdp";
const SDP_FRAGMENT_CONTENT_TYPE: &str = "application/trickle-ice-sdpfrag";

/// State of the handlers.
#[derive(Debug, Clone)]
pub(super) struct AppState {
    /// Commands to the media thread.
    pub(super) commands: mpsc::Sender<Command>,
    /// Latest statistics of the media thread.
    pub(super) stats: Arc<Mutex<Vec<RoomStats>>>,
    /// Who may publish and watch.
    pub(super) access: Arc<Access>,
    /// Limits of rooms and sessions.
    pub(super) limits: Limits,
    /// Hashes tokens, so that they are not stored.
    pub(super) token_hasher: RandomState,
}

/// Result of authorizing a request.
#[derive(Debug, Default)]
struct Authorization {
    /// User in the token.
    user: Option<String>,
    /// Hash of the token. `None` if no tokens are needed.
    token_hash: Option<u64>,
    own_cast: bool,
}

/// Router of all paths.
pub(super) fn router(rooms: AppState) -> Router {
    Router::new()
        .route("/rooms", get(list_rooms))
        .route("/rooms/{room}", get(page::viewer_page))
        .route("/rooms/{room}/stats", get(room_stats))
        .route("/rooms/{room}/whip", post(create_whip_session).options(options_response))
        .route("/rooms/{room}/whep", post(create_whep_session).options(options_response))
        .route("/rooms/{room}/whip/{secret}", any(whip_session))
        .route("/rooms/{room}/whep/{secret}", any(whep_session))
        .route("/rooms/{room}/whep/{secret}/layer", post(select_layer).options(options_response))
        .route("/rooms/{room}/whep/{secret}/events", get(events::event_stream).options(options_response))
        .layer(axum::middleware::from_fn_with_state(rooms.clone(), origin_middleware))
        .with_state(rooms)
}

/// Checks the origin of each request, and adds CORS headers to each response. Rooms without tokens refuse
/// pages of other sites; rooms with tokens accept every origin.
async fn origin_middleware(
    State(rooms): State<AppState>,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if let Err(error) = rooms.access.check_origin(request.headers()) {
        return error.into_response();
    }
    let mut response = next.run(request).await;
    with_cors(&mut response, origin);
    response
}

async fn list_rooms(State(rooms): State<AppState>) -> Response {
    if let Access::Jwt(_) = *rooms.access {
        return ErrorResponse::new(StatusCode::FORBIDDEN, "rooms that need tokens are not listed")
            .into_response();
    }
    let names: Vec<String> = rooms.snapshot().into_iter().map(|room| room.room).collect();
    json_response(&serde_json::json!({ "rooms": names }))
}

async fn room_stats(
    State(rooms): State<AppState>,
    Path(room): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ErrorResponse> {
    rooms.authorize(&room, Action::View, &headers, &uri)?;
    let found = rooms.snapshot().into_iter().find(|stats| stats.room == room);
    Ok(json_response(&found.unwrap_or(RoomStats { room, ..RoomStats::default() })))
}

/// `OPTIONS`: names the content type that `POST` accepts.
async fn options_response() -> Response {
    (StatusCode::NO_CONTENT, [(header::HeaderName::from_static("accept-post"), SDP_CONTENT_TYPE)])
        .into_response()
}

async fn create_whip_session(
    State(rooms): State<AppState>,
    Path(room): Path<String>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    rooms.create_session(room, true, request).await
}

async fn create_whep_session(
    State(rooms): State<AppState>,
    Path(room): Path<String>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    rooms.create_session(room, false, request).await
}

async fn whip_session(
    State(rooms): State<AppState>,
    Path(path): Path<(String, String)>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    rooms.session_request(SessionPath { room: path.0, publishes: true, secret: path.1 }, request).await
}

async fn whep_session(
    State(rooms): State<AppState>,
    Path(path): Path<(String, String)>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    rooms.session_request(SessionPath { room: path.0, publishes: false, secret: path.1 }, request).await
}

/// `POST …/layer`: sets the requested layer.
async fn select_layer(
    State(rooms): State<AppState>,
    Path(path): Path<(String, String)>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    #[derive(serde::Deserialize)]
    struct SelectLayerRequest {
        /// Layer name, or `auto`.
        layer: String,
    }
    let body = rooms.read_body(request).await?;
    let select: SelectLayerRequest = serde_json::from_slice(&body).map_err(|_| {
        ErrorResponse::new(StatusCode::BAD_REQUEST, "expected {\"layer\": \"auto\"}, \"h\" or \"m\"")
    })?;
    if !is_identifier(&select.layer) {
        return Err(ErrorResponse::new(StatusCode::BAD_REQUEST, "this is not a valid layer name"));
    }
    let session = SessionPath { room: path.0, publishes: false, secret: path.1 };
    rooms.send_command(|reply| Command::SelectLayer(session, select.layer, reply)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl AppState {
    /// The latest statistics.
    pub(super) fn snapshot(&self) -> Vec<RoomStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn create_session(
        &self,
        room: String,
        publishes: bool,
        request: Request,
    ) -> Result<Response, ErrorResponse> {
        let action = if publishes { Action::Publish } else { Action::View };
        let (uri, headers) = (request.uri().clone(), request.headers().clone());
        let Authorization { user: from_token, token_hash: token, own_cast } =
            self.authorize(&room, action, &headers, &uri)?;
        // A local address may be that of a proxy in front of the rooms, so it does not count as an origin.
        let address = request.extensions().get::<RequestSource>().and_then(RequestSource::non_local_ip);
        let origin = ClientOrigin { token, address: address.map(ClientOrigin::network_prefix), own_cast };
        require_content_type(&headers, SDP_CONTENT_TYPE)?;
        let from_query = query_param(&uri, "user");
        if let Some(user) = from_query.iter().chain(&from_token).find(|user| !is_identifier(user)) {
            return Err(ErrorResponse::new(
                StatusCode::BAD_REQUEST,
                format!("this is not a valid user name: {}", user.escape_debug()),
            ));
        }
        let user = match (publishes, from_token, from_query) {
            (true, Some(token), Some(query)) if token != query => {
                return Err(ErrorResponse::new(StatusCode::FORBIDDEN, "this token is for another user"));
            }
            (true, Some(user), _) | (_, _, Some(user)) => Some(user),
            _ => None,
        };
        let body = self.read_body(request).await?;
        let offer = body_text(&body)?;
        let join = JoinRequest { room, publishes, user, offer, origin };
        let joined = self.send_command(|reply| Command::Join(join, reply)).await?;
        let location = format!("{}/{}", uri.path(), joined.secret);
        let headers = [
            (header::CONTENT_TYPE, SDP_CONTENT_TYPE.to_owned()),
            (header::LOCATION, location),
            (header::ETAG, joined.etag),
            (header::HeaderName::from_static("accept-patch"), SDP_FRAGMENT_CONTENT_TYPE.to_owned()),
        ];
        Ok((StatusCode::CREATED, headers, joined.answer).into_response())
    }

    async fn session_request(
        &self,
        session: SessionPath,
        request: Request,
    ) -> Result<Response, ErrorResponse> {
        let headers = request.headers().clone();
        match request.method().as_str() {
            "PATCH" => self.patch_session(session, &headers, request).await,
            "DELETE" => {
                self.send_command(|reply| Command::Leave(session, reply)).await?;
                Ok(StatusCode::OK.into_response())
            }
            // A CORS preflight, which must succeed whether or not the session exists.
            "OPTIONS" if headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) => {
                Ok(options_response().await)
            }
            "OPTIONS" | "GET" | "HEAD" => {
                self.send_command(|reply| Command::CheckSession(session, reply)).await?;
                let patch = (header::HeaderName::from_static("accept-patch"), SDP_FRAGMENT_CONTENT_TYPE);
                Ok((StatusCode::NO_CONTENT, [patch]).into_response())
            }
            _ => {
                Ok((StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "PATCH, DELETE, OPTIONS")])
                    .into_response())
            }
        }
    }

    async fn patch_session(
        &self,
        session: SessionPath,
        headers: &HeaderMap,
        request: Request,
    ) -> Result<Response, ErrorResponse> {
        require_content_type(headers, SDP_FRAGMENT_CONTENT_TYPE)?;
        let tag = headers.get(header::IF_MATCH).and_then(|tag| tag.to_str().ok());
        let Some(tag) = tag.map(str::to_owned) else {
            // An unknown or ended session is reported before a missing header.
            self.send_command(|reply| Command::CheckSession(session, reply)).await?;
            let message = "If-Match is needed: the session's ETag, or * for an ICE restart";
            return Err(ErrorResponse::new(StatusCode::PRECONDITION_REQUIRED, message));
        };
        let body = self.read_body(request).await?;
        let fragment = body_text(&body)?;
        let patched = self
            .send_command(|reply| Command::Patch(PatchRequest { session, etag: tag, fragment }, reply))
            .await?;
        Ok(match patched {
            PatchResponse::CandidatesAdded => StatusCode::NO_CONTENT.into_response(),
            PatchResponse::IceRestarted { fragment, etag } => (
                [(header::CONTENT_TYPE, SDP_FRAGMENT_CONTENT_TYPE.to_owned()), (header::ETAG, etag)],
                fragment,
            )
                .into_response(),
        })
    }

    /// Checks the room name and the token of a request.
    fn authorize(
        &self,
        room: &str,
        action: Action,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<Authorization, ErrorResponse> {
        if !is_room_name(room) {
            let message = "a room name has 1 to 128 of the letters a to z and A to Z, digits, and _ @ - .";
            return Err(ErrorResponse::new(StatusCode::NOT_FOUND, message));
        }
        let Access::Jwt(secret) = &*self.access else { return Ok(Authorization::default()) };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let token = bearer.map(|(_, token)| token.trim().to_owned()).or_else(|| query_param(uri, "token"));
        let token = token.ok_or(token::Error::Missing).map_err(ErrorResponse::from)?;
        let claims = token::verify(secret, &token, room, action).map_err(ErrorResponse::from)?;
        let own_cast = claims.own_cast && claims.publish;
        Ok(Authorization { user: claims.sub, token_hash: Some(self.token_hasher.hash_one(&token)), own_cast })
    }

    async fn read_body(&self, request: Request) -> Result<Bytes, ErrorResponse> {
        let body = axum::body::to_bytes(request.into_body(), self.limits.sdp_bytes);
        match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => {
                let message = format!("the body is longer than {} bytes", self.limits.sdp_bytes);
                Err(ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, message))
            }
            Err(_) => Err(ErrorResponse::new(StatusCode::REQUEST_TIMEOUT, "the request body timed out")),
        }
    }

    /// Sends a command to the media thread and waits for its response.
    async fn send_command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, SessionError>>) -> Command,
    ) -> Result<T, ErrorResponse> {
        let busy = || {
            ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "the rooms are overloaded").retry_after("1")
        };
        let (reply, response) = oneshot::channel();
        let exchange = async {
            self.commands.send(command(reply)).await.ok()?;
            response.await.ok()
        };
        let result = tokio::time::timeout(RESPONSE_TIMEOUT, exchange).await;
        result.ok().flatten().ok_or_else(busy)?.map_err(ErrorResponse::from)
    }
}

/// Whether this is a valid room name: an identifier, or two of them joined by `~`.
fn is_room_name(name: &str) -> bool {
    let (first, second) = name.split_once('~').map_or((name, None), |(first, second)| (first, Some(second)));
    is_identifier(first) && second.is_none_or(is_identifier)
}

/// Whether this is a valid user or layer name.
fn is_identifier(name: &str) -> bool {
    (1..=pagecast_core::spec::MAX_ID_LEN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_@-.".contains(&byte))
}

fn query_param(uri: &Uri, name: &str) -> Option<String> {
    let pairs: HashMap<_, _> = url::form_urlencoded::parse(uri.query()?.as_bytes()).collect();
    pairs.get(name).map(|value| value.to_string()).filter(|value| !value.is_empty())
}

fn require_content_type(headers: &HeaderMap, expected: &'static str) -> Result<(), ErrorResponse> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(ErrorResponse::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("Content-Type must be {expected}")))
}

fn body_text(body: &Bytes) -> Result<String, ErrorResponse> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ErrorResponse::new(StatusCode::BAD_REQUEST, "the body is not UTF-8"))?;
    Ok(text.to_owned())
}

/// The response body of [`events`].
fn stream_body(
    body: impl http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
) -> Body {
    Body::new(body)
}
