//! Independent WHIP server: Debian's simple-whip-server, which publishes in rooms of Janus.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::command::{install_hint, program, run_for_output};
use crate::janus::JanusServer;
use crate::rtmp::free_port;
use crate::scratch::ScratchDir;

/// Longest time for the server to start, and to respond.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A WHIP server in front of a Janus, on loopback; killed when dropped.
#[derive(Debug)]
pub struct WhipServer {
    child: Child,
    scratch: ScratchDir,
    port: u16,
}

impl WhipServer {
    /// Installs the server if needed, and starts it on a free port. `None` on systems other than Debian: the
    /// test is then skipped as by [`crate::skip::skip`].
    ///
    /// # Errors
    /// The installation fails, or the server does not start.
    pub fn start(janus: &JanusServer) -> Result<Option<Self>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        run_for_output(&mut program(root.join("tests/third-party/install")))
            .context("cannot install a WHIP server")?;
        let installed = root.join("target/third-party/whip").canonicalize();
        let Some(installed) = installed.ok().filter(|folder| folder.join("src/server.js").exists()) else {
            crate::skip("simple-whip-server needs Debian");
            return Ok(None);
        };
        let (scratch, port) = (ScratchDir::new()?, free_port()?);
        for name in ["server.js", "whip-janus.js"] {
            fs::copy(installed.join("src").join(name), scratch.join(name))?;
        }
        let config = json!({
            "janus": { "address": janus.ws_url() },
            "port": { "host": "127.0.0.1", "port": port },
            "rest": "/whip",
            "allowTrickle": true,
            "strictETags": false,
            "iceServers": [],
        });
        fs::write(scratch.join("config.js"), format!("module.exports = {config}"))?;
        let log = File::create(scratch.join("log"))?;
        let mut node = program("node");
        node.arg("server.js").current_dir(scratch.path()).env("NODE_PATH", installed.join("node_modules"));
        node.env("DEBUG", "whip:*,janus:*,-janus:vdebug").env("NO_COLOR", "1");
        node.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = node.spawn().with_context(|| install_hint("node"))?;
        let mut server = Self { child, scratch, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().is_ok_and(|ended| ended.is_some());
            ensure!(
                !ended && began.elapsed() < START_TIMEOUT,
                "the WHIP server does not start: {}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(server))
    }

    /// Creates an endpoint that publishes in a room under its own name; `options` may have a `token` and the
    /// room's `pin`.
    ///
    /// # Errors
    /// There is an endpoint with this name.
    pub fn add_endpoint(&self, name: &str, room: &Value, options: &Value) -> Result<()> {
        let mut request = json!({ "id": name, "room": room, "label": name });
        for key in ["token", "pin"] {
            if let Some(value) = options.get(key) {
                request[key] = value.clone();
            }
        }
        let (body, mut stream) = (request.to_string(), TcpStream::connect(("127.0.0.1", self.port))?);
        stream.set_read_timeout(Some(START_TIMEOUT))?;
        write!(
            stream,
            "POST /whip/create HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "the WHIP server refuses the endpoint: {answer}");
        Ok(())
    }

    /// URL for publishing to an endpoint.
    #[must_use]
    pub fn url(&self, endpoint: &str) -> String {
        format!("http://127.0.0.1:{}/whip/endpoint/{endpoint}", self.port)
    }

    /// Log of the server.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

impl Drop for WhipServer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
