//! The explorer's part of this API: signs calls as SDKs do, and explains requests.

use std::sync::Arc;

use serde_json::Value;

use super::request::{self, Action};
use super::response::ApiError;
use super::signature::{self, sign_v3_with_texts};
use super::{API, VERSION, description, handle, matches, start, task};
use crate::app::Application;
use crate::config::Config;
use crate::explorer::explanation::{Checks, Explanation, KnownKeys};
use crate::explorer::{Call, Explorer, SignedCall};
use crate::route::ApiRequest;
use crate::service::Service;

/// This API in the explorer.
pub(crate) const EXPLORER: Explorer = Explorer {
    vendor: "Tencent",
    actions: description::actions,
    sign,
    region,
    programs: |program| program.tencent(),
    matches,
    explain,
    handle: |service, call| Box::pin(handle(service, call)),
};
/// Region of calls, unless the configuration names some: SDKs always send one.
const DEFAULT_REGION: &str = "ap-guangzhou";

fn region(config: &Config) -> &str {
    config.tencent.regions.first().map_or(DEFAULT_REGION, String::as_str)
}

/// Signs a call by version 3.
fn sign(config: &Config, call: &Call<'_>) -> Result<SignedCall, String> {
    let body = Value::from(call.parameters.clone()).to_string();
    let unix_s = call.now.div_euclid(1000);
    let signed =
        sign_v3_with_texts(call.key_id, call.secret, call.host, call.action, body.as_bytes(), unix_s);
    let mut headers = vec![("Host", call.host.to_owned())];
    headers.extend(signed.headers);
    headers.push(("X-TC-Region", region(config).to_owned()));
    Ok(SignedCall {
        method: "POST",
        query: String::new(),
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
    let envelope = request::Envelope::parse(call).map_err(text);
    let passed = "the request is a GET or POST of an allowed size";
    let Some(envelope) = checks.record("size", envelope, passed) else { return };
    if envelope.is_v1 {
        let passed = "signatures of version 1 are accepted";
        checks.record("version", envelope.check_v1_allowed(service).map_err(text), passed);
    }
    let v1_form = envelope.form.as_deref().filter(|_| envelope.is_v1);
    let now_s = service.now().div_euclid(1000);
    let key_id = signature::explain(call, v1_form, now_s, keys, checks);
    checks.record("token", envelope.check_token(call).map_err(text), "there is no token of a temporary key");
    let action = envelope.action(call).map_err(text);
    let passed = "the request names an action and the version of this API";
    let action = checks.record("action", action, passed);
    let region = envelope.check_region(service, call).map_err(text);
    checks.record("region", region, "the region is accepted");
    let (Some(key_id), Some(action)) = (key_id, action) else { return };
    let mut apps: Vec<Arc<Application>> = keys.owners(&key_id).map(|(app, _)| Arc::clone(app)).collect();
    apps.dedup_by(|a, b| a.name == b.name);
    let params = envelope.params(call).and_then(|params| match action {
        Action::Start => start::new_cast(service, &apps, &params.root()).map(drop),
        Action::Stop => task::check_stop_params(&params),
        Action::Describe => task::check_describe_params(&params),
    });
    checks.record(
        "parameters",
        params.map_err(text),
        &format!("all parameters of version {VERSION} are allowed"),
    );
}
