//! The requests.

use anyhow::{Result, ensure};
use pagecast_testkit::http::{self, Response};
use pagecast_testkit::service::REST_TOKEN;
use pagecast_testkit::sign;
use serde_json::json;

/// Number of access keys: the most that an application may have. The limit is 150 requests per second and
/// key.
pub(super) const KEY_COUNT: usize = 32;
pub(super) const SECRET: &str = "c2VjcmV0LW9mLXRoZS1iZW5jaA==";
pub(super) const APP_ID: &str = "bbbbbbbbbbbbbbbbbbbbbbbb";

/// Token of the application.
pub(super) fn rest_token() -> String {
    format!("{REST_TOKEN}-bench")
}

/// Id of an access key.
pub(super) fn access_key(n: usize) -> String {
    format!("AKBENCH{:02}", n % KEY_COUNT)
}

/// A request that can be sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Request {
    /// Sends the request and reads the response.
    pub(super) fn send(&self, url: &str) -> Result<Response> {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        http::request(self.method, &format!("{url}{}", self.path), &headers, self.body.as_bytes())
    }

    /// Sends the request, which must succeed.
    pub(super) fn send_expecting_ok(&self, url: &str) -> Result<()> {
        let answer = self.send(url)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    }
}

/// A call without a signature.
pub(super) struct UnsignedCall {
    method: &'static str,
    query: String,
    body: String,
}

/// Call that starts a task.
pub(super) fn start_webcast(task: usize) -> UnsignedCall {
    let body = json!({
        "AppId": APP_ID, "RoomId": format!("room-{task}"), "TaskId": format!("task-{task}"),
        "UserId": "bench",
        "SourceURL": format!("http://127.0.0.1/page?task={task}"), "MaxRunningTime": 3600,
        // The smallest picture, so that the service admits many casts.
        "VideoSolutions": [{ "Width": 50, "Height": 50, "FrameRate": 1, "Bitrate": 100 }],
    });
    let query = "Action=StartWebcast&Version=2023-11-01".to_owned();
    UnsignedCall { method: "POST", query, body: body.to_string() }
}

/// Call that describes a task.
pub(super) fn get_task(task: usize) -> UnsignedCall {
    let query = format!(
        "Action=GetWebCastTask&AppId={APP_ID}&RoomId=room-{task}&TaskId=task-{task}&Version=2023-11-01"
    );
    UnsignedCall { method: "GET", query, body: String::new() }
}

/// Request for the newest casts.
pub(super) fn list_casts() -> Request {
    rest_get("/v1/casts?limit=50")
}

/// GET request to the REST API.
pub(super) fn rest_get(path: &str) -> Request {
    let headers = vec![("authorization", format!("Bearer {}", rest_token()))];
    Request { method: "GET", path: path.to_owned(), headers, body: String::new() }
}

/// Signs calls with all keys in turn.
pub(super) struct RequestSigner {
    host: String,
    signed_count: usize,
}

impl RequestSigner {
    pub(super) fn new(host: String) -> Self {
        Self { host, signed_count: 0 }
    }

    pub(super) fn sign(&mut self, call: &UnsignedCall, date: &str) -> Result<Request> {
        self.signed_count += 1;
        let (key, body) = (access_key(self.signed_count), call.body.as_bytes());
        let headers = sign::volcengine(call.method, &self.host, &call.query, body, (&key, SECRET), date)?;
        Ok(Request {
            method: call.method,
            path: format!("/?{}", call.query),
            headers,
            body: call.body.clone(),
        })
    }
}
