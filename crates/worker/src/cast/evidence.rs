//! What is kept when something is wrong with a page: a picture of it, and its last words.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use pagecast_core::cast::HealthFault;
use pagecast_media::disk::ReservedSpace;
use pagecast_media::still;
use pagecast_page::Page;

use crate::process::log_forwarder::log_path;

/// Occasions kept of a cast; what is wrong for a whole day is the same all day.
const MAX_CAPTURES: u32 = 50;

/// Space that is reserved for one occasion: a PNG of a full HD picture of noise has 6 MB, and those of
/// ordinary pages a tenth of it.
const RESERVED_BYTES: u64 = 8 << 20;

/// A folder, made when it is needed.
#[derive(Debug)]
pub(super) struct Evidence {
    folder: Option<PathBuf>,
    captures: u32,
    /// For an occasion on which the disk is full.
    reserved: Option<ReservedSpace>,
}

impl Evidence {
    /// Kept in this folder, or not at all.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        let mut evidence = Self { folder, captures: 0, reserved: None };
        evidence.reserve();
        evidence
    }

    /// Reserves space where the folder is or will be.
    fn reserve(&mut self) {
        let existing = self.folder.iter().flat_map(|folder| folder.ancestors()).find(|path| path.is_dir());
        self.reserved = existing.and_then(|folder| ReservedSpace::on_disk_of(folder, RESERVED_BYTES));
    }

    /// Writes a file; if the disk is full, into the space that is reserved.
    fn write(&mut self, path: &Path, contents: &[u8]) -> std::io::Result<()> {
        match fs::write(path, contents) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull && self.reserved.is_some() => {
                self.reserved = None;
                fs::write(path, contents)
            }
            written => written,
        }
    }

    /// The folder, if anything is in it.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        self.folder.clone().filter(|_| self.captures > 0)
    }

    /// Keeps `NN-trouble.png` and `NN-trouble.log`. A cast goes on without them.
    pub(super) fn capture(&mut self, trouble: HealthFault, detail: Option<&str>, page: &Page) {
        let Some(folder) = self.folder.clone() else { return };
        if self.captures >= MAX_CAPTURES {
            return;
        }
        if self.captures == 0 {
            match prepare_folder(&folder) {
                Ok(there) => self.captures = there,
                Err(error) => {
                    tracing::warn!(%error, folder = %folder.display(), "no evidence can be kept");
                    self.folder = None;
                    return;
                }
            }
        }
        self.captures += 1;
        let name = serde_json::to_value(trouble).ok();
        let name = name.as_ref().and_then(|n| n.as_str()).unwrap_or("trouble");
        let occasion = self.captures;
        let path = |ending: &str| folder.join(format!("{occasion:02}-{name}.{ending}"));
        if let Some(picture) = page.display.snapshot() {
            let written = still::to_png(&picture).map_err(std::io::Error::other);
            if let Err(error) = written.and_then(|png| self.write(&path("png"), &png)) {
                tracing::warn!(%error, "a picture of the page is not kept");
            }
        }
        let mut text = detail.map(|d| format!("{d}\n")).unwrap_or_default();
        for line in page.browser().map(|b| b.console()).unwrap_or_default() {
            let _infallible = writeln!(text, "{}: {}", line.level, line.text);
        }
        if let Err(error) = self.write(&path("log"), text.as_bytes()) {
            tracing::warn!(%error, "the page's last words are not kept");
        }
        self.reserve();
    }
}

/// Writes a picture of the page as it is now, as JPEG. Whether that went well.
pub(super) fn write_snapshot(page: &Page, path: &Path) -> bool {
    let Some(picture) = page.display.snapshot() else { return false };
    still::write_jpeg(&picture, path)
        .inspect_err(|error| tracing::warn!(%error, "no picture of the page"))
        .is_ok()
}

/// Makes the folder, without what an earlier recording of the same name left there. How many occasions are in it: a folder with a log is
/// a service's, for this cast alone, and what is there is its own.
fn prepare_folder(folder: &Path) -> std::io::Result<u32> {
    fs::create_dir_all(folder)?;
    let files: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    let is = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
    if log_path(folder).exists() {
        return Ok(u32::try_from(files.iter().filter(|path| is(path, "png")).count()).unwrap_or(MAX_CAPTURES));
    }
    for path in files.iter().filter(|path| is(path, "png") || is(path, "log")) {
        fs::remove_file(path)?;
    }
    Ok(0)
}
