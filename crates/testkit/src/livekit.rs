//! LiveKit server, built from its sources, on loopback.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::command::{self, program, run_for_output};
use crate::rtmp::free_port;
use crate::scratch::ScratchDir;

/// Longest time for the server to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Lifetime of tokens, in seconds.
const TOKEN_LIFETIME_S: u64 = 3600;

/// A running LiveKit server; killed when dropped. It uses one UDP port and no servers beyond this machine.
#[derive(Debug)]
pub struct LiveKitServer {
    child: Option<Child>,
    scratch: ScratchDir,
    port: u16,
    media_port: u16,
}

impl LiveKitServer {
    /// Name of the API key.
    pub const API_KEY: &str = "testkey";
    /// The API key's secret.
    pub const API_SECRET: &str = "a secret of the tests, 32 or longer";

    /// Builds LiveKit if needed, and starts it on free ports. `None` without Go: the test is then
    /// skipped as by [`crate::skip::skip`].
    ///
    /// # Errors
    /// LiveKit cannot be built or does not start.
    pub fn start() -> Result<Option<Self>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        run_for_output(&mut program(root.join("tests/third-party/install")))
            .context("cannot build LiveKit")?;
        if !Self::binary().exists() {
            crate::skip("LiveKit needs Go");
            return Ok(None);
        }
        let media = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server =
            Self { child: None, scratch: ScratchDir::new()?, port: free_port()?, media_port: media };
        server.restart()?;
        Ok(Some(server))
    }

    fn binary() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/third-party/bin/livekit-server")
    }

    /// Starts the server again on the same ports, after [`LiveKitServer::kill`].
    ///
    /// # Errors
    /// The server does not start.
    pub fn restart(&mut self) -> Result<()> {
        let config = self.scratch.join("livekit.yaml");
        fs::write(&config, self.config())?;
        let log = File::options().create(true).append(true).open(self.scratch.join("log"))?;
        let mut server = program(Self::binary());
        server.arg("--config").arg(&config).stdin(Stdio::null());
        self.child = Some(server.stdout(log.try_clone()?).stderr(log).spawn()?);
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|e| e.is_some()));
            ensure!(!ended && began.elapsed() < START_TIMEOUT, "LiveKit does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Configuration of the server. Without a STUN server, LiveKit uses public ones; this one does not exist.
    fn config(&self) -> String {
        let Self { port, media_port: media, .. } = self;
        let (key, secret) = (Self::API_KEY, Self::API_SECRET);
        json!({
            "port": port,
            "bind_addresses": ["127.0.0.1"],
            "rtc": {
                "udp_port": media,
                "tcp_port": 0,
                "node_ip": "127.0.0.1",
                "use_external_ip": false,
                "enable_loopback_candidate": true,
                "interfaces": { "includes": ["lo"] },
                "stun_servers": ["127.0.0.1:9"],
            },
            "keys": { key: secret },
            "logging": { "level": "info" },
            // Time without subscribers after which LiveKit asks the publisher to pause a layer.
            "video": { "dynacast_pause_delay": "500ms" },
        })
        .to_string()
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        command::kill_child(&mut self.child);
    }

    /// WebSocket URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// A token that allows to subscribe in a room, not to publish.
    ///
    /// # Errors
    /// The clock is before 1970.
    pub fn viewer_token(&self, room: &str, identity: &str) -> Result<String> {
        let grants = json!({ "room": room, "roomJoin": true, "canPublish": false, "canSubscribe": true });
        mint_token(identity, &grants)
    }

    /// Calls the server's API as administrator and returns the response.
    ///
    /// # Errors
    /// The server refuses the call or does not respond.
    pub fn call_api(&self, method: &str, room: &str, request: &Value) -> Result<Value> {
        let grants = json!({
            "room": room, "roomAdmin": true, "roomCreate": true, "roomList": true, "roomJoin": true,
        });
        let (token, body) = (mint_token("administrator", &grants)?, request.to_string());
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        write!(
            stream,
            "POST /twirp/livekit.RoomService/{method} HTTP/1.0\r\nHost: 127.0.0.1\r\n\
             Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n\
             {body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(serde_json::from_str(body)?),
            _ => bail!("LiveKit refuses {method}: {answer}"),
        }
    }

    /// Log of the server.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

impl Drop for LiveKitServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A JSON Web Token (RFC 7519) with these grants.
fn mint_token(identity: &str, grants: &Value) -> Result<String> {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + TOKEN_LIFETIME_S;
    let head = json!({ "alg": "HS256", "typ": "JWT" }).to_string();
    let claims = json!({ "iss": LiveKitServer::API_KEY, "sub": identity, "exp": expires, "video": grants })
        .to_string();
    let signed = format!("{}.{}", base64url(head.as_bytes()), base64url(claims.as_bytes()));
    let mut mac = Hmac::<Sha256>::new_from_slice(LiveKitServer::API_SECRET.as_bytes())?;
    mac.update(signed.as_bytes());
    Ok(format!("{signed}.{}", base64url(&mac.finalize().into_bytes())))
}

/// Base64url without padding (RFC 4648, section 5).
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_the_rfc() {
        let written = ["", "f", "fo", "foo", "foob"].map(|text| base64url(text.as_bytes()));
        assert_eq!(written, ["", "Zg", "Zm8", "Zm9v", "Zm9vYg"]);
        assert_eq!(base64url(&[0xfb, 0xff, 0xfe]), "-__-");
    }

    #[test]
    fn a_server_starts_and_answers_api_calls() -> Result<()> {
        let Some(mut server) = LiveKitServer::start()? else { return Ok(()) };
        server.call_api("CreateRoom", "", &json!({ "name": "here" }))?;
        let rooms = server.call_api("ListRooms", "", &json!({}))?;
        assert_eq!(rooms["rooms"][0]["name"], "here", "{rooms}");
        server.kill();
        assert!(server.call_api("ListRooms", "", &json!({})).is_err());
        server.restart()?;
        server.call_api("ListRooms", "", &json!({})).map(drop)
    }
}
