//! Explains failed navigations with what the egress proxy knows: the browser only sees that its proxy failed.

use std::net::IpAddr;

use pagecast_core::cast::LoadError;
use pagecast_core::spec::{NetworkRefusal, SourceUrl};

use super::Error;
use crate::egress::{ConnectError, FailedTarget};

/// The error of a navigation that failed with the browser's error code `reason`; `failed` is a target that
/// the egress proxy could not reach meanwhile.
pub(super) fn navigation_error(url: &SourceUrl, reason: &str, failed: Option<FailedTarget>) -> Error {
    // Whatever the proxy could not do, the browser reports with one of these codes.
    let failed = failed.filter(|_| reason.starts_with("net::ERR_SOCKS_"));
    let url = url.to_string();
    let reason = match failed {
        None => reason,
        Some(FailedTarget { host, port, error, .. }) => match error {
            ConnectError::AddressDenied { address, reason } => {
                return Error::AddressDenied { url, host, address, port, reason };
            }
            ConnectError::NoSuchHost => "net::ERR_NAME_NOT_RESOLVED",
            ConnectError::ConnectionRefused => "net::ERR_CONNECTION_REFUSED",
            ConnectError::TimedOut => "net::ERR_CONNECTION_TIMED_OUT",
            ConnectError::Unreachable => "net::ERR_ADDRESS_UNREACHABLE",
        },
    };
    Error::Navigation { url, reason: reason.to_owned() }
}

/// The load error for an error code of the browser.
pub(super) fn load_error(reason: &str) -> LoadError {
    match reason {
        "net::ERR_NAME_NOT_RESOLVED" => LoadError::NameNotFound,
        "net::ERR_CONNECTION_REFUSED" => LoadError::ConnectionRefused,
        "net::ERR_CONNECTION_RESET"
        | "net::ERR_CONNECTION_CLOSED"
        | "net::ERR_CONNECTION_ABORTED"
        | "net::ERR_EMPTY_RESPONSE" => LoadError::ConnectionReset,
        "net::ERR_CONNECTION_TIMED_OUT" | "net::ERR_TIMED_OUT" => LoadError::TimedOut,
        "net::ERR_ADDRESS_UNREACHABLE" | "net::ERR_INTERNET_DISCONNECTED" => LoadError::Unreachable,
        code if code.starts_with("net::ERR_CERT_") => LoadError::Certificate { code: code.to_owned() },
        code => LoadError::Other { code: code.to_owned() },
    }
}

/// The load error for a target that the egress proxy denied.
pub(super) fn denied_load_error(host: &str, address: IpAddr, port: u16, reason: NetworkRefusal) -> LoadError {
    let rule = match address {
        // A server may listen on any of its addresses, so the rule names the host.
        _ if pagecast_egress::is_localhost_name(host) => format!("{host}:{port}"),
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    match reason {
        NetworkRefusal::Denied => LoadError::Denied { address, port },
        NetworkRefusal::NotPublic => LoadError::NotPublic { address, rule },
    }
}

/// Why the network policy denies an address. Each front end words the advice itself.
pub(super) fn describe_denial(address: IpAddr, port: u16, reason: NetworkRefusal) -> String {
    match reason {
        NetworkRefusal::Denied => format!("a rule of this cast denies it ({address}, port {port})"),
        NetworkRefusal::NotPublic => {
            format!("{address} is not a public address, and this cast's network does not allow it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_core::spec::NetworkRule;

    #[test]
    fn suggested_rules_are_valid() {
        for (host, address, rule) in [
            ("localhost", "127.0.0.1", "localhost:3000"),
            ("wiki.corp.example", "10.1.2.3", "10.1.2.3:3000"),
            ("::1", "::1", "[::1]:3000"),
        ] {
            let address = address.parse().unwrap();
            let load_error = denied_load_error(host, address, 3000, NetworkRefusal::NotPublic);
            assert_eq!(load_error, LoadError::NotPublic { address, rule: rule.to_owned() });
            assert!(NetworkRule::parse(rule).is_ok());
            let message = describe_denial(address, 3000, NetworkRefusal::NotPublic);
            assert!(
                message.contains(&format!("{address} is not a public address")) && !message.contains("--")
            );
        }
    }

    #[test]
    fn proxy_errors_become_load_errors() {
        let url = SourceUrl::parse("https://a.example/").unwrap();
        for (error, expected) in [
            (ConnectError::NoSuchHost, LoadError::NameNotFound),
            (ConnectError::ConnectionRefused, LoadError::ConnectionRefused),
            (ConnectError::TimedOut, LoadError::TimedOut),
            (ConnectError::Unreachable, LoadError::Unreachable),
        ] {
            let failed = FailedTarget::of("a.example", 443, error);
            let error = navigation_error(&url, "net::ERR_SOCKS_CONNECTION_FAILED", Some(failed));
            assert_eq!(error.load_error(), Some(expected));
        }
        let reset = navigation_error(&url, "net::ERR_EMPTY_RESPONSE", None);
        assert_eq!(reset.load_error(), Some(LoadError::ConnectionReset));
        assert_eq!(Error::BrowserExited.load_error(), None);
    }

    #[test]
    fn other_codes_of_the_browser_are_kept() {
        let url = SourceUrl::parse("https://a.example/").unwrap();
        for reason in ["net::ERR_CERT_AUTHORITY_INVALID", "net::ERR_SOCKS_CONNECTION_FAILED"] {
            let error = navigation_error(&url, reason, None).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
