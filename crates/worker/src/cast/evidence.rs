//! Evidence of a page's faults: a screenshot and the console log for each.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use pagecast_core::cast::HealthFault;
use pagecast_core::ledger::FIRST_EPOCH;
use pagecast_media::disk::ReservedSpace;
use pagecast_media::still;
use pagecast_page::Page;

use crate::process::log_forwarder::log_path;

/// Most faults captured for one cast: a page that is broken all day repeats itself.
const MAX_CAPTURES: u32 = 50;

/// Disk space reserved for one capture, in bytes: a PNG of full HD noise has 6 MB, one of an ordinary page a
/// tenth of that.
const RESERVED_BYTES: u64 = 8 << 20;

/// The evidence folder of a cast, created at the first fault.
#[derive(Debug)]
pub(super) struct Evidence {
    folder: Option<PathBuf>,
    /// Epoch of the cast's owner: later ones have it in the names of their files.
    epoch: u64,
    captures: u32,
    /// Space for one capture while the disk is full.
    reserved: Option<ReservedSpace>,
}

impl Evidence {
    /// Evidence in this folder; `None` keeps none.
    pub(super) fn new(folder: Option<PathBuf>, epoch: u64) -> Self {
        let mut evidence = Self { folder, epoch, captures: 0, reserved: None };
        evidence.reserve();
        evidence
    }

    /// Reserves space on the disk of the folder, which may not exist yet.
    fn reserve(&mut self) {
        let existing = self.folder.iter().flat_map(|folder| folder.ancestors()).find(|path| path.is_dir());
        self.reserved = existing.and_then(|folder| ReservedSpace::on_disk_of(folder, RESERVED_BYTES));
    }

    /// Writes a file, which has its name when it is complete; on a full disk, into the reserved space.
    fn write(&mut self, path: &Path, contents: &[u8]) -> std::io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft = path.with_file_name(format!(".{name}"));
        let written = match fs::write(&draft, contents) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull && self.reserved.is_some() => {
                self.reserved = None;
                fs::write(&draft, contents)
            }
            other => other,
        };
        written.and_then(|()| fs::rename(&draft, path)).inspect_err(|_| {
            let _not_written = fs::remove_file(&draft);
        })
    }

    /// Returns the folder, if anything was captured.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        self.folder.clone().filter(|_| self.captures > 0)
    }

    /// Writes `NN-FAULT.png` and `NN-FAULT.log`, or `NN-FAULT_rEPOCH.png` … of a later owner. Failures are
    /// logged only.
    pub(super) fn capture(&mut self, fault: HealthFault, detail: Option<&str>, page: &Page) {
        let Some(folder) = self.folder.clone() else { return };
        if self.captures >= MAX_CAPTURES {
            return;
        }
        if self.captures == 0 {
            match prepare_folder(&folder, self.epoch) {
                Ok(captures) => self.captures = captures,
                Err(error) => {
                    tracing::warn!(%error, folder = %folder.display(), "cannot create evidence folder");
                    self.folder = None;
                    return;
                }
            }
        }
        self.captures += 1;
        let name = serde_json::to_value(fault).ok();
        let name = name.as_ref().and_then(|n| n.as_str()).unwrap_or("fault");
        let number = self.captures;
        let owner = if self.epoch > FIRST_EPOCH { format!("_r{}", self.epoch) } else { String::new() };
        let path = |extension: &str| folder.join(format!("{number:02}-{name}{owner}.{extension}"));
        if let Some(picture) = page.display.snapshot() {
            let written = still::to_png(&picture).map_err(std::io::Error::other);
            if let Err(error) = written.and_then(|png| self.write(&path("png"), &png)) {
                tracing::warn!(%error, "cannot write evidence screenshot");
            }
        }
        let mut text = detail.map(|d| format!("{d}\n")).unwrap_or_default();
        for line in page.browser().map(|b| b.console()).unwrap_or_default() {
            let _infallible = writeln!(text, "{}: {}", line.level, line.text);
        }
        if let Err(error) = self.write(&path("log"), text.as_bytes()) {
            tracing::warn!(%error, "cannot write evidence console log");
        }
        self.reserve();
    }
}

/// Writes a picture of the page as it is now, as JPEG; returns whether that succeeded.
pub(super) fn write_snapshot(page: &Page, path: &Path) -> bool {
    let Some(picture) = page.display.snapshot() else { return false };
    still::write_jpeg(&picture, path)
        .inspect_err(|error| tracing::warn!(%error, "cannot write snapshot"))
        .is_ok()
}

/// Creates the folder and removes the captures of an earlier recording of the same name; returns how many
/// captures it holds. A folder with a log belongs to one cast of a service, so its captures are that cast's
/// own and stay.
fn prepare_folder(folder: &Path, epoch: u64) -> std::io::Result<u32> {
    fs::create_dir_all(folder)?;
    let files: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    let is = |path: &Path, extension: &str| path.extension().is_some_and(|e| e == extension);
    if log_path(folder, epoch).exists() {
        return Ok(u32::try_from(files.iter().filter(|path| is(path, "png")).count()).unwrap_or(MAX_CAPTURES));
    }
    for path in files.iter().filter(|path| is(path, "png") || is(path, "log")) {
        fs::remove_file(path)?;
    }
    Ok(0)
}
