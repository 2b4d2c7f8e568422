//! Errors of storages, in classes that determine how to handle them.

use std::fmt;
use std::io;
use std::path::Path;

use pagecast_core::spec::StorageError;

use super::http::RequestError;

/// Class of a failure, for retry decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Timeout, lost connection or overloaded service: a retry may succeed.
    Transient,
    /// The keys are wrong, expired or lack permission.
    Denied,
    /// The bucket, container or folder does not exist.
    NotFound,
    /// No space is left.
    Full,
    /// The source file cannot be read, or a local disk failed.
    Local,
    /// A retry will fail as well.
    Permanent,
}

/// What was attempted: verb, object name and location. Never contains keys or queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub(super) verb: &'static str,
    pub(super) name: String,
    pub(super) location: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.verb, self.name, self.location)
    }
}

/// Errors of a storage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A retry may succeed.
    #[error("cannot {0} for now: {1}")]
    Transient(Attempt, String),
    /// The keys are wrong, expired or lack permission.
    #[error("cannot {0}: {1}")]
    Denied(Attempt, String),
    /// The bucket, container or folder does not exist.
    #[error("cannot {0}: {1}")]
    NotFound(Attempt, String),
    /// No space is left.
    #[error("cannot {0}: no space is left there")]
    Full(Attempt),
    /// A local file cannot be read or written.
    #[error("cannot {0}")]
    Local(Attempt, #[source] io::Error),
    /// A retry will fail as well.
    #[error("cannot {0}: {1}")]
    Permanent(Attempt, String),
    /// The name is not valid in every kind of storage.
    #[error(
        "{0:?} is not an object name: use letters, digits, _, - and ., no dot in front, / between folders"
    )]
    InvalidName(String),
    /// The description of the storage is invalid.
    #[error("cannot use this storage")]
    InvalidStorage(#[from] StorageError),
    /// The storage cannot be opened, for example without keys.
    #[error("cannot use {0}: {1}")]
    Open(String, String),
}

impl Error {
    /// Class of the failure.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Transient(..) => ErrorClass::Transient,
            Self::Denied(..) => ErrorClass::Denied,
            Self::NotFound(..) => ErrorClass::NotFound,
            Self::Full(_) => ErrorClass::Full,
            Self::Local(..) => ErrorClass::Local,
            Self::Permanent(..) | Self::InvalidName(_) | Self::InvalidStorage(_) | Self::Open(..) => {
                ErrorClass::Permanent
            }
        }
    }

    /// Classifies a failed request and adds a hint.
    pub(super) fn from_request_error(attempt: Attempt, error: &RequestError) -> Self {
        let RequestError::Status { status, code } = error else {
            let why = error.to_string();
            return match error {
                RequestError::Connect(_) if why.contains("no host of this name") => {
                    Self::Transient(attempt, format!("{why}: check the region or the endpoint"))
                }
                RequestError::Connect(_) if why.contains("certificate") => {
                    let hint =
                        "check the endpoint and the clock, or install the authority of its certificate";
                    Self::Transient(attempt, format!("{why}: {hint}"))
                }
                RequestError::NoCredentials | RequestError::Resolve(_) => Self::Denied(attempt, why),
                RequestError::ResponseTooLong | RequestError::Insecure | RequestError::NoListing => {
                    Self::Permanent(attempt, why)
                }
                _ => Self::Transient(attempt, why),
            };
        };
        let with_hint = |hint: &str| format!("{error}: {hint}");
        let code = code.as_deref().unwrap_or_default();
        match (status, code) {
            (_, "RequestTimeTooSkewed") => Self::Denied(attempt, with_hint("set the clock of this machine")),
            (_, "ExpiredToken" | "TokenRefreshRequired") => {
                Self::Denied(attempt, with_hint("the keys have expired, get new ones"))
            }
            (_, "InvalidToken") => {
                Self::Denied(attempt, with_hint("the session token does not belong to these keys"))
            }
            (_, "SignatureDoesNotMatch") => {
                Self::Denied(attempt, with_hint("the secret key does not belong to the access key"))
            }
            (_, "InvalidAccessKeyId") => Self::Denied(attempt, with_hint("there is no such access key")),
            (_, "NoSuchBucket" | "ContainerNotFound") => {
                Self::NotFound(attempt, with_hint("create the bucket first, or correct its name"))
            }
            (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage") | (507, _) => {
                Self::Full(attempt)
            }
            (_, "RequestTimeout" | "SlowDown" | "OperationAborted" | "NoSuchUpload" | "BadDigest") => {
                Self::Transient(attempt, error.to_string())
            }
            (401 | 403, _) => Self::Denied(
                attempt,
                with_hint("check that the keys are right and may read, write and delete here"),
            ),
            (404, _) => Self::NotFound(
                attempt,
                with_hint("check the name of the bucket, the region and the endpoint"),
            ),
            (300..400, _) | (400, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
                Self::Permanent(attempt, with_hint("the bucket is in another region, correct the region"))
            }
            (501, _) => Self::Permanent(attempt, error.to_string()),
            (408 | 409 | 425 | 429 | 500.., _) => Self::Transient(attempt, error.to_string()),
            _ => Self::Permanent(attempt, error.to_string()),
        }
    }

    /// Classifies an error of a local disk that is written to.
    pub(super) fn from_disk_error(attempt: Attempt, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(attempt),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied(
                attempt,
                "this user has no write permission there: change the owner, or choose another folder".into(),
            ),
            _ => Self::Local(attempt, error),
        }
    }

    /// The source file of an upload cannot be read.
    pub(super) fn source_unreadable(file: &Path, error: io::Error) -> Self {
        let place = file.parent().unwrap_or(file).display().to_string();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::Local(Attempt { verb: "read", name, location: place }, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_classified() {
        let attempt =
            || Attempt { verb: "store", name: "a.mp4".into(), location: "bucket rec at b.example".into() };
        for (status, code, class) in [
            (500, None, ErrorClass::Transient),
            (503, Some("SlowDown"), ErrorClass::Transient),
            (429, None, ErrorClass::Transient),
            (400, Some("RequestTimeout"), ErrorClass::Transient),
            (404, Some("NoSuchUpload"), ErrorClass::Transient),
            (403, None, ErrorClass::Denied),
            (403, Some("SignatureDoesNotMatch"), ErrorClass::Denied),
            (400, Some("ExpiredToken"), ErrorClass::Denied),
            (401, None, ErrorClass::Denied),
            (404, Some("NoSuchBucket"), ErrorClass::NotFound),
            (404, None, ErrorClass::NotFound),
            (507, None, ErrorClass::Full),
            (501, Some("NotImplemented"), ErrorClass::Permanent),
            (301, Some("PermanentRedirect"), ErrorClass::Permanent),
            (400, Some("AuthorizationHeaderMalformed"), ErrorClass::Permanent),
            (413, None, ErrorClass::Permanent),
        ] {
            let error = RequestError::Status { status, code: code.map(str::to_owned) };
            let error = Error::from_request_error(attempt(), &error);
            assert_eq!(error.class(), class, "{error}");
            assert!(
                error.to_string().starts_with("cannot store a.mp4 in bucket rec at b.example"),
                "{error}"
            );
        }
    }
}
