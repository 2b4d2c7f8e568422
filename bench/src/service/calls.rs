//! What is asked.

use anyhow::{Result, ensure};
use pagecast_testkit::http::{self, Answer};
use pagecast_testkit::service::TOKEN;
use pagecast_testkit::sign;
use serde_json::json;

/// As many as an application may have; each may ask 150 times a second.
pub(super) const KEYS: usize = 32;
pub(super) const SECRET: &str = "c2VjcmV0LW9mLXRoZS1iZW5jaA==";
pub(super) const APP_ID: &str = "bbbbbbbbbbbbbbbbbbbbbbbb";

/// The token of the application.
pub(super) fn token() -> String {
    format!("{TOKEN}-bench")
}

/// An access key.
pub(super) fn key(n: usize) -> String {
    format!("AKBENCH{:02}", n % KEYS)
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Request {
    /// Sends it, and reads the answer.
    pub(super) fn ask(&self, url: &str) -> Result<Answer> {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        http::request(self.method, &format!("{url}{}", self.path), &headers, self.body.as_bytes())
    }

    /// The same; it must be a success.
    pub(super) fn carry_out(&self, url: &str) -> Result<()> {
        let answer = self.ask(url)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    }
}

/// A call that is not signed yet.
pub(super) struct Call {
    method: &'static str,
    query: String,
    body: String,
}

/// Asks for a task.
pub(super) fn start(task: usize) -> Call {
    let body = json!({
        "AppId": APP_ID, "RoomId": format!("room-{task}"), "TaskId": format!("task-{task}"), "UserId": "bench",
        "SourceURL": format!("http://127.0.0.1/page?task={task}"), "MaxRunningTime": 3600,
        // The smallest, so that the service lets many be run at once.
        "VideoSolutions": [{ "Width": 50, "Height": 50, "FrameRate": 1, "Bitrate": 100 }],
    });
    let query = "Action=StartWebcast&Version=2023-11-01".to_owned();
    Call { method: "POST", query, body: body.to_string() }
}

/// Asks how a task stands.
pub(super) fn get(task: usize) -> Call {
    let query = format!(
        "Action=GetWebCastTask&AppId={APP_ID}&RoomId=room-{task}&TaskId=task-{task}&Version=2023-11-01"
    );
    Call { method: "GET", query, body: String::new() }
}

/// Asks for the newest casts.
pub(super) fn list() -> Request {
    rest("/v1/casts?limit=50")
}

/// Asks the REST API.
pub(super) fn rest(path: &str) -> Request {
    let headers = vec![("authorization", format!("Bearer {}", token()))];
    Request { method: "GET", path: path.to_owned(), headers, body: String::new() }
}

/// Signs calls, each with another key than the one before.
pub(super) struct Asker {
    host: String,
    signed: usize,
}

impl Asker {
    pub(super) fn new(host: String) -> Self {
        Self { host, signed: 0 }
    }

    pub(super) fn call(&mut self, call: &Call, date: &str) -> Result<Request> {
        self.signed += 1;
        let (key, body) = (key(self.signed), call.body.as_bytes());
        let headers = sign::volcengine(call.method, &self.host, &call.query, body, (&key, SECRET), date)?;
        Ok(Request {
            method: call.method,
            path: format!("/?{}", call.query),
            headers,
            body: call.body.clone(),
        })
    }
}
