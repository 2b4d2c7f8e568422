//! Certificates that the browser of one cast trusts besides its own list.
//!
//! Chromium on Linux reads them from the NSS database in its home folder, which is made here with NSS's own
//! tool. There is no other way that holds for one browser only and still checks everything else: a policy
//! holds for all browsers of the machine, and `--ignore-certificate-errors-spki-list` accepts any chain that
//! merely contains the named certificate, signed by it or not.

use std::path::{Path, PathBuf};

use pagecast_core::spec::CaBundle;

use crate::child;

/// NSS's tool, as Debian's package `libnss3-tools` installs it.
const CERTUTIL: &str = "/usr/bin/certutil";
/// Where the browser looks for the database, below its home folder.
pub(crate) const DATABASE_FOLDERS: [&str; 2] = [".pki", ".pki/nssdb"];
/// The files that make the database up.
const DATABASE_FILES: [&str; 3] = ["cert9.db", "key4.db", "pkcs11.txt"];
/// Trusted as an authority, and as a server's own certificate; for TLS only.
const TRUST_FLAGS: &str = "CP,,";

/// Why the browser cannot be made to trust certificates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tool is not installed.
    #[error(
        "there is no {CERTUTIL}, which certificates of one's own need: install it (apt install libnss3-tools)"
    )]
    CertutilNotFound,
    /// The tool cannot be run, or what it made cannot be read.
    #[error("cannot make a certificate database in {}", .0.display())]
    Database(PathBuf, #[source] std::io::Error),
    /// The tool does not take a certificate.
    #[error("certificate {number} of those to trust cannot be used: {message}")]
    Certificate {
        /// Which one, from 1.
        number: usize,
        /// What the tool says about it.
        message: String,
    },
}

/// The database that trusts these certificates: names below [`DATABASE_FOLDERS`] and contents of its files. It is made
/// in `folder`, which is removed again.
pub(crate) fn create_database(ca: &CaBundle, folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let made = run_certutil(ca, folder);
    // What is left of it goes with the cast's folder.
    let _later = std::fs::remove_dir_all(folder);
    made
}

fn run_certutil(ca: &CaBundle, folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let fail = |error| Error::Database(folder.to_owned(), error);
    if !Path::new(CERTUTIL).exists() {
        return Err(Error::CertutilNotFound);
    }
    std::fs::create_dir(folder).map_err(fail)?;
    let database = format!("sql:{}", folder.display());
    let certutil = |arguments: &[&str]| {
        let of_database = ["-d", &database];
        let all = of_database.iter().chain(arguments).copied();
        child::run_tool(Path::new(CERTUTIL), all, folder).map_err(fail)
    };
    let made = certutil(&["-N", "--empty-password"])?;
    if let Err(said) = made {
        return Err(fail(std::io::Error::other(said)));
    }
    for (number, certificate) in (1..).zip(ca.certificates()) {
        let file = folder.join("certificate.pem");
        std::fs::write(&file, certificate).map_err(fail)?;
        let name = format!("pagecast-{number}");
        let file = file.display().to_string();
        let added = certutil(&["-A", "-t", TRUST_FLAGS, "-n", &name, "-i", &file])?;
        added.map_err(|said| Error::Certificate { number, message: said })?;
    }
    let read = |name: &&str| {
        Ok((format!("{}/{name}", DATABASE_FOLDERS[1]), std::fs::read(folder.join(name)).map_err(fail)?))
    };
    DATABASE_FILES.iter().map(read).collect()
}
