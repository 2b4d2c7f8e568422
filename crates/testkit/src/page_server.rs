//! Web server for test pages: on loopback, with one thread per connection; stopped when dropped.

mod http;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Connections served at once; more are closed. A browser opens six for each page, and tests open a few
/// pages.
const MAX_CONNECTIONS: usize = 64;

/// Response of the server for a path.
#[derive(Debug, Clone)]
pub enum PageResponse {
    /// This file, or a range of its bytes.
    File(PathBuf),
    /// This HTML page with this status.
    Html(u16, String),
    /// This HTML page (second) with these header lines (first), each with its line end.
    HtmlWithHeaders(String, String),
    /// This HTML page (second) for requests with this `Authorization` (first); 401 with a challenge for
    /// others.
    BasicAuth(String, String),
    /// A redirect to this address.
    Redirect(String),
    /// No response: the connection stays open.
    NoResponse,
    /// No response: the connection is closed.
    CloseConnection,
}

/// A running server with its own origin.
#[derive(Debug)]
pub struct PageServer {
    address: SocketAddr,
    shared: Arc<ServerState>,
    accept_thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct ServerState {
    state: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    routes: HashMap<String, PageResponse>,
    /// Folders by the path that they are served under; the longest path wins.
    folders: BTreeMap<String, PathBuf>,
    requests: Vec<RecordedRequest>,
    connections: Vec<JoinHandle<()>>,
    stopped: bool,
}

/// A received request: its path with query, and its headers with names in lower case.
#[derive(Debug, Default)]
struct RecordedRequest {
    target: String,
    headers: Vec<(String, String)>,
}

impl PageServer {
    /// Serves the pages of this crate on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(ServerState::default());
        shared.lock().folders.insert("/".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("pages"));
        let for_thread = Arc::clone(&shared);
        let accept = std::thread::Builder::new()
            .name("pages".to_owned())
            .spawn(move || accept_connections(&listener, &for_thread))
            .context("cannot start a thread")?;
        Ok(Self { address, shared, accept_thread: Some(accept) })
    }

    /// Responds to `path` with `reply` instead of a file.
    #[must_use]
    pub fn with_route(self, path: &str, reply: PageResponse) -> Self {
        self.set_route(path, reply);
        self
    }

    /// Responds to `path` with `reply` from now on.
    pub fn set_route(&self, path: &str, reply: PageResponse) {
        self.shared.lock().routes.insert(path.to_owned(), reply);
    }

    /// Serves `folder` below `prefix`, which starts and ends with a slash.
    #[must_use]
    pub fn with_folder(self, prefix: &str, folder: &Path) -> Self {
        self.shared.lock().folders.insert(prefix.to_owned(), folder.to_owned());
        self
    }

    /// URL of a page; `path` may have a query.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.address, path.trim_start_matches('/'))
    }

    /// Path and query of each request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().targets()
    }

    /// Value of the header `name` (in lower case) of each request for `path`; `None` for requests without it.
    #[must_use]
    pub fn request_header_values(&self, path: &str, name: &str) -> Vec<Option<String>> {
        let state = self.shared.lock();
        let requests = state.requests.iter().filter(|request| request.target == path);
        requests
            .map(|request| request.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()))
            .collect()
    }

    /// Waits for a request for `path`. Pages report to tests by requests for `/report/…`.
    ///
    /// # Errors
    /// There is no request within `limit`.
    pub fn wait_for_request(&self, path: &str, limit: Duration) -> Result<()> {
        self.wait_for_requests(path, 1, limit)
    }

    /// Waits for `times` requests for `path`.
    ///
    /// # Errors
    /// There are fewer within `limit`.
    pub fn wait_for_requests(&self, path: &str, times: usize, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        while state.requests.iter().filter(|r| r.target == path).count() < times {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "no request for {path} within {limit:?}, only for {:?}",
                state.targets()
            );
            let waited =
                self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
        }
        Ok(())
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        // Wakes the accept thread. If the connection fails, the thread has ended.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.accept_thread.take() {
            let _ended = thread.join();
        }
        let connections = std::mem::take(&mut self.shared.lock().connections);
        connections.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Inner {
    fn targets(&self) -> Vec<String> {
        self.requests.iter().map(|request| request.target.clone()).collect()
    }
}

impl ServerState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    fn wait_until_stopped(&self) {
        let state = self.lock();
        drop(self.changed.wait_while(state, |s| !s.stopped));
    }

    /// Records the request and returns the response; `None` if there is nothing at that path.
    fn respond(&self, target: &str, headers: Vec<(String, String)>) -> Option<PageResponse> {
        let mut state = self.lock();
        state.requests.push(RecordedRequest { target: target.to_owned(), headers });
        self.changed.notify_all();
        let path = target.split(['?', '#']).next().unwrap_or_default();
        if let Some(reply) = state.routes.get(path) {
            return Some(reply.clone());
        }
        if path == "/loads" {
            let loads = state.requests.iter().filter(|r| r.target == target).count();
            return Some(PageResponse::Html(200, loads.to_string()));
        }
        if path.starts_with("/report/") {
            return Some(PageResponse::Html(200, String::new()));
        }
        let (prefix, folder) = state.folders.iter().rev().find(|(prefix, _)| path.starts_with(*prefix))?;
        let name = &path[prefix.len()..];
        let file = folder.join(if name.is_empty() { "index.html" } else { name });
        (!name.contains("..") && file.is_file()).then_some(PageResponse::File(file))
    }
}

fn accept_connections(listener: &TcpListener, shared: &Arc<ServerState>) {
    for stream in listener.incoming() {
        if shared.is_stopped() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let mut state = shared.lock();
        state.connections.retain(|thread| !thread.is_finished());
        if state.connections.len() >= MAX_CONNECTIONS {
            continue;
        }
        let for_thread = Arc::clone(shared);
        let serve = move || {
            // Browsers close connections in the middle of a page.
            let _gone: io::Result<()> = http::serve_connection(&stream, &for_thread);
        };
        if let Ok(thread) = std::thread::Builder::new().name("page".to_owned()).spawn(serve) {
            state.connections.push(thread);
        }
    }
}

/// Body of the response of an HTTP server on this machine to a GET request.
///
/// # Errors
/// The server cannot be reached, or its status is not 200.
pub fn http_get(url: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let rest = url.strip_prefix("http://").context("not an http address")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.lines().next().is_some_and(|line| line.contains(" 200")), "{head}");
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn send_raw_request(server: &PageServer, request: &str) -> String {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn serves_files_ranges_and_routes() {
        let folder = crate::scratch::ScratchDir::new().unwrap();
        std::fs::write(folder.join("ten.mp4"), "0123456789").unwrap();
        let server = PageServer::start()
            .unwrap()
            .with_folder("/media/", folder.path())
            .with_route("/bad", PageResponse::Html(500, "oh".to_owned()))
            .with_route("/away", PageResponse::Redirect("/media/ten.mp4".to_owned()))
            .with_route("/cut", PageResponse::CloseConnection);
        let whole = send_raw_request(&server, "GET /media/ten.mp4?x HTTP/1.1");
        assert!(
            whole.starts_with("HTTP/1.1 200")
                && whole.contains("video/mp4")
                && whole.ends_with("\r\n\r\n0123456789")
        );
        for (range, body, content) in [
            ("2-4", "234", "2-4/10"),
            ("7-", "789", "7-9/10"),
            ("-2", "89", "8-9/10"),
            ("5-99", "56789", "5-9/10"),
        ] {
            let part =
                send_raw_request(&server, &format!("GET /media/ten.mp4 HTTP/1.1\r\nRange: bytes={range}"));
            assert!(part.starts_with("HTTP/1.1 206") && part.ends_with(&format!("\r\n\r\n{body}")), "{part}");
            assert!(part.contains(&format!("Content-Range: bytes {content}\r\n")), "{part}");
        }
        assert!(
            send_raw_request(&server, "GET /media/ten.mp4 HTTP/1.1\r\nRange: bytes=10-")
                .starts_with("HTTP/1.1 416")
        );
        assert!(send_raw_request(&server, "GET /bad HTTP/1.1").starts_with("HTTP/1.1 500"));
        assert!(send_raw_request(&server, "GET /nothing HTTP/1.1").starts_with("HTTP/1.1 404"));
        assert!(send_raw_request(&server, "GET /media/../pages.rs HTTP/1.1").starts_with("HTTP/1.1 404"));
        assert!(send_raw_request(&server, "GET /away HTTP/1.1").contains("Location: /media/ten.mp4\r\n"));
        assert_eq!(send_raw_request(&server, "GET /cut HTTP/1.1"), "");
        assert!(
            send_raw_request(&server, "HEAD /media/ten.mp4 HTTP/1.1").ends_with("Content-Length: 10\r\n\r\n")
        );
    }

    #[test]
    fn a_page_can_report_to_the_test() {
        let server = PageServer::start().unwrap();
        assert!(server.wait_for_request("/report/hello", Duration::from_millis(10)).is_err());
        send_raw_request(&server, "GET /report/hello HTTP/1.1");
        server.wait_for_request("/report/hello", Duration::from_millis(10)).unwrap();
    }

    #[test]
    fn a_drop_does_not_wait_for_clients() {
        let server = PageServer::start().unwrap().with_route("/slow", PageResponse::NoResponse);
        let mut idle = TcpStream::connect(server.address).unwrap();
        idle.write_all(b"GET /slow HTTP/1.1\r\n\r\n").unwrap();
        server.wait_for_request("/slow", Duration::from_secs(5)).unwrap();
        let begin = Instant::now();
        drop(server);
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
}
