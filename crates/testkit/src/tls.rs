//! A web server whose certificate nobody vouches for.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use crate::command::{install_hint, program, run_for_output};
use crate::scratch::ScratchDir;

/// Makes a certificate for `localhost` that is signed by itself, and its key, in a folder.
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

/// Makes a certificate for `localhost` and 127.0.0.1 that is signed by itself and vouches for no other, and
/// its key, in a folder: strict clients take it from a server if they are told to trust it.
///
/// # Errors
/// `openssl` is missing or fails.
pub fn end_entity_certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("end-entity.pem"), folder.join("end-entity-key.pem"));
    // Without a configuration of its own, openssl makes an authority of it.
    let config = folder.join("openssl.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n")?;
    let mut request = program("openssl");
    request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    request.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    request.args(["-addext", "basicConstraints=critical,CA:FALSE"]).arg("-config").arg(config);
    run_for_output(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    Ok((certificate, key))
}

/// An authority of its own, and a certificate for `localhost` and 127.0.0.1 that it has signed.
#[derive(Debug)]
pub struct CertificateAuthority {
    /// Its certificate.
    pub certificate: PathBuf,
    /// The certificate that it has signed, and its key.
    pub issued: (PathBuf, PathBuf),
}

impl CertificateAuthority {
    /// Makes both in a folder.
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
        let (certificate, key, wish) = (file("signed.pem"), file("signed-key.pem"), file("signed.csr"));
        run_for_output(request("localhost").arg("-keyout").arg(&key).arg("-out").arg(&wish))?;
        let mut sign = program("openssl");
        sign.args(["x509", "-req", "-days", "2", "-extensions", "leaf", "-CAcreateserial"]);
        sign.arg("-extfile").arg(file("authority.cnf")).arg("-in").arg(wish);
        run_for_output(sign.arg("-CA").arg(&ca).arg("-CAkey").arg(ca_key).arg("-out").arg(&certificate))?;
        Ok(Self { certificate: ca, issued: (certificate, key) })
    }
}

/// `openssl s_server` with a certificate that no browser trusts by itself; killed when dropped.
#[derive(Debug)]
pub struct TlsServer {
    child: Child,
    port: u16,
    scratch: ScratchDir,
}

impl TlsServer {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// `openssl` is missing or fails.
    pub fn start() -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let identity = self_signed_certificate(scratch.path())?;
        Self::start_with(scratch, &identity)
    }

    /// Starts one with this certificate and key, which serves the files in the scratch folder.
    ///
    /// # Errors
    /// `openssl` is missing or fails.
    pub fn start_with(scratch: ScratchDir, identity: &(PathBuf, PathBuf)) -> Result<Self> {
        Self::start_with_chain(scratch, identity, None)
    }

    /// The same, which also shows the certificates of this file, as if they vouched for its own.
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

    /// Has it serve a page under this name.
    ///
    /// # Errors
    /// It cannot be written.
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
