//! Sealing of confidential values: AES-256-GCM with a key from a file or the environment.
//!
//! ```text
//!  1 byte   16 bytes  12 bytes                     16 bytes
//! ┌────────┬─────────┬──────────┬────────────────┬─────────┐
//! │ format │ salt    │ nonce    │ sealed bytes … │ tag     │
//! └────────┴─────────┴──────────┴────────────────┴─────────┘
//! ```
//!
//! Each value has its own key, the HMAC-SHA-256 of its salt, because random nonces are safe for only 2³²
//! values per key. Format and context are authenticated with the value, so that values cannot be exchanged.

mod key_file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Length of a key, in bytes.
pub const KEY_LEN: usize = 32;

/// First byte of a sealed value; the only format so far.
const FORMAT_VERSION: u8 = 1;
const SALT_LEN: usize = 16;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = 1 + SALT_LEN + NONCE_LEN;

/// Reason why a key cannot be loaded, or a value cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key file cannot be read or created.
    #[error("cannot {operation} the key file {}", path.display())]
    File {
        /// Operation that failed.
        operation: &'static str,
        /// Path of the key file.
        path: PathBuf,
        /// Error of the file system.
        #[source]
        source: io::Error,
    },
    /// Other users may read the key file.
    #[error("the key file {} is accessible to other users: run `chmod 600` on it, and replace the key if \
        somebody may have read it", .0.display())]
    InsecurePermissions(PathBuf),
    /// The key file does not contain a key.
    #[error(
        "the key file {} is damaged: it must contain 32 bytes as base64 text; restore it from a backup, \
        because sealed data cannot be read without it", .0.display()
    )]
    InvalidKeyFile(PathBuf),
    /// The text is not a key.
    #[error("this is not a key: write 32 bytes as base64 text, for example from `openssl rand -base64 32`")]
    InvalidKey,
    /// The value was sealed with another key or in another context, or is damaged.
    #[error("a sealed value cannot be opened: it was sealed with another key, or it is damaged")]
    Decrypt,
    /// A later version sealed the value.
    #[error("a sealed value has format {0}, which only a later version of pagecast supports")]
    UnknownFormat(u8),
}

/// Key that seals and opens values.
pub struct Vault(hmac::Key);

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// Loads the key from a file that only its owner can access: 32 bytes as base64 text. The file is created
    /// if it does not exist.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::InsecurePermissions`] or [`Error::InvalidKeyFile`].
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text = key_file::read_or_create(path, || STANDARD.encode(random_bytes::<KEY_LEN>()))?;
        Self::from_text(&text).map_err(|_| Error::InvalidKeyFile(path.to_owned()))
    }

    /// Parses a key: 32 bytes as base64 text, optionally surrounded by white space.
    ///
    /// # Errors
    /// [`Error::InvalidKey`].
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| Error::InvalidKey)?;
        if bytes.len() == KEY_LEN {
            Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
        } else {
            Err(Error::InvalidKey)
        }
    }

    /// Seals a value in a context, such as its table and row.
    #[must_use]
    pub fn seal(&self, context: &str, bytes: &[u8]) -> Vec<u8> {
        let salt = random_bytes::<SALT_LEN>();
        let nonce = random_bytes::<NONCE_LEN>();
        let mut sealed = Vec::with_capacity(HEADER_LEN + bytes.len() + TAG_LEN);
        sealed.push(FORMAT_VERSION);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(bytes);
        let tag = self
            .key(&salt)
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                aad(context),
                &mut sealed[HEADER_LEN..],
            )
            .expect("a value is shorter than 64 GiB");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens a value that was sealed in this context.
    ///
    /// # Errors
    /// [`Error::Decrypt`] or [`Error::UnknownFormat`].
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        match sealed.first() {
            Some(&FORMAT_VERSION) if sealed.len() >= HEADER_LEN + TAG_LEN => {}
            Some(&FORMAT_VERSION) | None => return Err(Error::Decrypt),
            Some(&other) => return Err(Error::UnknownFormat(other)),
        }
        let (head, body) = sealed.split_at(HEADER_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&head[1 + SALT_LEN..]).map_err(|_| Error::Decrypt)?;
        let mut body = body.to_vec();
        let opened = self
            .key(&head[1..=SALT_LEN])
            .open_in_place(nonce, aad(context), &mut body)
            .map_err(|_| Error::Decrypt)?;
        let len = opened.len();
        body.truncate(len);
        Ok(body)
    }

    fn key(&self, salt: &[u8]) -> LessSafeKey {
        let key = hmac::sign(&self.0, salt);
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("HMAC-SHA-256 gives 32 bytes"))
    }
}

fn aad(context: &str) -> Aad<Vec<u8>> {
    Aad::from([&[FORMAT_VERSION], context.as_bytes()].concat())
}

/// A random number.
#[must_use]
pub fn random_u64() -> u64 {
    u64::from_ne_bytes(random_bytes())
}

/// Random bytes of the system.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
    bytes
}
