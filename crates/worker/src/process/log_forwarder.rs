//! Forwards the log of a cast's process to our own log, with the id of the cast, and to a file of limited
//! size.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagecast_core::ledger::FIRST_EPOCH;

/// Longest line, in bytes; a longer one is split, so that a page that logs a megabyte cannot fill the memory.
const MAX_LINE_BYTES: u64 = 4096;
/// Most bytes text in the file of a cast, so that one that logs without end cannot fill the disk. Later lines
/// are only forwarded.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// Forwards the log of one cast's processes; clones share the file.
#[derive(Debug, Clone, Default)]
pub(super) struct LogForwarder(Arc<Mutex<LogState>>);

#[derive(Debug, Default)]
struct LogState {
    /// Id of the cast; empty while the process waits for one.
    cast: String,
    file: Option<File>,
    bytes_left: u64,
}

impl LogForwarder {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the id of the cast, and appends further lines to this file.
    pub(super) fn open_file(&self, cast: &str, path: &Path) {
        let opened = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        let mut state = self.lock();
        cast.clone_into(&mut state.cast);
        match opened {
            Ok((file, length)) => {
                (state.file, state.bytes_left) = (Some(file), MAX_LOG_BYTES.saturating_sub(length));
            }
            Err(error) => tracing::warn!(cast, %error, path = %path.display(), "cannot open cast log file"),
        }
    }

    /// Starts a thread that forwards lines until the process and all its children are gone.
    pub(super) fn spawn(&self, stderr: impl Read + Send + 'static) -> std::io::Result<()> {
        let forwarder = self.clone();
        // A child may hold the other end longer than the process lives, so the thread is not joined.
        std::thread::Builder::new().name("cast-log".into()).spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
                forwarder.forward(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        })?;
        Ok(())
    }

    fn forward(&self, line: &str) {
        let mut state = self.lock();
        let (level, text) = parse_line(line);
        let cast = state.cast.as_str();
        match level {
            "ERROR" => tracing::error!(cast, "{text}"),
            "INFO" => tracing::info!(cast, "{text}"),
            "DEBUG" | "TRACE" => tracing::debug!(cast, "{text}"),
            _ => tracing::warn!(cast, "{text}"),
        }
        let length = line.len() as u64 + 1;
        let LogState { file, bytes_left, .. } = &mut *state;
        if let Some(open) = file
            && (*bytes_left < length || writeln!(open, "{line}").is_err())
        {
            // The disk is full, or the file has its full size.
            *file = None;
        }
        state.bytes_left = state.bytes_left.saturating_sub(length);
    }
}

/// Splits a line into level and text; a line that is not of our log format has no level.
fn parse_line(line: &str) -> (&str, &str) {
    let text = line.trim_start();
    let Some((time, rest)) = text.split_once(' ').filter(|(time, _)| time.ends_with('Z')) else {
        return ("", text);
    };
    let rest = rest.trim_start();
    match rest.split_once(' ') {
        Some((level, text)) if ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level) => (level, text),
        _ => ("", &text[time.len() + 1..]),
    }
}

/// Returns the path of the log that the owner of this epoch writes, beside the cast's evidence. Nodes of a
/// fleet must not have different files of the same name.
pub(crate) fn log_path(evidence: &Path, epoch: u64) -> PathBuf {
    evidence.join(if epoch > FIRST_EPOCH { format!("cast_r{epoch}.log") } else { "cast.log".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() {
        for (line, level, text) in [
            ("2026-11-21T18:08:08.028529Z  INFO page live", "INFO", "page live"),
            ("2026-11-21T18:08:08.028529Z ERROR a bug: x", "ERROR", "a bug: x"),
            ("thread 'main' panicked", "", "thread 'main' panicked"),
            ("", "", ""),
        ] {
            assert_eq!(parse_line(line), (level, text));
        }
    }

    #[test]
    fn the_file_is_bounded_and_appended_to() {
        let folder = std::env::temp_dir().join(format!("pagecast-log-forwarder-{}", std::process::id()));
        let path = log_path(&folder.join("deeper"), FIRST_EPOCH);
        for _ in 0..2 {
            let forwarder = LogForwarder::default();
            forwarder.forward("a line before the file is open");
            forwarder.open_file("x", &path);
            for number in 0..200 {
                forwarder.forward(&format!("{number} {}", "x".repeat(4000)));
            }
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.len() as u64 <= MAX_LOG_BYTES && text.len() as u64 > MAX_LOG_BYTES - 5000,
            "{}",
            text.len()
        );
        assert!(text.starts_with("0 xxx") && text.contains("\n199 xxx"), "the second forwarder appends");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
