//! Why the browser does not show the page, in words that a person can act on.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use pagecast_core::cast::LoadError;
use pagecast_core::spec::NetworkRefusal;

use super::{CHROMIUM_VARIABLE, CallError, load_failure};

/// Why the browser does not show the page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No browser is installed.
    #[error(
        "there is no Chromium at {}: install it (apt install chromium) or name it in {CHROMIUM_VARIABLE}",
        join_paths(.0)
    )]
    ChromiumNotFound(Vec<PathBuf>),
    /// The browser's process cannot be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The browser.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The browser ended before it was ready.
    #[error("{} ended while starting ({status}): {stderr}", program.display())]
    ExitedAtStartup {
        /// The browser.
        program: PathBuf,
        /// How it ended, like `exit status: 1`.
        status: String,
        /// What it wrote about it.
        stderr: String,
    },
    /// The browser refused a value that was asked for.
    #[error("the browser knows no {what} {value:?}: {hint}")]
    InvalidSetting {
        /// What it was for.
        what: &'static str,
        /// How it is written.
        hint: &'static str,
        /// What was asked for.
        value: String,
        /// The browser's words, for the log.
        message: String,
    },
    /// A call failed. It is no source, because it is in the words of the browser's protocol.
    #[error("cannot drive the browser: {}", describe_call_error(.0))]
    CdpCall(CallError),
    /// The page cannot be loaded.
    #[error("cannot open {url}: {}", explain_net_error(.reason))]
    Navigation {
        /// The page.
        url: String,
        /// The browser's name for the reason, like `net::ERR_NAME_NOT_RESOLVED`.
        reason: String,
    },
    /// The page, or where it redirects to, is out of reach.
    #[error("cannot open {url}: {}", load_failure::describe_denial(*address, *port, *reason))]
    AddressDenied {
        /// The page.
        url: String,
        /// The host that was refused: a name, or the address as it was written.
        host: String,
        /// Its address.
        address: IpAddr,
        /// Its port.
        port: u16,
        /// Why.
        reason: NetworkRefusal,
    },
    /// The server sent an error page.
    #[error("cannot open {url}: the server answered HTTP {status}")]
    HttpStatus {
        /// The page.
        url: String,
        /// The status, 400 or more.
        status: u16,
    },
    /// The server did not answer.
    #[error("cannot open {url}: no answer within {} s", .after.as_secs())]
    NavigationTimeout {
        /// The page.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// The caller gave up before the page was there.
    #[error("ended before the page was there, nothing was recorded")]
    Cancelled,
    /// The renderer of the page crashed.
    #[error("the page crashed")]
    PageCrashed,
    /// The browser needs more memory than the cast may use.
    #[error("the page needs {} MB of memory, {} MB are allowed", .used / 1_000_000, .allowed / 1_000_000)]
    MemoryLimit {
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The browser has written more to the disk than the cast may use.
    #[error("the page needs {} MB of disk, {} MB are allowed", .used / 1_000_000, .allowed / 1_000_000)]
    DiskLimit {
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The browser's process ended.
    #[error("the browser ended unexpectedly")]
    BrowserExited,
}

impl Error {
    /// Why the page could not be loaded, if that is what is wrong.
    #[must_use]
    pub fn load_error(&self) -> Option<LoadError> {
        match self {
            Self::Navigation { reason, .. } => Some(load_failure::load_error(reason)),
            Self::AddressDenied { host, address, port, reason: why, .. } => {
                Some(load_failure::denied_load_error(host, *address, *port, *why))
            }
            Self::HttpStatus { status, .. } => Some(LoadError::HttpStatus { status: *status }),
            Self::NavigationTimeout { .. } => Some(LoadError::TimedOut),
            _ => None,
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::CdpCall(error)
    }
}

/// What it means that a call failed.
fn describe_call_error(error: &CallError) -> String {
    match error {
        CallError::Timeout { after, .. } => format!("it did not answer within {} s", after.as_secs_f64()),
        CallError::Cancelled { .. } => "it was not waited for any longer".to_owned(),
        CallError::ErrorResponse { .. } => {
            format!("it refused a command; another version of Chromium may help (see {CHROMIUM_VARIABLE})")
        }
        CallError::Closed | CallError::InvalidSelector(_) => error.to_string(),
    }
}

fn join_paths(places: &[PathBuf]) -> String {
    places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// What the reasons that people meet mean.
fn explain_net_error(reason: &str) -> String {
    let words = match reason {
        "net::ERR_NAME_NOT_RESOLVED" => "there is no host of this name",
        "net::ERR_CONNECTION_REFUSED" => "nothing listens there (connection refused)",
        "net::ERR_CONNECTION_TIMED_OUT" | "net::ERR_TIMED_OUT" => "the host does not answer",
        "net::ERR_CONNECTION_RESET" | "net::ERR_CONNECTION_CLOSED" => "the server closed the connection",
        "net::ERR_EMPTY_RESPONSE" => "the server sent nothing",
        "net::ERR_ADDRESS_UNREACHABLE" | "net::ERR_INTERNET_DISCONNECTED" => "there is no way to the host",
        "net::ERR_TOO_MANY_REDIRECTS" => "it redirects in a circle",
        "net::ERR_UNSAFE_PORT" => "browsers refuse to connect to this port",
        "net::ERR_ABORTED" => "it is a download, not a page",
        r if r.starts_with("net::ERR_CERT_") => "its certificate is not trusted",
        r if r.starts_with("net::ERR_SSL_") => "no secure connection can be made",
        _ => return reason.to_owned(),
    };
    format!("{words} ({reason})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_protocol_are_not_told() {
        let method = "Page.navigate";
        for (error, words) in [
            (CallError::Timeout { method, after: Duration::from_secs(30) }, "did not answer within 30 s"),
            (CallError::Cancelled { method }, "not waited for any longer"),
            (CallError::ErrorResponse { method, message: "Invalid parameters".into() }, "refused a command"),
            (CallError::Closed, "the browser is gone"),
            (CallError::InvalidSelector("a[".into()), "not a CSS selector"),
        ] {
            let said = pagecast_core::error_text::chain(&Error::from(error));
            let is_plain = !said.contains(method) && !said.contains("Invalid parameters");
            assert!(
                said.starts_with("cannot drive the browser: ") && said.contains(words) && is_plain,
                "{said}"
            );
        }
    }
}
