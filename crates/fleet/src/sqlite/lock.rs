//! Lock that lets only one process use a database.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Error;

/// Exclusive lock on a database. The kernel releases it when the process ends, however that happens.
pub(super) struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] File);

impl Lock {
    /// Locks the database at this path, and creates its folder if necessary.
    pub(super) fn acquire(path: &Path) -> Result<Self, Error> {
        let failed =
            |operation, path: PathBuf| move |source: io::Error| Error::File { operation, path, source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("create the folder", folder.to_owned()))?;
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
        // Creates the database with mode 0600, which SQLite would not; its other files inherit the mode.
        open(path).map_err(failed("open", path.to_owned()))?;
        Ok(Self(file))
    }
}
