//! Skips tests that this machine cannot run: visibly on a developer's machine, as a failure in CI.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The file with the skipped tests of a run, one per line. `make test` prints it at the end.
#[must_use]
pub fn skipped_tests_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/skipped-tests.txt")
}

/// Records that the current test is skipped, or a part of it. The caller then returns from the test.
///
/// # Panics
/// In CI (`CI` is set and not empty), where every test must run.
#[expect(clippy::print_stderr, reason = "a skipped test is reported by name")]
pub fn skip(reason: &str) {
    let line = skipped_line(std::thread::current().name(), reason);
    eprintln!("skipped: {line}");
    // A test that runs without a target folder still prints the line.
    let _unrecorded = record(&skipped_tests_file(), &line);
    assert!(!is_ci(std::env::var("CI").ok().as_deref()), "tests must not be skipped in CI: {line}");
}

/// Whether the tests run as root. If not, the current test is skipped as by [`skip`].
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn is_root_or_skip(reason: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip(reason);
    }
    is_root
}

/// Each test runs on a thread of its name.
fn skipped_line(test: Option<&str>, reason: &str) -> String {
    format!("{}: {reason}", test.unwrap_or("a test"))
}

fn is_ci(variable: Option<&str>) -> bool {
    variable.is_some_and(|value| !value.is_empty() && value != "false")
}

/// Appends a line in one write, so that test processes do not mix theirs.
fn record(file: &Path, line: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).open(file)?.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_recorded_by_name() {
        let line = skipped_line(std::thread::current().name(), "needs root");
        assert!(line.ends_with("skipped_tests_are_recorded_by_name: needs root"), "{line}");
        let scratch = crate::ScratchDir::new().unwrap();
        let file = scratch.join("target/skipped-tests.txt");
        record(&file, "a: needs root").unwrap();
        record(&file, "b: needs Go").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a: needs root\nb: needs Go\n");
    }

    #[test]
    fn ci_is_recognized() {
        assert!(is_ci(Some("true")) && is_ci(Some("1")));
        assert!(!is_ci(None) && !is_ci(Some("")) && !is_ci(Some("false")));
    }
}
