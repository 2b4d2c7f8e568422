//! Records requests that change something, and lists what was recorded.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::extract::{ConnectInfo, MatchedPath, RawQuery, Request, State};
use axum::http::{Extensions, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use pagecast_fleet::{AuditEntry, AuditFilter, AuditRole};
use serde::Serialize;
use utoipa::ToSchema;

use super::applications::tokens;
use super::error::ErrorResponse;
use super::session::network_of;
use super::view::rfc3339;
use super::{Administrator, ApiError, RestState, json_response, openapi};
use crate::audit::AuditLog;
use crate::request_id::RequestId;

/// Most characters of a target.
const MAX_TARGET_CHARS: usize = 200;
/// Longest part of an address that can be an id or a name, in bytes. A longer one may be a secret that was
/// sent by mistake.
const MAX_PART_LEN: usize = 64;
/// Most characters of an actor: an e-mail address has up to 254.
const MAX_ACTOR_CHARS: usize = 254;
/// Operation of a `GET` that changes something: a provider leads a browser to it, which opens a session.
const SIGN_IN_OPERATION: &str = "finishOidcSignIn";
/// Status of a request whose sender was gone before the answer, as nginx logs it.
const CLIENT_GONE: u16 = 499;
/// Entries on a page, unless the request says how many.
const DEFAULT_LIMIT: usize = 100;
/// Most entries on a page.
const MAX_LIMIT: usize = 1000;

/// Who made a request, as far as it was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Actor {
    pub(super) role: AuditRole,
    pub(super) app: Option<String>,
    pub(super) name: String,
    /// Whether the request belongs to the session of a browser.
    pub(super) is_console: bool,
}

/// Place in the extensions of a request for its actor: whoever authenticates it writes it there.
#[derive(Debug, Clone, Default)]
pub(super) struct ActorSlot(Arc<OnceLock<Actor>>);

impl ActorSlot {
    /// Notes the actor of the request with these extensions.
    pub(super) fn fill(extensions: &Extensions, actor: impl FnOnce() -> Actor) {
        if let Some(Self(slot)) = extensions.get() {
            slot.get_or_init(actor);
        }
    }
}

/// What a request created, in the extensions of its answer: the id that completes its address, and the
/// application.
#[derive(Debug, Clone)]
pub(super) struct Created {
    pub(super) id: String,
    pub(super) app: Option<String>,
}

/// A request in progress. It is recorded when it is dropped, also because the client is gone.
struct PendingEntry {
    log: Arc<AuditLog>,
    slot: ActorSlot,
    network: Option<IpAddr>,
    entry: AuditEntry,
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        let mut entry = self.entry.clone();
        if let Some(Actor { role, app, name, is_console }) = self.slot.0.get() {
            (entry.role, entry.app) = (*role, app.clone().or(entry.app));
            entry.actor = name.chars().filter(|c| !c.is_control()).take(MAX_ACTOR_CHARS).collect();
            if *is_console {
                "console".clone_into(&mut entry.via);
            }
        }
        // What nobody authenticated may be sent by anybody, also if its answer is no error.
        if entry.status < 400 && entry.role != AuditRole::Unknown {
            return self.log.record(entry);
        }
        let sender = match (entry.role, self.network) {
            (AuditRole::Unknown, Some(network)) => network.to_string(),
            (role, _) => format!("{}/{}/{}", role.as_str(), entry.app.as_deref().unwrap_or(""), entry.actor),
        };
        self.log.record_refused(&sender, entry);
    }
}

/// Records all requests but those that only read.
pub(super) async fn record(State(rest): State<RestState>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let matched = matched.as_ref().map(MatchedPath::as_str);
    let action = matched.and_then(|path| openapi::operation_id(request.method(), path));
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if only_reads && action != Some(SIGN_IN_OPERATION) {
        return next.run(request).await;
    }
    let slot = ActorSlot::default();
    request.extensions_mut().insert(slot.clone());
    let extensions = request.extensions();
    let address = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    // The router has removed `/v1` from the address of the request itself.
    let path = format!("/v1{}", request.uri().path());
    let unknown_token = tokens::claimed_token_id(request.headers());
    let mut pending = PendingEntry {
        log: Arc::clone(&rest.service.audit),
        network: address.map(network_of),
        slot,
        entry: AuditEntry {
            id: 0,
            at_ms: rest.service.now(),
            role: AuditRole::Unknown,
            app: application_in(&path, matched),
            actor: match unknown_token.as_str() {
                "" => "nobody".to_owned(),
                id => format!("unverified token {id}"),
            },
            via: "api".to_owned(),
            address: address.map(|address| address.to_canonical().to_string()),
            action: action.unwrap_or("unknown").to_owned(),
            target: action.map(|_| shown_path(&path)),
            status: CLIENT_GONE,
            request_id: RequestId::of(extensions).to_string(),
            count: 1,
        },
    };
    let mut response = next.run(request).await;
    if let Some(Created { id, app }) = response.extensions_mut().remove() {
        let entry = &mut pending.entry;
        entry.target = entry.target.take().map(|target| format!("{target}/{id}"));
        entry.app = app.or(entry.app.take());
    }
    pending.entry.status = response.status().as_u16();
    response
}

/// The application that an address names.
fn application_in(path: &str, matched: Option<&str>) -> Option<String> {
    matched.filter(|matched| matched.starts_with("/v1/applications/{name}"))?;
    let name = path.strip_prefix("/v1/applications/")?.split('/').next()?;
    Some(shown_part(name).to_owned())
}

/// An address without what may be a secret.
fn shown_path(path: &str) -> String {
    let parts: Vec<_> = path.split('/').map(shown_part).collect();
    parts.join("/").chars().take(MAX_TARGET_CHARS).collect()
}

fn shown_part(part: &str) -> &str {
    let is_plain = part.bytes().all(|c| c.is_ascii_alphanumeric() || b"._~-%".contains(&c));
    if is_plain && part.len() <= MAX_PART_LEN && !part.starts_with("pct_") { part } else { "…" }
}

/// Page of the record of requests, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditList {
    /// The entries.
    entries: Vec<AuditView>,
    /// Value of `after` for the next page; null on the last one.
    #[schema(required = true)]
    next: Option<u64>,
}

/// Request that changed something, or tried to.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
struct AuditView {
    /// Number of the entry.
    id: u64,
    /// Time of the request (RFC 3339).
    at: String,
    /// Who sent it: `administrator`, `application`, or `unknown` if the request was not authenticated.
    #[schema(example = "application")]
    role: &'static str,
    /// Application of the sender, or else the one that the request was about, as far as its address tells.
    #[schema(required = true)]
    app: Option<String>,
    /// Who sent it: `administrator`, `token` with its id, `one-time link`, the name of a person,
    /// `unverified token` with the id of a token that is unknown or was not looked at, or `nobody`.
    #[schema(example = "token 1f3a9c0b77de")]
    actor: String,
    /// `console` for a request in the session of a browser, otherwise `api`.
    via: String,
    /// Network address of the connection that the request came on; null if it is not known.
    #[schema(required = true)]
    address: Option<String>,
    /// The operation, by its `operationId`; `unknown` if the address is none of this API.
    #[schema(example = "stopCast")]
    action: String,
    /// Path of the address, and the id of what was created; null if the address is unknown.
    #[schema(required = true)]
    target: Option<String>,
    /// HTTP status of the answer; 499 if the client was gone before it.
    status: u16,
    /// Id of the request, as in the log.
    request_id: String,
    /// Number of requests that this entry stands for. Of refused requests from one sender, the first ten in a
    /// minute have entries of their own, and the last one of the minute counts the others.
    count: u32,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            at: rfc3339(entry.at_ms),
            role: entry.role.as_str(),
            app: entry.app,
            actor: entry.actor,
            via: entry.via,
            address: entry.address,
            action: entry.action,
            target: entry.target,
            status: entry.status,
            request_id: entry.request_id,
            count: entry.count,
        }
    }
}

/// List the requests that changed something, newest first.
///
/// All requests to this API but those with `GET` and `HEAD` are recorded, refused ones too, and sign-ins by a
/// provider. Entries are kept as long as the history of casts: the newest 10 000 of each application and of
/// the administrator.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", operation_id = "listAudit",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000,
            description = "Most entries on the page; default 100."),
        ("after" = Option<u64>, Query, minimum = 0, maximum = 9_007_199_254_740_991_u64,
            description = "Where the page begins: `next` of the page before."),
        ("app" = Option<String>, Query, pattern = "^[a-z0-9_-]{1,64}$",
            description = "Only entries with this application.")),
    responses((status = 200, description = "The entries.", body = AuditList),
        (status = 400, description = "`invalid-parameter`.", body = ErrorResponse),
        (status = 403, description = "`forbidden`: only for the administrator.", body = ErrorResponse)))]
pub(super) async fn list(
    State(rest): State<RestState>,
    _: Administrator,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let filter = parse_filter(query.as_deref().unwrap_or_default())?;
    let fleet = &rest.service.fleet;
    // What this node has recorded is in the list, too.
    rest.service.audit.flush(&**fleet).await?;
    let page = fleet.audit_entries(&filter).await?;
    let next = page.entries.last().map(|last| last.id).filter(|_| page.has_more);
    let entries = page.entries.into_iter().map(AuditView::from).collect();
    Ok(json_response(StatusCode::OK, &AuditList { entries, next }))
}

fn parse_filter(query: &str) -> Result<AuditFilter, ApiError> {
    let mut filter = AuditFilter { limit: DEFAULT_LIMIT, ..AuditFilter::default() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let wrong = |message: &str| ApiError::invalid_parameter(&*name, message);
        match &*name {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                filter.limit = limit.ok_or_else(|| wrong("it must be a number from 1 to 1000"))?;
            }
            "after" => {
                let after = value.parse().map_err(|_| wrong("it must be `next` of another page"))?;
                filter.after = Some(after);
            }
            "app" => {
                crate::app::validate_name(&value).map_err(|error| wrong(&error.reason))?;
                filter.app = Some(value.into_owned());
            }
            _ => return Err(wrong("there is no such parameter: use limit, after and app")),
        }
    }
    Ok(filter)
}
