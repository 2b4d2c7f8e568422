//! RTMP server that records its streams: nginx with the rtmp module, on loopback.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::command::{self, install_hint, program};
use crate::scratch::ScratchDir;

/// Folder of nginx's modules in Debian.
const MODULES_FOLDER: &str = "/usr/lib/nginx/modules";
/// Longest time for nginx to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running nginx; killed when dropped. Application `live` accepts and records every stream, `closed`
/// refuses every stream.
#[derive(Debug)]
pub struct NginxRtmp {
    child: Option<Child>,
    scratch: ScratchDir,
    port: u16,
    tls: Option<Tls>,
    /// Number of starts so far, for the names of recordings.
    start_count: u32,
}

/// Certificate and port for RTMPS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// Port for RTMPS.
    pub port: u16,
}

impl NginxRtmp {
    /// Starts nginx on a free port, with RTMPS on another if there is a certificate with its key.
    ///
    /// # Errors
    /// nginx is missing, or does not start.
    pub fn start(certificate: Option<(PathBuf, PathBuf)>) -> Result<Self> {
        let scratch = ScratchDir::new()?;
        scratch.world_writable_folder("recorded")?;
        let tls = match certificate {
            Some((certificate, key)) => Some(Tls { certificate, key, port: free_port()? }),
            None => None,
        };
        let mut nginx = Self { child: None, scratch, port: free_port()?, tls, start_count: 0 };
        nginx.restart()?;
        Ok(nginx)
    }

    /// Starts nginx again on the same ports, after [`NginxRtmp::kill`].
    ///
    /// # Errors
    /// nginx does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.start_count += 1;
        let folder = self.scratch.path().display().to_string();
        fs::write(self.scratch.join("nginx.conf"), self.config(&folder))?;
        let name = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let mut nginx = program(name);
        nginx.args([
            "-p",
            &folder,
            "-c",
            &format!("{folder}/nginx.conf"),
            "-e",
            &format!("{folder}/error.log"),
        ]);
        nginx.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(nginx.spawn().with_context(|| install_hint("nginx"))?);
        let ports = [Some(self.port), self.tls.as_ref().map(|tls| tls.port)];
        let began = Instant::now();
        for port in ports.into_iter().flatten() {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                let ended =
                    self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|e| e.is_some()));
                ensure!(!ended && began.elapsed() < START_TIMEOUT, "nginx does not start: {}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn config(&self, folder: &str) -> String {
        let Self { port, start_count: generation, .. } = self;
        let mut config = format!(
            "daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log info;
             load_module {MODULES_FOLDER}/ngx_rtmp_module.so;
             {}
             events {{ worker_connections 256; }}
             rtmp {{ access_log off; server {{ listen 127.0.0.1:{port}; chunk_size 4096; max_message 10M;
                 application live {{ live on; record all; record_path {folder}/recorded; record_unique on;
                     record_suffix -{generation}.flv; }}
                 application closed {{ live on; deny publish all; }} }} }}
            ",
            if self.tls.is_some() {
                format!("load_module {MODULES_FOLDER}/ngx_stream_module.so;")
            } else {
                String::new()
            },
        );
        if let Some(Tls { certificate, key, port: tls }) = &self.tls {
            let (certificate, key) = (certificate.display(), key.display());
            // Writing to a string cannot fail.
            let _written = write!(
                config,
                "stream {{ server {{ listen 127.0.0.1:{tls} ssl; ssl_certificate {certificate};
                     ssl_certificate_key {key}; proxy_pass 127.0.0.1:{port}; }} }}"
            );
        }
        config
    }

    /// Kills nginx.
    pub fn kill(&mut self) {
        command::kill_child(&mut self.child);
    }

    /// Sends a signal: after `SIGSTOP` connections stay open but nothing is read, until `SIGCONT`.
    ///
    /// # Errors
    /// nginx does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        command::signal_child(self.child.as_ref(), "nginx", signal)
    }

    /// Process id, if nginx runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// URL for a stream of this name.
    #[must_use]
    pub fn url(&self, key: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{key}", self.port)
    }

    /// Port for RTMP.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// RTMPS URL for a stream of this name, with a host name that resolves to loopback. Its port is 0 without
    /// a certificate.
    #[must_use]
    pub fn tls_url(&self, host: &str, key: &str) -> String {
        format!("rtmps://{host}:{}/live/{key}", self.tls.as_ref().map_or(0, |tls| tls.port))
    }

    /// Files that were recorded of a stream, oldest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn recordings(&self, key: &str) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.scratch.join("recorded"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.strip_prefix(key).is_some_and(|rest| rest.starts_with('-')) {
                files.push(path);
            }
        }
        // The names end with the time and the number of the start.
        files.sort();
        Ok(files)
    }

    /// Log of nginx.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("error.log")).unwrap_or_default()
    }
}

impl Drop for NginxRtmp {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A free port of 127.0.0.1.
///
/// # Errors
/// No port is free.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
