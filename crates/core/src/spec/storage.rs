//! Storage of recordings.

mod bucket;
mod vod;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

pub use bucket::{Bucket, StorageKeys, StorageService};
pub use vod::{VOD_LIFETIME_RANGE, Vod, VodMediaType};

/// Longest name of an object including its folders, in characters.
pub const MAX_OBJECT_NAME_LEN: usize = 400;
/// Longest prefix including the `/` between its parts, in characters.
pub const MAX_PREFIX_LEN: usize = 400;

/// Storage of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// A single MP4 file.
    File(PathBuf),
    /// A folder on this machine.
    Folder(PathBuf),
    /// A bucket of an object storage service.
    Bucket(Bucket),
    /// Tencent Video on Demand.
    TencentVod(Vod),
}

impl Storage {
    /// Parses a folder, or `SERVICE://BUCKET/PREFIX` with optional parameters
    /// `?region=…&endpoint=…&account=…&path-style=true`. Services are `s3`, `gs`, `az`, `cos`, `tos` and
    /// `oss`. Keys are not allowed in the text.
    ///
    /// # Errors
    /// The first part that cannot be parsed or does not pass [`Self::validate`].
    pub fn parse(text: &str) -> Result<Self, StorageError> {
        let storage = match text.split_once("://") {
            None => Self::Folder(text.into()),
            Some((scheme, rest)) => Self::Bucket(Bucket::parse(scheme, rest)?),
        };
        storage.validate()?;
        Ok(storage)
    }

    /// Validates every value that the types do not restrict.
    ///
    /// # Errors
    /// The first invalid value.
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

    /// The same storage without its keys, which may be written to disk.
    #[must_use]
    pub fn without_keys(&self) -> Self {
        let mut storage = self.clone();
        if let Some(keys) = storage.keys_mut() {
            *keys = None;
        }
        storage
    }

    /// Access keys of the storage; `None` if this kind of storage has no keys.
    pub fn keys_mut(&mut self) -> Option<&mut Option<StorageKeys>> {
        match self {
            Self::File(_) | Self::Folder(_) => None,
            Self::Bucket(bucket) => Some(&mut bucket.keys),
            Self::TencentVod(vod) => Some(&mut vod.keys),
        }
    }
}

/// Whether `name` is a valid name of an object, or of a file below a folder: parts of 1 to 200 of `a–z A–Z
/// 0–9 . _ -` without a leading dot, separated by `/`, at most [`MAX_OBJECT_NAME_LEN`] characters. Such names
/// mean the same in all kinds of storage.
#[must_use]
pub fn is_object_name(name: &str) -> bool {
    name.len() <= MAX_OBJECT_NAME_LEN && name.split('/').all(is_path_component)
}

fn is_path_component(part: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=200).contains(&part.len()) && !part.starts_with('.') && part.bytes().all(plain)
}

/// Whether the text is a label of a host name, as regions and accounts are.
fn is_dns_label(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Checks that an endpoint is a bare server address, which cannot contain secrets.
fn validate_endpoint(url: &Url) -> Result<(), StorageError> {
    if url.path() == "/" { validate_server(url) } else { Err(StorageError::Endpoint) }
}

/// Checks an endpoint like [`validate_endpoint`], but allows a path, which emulators of Azure need.
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

/// Reason why a [`Storage`] is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The path is empty.
    #[error("cannot keep recordings in a folder without a name")]
    NoPath,
    /// The path is not UTF-8, so that it cannot be sent to the cast's process as JSON.
    #[error("cannot write to {}: its name must be UTF-8 text", .0.display())]
    Path(PathBuf),
    /// The scheme of the address is not a known service.
    #[error(
        "cannot keep recordings at {0}://: write a folder, or s3://, gs://, az://, cos://, tos:// or oss:// \
        with a bucket"
    )]
    Scheme(String),
    /// The address contains a user or password.
    #[error("keys are not allowed in the address of a bucket: remove everything up to the @")]
    KeysInAddress,
    /// The address has an unknown parameter, or one with an invalid value.
    #[error(
        "cannot use the parameter {0:?} of the address of a bucket: region, endpoint, account and \
        path-style are possible"
    )]
    Parameter(String),
    /// The name of the bucket is invalid.
    #[error("{name:?} cannot be a bucket of {service}: write {shape}")]
    Bucket {
        /// Requested name.
        name: String,
        /// Service of the bucket.
        service: StorageService,
        /// Description of valid names.
        shape: &'static str,
    },
    /// A part of the prefix is invalid.
    #[error(
        "cannot use {0:?} in a prefix: each part must be made of letters, digits, _, - and ., no dot in front"
    )]
    Prefix(String),
    /// The prefix is longer than [`MAX_PREFIX_LEN`].
    #[error("the prefix has {0} characters, at most {MAX_PREFIX_LEN} are allowed")]
    PrefixLength(usize),
    /// Both region and endpoint are missing.
    #[error("{0} needs the region of the bucket, as in ?region={example}", example = .0.example_region())]
    NoRegion(StorageService),
    /// The region is not valid.
    #[error("{0:?} cannot be a region: write it like ap-guangzhou or us-east-1")]
    Region(String),
    /// The endpoint is more than a server address.
    #[error("cannot use this endpoint: write http:// or https://, a host and a port, and nothing else")]
    Endpoint,
    /// The path of an Azure endpoint is invalid.
    #[error(
        "cannot use the path of this endpoint: write folders of a–z A–Z 0–9 . _ -, as in \
        http://127.0.0.1:10000/devstoreaccount1"
    )]
    EndpointPath,
    /// The storage account is invalid.
    #[error("{0:?} cannot be a storage account: 3 to 24 lower-case letters and digits are possible")]
    Account(String),
    /// The keys are invalid. The message does not contain them.
    #[error("cannot use these keys: {0}")]
    Keys(&'static str),
    /// A value of the video-on-demand storage is invalid.
    #[error("cannot use this {what} for video on demand: {why}")]
    Vod {
        /// Name of the value.
        what: &'static str,
        /// Reason why it is invalid.
        why: &'static str,
    },
}

#[cfg(test)]
mod tests;
