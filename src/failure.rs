//! Why a command did not do what it should, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

use pagecast_media::record;
use pagecast_worker::cast::{self, Kind};
use pagecast_worker::process::Failed;

/// What a command ends with when it fails.
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    code: u8,
}

const UNEXPECTED: u8 = 1;
const BAD_VALUE: u8 = 2;
const PAGE: u8 = 3;
const OUTPUT: u8 = 4;
const BROWSER: u8 = 5;

impl Failure {
    /// What somebody wrote is wrong.
    pub(crate) fn of_value(error: anyhow::Error) -> Self {
        Self { error, code: BAD_VALUE }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    /// The error and what it came from, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Unexpected => UNEXPECTED,
        Kind::Value => BAD_VALUE,
        Kind::Page => PAGE,
        Kind::Output => OUTPUT,
        Kind::Browser => BROWSER,
    }
}

impl From<cast::Error> for Failure {
    fn from(error: cast::Error) -> Self {
        let code = code(error.kind());
        match error.allow_rule() {
            Some(rule) => Self { error: anyhow::Error::msg(with_flag(&error.to_string(), &rule)), code },
            None => Self { error: error.into(), code },
        }
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        let Failed { kind, message, allow_rule } = failed;
        let message = allow_rule.map_or(message.clone(), |rule| with_flag(&message, &rule));
        Self { error: anyhow::Error::msg(message), code: code(kind) }
    }
}

/// On a command line, a network rule is a flag.
fn with_flag(message: &str, rule: &str) -> String {
    format!("{message}; allow it with --allow-net {rule} if this page may reach it")
}

impl From<record::Error> for Failure {
    fn from(error: record::Error) -> Self {
        cast::Error::from(error).into()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, code: UNEXPECTED }
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
        let cases: [(cast::Error, u8); 6] = [
            (pagecast_core::SpecError::Bitrate(1).into(), 2),
            (navigation().into(), 3),
            (browser::Error::GivenUp.into(), 3),
            (record::Error::Exists(PathBuf::from("a.mp4")).into(), 4),
            (browser::Error::Missing(vec![]).into(), 5),
            (cast::Error::Panic("x"), 1),
        ];
        for (error, code) in cases {
            assert_eq!(Failure::from(error).code, code);
        }
    }

    #[test]
    fn the_command_line_says_its_own_flag() {
        let refused = browser::Error::Refused {
            url: "http://localhost:3000/".into(),
            host: "localhost".into(),
            address: "127.0.0.1".parse().unwrap(),
            port: 3000,
            why: pagecast_core::spec::Refusal::NotPublic,
        };
        let words = "cannot open http://localhost:3000/: 127.0.0.1 is not a public address; \
                     allow it with --allow-net localhost:3000 if this page may reach it";
        let (message, allow_rule) = (refused.to_string(), refused.allow_rule());
        assert!(!message.contains("--"), "others have no flags: {message}");
        let failed = Failed { allow_rule, ..Failed::new(Kind::Page, message) };
        assert_eq!(Failure::from(failed).to_string(), words);
        assert_eq!(Failure::from(cast::Error::from(refused)).to_string(), words);
    }

    #[test]
    fn the_whole_chain_is_said_in_one_line() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = record::Error::Create(PathBuf::from("a.mp4"), denied);
        assert_eq!(Failure::from(error).to_string(), "cannot write a.mp4: permission denied");
    }
}
