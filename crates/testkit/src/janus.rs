//! Janus with its VideoRoom plugin. Signaling goes through loopback. Media goes through another address of
//! this machine, as Janus never uses loopback for media; it does not leave the machine either.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::command::{self, install_hint, program};
use crate::rtmp::free_port;
use crate::scratch::ScratchDir;
use crate::tls;

/// Longest time for Janus to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Plugins that no test needs.
const UNUSED_PLUGINS: &str = "libjanus_audiobridge.so,libjanus_duktape.so,libjanus_echotest.so,\
    libjanus_lua.so,\
    libjanus_nosip.so,libjanus_recordplay.so,libjanus_sip.so,libjanus_streaming.so,libjanus_textroom.so,\
    libjanus_videocall.so,libjanus_voicemail.so";
const UNUSED_TRANSPORTS: &str =
    "libjanus_mqtt.so,libjanus_nanomsg.so,libjanus_pfunix.so,libjanus_rabbitmq.so";
/// Secret of the admin interface.
const ADMIN_SECRET: &str = "admin-of-the-test";

/// Settings of a Janus server.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Whether rooms and users have text ids instead of numbers.
    pub string_ids: bool,
    /// Secret that every request needs.
    pub api_secret: Option<String>,
    /// Whether every request needs a token, added by [`JanusServer::add_token`].
    pub token_auth: bool,
    /// Key that is needed to create rooms.
    pub admin_key: Option<String>,
    /// Seconds without a message after which a session ends; default 60.
    pub session_timeout_s: Option<u32>,
    /// Rooms that exist from the start.
    pub rooms: Vec<Room>,
}

/// A room that exists from the start.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// Number or text id of the room.
    pub id: String,
    /// Secret that is needed to change the room and to kick users.
    pub secret: Option<String>,
    /// PIN that is needed to join.
    pub pin: Option<String>,
    /// Most publishers at the same time; 0 for Janus's default.
    pub publishers: u32,
    /// Only video codec; default H.264 and VP8.
    pub videocodec: Option<String>,
}

/// A running Janus; killed when dropped.
#[derive(Debug)]
pub struct JanusServer {
    child: Option<Child>,
    scratch: ScratchDir,
    config: Config,
    address: IpAddr,
    ports: Ports,
}

#[derive(Debug)]
struct Ports {
    ws: u16,
    wss: u16,
    http: u16,
    admin: u16,
}

impl JanusServer {
    /// Starts Janus on free ports.
    ///
    /// # Errors
    /// Janus is missing or does not start, or this machine has no address but loopback.
    pub fn start(config: Config) -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let (_certificate, _key) = tls::self_signed_certificate(scratch.path())?;
        let ports = Ports { ws: free_port()?, wss: free_port()?, http: free_port()?, admin: free_port()? };
        let mut janus = Self { child: None, scratch, config, address: non_loopback_address()?, ports };
        janus.restart()?;
        Ok(janus)
    }

    /// Starts Janus again on the same ports, after [`JanusServer::kill`].
    ///
    /// # Errors
    /// Janus does not start.
    pub fn restart(&mut self) -> Result<()> {
        let folder = self.scratch.path().display().to_string();
        for (name, text) in [
            ("janus.jcfg", self.core_config(&folder)),
            ("janus.transport.websockets.jcfg", self.websockets_config(&folder)),
            ("janus.transport.http.jcfg", self.http_config()),
            ("janus.plugin.videoroom.jcfg", self.videoroom_config()),
        ] {
            fs::write(self.scratch.join(name), text)?;
        }
        let mut janus = program("janus");
        janus.args(["--disable-stdout", "--disable-colors", "--configs-folder", &folder]);
        janus.arg("--log-file").arg(self.scratch.join("janus.log"));
        janus.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(janus.spawn().with_context(|| install_hint("janus"))?);
        let began = Instant::now();
        let Ports { ws, wss, http, admin } = self.ports;
        for port in [ws, wss, http, admin] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                let ended =
                    self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|e| e.is_some()));
                ensure!(!ended && began.elapsed() < START_TIMEOUT, "Janus does not start: {}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn core_config(&self, folder: &str) -> String {
        let Config { api_secret, token_auth: tokens, session_timeout_s, .. } = &self.config;
        let mut general = format!("configs_folder = \"{folder}\"\nadmin_secret = \"{ADMIN_SECRET}\"\n");
        general.push_str(&config_line("api_secret", api_secret.as_deref()));
        // Writing to a string cannot fail.
        let _written = writeln!(general, "interface = \"{}\"\ntoken_auth = {tokens}", self.address);
        if let Some(seconds) = session_timeout_s {
            let _written = writeln!(general, "session_timeout = {seconds}");
        }
        format!(
            "general: {{\n{general}}}
             media: {{ ipv6 = false\nrtp_port_range = \"10000-32000\" }}
             nat: {{ ice_enforce_list = \"{}\"\nignore_mdns = true }}
             plugins: {{ disable = \"{UNUSED_PLUGINS}\" }}
             transports: {{ disable = \"{UNUSED_TRANSPORTS}\" }}
             events: {{ broadcast = false }}
            ",
            self.address
        )
    }

    fn websockets_config(&self, folder: &str) -> String {
        let Ports { ws, wss, .. } = self.ports;
        format!(
            "general: {{ json = \"compact\"\nws = true\nws_port = {ws}\nws_ip = \"127.0.0.1\"
                 wss = true\nwss_port = {wss}\nwss_ip = \"127.0.0.1\" }}
             admin: {{ admin_ws = false }}
             certificates: {{ cert_pem = \"{folder}/certificate.pem\"\ncert_key = \"{folder}/key.pem\" }}
            "
        )
    }

    fn http_config(&self) -> String {
        let Ports { http, admin, .. } = self.ports;
        format!(
            "general: {{ json = \"compact\"\nbase_path = \"/janus\"\nhttp = true\nport = {http}
                 ip = \"127.0.0.1\"\nhttps = false }}
             admin: {{ admin_base_path = \"/admin\"\nadmin_http = true\nadmin_port = {admin}
                 admin_ip = \"127.0.0.1\"\nadmin_https = false }}
            "
        )
    }

    fn videoroom_config(&self) -> String {
        let Config { string_ids, admin_key, rooms, .. } = &self.config;
        let key = config_line("admin_key", admin_key.as_deref());
        let mut text = format!("general: {{ string_ids = {string_ids}\n{key} }}\n");
        for room in rooms {
            let codec = room.videocodec.as_deref().unwrap_or("h264,vp8");
            let (secret, pin) =
                (config_line("secret", room.secret.as_deref()), config_line("pin", room.pin.as_deref()));
            let publishers = if room.publishers > 0 {
                format!("publishers = {}\n", room.publishers)
            } else {
                String::new()
            };
            let _written = writeln!(
                text,
                "room-{}: {{ description = \"of a test\"\n{secret}{pin}{publishers}videocodec = \"{codec}\"
                 h264_profile = \"42e01f\" }}",
                room.id
            );
        }
        text
    }

    /// Adds a token, for [`Config::token_auth`].
    ///
    /// # Errors
    /// Janus refuses the token.
    pub fn add_token(&self, token: &str) -> Result<()> {
        let request = serde_json::json!({
            "janus": "add_token", "token": token, "transaction": "1", "admin_secret": ADMIN_SECRET,
        })
        .to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.admin))?;
        stream.set_read_timeout(Some(START_TIMEOUT))?;
        let length = request.len();
        write!(
            stream,
            "POST /admin HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{request}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains("success"), "Janus refuses the token: {answer}");
        Ok(())
    }

    /// Kills Janus.
    pub fn kill(&mut self) {
        command::kill_child(&mut self.child);
    }

    /// Sends a signal: after `SIGSTOP` connections stay open but nothing is read, until `SIGCONT`.
    ///
    /// # Errors
    /// Janus does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        command::signal_child(self.child.as_ref(), "Janus", signal)
    }

    /// WebSocket URL.
    #[must_use]
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/", self.ports.ws)
    }

    /// WebSocket URL with TLS and a self-signed certificate for `localhost`.
    #[must_use]
    pub fn wss_url(&self) -> String {
        format!("wss://localhost:{}/", self.ports.wss)
    }

    /// HTTP URL.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}/janus", self.ports.http)
    }

    /// Log of Janus.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.join("janus.log")
    }
}

impl Drop for JanusServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A line of the configuration; empty without a value.
fn config_line(name: &str, value: Option<&str>) -> String {
    value.map(|value| format!("{name} = \"{value}\"\n")).unwrap_or_default()
}

/// An address of this machine that is not loopback.
fn non_loopback_address() -> Result<IpAddr> {
    let found = if_addrs::get_if_addrs()?.into_iter();
    let mut fitting =
        found.filter(|i| i.is_oper_up() && !i.is_loopback() && !i.is_link_local() && i.ip().is_ipv4());
    let first = fitting.next().map(|interface| interface.ip());
    first.context("this machine has only loopback addresses, which Janus does not use: add another address")
}
