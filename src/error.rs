//! The error of a command, and its exit code.

use std::fmt;
use std::process::ExitCode;

use pagecast_core::cast::LoadError;
use pagecast_core::error_text::chain;
use pagecast_media::record;
use pagecast_worker::cast::{self, FailureKind};
use pagecast_worker::process::FailureInfo;

/// The error that a command ends with.
#[derive(Debug)]
pub(crate) struct CommandError {
    error: anyhow::Error,
    exit_code: u8,
}

const EXIT_UNEXPECTED: u8 = 1;
const EXIT_INVALID_VALUE: u8 = 2;
const EXIT_PAGE: u8 = 3;
const EXIT_OUTPUT: u8 = 4;
const EXIT_BROWSER: u8 = 5;

impl CommandError {
    /// A value of the command line or the configuration is invalid.
    pub(crate) fn invalid_value(error: anyhow::Error) -> Self {
        Self { error, exit_code: EXIT_INVALID_VALUE }
    }

    /// An output cannot be written or opened.
    pub(crate) fn output_failed(error: anyhow::Error) -> Self {
        Self { error, exit_code: EXIT_OUTPUT }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }
}

impl fmt::Display for CommandError {
    /// Writes the error and its sources in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.error.as_ref()))
    }
}

fn exit_code_for(kind: FailureKind) -> u8 {
    match kind {
        FailureKind::Unexpected => EXIT_UNEXPECTED,
        FailureKind::Value => EXIT_INVALID_VALUE,
        FailureKind::Page => EXIT_PAGE,
        FailureKind::Output | FailureKind::OutputExists | FailureKind::OutputUnfinished => EXIT_OUTPUT,
        FailureKind::Browser => EXIT_BROWSER,
    }
}

impl From<cast::Error> for CommandError {
    fn from(error: cast::Error) -> Self {
        let (kind, cause) = (error.kind(), error.load_error());
        FailureInfo { cause, ..FailureInfo::new(kind, chain(&error)) }.into()
    }
}

impl From<FailureInfo> for CommandError {
    fn from(failure: FailureInfo) -> Self {
        let hint = failure.cause.as_ref().and_then(flag_hint).or_else(|| recording_hint(failure.kind));
        let message = hint.map(|hint| format!("{}: {hint}", failure.message)).unwrap_or(failure.message);
        Self { error: anyhow::Error::msg(message), exit_code: exit_code_for(failure.kind) }
    }
}

/// Returns the flag or command that helps with a recording that could not start.
fn recording_hint(kind: FailureKind) -> Option<String> {
    let hint = match kind {
        FailureKind::OutputExists => "--overwrite replaces it",
        FailureKind::OutputUnfinished => "finish it with `pagecast recover`",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns the flag that helps with a page that could not be loaded.
fn flag_hint(cause: &LoadError) -> Option<String> {
    match cause {
        LoadError::NotPublic { rule, .. } => {
            Some(format!("allow it with --allow-net {rule} if this page may reach it"))
        }
        LoadError::Certificate { .. } => {
            Some("if your own authority issued it, trust that with --ca FILE".to_owned())
        }
        _ => None,
    }
}

impl From<record::Error> for CommandError {
    fn from(error: record::Error) -> Self {
        cast::Error::from(error).into()
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        Self { error, exit_code: EXIT_UNEXPECTED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_page::browser;
    use std::path::PathBuf;

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let navigation = || browser::Error::HttpStatus { url: "http://a".into(), status: 404 };
        let cases: [(cast::Error, u8); 5] = [
            (pagecast_core::SpecError::Bitrate(1).into(), 2),
            (navigation().into(), 3),
            (record::Error::Exists(PathBuf::from("a.mp4")).into(), 4),
            (browser::Error::ChromiumNotFound(vec![]).into(), 5),
            (cast::Error::Panic("x"), 1),
        ];
        for (error, code) in cases {
            assert_eq!(CommandError::from(error).exit_code, code);
        }
    }

    #[test]
    fn the_error_names_the_flag_that_helps() {
        let message = |cause| {
            let message = "cannot open http://localhost:3000/: why".to_owned();
            CommandError::from(FailureInfo {
                cause: Some(cause),
                ..FailureInfo::new(FailureKind::Page, message)
            })
            .to_string()
        };
        let untrusted = message(LoadError::Certificate { code: "net::ERR_CERT_AUTHORITY_INVALID".into() });
        assert!(untrusted.contains("--ca FILE"), "{untrusted}");
        assert_eq!(message(LoadError::TimedOut), "cannot open http://localhost:3000/: why");
        let message =
            message(LoadError::NotPublic { address: [127, 0, 0, 1].into(), rule: "localhost:3000".into() });
        assert!(
            message.ends_with(": allow it with --allow-net localhost:3000 if this page may reach it"),
            "{message}"
        );
    }

    #[test]
    fn the_whole_error_chain_is_in_one_line() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = record::Error::Create(PathBuf::from("a.mp4"), denied);
        assert_eq!(CommandError::from(error).to_string(), "cannot write a.mp4: permission denied");
        let denied = anyhow::Error::from(std::io::Error::from_raw_os_error(13)).context("cannot write a.mp4");
        assert_eq!(CommandError::from(denied).to_string(), "cannot write a.mp4: permission denied");
    }
}
