//! The data folder: made private before anything is stored in it, and used by one service only.

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

/// Exclusive lock on a data folder without a database. The kernel releases it when the process ends.
#[derive(Debug)]
pub(super) struct DataFolderLock(#[expect(dead_code, reason = "closing it releases the lock")] File);

impl DataFolderLock {
    /// Locks a data folder against services with a database in it, and against those without one.
    pub(super) fn acquire(data: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        // The file that a service with a database locks.
        let path = data.join("fleet.db.lock");
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open the lock {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                anyhow::bail!("another service uses the data folder {}: stop it, or set data", data.display())
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// Creates the data folder for its owner only, or checks an existing one. A folder that every user can write
/// to becomes private; other modes cause a warning.
pub(super) fn prepare(data: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
    let shown = data.display();
    let folder = || format!("cannot make the folder {shown}");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).with_context(folder)?;
    let found = std::fs::metadata(data).with_context(folder)?;
    let (own, mode) = (rustix::process::geteuid().as_raw(), found.mode() & 0o777);
    anyhow::ensure!(
        found.uid() == own || found.uid() == 0,
        "the data folder {shown} belongs to another user (uid {}), who could take over the service: chown it \
         to uid {own}, or name another folder (data)",
        found.uid()
    );
    let mode_shown = format!("{mode:03o}");
    if mode & 0o002 != 0 && found.uid() == own {
        let private = std::fs::Permissions::from_mode(0o700);
        let why = || format!("cannot make {shown} private: every user may write to it (mode {mode_shown})");
        std::fs::set_permissions(data, private).with_context(why)?;
        tracing::warn!(folder = %shown, mode = mode_shown, "data folder was writable by every user, mode \
            changed to 0700");
    } else if mode & 0o077 != 0 {
        tracing::warn!(
            folder = %shown,
            mode = mode_shown,
            "other users can get into the data folder, with recordings and pictures of pages in it: chmod \
             700 it"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn an_existing_data_folder_is_checked() {
        let scratch = pagecast_testkit::ScratchDir::new().unwrap();
        let mode = |folder: &Path| std::fs::metadata(folder).unwrap().permissions().mode() & 0o777;
        let new = scratch.join("a/b");
        prepare(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        for (before, after) in [(0o777, 0o700), (0o757, 0o700), (0o750, 0o750), (0o700, 0o700)] {
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(before)).unwrap();
            prepare(&new).unwrap();
            assert_eq!(mode(&new), after, "{before:o}");
        }
        // Only root can give a folder away.
        if chown(&new, Some(12_345), None).is_ok() {
            let words = prepare(&new).unwrap_err().to_string();
            assert!(words.contains("12345") && words.contains("chown"), "{words}");
        }
    }
}
