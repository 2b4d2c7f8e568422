//! Logs requests of the page that failed, and the HTTP status of its document.

use std::collections::HashMap;

use pagecast_core::dry_run::{FailedRequest, MAX_FAILED_REQUESTS};
use serde_json::{Value, json};

use super::context::CdpCommand;
use super::error::explain_net_error;
use super::load_failure::describe_denial;
use crate::egress::{ConnectError, ConnectionFailures};

/// Most requests in flight that are followed; failures of further ones are not logged.
const MAX_PENDING: usize = 1000;
/// Characters that are kept of an address.
const MAX_URL_CHARS: usize = 500;
/// Characters that are kept of a reason.
const MAX_REASON_CHARS: usize = 300;
/// Characters that are kept of the browser's name for the kind of a resource.
const MAX_TYPE_CHARS: usize = 32;
/// Bytes of response bodies that the browser keeps for DevTools, in all and of one: nobody reads them.
const MAX_BODY_BYTES: u32 = 1;

/// Command that makes the browser report requests.
pub(super) fn enable_command() -> CdpCommand {
    let limits = json!({"maxTotalBufferSize": MAX_BODY_BYTES, "maxResourceBufferSize": MAX_BODY_BYTES});
    ("Network.enable", limits)
}

/// A request without a final response.
#[derive(Debug)]
struct PendingRequest {
    url: String,
    resource_type: String,
    is_document: bool,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    Status(u16),
    /// The browser's error code, like `net::ERR_FAILED`.
    Network(String),
    /// The browser blocked the request, for a reason in its own words.
    Blocked(String),
}

/// Failed requests of a page.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    pending: HashMap<String, PendingRequest>,
    /// The first [`MAX_FAILED_REQUESTS`].
    failed: Vec<(PendingRequest, Failure)>,
    failed_count: u64,
    /// The page's own frame: the first one that requests a document.
    main_frame: Option<String>,
    document_status: Option<u16>,
}

impl RequestLog {
    /// Handles an event of the domain `Network`; `is_page` is false for the session of a frame.
    pub(super) fn handle_event(&mut self, is_page: bool, method: &str, params: &Value) {
        let id = params["requestId"].as_str().unwrap_or_default();
        match method {
            "Network.requestWillBeSent" => self.add(is_page, id, params),
            "Network.webSocketCreated" => {
                let url = text(&params["url"], MAX_URL_CHARS);
                let request = PendingRequest { url, resource_type: "websocket".into(), is_document: false };
                self.insert(id, request);
            }
            "Network.responseReceived" => self.handle_response(id, params),
            "Network.webSocketFrameError" => {
                let message = params["errorMessage"].as_str().unwrap_or_default();
                // Like `Error in connection establishment: net::ERR_CONNECTION_REFUSED`.
                let code = message.rsplit(": ").next().unwrap_or_default();
                self.fail(id, Failure::Network(cut(code, MAX_REASON_CHARS)));
            }
            "Network.loadingFailed" if params["canceled"] == true => {
                self.pending.remove(id);
            }
            "Network.loadingFailed" => self.fail(id, load_failure(params)),
            "Network.loadingFinished" | "Network.webSocketClosed" => {
                self.pending.remove(id);
            }
            _ => {}
        }
    }

    /// HTTP status of the last document of the page.
    pub(super) fn document_status(&self) -> Option<u16> {
        self.document_status
    }

    /// The first failed requests, with what the egress proxy knows of their connections, and the number of
    /// all.
    pub(super) fn failed(&self, connections: &ConnectionFailures) -> (Vec<FailedRequest>, u64) {
        let describe = |(request, failure): &(PendingRequest, Failure)| {
            let (reason, status) = match failure {
                Failure::Status(status) => (format!("the server answered HTTP {status}"), Some(*status)),
                Failure::Blocked(reason) => (format!("the browser blocked it ({reason})"), None),
                Failure::Network(code) => (describe_network_error(&request.url, code, connections), None),
            };
            FailedRequest {
                url: without_secrets(&request.url),
                reason,
                status,
                resource_type: request.resource_type.clone(),
            }
        };
        (self.failed.iter().map(describe).collect(), self.failed_count)
    }

    fn add(&mut self, is_page: bool, id: &str, params: &Value) {
        let is_document = is_page && params["type"] == "Document" && {
            let frame = params["frameId"].as_str().unwrap_or_default();
            frame == self.main_frame.get_or_insert_with(|| cut(frame, MAX_TYPE_CHARS))
        };
        if is_document {
            self.document_status = None;
        }
        let request = PendingRequest {
            url: text(&params["request"]["url"], MAX_URL_CHARS),
            resource_type: text(&params["type"], MAX_TYPE_CHARS).to_lowercase(),
            is_document,
        };
        self.insert(id, request);
    }

    fn insert(&mut self, id: &str, request: PendingRequest) {
        // A redirect is a request with the same id.
        if self.pending.len() < MAX_PENDING || self.pending.contains_key(id) {
            self.pending.insert(id.to_owned(), request);
        }
    }

    fn handle_response(&mut self, id: &str, params: &Value) {
        let status = params["response"]["status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let Some(status) = status.filter(|status| *status > 0) else { return };
        if self.pending.get(id).is_some_and(|request| request.is_document) {
            self.document_status = Some(status);
        }
        if status >= 400 {
            self.fail(id, Failure::Status(status));
        }
    }

    /// Logs a failed request. A document of the page is the page itself, whose failure ends the load.
    fn fail(&mut self, id: &str, failure: Failure) {
        let Some(request) = self.pending.remove(id).filter(|request| !request.is_document) else { return };
        if is_favicon(&request.url) {
            return;
        }
        self.failed_count += 1;
        if self.failed.len() < MAX_FAILED_REQUESTS {
            self.failed.push((request, failure));
        }
    }
}

/// Whether this is the icon that the browser requests by itself, and that nobody sees in a cast.
pub(super) fn is_favicon(url: &str) -> bool {
    url.split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .is_some_and(|(_, path)| path == "favicon.ico")
}

/// The failure that `Network.loadingFailed` describes.
fn load_failure(params: &Value) -> Failure {
    let cors = params["corsErrorStatus"]["corsError"].as_str().map(|error| format!("CORS: {error}"));
    match cors.or_else(|| params["blockedReason"].as_str().map(str::to_owned)) {
        Some(reason) => Failure::Blocked(cut(&reason, MAX_REASON_CHARS)),
        None => Failure::Network(text(&params["errorText"], MAX_REASON_CHARS)),
    }
}

/// Explains an error code of the browser, which only sees that its proxy failed.
fn describe_network_error(url: &str, code: &str, connections: &ConnectionFailures) -> String {
    let failed = host_and_port(url).filter(|_| code.starts_with("net::ERR_SOCKS_"));
    let error = failed.and_then(|(host, port)| Some((connections.last_error(host, port)?, port)));
    match error {
        Some((ConnectError::AddressDenied { address, reason }, port)) => {
            describe_denial(address, port, reason)
        }
        Some((ConnectError::NoSuchHost, _)) => explain_net_error("net::ERR_NAME_NOT_RESOLVED"),
        Some((ConnectError::ConnectionRefused, _)) => explain_net_error("net::ERR_CONNECTION_REFUSED"),
        Some((ConnectError::TimedOut, _)) => explain_net_error("net::ERR_CONNECTION_TIMED_OUT"),
        Some((ConnectError::Unreachable, _)) => explain_net_error("net::ERR_ADDRESS_UNREACHABLE"),
        None => explain_net_error(code),
    }
}

/// Host and port of an address as the browser writes it.
fn host_and_port(url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let default_port = if matches!(scheme, "https" | "wss") { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default_port),
    };
    Some((host.trim_matches(['[', ']']), port))
}

/// An address without user, query and fragment, which carry secrets.
fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // `data:` and `blob:` are content.
        return url.split_once(':').map_or_else(String::new, |(scheme, _)| format!("{scheme}:…"));
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (rest, hidden) = rest.split_at(end);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{authority}{path}{}", if hidden.starts_with('?') { "?…" } else { "" })
}

fn text(value: &Value, max_chars: usize) -> String {
    cut(value.as_str().unwrap_or_default(), max_chars)
}

fn cut(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).collect()
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::NetworkRefusal;

    use super::*;

    fn requested(log: &mut RequestLog, id: &str, kind: &str, url: &str) {
        let params = json!({"requestId": id, "type": kind, "frameId": "f", "request": {"url": url}});
        log.handle_event(true, "Network.requestWillBeSent", &params);
    }

    fn responded(log: &mut RequestLog, id: &str, status: u16) {
        let params = json!({"requestId": id, "response": {"status": status}});
        log.handle_event(true, "Network.responseReceived", &params);
    }

    fn failed(log: &mut RequestLog, id: &str, more: Value) {
        let mut params = json!({"requestId": id, "errorText": "net::ERR_SOCKS_CONNECTION_FAILED"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        log.handle_event(true, "Network.loadingFailed", &params);
    }

    #[test]
    fn failures_are_explained_without_secrets() {
        let mut log = RequestLog::default();
        let denied =
            ConnectError::AddressDenied { address: [10, 0, 0, 1].into(), reason: NetworkRefusal::NotPublic };
        let connections = ConnectionFailures::of("10.0.0.1", 81, denied);
        requested(&mut log, "1", "Document", "http://a.example/");
        responded(&mut log, "1", 404);
        requested(&mut log, "2", "Script", "https://me:planted@a.example:8443/x.js?planted=1#planted");
        responded(&mut log, "2", 404);
        failed(&mut log, "2", json!({}));
        requested(&mut log, "3", "Fetch", "http://10.0.0.1:81/secret");
        failed(&mut log, "3", json!({}));
        requested(&mut log, "4", "Fetch", "http://b.example/");
        failed(&mut log, "4", json!({"corsErrorStatus": {"corsError": "MissingAllowOriginHeader"}}));
        requested(&mut log, "5", "Image", "data:image/png;base64,planted");
        failed(&mut log, "5", json!({"errorText": "net::ERR_NAME_NOT_RESOLVED"}));
        requested(&mut log, "6", "Image", "http://c.example/");
        failed(&mut log, "6", json!({"canceled": true}));
        requested(&mut log, "7", "Image", "http://d.example/");
        responded(&mut log, "7", 200);
        requested(&mut log, "9", "Other", "http://a.example/favicon.ico");
        responded(&mut log, "9", 404);
        let params = json!({"requestId": "8", "url": "ws://[::1]:9/live"});
        log.handle_event(false, "Network.webSocketCreated", &params);
        let params =
            json!({"requestId": "8", "errorMessage": "Error in connection establishment: net::ERR_X"});
        log.handle_event(false, "Network.webSocketFrameError", &params);
        assert_eq!(log.document_status(), Some(404));
        let (all, count) = log.failed(&connections);
        let shown: Vec<_> =
            all.iter().map(|r| format!("{} {}: {}", r.resource_type, r.url, r.reason)).collect();
        let denied = "10.0.0.1 is not a public address, and this cast's network does not allow it".to_owned();
        assert_eq!(
            shown,
            [
                "script https://a.example:8443/x.js?…: the server answered HTTP 404".to_owned(),
                format!("fetch http://10.0.0.1:81/secret: {denied}"),
                "fetch http://b.example/: the browser blocked it (CORS: MissingAllowOriginHeader)".to_owned(),
                "image data:…: there is no host of this name (net::ERR_NAME_NOT_RESOLVED)".to_owned(),
                "websocket ws://[::1]:9/live: net::ERR_X".to_owned(),
            ]
        );
        assert_eq!((count, all[0].status), (5, Some(404)));
        assert_eq!(host_and_port("ws://[::1]:9/live"), Some(("::1", 9)));
        assert_eq!(host_and_port("https://[::1]"), Some(("::1", 443)));
    }

    #[test]
    fn a_page_that_requests_without_end_is_bounded() {
        let mut log = RequestLog::default();
        for n in 0..5000 {
            requested(&mut log, &n.to_string(), "Image", &format!("http://a.example/{}", "x".repeat(5000)));
        }
        assert_eq!(log.pending.len(), MAX_PENDING);
        for n in 0..5000 {
            failed(&mut log, &n.to_string(), json!({}));
        }
        let (all, count) = log.failed(&ConnectionFailures::default());
        assert_eq!((all.len(), count), (MAX_FAILED_REQUESTS, MAX_PENDING as u64));
        assert_eq!(all[0].url.len(), MAX_URL_CHARS);
        log.handle_event(true, "Network.requestWillBeSent", &json!("nonsense"));
    }
}
