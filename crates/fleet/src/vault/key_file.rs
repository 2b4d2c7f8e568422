//! Key file: accessible to its owner only, and written atomically.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Error;

/// Maximum length of a key file, in bytes: several times that of a key.
const MAX_KEY_FILE_LEN: u64 = 1024;

/// Reads the key file; if it does not exist, creates it with this text.
pub(super) fn read_or_create(path: &Path, text: impl FnOnce() -> String) -> Result<String, Error> {
    if let Some(text) = read(path)? {
        return Ok(text);
    }
    create(path, &text()).map_err(|source| file_error("create", path, source))?;
    // Another process may have created it first, so read what is there.
    read(path)?.ok_or_else(|| file_error("find", path, io::ErrorKind::NotFound.into()))
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(file_error("open", path, source)),
    };
    let meta = file.metadata().map_err(|source| file_error("examine", path, source))?;
    if !meta.is_file() {
        return Err(Error::InvalidKeyFile(path.to_owned()));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Error::InsecurePermissions(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE_LEN).read_to_end(&mut bytes).map_err(|source| file_error("read", path, source))?;
    String::from_utf8(bytes).map(Some).map_err(|_| Error::InvalidKeyFile(path.to_owned()))
}

/// Writes a temporary file and links it to `path`, so that nobody sees half a key, and an existing key is
/// never replaced.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", super::random_bytes::<8>().map(|byte| format!("{byte:02x}")).concat()));
    let temp = TempFile(folder.join(name));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp.0)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    match fs::hard_link(&temp.0, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(folder)?.sync_all()
}

/// A file that is removed on drop.
struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        let _left_behind = fs::remove_file(&self.0);
    }
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { operation, path: path.to_owned(), source }
}
