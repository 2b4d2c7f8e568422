//! The explorer's part of this API: signs calls as SDKs do, and explains requests.

use serde_json::{Map, Value};

use super::request::{self, StartRequest, TaskRef, description};
use super::response::ApiError;
use super::signature::{self, QueryParam, UnsignedRequest};
use super::{
    API, Action, CALL_VERSION, DEFAULT_REGION, check_method, handle, matches, parse_action,
    reject_temporary_key,
};
use crate::config::Config;
use crate::explorer::explanation::{Checks, Explanation, KnownKeys};
use crate::explorer::{Call, Explorer, SignedCall};
use crate::route::ApiRequest;
use crate::service::Service;

/// This API in the explorer.
pub(crate) const EXPLORER: Explorer = Explorer {
    vendor: "Volcengine",
    actions: |_| description::actions(),
    sign,
    region,
    programs: |program| program.volcengine(),
    matches,
    explain,
    handle: |service, call| Box::pin(handle(service, call)),
};

fn region(config: &Config) -> &str {
    config.volcengine.regions.first().map_or(DEFAULT_REGION, String::as_str)
}

/// Signs a call in its headers.
fn sign(config: &Config, call: &Call<'_>) -> Result<SignedCall, String> {
    let action = Action::parse(call.action).ok_or("there is no such action")?;
    let mut query = format!("Action={}&Version={CALL_VERSION}", action.name_and_rate().0);
    let mut body = String::new();
    let method = if let Action::Get = action {
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        for (name, value) in call.parameters {
            pairs.append_pair(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        let pairs = pairs.finish();
        if !pairs.is_empty() {
            query = format!("{query}&{pairs}");
        }
        "GET"
    } else {
        body = Value::from(call.parameters.clone()).to_string();
        "POST"
    };
    let region = region(config);
    let unsigned = UnsignedRequest { method, host: call.host, query: &query, body: body.as_bytes(), region };
    let signed = signature::sign(&unsigned, call.key_id, call.secret, call.now)
        .map_err(|error: ApiError| error.message)?;
    let mut headers = vec![("host", call.host.to_owned())];
    headers.extend(signed.headers);
    Ok(SignedCall {
        method,
        query,
        headers,
        body,
        canonical_request: signed.canonical_request,
        string_to_sign: signed.string_to_sign,
        authorization: signed.authorization,
    })
}

fn explain(service: &Service, call: &ApiRequest, keys: &KnownKeys) -> Explanation {
    let mut checks = Checks::default();
    check(service, call, keys, &mut checks);
    checks.into_explanation(Some(API))
}

fn check(service: &Service, call: &ApiRequest, keys: &KnownKeys, checks: &mut Checks) {
    let text = |error: ApiError| error.message;
    let action = signature::parse_query(&call.query).and_then(|query| parse_action(&query));
    let passed = "the query names an action and a version of this API";
    let action = checks.record("action", action.map_err(text), passed).map(|(action, _)| action);
    if let Some(action) = action {
        let method = check_method(action, call).map_err(text);
        checks.record("method", method, "the action is called with its HTTP method");
    }
    let regions = &service.config.volcengine.regions;
    let Some(identified) = signature::explain(call, service.now(), regions, keys, checks) else { return };
    let token = reject_temporary_key(call, &identified.query).map_err(text);
    checks.record("token", token, "there is no security token of a temporary key");
    let Some(action) = action else { return };
    let task = parse_parameters(action, call, &identified.query).map_err(text);
    let Some(task) = checks.record("parameters", task, "all parameters have allowed values") else { return };
    let is_owner = |app: &crate::app::Application| app.settings.app_id.as_deref() == Some(&task.app_id);
    if keys.owners(&identified.key_id).any(|(app, _)| is_owner(app)) {
        checks.pass("application", "the key belongs to the application that AppId names");
    } else {
        checks.fail("application", "the key belongs to no application with this AppId: check the app_id");
    }
}

/// Parses the parameters of an action, as [`super::execute`] does.
fn parse_parameters(action: Action, call: &ApiRequest, query: &[QueryParam]) -> Result<TaskRef, ApiError> {
    let fields: Map<String, Value> = match action {
        Action::Get => request::query_fields(query),
        Action::Start | Action::Stop => request::parse_body(&call.body)?,
    };
    if let Action::Start = action {
        StartRequest::parse(&fields)?.page_url()?;
    }
    TaskRef::parse(&fields)
}
