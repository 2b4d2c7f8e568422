//! WHIP client (RFC 9725): the offer is posted, the response has the answer and the URL of the session.

use std::time::Duration;

use async_trait::async_trait;
use pagecast_core::error_text::root_cause;
use pagecast_core::spec::{IceServer, MAX_ICE_SERVERS, RoomIds, RoomUrl, Secret};
use reqwest::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH, LINK, LOCATION};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, redirect};
use url::Url;

use super::{Error, Offer, ServerEvent, SignalingClient};

/// Longest duration of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest duration of ending the session: the end of a cast waits for it.
const DELETE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest response body, in bytes; answers have a few kilobytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Most redirects of the endpoint that are followed.
const MAX_REDIRECTS: usize = 5;

/// WHIP client for one session.
#[derive(Debug)]
pub(crate) struct WhipClient {
    url: String,
    display_url: String,
    token: Option<Secret>,
    client: Option<Client>,
    session: Option<Session>,
    ice_servers: Vec<IceServer>,
}

#[derive(Debug)]
struct Session {
    url: Url,
    etag: Option<String>,
}

impl WhipClient {
    pub(crate) fn new(url: &RoomUrl, token: Option<&Secret>, ids: &RoomIds) -> Self {
        let token = token.map(|token| Secret::new(ids.fill_template(token.reveal())));
        let (url, display_url) = (ids.fill_url_template(url), ids.fill_template(&url.to_string()));
        Self { url, display_url, token, client: None, session: None, ice_servers: Vec::new() }
    }

    fn client(&mut self) -> Result<Client, Error> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .redirect(redirect::Policy::limited(MAX_REDIRECTS))
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("pagecast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| self.unreachable(&e))?;
        Ok(self.client.insert(client).clone())
    }

    fn with_bearer_token(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Unreachable { server: self.display_url.clone(), why: error_reason(error) }
    }

    fn failed(&self, why: impl Into<String>) -> Error {
        Error::Failed { server: self.display_url.clone(), why: why.into() }
    }

    /// The error that an unexpected response means.
    async fn response_error(&self, response: Response) -> Error {
        let (server, status) = (self.display_url.clone(), response.status());
        let text = self.read_text(response).await.unwrap_or_default();
        let message = super::sanitize_text(&text);
        let why = if message.is_empty() { status.to_string() } else { format!("{status}: {message}") };
        match status {
            StatusCode::GONE if text.contains("replaced") => Error::Replaced,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let why = if self.token.is_some() { why } else { format!("{why} (no token was given)") };
                Error::Refused { server, why }
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT => {
                Error::Failed { server, why }
            }
            // A server that is starting may not have its streams yet.
            StatusCode::NOT_FOUND => Error::Failed { server, why },
            status if status.is_client_error() => Error::Refused { server, why },
            _ => Error::Failed { server, why },
        }
    }

    /// Reads the body of a response as text.
    async fn read_text(&self, mut response: Response) -> Result<String, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(self.failed("the response is longer than 256 KiB"));
            }
        }
        String::from_utf8(body).map_err(|_| self.failed("the response is not UTF-8"))
    }

    async fn post_offer(&mut self, offer: &Offer) -> Result<String, Error> {
        let client = self.client()?;
        let request = client.request(Method::POST, &self.url).body(offer.sdp.clone());
        let request = self
            .with_bearer_token(request)
            .header(CONTENT_TYPE, "application/sdp")
            .header(ACCEPT, "application/sdp");
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status() != StatusCode::CREATED {
            return Err(self.response_error(response).await);
        }
        let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let Some(location) = text(LOCATION) else {
            return Err(self.failed("the response has no Location header with the session URL"));
        };
        let url =
            response.url().join(&location).map_err(|_| self.failed("the Location header is not a URL"))?;
        // The token is sent there, too.
        if url.origin() != response.url().origin() {
            return Err(self.failed("the Location header points to another server"));
        }
        self.ice_servers = ice_servers(response.headers());
        self.session = Some(Session { url, etag: text(ETAG) });
        self.read_text(response).await
    }

    /// Patches the session with an SDP fragment (RFC 8840) and returns the server's fragment, if any.
    async fn patch(&mut self, fragment: String, restart: bool) -> Result<Option<String>, Error> {
        let client = self.client()?;
        let Some(session) = &self.session else { return Err(self.failed("there is no session")) };
        let mut request = client.request(Method::PATCH, session.url.clone()).body(fragment);
        request = self.with_bearer_token(request).header(CONTENT_TYPE, "application/trickle-ice-sdpfrag");
        // RFC 9725, section 4.3.3: a restart applies to any ICE session.
        let etag = if restart { Some("*") } else { session.etag.as_deref() };
        if let Some(etag) = etag {
            request = request.header(IF_MATCH, etag);
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            StatusCode::OK => {
                let etag = response.headers().get(ETAG).and_then(|v| v.to_str().ok()).map(str::to_owned);
                if let Some(session) = &mut self.session {
                    session.etag = etag;
                }
                self.read_text(response).await.map(Some)
            }
            // The server accepted this client before: if it lost the session, it will accept a new one.
            _ => Err(match self.response_error(response).await {
                Error::Refused { server, why } => Error::Failed { server, why },
                error => error,
            }),
        }
    }
}

#[async_trait]
impl SignalingClient for WhipClient {
    async fn join(&mut self) -> Result<Vec<IceServer>, Error> {
        Ok(Vec::new())
    }

    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error> {
        self.post_offer(offer).await
    }

    fn answer_ice_servers(&mut self) -> Vec<IceServer> {
        std::mem::take(&mut self.ice_servers)
    }

    async fn trickle(&mut self, fragment: &str) -> Result<(), Error> {
        self.patch(fragment.to_owned(), false).await.map(|_| ())
    }

    async fn restart_ice(&mut self, fragment: &str) -> Result<Option<String>, Error> {
        self.patch(fragment.to_owned(), true).await
    }

    async fn next_event(&mut self) -> Result<ServerEvent, Error> {
        std::future::pending().await
    }

    async fn leave(&mut self) -> Option<Error> {
        let session = self.session.take()?;
        let request = self.client.as_ref()?.request(Method::DELETE, session.url).timeout(DELETE_TIMEOUT);
        let response = self.with_bearer_token(request).send().await.ok()?;
        // Other errors of DELETE do not tell why the session ended.
        Some(self.response_error(response).await).filter(|error| matches!(error, Error::Replaced))
    }
}

/// Why a request failed: the root cause, which contains no URL.
pub(super) fn error_reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the request timed out".into();
    }
    super::sanitize_text(&root_cause(error))
}

/// ICE servers in the headers of a response (RFC 9725, section 4.6).
fn ice_servers(headers: &HeaderMap) -> Vec<IceServer> {
    let lines = headers.get_all(LINK).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(parse_links).take(MAX_ICE_SERVERS).collect()
}

/// The ICE servers in one Link header: `<turn:host>; rel="ice-server"; username="u";
/// credential="c"`.
fn parse_links(line: &str) -> Vec<IceServer> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once('<') {
        let Some((url, after)) = after.split_once('>') else { break };
        let (parameters, next) = parse_parameters(after);
        rest = next;
        let value =
            |name| parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        let known = ["stun:", "turn:", "turns:"].iter().any(|scheme| url.starts_with(scheme));
        if known && value("rel").is_some_and(|rel| rel.split(' ').any(|rel| rel == "ice-server")) {
            let username = value("username").unwrap_or_default();
            let credential = Secret::new(value("credential").unwrap_or_default());
            found.push(IceServer { url: url.to_owned(), username, credential });
        }
    }
    found
}

/// The parameters after a link, up to the comma that ends it, and the remaining text (RFC 8288, section 3).
fn parse_parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(after) = rest.strip_prefix(';') {
        let name_end = after.find(['=', ';', ',']).unwrap_or(after.len());
        let name = after[..name_end].trim().to_owned();
        rest = &after[name_end..];
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            rest = match after.strip_prefix('"') {
                Some(quoted) => unquote(quoted, &mut value),
                None => {
                    let end = after.find([';', ',']).unwrap_or(after.len());
                    value.push_str(after[..end].trim());
                    &after[end..]
                }
            };
        }
        found.push((name, value));
        rest = rest.trim_start();
    }
    (found, rest)
}

/// Reads up to the closing quote into `value`, and returns the remaining text.
fn unquote<'a>(text: &'a str, value: &mut String) -> &'a str {
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return &text[index + 1..],
            c => {
                escaped = false;
                value.push(c);
            }
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ice_servers_are_found_in_links() {
        let found = parse_links(
            r#"<stun:a.example>; rel="ice-server", <turn:b.example?transport=udp>; rel="ice-server";
            username="u,\"1"; credential=c;credential-type="password", <https://c.example>; rel=ice-server, <turn:d>"#,
        );
        let shown: Vec<_> =
            found.iter().map(|s| (s.url.as_str(), s.username.as_str(), s.credential.reveal())).collect();
        assert_eq!(shown, [("stun:a.example", "", ""), ("turn:b.example?transport=udp", "u,\"1", "c")]);
        for broken in ["<", "<a", "<turn:a>;", "<turn:a>; rel", "<turn:a>; rel=\"ice", ";;;", ">,<>"] {
            assert!(parse_links(broken).is_empty(), "{broken}");
        }
    }
}
