//! Error of a page load, as data: each front end words it for its own users.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Reason why a page could not be loaded. It names no flag or parameter, because the command line, the APIs
/// and the log word it differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoadError {
    /// The host name does not resolve to an address.
    NameNotFound,
    /// Nothing listens on the port.
    ConnectionRefused,
    /// The server closed the connection before it answered.
    ConnectionReset,
    /// The host, its name server or the server did not answer in time.
    TimedOut,
    /// There is no route to the host.
    Unreachable,
    /// The server answered with an error status.
    HttpStatus {
        /// HTTP status, 400 to 599.
        status: u16,
    },
    /// The server's certificate is not trusted.
    Certificate {
        /// Chromium's error code, like `net::ERR_CERT_AUTHORITY_INVALID`.
        code: String,
    },
    /// The address is not public, and the cast's network policy does not allow it.
    NotPublic {
        /// Address that the host name resolved to.
        address: IpAddr,
        /// Network rule that would allow it, like `localhost:3000`.
        rule: String,
    },
    /// The cast's network policy denies the address.
    Denied {
        /// Address that the host name resolved to.
        address: IpAddr,
        /// Port of the address.
        port: u16,
    },
    /// Any other error.
    Other {
        /// Chromium's error code, like `net::ERR_TOO_MANY_REDIRECTS`.
        code: String,
    },
}

impl LoadError {
    /// Whether the same page may load a moment later, because its server restarts or its name is being
    /// published. A first load that fails for such a reason is retried.
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

    /// Stable identifier, as in JSON: `connection-refused`.
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
    fn transient_and_lasting_errors_are_distinguished() {
        let code = || "net::ERR_X".to_owned();
        let address = IpAddr::from([10, 0, 0, 1]);
        for (error, transient) in [
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
            assert_eq!(error.is_transient(), transient, "{error:?}");
            let json = serde_json::to_value(&error).unwrap();
            assert_eq!(json["kind"], error.kind(), "the identifier is the one that is stored");
            assert_eq!(serde_json::from_value::<LoadError>(json).unwrap(), error);
        }
    }
}
