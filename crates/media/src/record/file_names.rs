//! Names of the files of a recording. Except for playlists, the content of a name never changes.

use std::path::{Path, PathBuf};

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
    pub(crate) fn init(&self, run: u32) -> String {
        match run {
            0 => format!("{}_init.mp4", self.stem),
            _ => format!("{}_init_{run}.mp4", self.stem),
        }
    }

    /// Recorded segment, fragmented MP4.
    pub(crate) fn segment(&self, index: u32) -> String {
        format!("{}_{index}.m4s", self.stem)
    }

    /// Segment as MPEG-TS.
    pub(crate) fn ts(&self, index: u32) -> String {
        format!("{}_{index}.ts", self.stem)
    }

    /// Finished MP4 file.
    pub(crate) fn mp4(&self, index: u32) -> String {
        format!("{}_{index}.mp4", self.stem)
    }

    /// Name of a thumbnail.
    pub(crate) fn thumbnail(&self, index: u32) -> String {
        format!("{}_{index}.jpg", self.stem)
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
            [names.mp4(0), names.playlist(), names.ts(7)],
            ["task_0.mp4", "task.m3u8", "task_7.ts"].map(str::to_owned)
        );
    }

    #[test]
    fn a_file_with_a_name_keeps_it() {
        let path = Path::new("a/my talk.v2.mp4");
        assert_eq!([numbered_path(path, 0), numbered_path(path, 1)], [path, Path::new("a/my talk.v2_1.mp4")]);
    }
}
