//! `pagecast call`: asks a service as the clouds' own SDKs do, or its REST API.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use pagecast_core::error_text::root_cause;
use pagecast_core::spec::Secret;
use pagecast_server::{tencent, volcengine};
use serde::Deserialize;
use serde_json::Value;

use crate::error::CommandError;
use crate::serve::unix_ms;
use crate::{cli, console};

/// How long an answer may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// `pagecast call` ends with this when the service answered with an error.
const EXIT_API_ERROR: u8 = 2;

/// Keys of an application, as a service without configuration keeps them.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Credentials {
    /// For both clouds' APIs.
    pub(crate) access_key: String,
    /// The secret of it.
    pub(crate) secret_key: Secret,
    /// For the REST API.
    pub(crate) token: Secret,
}

/// What is asked, signed.
struct Request {
    method: reqwest::Method,
    url: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// What was answered.
pub(crate) struct Response {
    /// Whether it did what it was asked for.
    pub(crate) succeeded: bool,
    /// The whole answer.
    pub(crate) body: Value,
}

/// Where to ask, and as whom.
pub(crate) struct Client {
    endpoint: String,
    credentials: Credentials,
}

pub(crate) fn run(args: &cli::CallArgs) -> Result<ExitCode, CommandError> {
    let client = Client::new(&args.endpoint, load_credentials(&args.credentials)?);
    let body: Value = match &args.body {
        Some(text) => serde_json::from_str(text)
            .context("cannot read the body: write JSON, as in '{\"AppId\":\"demo\"}'")?,
        None => Value::Null,
    };
    let answer = client.call(&args.action, &body)?;
    console::print_result(&serde_json::to_string_pretty(&answer.body).context("the answer")?);
    Ok(if answer.succeeded { ExitCode::SUCCESS } else { ExitCode::from(EXIT_API_ERROR) })
}

/// Those of the environment, or of the file that a service without configuration makes.
fn load_credentials(file: &Path) -> anyhow::Result<Credentials> {
    let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (id, secret) = (read("PAGECAST_CALL_KEY"), read("PAGECAST_CALL_SECRET"));
    if let (Some(access_key), Some(secret_key)) = (id, secret) {
        let token = read("PAGECAST_CALL_TOKEN").map(Secret::new).unwrap_or_default();
        return Ok(Credentials { access_key, secret_key: Secret::new(secret_key), token });
    }
    let no_keys = || {
        let file = file.display();
        format!(
            "no keys: set PAGECAST_CALL_KEY and PAGECAST_CALL_SECRET, or name the service's credentials.json with \
             --credentials; cannot use {file}"
        )
    };
    let text = std::fs::read(file).with_context(no_keys)?;
    serde_json::from_slice(&text).with_context(no_keys)
}

impl Client {
    /// Asks the service at `endpoint`, like `http://127.0.0.1:8080`.
    pub(crate) fn new(endpoint: &str, credentials: Credentials) -> Self {
        Self { endpoint: endpoint.trim_end_matches('/').to_owned(), credentials }
    }

    /// Calls an action of either cloud's API, or `METHOD /path` of the REST API.
    pub(crate) fn call(&self, action: &str, body: &Value) -> anyhow::Result<Response> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.call_async(action, body))
    }

    /// As [`Self::call`], within a runtime.
    pub(crate) async fn call_async(&self, action: &str, body: &Value) -> anyhow::Result<Response> {
        let request = self.request(action, body)?;
        let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build()?;
        let mut builder = client.request(request.method, &request.url).body(request.body);
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        let unreachable =
            |error: reqwest::Error| anyhow!("no answer from {}: {}", self.endpoint, root_cause(&error));
        let answer = builder.send().await.map_err(unreachable)?;
        let status = answer.status();
        let bytes = answer.bytes().await.context("the answer broke off")?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        // Tencent's errors have status 200.
        let succeeded = status.is_success() && body.pointer("/Response/Error").is_none();
        Ok(Response { succeeded, body })
    }

    fn request(&self, action: &str, body: &Value) -> anyhow::Result<Request> {
        let lower = action.to_ascii_lowercase();
        if let Some((method, path)) = action.split_once(' ') {
            self.rest(method, path, body)
        } else if lower.ends_with("webrecord") {
            self.tencent(action, body)
        } else if lower.contains("webcast") {
            self.volcengine(action, body)
        } else {
            bail!(
                "no action {action}: StartWebcast, StopWebcast, GetWebCastTask, StartWebRecord, StopWebRecord and \
                 DescribeWebRecord are possible, and \"GET /v1/casts\" and the like"
            )
        }
    }

    fn rest(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Request> {
        let method = method.parse().map_err(|_| anyhow!("no method {method}"))?;
        let mut headers = vec![("authorization", format!("Bearer {}", self.credentials.token.reveal()))];
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        if !body.is_empty() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        Ok(Request { method, url: format!("{}{path}", self.endpoint), headers, body })
    }

    fn tencent(&self, action: &str, body: &Value) -> anyhow::Result<Request> {
        let body = if body.is_null() { "{}".to_owned() } else { body.to_string() }.into_bytes();
        let Credentials { access_key, secret_key, .. } = &self.credentials;
        let headers =
            tencent::signature::sign_v3(access_key, secret_key, self.host(), action, &body, unix_ms() / 1000);
        Ok(Request { method: reqwest::Method::POST, url: format!("{}/", self.endpoint), headers, body })
    }

    fn volcengine(&self, action: &str, body: &Value) -> anyhow::Result<Request> {
        let mut query = format!("Action={action}&Version=2020-12-01");
        let gets = action.eq_ignore_ascii_case("GetWebCastTask");
        let mut sent = Vec::new();
        if gets {
            for (name, value) in body.as_object().into_iter().flatten() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                query.push('&');
                query.push_str(
                    &form_urlencoded::Serializer::new(String::new()).append_pair(name, &value).finish(),
                );
            }
        } else {
            sent = body.to_string().into_bytes();
        }
        let method = if gets { "GET" } else { "POST" };
        let unsigned = volcengine::signature::UnsignedRequest {
            method,
            host: self.host(),
            query: &query,
            body: &sent,
            region: "cn-north-1",
        };
        let Credentials { access_key, secret_key, .. } = &self.credentials;
        let headers = volcengine::signature::sign(&unsigned, access_key, secret_key, unix_ms())
            .map_err(|_| anyhow!("the request is too long"))?;
        let method = method.parse().context("a method")?;
        Ok(Request { method, url: format!("{}/?{query}", self.endpoint), headers, body: sent })
    }

    /// Host and port, as they are sent.
    fn host(&self) -> &str {
        let rest = self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}
