//! Sessions of the console: a browser signs in with a token and gets a cookie. The fleet keeps the hash of
//! the cookie and of the token, so a session ends on all nodes when it is closed, or its token is removed.

pub(super) mod codes;
pub(super) mod oidc;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{ConnectInfo, RawQuery, State};
use axum::http::header::{COOKIE, HOST, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use pagecast_fleet::{Document, UnixMs};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::caller::{Identity, SignedIn};
use super::error::ErrorResponse;
use super::view::rfc3339;
use super::{ApiError, Caller, ErrorCode, Json, RestState, json_response};
use crate::permission::Permission;
use crate::service::{Service, random_bytes};

/// Kind of the documents that hold sessions.
const DOCUMENT_KIND: &str = "session";
/// How long a session lasts without a request: a working day.
const IDLE_TIMEOUT_MS: UnixMs = 12 * 3600 * 1000;
/// How long a person's session lasts in any case: afterwards the provider is asked again for roles.
const MAX_PERSON_SESSION_MS: UnixMs = 24 * 3600 * 1000;
/// How often the time of the last request is stored: much more rarely than there are requests.
const TOUCH_INTERVAL_MS: UnixMs = 10 * 60 * 1000;
/// Most sessions of one token; the one that was unused for longest makes room.
const MAX_SESSIONS_PER_TOKEN: usize = 50;
/// How long sessions are remembered without reading them again: after this time, all nodes know that somebody
/// has signed out.
const CACHE_TIME: Duration = Duration::from_secs(3);
/// Most attempts to sign in from one address in a minute. Tokens are too long to be guessed; the limit spares
/// the database and the log.
const MAX_ATTEMPTS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Most addresses whose attempts are counted. Further ones are not limited, so that strangers cannot keep
/// everybody out.
const MAX_ADDRESSES: usize = 10_000;
/// Longest header `Host` that becomes part of an address, in bytes: a name of DNS and a port.
const MAX_HOST_LEN: usize = 259;
/// Bytes of a cookie's random value.
const COOKIE_LEN: usize = 32;
/// Name of the cookie over TLS. The prefix makes browsers refuse it unless it is secure and for this host
/// only.
const SECURE_COOKIE: &str = "__Host-pagecast";
/// Name of the cookie on loopback, where browsers and service need no TLS.
const LOOPBACK_COOKIE: &str = "pagecast";
/// What stands for the hash of a token in the sessions of an administrator who signed in with a one-time
/// code.
pub(super) const BY_CODE: &str = "one-time-code";
/// Header of requests that change something. Other sites cannot make a browser send it.
const CONSOLE_HEADER: &str = "pagecast-console";

/// A signed-in browser.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    /// SHA-256 of the token that it signed in with, or [`BY_CODE`]; for a person, a hash of who it is.
    token_hash: String,
    /// Time of the last request, within [`TOUCH_INTERVAL_MS`].
    used_ms: UnixMs,
    /// Who signed in, if that was without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    person: Option<Person>,
}

/// A person who signed in with OpenID Connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Person {
    /// Issuer that knows the person.
    issuer: String,
    /// E-mail address or name.
    name: Option<String>,
    /// Values of the role claim that the configuration names.
    roles: Vec<String>,
    signed_in_ms: UnixMs,
}

impl Session {
    /// Who is signed in. `None` if the token or the role does not exist any more.
    fn identity(&self, service: &Service) -> Option<Identity> {
        let Some(person) = &self.person else { return Identity::by_token_hash(service, &self.token_hash) };
        let oidc = service.config.console.oidc.as_ref().filter(|oidc| oidc.issuer == person.issuer)?;
        if service.now() - person.signed_in_ms >= MAX_PERSON_SESSION_MS {
            return None;
        }
        let role = oidc.role_of(&person.roles)?;
        let app = match &role.app {
            Some(name) => Some(service.apps.by_name(name)?),
            None => None,
        };
        let limited = format!("person {}", self.token_hash);
        Some(Identity::of_person(app, role.role, person.name.clone(), limited))
    }
}

/// Hash of a session's cookie, by which the fleet knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SessionId(String);

/// Sessions by their ids, and when they were read.
type CachedSessions = (HashMap<SessionId, Session>, Instant);

/// The sessions of the fleet.
#[derive(Debug)]
pub(super) struct Sessions {
    cache: Mutex<Option<CachedSessions>>,
    attempts: DefaultKeyedRateLimiter<IpAddr>,
}

impl Default for Sessions {
    fn default() -> Self {
        let attempts = RateLimiter::keyed(Quota::per_minute(MAX_ATTEMPTS_PER_MINUTE));
        Self { cache: Mutex::default(), attempts }
    }
}

impl Sessions {
    /// Finds the caller of a request with a session's cookie. `None` if it has no such cookie.
    pub(super) async fn authenticate(
        &self,
        service: &Service,
        parts: &Parts,
    ) -> Result<Option<(Identity, SessionId)>, ApiError> {
        let Some(id) = cookie(&parts.headers) else { return Ok(None) };
        check_origin(&parts.method, &parts.headers)?;
        let expired = || ApiError::new(ErrorCode::Unauthorized, "the session has ended: sign in again");
        let session = self.find(service, &id).await?.ok_or_else(expired)?;
        let identity = session.identity(service).ok_or_else(expired)?;
        self.touch(service, &id, session).await?;
        Ok(Some((identity, id)))
    }

    /// Whether a session still exists and its token does.
    pub(super) async fn is_valid(&self, service: &Service, id: &SessionId) -> bool {
        match self.find(service, id).await {
            Ok(Some(session)) => session.identity(service).is_some(),
            Ok(None) => false,
            // The database may be back in a moment.
            Err(_) => true,
        }
    }

    async fn find(&self, service: &Service, id: &SessionId) -> Result<Option<Session>, ApiError> {
        let mut cache = self.cache.lock().await;
        let is_fresh = cache.as_ref().is_some_and(|(_, read)| read.elapsed() < CACHE_TIME);
        if !is_fresh {
            *cache = Some((read_all(service).await?, Instant::now()));
        }
        let session = cache.as_ref().and_then(|(sessions, _)| sessions.get(id)).cloned();
        Ok(session.filter(|session| service.now() - session.used_ms < IDLE_TIMEOUT_MS))
    }

    /// Stores that a session is in use.
    async fn touch(&self, service: &Service, id: &SessionId, session: Session) -> Result<(), ApiError> {
        let now = service.now();
        if now - session.used_ms < TOUCH_INTERVAL_MS {
            return Ok(());
        }
        let session = Session { used_ms: now, ..session };
        let content = serde_json::to_value(&session).ok();
        service.fleet.put_document(DOCUMENT_KIND, &id.0, None, content).await?;
        if let Some((sessions, _)) = self.cache.lock().await.as_mut() {
            sessions.insert(id.clone(), session);
        }
        Ok(())
    }

    /// Opens a session. Returns the value of its cookie.
    async fn open(&self, service: &Service, new: Session) -> Result<String, ApiError> {
        let now = service.now();
        let all = read_all(service).await?;
        let is_over = |session: &Session| {
            now - session.used_ms >= IDLE_TIMEOUT_MS || session.identity(service).is_none()
        };
        let (over, mut others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|(_, session)| is_over(session) || session.token_hash == new.token_hash)
            .partition(|(_, session)| is_over(session));
        others.sort_by_key(|(_, session)| session.used_ms);
        let excess = (others.len() + 1).saturating_sub(MAX_SESSIONS_PER_TOKEN);
        for (id, _) in over.iter().chain(&others[..excess]) {
            service.fleet.put_document(DOCUMENT_KIND, &id.0, None, None).await?;
        }
        let value = hex(&random_bytes::<COOKIE_LEN>());
        let content = serde_json::to_value(new).ok();
        service.fleet.put_document(DOCUMENT_KIND, &hash(&value), None, content).await?;
        *self.cache.lock().await = None;
        Ok(value)
    }

    /// Closes a session, or all of its token.
    async fn close(&self, service: &Service, id: &SessionId, everywhere: bool) -> Result<(), ApiError> {
        let all = read_all(service).await?;
        let own = all.get(id).map(|session| &session.token_hash);
        let of_token = |session: &Session| everywhere && Some(&session.token_hash) == own;
        for (other, _) in all.iter().filter(|(other, session)| *other == id || of_token(session)) {
            service.fleet.put_document(DOCUMENT_KIND, &other.0, None, None).await?;
        }
        *self.cache.lock().await = None;
        Ok(())
    }

    /// Counts an attempt to sign in, and refuses it if there were too many.
    fn check_attempts(&self, extensions: &Extensions) -> Result<(), ApiError> {
        let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() else { return Ok(()) };
        if self.attempts.len() >= MAX_ADDRESSES {
            self.attempts.retain_recent();
        }
        let is_full = self.attempts.len() >= MAX_ADDRESSES;
        if is_full || self.attempts.check_key(&network_of(address.ip())).is_ok() {
            return Ok(());
        }
        let message = "too many attempts to sign in from this address: try again in a minute";
        Err(ApiError::retry_later(ErrorCode::TooManyRequests, message, 60))
    }
}

/// The sessions that the fleet has. What cannot be read is no session.
async fn read_all(service: &Service) -> Result<HashMap<SessionId, Session>, ApiError> {
    let list = service.fleet.documents(DOCUMENT_KIND).await?;
    let session =
        |document: Document| Some((SessionId(document.name), serde_json::from_value(document.content).ok()?));
    Ok(list.documents.into_iter().filter_map(session).collect())
}

/// An address for which attempts are counted: one customer of a provider has 2^64 addresses of IPv6.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Refuses requests with a cookie that a page of another site sent.
fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_own = match header("sec-fetch-site") {
        Some(site) => site == "same-origin" || site == "none",
        None => header("origin").is_none_or(|origin| {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == header("host")
        }),
    };
    let is_safe = matches!(*method, Method::GET | Method::HEAD);
    if is_own && (is_safe || headers.contains_key(CONSOLE_HEADER)) {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "a session is for the console's own requests: send a token in the header Authorization instead",
    ))
}

/// The session that a request's cookie names.
fn cookie(headers: &HeaderMap) -> Option<SessionId> {
    cookie_value(headers, cookie_name(headers)).map(|value| SessionId(hash(value)))
}

fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
    let mut pairs = pairs.flat_map(|header| header.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn cookie_name(headers: &HeaderMap) -> &'static str {
    if is_on_loopback(headers) { LOOPBACK_COOKIE } else { SECURE_COOKIE }
}

/// Whether the browser reached the service as a program of its own machine. The cookie is only for that name.
fn is_on_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Scheme and host at which the sender of a request reaches this service. Away from loopback, browsers need
/// HTTPS for sessions, so that is what they use, here or at a proxy.
pub(super) fn origin(service: &Service, headers: &HeaderMap) -> Result<String, ApiError> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if !(1..=MAX_HOST_LEN).contains(&host.len()) || !host.bytes().all(is_host) {
        return Err(ApiError::new(ErrorCode::BadRequest, "the header Host must be a name or an address"));
    }
    let is_plain = is_on_loopback(headers) && service.config.tls.is_none();
    Ok(format!("{}://{host}", if is_plain { "http" } else { "https" }))
}

/// The header `Set-Cookie` for this value; an empty one removes the cookie.
fn set_cookie(headers: &HeaderMap, value: &str) -> String {
    let age_s = if value.is_empty() { 0 } else { IDLE_TIMEOUT_MS / 1000 };
    let secure = if is_on_loopback(headers) { "" } else { "; Secure" };
    let name = cookie_name(headers);
    format!("{name}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}")
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn hash(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

/// SHA-256 of a token, as sessions name it.
pub(super) fn token_hash(token: &str) -> String {
    hash(token)
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

/// What a browser signs in with: a token or a code.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignInRequest {
    /// Token of an application, or the administrator's.
    token: Option<String>,
    /// Code of a link that the service printed when it started, or of `POST /v1/session/codes`. It is valid
    /// once, for ten minutes.
    code: Option<String>,
}

/// Session of a browser.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionView {
    /// Who is signed in: `administrator` or `application`.
    #[schema(example = "application")]
    role: &'static str,
    /// Name of the application; null for the administrator.
    #[schema(required = true)]
    app: Option<String>,
    /// What the caller may do: `viewer` sees, `operator` also starts, stops and changes casts, `admin`
    /// everything. Tokens have all permissions.
    permission: Permission,
    /// Name or e-mail address of the person who signed in with OpenID Connect; null otherwise.
    #[schema(required = true)]
    name: Option<String>,
    /// Time at which the session ends if there is no further request (RFC 3339).
    expires_at: String,
}

impl SessionView {
    fn new(service: &Service, caller: &Caller, signed_in: SignedIn) -> Self {
        let SignedIn { permission, name } = signed_in;
        let (role, app) = match caller {
            Caller::Administrator => ("administrator", None),
            Caller::Application(app) => ("application", Some(app.name.clone())),
        };
        Self {
            role,
            app,
            permission,
            name,
            expires_at: rfc3339(service.now().saturating_add(IDLE_TIMEOUT_MS)),
        }
    }
}

/// Sign in with a token or a one-time code; for browsers.
///
/// The response sets a cookie that is as good as the token in requests of the same origin. Requests that
/// change something also need the header `Pagecast-Console`, with any value. A session ends 12 hours after
/// its last request, and with its token.
#[utoipa::path(post, path = "/v1/session", tag = "session", operation_id = "signIn", security(()),
    request_body = SignInRequest,
    responses((status = 201, description = "Signed in.", body = SessionView,
            headers(("Set-Cookie" = String, description = "The cookie of the session."))),
        (status = 400, description = "`invalid-parameter`.", body = ErrorResponse),
        (status = 429, description = "`too-many-requests`: more than 10 attempts in a minute.",
            body = ErrorResponse)))]
pub(super) async fn sign_in(
    State(rest): State<RestState>,
    extensions: Extensions,
    headers: HeaderMap,
    Json { value: body, .. }: Json<SignInRequest>,
) -> Result<Response, ApiError> {
    rest.sessions.check_attempts(&extensions)?;
    check_sign_in_origin(&headers)?;
    let service = &rest.service;
    let unauthorized = |message: &str| ApiError::new(ErrorCode::Unauthorized, message);
    let (identity, token_hash) = match (&body.token, &body.code) {
        (Some(token), None) => (Identity::by_token(service, token.trim()), token_hash(token.trim())),
        (None, Some(code)) if service.sign_in_code.redeem(code) => {
            (Identity::by_token_hash(service, BY_CODE), BY_CODE.to_owned())
        }
        (None, Some(code)) => {
            let token_hash = codes::redeem(service, code).await?;
            let token_hash =
                token_hash.ok_or_else(|| unauthorized("the code is unknown, used or expired"))?;
            (Identity::by_token_hash(service, &token_hash), token_hash)
        }
        _ => return Err(ApiError::invalid_parameter("token", "send either a token or a code")),
    };
    let identity = identity.ok_or_else(|| unauthorized("unknown token"))?;
    identity.note(&extensions, true);
    let session = Session { token_hash, used_ms: service.now(), person: None };
    let value = rest.sessions.open(service, session).await?;
    let view = SessionView::new(service, &identity.caller, identity.signed_in);
    let response = json_response(StatusCode::CREATED, &view);
    Ok(with_cookie(response, &set_cookie(&headers, &value)))
}

/// Another site must not sign a browser in as somebody else.
fn check_sign_in_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key("sec-fetch-site") { check_origin(&Method::POST, headers) } else { Ok(()) }
}

/// Get the session of this browser.
#[utoipa::path(get, path = "/v1/session", tag = "session", operation_id = "getSession",
    responses((status = 200, description = "The caller, by cookie or token.", body = SessionView)))]
pub(super) async fn get(State(rest): State<RestState>, caller: Caller, extensions: Extensions) -> Response {
    let signed_in = extensions.get::<SignedIn>().cloned().unwrap_or_default();
    json_response(StatusCode::OK, &SessionView::new(&rest.service, &caller, signed_in))
}

/// Sign out.
#[utoipa::path(delete, path = "/v1/session", tag = "session", operation_id = "signOut",
    params(("everywhere" = Option<bool>, Query,
        description = "Whether to end all sessions of the token or the person.")),
    responses((status = 204, description = "The session has ended. Without one, nothing changes."),
        (status = 400, description = "`invalid-parameter`.", body = ErrorResponse)))]
pub(super) async fn sign_out(
    State(rest): State<RestState>,
    _caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut everywhere = false;
    for (name, value) in form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes()) {
        everywhere = match (&*name, &*value) {
            ("everywhere", "true") => true,
            ("everywhere", "false") => false,
            ("everywhere", _) => {
                return Err(ApiError::invalid_parameter("everywhere", "it must be true or false"));
            }
            _ => return Err(ApiError::invalid_parameter(name, "there is no such parameter: use everywhere")),
        };
    }
    if let Some(id) = cookie(&headers) {
        rest.sessions.close(&rest.service, &id, everywhere).await?;
    }
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), &set_cookie(&headers, "")))
}
