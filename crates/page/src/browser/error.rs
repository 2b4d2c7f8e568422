//! Errors of the browser, worded so that a person can act on them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use pagecast_core::cast::LoadError;
use pagecast_core::spec::NetworkRefusal;

use super::{CHROMIUM_VARIABLE, CallError, load_failure};

/// Why the browser cannot start or cannot show the page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No browser is installed.
    #[error(
        "there is no Chromium at {}: install it (apt install chromium) or set its path in \
         {CHROMIUM_VARIABLE}",
        join_paths(.0)
    )]
    ChromiumNotFound(Vec<PathBuf>),
    /// The browser's process cannot be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// Path of the browser.
        program: PathBuf,
        /// Error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The browser exited before it was ready.
    #[error("{} exited during startup ({status}): {stderr}", program.display())]
    ExitedAtStartup {
        /// Path of the browser.
        program: PathBuf,
        /// Exit status, like `exit status: 1`.
        status: String,
        /// Error lines of its standard error.
        stderr: String,
    },
    /// The browser does not accept a requested setting.
    #[error("the browser does not accept {setting} {value:?}: {hint}")]
    InvalidSetting {
        /// Name of the setting.
        setting: &'static str,
        /// How to write it.
        hint: &'static str,
        /// The requested value.
        value: String,
        /// Message of the browser, for the log.
        message: String,
    },
    /// A DevTools call failed. It is not a `#[source]`, because its text names DevTools methods.
    #[error("cannot drive the browser: {}", describe_call_error(.0))]
    CdpCall(CallError),
    /// The page cannot be loaded.
    #[error("cannot open {url}: {}", explain_net_error(.reason))]
    Navigation {
        /// URL of the page.
        url: String,
        /// The browser's name for the reason, like `net::ERR_NAME_NOT_RESOLVED`.
        reason: String,
    },
    /// The network policy denies the page, or where it redirects to.
    #[error("cannot open {url}: {}", load_failure::describe_denial(*address, *port, *reason))]
    AddressDenied {
        /// URL of the page.
        url: String,
        /// The denied host: a name, or the address as it was written.
        host: String,
        /// Address of the host.
        address: IpAddr,
        /// Port of the connection.
        port: u16,
        /// Why the policy denies it.
        reason: NetworkRefusal,
    },
    /// The server answered with an error status.
    #[error("cannot open {url}: the server answered HTTP {status}")]
    HttpStatus {
        /// URL of the page.
        url: String,
        /// HTTP status, 400 or more.
        status: u16,
    },
    /// The server did not answer in time.
    #[error("cannot open {url}: no answer within {} s", .after.as_secs())]
    NavigationTimeout {
        /// URL of the page.
        url: String,
        /// How long the browser waited.
        after: Duration,
    },
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
    /// The process of the browser exited.
    #[error("the browser exited unexpectedly")]
    BrowserExited,
}

impl Error {
    /// The load error of the page, if this error is one.
    #[must_use]
    pub fn load_error(&self) -> Option<LoadError> {
        match self {
            Self::Navigation { reason, .. } => Some(load_failure::load_error(reason)),
            Self::AddressDenied { host, address, port, reason, .. } => {
                Some(load_failure::denied_load_error(host, *address, *port, *reason))
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

/// Describes a failed call without naming its method.
fn describe_call_error(error: &CallError) -> String {
    match error {
        CallError::Timeout { after, .. } => format!("it did not answer within {} s", after.as_secs_f64()),
        CallError::ErrorResponse { .. } => {
            format!("it refused a command; another version of Chromium may help (set {CHROMIUM_VARIABLE})")
        }
        CallError::Closed | CallError::InvalidSelector(_) => error.to_string(),
    }
}

fn join_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Explains the common network errors of the browser.
pub(super) fn explain_net_error(reason: &str) -> String {
    let meaning = match reason {
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
    format!("{meaning} ({reason})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_do_not_name_methods_of_the_protocol() {
        let method = "Page.navigate";
        for (error, expected) in [
            (CallError::Timeout { method, after: Duration::from_secs(30) }, "did not answer within 30 s"),
            (CallError::ErrorResponse { method, message: "Invalid parameters".into() }, "refused a command"),
            (CallError::Closed, "the browser is gone"),
            (CallError::InvalidSelector("a[".into()), "not a valid CSS selector"),
        ] {
            let message = pagecast_core::error_text::chain(&Error::from(error));
            let is_plain = !message.contains(method) && !message.contains("Invalid parameters");
            assert!(
                message.starts_with("cannot drive the browser: ") && message.contains(expected) && is_plain,
                "{message}"
            );
        }
    }
}
