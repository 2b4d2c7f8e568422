//! TURN and STUN server: coturn, on loopback.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::command::{self, install_hint, program};
use crate::scratch::ScratchDir;
use crate::tls;

/// Longest time for coturn to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Name of the program in Debian.
const PROGRAM: &str = "turnserver";

/// The only user of [`Coturn`].
pub const USER: &str = "caster";
/// The user's password.
pub const PASSWORD: &str = "correct horse";

/// A running coturn; killed when dropped.
#[derive(Debug)]
pub struct Coturn {
    child: Option<Child>,
    scratch: ScratchDir,
    port: u16,
    tls_port: u16,
    certificate: PathBuf,
    key: PathBuf,
    options: Vec<String>,
}

impl Coturn {
    /// Starts coturn on free ports of 127.0.0.1, with more options, such as `--stale-nonce=1`.
    ///
    /// # Errors
    /// coturn is missing, or does not start.
    pub fn start(options: &[&str]) -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let (certificate, key) = tls::end_entity_certificate(scratch.path())?;
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (port, tls_port) = (free_port()?, free_port()?);
        let mut coturn = Self { child: None, scratch, port, tls_port, certificate, key, options };
        coturn.restart()?;
        Ok(coturn)
    }

    /// Starts coturn again on the same ports, after [`Coturn::kill`].
    ///
    /// # Errors
    /// coturn does not start.
    pub fn restart(&mut self) -> Result<()> {
        let log = File::create(self.scratch.join("log"))?;
        let mut coturn = program(PROGRAM);
        coturn.args(["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--allow-loopback-peers"]);
        coturn.args([
            "--lt-cred-mech",
            "--realm=pagecast.test",
            "--no-cli",
            "--no-dtls",
            "--log-file=stdout",
        ]);
        coturn.args([
            "--relay-threads=1",
            "--no-multicast-peers",
            "--no-rfc5780",
            "--simple-log",
            "--verbose",
        ]);
        coturn.arg(format!("--user={USER}:{PASSWORD}"));
        coturn.arg(format!("--listening-port={}", self.port));
        coturn.arg(format!("--tls-listening-port={}", self.tls_port));
        coturn.arg(format!("--cert={}", self.certificate.display()));
        coturn.arg(format!("--pkey={}", self.key.display()));
        coturn.arg(format!("--pidfile={}", self.scratch.join("pid").display()));
        coturn.arg(format!("--userdb={}", self.scratch.join("users").display()));
        coturn.args(&self.options);
        coturn.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(coturn.spawn().with_context(|| install_hint(PROGRAM))?);
        let began = Instant::now();
        while !self.is_ready()? {
            let ended = self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|e| e.is_some()));
            ensure!(!ended && began.elapsed() < START_TIMEOUT, "coturn does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether coturn accepts connections and responds to a STUN request.
    fn is_ready(&self) -> Result<bool> {
        if [self.port, self.tls_port].iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
            return Ok(false);
        }
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut request = [0; 20];
        request[1] = 1;
        request[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
        let sent = socket.send_to(&request, ("127.0.0.1", self.port));
        Ok(sent.is_ok() && socket.recv_from(&mut [0; 200]).is_ok())
    }

    /// Kills coturn.
    pub fn kill(&mut self) {
        command::kill_child(&mut self.child);
    }

    /// URL for STUN.
    #[must_use]
    pub fn stun_url(&self) -> String {
        format!("stun:127.0.0.1:{}", self.port)
    }

    /// URL for TURN by `udp` or `tcp`.
    #[must_use]
    pub fn url(&self, transport: &str) -> String {
        format!("turn:127.0.0.1:{}?transport={transport}", self.port)
    }

    /// URL for TURN by TLS.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("turns:127.0.0.1:{}", self.tls_port)
    }

    /// Address for connections without TLS.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The certificate, which clients must be configured to trust.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.certificate.clone()
    }

    /// Log of coturn.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that is free for TCP and for UDP.
fn free_port() -> Result<u16> {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}
