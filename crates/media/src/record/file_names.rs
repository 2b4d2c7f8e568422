//! Names of the files of a recording. Except for playlists, the content of a name never changes.
//!
//! Names of what a later owner of the recording records contain its epoch, as in `NAME_r2_000017.m4s`: owners
//! do not know everything about each other, and must not write the same name.

use std::path::{Path, PathBuf};

use pagecast_core::ledger::FIRST_EPOCH;

/// Names of the files of one recording.
#[derive(Debug, Clone)]
pub(crate) struct FileNames {
    stem: String,
}

impl FileNames {
    /// Names like `stem_0.mp4` and `stem.m3u8`.
    pub(crate) fn new(stem: &str) -> Self {
        Self { stem: stem.to_owned() }
    }

    /// Initialization segment of a run.
    pub(crate) fn init(&self, epoch: u64, run: u32) -> String {
        match run {
            _ if epoch > FIRST_EPOCH => format!("{}_r{epoch}_init_{run}.mp4", self.stem),
            0 => format!("{}_init.mp4", self.stem),
            _ => format!("{}_init_{run}.mp4", self.stem),
        }
    }

    /// Recorded segment, fragmented MP4.
    pub(crate) fn segment(&self, epoch: u64, index: u32) -> String {
        self.numbered(epoch, index, "m4s")
    }

    /// Segment as MPEG-TS.
    pub(crate) fn ts(&self, epoch: u64, index: u32) -> String {
        self.numbered(epoch, index, "ts")
    }

    /// Finished MP4 file.
    pub(crate) fn mp4(&self, index: u32) -> String {
        format!("{}_{index}.mp4", self.stem)
    }

    /// MP4 file with what only the owner of this epoch has of file `index`.
    pub(crate) fn mp4_remainder(&self, epoch: u64, index: u32) -> String {
        format!("{}_r{epoch}_{index:06}.mp4", self.stem)
    }

    /// Index of the finished MP4 file with this name.
    pub(crate) fn mp4_index(&self, name: &str) -> Option<u32> {
        let name = name.strip_prefix(&self.stem)?.strip_prefix('_')?.strip_suffix(".mp4")?;
        match name.strip_prefix('r').and_then(|rest| rest.split_once('_')) {
            Some((epoch, index)) if epoch.parse::<u64>().is_ok() => index.parse().ok(),
            _ => name.parse().ok(),
        }
    }

    /// Name of a thumbnail.
    pub(crate) fn thumbnail(&self, epoch: u64, index: u32) -> String {
        self.numbered(epoch, index, "jpg")
    }

    fn numbered(&self, epoch: u64, index: u32, extension: &str) -> String {
        if epoch > FIRST_EPOCH {
            format!("{}_r{epoch}_{index:06}.{extension}", self.stem)
        } else {
            format!("{}_{index}.{extension}", self.stem)
        }
    }

    /// Playlist of the whole recording.
    pub(crate) fn playlist(&self) -> String {
        format!("{}.m3u8", self.stem)
    }

    /// Playlist of the last segments, for live viewers.
    pub(crate) fn live_playlist(&self) -> String {
        format!("{}_live.m3u8", self.stem)
    }

    /// Manifest, the list of all files.
    pub(crate) fn manifest(&self) -> String {
        format!("{}.json", self.stem)
    }
}

/// Path of file `index` of a recording to a single path: the first file has that path, others a number.
pub(crate) fn numbered_path(file: &Path, index: u32) -> PathBuf {
    if index == 0 {
        return file.to_owned();
    }
    let mut name = file.file_stem().unwrap_or_default().to_owned();
    name.push(format!("_{index}"));
    if let Some(ending) = file.extension() {
        name.push(".");
        name.push(ending);
    }
    file.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        let names = FileNames::new("task");
        assert_eq!(
            [names.mp4(0), names.playlist(), names.ts(1, 7), names.init(1, 0), names.thumbnail(1, 0)],
            ["task_0.mp4", "task.m3u8", "task_7.ts", "task_init.mp4", "task_0.jpg"].map(str::to_owned)
        );
        assert_eq!(names.mp4_index("task_12.mp4"), Some(12));
        assert_eq!([names.mp4_index("task_init.mp4"), names.mp4_index("task_r2_init_1.mp4")], [None, None]);
        assert_eq!(names.mp4_remainder(2, 3), "task_r2_000003.mp4");
        assert_eq!(names.mp4_index("task_r2_000003.mp4"), Some(3));
        assert_eq!(
            [names.segment(2, 17), names.init(12, 3), names.thumbnail(2, 0)],
            ["task_r2_000017.m4s", "task_r12_init_3.mp4", "task_r2_000000.jpg"].map(str::to_owned)
        );
    }

    #[test]
    fn a_file_with_a_name_keeps_it() {
        let path = Path::new("a/my talk.v2.mp4");
        assert_eq!([numbered_path(path, 0), numbered_path(path, 1)], [path, Path::new("a/my talk.v2_1.mp4")]);
    }
}
