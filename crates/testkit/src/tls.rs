//! Certificates for tests, and a web server that browsers do not trust.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use crate::command::{install_hint, program, run_for_output};
use crate::scratch::ScratchDir;

/// Creates a self-signed certificate for `localhost` and its key in a folder.
///
/// # Errors
/// `openssl` is missing or fails.
pub fn self_signed_certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let mut request = program("openssl");
    request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    request.args(["-addext", "subjectAltName=DNS:localhost"]);
    run_for_output(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    Ok((certificate, key))
}

/// Creates a self-signed end-entity certificate for `localhost` and 127.0.0.1 and its key in a folder. Strict
/// clients accept it from a server if they are configured to trust it.
///
/// # Errors
/// `openssl` is missing or fails.
pub fn end_entity_certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("end-entity.pem"), folder.join("end-entity-key.pem"));
    // With openssl's default configuration it would be an authority.
    let config = folder.join("openssl.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n")?;
    let mut request = program("openssl");
    request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    request.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    request.args(["-addext", "basicConstraints=critical,CA:FALSE"]).arg("-config").arg(config);
    run_for_output(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    Ok((certificate, key))
}

/// A private authority, and a certificate for `localhost` and 127.0.0.1 that it issued.
#[derive(Debug)]
pub struct CertificateAuthority {
    /// Certificate of the authority.
    pub certificate: PathBuf,
    /// The issued certificate and its key.
    pub issued: (PathBuf, PathBuf),
}

impl CertificateAuthority {
    /// Creates both in a folder.
    ///
    /// # Errors
    /// `openssl` is missing or fails.
    pub fn create(folder: &Path) -> Result<Self> {
        let file = |name: &str| folder.join(name);
        std::fs::write(
            file("authority.cnf"),
            "[req]\ndistinguished_name = name\n[name]\n[ca]\nbasicConstraints = critical,CA:TRUE\n\
             [leaf]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = DNS:localhost,IP:127.0.0.1\n",
        )?;
        let request = |name: &str| {
            let mut request = program("openssl");
            request.args(["req", "-newkey", "rsa:2048", "-nodes", "-subj", &format!("/CN={name}")]);
            request.arg("-config").arg(file("authority.cnf"));
            request
        };
        let (ca, ca_key) = (file("ca.pem"), file("ca-key.pem"));
        let mut authority = request("Our own authority");
        authority.args(["-x509", "-days", "2", "-extensions", "ca"]);
        run_for_output(authority.arg("-keyout").arg(&ca_key).arg("-out").arg(&ca))?;
        let (certificate, key, request_file) =
            (file("signed.pem"), file("signed-key.pem"), file("signed.csr"));
        run_for_output(request("localhost").arg("-keyout").arg(&key).arg("-out").arg(&request_file))?;
        let mut sign = program("openssl");
        sign.args(["x509", "-req", "-days", "2", "-extensions", "leaf", "-CAcreateserial"]);
        sign.arg("-extfile").arg(file("authority.cnf")).arg("-in").arg(request_file);
        run_for_output(sign.arg("-CA").arg(&ca).arg("-CAkey").arg(ca_key).arg("-out").arg(&certificate))?;
        Ok(Self { certificate: ca, issued: (certificate, key) })
    }
}

/// `openssl s_server` with a certificate that no browser trusts by default; killed when dropped.
#[derive(Debug)]
pub struct TlsServer {
    child: Child,
    port: u16,
    scratch: ScratchDir,
}

impl TlsServer {
    /// Starts a server with a self-signed certificate on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// `openssl` is missing or fails.
    pub fn start() -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let identity = self_signed_certificate(scratch.path())?;
        Self::start_with(scratch, &identity)
    }

    /// Starts a server with this certificate and key, which serves the files in the scratch folder.
    ///
    /// # Errors
    /// `openssl` is missing or fails.
    pub fn start_with(scratch: ScratchDir, identity: &(PathBuf, PathBuf)) -> Result<Self> {
        Self::start_with_chain(scratch, identity, None)
    }

    /// As [`Self::start_with`]; the server also sends the certificates of `chain`.
    ///
    /// # Errors
    /// `openssl` is missing or fails.
    pub fn start_with_chain(
        scratch: ScratchDir,
        (certificate, key): &(PathBuf, PathBuf),
        chain: Option<&Path>,
    ) -> Result<Self> {
        let mut server = program("openssl");
        server.args(["s_server", "-WWW", "-accept", "127.0.0.1:0"]).current_dir(scratch.path());
        server.arg("-key").arg(key).arg("-cert").arg(certificate);
        if let Some(chain) = chain {
            server.arg("-cert_chain").arg(chain);
        }
        server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = server.spawn().with_context(|| install_hint("openssl"))?;
        let output = child.stdout.take().context("openssl has no output")?;
        let mut started = Self { child, port: 0, scratch };
        // It prints the port that the kernel chose as `ACCEPT 127.0.0.1:PORT`.
        let port = |line: String| line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.parse().ok();
        let mut lines = BufReader::new(output).lines();
        started.port = lines.find_map(|line| port(line.ok()?)).context("openssl accepts no connections")?;
        Ok(started)
    }

    /// URL of the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.port)
    }

    /// Adds a page with this name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_page(&self, name: &str, html: &str) -> Result<()> {
        Ok(std::fs::write(self.scratch.join(name), html)?)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
