//! Plain-text descriptions of operating-system and library errors, without error numbers and internal names.

use std::error::Error;
use std::io;

/// Certificate errors: rustls's name and its meaning.
const CERTIFICATE_ERRORS: [(&str, &str); 4] = [
    ("Expired", "its certificate has expired, or the clock of this machine is wrong"),
    ("NotValidYet", "its certificate is not valid yet, or the clock of this machine is wrong"),
    ("NotValidForName", "its certificate is for another host name"),
    ("UnknownIssuer", "its certificate is from an authority that this machine does not trust"),
];

/// Describes an error and its sources in one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |&e| e.source()).map(describe).collect::<Vec<_>>().join(": ")
}

/// Describes the innermost source of an error, which usually names the reason of a failed connection. Unlike
/// outer errors, it contains no address.
#[must_use]
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let innermost = std::iter::successors(Some(error), |&e| e.source()).last().unwrap_or(error);
    simplify(&describe(innermost))
}

/// Describes an IO error without its number: "permission denied".
#[must_use]
pub fn io_reason(error: &io::Error) -> String {
    let known = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused: nothing listens there",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            "the connection was broken off"
        }
        io::ErrorKind::UnexpectedEof => "the connection ended too early",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "the host cannot be reached",
        io::ErrorKind::TimedOut => "there was no answer in time",
        io::ErrorKind::AddrInUse => "the port is in use by another program",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        _ => return strip_os_error(&error.to_string()),
    };
    // A custom message says more than the error's kind.
    if error.raw_os_error().is_some() { known.to_owned() } else { simplify(&error.to_string()) }
}

/// Describes one error of a chain, without its source.
fn describe(error: &(dyn Error + 'static)) -> String {
    error.downcast_ref::<io::Error>().map_or_else(|| error.to_string(), io_reason)
}

/// Replaces messages of resolvers and TLS libraries by their meaning; other text stays as it is.
fn simplify(text: &str) -> String {
    if text.contains("lookup address") || text.contains("dns error") {
        return "there is no host of this name".to_owned();
    }
    if text.contains("peer certificate") {
        let known = CERTIFICATE_ERRORS.iter().find(|(name, _)| text.contains(name));
        return known.map_or("its certificate is not trusted", |(_, meaning)| meaning).to_owned();
    }
    strip_os_error(text)
}

/// Removes `(os error N)`, and makes the first letter lower case unless the text starts with an abbreviation.
fn strip_os_error(text: &str) -> String {
    let text = text.split_once(" (os error ").map_or(text, |(before, _)| before);
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if first.is_ascii_uppercase() && !second.is_ascii_uppercase() => {
            first.to_ascii_lowercase().to_string() + letters.as_str()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write a.mp4")]
    struct Outer(#[source] io::Error);

    #[test]
    fn system_errors_are_shown_without_numbers() {
        for (errno, text) in [
            (2, "no such file or directory"),
            (13, "permission denied"),
            (21, "is a directory"),
            (28, "no space left on device"),
            (30, "read-only file system"),
            (98, "the port is in use by another program"),
            (99, "this machine has no such address"),
            (104, "the connection was broken off"),
            (111, "connection refused: nothing listens there"),
        ] {
            assert_eq!(io_reason(&io::Error::from_raw_os_error(errno)), text);
            let error = Outer(io::Error::from_raw_os_error(errno));
            assert_eq!(chain(&error), format!("cannot write a.mp4: {text}"));
            assert_eq!(root_cause(&error), text);
        }
    }

    #[test]
    fn a_custom_message_is_kept() {
        let own = io::Error::new(io::ErrorKind::TimedOut, "the disk is asleep");
        assert_eq!(io_reason(&own), "the disk is asleep");
        assert_eq!(io_reason(&io::Error::from(io::ErrorKind::PermissionDenied)), "permission denied");
        assert_eq!(io_reason(&io::Error::other("RTMP is closed")), "RTMP is closed");
    }

    #[test]
    fn library_errors_become_plain_text() {
        for (message, meaning) in [
            (
                "failed to lookup address information: Name or service not known",
                "there is no host of this name",
            ),
            ("invalid peer certificate: UnknownIssuer", CERTIFICATE_ERRORS[3].1),
            ("invalid peer certificate: NotValidForName", CERTIFICATE_ERRORS[2].1),
            ("invalid peer certificate: BadSignature", "its certificate is not trusted"),
            ("it closed the connection", "it closed the connection"),
        ] {
            assert_eq!(root_cause(&io::Error::other(message)), meaning);
        }
    }
}
