//! `pagecast recover`: finishes and uploads the recordings left in spools.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use pagecast_core::error_text::io_reason;
use pagecast_core::spec::StorageKeys;
use pagecast_worker::cast::{self, CastEvent, UploadState};

use crate::error::CommandError;
use crate::record::stop_on_signals;
use crate::{cli, console};

/// Files that every spool has.
const SPOOL_FILES: [&str; 2] = ["recording.json", "recorded.log"];
/// How many folders deep the search for spools goes: deeper than people and services nest them.
const MAX_SEARCH_DEPTH: usize = 12;
/// Most folders searched, so that a whole disk takes seconds rather than hours.
const MAX_SEARCHED_FOLDERS: usize = 100_000;

pub(crate) fn run(args: &cli::RecoverArgs) -> Result<ExitCode, CommandError> {
    if !args.folder.is_dir() {
        return Err(CommandError::invalid_value(anyhow!("{} is not a folder", args.folder.display())));
    }
    let spools = find_spools(&args.folder);
    if spools.is_empty() {
        console::print_message(&format!("nothing to recover in {}", args.folder.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_on_signals();
    let keys = vod_keys();
    let mut failed = None;
    for spool in spools {
        let on_event = |event| {
            if let CastEvent::Upload(status) = event {
                let problem = status.problem.map(|problem| format!(": {problem}")).unwrap_or_default();
                let state = if status.state == UploadState::Uploading {
                    "uploading"
                } else {
                    "waiting for the storage"
                };
                console::print_message(&format!("{state}, {} files left{problem}", status.pending));
            }
        };
        match cast::recover(&spool, keys.as_ref(), args.upload_timeout, &stop, on_event) {
            Ok(upload) if args.json => {
                console::print_result(
                    &serde_json::to_string(&upload).context("cannot write the result as JSON")?,
                );
            }
            Ok(upload) if upload.files.is_empty() => {
                console::print_message(&format!("{}  empty spool", spool.display()));
            }
            Ok(upload) => {
                console::print_message(&format!(
                    "{}  {:.1} s",
                    console::output_location(&upload),
                    upload.duration.as_secs_f64()
                ));
            }
            // The other spools are still recovered.
            Err(error) => {
                if let Some(earlier) = failed.replace(CommandError::from(error)) {
                    console::print_message(&format!("error: {earlier}"));
                }
            }
        }
        if stop.is_requested() {
            break;
        }
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Reads the keys of video on demand from the environment variables that Tencent's own tools use.
fn vod_keys() -> Option<StorageKeys> {
    let read = |name| std::env::var(name).ok();
    Some(StorageKeys::new(&read("TENCENTCLOUD_SECRET_ID")?, &read("TENCENTCLOUD_SECRET_KEY")?))
}

/// Finds spools: this folder itself, or those below it, sorted.
fn find_spools(folder: &Path) -> Vec<PathBuf> {
    if SPOOL_FILES.map(|name| folder.join(name)).iter().any(|file| file.exists()) {
        return vec![folder.to_owned()];
    }
    let (mut found, mut seen) = (Vec::new(), 0);
    let mut todo = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = todo.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                console::print_message(&format!("cannot search {}: {}", folder.display(), io_reason(&error)));
                continue;
            }
        };
        // Links are not followed: they could form a circle.
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for path in folders.map(|entry| entry.path()) {
            seen += 1;
            if SPOOL_FILES.iter().all(|name| path.join(name).exists()) {
                found.push(path);
            } else if depth < MAX_SEARCH_DEPTH && seen < MAX_SEARCHED_FOLDERS {
                todo.push((path, depth + 1));
            } else {
                console::print_message(&format!(
                    "skipped: {}, too deep or too many folders, pass it as FOLDER",
                    path.display()
                ));
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn spools_are_found_below_a_folder() {
        let root = std::env::temp_dir().join(format!("pagecast-recover-{}", std::process::id()));
        let spool = |name: &str| {
            let folder = root.join(name);
            fs::create_dir_all(&folder).unwrap();
            SPOOL_FILES.iter().for_each(|file| fs::write(folder.join(file), "").unwrap());
            folder
        };
        fs::create_dir_all(root.join("empty/folder")).unwrap();
        assert!(find_spools(&root).is_empty());
        let deep = spool(&"d/".repeat(MAX_SEARCH_DEPTH));
        let _deeper = spool(&"e/".repeat(MAX_SEARCH_DEPTH + 2));
        let (near, week) = (spool("a.mp4.spool"), spool("2026/week 48/b.spool"));
        // A file of the same name that is not of a spool.
        fs::create_dir_all(root.join("other")).unwrap();
        fs::write(root.join("other/recording.json"), "{}").unwrap();
        // A link that forms a circle.
        std::os::unix::fs::symlink(&root, root.join("2026/round")).unwrap();
        assert_eq!(find_spools(&root), [week.clone(), near.clone(), deep]);
        assert_eq!(find_spools(&near), [near]);
        assert_eq!(find_spools(&root.join("2026")), [week]);
        fs::remove_dir_all(&root).unwrap();
    }
}
