//! One-time codes: whoever has a token gets a link that opens the console once without typing the token. The
//! fleet keeps hashes of the codes, so any node accepts them.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use pagecast_fleet::{Error, UnixMs};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{hash, hex, origin, token_hash};
use crate::rest::caller::bearer_token;
use crate::rest::error::ErrorResponse;
use crate::rest::view::rfc3339;
use crate::rest::{ApiError, Caller, RestState, json_response};
use crate::service::{Service, random_bytes};

/// Kind of the documents that hold codes.
const DOCUMENT_KIND: &str = "sign-in-code";
/// How long a code is valid: the time to open a link that was just printed.
const LIFETIME_MS: UnixMs = 10 * 60 * 1000;
/// Most codes of one token that are valid at once. The oldest makes room for another.
const MAX_CODES_PER_TOKEN: usize = 20;
/// Random bytes of a code: it cannot be guessed.
const CODE_LEN: usize = 24;

/// A code as the fleet keeps it, under its hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredCode {
    /// SHA-256 of the token that the code stands for.
    token_hash: String,
    created_ms: UnixMs,
}

/// Link that opens the console once.
#[derive(Serialize, ToSchema)]
#[schema(as = SignInLink)]
pub(in crate::rest) struct SignInLinkView {
    /// Address of the console with the code, at the host that the request was sent to.
    #[schema(example = "http://127.0.0.1:8080/console/sign-in#code=5f0c…")]
    url: String,
    /// Time at which the code expires (RFC 3339).
    expires_at: String,
}

/// Create a link that signs a browser in once.
///
/// The link signs in with the token of this request, and is valid for ten minutes. A session cannot create
/// one. `pagecast console` uses it.
#[utoipa::path(post, path = "/v1/session/codes", tag = "session", operation_id = "createSignInLink",
    responses((status = 201, description = "The link.", body = SignInLinkView),
        (status = 400, description = "`bad-request`: the header Host is missing or malformed.",
            body = ErrorResponse)))]
pub(in crate::rest) async fn create(
    State(rest): State<RestState>,
    _caller: Caller,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // A session that created codes could outlive its end.
    let token = bearer_token(&headers)?;
    let (service, origin) = (&rest.service, origin(&rest.service, &headers)?);
    let now = service.now();
    let token_hash = token_hash(token);
    let mut own = Vec::new();
    for (name, _, code) in read_all(service).await? {
        if is_expired(&code, now) {
            service.fleet.put_document(DOCUMENT_KIND, &name, None, None).await?;
        } else if code.token_hash == token_hash {
            own.push((code.created_ms, name));
        }
    }
    own.sort_unstable();
    let excess = (own.len() + 1).saturating_sub(MAX_CODES_PER_TOKEN);
    for (_, name) in &own[..excess] {
        service.fleet.put_document(DOCUMENT_KIND, name, None, None).await?;
    }
    let code = hex(&random_bytes::<CODE_LEN>());
    let content = serde_json::to_value(StoredCode { token_hash, created_ms: now }).ok();
    service.fleet.put_document(DOCUMENT_KIND, &hash(&code), None, content).await?;
    let view = SignInLinkView {
        url: format!("{origin}/console/sign-in#code={code}"),
        expires_at: rfc3339(now.saturating_add(LIFETIME_MS)),
    };
    Ok(json_response(StatusCode::CREATED, &view))
}

/// Uses up a code. Returns the hash of the token that it stands for; `None` if it is unknown, used or
/// expired.
pub(super) async fn redeem(service: &Service, code: &str) -> Result<Option<String>, ApiError> {
    let name = hash(code);
    let found = read_all(service).await?.into_iter().find(|(other, ..)| *other == name);
    let Some((_, version, stored)) = found.filter(|(.., stored)| !is_expired(stored, service.now())) else {
        return Ok(None);
    };
    // Of two requests at the same time, one removes this version.
    match service.fleet.put_document(DOCUMENT_KIND, &name, Some(version), None).await {
        Ok(()) => Ok(Some(stored.token_hash)),
        Err(Error::DocumentChanged(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_expired(code: &StoredCode, now: UnixMs) -> bool {
    now - code.created_ms >= LIFETIME_MS
}

/// Names, versions and contents of all codes. What cannot be read is no code.
async fn read_all(service: &Service) -> Result<Vec<(String, u64, StoredCode)>, ApiError> {
    let list = service.fleet.documents(DOCUMENT_KIND).await?;
    let code = |document: pagecast_fleet::Document| {
        Some((document.name, document.version, serde_json::from_value(document.content).ok()?))
    };
    Ok(list.documents.into_iter().filter_map(code).collect())
}
