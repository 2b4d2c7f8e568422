//! Why a page is out of reach: what the browser does not know, because the guard did it.

use std::net::IpAddr;

use pagecast_core::cast::LoadError;
use pagecast_core::spec::{Refusal, SourceUrl};

use super::Error;
use crate::guard::{self, Place, Verdict};

/// The error of a navigation that failed for `reason`, in the browser's words; `place` is what the guard did
/// not reach meanwhile.
pub(super) fn failure(url: &SourceUrl, reason: &str, place: Option<Place>) -> Error {
    // Of whatever its proxy could not do, the browser only says that it could not.
    let place = place.filter(|_| reason.starts_with("net::ERR_SOCKS_"));
    let url = url.to_string();
    let reason = match place {
        None => reason,
        Some(Place { host, port, verdict, .. }) => match verdict {
            Verdict::Refused { address, why } => return Error::Refused { url, host, address, port, why },
            Verdict::NoSuchHost => "net::ERR_NAME_NOT_RESOLVED",
            Verdict::ConnectionRefused => "net::ERR_CONNECTION_REFUSED",
            Verdict::TimedOut => "net::ERR_CONNECTION_TIMED_OUT",
            Verdict::Unreachable => "net::ERR_ADDRESS_UNREACHABLE",
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
pub(super) fn refusal(host: &str, address: IpAddr, port: u16, why: Refusal) -> LoadError {
    let rule = match address {
        // Servers listen on one of its addresses, and nobody knows which.
        _ if guard::is_this_machine(host) => format!("{host}:{port}"),
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    match why {
        Refusal::Denied => LoadError::Denied { address, port },
        Refusal::NotPublic => LoadError::NotPublic { address, rule },
    }
}

/// Why an address is out of reach. What to do about it, whoever started the cast says in its own words.
pub(super) fn describe(address: IpAddr, port: u16, why: Refusal) -> String {
    match why {
        Refusal::Denied => format!("a rule of this cast denies it ({address}, port {port})"),
        Refusal::NotPublic => {
            format!("{address} is not a public address, and this cast's network does not allow it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_core::spec::Rule;

    #[test]
    fn advice_can_be_followed() {
        for (host, address, rule) in [
            ("localhost", "127.0.0.1", "localhost:3000"),
            ("wiki.corp.example", "10.1.2.3", "10.1.2.3:3000"),
            ("::1", "::1", "[::1]:3000"),
        ] {
            let address = address.parse().unwrap();
            let refused = refusal(host, address, 3000, Refusal::NotPublic);
            assert_eq!(refused, LoadError::NotPublic { address, rule: rule.to_owned() });
            assert!(Rule::parse(rule).is_ok());
            let said = describe(address, 3000, Refusal::NotPublic);
            assert!(said.contains(&format!("{address} is not a public address")) && !said.contains("--"));
        }
    }

    #[test]
    fn what_the_guard_saw_says_whether_to_try_again() {
        let url = SourceUrl::parse("https://a.example/").unwrap();
        for (verdict, expected) in [
            (Verdict::NoSuchHost, LoadError::NameNotFound),
            (Verdict::ConnectionRefused, LoadError::ConnectionRefused),
            (Verdict::TimedOut, LoadError::TimedOut),
            (Verdict::Unreachable, LoadError::Unreachable),
        ] {
            let place = Place::of("a.example", 443, verdict);
            let error = failure(&url, "net::ERR_SOCKS_CONNECTION_FAILED", Some(place));
            assert_eq!(error.load_error(), Some(expected));
        }
        let reset = failure(&url, "net::ERR_EMPTY_RESPONSE", None);
        assert_eq!(reset.load_error(), Some(LoadError::ConnectionReset));
        assert_eq!(Error::Gone.load_error(), None);
    }

    #[test]
    fn the_browsers_own_reasons_are_its_own() {
        let url = SourceUrl::parse("https://a.example/").unwrap();
        for reason in ["net::ERR_CERT_AUTHORITY_INVALID", "net::ERR_SOCKS_CONNECTION_FAILED"] {
            let error = failure(&url, reason, None).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
