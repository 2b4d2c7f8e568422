//! Space on a disk that is ours before it is needed: what others write meanwhile cannot take it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
use rustix::io::Errno;

/// Free space from which on something is reserved early: a hundred times what is reserved so.
const MIN_FREE_FOR_PREALLOCATE_BYTES: u64 = 64 << 20;

/// Reserves `bytes` behind the end of a file, whose length stays. What is appended next, up to so much, finds
/// room however full the disk has become. File systems that cannot reserve anything are left as they are.
///
/// # Errors
/// There is no such file, or the disk is full ([`io::ErrorKind::StorageFull`]): what was reserved before
/// stays.
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

/// The same as long as the disk has plenty of room. On one that is nearly full already, or very small, what
/// is left is for what is written now.
pub(crate) fn preallocate_if_space(path: &Path, bytes: u64) {
    let has_plenty = path
        .parent()
        .and_then(|folder| space(folder).ok())
        .is_some_and(|s| s.free_bytes >= MIN_FREE_FOR_PREALLOCATE_BYTES);
    if has_plenty {
        // Without it, things go on as long as there is room.
        let _reserved = preallocate(path, bytes);
    }
}

/// Gives back what is reserved behind the end of a file.
///
/// # Errors
/// There is no such file.
pub fn release_preallocated(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(file.metadata()?.len())
}

/// Space on a disk that no file has yet, for what must find room though the disk is full. It is given back
/// when this is dropped, and by the system if the process dies.
#[derive(Debug)]
pub struct ReservedSpace {
    _unnamed: OwnedFd,
}

impl ReservedSpace {
    /// Reserves `bytes` on the disk of `folder`. `None` on a disk with little room, whose rest is for what is
    /// written now, and where files without a name or space without contents are not possible.
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

/// The disk that a folder is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can be written before it is full.
    pub free_bytes: u64,
    /// All of its bytes.
    pub total_bytes: u64,
}

/// The space of the disk that a folder is on.
///
/// # Errors
/// There is no such folder.
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
            eprintln!("skipped: {} has too little room", folder.display());
            return;
        }
        let before = space(&folder).unwrap().free_bytes;
        let reserved = ReservedSpace::on_disk_of(&folder, bytes).unwrap();
        // Others write meanwhile.
        assert!(space(&folder).unwrap().free_bytes < before - bytes / 2);
        drop(reserved);
        assert!(space(&folder).unwrap().free_bytes > before - bytes / 2);
        assert!(ReservedSpace::on_disk_of(&folder, u64::MAX / 2).is_none());
    }

    #[test]
    fn what_is_reserved_is_not_seen_in_the_length() {
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
