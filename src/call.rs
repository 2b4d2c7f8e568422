//! `pagecast call`: calls the vendors' APIs of a service, signed as by their SDKs, or its REST API.

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

/// Longest time for a call: services response within seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Exit code if the service answered with an error.
pub(crate) const EXIT_API_ERROR: u8 = 2;

/// Keys of an application, in the format of a service's `credentials.json`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Credentials {
    /// Id of the key for both vendors' APIs.
    pub(crate) access_key: String,
    /// Secret of the key.
    pub(crate) secret_key: Secret,
    /// Bearer token of the REST API.
    pub(crate) token: Secret,
}

/// A signed request.
struct Request {
    method: reqwest::Method,
    url: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// The response to a call.
pub(crate) struct Response {
    /// Whether the call succeeded.
    pub(crate) succeeded: bool,
    /// The whole body; a string if it is not JSON.
    pub(crate) body: Value,
}

/// Calls a service with these credentials.
pub(crate) struct Client {
    endpoint: String,
    credentials: Credentials,
}

pub(crate) fn run(args: &cli::CallArgs) -> Result<ExitCode, CommandError> {
    let client = Client::new(&args.endpoint, load_credentials(&args.credentials)?);
    let body: Value = match &args.body {
        Some(text) => serde_json::from_str(text)
            .context("the body is not valid JSON: write it as in '{\"AppId\":\"demo\"}'")?,
        None => Value::Null,
    };
    let response = client.call(&args.action, &body)?;
    console::print_result(
        &serde_json::to_string_pretty(&response.body).context("cannot print the response")?,
    );
    Ok(if response.succeeded { ExitCode::SUCCESS } else { ExitCode::from(EXIT_API_ERROR) })
}

/// Reads the credentials from the environment, or from the file that a service without configuration creates.
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
            "no keys: set PAGECAST_CALL_KEY and PAGECAST_CALL_SECRET, or pass the service's \
             credentials.json with \
             --credentials; cannot read {file}"
        )
    };
    let text = std::fs::read(file).with_context(no_keys)?;
    serde_json::from_slice(&text).with_context(no_keys)
}

/// Reads the token of the REST API from the environment, or from the file that a service without
/// configuration creates.
pub(crate) fn load_token(file: &Path) -> anyhow::Result<Credentials> {
    if let Some(token) = std::env::var("PAGECAST_CALL_TOKEN").ok().filter(|token| !token.is_empty()) {
        return Ok(Credentials { token: Secret::new(token), ..Credentials::default() });
    }
    let no_token = || {
        format!(
            "no token: set PAGECAST_CALL_TOKEN, or pass the service's credentials.json with --credentials; \
             cannot read {}",
            file.display()
        )
    };
    let text = std::fs::read(file).with_context(no_token)?;
    serde_json::from_slice(&text).with_context(no_token)
}

impl Client {
    /// A client for the service at `endpoint`, like `http://127.0.0.1:8080`.
    pub(crate) fn new(endpoint: &str, credentials: Credentials) -> Self {
        Self { endpoint: endpoint.trim_end_matches('/').to_owned(), credentials }
    }

    /// Calls an action of either vendor's API, or `METHOD /path` of the REST API.
    pub(crate) fn call(&self, action: &str, body: &Value) -> anyhow::Result<Response> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.call_async(action, body))
    }

    /// Does [`Self::call`] within a runtime.
    pub(crate) async fn call_async(&self, action: &str, body: &Value) -> anyhow::Result<Response> {
        let request = self.request(action, body)?;
        let client = pagecast_egress::http::client_builder().no_proxy().timeout(REQUEST_TIMEOUT).build()?;
        let mut builder = client.request(request.method, &request.url).body(request.body);
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        let unreachable =
            |error: reqwest::Error| anyhow!("no response from {}: {}", self.endpoint, root_cause(&error));
        let response = builder.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.context("the connection was lost during the response")?;
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
                "unknown action {action}: use StartWebcast, StopWebcast, GetWebCastTask, StartWebRecord, \
                 StopWebRecord or \
                DescribeWebRecord, or a method and path like \"GET /v1/casts\""
            )
        }
    }

    fn rest(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Request> {
        let method = method.parse().map_err(|_| anyhow!("{method} is not an HTTP method"))?;
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
        let is_get = action.eq_ignore_ascii_case("GetWebCastTask");
        let mut sent = Vec::new();
        if is_get {
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
        let method = if is_get { "GET" } else { "POST" };
        let unsigned = volcengine::signature::UnsignedRequest {
            method,
            host: self.host(),
            query: &query,
            body: &sent,
            region: "cn-north-1",
        };
        let Credentials { access_key, secret_key, .. } = &self.credentials;
        let headers = volcengine::signature::sign(&unsigned, access_key, secret_key, unix_ms())
            .map_err(|_| anyhow!("the request is too long"))?
            .headers;
        let method = method.parse().context("cannot use the HTTP method")?;
        Ok(Request { method, url: format!("{}/?{query}", self.endpoint), headers, body: sent })
    }

    /// Returns host and port as sent in the `Host` header.
    fn host(&self) -> &str {
        let rest = self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}
