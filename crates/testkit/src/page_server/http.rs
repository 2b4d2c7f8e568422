//! The part of HTTP/1.1 that a browser needs: GET, HEAD, keep-alive and byte ranges.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use super::{PageResponse, ServerState};

/// Pause between two checks of an idle connection whether the server was stopped.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(200);
const MAX_HEADER_BYTES: u64 = 64 * 1024;

struct Request {
    head_only: bool,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Serves one connection until either side closes it.
pub(super) fn serve_connection(stream: &TcpStream, shared: &ServerState) -> io::Result<()> {
    stream.set_read_timeout(Some(STOP_POLL_INTERVAL))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        wait_for_bytes(&mut reader, shared)?;
        let Some(request) = read_request(&mut reader)? else { return Ok(()) };
        match shared.respond(&request.target, request.headers.clone()) {
            Some(PageResponse::NoResponse) => {
                shared.wait_until_stopped();
                return Ok(());
            }
            Some(PageResponse::CloseConnection) => return Ok(()),
            Some(PageResponse::File(path)) => send_file(stream, &request, &path)?,
            Some(PageResponse::Redirect(to)) => {
                send_text(stream, &request, "302 Found", &format!("Location: {to}\r\n"), "")?;
            }
            Some(PageResponse::Html(status, body)) => {
                send_text(stream, &request, &format!("{status} OK"), "", &body)?;
            }
            Some(PageResponse::HtmlWithHeaders(headers, body)) => {
                send_text(stream, &request, "200 OK", &headers, &body)?;
            }
            Some(PageResponse::BasicAuth(key, body)) if request.header("authorization") == Some(&key) => {
                send_text(stream, &request, "200 OK", "", &body)?;
            }
            Some(PageResponse::BasicAuth(..)) => {
                let challenge = "WWW-Authenticate: Basic realm=\"test\"\r\n";
                send_text(stream, &request, "401 Unauthorized", challenge, "<h1>Unauthorized</h1>")?;
            }
            None => send_text(stream, &request, "404 Not Found", "", "<h1>Not found</h1>")?,
        }
        if request.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
}

fn wait_for_bytes(reader: &mut BufReader<&TcpStream>, shared: &ServerState) -> io::Result<()> {
    loop {
        match reader.fill_buf() {
            Err(e)
                if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                    && !shared.is_stopped() => {}
            other => return other.map(drop),
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let mut limited = reader.take(MAX_HEADER_BYTES);
    let mut line = String::new();
    limited.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let mut request = Request { head_only: method == "HEAD", target: target.to_owned(), headers: Vec::new() };
    loop {
        let mut header = String::new();
        if limited.read_line(&mut header)? == 0 {
            return Ok(None);
        }
        let header = header.trim();
        if header.is_empty() {
            return Ok(Some(request));
        }
        let Some((name, value)) = header.split_once(':') else { return Ok(None) };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn send_text(mut to: &TcpStream, request: &Request, status: &str, extra: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n{extra}Content-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n\
         \r\n"
    );
    if !request.head_only {
        answer.push_str(body);
    }
    to.write_all(answer.as_bytes())
}

fn send_file(mut to: &TcpStream, request: &Request, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut head = String::new();
    let (first, length) = match request.header("range").and_then(|range| range.strip_prefix("bytes=")) {
        None => {
            head.push_str("HTTP/1.1 200 OK\r\n");
            (0, size)
        }
        Some(range) => {
            let Some((first, last)) = parse_range(range, size) else {
                return send_text(to, request, "416 Range Not Satisfiable", "", "");
            };
            let _infallible =
                write!(head, "HTTP/1.1 206 Partial\r\nContent-Range: bytes {first}-{last}/{size}\r\n");
            (first, last - first + 1)
        }
    };
    let kind = content_type(path);
    let _infallible = write!(
        head,
        "Content-Type: {kind}\r\nAccept-Ranges: bytes\r\nCache-Control: no-store\r\nContent-Length: \
         {length}\r\n\r\n"
    );
    to.write_all(head.as_bytes())?;
    if !request.head_only {
        file.seek(SeekFrom::Start(first))?;
        io::copy(&mut file.take(length), &mut to)?;
    }
    Ok(())
}

/// First and last byte of a range like `2-4`, `7-` or `-2`.
fn parse_range(range: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = range.split_once('-')?;
    let (first, last) = match (from, to) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size.checked_sub(1)?),
        (from, "") => (from.parse().ok()?, size.checked_sub(1)?),
        (from, to) => (from.parse().ok()?, to.parse::<u64>().ok()?.min(size.checked_sub(1)?)),
    };
    (first <= last).then_some((first, last))
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "mp4" | "m4s" => "video/mp4",
        "ts" => "video/mp2t",
        "m3u8" => "application/vnd.apple.mpegurl",
        _ => "application/octet-stream",
    }
}
