//! Where recordings are kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a recording is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// One MP4 file.
    File(PathBuf),
    /// A folder of this machine.
    Folder(PathBuf),
}
