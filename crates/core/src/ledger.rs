//! Ledger of a recording: what was recorded, and what of it is stored. Whoever continues a recording without
//! the spool of its earlier owner starts from the ledger.

use serde::{Deserialize, Serialize};

use crate::MediaTime;

/// Epoch of the first owner of a recording, and of every recording outside of a fleet.
pub const FIRST_EPOCH: u64 = 1;

/// One run: the time of one encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Number within the recording, from 0.
    pub index: u32,
    /// Epoch of its owner.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub epoch: u64,
    /// Time of day at zero of the recording, extrapolated from this run, in ms since 1970.
    pub unix_ms: i64,
    /// Interval of pictures or audio frames. Zero in spools of versions that did not cut segments at split
    /// points.
    #[serde(default)]
    pub tick: MediaTime,
}

/// A recorded segment. The first one starts at zero, each other one at the end of the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Number within the recording, from 0.
    pub index: u32,
    /// Its run.
    pub run: u32,
    /// Epoch of its owner. Names of files contain it, so that two owners never write the same name.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub epoch: u64,
    /// Time in the recording.
    pub start: MediaTime,
    /// Length of the segment.
    pub duration: MediaTime,
    /// Size in bytes.
    pub bytes: u64,
}

/// A recorded thumbnail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thumbnail {
    /// Number within the recording, from 0.
    pub index: u32,
    /// Epoch of its owner.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub epoch: u64,
    /// Time in the recording.
    pub at: MediaTime,
    /// Size in bytes.
    pub bytes: u64,
}

/// A file of a recording that players open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// File name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Time of day at its start, in ms since 1970.
    pub start_unix_ms: i64,
    /// Time of day at its end, in ms since 1970.
    pub end_unix_ms: i64,
    /// Id of the asset in video on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    /// Playback address in video on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Storage that has confirmed a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredIn {
    /// The recording's storage.
    Storage,
    /// The recording's backup.
    Backup,
}

/// A row of the ledger. A later row with the same [key](Self::key) replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LedgerRow {
    /// A run started.
    Run {
        /// The run.
        run: Run,
        /// Storage of its initialization segment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        init: Option<StoredIn>,
        /// Node that recorded it, whose spool has what is not stored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Its initialization segment in base64, if the fleet has a store: players and muxers need it with
        /// each segment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        init_segment: Option<String>,
    },
    /// A segment is complete.
    Segment {
        /// The segment.
        segment: Segment,
        /// Number of the MP4 file that it belongs to, if there are such files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<u32>,
        /// Storage of the segment itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stored: Option<StoredIn>,
        /// Whether the store of the fleet has a copy.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        copied: bool,
    },
    /// A thumbnail was taken.
    Thumbnail {
        /// The thumbnail.
        thumbnail: Thumbnail,
        /// Storage of the thumbnail.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stored: Option<StoredIn>,
    },
    /// An MP4 file is stored.
    File {
        /// Number within the recording, from 0.
        index: u32,
        /// The file.
        file: RecordedFile,
        /// Storage of the file.
        stored: StoredIn,
    },
}

impl LedgerRow {
    /// Kind of the row (0 run, 1 segment, 2 thumbnail, 3 file), and its number within the kind.
    #[must_use]
    pub fn key(&self) -> (u8, u32) {
        match self {
            Self::Run { run, .. } => (0, run.index),
            Self::Segment { segment, .. } => (1, segment.index),
            Self::Thumbnail { thumbnail, .. } => (2, thumbnail.index),
            Self::File { index, .. } => (3, *index),
        }
    }

    /// Epoch of the owner that recorded it; `None` for a file, which may be made of several owners' segments.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        match self {
            Self::Run { run, .. } => Some(run.epoch),
            Self::Segment { segment, .. } => Some(segment.epoch),
            Self::Thumbnail { thumbnail, .. } => Some(thumbnail.epoch),
            Self::File { .. } => None,
        }
    }
}

fn first_epoch() -> u64 {
    FIRST_EPOCH
}

fn is_first_epoch(epoch: &u64) -> bool {
    *epoch == FIRST_EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_earlier_versions_belong_to_the_first_owner() {
        let text = r#"{"index":3,"run":1,"start":12000000000,"duration":4000000000,"bytes":9}"#;
        let segment: Segment = serde_json::from_str(text).unwrap();
        assert_eq!((segment.index, segment.epoch), (3, FIRST_EPOCH));
        assert_eq!(serde_json::to_string(&segment).unwrap(), text);
    }
}
