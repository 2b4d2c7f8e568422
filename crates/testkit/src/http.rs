//! Sends one HTTP request to a server on this machine, exactly as given, and reads the response.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::command::{install_hint, program};

/// Longest pause between two reads of a response.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest response, in bytes: larger than every recording that a test downloads.
const MAX_RESPONSE_LEN: u64 = 64 << 20;

/// Response of a server.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers: names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Value of a header; the name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// The body is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| self.text())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends an HTTP/1.1 request on its own connection and reads the response. The certificate of an https server
/// is not verified.
///
/// # Errors
/// The server cannot be reached, does not respond in time, or its response is not HTTP.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
    let (scheme, rest) = url.split_once("://").context("not a URL")?;
    ensure!(matches!(scheme, "http" | "https"), "neither http nor https: {url}");
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut head = format!("{method} {slash}{path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {host}\r\n"));
    }
    if !body.is_empty() || !matches!(method, "GET" | "HEAD" | "DELETE") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    let message = [head.as_bytes(), b"\r\n", body].concat();
    let answer = if scheme == "https" { exchange_tls(host, &message) } else { exchange(host, &message) }?;
    parse_response(&answer)
}

/// Sends a message and reads until the server closes the connection.
fn exchange(host: &str, message: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(host).with_context(|| format!("cannot connect to {host}"))?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.write_all(message)?;
    let mut answer = Vec::new();
    stream.take(MAX_RESPONSE_LEN).read_to_end(&mut answer).context("the response is incomplete")?;
    Ok(answer)
}

/// As [`exchange`], over TLS.
fn exchange_tls(host: &str, message: &[u8]) -> Result<Vec<u8>> {
    let mut client = program("timeout");
    client.arg(READ_TIMEOUT.as_secs().to_string());
    client.args(["openssl", "s_client", "-quiet", "-connect", host]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = client.spawn().with_context(|| install_hint("openssl"))?;
    child.stdin.take().context("openssl has no input")?.write_all(message)?;
    let answer = child.wait_with_output()?.stdout;
    ensure!(!answer.is_empty(), "cannot connect to {host} over TLS");
    Ok(answer)
}

fn parse_response(answer: &[u8]) -> Result<Response> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("the response has no header end")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = &answer[end + 4..];
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { decode_chunked(body)? } else { body.to_vec() };
    Ok(Response { status, headers, body })
}

fn decode_chunked(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").context("a chunk has no length")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end])?.trim(), 16)?;
        rest = &rest[end + 2..];
        if length == 0 {
            return Ok(whole);
        }
        ensure!(rest.len() >= length + 2, "a chunk is cut off");
        whole.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}
