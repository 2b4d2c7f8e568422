//! The explorer of the vendors' APIs: descriptions of their actions, calls that are signed here, and
//! explanations of refused requests.

use axum::body::to_bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::{ApiError, Caller, ErrorCode, Json, RestState, json_response, session};
use crate::RequestId;
use crate::app::{AccessKey, Application};
use crate::explorer::description::Action;
use crate::explorer::explanation::{Checks, Explanation, KnownKeys};
use crate::explorer::program::{Program, Programs};
use crate::explorer::{self, Call, EXPLORERS, Explorer, SignedCall, raw_request};
use crate::internal_error::InternalError;
use crate::service::Service;

/// Longest JSON of a call's parameters, in bytes: the largest body of a webcast.
const MAX_PARAMETERS_LEN: usize = 64 << 10;
/// Longest answer that is shown, in bytes: answers of these actions have some kilobytes.
const MAX_ANSWER_LEN: usize = 256 << 10;

/// What the explorer can call.
#[derive(Serialize, ToSchema)]
#[schema(as = Explorer)]
pub(super) struct ExplorerView {
    /// The actions of both vendors.
    actions: Vec<Action>,
    /// Keys of the caller's applications that are not disabled.
    keys: Vec<ExplorerKey>,
}

/// A key that can sign calls.
#[derive(Serialize, ToSchema)]
struct ExplorerKey {
    /// Application of the key.
    app: String,
    /// Access key id.
    id: String,
}

/// Call of a vendor's action.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplorerCallRequest {
    /// Application whose key signs the call. The administrator must name one.
    app: Option<String>,
    /// Id of the key; by default the first one that is not disabled.
    key: Option<String>,
    /// Name of the action.
    #[schema(example = "GetWebCastTask")]
    action: String,
    /// Parameters of the action, at most 64 KiB. They are sent as they are, right or wrong.
    #[serde(default)]
    #[schema(value_type = Object)]
    parameters: Map<String, Value>,
    /// Whether the call is made. Otherwise it is only signed.
    #[serde(default)]
    send: bool,
}

/// A call as it was signed, and its answer.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplorerCall)]
pub(super) struct ExplorerCallView {
    /// The request, with its signature.
    request: CallRequestView,
    /// Canonical request from which the signature was made.
    canonical_request: String,
    /// String to sign, with the hash of the canonical request.
    string_to_sign: String,
    /// Value of the header `Authorization`.
    authorization: String,
    /// The answer; null if the call was not made.
    #[schema(required = true)]
    response: Option<CallResponseView>,
    /// The same call in other languages.
    code: Programs,
}

/// Signed request.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplorerCallRequestParts)]
struct CallRequestView {
    /// HTTP method.
    method: &'static str,
    /// Address with query.
    url: String,
    /// Headers with their values.
    headers: BTreeMap<String, String>,
    /// Body; empty for GET.
    body: String,
}

/// Answer to a call.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplorerCallResponse)]
struct CallResponseView {
    /// HTTP status.
    status: u16,
    /// Headers with their values.
    headers: BTreeMap<String, String>,
    /// Body, as it was sent.
    body: String,
}

/// A request that was refused.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainRequest {
    /// The request as text, at most 128 KiB: request line, headers, an empty line, body.
    #[schema(example = "POST /?Action=StopWebcast&Version=2020-12-01 HTTP/1.1\nHost: …\n\n{…}")]
    request: String,
}

/// Describe the actions of both vendors' APIs.
#[utoipa::path(get, path = "/v1/explorer", tag = "explorer", operation_id = "getExplorer",
    responses((status = 200, description = "The actions with all parameters, and the keys that the caller \
        can call them with.", body = ExplorerView)))]
pub(super) async fn get(State(rest): State<RestState>, caller: Caller) -> Response {
    let service = &rest.service;
    let mut keys = Vec::new();
    for app in applications_of(service, &caller) {
        for key in app.keys.iter().filter(|key| !key.disabled) {
            keys.push(ExplorerKey { app: app.name.clone(), id: key.id.clone() });
        }
    }
    let view = ExplorerView { actions: explorer::actions(&service.config), keys };
    json_response(StatusCode::OK, &view)
}

/// Sign a call of a vendor's action with a key of an application, and make it.
///
/// The call is checked and limited as one from outside. The secret of the key is not shown.
#[utoipa::path(post, path = "/v1/explorer/call", tag = "explorer", operation_id = "callAction",
    request_body = ExplorerCallRequest,
    responses((status = 200, description = "The call, its signature, and its answer, whatever that says.",
            body = ExplorerCallView),
        (status = 400, description = "`invalid-parameter`, `bad-request`.", body = ErrorResponse),
        (status = 403, description = "`forbidden`: the application is another one.", body = ErrorResponse),
        (status = 404, description = "`no-such-key`: the application has no such key.",
            body = ErrorResponse)))]
pub(super) async fn call(
    State(rest): State<RestState>,
    caller: Caller,
    headers: HeaderMap,
    Json { value: body, .. }: Json<ExplorerCallRequest>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let app = caller.resolve_application(service, body.app.as_deref())?;
    let key = find_key(&app, body.key.as_deref())?;
    let (explorer, action) = find_action(service, &body.action)?;
    let parameters_len = serde_json::to_string(&body.parameters).map_or(0, |text| text.len());
    if parameters_len > MAX_PARAMETERS_LEN {
        let message =
            format!("the parameters have {parameters_len} bytes: the limit is {MAX_PARAMETERS_LEN}");
        return Err(ApiError::invalid_parameter("parameters", message));
    }
    let origin = session::origin(service, &headers)?;
    let (scheme, host) = origin.split_once("://").unwrap_or(("http", &origin));
    let call = Call {
        action: action.action,
        parameters: &body.parameters,
        host,
        key_id: &key.id,
        secret: &key.secret,
        now: service.now(),
    };
    let signed = (explorer.sign)(&service.config, &call)
        .map_err(|message| ApiError::invalid_parameter("parameters", message))?;
    let response = if body.send { Some(send(service, explorer, &signed).await?) } else { None };
    let program = Program {
        action: action.action,
        version: action.version,
        is_get: signed.method == "GET",
        region: (explorer.region)(&service.config),
        parameters: &body.parameters,
        host,
        scheme,
    };
    let code = (explorer.programs)(&program);
    Ok(json_response(StatusCode::OK, &ExplorerCallView::new(&origin, signed, response, code)))
}

/// Explain why a request to a vendor's API was refused.
///
/// The request is not made. Only keys of the caller's applications are used; the explanation contains no
/// secret and no signature. The time of the request is compared with the present one, so `clock` fails for
/// every older request, and is the verdict only if nothing else is wrong.
#[utoipa::path(post, path = "/v1/explorer/explain", tag = "explorer", operation_id = "explainRequest",
    request_body = ExplainRequest,
    responses((status = 200, description = "The explanation.", body = Explanation),
        (status = 400, description = "`invalid-parameter`: the text is no HTTP request.",
            body = ErrorResponse)))]
pub(super) async fn explain(
    State(rest): State<RestState>,
    caller: Caller,
    Json { value: body, .. }: Json<ExplainRequest>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let parsed = raw_request::parse(&body.request)
        .map_err(|message| ApiError::invalid_parameter("request", message))?;
    let known = KnownKeys(applications_of(service, &caller));
    let explorer = EXPLORERS.iter().find(|explorer| (explorer.matches)(&parsed.call));
    let mut first = Checks::default();
    match explorer {
        Some(explorer) => {
            first.pass("api", format!("the request is meant for the API of {}", explorer.vendor));
        }
        None => first.fail(
            "api",
            "the request is for neither vendor's API: it has no signature, and no Action and Version that \
             they know",
        ),
    }
    if parsed.path != "/" {
        first.fail("path", "both vendors' APIs are at the path /, which is also what SDKs sign");
    }
    if let Some(len) = parsed.stated_len {
        let found = parsed.call.body.len();
        let message = format!(
            "the body has {found} bytes here, and Content-Length says {len}: the text is incomplete or was \
             changed when it was copied"
        );
        first.fail("length", message);
    }
    let explanation = match explorer {
        Some(explorer) => first.followed_by((explorer.explain)(service, &parsed.call, &known)),
        None => first.into_explanation(None),
    };
    Ok(json_response(StatusCode::OK, &explanation))
}

/// Applications whose keys a caller may use.
fn applications_of(service: &Service, caller: &Caller) -> Vec<Arc<Application>> {
    match caller {
        Caller::Administrator => service.apps.all(),
        Caller::Application(app) => vec![Arc::clone(app)],
    }
}

fn find_key<'a>(app: &'a Application, id: Option<&str>) -> Result<&'a AccessKey, ApiError> {
    let missing = |message| ApiError::new(ErrorCode::NoSuchKey, message).with_field("key");
    let Some(id) = id else {
        let first = app.keys.iter().find(|key| !key.disabled);
        return first.ok_or_else(|| missing("this application has no key that is not disabled: add one"));
    };
    let found = app.keys.iter().find(|key| key.id == id);
    let found = found.ok_or_else(|| missing("this application has no key with this id"))?;
    if found.disabled {
        return Err(ApiError::invalid_parameter(
            "key",
            "this key is disabled: enable it, or use another one",
        ));
    }
    Ok(found)
}

fn find_action(service: &Service, name: &str) -> Result<(&'static Explorer, Action), ApiError> {
    let find = |explorer: &'static Explorer| {
        let mut actions = (explorer.actions)(&service.config).into_iter();
        actions.find(|action| action.action == name).map(|action| (explorer, action))
    };
    EXPLORERS.iter().find_map(find).ok_or_else(|| {
        ApiError::invalid_parameter("action", "there is no such action: GET /v1/explorer lists all of them")
    })
}

/// Hands a call to its API as if it had arrived from outside.
async fn send(
    service: &Service,
    explorer: &Explorer,
    signed: &SignedCall,
) -> Result<CallResponseView, ApiError> {
    let malformed = || ApiError::invalid_parameter("parameters", "a value cannot be part of a request");
    let call = signed.to_request(RequestId::random()).ok_or_else(malformed)?;
    let (head, body) = (explorer.handle)(service, call).await.into_parts();
    let body = to_bytes(body, MAX_ANSWER_LEN).await.map_err(|error| {
        ApiError::internal(InternalError::new("read the answer to a call", &error), "the answer is too long")
    })?;
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    Ok(CallResponseView {
        status: head.status.as_u16(),
        headers: headers.collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

impl ExplorerCallView {
    fn new(origin: &str, signed: SignedCall, response: Option<CallResponseView>, code: Programs) -> Self {
        let SignedCall { method, query, headers, body, canonical_request, string_to_sign, authorization } =
            signed;
        let url = if query.is_empty() { format!("{origin}/") } else { format!("{origin}/?{query}") };
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let request = CallRequestView { method, url, headers, body };
        Self { request, canonical_request, string_to_sign, authorization, response, code }
    }
}
