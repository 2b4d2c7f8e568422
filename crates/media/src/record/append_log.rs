//! An append-only log file with one JSON object per line. A line that a crash cut short is ignored.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk::preallocate_if_space;

/// Longest line in bytes: entries have a few hundred.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// Space reserved for further entries, about 600, so that they can be written on a full disk.
const RESERVE_BYTES: u64 = 64 * 1024;

/// Appends entries to a log.
#[derive(Debug)]
pub(super) struct LogWriter<T> {
    file: File,
    path: PathBuf,
    entries: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> LogWriter<T> {
    /// Opens or creates the log and truncates a torn line at its end.
    ///
    /// # Errors
    /// The log is damaged before its end; it is left as it is, as truncating would lose the entries that
    /// follow.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (_, whole) = read_entries::<T>(&mut file, 0)?;
        let mut rest = BufReader::new(&file);
        rest.seek(SeekFrom::Start(whole))?;
        let mut line = Vec::new();
        while rest.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
            if serde_json::from_slice::<T>(&line).is_ok() && line.last() == Some(&b'\n') {
                let message = format!("{} is damaged at byte {whole}", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            line.clear();
        }
        file.set_len(whole)?;
        file.seek(SeekFrom::Start(whole))?;
        let log = Self { file, path: path.to_owned(), entries: PhantomData };
        log.preallocate();
        Ok(log)
    }

    fn preallocate(&self) {
        preallocate_if_space(&self.path, RESERVE_BYTES);
    }

    /// Appends an entry and syncs it to the disk.
    pub(super) fn append(&mut self, entry: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let before = self.file.stream_position()?;
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // A torn line would hide all later entries.
            self.file.set_len(before)?;
            self.file.seek(SeekFrom::Start(before))?;
        }
        self.preallocate();
        written
    }
}

/// Reads entries as they are appended.
#[derive(Debug)]
pub(super) struct LogReader<T> {
    file: File,
    offset: u64,
    entries: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> LogReader<T> {
    /// Opens a log at its start.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, offset: 0, entries: PhantomData })
    }

    /// Reads the entries appended since the last call.
    pub(super) fn read_new(&mut self) -> io::Result<Vec<T>> {
        let (entries, at) = read_entries(&mut self.file, self.offset)?;
        self.offset = at;
        Ok(entries)
    }
}

/// Reads the complete entries from offset `at` on; also returns the offset of their end.
fn read_entries<T: DeserializeOwned>(file: &mut File, mut at: u64) -> io::Result<(Vec<T>, u64)> {
    file.seek(SeekFrom::Start(at))?;
    let mut lines = BufReader::new(file);
    let mut entries = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok((entries, at));
        }
        let Ok(entry) = serde_json::from_slice(&line) else { return Ok((entries, at)) };
        entries.push(entry);
        at += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_truncated_and_writing_continues() {
        let path = std::env::temp_dir().join(format!("pagecast-log-{}", std::process::id()));
        let _old = std::fs::remove_file(&path);
        let mut log = LogWriter::<u32>::open(&path).unwrap();
        let mut reader = LogReader::<u32>::open(&path).unwrap();
        log.append(&1).unwrap();
        assert_eq!(reader.read_new().unwrap(), [1]);
        log.append(&2).unwrap();
        drop(log);
        for torn in ["3", "nonsense\n", "\0\0\0\0\n"] {
            let whole = std::fs::read(&path).unwrap();
            let mut text = whole.clone();
            text.extend_from_slice(torn.as_bytes());
            std::fs::write(&path, &text).unwrap();
            drop(LogWriter::<u32>::open(&path).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{torn:?}");
        }
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"nonsense\n4\n"].concat()).unwrap();
        assert!(LogWriter::<u32>::open(&path).is_err(), "truncating would lose the entry after the damage");
        std::fs::write(&path, whole).unwrap();
        LogWriter::<u32>::open(&path).unwrap().append(&5).unwrap();
        assert_eq!(reader.read_new().unwrap(), [2, 5]);
        assert!(reader.read_new().unwrap().is_empty());
        std::fs::remove_file(&path).unwrap();
    }
}
