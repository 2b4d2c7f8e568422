//! The listener's certificate, read again when its files change.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;

/// When the files were changed last.
type ModifiedTimes = [Option<SystemTime>; 2];

/// A certificate and its key.
#[derive(Debug)]
pub(super) struct Certificates {
    files: Tls,
    modified: ModifiedTimes,
    config: Arc<ServerConfig>,
}

impl Certificates {
    pub(super) fn load(files: Tls) -> Result<Self, String> {
        // Before the files are read: what changes meanwhile is read again.
        let stamp = modified_times(&files);
        Ok(Self { config: Arc::new(load_config(&files)?), files, modified: stamp })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Takes the files as they are now, if they have changed and can be used.
    pub(super) fn reload(&mut self) {
        let stamp = modified_times(&self.files);
        if stamp == self.modified {
            return;
        }
        self.modified = stamp;
        match load_config(&self.files) {
            Ok(config) => {
                self.config = Arc::new(config);
                tracing::info!("the certificate was read again");
            }
            Err(why) => {
                tracing::warn!(why, "the certificate changed and cannot be used; the one before stays");
            }
        }
    }
}

/// What is wrong with a certificate or its key, in words.
pub(crate) fn validate(files: &Tls) -> Result<(), String> {
    load_config(files).map(drop)
}

fn modified_times(files: &Tls) -> ModifiedTimes {
    [&files.certificate, &files.key].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
}

fn load_config(files: &Tls) -> Result<ServerConfig, String> {
    let (certificate, key) = (&files.certificate, &files.key);
    let cannot = |path: &Path, why: String| format!("tls: cannot read {}: {why}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| cannot(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(cannot(certificate, "there is no certificate in it (PEM is needed)".into()));
    }
    // What is in the file of the key is not repeated.
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        rustls::pki_types::pem::Error::Io(error) => cannot(key, error.to_string()),
        _ => cannot(key, "there is no private key in it (PEM is needed)".into()),
    })?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let config = builder.with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.map_err(|error| {
        format!("tls: {} and {} do not fit together: {error}", certificate.display(), files.key.display())
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
