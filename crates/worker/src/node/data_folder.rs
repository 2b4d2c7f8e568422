//! The data folder of a node: where it keeps the files of its casts, by their ids.

use std::io;
use std::path::{Path, PathBuf};

use pagecast_fleet::CastId;

use crate::cast::CastPaths;

/// Subfolders that casts and users expect to exist.
const SUBFOLDERS: [&str; 5] = ["spool", "receipts", "evidence", "scratch", "recordings"];

/// The data folder of a node.
#[derive(Debug, Clone)]
pub(super) struct DataFolder(PathBuf);

impl DataFolder {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Creates the subfolders.
    ///
    /// # Errors
    /// The first subfolder that could not be created.
    pub(super) fn create(&self) -> Result<(), (PathBuf, io::Error)> {
        let mut folders = SUBFOLDERS.iter().map(|name| self.0.join(name));
        folders.try_for_each(|folder| std::fs::create_dir_all(&folder).map_err(|error| (folder, error)))
    }

    /// Returns where the files of a cast are.
    pub(super) fn cast_paths(&self, id: &CastId) -> CastPaths {
        CastPaths {
            spool: self.spools().join(id.as_str()),
            receipt: Some(self.receipts().join(id.as_str()).with_extension("json")),
            evidence: Some(self.evidence().join(id.as_str())),
        }
    }

    /// Returns the folder of the spools of all casts.
    pub(super) fn spools(&self) -> PathBuf {
        self.0.join("spool")
    }

    /// Returns the folder of the receipts of all casts.
    pub(super) fn receipts(&self) -> PathBuf {
        self.0.join("receipts")
    }

    /// Returns the folder of the evidence and logs of all casts, one subfolder for each, named by its id.
    pub(super) fn evidence(&self) -> PathBuf {
        self.0.join("evidence")
    }

    /// Returns the file for a snapshot of a cast until it is sent to the fleet.
    pub(super) fn snapshot(&self, id: &CastId) -> PathBuf {
        self.0.join("scratch").join(format!("{id}.jpg"))
    }

    /// Returns a path of the cast's description as a path of this machine: relative ones are below the data
    /// folder.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        self.0.join(path)
    }
}
