//! Who asks, and what they may see.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use pagecast_fleet::{Cast, CastId};

use super::{ApiError, RestState};
use crate::app::Application;
use crate::route::ClaimedPrincipal;
use crate::service::{Service, constant_time_eq};

/// When a token that asked too often may ask again, in seconds: a place is free again sooner, but whole
/// seconds are what the header knows.
const RETRY_AFTER_S: u64 = 1;

/// Who asks.
pub(super) enum Caller {
    /// Whoever has the administrator's token.
    Administrator,
    /// Whoever has a token of this application.
    Application(Arc<Application>),
}

/// Who asks is the administrator.
pub(super) struct Administrator;

impl Caller {
    /// Who asks, if they may now: a token's requests are counted. What comes behind the head is theirs from
    /// then on.
    fn authenticate(rest: &RestState, parts: &mut Parts) -> Result<Self, ApiError> {
        let (caller, token) = Self::identify(&rest.service, parts)?;
        let Some(token) = token else {
            parts.extensions.insert(ClaimedPrincipal::Key("administrator".to_owned()));
            return Ok(caller);
        };
        if !rest.rate_limits.check(&token) {
            let rate = rest.service.config.limits.requests_per_s;
            let words = format!("this token has sent more than {rate} requests in a second: try again later");
            return Err(ApiError::retry_later(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                words,
                RETRY_AFTER_S,
            ));
        }
        parts.extensions.insert(ClaimedPrincipal::Key(token));
        Ok(caller)
    }

    /// Who asks, and which of the tokens of an application it is, if it is one's.
    fn identify(service: &Service, parts: &Parts) -> Result<(Self, Option<String>), ApiError> {
        let unknown = |words: &str| ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", words);
        let mut given = parts.headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (given.next(), given.next()) else {
            return Err(unknown("send one header Authorization: Bearer TOKEN"));
        };
        let token = header.to_str().ok().and_then(|text| text.split_once(' '));
        let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(unknown("the header Authorization must be: Bearer TOKEN"));
        };
        let token = token.trim();
        if service.config.admin_token.as_ref().is_some_and(|admin| constant_time_eq(admin, token)) {
            return Ok((Self::Administrator, None));
        }
        // All of them are looked at: how long it takes tells nothing about whose it is.
        let mut found = None;
        for app in service.apps.all() {
            let tokens = app.tokens.iter().enumerate();
            let hit = tokens
                .fold(None, |hit, (n, known)| if constant_time_eq(known, token) { Some(n) } else { hit });
            if let Some(n) = hit {
                found = Some((app, n));
            }
        }
        let (app, n) = found.ok_or_else(|| unknown("nobody here has this token"))?;
        let token = format!("token {n} of {}", app.name);
        Ok((Self::Application(app), Some(token)))
    }

    /// Whether nothing of what the caller may do has changed since.
    pub(super) fn is_unchanged(&self, service: &Service) -> bool {
        match self {
            Self::Administrator => true,
            Self::Application(app) => {
                service.apps.by_name(&app.name).is_some_and(|now| Arc::ptr_eq(&now, app))
            }
        }
    }

    pub(super) fn is_administrator(&self) -> bool {
        matches!(self, Self::Administrator)
    }

    /// The application that a request is about, if the caller may ask for it.
    pub(super) fn resolve_application(
        &self,
        service: &Service,
        name: Option<&str>,
    ) -> Result<Arc<Application>, ApiError> {
        match (self, name) {
            (Self::Application(app), None) => Ok(Arc::clone(app)),
            (Self::Application(app), Some(name)) if app.name == name => Ok(Arc::clone(app)),
            (Self::Application(_), Some(_)) => {
                Err(ApiError::forbidden("this token is another application's").with_field("app"))
            }
            (Self::Administrator, Some(name)) => service
                .apps
                .by_name(name)
                .ok_or_else(|| ApiError::invalid_parameter("app", "there is no application of this name")),
            (Self::Administrator, None) => Err(ApiError::invalid_parameter(
                "app",
                "the administrator says which application a cast is for",
            )),
        }
    }

    /// A cast, if there is one and the caller may see it.
    pub(super) async fn find_cast(&self, service: &Service, id: &str) -> Result<Cast, ApiError> {
        let missing = || ApiError::not_found("no-such-cast", "there is no such cast, or it is forgotten");
        let id = CastId::parse(id).map_err(|_| missing())?;
        let cast = service.fleet.get(&id).await?.ok_or_else(missing)?;
        match self {
            // Others' casts are none: an id tells nobody that it exists.
            Self::Application(app) if app.name != cast.app => Err(missing()),
            _ => Ok(cast),
        }
    }
}

impl FromRequestParts<RestState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, rest: &RestState) -> Result<Self, ApiError> {
        Self::authenticate(rest, parts)
    }
}

impl FromRequestParts<RestState> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, rest: &RestState) -> Result<Self, ApiError> {
        if Caller::authenticate(rest, parts)?.is_administrator() {
            return Ok(Self);
        }
        Err(ApiError::forbidden(
            "applications are the administrator's: use the token admin_token of the configuration",
        ))
    }
}
