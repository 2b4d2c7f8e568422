//! Where recordings are kept.

mod bucket;
mod vod;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

pub use bucket::{Bucket, StorageKeys, StorageService};
pub use vod::{VOD_LIFETIME_RANGE, Vod, VodMediaType};

/// Most characters of an object's name, folders included.
pub const MAX_OBJECT_NAME_LEN: usize = 400;
/// Most characters of a prefix, all parts and the `/` between them.
pub const MAX_PREFIX_LEN: usize = 400;

/// Where a recording is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// One MP4 file.
    File(PathBuf),
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket of an object storage.
    Bucket(Bucket),
    /// Tencent's video on demand.
    TencentVod(Vod),
}

impl Storage {
    /// Takes a folder, or `SERVICE://BUCKET/PREFIX`, with `?region=…&endpoint=…&account=…&path-style=true`
    /// behind it where they are needed. Services: `s3`, `gs`, `az`, `cos`, `tos`, `oss`. Keys are no part of
    /// it.
    ///
    /// # Errors
    /// What cannot be read, or would not pass [`Self::check`].
    pub fn parse(text: &str) -> Result<Self, StorageError> {
        let storage = match text.split_once("://") {
            None => Self::Folder(text.into()),
            Some((scheme, rest)) => Self::Bucket(Bucket::parse(scheme, rest)?),
        };
        storage.validate()?;
        Ok(storage)
    }

    /// Checks every value that the types leave open.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn validate(&self) -> Result<(), StorageError> {
        match self {
            Self::File(path) | Self::Folder(path) if path.as_os_str().is_empty() => Err(StorageError::NoPath),
            Self::File(path) | Self::Folder(path) if path.to_str().is_none() => {
                Err(StorageError::Path(path.clone()))
            }
            Self::File(_) | Self::Folder(_) => Ok(()),
            Self::Bucket(bucket) => bucket.validate(),
            Self::TencentVod(vod) => vod.validate(),
        }
    }

    /// The same place without its keys: what may be written to a disk.
    #[must_use]
    pub fn without_keys(&self) -> Self {
        let mut storage = self.clone();
        if let Some(keys) = storage.keys_mut() {
            *keys = None;
        }
        storage
    }

    /// Its keys; `None` for a place that has none, ever.
    pub fn keys_mut(&mut self) -> Option<&mut Option<StorageKeys>> {
        match self {
            Self::File(_) | Self::Folder(_) => None,
            Self::Bucket(bucket) => Some(&mut bucket.keys),
            Self::TencentVod(vod) => Some(&mut vod.keys),
        }
    }
}

/// Whether `name` can be the name of an object or a file below a folder: parts of 1 to 200 of `a–z A–Z 0–9 .
/// _ -`, no dot in front, `/` between them, [`MAX_OBJECT_NAME_LEN`] characters at most. Such a name means the
/// same in every storage.
#[must_use]
pub fn is_object_name(name: &str) -> bool {
    name.len() <= MAX_OBJECT_NAME_LEN && name.split('/').all(is_path_component)
}

fn is_path_component(part: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=200).contains(&part.len()) && !part.starts_with('.') && part.bytes().all(plain)
}

/// A part of a host name, as regions and accounts are.
fn is_dns_label(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// An endpoint is a server and nothing else, so that nothing secret can be in it.
fn validate_endpoint(url: &Url) -> Result<(), StorageError> {
    if url.path() == "/" { validate_server(url) } else { Err(StorageError::Endpoint) }
}

/// As [`validate_endpoint`], but the address may have a path, as that of an emulator of Azure has.
fn validate_endpoint_with_path(url: &Url) -> Result<(), StorageError> {
    let path = url.path();
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let plain = path.is_empty() || path.split('/').all(is_path_component);
    if plain && path.len() <= MAX_PREFIX_LEN { validate_server(url) } else { Err(StorageError::EndpointPath) }
}

fn validate_server(url: &Url) -> Result<(), StorageError> {
    let bare = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if bare { Ok(()) } else { Err(StorageError::Endpoint) }
}

/// Why a [`Storage`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No path at all.
    #[error("cannot keep recordings in a folder without a name")]
    NoPath,
    /// Not text: it could not be told to the process that writes it.
    #[error("cannot write to {}: its name must be UTF-8 text", .0.display())]
    Path(PathBuf),
    /// No service is called so.
    #[error(
        "cannot keep recordings at {0}://: write a folder, or s3://, gs://, az://, cos://, tos:// or oss:// with a bucket"
    )]
    Scheme(String),
    /// A user or password in an address.
    #[error("keys do not belong into the address of a bucket: leave out all up to the @")]
    KeysInAddress,
    /// Something behind the `?` that nobody reads.
    #[error(
        "cannot read {0:?} in the address of a bucket: region, endpoint, account and path-style are possible"
    )]
    Parameter(String),
    /// Not a name of a bucket.
    #[error("{name:?} cannot be a bucket of {service}: write {shape}")]
    Bucket {
        /// What was asked for.
        name: String,
        /// Whose.
        service: StorageService,
        /// What names look like.
        shape: &'static str,
    },
    /// A part of a prefix that would not mean the same everywhere.
    #[error(
        "cannot use {0:?} in a prefix: each part must be made of letters, digits, _, - and ., no dot in front"
    )]
    Prefix(String),
    /// Longer than [`MAX_PREFIX_LEN`].
    #[error("the prefix has {0} characters, at most {MAX_PREFIX_LEN} are allowed")]
    PrefixLength(usize),
    /// Neither region nor endpoint.
    #[error("{0} needs the region of the bucket, as in ?region={example}", example = .0.example_region())]
    NoRegion(StorageService),
    /// Not a region.
    #[error("{0:?} cannot be a region: write it like ap-guangzhou or us-east-1")]
    Region(String),
    /// More than a server.
    #[error("cannot use this endpoint: write http:// or https://, a host and a port, and nothing else")]
    Endpoint,
    /// The path of an endpoint of Azure.
    #[error(
        "cannot use the path of this endpoint: write folders of a–z A–Z 0–9 . _ -, as in http://127.0.0.1:10000/devstoreaccount1"
    )]
    EndpointPath,
    /// Not an account.
    #[error("{0:?} cannot be a storage account: 3 to 24 small letters and digits are possible")]
    Account(String),
    /// Keys that no service would take. They are not shown.
    #[error("cannot use these keys: {0}")]
    Keys(&'static str),
    /// A value for video on demand that is not possible.
    #[error("cannot use this {what} for video on demand: {why}")]
    Vod {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

#[cfg(test)]
mod tests;
