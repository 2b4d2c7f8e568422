//! What a cast's process logs: passed on to our own log with the cast's name, and kept in a file, as far as it fits.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest line; the rest of a longer one is the next one.
const MAX_LINE_BYTES: u64 = 4096;
/// Bytes that are kept of a cast. What comes then is only passed on.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// Where a process is heard.
#[derive(Debug, Clone, Default)]
pub(super) struct LogForwarder(Arc<Mutex<LogState>>);

#[derive(Debug, Default)]
struct LogState {
    /// Which cast this is, once it is one.
    cast: String,
    file: Option<File>,
    bytes_left: u64,
}

impl LogForwarder {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is this cast's, and kept there, behind what is there already.
    pub(super) fn open_file(&self, cast: &str, path: &Path) {
        let opened = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let there = file.metadata()?.len();
            Ok((file, there))
        });
        let mut keeper = self.lock();
        cast.clone_into(&mut keeper.cast);
        match opened {
            Ok((file, there)) => {
                (keeper.file, keeper.bytes_left) = (Some(file), MAX_LOG_BYTES.saturating_sub(there));
            }
            Err(error) => tracing::warn!(cast, %error, path = %path.display(), "no log is kept of this cast"),
        }
    }

    /// Listens on a thread until the process and all that it started are gone.
    pub(super) fn spawn(&self, to: impl Read + Send + 'static) -> std::io::Result<()> {
        let ear = self.clone();
        // Whoever holds the other end may live longer than the process, so nobody waits for the thread.
        std::thread::Builder::new().name("cast-log".into()).spawn(move || {
            let mut lines = BufReader::new(to);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
                ear.forward(String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        })?;
        Ok(())
    }

    fn forward(&self, line: &str) {
        let mut keeper = self.lock();
        let (level, text) = parse_line(line);
        let cast = keeper.cast.as_str();
        match level {
            "ERROR" => tracing::error!(cast, "{text}"),
            "INFO" => tracing::info!(cast, "{text}"),
            "DEBUG" | "TRACE" => tracing::debug!(cast, "{text}"),
            _ => tracing::warn!(cast, "{text}"),
        }
        let length = line.len() as u64 + 1;
        let LogState { file, bytes_left: left, .. } = &mut *keeper;
        if let Some(kept) = file
            && (*left < length || writeln!(kept, "{line}").is_err())
        {
            // A full disk, or a cast that says too much.
            *file = None;
        }
        keeper.bytes_left = keeper.bytes_left.saturating_sub(length);
    }
}

/// The level of a line of ours, and what it says; others' lines are all text.
fn parse_line(line: &str) -> (&str, &str) {
    let text = line.trim_start();
    let Some((time, rest)) = text.split_once(' ').filter(|(time, _)| time.ends_with('Z')) else {
        return ("", text);
    };
    let rest = rest.trim_start();
    match rest.split_once(' ') {
        Some((level, said)) if ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level) => (level, said),
        _ => ("", &text[time.len() + 1..]),
    }
}

/// Where the log of a cast is kept, beside its evidence.
pub(crate) fn log_path(evidence: &Path) -> PathBuf {
    evidence.join("cast.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        for (line, level, said) in [
            ("2026-11-21T18:08:08.028529Z  INFO the page is live", "INFO", "the page is live"),
            ("2026-11-21T18:08:08.028529Z ERROR a bug: x", "ERROR", "a bug: x"),
            ("thread 'main' panicked", "", "thread 'main' panicked"),
            ("", "", ""),
        ] {
            assert_eq!(parse_line(line), (level, said));
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_goes_on() {
        let folder = std::env::temp_dir().join(format!("pagecast-heard-{}", std::process::id()));
        let path = log_path(&folder.join("deeper"));
        for _ in 0..2 {
            let ear = LogForwarder::default();
            ear.forward("before it is a cast");
            ear.open_file("x", &path);
            for number in 0..200 {
                ear.forward(&format!("{number} {}", "x".repeat(4000)));
            }
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(
            kept.len() as u64 <= MAX_LOG_BYTES && kept.len() as u64 > MAX_LOG_BYTES - 5000,
            "{}",
            kept.len()
        );
        assert!(
            kept.starts_with("0 xxx") && kept.contains("\n199 xxx"),
            "the second goes on behind the first"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
