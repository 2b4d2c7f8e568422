//! Certificates that the browser of one cast trusts in addition to its own list.
//!
//! Chromium on Linux reads them from the NSS database in its home folder, which is created here with NSS's
//! own tool. No other way applies to one browser only and still checks everything else: a policy applies to
//! all browsers of the machine, and `--ignore-certificate-errors-spki-list` accepts any chain that contains
//! the named certificate, whether signed by it or not.

use std::path::{Path, PathBuf};

use pagecast_core::spec::CaBundle;

use crate::child;

/// Path of NSS's tool, which Debian's package `libnss3-tools` installs.
const CERTUTIL: &str = "/usr/bin/certutil";
/// Folders of the database, below the browser's home folder.
pub(crate) const DATABASE_FOLDERS: [&str; 2] = [".pki", ".pki/nssdb"];
/// Files of the database.
const DATABASE_FILES: [&str; 3] = ["cert9.db", "key4.db", "pkcs11.txt"];
/// Trust as an authority, and as the certificate of a server; for TLS only.
const TRUST_FLAGS: &str = "CP,,";

/// Why the certificate database cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tool is not installed.
    #[error(
        "there is no {CERTUTIL}, which trusted certificates need: install it (apt install libnss3-tools)"
    )]
    CertutilNotFound,
    /// The tool cannot be run, or its output cannot be read.
    #[error("cannot create a certificate database in {}", .0.display())]
    Database(PathBuf, #[source] std::io::Error),
    /// The tool rejects a certificate.
    #[error("cannot use trusted certificate {number}: {message}")]
    Certificate {
        /// Number of the certificate, from 1.
        number: usize,
        /// Message of the tool.
        message: String,
    },
}

/// Creates a database that trusts these certificates, and returns its files: names below the home folder, and
/// contents. Uses `folder`, and removes it afterwards.
pub(crate) fn create_database(ca: &CaBundle, folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let files = run_certutil(ca, folder);
    // If this fails, the folder is removed with the run folder.
    let _later = std::fs::remove_dir_all(folder);
    files
}

fn run_certutil(ca: &CaBundle, folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let fail = |error| Error::Database(folder.to_owned(), error);
    if !Path::new(CERTUTIL).exists() {
        return Err(Error::CertutilNotFound);
    }
    std::fs::create_dir(folder).map_err(fail)?;
    let database = format!("sql:{}", folder.display());
    let certutil = |arguments: &[&str]| {
        let common = ["-d", &database];
        let all = common.iter().chain(arguments).copied();
        child::run_tool(Path::new(CERTUTIL), all, folder).map_err(fail)
    };
    let created = certutil(&["-N", "--empty-password"])?;
    if let Err(message) = created {
        return Err(fail(std::io::Error::other(message)));
    }
    for (number, certificate) in (1..).zip(ca.certificates()) {
        let file = folder.join("certificate.pem");
        std::fs::write(&file, certificate).map_err(fail)?;
        let name = format!("pagecast-{number}");
        let file = file.display().to_string();
        let added = certutil(&["-A", "-t", TRUST_FLAGS, "-n", &name, "-i", &file])?;
        added.map_err(|message| Error::Certificate { number, message })?;
    }
    let read = |name: &&str| {
        Ok((format!("{}/{name}", DATABASE_FOLDERS[1]), std::fs::read(folder.join(name)).map_err(fail)?))
    };
    DATABASE_FILES.iter().map(read).collect()
}
