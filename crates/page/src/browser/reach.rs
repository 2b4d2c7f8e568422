//! Why a page is out of reach: what the browser does not know, because the guard did it.

use std::net::IpAddr;

use pagecast_core::spec::{Refusal, SourceUrl};

use super::Error;
use crate::guard::{self, Place, Verdict};

/// The error of a navigation that failed for `reason`, in the browser's words; `place` is what the guard did not reach meanwhile.
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

/// Why an address is out of reach, for whoever asked by whichever way: what to do about it differs by way.
pub(super) fn explain(address: IpAddr, port: u16, why: Refusal) -> String {
    match why {
        Refusal::Denied => format!("a rule of this cast denies it ({address}, port {port})"),
        Refusal::NotPublic => format!("{address} is not a public address"),
    }
}

/// The network rule that would let the page reach this.
pub(super) fn rule(host: &str, address: IpAddr, port: u16) -> String {
    match address {
        // Servers listen on one of its addresses, and nobody knows which.
        _ if guard::is_this_machine(host) => format!("{host}:{port}"),
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
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
            let (url, host, address) = ("http://a/".into(), host.into(), address.parse().unwrap());
            let error = |why| Error::Refused { url, host, address, port: 3000, why };
            let refused = error(Refusal::NotPublic);
            assert_eq!(refused.allow_rule().as_deref(), Some(rule));
            assert_eq!(
                refused.to_string(),
                format!("cannot open http://a/: {address} is not a public address")
            );
            assert!(Rule::parse(rule).is_ok());
        }
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
