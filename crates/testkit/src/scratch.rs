//! Temporary folders of a test, deleted when it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// A new folder that every user may enter, because browsers run as another user.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Creates a folder under `/tmp`: socket paths must be short, and an unprivileged user must reach it.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn new() -> Result<Self> {
        let n = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/pagecast-test-{}-{n}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }

    /// Path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Path of a file in the folder.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Creates a subfolder that every user may write to.
    ///
    /// # Errors
    /// The subfolder cannot be created.
    pub fn world_writable_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777))?;
        Ok(path)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // A folder that stays must not hide the result of the test.
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// A small file system in memory, to be filled or made read-only; unmounted when dropped. Needs root.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Whether this user may mount. If not, the current test is skipped as by [`crate::skip::skip`].
    ///
    /// # Panics
    /// In CI, if the user may not mount.
    #[must_use]
    pub fn is_supported_or_skip() -> bool {
        crate::is_root_or_skip("mounting a file system needs root")
    }

    /// Creates `folder` and mounts a file system of this size there.
    ///
    /// # Errors
    /// The folder exists, or mounting is not allowed.
    pub fn mount(folder: PathBuf, bytes: u64) -> Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let options = std::ffi::CString::new(format!("size={bytes},mode=1777"))?;
        mount("pagecast-test", &folder, "tmpfs", MountFlags::NODEV, options.as_c_str())
            .context("cannot mount a tmpfs: this test needs root")?;
        Ok(Self(folder))
    }

    /// Makes the file system read-only, for root too.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make_read_only(&self) -> Result<()> {
        mount_remount(&self.0, MountFlags::RDONLY, c"").context("cannot remount read-only")
    }

    /// Changes the size of the file system.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        let options = std::ffi::CString::new(format!("size={bytes}"))?;
        mount_remount(&self.0, MountFlags::NODEV, options.as_c_str()).context("cannot resize the tmpfs")
    }

    /// Path of the mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _left = unmount(&self.0, UnmountFlags::DETACH);
    }
}
