//! Why a page is out of reach: what the browser does not know, because the guard did it.

use std::net::IpAddr;

use pagecast_core::cast::LoadError;
use pagecast_core::spec::{NetworkRefusal, SourceUrl};

use super::Error;
use crate::egress::{self, ConnectError, FailedTarget};

/// The error of a navigation that failed for `reason`, in the browser's words; `place` is what the guard did
/// not reach meanwhile.
pub(super) fn navigation_error(url: &SourceUrl, reason: &str, place: Option<FailedTarget>) -> Error {
    // Of whatever its proxy could not do, the browser only says that it could not.
    let place = place.filter(|_| reason.starts_with("net::ERR_SOCKS_"));
    let url = url.to_string();
    let reason = match place {
        None => reason,
        Some(FailedTarget { host, port, error: verdict, .. }) => match verdict {
            ConnectError::AddressDenied { address, reason: why } => {
                return Error::AddressDenied { url, host, address, port, reason: why };
            }
            ConnectError::NoSuchHost => "net::ERR_NAME_NOT_RESOLVED",
            ConnectError::ConnectionRefused => "net::ERR_CONNECTION_REFUSED",
            ConnectError::TimedOut => "net::ERR_CONNECTION_TIMED_OUT",
            ConnectError::Unreachable => "net::ERR_ADDRESS_UNREACHABLE",
        },
    };
    Error::Navigation { url, reason: reason.to_owned() }
}

/// What a reason means that the browser gave for a navigation that failed.
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

/// What a refusal of the guard means.
pub(super) fn denied_load_error(host: &str, address: IpAddr, port: u16, why: NetworkRefusal) -> LoadError {
    let rule = match address {
        // Servers listen on one of its addresses, and nobody knows which.
        _ if egress::is_localhost_name(host) => format!("{host}:{port}"),
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    match why {
        NetworkRefusal::Denied => LoadError::Denied { address, port },
        NetworkRefusal::NotPublic => LoadError::NotPublic { address, rule },
    }
}

/// Why an address is out of reach. What to do about it, whoever started the cast says in its own words.
pub(super) fn describe_denial(address: IpAddr, port: u16, why: NetworkRefusal) -> String {
    match why {
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
    fn advice_can_be_followed() {
        for (host, address, rule) in [
            ("localhost", "127.0.0.1", "localhost:3000"),
            ("wiki.corp.example", "10.1.2.3", "10.1.2.3:3000"),
            ("::1", "::1", "[::1]:3000"),
        ] {
            let address = address.parse().unwrap();
            let refused = denied_load_error(host, address, 3000, NetworkRefusal::NotPublic);
            assert_eq!(refused, LoadError::NotPublic { address, rule: rule.to_owned() });
            assert!(NetworkRule::parse(rule).is_ok());
            let said = describe_denial(address, 3000, NetworkRefusal::NotPublic);
            assert!(said.contains(&format!("{address} is not a public address")) && !said.contains("--"));
        }
    }

    #[test]
    fn what_the_guard_saw_says_whether_to_try_again() {
        let url = SourceUrl::parse("https://a.example/").unwrap();
        for (verdict, expected) in [
            (ConnectError::NoSuchHost, LoadError::NameNotFound),
            (ConnectError::ConnectionRefused, LoadError::ConnectionRefused),
            (ConnectError::TimedOut, LoadError::TimedOut),
            (ConnectError::Unreachable, LoadError::Unreachable),
        ] {
            let place = FailedTarget::of("a.example", 443, verdict);
            let error = navigation_error(&url, "net::ERR_SOCKS_CONNECTION_FAILED", Some(place));
            assert_eq!(error.load_error(), Some(expected));
        }
        let reset = navigation_error(&url, "net::ERR_EMPTY_RESPONSE", None);
        assert_eq!(reset.load_error(), Some(LoadError::ConnectionReset));
        assert_eq!(Error::BrowserExited.load_error(), None);
    }

    #[test]
    fn the_browsers_own_reasons_are_its_own() {
        let url = SourceUrl::parse("https://a.example/").unwrap();
        for reason in ["net::ERR_CERT_AUTHORITY_INVALID", "net::ERR_SOCKS_CONNECTION_FAILED"] {
            let error = navigation_error(&url, reason, None).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
