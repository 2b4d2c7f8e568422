//! Why a page could not be loaded, for front ends to word.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Why a page could not be loaded. It names no flag and no parameter: the command line, each API and the log
/// have their own words for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoadError {
    /// The host's name has no address.
    NameNotFound,
    /// Nothing listens on the port.
    ConnectionRefused,
    /// The server closed the connection before it had answered.
    ConnectionReset,
    /// The host, its name server or the server did not answer in time.
    TimedOut,
    /// There is no way to the host's network.
    Unreachable,
    /// The server answered with an error.
    HttpStatus {
        /// 400 to 599.
        status: u16,
    },
    /// The server's certificate is not trusted.
    Certificate {
        /// The browser's name for the reason, like `net::ERR_CERT_AUTHORITY_INVALID`.
        code: String,
    },
    /// The address is not public, and the cast's network does not allow it.
    NotPublic {
        /// What the name of the host meant.
        address: IpAddr,
        /// The network rule that would allow it, like `localhost:3000`.
        rule: String,
    },
    /// The cast's network denies the address.
    Denied {
        /// What the name of the host meant.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// Something else.
    Other {
        /// The browser's name for it, like `net::ERR_TOO_MANY_REDIRECTS`.
        code: String,
    },
}

impl LoadError {
    /// Whether the same page may load a moment later: its server restarts, or its name is being published. A
    /// first load that fails for such a reason is tried again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NameNotFound | Self::ConnectionRefused | Self::ConnectionReset | Self::TimedOut => true,
            Self::HttpStatus { status } => matches!(status, 502..=504),
            Self::Unreachable
            | Self::Certificate { .. }
            | Self::NotPublic { .. }
            | Self::Denied { .. }
            | Self::Other { .. } => false,
        }
    }

    /// A stable word for it, like `connection-refused`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NameNotFound => "name-not-found",
            Self::ConnectionRefused => "connection-refused",
            Self::ConnectionReset => "connection-reset",
            Self::TimedOut => "timed-out",
            Self::Unreachable => "unreachable",
            Self::HttpStatus { .. } => "http-status",
            Self::Certificate { .. } => "certificate",
            Self::NotPublic { .. } => "not-public",
            Self::Denied { .. } => "denied",
            Self::Other { .. } => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_and_what_may_not() {
        let code = || "net::ERR_X".to_owned();
        let address = IpAddr::from([10, 0, 0, 1]);
        for (error, passes) in [
            (LoadError::NameNotFound, true),
            (LoadError::ConnectionRefused, true),
            (LoadError::ConnectionReset, true),
            (LoadError::TimedOut, true),
            (LoadError::HttpStatus { status: 502 }, true),
            (LoadError::HttpStatus { status: 503 }, true),
            (LoadError::HttpStatus { status: 504 }, true),
            (LoadError::HttpStatus { status: 500 }, false),
            (LoadError::HttpStatus { status: 404 }, false),
            (LoadError::Unreachable, false),
            (LoadError::Certificate { code: code() }, false),
            (LoadError::NotPublic { address, rule: "10.0.0.1:80".into() }, false),
            (LoadError::Denied { address, port: 80 }, false),
            (LoadError::Other { code: code() }, false),
        ] {
            assert_eq!(error.is_transient(), passes, "{error:?}");
            let json = serde_json::to_value(&error).unwrap();
            assert_eq!(json["kind"], error.kind(), "the word is the one that is stored");
            assert_eq!(serde_json::from_value::<LoadError>(json).unwrap(), error);
        }
    }
}
