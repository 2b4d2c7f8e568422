//! Authenticates a request and finds its action and parameters.

use std::sync::Arc;

use axum::http::Method;

use super::VERSION;
use super::error_code::ErrorCode;
use super::params::{MAX_PARAMETERS, Params};
use super::response::ApiError;
use super::signature::{self, ClaimedSignature};
use crate::Service;
use crate::app::Application;
use crate::route::ApiRequest;

/// Largest query of a GET, in bytes: the vendor's limit.
const MAX_QUERY_LEN: usize = 32 << 10;
/// Largest body with a signature of version 1, in bytes: the vendor's limit.
const MAX_V1_BODY_LEN: usize = 1 << 20;
/// Largest body with a signature of version 3, in bytes: the vendor's limit.
const MAX_V3_BODY_LEN: usize = 10 << 20;

/// Action of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Stop,
    Describe,
}

impl Action {
    pub(super) const ALL: [Self; 3] = [Self::Start, Self::Stop, Self::Describe];

    /// The vendor's name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "StartWebRecord",
            Self::Stop => "StopWebRecord",
            Self::Describe => "DescribeWebRecord",
        }
    }
}

/// An authenticated request with its action; parameters follow later.
#[derive(Debug)]
pub(super) struct AuthenticatedRequest {
    pub action: Action,
    pub key_id: String,
    /// Applications of the key, at least one.
    pub apps: Vec<Arc<Application>>,
    envelope: Envelope,
}

/// Whether a request is meant for this API.
pub(crate) fn matches(call: &ApiRequest) -> bool {
    let is_marker = |name: &str, value: &str| name == "SecretId" || name == "Version" && value == VERSION;
    // A longer request is refused, but by the API that it is meant for.
    let has_marker = |bytes: &[u8], max_len: usize| {
        form_urlencoded::parse(&bytes[..bytes.len().min(max_len)])
            .any(|(name, value)| is_marker(&name, &value))
    };
    call.headers.keys().any(|name| name.as_str().starts_with("x-tc-"))
        || call.header("authorization").is_some_and(|value| value.starts_with(signature::ALGORITHM))
        || has_marker(call.query.as_bytes(), MAX_QUERY_LEN)
        || content_type(call) == ContentType::Form && has_marker(&call.body, MAX_V1_BODY_LEN)
}

/// Key id that a request claims, with a valid signature or not; empty without one.
pub(super) fn claimed_key_id(call: &ApiRequest) -> String {
    if let Some(authorization) = call.header("authorization") {
        return signature::claimed_key_id(authorization).to_owned();
    }
    let form = parse_form(call).ok().flatten().unwrap_or_default();
    form.into_iter().find(|(name, _)| name == "SecretId").map(|(_, id)| id).unwrap_or_default()
}

/// What a request has around its parameters, before its signature is verified.
#[derive(Debug)]
pub(super) struct Envelope {
    /// The parameters, if the request is a form.
    pub form: Option<Vec<(String, String)>>,
    /// Whether the signature is of version 1.
    pub is_v1: bool,
}

impl Envelope {
    /// Reads a request of an allowed method and size.
    pub(super) fn parse(call: &ApiRequest) -> Result<Self, ApiError> {
        if !matches!(call.method, Method::GET | Method::POST) {
            return Err(ApiError::new(ErrorCode::UnsupportedProtocol, "the method must be GET or POST"));
        }
        let by_header = call.headers.contains_key("authorization");
        check_size(call, by_header)?;
        let mut envelope = Self { form: parse_form(call)?, is_v1: false };
        envelope.is_v1 = !by_header
            && (envelope.form_param("SecretId").is_some() || envelope.form_param("Signature").is_some());
        Ok(envelope)
    }

    fn form_param(&self, name: &str) -> Option<&str> {
        let found = self.form.iter().flatten().find(|(n, v)| n == name && !v.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// Value of a common parameter. Version 1 has them among the parameters, version 3 in headers.
    fn common_param<'a>(&'a self, call: &'a ApiRequest, name: &str) -> Option<&'a str> {
        let from_header = || call.header(&format!("x-tc-{name}")).filter(|value| !value.is_empty());
        if self.is_v1 { self.form_param(name) } else { from_header() }
    }

    /// Refuses version 1 where it is switched off.
    pub(super) fn check_v1_allowed(&self, service: &Service) -> Result<(), ApiError> {
        if !self.is_v1 || service.config.tencent.v1_signatures {
            return Ok(());
        }
        let message = "signatures of version 1 (HmacSHA1, HmacSHA256) are switched off: sign with \
                       TC3-HMAC-SHA256";
        Err(ApiError::new(ErrorCode::SignatureFailure, message))
    }

    /// Refuses tokens of temporary keys, which only their vendor can check.
    pub(super) fn check_token(&self, call: &ApiRequest) -> Result<(), ApiError> {
        if self.common_param(call, "Token").is_none() {
            return Ok(());
        }
        let message =
            "temporary keys are not supported: use a key of the application, and leave out the token";
        Err(ApiError::new(ErrorCode::TokenFailure, message))
    }

    /// The action, of the version of this API.
    pub(super) fn action(&self, call: &ApiRequest) -> Result<Action, ApiError> {
        let required = |name| {
            self.common_param(call, name)
                .ok_or_else(|| ApiError::missing_parameter(ErrorCode::MissingParameter, name))
        };
        let action = required("Action")?;
        if required("Version")? != VERSION {
            return Err(ApiError::new(ErrorCode::NoSuchVersion, format!("the version must be {VERSION}")));
        }
        Action::ALL.into_iter().find(|known| known.as_str() == action).ok_or_else(|| {
            ApiError::new(
                ErrorCode::InvalidAction,
                "there is no such action: use StartWebRecord, StopWebRecord or DescribeWebRecord",
            )
        })
    }

    /// Refuses regions that the configuration does not name.
    pub(super) fn check_region(&self, service: &Service, call: &ApiRequest) -> Result<(), ApiError> {
        check_region(&service.config.tencent.regions, self.common_param(call, "Region"))
    }

    /// Parses the parameters.
    pub(super) fn params(&self, call: &ApiRequest) -> Result<Params, ApiError> {
        match (&self.form, content_type(call)) {
            (Some(pairs), _) => Params::from_form(pairs),
            (None, ContentType::Multipart) => {
                Err(ApiError::new(ErrorCode::InvalidRequest, "multipart bodies are not supported: send JSON"))
            }
            (None, ContentType::Other) => {
                let message =
                    "the Content-Type must be application/json or application/x-www-form-urlencoded";
                Err(ApiError::new(ErrorCode::BodyParamsError, message))
            }
            (None, ContentType::Json | ContentType::Form) => Params::from_json(&call.body),
        }
    }
}

impl AuthenticatedRequest {
    /// Authenticates a request.
    pub(super) fn authenticate(service: &Service, call: &ApiRequest) -> Result<Self, ApiError> {
        let envelope = Envelope::parse(call)?;
        envelope.check_v1_allowed(service)?;
        let claim = match &envelope.form {
            Some(pairs) if envelope.is_v1 => ClaimedSignature::parse_v1(call, pairs)?,
            _ => ClaimedSignature::parse_v3(call)?,
        };
        let apps = verify_signature(service, &claim)?;
        envelope.check_token(call)?;
        let action = envelope.action(call)?;
        envelope.check_region(service, call)?;
        Ok(Self { action, key_id: claim.key_id, apps, envelope })
    }

    /// Parses the parameters.
    pub(super) fn params(&self, call: &ApiRequest) -> Result<Params, ApiError> {
        self.envelope.params(call)
    }
}

/// Applications of the key that made this signature.
fn verify_signature(service: &Service, claim: &ClaimedSignature) -> Result<Vec<Arc<Application>>, ApiError> {
    claim.check_timestamp(service.now().div_euclid(1000))?;
    let mut apps = service.apps.by_key(&claim.key_id);
    if apps.is_empty() {
        let message = "there is no such SecretId, or it is disabled";
        return Err(ApiError::new(ErrorCode::SecretIdNotFound, message));
    }
    let is_signer = |app: &Application| {
        app.keys
            .iter()
            .any(|key| !key.disabled && key.id == claim.key_id && claim.is_signed_with(&key.secret))
    };
    apps.retain(|app| is_signer(app));
    // An application may list the same key twice.
    apps.dedup_by(|a, b| a.name == b.name);
    if apps.is_empty() {
        let message = "the signature does not match: check the SecretKey and the signed text";
        return Err(ApiError::new(ErrorCode::SignatureFailure, message));
    }
    Ok(apps)
}

fn check_size(call: &ApiRequest, by_header: bool) -> Result<(), ApiError> {
    let (size, max_len) = match (&call.method, by_header) {
        (&Method::GET, _) => (call.query.len(), MAX_QUERY_LEN),
        (_, true) => (call.body.len(), MAX_V3_BODY_LEN),
        (_, false) => (call.body.len(), MAX_V1_BODY_LEN),
    };
    if size <= max_len {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::RequestSizeLimitExceeded,
        format!("the request has {size} bytes: the limit is {max_len}"),
    ))
}

/// Parameters of a form; `None` for any other request.
fn parse_form(call: &ApiRequest) -> Result<Option<Vec<(String, String)>>, ApiError> {
    let (text, code) = match (&call.method, content_type(call)) {
        (&Method::GET, _) => (call.query.as_bytes(), ErrorCode::UrlParamsError),
        (_, ContentType::Form) => (&call.body[..], ErrorCode::BodyParamsError),
        (_, ContentType::Json | ContentType::Multipart | ContentType::Other) => return Ok(None),
    };
    let pairs: Vec<_> = form_urlencoded::parse(text).into_owned().take(MAX_PARAMETERS + 1).collect();
    if pairs.len() > MAX_PARAMETERS {
        return Err(ApiError::new(code, format!("the form has more than {MAX_PARAMETERS} parameters")));
    }
    Ok(Some(pairs))
}

#[derive(Debug, PartialEq, Eq)]
enum ContentType {
    Json,
    Form,
    Multipart,
    Other,
}

/// Media type of the body, without its charset.
fn content_type(call: &ApiRequest) -> ContentType {
    let kind = call.header("content-type").unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => ContentType::Json,
        "application/x-www-form-urlencoded" => ContentType::Form,
        "multipart/form-data" => ContentType::Multipart,
        _ => ContentType::Other,
    }
}

fn check_region(served: &[String], requested: Option<&str>) -> Result<(), ApiError> {
    match requested {
        _ if served.is_empty() => Ok(()),
        None => Err(ApiError::missing_parameter(ErrorCode::MissingParameter, "Region")),
        Some(region) if served.iter().any(|other| other == region) => Ok(()),
        Some(_) => Err(ApiError::new(
            ErrorCode::UnsupportedRegion,
            format!("the region must be one of {}", served.join(", ")),
        )),
    }
}
