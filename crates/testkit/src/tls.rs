//! A web server whose certificate nobody vouches for.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use crate::command::{missing, output_of, program};
use crate::scratch::Scratch;

/// Makes a certificate for `localhost` that is signed by itself, and its key, in a folder.
///
/// # Errors
/// `openssl` is missing or fails.
pub fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let mut request = program("openssl");
    request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    request.args(["-addext", "subjectAltName=DNS:localhost"]);
    output_of(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    Ok((certificate, key))
}

/// Makes a certificate for `localhost` and 127.0.0.1 that is signed by itself and vouches for no other, and its key, in a folder: strict
/// clients take it from a server if they are told to trust it.
///
/// # Errors
/// `openssl` is missing or fails.
pub fn end_entity(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("end-entity.pem"), folder.join("end-entity-key.pem"));
    // Without a configuration of its own, openssl makes an authority of it.
    let config = folder.join("openssl.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n")?;
    let mut request = program("openssl");
    request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    request.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    request.args(["-addext", "basicConstraints=critical,CA:FALSE"]).arg("-config").arg(config);
    output_of(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    Ok((certificate, key))
}

/// `openssl s_server` with a certificate signed by itself; killed when dropped.
#[derive(Debug)]
pub struct SelfSigned {
    child: Child,
    port: u16,
    #[expect(dead_code, reason = "key and certificate lie in it")]
    scratch: Scratch,
}

impl SelfSigned {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// `openssl` is missing or fails.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let (certificate, key) = certificate(scratch.path())?;
        let mut server = program("openssl");
        server.args(["s_server", "-www", "-accept", "127.0.0.1:0"]);
        server.arg("-key").arg(&key).arg("-cert").arg(&certificate);
        server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = server.spawn().with_context(|| missing("openssl"))?;
        let output = child.stdout.take().context("openssl has no output")?;
        let mut started = Self { child, port: 0, scratch };
        // It says which port the kernel chose as `ACCEPT 127.0.0.1:port`.
        let accepts = |line: String| line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.parse().ok();
        let mut lines = BufReader::new(output).lines();
        started.port =
            lines.find_map(|line| accepts(line.ok()?)).context("openssl accepts no connections")?;
        Ok(started)
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.port)
    }
}

impl Drop for SelfSigned {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
