//! The listener's certificate, reloaded when its files change.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;
use crate::service::error_chain;

/// Modification times of the certificate and the key file.
type ModifiedTimes = [Option<SystemTime>; 2];

/// The current certificate and key, and the files that they come from.
#[derive(Debug)]
pub(super) struct Certificates {
    files: Tls,
    modified: ModifiedTimes,
    config: Arc<ServerConfig>,
}

/// Why a certificate cannot be used. No variant contains text of the files, which hold a private key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file with the certificates cannot be read.
    #[error("cannot read the certificate {}", .0.display())]
    ReadCertificate(PathBuf, #[source] pem::Error),
    /// The file contains no certificate.
    #[error("{} contains no certificate in PEM format", .0.display())]
    NoCertificate(PathBuf),
    /// The file with the private key cannot be read.
    #[error("cannot read the private key {}", .0.display())]
    ReadKey(PathBuf, #[source] io::Error),
    /// The file contains no private key.
    #[error("{} contains no private key in PEM format", .0.display())]
    NoKey(PathBuf),
    /// The key is not that of the certificate, or either is not supported.
    #[error("the certificate {} and the key {} do not match", .certificate.display(), .key.display())]
    Mismatch {
        /// File with the certificates.
        certificate: PathBuf,
        /// File with the key.
        key: PathBuf,
        /// What rustls reports.
        #[source]
        source: rustls::Error,
    },
}

impl Certificates {
    pub(super) fn load(files: Tls) -> Result<Self, TlsError> {
        // Taken before the files are read, so that a change in between triggers a reload.
        let modified = modified_times(&files);
        Ok(Self { config: Arc::new(load_config(&files)?), files, modified })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Reloads the files if they have changed. If they are invalid, the old certificate stays in use.
    pub(super) fn reload(&mut self) {
        let modified = modified_times(&self.files);
        if modified == self.modified {
            return;
        }
        self.modified = modified;
        match load_config(&self.files) {
            Ok(config) => {
                self.config = Arc::new(config);
                tracing::info!("certificate reloaded");
            }
            Err(error) => {
                let reason = error_chain(&error);
                tracing::warn!(reason, "certificate reload failed, keeping the old one");
            }
        }
    }
}

/// Checks that a certificate and its key can be loaded.
///
/// # Errors
/// As [`TlsError`] lists.
pub(crate) fn validate(files: &Tls) -> Result<(), TlsError> {
    load_config(files).map(drop)
}

fn modified_times(files: &Tls) -> ModifiedTimes {
    [&files.certificate, &files.key].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
}

fn load_config(files: &Tls) -> Result<ServerConfig, TlsError> {
    let (certificate, key) = (&files.certificate, &files.key);
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| TlsError::ReadCertificate(certificate.clone(), error))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.clone()));
    }
    // Errors other than IO may quote the file, which contains the key.
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::Io(error) => TlsError::ReadKey(key.clone(), error),
        _ => TlsError::NoKey(key.clone()),
    })?;
    let mismatch = |source| TlsError::Mismatch { certificate: certificate.clone(), key: key.clone(), source };
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(mismatch)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, private_key).map_err(mismatch)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
