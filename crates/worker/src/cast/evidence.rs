//! What is kept when something is wrong with a page: a picture of it, and its last words.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use pagecast_core::cast::Trouble;
use pagecast_media::still;
use pagecast_page::Page;

use crate::process::heard::file_in;

/// Occasions kept of a cast; what is wrong for a whole day is the same all day.
const MAX_OCCASIONS: u32 = 50;

/// A folder, made when it is needed.
#[derive(Debug)]
pub(super) struct Evidence {
    folder: Option<PathBuf>,
    occasions: u32,
}

impl Evidence {
    /// Kept in this folder, or not at all.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, occasions: 0 }
    }

    /// The folder, if anything is in it.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        self.folder.clone().filter(|_| self.occasions > 0)
    }

    /// Keeps `NN-trouble.png` and `NN-trouble.log`. A cast goes on without them.
    pub(super) fn keep(&mut self, trouble: Trouble, detail: Option<&str>, page: &Page) {
        let Some(folder) = &self.folder else { return };
        if self.occasions >= MAX_OCCASIONS {
            return;
        }
        if self.occasions == 0 {
            match clear(folder) {
                Ok(there) => self.occasions = there,
                Err(error) => {
                    tracing::warn!(%error, folder = %folder.display(), "no evidence can be kept");
                    self.folder = None;
                    return;
                }
            }
        }
        self.occasions += 1;
        let name = serde_json::to_value(trouble).ok();
        let name = name.as_ref().and_then(|n| n.as_str()).unwrap_or("trouble");
        let path = |ending: &str| folder.join(format!("{:02}-{name}.{ending}", self.occasions));
        if let Some(picture) = page.display.snapshot()
            && let Err(error) = still::write(&picture, &path("png"))
        {
            tracing::warn!(%error, "a picture of the page is not kept");
        }
        let mut text = detail.map(|d| format!("{d}\n")).unwrap_or_default();
        for line in page.browser().map(|b| b.console()).unwrap_or_default() {
            let _infallible = writeln!(text, "{}: {}", line.level, line.text);
        }
        if let Err(error) = fs::write(path("log"), text) {
            tracing::warn!(%error, "the page's last words are not kept");
        }
    }
}

/// Writes a picture of the page as it is now, as JPEG. Whether that went well.
pub(super) fn snapshot(page: &Page, path: &Path) -> bool {
    let Some(picture) = page.display.snapshot() else { return false };
    still::write_jpeg(&picture, path)
        .inspect_err(|error| tracing::warn!(%error, "no picture of the page"))
        .is_ok()
}

/// Makes the folder, without what an earlier recording of the same name left there. How many occasions are in it: a folder with a log is
/// a service's, for this cast alone, and what is there is its own.
fn clear(folder: &Path) -> std::io::Result<u32> {
    fs::create_dir_all(folder)?;
    let files: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    let is = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
    if file_in(folder).exists() {
        return Ok(
            u32::try_from(files.iter().filter(|path| is(path, "png")).count()).unwrap_or(MAX_OCCASIONS)
        );
    }
    for path in files.iter().filter(|path| is(path, "png") || is(path, "log")) {
        fs::remove_file(path)?;
    }
    Ok(0)
}
