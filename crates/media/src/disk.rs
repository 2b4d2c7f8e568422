//! Space on a disk that is ours before it is needed: what others write meanwhile cannot take it.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Reserves `bytes` behind the end of a file, whose length stays. What is appended next, up to so much, finds room however full the
/// disk has become. File systems that cannot reserve anything are left as they are.
///
/// # Errors
/// There is no such file, or the disk is full ([`io::ErrorKind::StorageFull`]): what was reserved before stays.
pub fn reserve_behind(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    match fallocate(&file, FallocateFlags::KEEP_SIZE, file.metadata()?.len(), bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Gives back what is reserved behind the end of a file.
///
/// # Errors
/// There is no such file.
pub fn release_behind(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(file.metadata()?.len())
}

/// Bytes that can be written in a folder before its disk is full.
///
/// # Errors
/// There is no such folder.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_is_reserved_is_not_seen_in_the_length() {
        let path = std::env::temp_dir().join(format!("pagecast-reserve-{}", std::process::id()));
        std::fs::write(&path, "text").unwrap();
        reserve_behind(&path, 1 << 20).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), std::fs::read(&path).unwrap()), (4, b"text".to_vec()));
        assert!(meta.blocks() * 512 >= 1 << 20, "{} blocks", meta.blocks());
        release_behind(&path).unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= 1 << 16);
        std::fs::remove_file(&path).unwrap();
        assert!(reserve_behind(&path, 1).is_err() && free_bytes(&path).is_err());
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
    }
}
