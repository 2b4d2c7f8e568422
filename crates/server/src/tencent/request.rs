//! From a request as it came to what is asked for, and by whom.

use std::sync::Arc;

use axum::http::Method;

use super::VERSION;
use super::params::{MAX_PARAMETERS, Params};
use super::response::ApiError;
use super::signature::{self, ClaimedSignature};
use crate::Service;
use crate::app::Application;
use crate::route::ApiRequest;

/// Largest query of a GET, in bytes.
const MAX_QUERY_LEN: usize = 32 << 10;
/// Largest body with a signature of version 1, in bytes.
const MAX_V1_BODY_LEN: usize = 1 << 20;
/// Largest body with a signature of version 3, in bytes.
const MAX_V3_BODY_LEN: usize = 10 << 20;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Stop,
    Describe,
}

impl Action {
    const ALL: [Self; 3] = [Self::Start, Self::Stop, Self::Describe];

    /// The vendor's word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "StartWebRecord",
            Self::Stop => "StopWebRecord",
            Self::Describe => "DescribeWebRecord",
        }
    }
}

/// Who asks, and for what, but not with which parameters.
#[derive(Debug)]
pub(super) struct AuthenticatedRequest {
    pub action: Action,
    pub key_id: String,
    /// The applications that the key may act for, one at least.
    pub apps: Vec<Arc<Application>>,
    /// The parameters, if they came as a form.
    form: Option<Vec<(String, String)>>,
}

/// Whether a request says by itself that it is meant for this vendor's API.
pub(crate) fn matches(call: &ApiRequest) -> bool {
    let ours = |name: &str, value: &str| name == "SecretId" || name == "Version" && value == VERSION;
    // What is longer than that is refused, but in the words of whose request it is.
    let marked = |bytes: &[u8], most: usize| {
        form_urlencoded::parse(&bytes[..bytes.len().min(most)]).any(|(name, value)| ours(&name, &value))
    };
    call.headers.keys().any(|name| name.as_str().starts_with("x-tc-"))
        || call.header("authorization").is_some_and(|value| value.starts_with(signature::ALGORITHM))
        || marked(call.query.as_bytes(), MAX_QUERY_LEN)
        || content_type(call) == ContentType::Form && marked(&call.body, MAX_V1_BODY_LEN)
}

/// The id of the key that a request names, whether it proves it or not; empty if it names none.
pub(super) fn claimed_key_id(call: &ApiRequest) -> String {
    if let Some(authorization) = call.header("authorization") {
        return signature::claimed_key_id(authorization).to_owned();
    }
    let form = parse_form(call).ok().flatten().unwrap_or_default();
    form.into_iter().find(|(name, _)| name == "SecretId").map(|(_, id)| id).unwrap_or_default()
}

impl AuthenticatedRequest {
    /// Reads a request and has it prove whose it is.
    pub(super) fn authenticate(service: &Service, call: &ApiRequest) -> Result<Self, ApiError> {
        if !matches!(call.method, Method::GET | Method::POST) {
            return Err(ApiError::new("UnsupportedProtocol", "only GET and POST are possible"));
        }
        let by_header = call.headers.contains_key("authorization");
        check_size(call, by_header)?;
        let form = parse_form(call)?;
        let of_form = |name: &str| {
            let found = form.iter().flatten().find(|(n, v)| n == name && !v.is_empty());
            found.map(|(_, value)| value.as_str())
        };
        let first_version = !by_header && (of_form("SecretId").is_some() || of_form("Signature").is_some());
        let claim = match &form {
            Some(_) if first_version && !service.config.tencent.v1_signatures => {
                let words = "signatures of version 1 (HmacSHA1, HmacSHA256) are not accepted here: sign with TC3-HMAC-SHA256";
                return Err(ApiError::new("AuthFailure.SignatureFailure", words));
            }
            Some(pairs) if first_version => ClaimedSignature::parse_v1(call, pairs)?,
            _ => ClaimedSignature::parse_v3(call)?,
        };
        let apps = verify_signature(service, &claim)?;
        // The first version has them among the parameters, the third one in headers.
        let common = |name: &str| {
            let of_header = || call.header(&format!("x-tc-{name}")).filter(|value| !value.is_empty());
            if first_version { of_form(name) } else { of_header() }
        };
        if common("Token").is_some() {
            let words =
                "there are no temporary keys here: use a key of the application, and leave out the token";
            return Err(ApiError::new("AuthFailure.TokenFailure", words));
        }
        let needed = |name| common(name).ok_or_else(|| ApiError::missing_parameter("MissingParameter", name));
        let action = needed("Action")?;
        if needed("Version")? != VERSION {
            return Err(ApiError::new("NoSuchVersion", format!("only version {VERSION} is served")));
        }
        let action = Action::ALL
            .into_iter()
            .find(|known| known.as_str() == action)
            .ok_or_else(|| ApiError::new("InvalidAction", "there is no such action"))?;
        check_region(&service.config.tencent.regions, common("Region"))?;
        Ok(Self { action, key_id: claim.key_id, apps, form })
    }

    /// The parameters.
    pub(super) fn params(&self, call: &ApiRequest) -> Result<Params, ApiError> {
        match (&self.form, content_type(call)) {
            (Some(pairs), _) => Params::from_form(pairs),
            (None, ContentType::Multipart) => {
                Err(ApiError::new("InvalidRequest", "multipart bodies are for other actions: send JSON"))
            }
            (None, ContentType::Other) => {
                let words = "the Content-Type must be application/json or application/x-www-form-urlencoded";
                Err(ApiError::new("InvalidParameter.BodyParamsError", words))
            }
            (None, ContentType::Json | ContentType::Form) => Params::from_json(&call.body),
        }
    }
}

/// The applications of the key that made this signature.
fn verify_signature(service: &Service, claim: &ClaimedSignature) -> Result<Vec<Arc<Application>>, ApiError> {
    claim.check_timestamp(service.now().div_euclid(1000))?;
    let mut apps = service.apps.by_key(&claim.key_id);
    if apps.is_empty() {
        let words = "there is no such SecretId, or it is disabled";
        return Err(ApiError::new("AuthFailure.SecretIdNotFound", words));
    }
    let own = |app: &Application| {
        app.keys
            .iter()
            .any(|key| !key.disabled && key.id == claim.key_id && claim.is_signed_with(&key.secret))
    };
    apps.retain(|app| own(app));
    // An application may have the same key twice.
    apps.dedup_by(|a, b| a.name == b.name);
    if apps.is_empty() {
        let words = "the signature does not match: check the SecretKey and what is signed";
        return Err(ApiError::new("AuthFailure.SignatureFailure", words));
    }
    Ok(apps)
}

fn check_size(call: &ApiRequest, by_header: bool) -> Result<(), ApiError> {
    let (size, most) = match (&call.method, by_header) {
        (&Method::GET, _) => (call.query.len(), MAX_QUERY_LEN),
        (_, true) => (call.body.len(), MAX_V3_BODY_LEN),
        (_, false) => (call.body.len(), MAX_V1_BODY_LEN),
    };
    if size <= most {
        return Ok(());
    }
    Err(ApiError::new(
        "RequestSizeLimitExceeded",
        format!("the request has {size} bytes, {most} are possible"),
    ))
}

/// The parameters of a request that has them as a form; `None` for any other.
fn parse_form(call: &ApiRequest) -> Result<Option<Vec<(String, String)>>, ApiError> {
    let (text, code) = match (&call.method, content_type(call)) {
        (&Method::GET, _) => (call.query.as_bytes(), "InvalidParameter.UrlParamsError"),
        (_, ContentType::Form) => (&call.body[..], "InvalidParameter.BodyParamsError"),
        (_, ContentType::Json | ContentType::Multipart | ContentType::Other) => return Ok(None),
    };
    let pairs: Vec<_> = form_urlencoded::parse(text).into_owned().take(MAX_PARAMETERS + 1).collect();
    if pairs.len() > MAX_PARAMETERS {
        return Err(ApiError::new(code, format!("there are more than {MAX_PARAMETERS} parameters")));
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

/// What a body says it is, whatever charset stands behind it.
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

fn check_region(served: &[String], asked: Option<&str>) -> Result<(), ApiError> {
    match asked {
        _ if served.is_empty() => Ok(()),
        None => Err(ApiError::missing_parameter("MissingParameter", "Region")),
        Some(region) if served.iter().any(|other| other == region) => Ok(()),
        Some(_) => Err(ApiError::new("UnsupportedRegion", format!("the regions are {}", served.join(", ")))),
    }
}
