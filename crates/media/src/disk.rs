//! Disk space reserved before it is needed, so that other processes cannot take it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
use rustix::io::Errno;

/// Least free space at which space is reserved early: about a hundred times the usual reservation (512 KiB).
const MIN_FREE_FOR_PREALLOCATE_BYTES: u64 = 64 << 20;

/// Reserves `bytes` behind the end of a file without changing its length. The next `bytes` appended bytes
/// then find room even on a full disk. Does nothing on file systems that cannot reserve space.
///
/// # Errors
/// The file does not exist, or the disk is full ([`io::ErrorKind::StorageFull`]); earlier reservations stay.
pub fn preallocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if bytes == 0 {
        return Ok(());
    }
    match fallocate(&file, FallocateFlags::KEEP_SIZE, file.metadata()?.len(), bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Does the same as [`preallocate`] if the disk has plenty of room. On a nearly full or very small disk, the
/// rest is left for current writes.
pub(crate) fn preallocate_if_space(path: &Path, bytes: u64) {
    let has_plenty = path
        .parent()
        .and_then(|folder| space(folder).ok())
        .is_some_and(|s| s.free_bytes >= MIN_FREE_FOR_PREALLOCATE_BYTES);
    if has_plenty {
        // Without the reservation, writes still succeed as long as there is room.
        let _reserved = preallocate(path, bytes);
    }
}

/// Releases the space that is reserved behind the end of a file.
///
/// # Errors
/// The file does not exist.
pub fn release_preallocated(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(file.metadata()?.len())
}

/// Space on a disk that is kept free for data that must be written even when the disk is full. Dropping the
/// value releases it; the kernel does so if the process dies.
#[derive(Debug)]
pub struct ReservedSpace {
    _unnamed: OwnedFd,
}

impl ReservedSpace {
    /// Reserves `bytes` on the disk of `folder`. `None` on a disk with little room, and on file systems
    /// without unnamed files (`O_TMPFILE`) or `fallocate`.
    #[must_use]
    pub fn on_disk_of(folder: &Path, bytes: u64) -> Option<Self> {
        if space(folder).ok()?.free_bytes < MIN_FREE_FOR_PREALLOCATE_BYTES.saturating_add(bytes) {
            return None;
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed = open(folder, flags, Mode::RUSR | Mode::WUSR).ok()?;
        fallocate(&unnamed, FallocateFlags::empty(), 0, bytes).ok()?;
        Some(Self { _unnamed: unnamed })
    }
}

/// Free and total space of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free space available to this user, in bytes.
    pub free_bytes: u64,
    /// Size of the disk, in bytes.
    pub total_bytes: u64,
}

/// Measures the disk that a folder is on.
///
/// # Errors
/// The folder does not exist.
pub fn space(folder: &Path) -> io::Result<Space> {
    let disk = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Ok(Space { free_bytes: bytes(disk.f_bavail), total_bytes: bytes(disk.f_blocks) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn unnamed_space_is_given_back() {
        let folder = std::env::temp_dir();
        let bytes = 1 << 30;
        if space(&folder).unwrap().free_bytes < 8 * bytes {
            pagecast_testkit::skip(&format!("{} has less than 8 GiB free", folder.display()));
            return;
        }
        let before = space(&folder).unwrap().free_bytes;
        let reserved = ReservedSpace::on_disk_of(&folder, bytes).unwrap();
        // Other processes write at the same time, so only half is expected.
        assert!(space(&folder).unwrap().free_bytes < before - bytes / 2);
        drop(reserved);
        assert!(space(&folder).unwrap().free_bytes > before - bytes / 2);
        assert!(ReservedSpace::on_disk_of(&folder, u64::MAX / 2).is_none());
    }

    #[test]
    fn a_reservation_does_not_change_the_length() {
        let path = std::env::temp_dir().join(format!("pagecast-reserve-{}", std::process::id()));
        std::fs::write(&path, "text").unwrap();
        preallocate(&path, 1 << 20).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), std::fs::read(&path).unwrap()), (4, b"text".to_vec()));
        assert!(meta.blocks() * 512 >= 1 << 20, "{} blocks", meta.blocks());
        release_preallocated(&path).unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= 1 << 16);
        std::fs::remove_file(&path).unwrap();
        assert!(preallocate(&path, 1).is_err() && space(&path).is_err());
        let here = space(&std::env::temp_dir()).unwrap();
        assert!(0 < here.free_bytes && here.free_bytes <= here.total_bytes, "{here:?}");
    }
}
