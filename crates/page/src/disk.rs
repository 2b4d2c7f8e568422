//! Measures the disk usage of the browser, on a thread of its own: a profile may hold very many files, and a
//! cast must not wait until they are counted.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::wake::SharedWaker;

/// Time between two measurements. A page can write some 400 MB/s, so it may exceed its limit by twice that.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);
/// Most files of a browser that one measurement counts. An ordinary profile has some 200; counting this many
/// takes a quarter of a second.
const MAX_COUNTED_FILES: usize = 100_000;

/// Disk usage of the running browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of its profile, home and temporary files. `u64::MAX` if it has more files than a measurement
    /// counts.
    pub used_bytes: u64,
    /// Bytes that are free for any user of that disk.
    pub free_bytes: u64,
    /// When the measurement began; `None` before the first one of this browser.
    pub measured_at: Option<Instant>,
}

impl DiskUsage {
    const UNKNOWN: Self = Self { used_bytes: 0, free_bytes: u64::MAX, measured_at: None };
}

/// The folder of a browser, numbered from 1.
pub(crate) fn browser_folder(run_folder: &Path, browser: u32) -> PathBuf {
    run_folder.join(format!("browser-{browser}"))
}

#[derive(Debug)]
struct Shared {
    run_folder: PathBuf,
    /// Number of the running browser, 0 before the first, and its last measurement.
    current: Mutex<(u32, DiskUsage)>,
    /// Woken when the usage has changed.
    waker: SharedWaker,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (u32, DiskUsage)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measure(&self) {
        let (browser, measured_at) = (self.lock().0, Some(Instant::now()));
        // The last processes of earlier browsers may still be writing. What cannot be removed now is tried
        // again, and goes with the run folder at the latest.
        for old in (1..browser).map(|number| browser_folder(&self.run_folder, number)) {
            if old.exists() {
                let _later = std::fs::remove_dir_all(old);
            }
        }
        let free_bytes = rustix::fs::statvfs(&self.run_folder)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let used_bytes = folder_bytes(&browser_folder(&self.run_folder, browser));
        let mut current = self.lock();
        // If the browser was replaced meanwhile, the result is that of the earlier one.
        if current.0 == browser {
            let previous =
                std::mem::replace(&mut current.1, DiskUsage { used_bytes, free_bytes, measured_at });
            drop(current);
            if previous.used_bytes != used_bytes {
                self.waker.wake();
            }
        }
    }
}

/// The running measurement thread. Stops when dropped.
#[derive(Debug)]
pub(crate) struct DiskMeter {
    shared: Arc<Shared>,
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DiskMeter {
    pub(crate) fn start(run_folder: &Path) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            run_folder: run_folder.to_owned(),
            current: Mutex::new((0, DiskUsage::UNKNOWN)),
            waker: SharedWaker::default(),
        });
        let (stop, stopped) = sync_channel::<()>(0);
        let measured = Arc::clone(&shared);
        let run = move || {
            while stopped.recv_timeout(MEASURE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                measured.measure();
            }
        };
        let thread = std::thread::Builder::new().name("disk-meter".into()).spawn(run)?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Measures `browser` from now on, and removes the folders of earlier ones.
    pub(crate) fn set_browser(&self, browser: u32) {
        *self.shared.lock() = (browser, DiskUsage::UNKNOWN);
    }

    /// Sets who is woken when a measurement differs from the one before.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.shared.waker.set(waker);
    }

    /// The last measurement.
    pub(crate) fn usage(&self) -> DiskUsage {
        self.shared.lock().1
    }
}

impl Drop for DiskMeter {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("disk-meter thread panicked");
        }
    }
}

/// Bytes that the contents of a folder take on the disk, without the holes of sparse files.
fn folder_bytes(folder: &Path) -> u64 {
    let (mut bytes, mut files) = (0_u64, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // Files may disappear while they are counted.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            files += 1;
            if files > MAX_COUNTED_FILES {
                return u64::MAX;
            }
            // Of a symbolic link itself, not of its target.
            let Ok(meta) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_the_running_browser_and_removes_earlier_ones() {
        let run_folder = std::env::temp_dir().join(format!("pagecast-disk-{}", std::process::id()));
        for (number, size) in [(1, 3 << 20), (2, 1 << 20)] {
            let folder = browser_folder(&run_folder, number).join("profile/Default");
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("file"), vec![1; size]).unwrap();
        }
        let meter = DiskMeter::start(&run_folder).unwrap();
        assert_eq!(meter.usage(), DiskUsage::UNKNOWN);
        meter.set_browser(1);
        meter.shared.measure();
        let used = meter.usage().used_bytes;
        assert!((3 << 20..4 << 20).contains(&used), "{used} bytes");
        meter.set_browser(2);
        assert_eq!(meter.usage(), DiskUsage::UNKNOWN);
        meter.shared.measure();
        let usage = meter.usage();
        assert!((1 << 20..2 << 20).contains(&usage.used_bytes) && usage.free_bytes < u64::MAX, "{usage:?}");
        assert!(usage.measured_at.is_some());
        assert!(!browser_folder(&run_folder, 1).exists());
        drop(meter);
        std::fs::remove_dir_all(run_folder).unwrap();
    }
}
