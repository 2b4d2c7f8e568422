//! One service at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Error;

/// Held as long as the database is open; gone with the process, however that ends.
pub(super) struct Lock(#[expect(dead_code, reason = "closing it ends the lock")] File);

impl Lock {
    /// Takes the database at this path, whose folder is made.
    pub(super) fn acquire(path: &Path) -> Result<Self, Error> {
        let failed =
            |doing, path: PathBuf| move |source: io::Error| Error::File { operation: doing, path, source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("make the folder", folder.to_owned()))?;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let name = PathBuf::from(name);
        let open = |path: &Path| {
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
        };
        let file = open(&name).map_err(failed("open the lock", name.clone()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked(path.to_owned())),
            Err(error) => return Err(failed("lock", name)(error.into())),
        }
        // SQLite would make it for others to read; what it makes beside it is like it.
        open(path).map_err(failed("open", path.to_owned()))?;
        Ok(Self(file))
    }
}
