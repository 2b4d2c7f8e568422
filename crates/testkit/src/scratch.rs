//! Folders for one test, gone when it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// A fresh folder that everybody may enter, because browsers run as another user.
#[derive(Debug)]
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes one under /tmp: socket paths must stay short, and an unprivileged user must reach it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        let n = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/pagecast-test-{}-{n}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A folder in it that everybody may write to.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn world_writable_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777))?;
        Ok(path)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // A folder that stays is an untidiness, not a reason to hide the verdict of the test.
        let _untidy = fs::remove_dir_all(&self.0);
    }
}

/// A small file system of its own, to be filled up or made read-only. Needs root.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Whether this user may mount.
    #[must_use]
    pub fn is_supported() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Mounts `bytes` of memory at `folder`, which is made.
    ///
    /// # Errors
    /// The folder exists or mounting is not allowed.
    pub fn mount(folder: PathBuf, bytes: u64) -> Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let options = std::ffi::CString::new(format!("size={bytes},mode=1777"))?;
        mount("pagecast-test", &folder, "tmpfs", MountFlags::NODEV, options.as_c_str())
            .context("cannot mount a tmpfs: this test needs root")?;
        Ok(Self(folder))
    }

    /// From now on nothing in it can be written, not even by root.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make_read_only(&self) -> Result<()> {
        mount_remount(&self.0, MountFlags::RDONLY, c"").context("cannot remount read-only")
    }

    /// From now on it has room for `bytes`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        let options = std::ffi::CString::new(format!("size={bytes}"))?;
        mount_remount(&self.0, MountFlags::NODEV, options.as_c_str()).context("cannot make the disk larger")
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _untidy = unmount(&self.0, UnmountFlags::DETACH);
    }
}
