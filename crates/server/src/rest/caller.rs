//! Authentication of callers, and their access to casts and applications.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::Extensions;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use pagecast_core::spec::Secret;
use pagecast_fleet::{AuditRole, Cast, CastId};

use super::applications::tokens::token_id;
use super::audit::{Actor, ActorSlot};
use super::session::{BY_CODE, token_hash};
use super::{ApiError, ErrorCode, RestState, permissions};
use crate::app::Application;
use crate::permission::Permission;
use crate::route::ClaimedPrincipal;
use crate::service::{Service, constant_time_eq};

/// Value of `Retry-After` for a token over its rate limit, in seconds: the smallest that the header allows.
const RETRY_AFTER_S: u64 = 1;

/// Sender of an authenticated request.
pub(super) enum Caller {
    /// The administrator.
    Administrator,
    /// An application, by one of its tokens.
    Application(Arc<Application>),
}

/// Extractor that admits only the administrator.
pub(super) struct Administrator;

/// What a caller may do, and its name. Handlers find it in the extensions of a request.
#[derive(Debug, Clone)]
pub(super) struct SignedIn {
    pub(super) permission: Permission,
    /// Name of a person; tokens have none.
    pub(super) name: Option<String>,
}

impl Default for SignedIn {
    /// A token may do everything that its owner may.
    fn default() -> Self {
        Self { permission: Permission::Admin, name: None }
    }
}

/// A caller, and the name of the token that its rate limit counts; the administrator has none.
pub(super) struct Identity {
    pub(super) caller: Caller,
    pub(super) signed_in: SignedIn,
    token: Option<String>,
    /// Who it is, for the record of requests: a token by its id, or a person.
    pub(super) actor: Cow<'static, str>,
}

impl Identity {
    fn administrator(actor: &'static str) -> Self {
        let actor = Cow::Borrowed(actor);
        Self { caller: Caller::Administrator, signed_in: SignedIn::default(), token: None, actor }
    }

    /// A person with this permission for an application, or for everything. `limited` is the name that the
    /// rate limit counts.
    pub(super) fn of_person(
        app: Option<Arc<Application>>,
        permission: Permission,
        name: Option<String>,
        limited: String,
    ) -> Self {
        let caller = app.map_or(Caller::Administrator, Caller::Application);
        let actor = name.clone().map_or(Cow::Borrowed("person without a name"), Cow::Owned);
        Self { caller, signed_in: SignedIn { permission, name }, token: Some(limited), actor }
    }

    /// Finds the caller with this token.
    pub(super) fn by_token(service: &Service, token: &str) -> Option<Self> {
        if service.config.admin_token.as_ref().is_some_and(|admin| constant_time_eq(admin, token)) {
            return Some(Self::administrator("administrator"));
        }
        Self::of_application(service, |known| constant_time_eq(known, token))
    }

    /// Finds the caller whose token has this hash, or who signed in with a one-time code.
    pub(super) fn by_token_hash(service: &Service, hash: &str) -> Option<Self> {
        let has_hash = |known: &Secret| token_hash(known.reveal()) == hash;
        if hash == BY_CODE {
            return Some(Self::administrator("one-time link"));
        }
        if service.config.admin_token.as_ref().is_some_and(has_hash) {
            return Some(Self::administrator("administrator"));
        }
        Self::of_application(service, has_hash)
    }

    /// All tokens are compared, so that the time does not tell whose token is similar.
    fn of_application(service: &Service, is_token: impl Fn(&Secret) -> bool) -> Option<Self> {
        let mut found = None;
        for app in service.apps.all() {
            let tokens = app.tokens.iter().enumerate();
            let hit =
                tokens.fold(None, |hit, (index, known)| if is_token(known) { Some(index) } else { hit });
            if let Some(index) = hit {
                found = Some((app, index));
            }
        }
        let (app, index) = found?;
        let actor = format!("token {}", token_id(app.tokens.get(index)?)).into();
        let token = format!("token {index} of {}", app.name);
        let (caller, signed_in) = (Caller::Application(app), SignedIn::default());
        Some(Self { caller, signed_in, token: Some(token), actor })
    }

    /// Notes for the record of requests that it sent the request with these extensions.
    pub(super) fn note(&self, extensions: &Extensions, is_console: bool) {
        ActorSlot::fill(extensions, || {
            let (role, app) = match &self.caller {
                Caller::Administrator => (AuditRole::Administrator, None),
                Caller::Application(app) => (AuditRole::Application, Some(app.name.clone())),
            };
            Actor { role, app, name: self.actor.to_string(), is_console }
        });
    }
}

/// Token in the header `Authorization` of a request.
pub(super) fn bearer_token(headers: &HeaderMap) -> Result<&str, ApiError> {
    let unauthorized = |message: &str| ApiError::new(ErrorCode::Unauthorized, message);
    let mut headers = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(unauthorized("send one header: Authorization: Bearer TOKEN"));
    };
    let token = header.to_str().ok().and_then(|text| text.split_once(' '));
    let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(unauthorized("the header Authorization must be: Bearer TOKEN"));
    };
    Ok(token.trim())
}

impl Caller {
    /// Authenticates a request and counts it against the rate limit of its token. Its body may then be as
    /// large as a caller's. The extensions of a request with a session get its id.
    async fn authenticate(rest: &RestState, parts: &mut Parts) -> Result<Self, ApiError> {
        let session = match parts.headers.contains_key(AUTHORIZATION) {
            true => None,
            false => rest.sessions.authenticate(&rest.service, parts).await?,
        };
        let is_console = session.is_some();
        let identity = match session {
            Some((identity, id)) => {
                parts.extensions.insert(id);
                identity
            }
            None => Identity::by_token(&rest.service, bearer_token(&parts.headers)?)
                .ok_or_else(|| ApiError::new(ErrorCode::Unauthorized, "unknown token"))?,
        };
        identity.note(&parts.extensions, is_console);
        let Identity { caller, signed_in, token, .. } = identity;
        permissions::check(signed_in.permission, parts)?;
        parts.extensions.insert(signed_in);
        let Some(token) = token else {
            parts.extensions.insert(ClaimedPrincipal::Key("administrator".to_owned()));
            return Ok(caller);
        };
        if !rest.rate_limits.check(&token, rest.service.api_nodes()) {
            let rate = rest.service.config.limits.requests_per_s;
            let message =
                format!("this token has sent more than {rate} requests in a second: try again later");
            return Err(ApiError::retry_later(ErrorCode::TooManyRequests, message, RETRY_AFTER_S));
        }
        parts.extensions.insert(ClaimedPrincipal::Key(token));
        Ok(caller)
    }

    /// Whether the application of the caller is still unchanged.
    pub(super) fn is_unchanged(&self, service: &Service) -> bool {
        match self {
            Self::Administrator => true,
            Self::Application(app) => {
                service.apps.by_name(&app.name).is_some_and(|current| Arc::ptr_eq(&current, app))
            }
        }
    }

    pub(super) fn is_administrator(&self) -> bool {
        matches!(self, Self::Administrator)
    }

    /// Finds the application of a request, if the caller may act for it.
    pub(super) fn resolve_application(
        &self,
        service: &Service,
        name: Option<&str>,
    ) -> Result<Arc<Application>, ApiError> {
        match (self, name) {
            (Self::Application(app), None) => Ok(Arc::clone(app)),
            (Self::Application(app), Some(name)) if app.name == name => Ok(Arc::clone(app)),
            (Self::Application(_), Some(_)) => {
                Err(ApiError::forbidden("this token belongs to another application").with_field("app"))
            }
            (Self::Administrator, Some(name)) => service
                .apps
                .by_name(name)
                .ok_or_else(|| ApiError::invalid_parameter("app", "there is no application with this name")),
            (Self::Administrator, None) => Err(ApiError::invalid_parameter(
                "app",
                "the administrator must name the application of a cast",
            )),
        }
    }

    /// Finds an application that the caller may act for: any for the administrator, or its own.
    pub(super) fn find_application(
        &self,
        service: &Service,
        name: &str,
    ) -> Result<Arc<Application>, ApiError> {
        match self {
            Self::Application(app) if app.name == name => Ok(Arc::clone(app)),
            Self::Application(_) => Err(ApiError::forbidden("this token belongs to another application")),
            Self::Administrator => service.apps.by_name(name).ok_or_else(|| {
                ApiError::new(ErrorCode::NoSuchApplication, "there is no application with this name")
            }),
        }
    }

    /// Finds a cast that the caller may see.
    pub(super) async fn find_cast(&self, service: &Service, id: &str) -> Result<Cast, ApiError> {
        let missing =
            || ApiError::new(ErrorCode::NoSuchCast, "there is no such cast, or its history was deleted");
        let id = CastId::parse(id).map_err(|_| missing())?;
        let cast = service.fleet.get(&id).await?.ok_or_else(missing)?;
        match self {
            // Other applications' casts look unknown, so that ids reveal nothing.
            Self::Application(app) if app.name != cast.app => Err(missing()),
            _ => Ok(cast),
        }
    }
}

impl FromRequestParts<RestState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, rest: &RestState) -> Result<Self, ApiError> {
        Self::authenticate(rest, parts).await
    }
}

impl FromRequestParts<RestState> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, rest: &RestState) -> Result<Self, ApiError> {
        if Caller::authenticate(rest, parts).await?.is_administrator() {
            return Ok(Self);
        }
        Err(ApiError::forbidden(
            "only the administrator may use this address: send the token admin_token of the configuration",
        ))
    }
}
