//! Why something is not stored, in classes that say what to do about it.

use std::fmt;
use std::io;
use std::path::Path;

use pagecast_core::spec::StorageError;

use super::http::RequestError;

/// What kind of failure this is, for whoever decides about another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Timeouts, lost connections, an overloaded service: it may work later.
    Transient,
    /// The keys are wrong, too old, or not allowed to do this.
    Denied,
    /// There is no such bucket, container or folder.
    NotFound,
    /// No space is left.
    Full,
    /// The file to be stored cannot be read, or this machine's disk fails.
    Local,
    /// It will not work later either.
    Permanent,
}

/// What was tried: a verb, a name, a place. Never keys, never queries.
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

/// Why something is not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It may work later.
    #[error("cannot {0} for now: {1}")]
    Transient(Attempt, String),
    /// Not with these keys.
    #[error("cannot {0}: {1}")]
    Denied(Attempt, String),
    /// The bucket, container or folder is not there.
    #[error("cannot {0}: {1}")]
    NotFound(Attempt, String),
    /// No space is left.
    #[error("cannot {0}: no space is left there")]
    Full(Attempt),
    /// A file of this machine.
    #[error("cannot {0}")]
    Local(Attempt, #[source] io::Error),
    /// It will not work later either.
    #[error("cannot {0}: {1}")]
    Permanent(Attempt, String),
    /// Not a name that means the same everywhere.
    #[error(
        "{0:?} cannot be the name of an object: use letters, digits, _, - and ., no dot in front, / between folders"
    )]
    InvalidName(String),
    /// A description that cannot be used.
    #[error("cannot use this storage")]
    InvalidStorage(#[from] StorageError),
    /// Something is missing in a description.
    #[error("cannot use {0}: {1}")]
    Open(String, String),
}

impl Error {
    /// What kind of failure this is.
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

    /// What a storage service refused, or why it was not reached.
    pub(super) fn from_request_error(attempt: Attempt, fault: &RequestError) -> Self {
        let RequestError::Status { status, code } = fault else {
            let why = fault.to_string();
            return match fault {
                RequestError::Connect(_) if why.contains("no host of this name") => {
                    Self::Transient(attempt, format!("{why}: check the region or the endpoint"))
                }
                RequestError::Connect(_) if why.contains("certificate") => {
                    let hint =
                        "check the endpoint and the clock, or install the authority of its certificate";
                    Self::Transient(attempt, format!("{why}: {hint}"))
                }
                RequestError::NoCredentials | RequestError::Resolve(_) => Self::Denied(attempt, why),
                RequestError::ResponseTooLong | RequestError::Insecure => Self::Permanent(attempt, why),
                _ => Self::Transient(attempt, why),
            };
        };
        let said = |hint: &str| format!("{fault}: {hint}");
        let code = code.as_deref().unwrap_or_default();
        match (status, code) {
            (_, "RequestTimeTooSkewed") => Self::Denied(attempt, said("set the clock of this machine")),
            (_, "ExpiredToken" | "TokenRefreshRequired") => {
                Self::Denied(attempt, said("the keys are too old, get new ones"))
            }
            (_, "InvalidToken") => {
                Self::Denied(attempt, said("the session token does not belong to these keys"))
            }
            (_, "SignatureDoesNotMatch") => {
                Self::Denied(attempt, said("the secret key does not belong to the access key"))
            }
            (_, "InvalidAccessKeyId") => Self::Denied(attempt, said("there is no such access key")),
            (_, "NoSuchBucket" | "ContainerNotFound") => {
                Self::NotFound(attempt, said("make the bucket first, or correct its name"))
            }
            (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage") | (507, _) => {
                Self::Full(attempt)
            }
            (_, "RequestTimeout" | "SlowDown" | "OperationAborted" | "NoSuchUpload" | "BadDigest") => {
                Self::Transient(attempt, fault.to_string())
            }
            (401 | 403, _) => Self::Denied(
                attempt,
                said("check that the keys are right and may read, write and delete here"),
            ),
            (404, _) => {
                Self::NotFound(attempt, said("check the name of the bucket, the region and the endpoint"))
            }
            (300..400, _) | (400, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
                Self::Permanent(attempt, said("the bucket is in another region, correct the region"))
            }
            (408 | 409 | 425 | 429 | 500.., _) => Self::Transient(attempt, fault.to_string()),
            _ => Self::Permanent(attempt, fault.to_string()),
        }
    }

    /// What failed on a disk of this machine that is written to.
    pub(super) fn from_disk_error(attempt: Attempt, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(attempt),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied(
                attempt,
                "this user may not write there: change its owner, or choose another".into(),
            ),
            _ => Self::Local(attempt, error),
        }
    }

    /// A file that was to be stored and cannot be read.
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
    fn answers_have_classes() {
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
            (301, Some("PermanentRedirect"), ErrorClass::Permanent),
            (400, Some("AuthorizationHeaderMalformed"), ErrorClass::Permanent),
            (413, None, ErrorClass::Permanent),
        ] {
            let fault = RequestError::Status { status, code: code.map(str::to_owned) };
            let error = Error::from_request_error(attempt(), &fault);
            assert_eq!(error.class(), class, "{error}");
            assert!(
                error.to_string().starts_with("cannot store a.mp4 in bucket rec at b.example"),
                "{error}"
            );
        }
    }
}
