//! Tests of the dialect from signed requests to responses.

mod fields;
mod responses;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use pagecast_core::spec::Secret;
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{Cast, CastId};
use pagecast_testkit::scratch::ScratchDir;
use serde_json::json;

use super::signature::tests::{Encoding, signed_request};
use super::*;
use crate::app::{AccessKey, Application, ApplicationRegistry};
use crate::config::Config;
use crate::request_id::RequestId;

const KEY_ID: &str = "AKIDtest";
const SECRET: &str = "a secret for tests";
const NOW_MS: i64 = 1_700_000_000_000;
pub(super) const SDK_APP_ID: u64 = 1_400_000_001;

/// Builds a request from its parts.
pub(super) fn build_request(method: &str, query: &str, headers: &[(&str, &str)], body: &str) -> ApiRequest {
    let header = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    ApiRequest {
        id: RequestId::random(),
        method: method.parse::<Method>().unwrap(),
        query: query.to_owned(),
        headers: headers.iter().map(header).collect::<HeaderMap>(),
        body: axum::body::Bytes::from(body.to_owned()).into(),
    }
}

/// Decodes the names and values of a form.
pub(super) fn form_pairs(form: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(form.as_bytes()).into_owned().collect()
}

/// An application with this `SdkAppId`, the tests' key and defaults.
pub(super) fn application(name: &str, sdk_app_id: u64) -> Application {
    let mut app: Application = serde_json::from_value(json!({ "name": name })).unwrap();
    app.settings.sdk_app_id = Some(sdk_app_id);
    app.keys = vec![AccessKey { id: KEY_ID.to_owned(), secret: Secret::new(SECRET), disabled: false }];
    app.settings.max_casts = 100_000;
    app
}

/// A service with these applications, and its folder.
pub(super) fn service_with(apps: Vec<Application>) -> (Service, ScratchDir) {
    let Fixture { service, _folder: folder, .. } = Fixture::with(apps, |_| {});
    (service, folder)
}

/// A service with a real fleet and a clock that stands still.
struct Fixture {
    service: Service,
    limits: KeyedRateLimiter,
    // Dropped last, because it contains the database.
    _folder: ScratchDir,
}

impl Fixture {
    /// Starts a service with one application.
    fn new() -> Self {
        Self::with(vec![application("demo", SDK_APP_ID)], |_| {})
    }

    fn with(apps: Vec<Application>, change: impl FnOnce(&mut Config)) -> Self {
        let folder = ScratchDir::new().unwrap();
        let clock: crate::Clock = Arc::new(|| NOW_MS);
        let fleet = SqliteFleet::open(sqlite::Config {
            path: folder.path().join("fleet.db"),
            vault: Vault::from_text("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap(),
            retention: Duration::from_secs(72 * 3600),
            wall_clock: Arc::clone(&clock),
            monotonic_clock: Arc::clone(&clock),
            max_bytes: 1 << 40,
        })
        .unwrap();
        let mut config = Config { data: folder.path().join("data"), ..Config::default() };
        config.casts.max_queued_casts = 100_000;
        change(&mut config);
        let all = Arc::new(ApplicationRegistry::default());
        all.replace(apps);
        let service = Service {
            node: pagecast_fleet::WorkerId("w".to_owned()),
            fleet,
            apps: all,
            config: Arc::new(config),
            rooms: None,
            clock,
            peers: None,
            draining: Arc::default(),
            live_api_nodes: Arc::default(),
            audit: Arc::default(),
            sign_in_code: Arc::default(),
            page_checker: None,
            evidence: None,
            recordings: None,
            storage_tester: None,
        };
        Self { service, limits: KeyedRateLimiter::new(1_000_000), _folder: folder }
    }

    async fn execute(&self, call: &ApiRequest) -> Result<Map<String, Value>, ApiError> {
        execute(&self.service, call, &self.limits).await
    }

    /// Sends a request that is signed with the tests' key.
    async fn send(
        &self,
        encoding: Encoding,
        action: &str,
        params: &Value,
    ) -> Result<Map<String, Value>, ApiError> {
        self.execute(&signed_request(encoding, KEY_ID, &Secret::new(SECRET), action, params, NOW_MS / 1000))
            .await
    }

    /// Sends a request and returns the code of its error, or an empty string for success.
    async fn error_code(&self, encoding: Encoding, action: &str, params: &Value) -> &'static str {
        self.send(encoding, action, params).await.map_or_else(|error| error.code.as_str(), |_| "")
    }

    /// Starts a task and returns its cast.
    async fn start(&self, encoding: Encoding, params: &Value) -> Result<Cast, ApiError> {
        let response = self.send(encoding, "StartWebRecord", params).await?;
        assert_eq!(response.len(), 1, "{response:?}");
        let id = CastId::parse(response["TaskId"].as_str().unwrap()).unwrap();
        Ok(self.service.fleet.get(&id).await.unwrap().unwrap())
    }
}

/// The fewest parameters that start a task.
fn minimal_params() -> Value {
    json!({
        "RecordUrl": "https://example.com/room?id=1",
        "SdkAppId": SDK_APP_ID,
        "StorageParams": { "CloudStorage": {
            "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "b-125", "AccessKey": "ak", "SecretKey": "sk",
        } },
    })
}

/// Sets the parameter at a path like `A.B.0`, or removes it if there is no value.
fn with_value(mut params: Value, path: &str, value: Option<Value>) -> Value {
    let mut at = &mut params;
    let (parent, member) = path.rsplit_once('.').unwrap_or(("", path));
    for part in parent.split('.').filter(|part| !part.is_empty()) {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
        if at.is_null() {
            *at = json!({});
        }
    }
    match value {
        Some(value) => at[member] = value,
        None => drop(at.as_object_mut().unwrap().remove(member)),
    }
    params
}

/// A stored request without the body as it was made.
fn without_body(mut request: Value) -> Value {
    request.as_object_mut().unwrap().remove("body").unwrap();
    request
}
