//! Signing in with OpenID Connect: sends the browser to the provider, and opens a session when it comes back.
//!
//! An attempt leaves nothing here: its cookie holds a random value from which state, nonce and PKCE verifier
//! are derived, so any node can finish it. The cookie is sent when the provider leads the browser back
//! (`SameSite=Lax`), and is valid for ten minutes.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{RawQuery, State};
use axum::http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use pagecast_fleet::UnixMs;
use serde::Serialize;
use utoipa::ToSchema;

use super::{COOKIE_LEN, Person, Session, cookie_value, hash, hex, is_on_loopback, origin, set_cookie};
use crate::auth_log::AuthFailure;
use crate::config::Oidc;
use crate::oidc::{Attempt, OidcError};
use crate::rest::error::ErrorResponse;
use crate::rest::{ApiError, ErrorCode, RestState, json_response};
use crate::service::{Service, error_chain, random_bytes};

/// How long somebody may take to sign in at the provider.
const ATTEMPT_LIFETIME_MS: UnixMs = 10 * 60 * 1000;
/// Longest value of a parameter of the provider's answer, in bytes.
const MAX_PARAMETER_LEN: usize = 4096;
/// Path at which the provider sends the browser back.
const CALLBACK_PATH: &str = "/v1/session/oidc/callback";

/// Ways to sign in.
#[derive(Serialize, ToSchema)]
#[schema(as = SignInMethods)]
pub(in crate::rest) struct SignInMethodsView {
    /// Whether a token is accepted; always true.
    token: bool,
    /// The OpenID Connect provider; null if there is none.
    #[schema(required = true)]
    oidc: Option<OidcMethodView>,
}

/// OpenID Connect provider.
#[derive(Serialize, ToSchema)]
#[schema(as = OidcMethod)]
struct OidcMethodView {
    /// Name of the provider, for the button that leads to `/v1/session/oidc`.
    label: String,
}

/// Why an attempt failed, as the console reads it in the address it is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    /// The attempt is unknown, too old, or of another browser.
    Expired,
    /// The provider refused, or the person gave up.
    Refused,
    /// The person has no role here.
    NoRole,
    /// The provider does not answer as it should.
    Failed,
}

impl Problem {
    fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "oidc-expired",
            Self::Refused => "oidc-refused",
            Self::NoRole => "oidc-no-role",
            Self::Failed => "oidc-failed",
        }
    }
}

/// List the ways to sign in.
#[utoipa::path(get, path = "/v1/session/methods", tag = "session", operation_id = "getSignInMethods",
    security(()),
    responses((status = 200, description = "The ways.", body = SignInMethodsView)))]
pub(in crate::rest) async fn methods(State(rest): State<RestState>) -> Response {
    let oidc = rest.service.config.console.oidc.as_ref();
    let oidc = oidc.map(|oidc| OidcMethodView { label: oidc.label.clone() });
    json_response(StatusCode::OK, &SignInMethodsView { token: true, oidc })
}

/// Begin to sign in with OpenID Connect; for browsers.
///
/// The provider sends the browser back to `/v1/session/oidc/callback`.
#[utoipa::path(get, path = "/v1/session/oidc", tag = "session", operation_id = "beginOidcSignIn",
    security(()),
    responses((status = 303, description = "To the provider; or to the console with `#problem=oidc-failed`."),
        (status = 404, description = "`not-found`: there is no provider.", body = ErrorResponse)))]
pub(in crate::rest) async fn begin(
    State(rest): State<RestState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let config = config_of(&rest.service)?;
    let secret = format!("{}.{}", rest.service.now(), hex(&random_bytes::<COOKIE_LEN>()));
    let attempt = attempt_of(&rest.service, &headers, &secret)?;
    match rest.oidc.authorization_url(config, &attempt).await {
        Ok(url) => Ok(redirect(url.as_str(), &[attempt_cookie(&headers, &secret)])),
        Err(error) => {
            log_failure(&error);
            Ok(problem(&headers, Problem::Failed, ""))
        }
    }
}

/// Finish signing in with OpenID Connect; the provider sends browsers here.
///
/// The response sets the cookie of a new session.
#[utoipa::path(get, path = "/v1/session/oidc/callback", tag = "session", operation_id = "finishOidcSignIn",
    security(()),
    params(("code" = Option<String>, Query, description = "Code of the provider."),
        ("state" = Option<String>, Query, description = "State of the attempt."),
        ("iss" = Option<String>, Query, description = "Issuer (RFC 9207)."),
        ("error" = Option<String>, Query, description = "Why the provider refused.")),
    responses((status = 303, description = "To the console: signed in; or with `#problem=`: `oidc-expired`, \
            `oidc-refused`, `oidc-no-role`, `oidc-failed`."),
        (status = 404, description = "`not-found`: there is no provider.", body = ErrorResponse)))]
pub(in crate::rest) async fn finish(
    State(rest): State<RestState>,
    extensions: Extensions,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let config = config_of(service)?;
    rest.sessions.check_attempts(&extensions)?;
    let answer = Answer::parse(query.as_deref().unwrap_or_default());
    let Some(attempt) = find_attempt(service, &headers, &answer)? else {
        return Ok(problem(&headers, Problem::Expired, ""));
    };
    // An answer of another provider (RFC 9207).
    let is_foreign = answer.issuer.as_ref().is_some_and(|issuer| *issuer != config.issuer);
    let (Some(code), None, false) = (answer.code, answer.error, is_foreign) else {
        return Ok(problem(&headers, Problem::Refused, ""));
    };
    let person = match rest.oidc.redeem(config, &attempt, &code).await {
        Ok(person) => person,
        Err(error) => {
            log_failure(&error);
            return Ok(problem(&headers, Problem::Failed, ""));
        }
    };
    let session = Session {
        token_hash: hash(&format!("oidc {} {}", config.issuer, person.subject)),
        used_ms: service.now(),
        person: Some(Person {
            issuer: config.issuer.clone(),
            name: person.name,
            // Only values that mean something are kept. They are judged again at each request.
            roles: person.roles.into_iter().filter(|value| is_configured(config, value)).collect(),
            signed_in_ms: service.now(),
        }),
    };
    let Some(identity) = session.identity(service) else {
        return Ok(problem(&headers, Problem::NoRole, &person.subject));
    };
    identity.note(&extensions, true);
    let value = rest.sessions.open(service, session).await?;
    Ok(redirect("/console/", &[set_cookie(&headers, &value), attempt_cookie(&headers, "")]))
}

/// Parameters of the provider's answer.
#[derive(Debug, Default)]
struct Answer {
    code: Option<String>,
    state: Option<String>,
    issuer: Option<String>,
    error: Option<String>,
}

impl Answer {
    /// Parses a query. Parameters that are too long count as absent.
    fn parse(query: &str) -> Self {
        let mut answer = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "code" => &mut answer.code,
                "state" => &mut answer.state,
                "iss" => &mut answer.issuer,
                "error" => &mut answer.error,
                _ => continue,
            };
            *place = Some(value.into_owned()).filter(|value| value.len() <= MAX_PARAMETER_LEN);
        }
        answer
    }
}

fn config_of(service: &Service) -> Result<&Oidc, ApiError> {
    let missing =
        || ApiError::new(ErrorCode::NotFound, "this service has no OpenID Connect provider (console.oidc)");
    service.config.console.oidc.as_ref().ok_or_else(missing)
}

fn is_configured(config: &Oidc, value: &str) -> bool {
    config.roles.iter().any(|role| role.value == value)
}

/// What the attempt with this cookie must prove. Nobody who sees one of its values can compute another one.
fn attempt_of(service: &Service, headers: &HeaderMap, secret: &str) -> Result<Attempt, ApiError> {
    Ok(Attempt {
        state: hash(&format!("state {secret}")),
        nonce: hash(&format!("nonce {secret}")),
        verifier: hash(&format!("verifier {secret}")),
        redirect_uri: format!("{}{CALLBACK_PATH}", origin(service, headers)?),
    })
}

/// The attempt of this browser, if the provider's answer belongs to it.
fn find_attempt(
    service: &Service,
    headers: &HeaderMap,
    answer: &Answer,
) -> Result<Option<Attempt>, ApiError> {
    let Some(secret) = cookie_value(headers, attempt_cookie_name(headers)) else { return Ok(None) };
    let begun = secret.split_once('.').and_then(|(begun, _)| begun.parse::<UnixMs>().ok());
    let is_current =
        begun.is_some_and(|begun| (0..ATTEMPT_LIFETIME_MS).contains(&service.now().saturating_sub(begun)));
    let attempt = attempt_of(service, headers, secret)?;
    let state = answer.state.as_deref().unwrap_or_default();
    let is_own = verify_slices_are_equal(attempt.state.as_bytes(), state.as_bytes()).is_ok();
    Ok((is_current && is_own).then_some(attempt))
}

fn attempt_cookie_name(headers: &HeaderMap) -> &'static str {
    if is_on_loopback(headers) { "pagecast-oidc" } else { "__Host-pagecast-oidc" }
}

/// The header `Set-Cookie` for an attempt; an empty value removes the cookie.
fn attempt_cookie(headers: &HeaderMap, value: &str) -> String {
    let age_s = if value.is_empty() { 0 } else { ATTEMPT_LIFETIME_MS / 1000 };
    let secure = if is_on_loopback(headers) { "" } else { "; Secure" };
    let name = attempt_cookie_name(headers);
    format!("{name}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}")
}

fn redirect(address: &str, cookies: &[String]) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(address) = HeaderValue::from_str(address) {
        headers.insert(LOCATION, address);
    }
    for cookie in cookies {
        if let Ok(cookie) = HeaderValue::from_str(cookie) {
            headers.append(SET_COOKIE, cookie);
        }
    }
    response
}

/// Sends the browser to the console, which says what went wrong. The address has a code and no text, so that
/// nobody can have the console say something.
fn problem(headers: &HeaderMap, problem: Problem, subject: &str) -> Response {
    let address = format!("/console/sign-in#problem={}", problem.as_str());
    let mut response = redirect(&address, &[attempt_cookie(headers, "")]);
    response.extensions_mut().insert(AuthFailure::new("oidc", subject, problem.as_str()));
    response
}

fn log_failure(error: &OidcError) {
    tracing::warn!(error = error_chain(error), "sign-in with OpenID Connect failed");
}
