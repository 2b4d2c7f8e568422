//! The room's addresses: WHIP (RFC 9725) for those who publish, WHEP (draft-ietf-wish-whep) for those who
//! watch, and a page.

mod answer;
mod events;
mod page;
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
use pagecast_listen::Source;
use tokio::sync::{mpsc, oneshot};

use self::answer::{Problem, json, with_cors};
use super::command::{Command, Join, Origin, Patch, Patched, Refused, Session};
use super::stats::RoomStats;
use super::token::{self, Action};
use super::{Access, Limits};

/// How long a request's body may take, and an answer of the room.
const BODY_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// What handlers need.
#[derive(Debug, Clone)]
pub(super) struct Rooms {
    /// The room's thread.
    pub(super) commands: mpsc::Sender<Command>,
    /// What it told of itself the last time.
    pub(super) stats: Arc<Mutex<Vec<RoomStats>>>,
    /// Who may do what.
    pub(super) access: Arc<Access>,
    /// How much of everything.
    pub(super) limits: Limits,
    /// Hashes tokens, so that they need not be kept.
    pub(super) tokens: RandomState,
}

/// What a request may do, and by which token.
#[derive(Debug, Default)]
struct Allowed {
    /// As whom.
    user: Option<String>,
    /// What it is told apart by from others, as far as tokens are needed.
    token: Option<u64>,
    own_cast: bool,
}

/// All addresses.
pub(super) fn router(rooms: Rooms) -> Router {
    Router::new()
        .route("/rooms", get(list))
        .route("/rooms/{room}", get(page::show))
        .route("/rooms/{room}/stats", get(stats))
        .route("/rooms/{room}/whip", post(publish).options(greet))
        .route("/rooms/{room}/whep", post(watch).options(greet))
        .route("/rooms/{room}/whip/{secret}", any(publisher))
        .route("/rooms/{room}/whep/{secret}", any(viewer))
        .route("/rooms/{room}/whep/{secret}/layer", post(layer).options(greet))
        .route("/rooms/{room}/whep/{secret}/events", get(events::listen).options(greet))
        .layer(axum::middleware::from_fn_with_state(rooms.clone(), guard))
        .with_state(rooms)
}

/// What is true for all requests: pages of other sites have no business in an open room, and everybody else
/// may be anywhere.
async fn guard(State(rooms): State<Rooms>, request: Request, next: axum::middleware::Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if let Err(problem) = rooms.access.check_origin(request.headers()) {
        return problem.into_response();
    }
    let mut response = next.run(request).await;
    with_cors(&mut response, origin);
    response
}

async fn list(State(rooms): State<Rooms>) -> Response {
    if let Access::Jwt(_) = *rooms.access {
        return Problem::new(StatusCode::FORBIDDEN, "rooms are not listed where tokens are needed")
            .into_response();
    }
    let names: Vec<String> = rooms.snapshot().into_iter().map(|room| room.room).collect();
    json(&serde_json::json!({ "rooms": names }))
}

async fn stats(
    State(rooms): State<Rooms>,
    Path(room): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    rooms.allow(&room, Action::View, &headers, &uri)?;
    let found = rooms.snapshot().into_iter().find(|stats| stats.room == room);
    Ok(json(&found.unwrap_or(RoomStats { room, ..RoomStats::default() })))
}

/// `OPTIONS`: what can be done here.
async fn greet() -> Response {
    (StatusCode::NO_CONTENT, [(header::HeaderName::from_static("accept-post"), SDP)]).into_response()
}

async fn publish(
    State(rooms): State<Rooms>,
    Path(room): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    rooms.join(room, true, request).await
}

async fn watch(
    State(rooms): State<Rooms>,
    Path(room): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    rooms.join(room, false, request).await
}

async fn publisher(
    State(rooms): State<Rooms>,
    Path(path): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    rooms.session(Session { room: path.0, publishes: true, secret: path.1 }, request).await
}

async fn viewer(
    State(rooms): State<Rooms>,
    Path(path): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    rooms.session(Session { room: path.0, publishes: false, secret: path.1 }, request).await
}

/// `{"layer": "auto"}`, or the name of one.
async fn layer(
    State(rooms): State<Rooms>,
    Path(path): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(serde::Deserialize)]
    struct Wish {
        layer: String,
    }
    let body = rooms.body(request).await?;
    let wish: Wish = serde_json::from_slice(&body).map_err(|_| {
        Problem::new(StatusCode::BAD_REQUEST, "expected {\"layer\": \"auto\"}, \"h\" or \"m\"")
    })?;
    if !is_identifier(&wish.layer) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "this is no name of a layer"));
    }
    let session = Session { room: path.0, publishes: false, secret: path.1 };
    rooms.tell(|reply| Command::Layer(session, wish.layer, reply)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl Rooms {
    /// What the rooms told of themselves the last time.
    pub(super) fn snapshot(&self) -> Vec<RoomStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn join(&self, room: String, publishes: bool, request: Request) -> Result<Response, Problem> {
        let action = if publishes { Action::Publish } else { Action::View };
        let (uri, headers) = (request.uri().clone(), request.headers().clone());
        let Allowed { user: from_token, token, own_cast } = self.allow(&room, action, &headers, &uri)?;
        // This machine's own addresses are no visitors': a proxy in front of the rooms may have one of them.
        let address = request.extensions().get::<Source>().and_then(Source::elsewhere);
        let origin = Origin { token, address: address.map(Origin::network), own_cast };
        expect_type(&headers, SDP)?;
        let asked = query(&uri, "user");
        if let Some(user) = asked.iter().chain(&from_token).find(|user| !is_identifier(user)) {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("this is no name of a user: {}", user.escape_debug()),
            ));
        }
        let user = match (publishes, from_token, asked) {
            (true, Some(token), Some(asked)) if token != asked => {
                return Err(Problem::new(StatusCode::FORBIDDEN, "this token is for another user"));
            }
            (true, Some(user), _) | (_, _, Some(user)) => Some(user),
            _ => None,
        };
        let body = self.body(request).await?;
        let offer = text(&body)?;
        let join = Join { room, publishes, user, offer, origin };
        let joined = self.tell(|reply| Command::Join(join, reply)).await?;
        let location = format!("{}/{}", uri.path(), joined.secret);
        let headers = [
            (header::CONTENT_TYPE, SDP.to_owned()),
            (header::LOCATION, location),
            (header::ETAG, joined.etag),
            (header::HeaderName::from_static("accept-patch"), FRAGMENT.to_owned()),
        ];
        Ok((StatusCode::CREATED, headers, joined.answer).into_response())
    }

    async fn session(&self, session: Session, request: Request) -> Result<Response, Problem> {
        let headers = request.headers().clone();
        match request.method().as_str() {
            "PATCH" => self.patch(session, &headers, request).await,
            "DELETE" => {
                self.tell(|reply| Command::Leave(session, reply)).await?;
                Ok(StatusCode::OK.into_response())
            }
            // Browsers ask before they do anything, and give up if that fails.
            "OPTIONS" if headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) => Ok(greet().await),
            "OPTIONS" | "GET" | "HEAD" => {
                self.tell(|reply| Command::Ask(session, reply)).await?;
                let patch = (header::HeaderName::from_static("accept-patch"), FRAGMENT);
                Ok((StatusCode::NO_CONTENT, [patch]).into_response())
            }
            _ => {
                Ok((StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "PATCH, DELETE, OPTIONS")])
                    .into_response())
            }
        }
    }

    async fn patch(
        &self,
        session: Session,
        headers: &HeaderMap,
        request: Request,
    ) -> Result<Response, Problem> {
        expect_type(headers, FRAGMENT)?;
        let tag = headers.get(header::IF_MATCH).and_then(|tag| tag.to_str().ok());
        let Some(tag) = tag.map(str::to_owned) else {
            // A session that is gone is gone, whatever else is wrong.
            self.tell(|reply| Command::Ask(session, reply)).await?;
            let why = "If-Match is needed: the session's ETag, or * for an ICE restart";
            return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, why));
        };
        let body = self.body(request).await?;
        let fragment = text(&body)?;
        let patched = self.tell(|reply| Command::Patch(Patch { session, tag, fragment }, reply)).await?;
        Ok(match patched {
            Patched::Noted => StatusCode::NO_CONTENT.into_response(),
            Patched::Restarted { fragment, etag } => {
                ([(header::CONTENT_TYPE, FRAGMENT.to_owned()), (header::ETAG, etag)], fragment)
                    .into_response()
            }
        })
    }

    /// Whether this may be done, and what the token says.
    fn allow(&self, room: &str, action: Action, headers: &HeaderMap, uri: &Uri) -> Result<Allowed, Problem> {
        if !is_room(room) {
            let why = "a room's name has 1 to 128 of the letters a to z and A to Z, digits, and _ @ - .";
            return Err(Problem::new(StatusCode::NOT_FOUND, why));
        }
        let Access::Jwt(secret) = &*self.access else { return Ok(Allowed::default()) };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let token = bearer.map(|(_, token)| token.trim().to_owned()).or_else(|| query(uri, "token"));
        let token = token.ok_or(token::Error::Missing).map_err(Problem::from)?;
        let claims = token::check(secret, &token, room, action).map_err(Problem::from)?;
        let own_cast = claims.own_cast && claims.publish;
        Ok(Allowed { user: claims.sub, token: Some(self.tokens.hash_one(&token)), own_cast })
    }

    async fn body(&self, request: Request) -> Result<Bytes, Problem> {
        let body = axum::body::to_bytes(request.into_body(), self.limits.sdp_bytes);
        match tokio::time::timeout(BODY_WITHIN, body).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => {
                let why = format!("at most {} bytes are taken", self.limits.sdp_bytes);
                Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why))
            }
            Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the request takes too long")),
        }
    }

    /// Asks the room's thread.
    async fn tell<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Refused>>) -> Command,
    ) -> Result<T, Problem> {
        let busy = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the room is too busy").retry_after("1");
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        let answered = tokio::time::timeout(ANSWER_WITHIN, asked).await;
        answered.ok().flatten().ok_or_else(busy)?.map_err(Problem::from)
    }
}

/// Whether this names a room: two identifiers may be joined by a `~`, which neither of them has.
fn is_room(name: &str) -> bool {
    let (first, second) = name.split_once('~').map_or((name, None), |(first, second)| (first, Some(second)));
    is_identifier(first) && second.is_none_or(is_identifier)
}

/// Whether this names a user or a layer.
fn is_identifier(name: &str) -> bool {
    (1..=pagecast_core::spec::MAX_ID_LEN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_@-.".contains(&byte))
}

fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs: HashMap<_, _> = url::form_urlencoded::parse(uri.query()?.as_bytes()).collect();
    pairs.get(name).map(|value| value.to_string()).filter(|value| !value.is_empty())
}

fn expect_type(headers: &HeaderMap, expected: &'static str) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("Content-Type must be {expected}")))
}

fn text(body: &Bytes) -> Result<String, Problem> {
    let text =
        std::str::from_utf8(body).map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "this is no text"))?;
    Ok(text.to_owned())
}

/// A body for [`events`].
fn stream(
    body: impl http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
) -> Body {
    Body::new(body)
}
