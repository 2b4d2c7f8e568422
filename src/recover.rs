//! `pagecast recover`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use pagecast_core::spec::Keys;
use pagecast_worker::cast::{self, DeliveryState, News};

use crate::failure::Failure;
use crate::record::stop_by_signals;
use crate::{cli, screen};

pub(crate) fn run(args: &cli::Recover) -> Result<ExitCode, Failure> {
    let stop = stop_by_signals();
    let keys = keys_of_vod();
    let mut failed = None;
    for spool in spools(&args.folder) {
        let tell = |news| {
            if let News::Delivery(status) = news {
                let problem = status.problem.map(|problem| format!(": {problem}")).unwrap_or_default();
                let state =
                    if status.state == DeliveryState::Uploading { "storing" } else { "waiting for storage" };
                screen::say(&format!("{state}, {} files to go{problem}", status.pending));
            }
        };
        match cast::recover(&spool, keys.as_ref(), args.storage_patience, &stop, tell) {
            Ok(delivered) if args.json => {
                screen::print(
                    &serde_json::to_string(&delivered).context("the result cannot be written as JSON")?,
                );
            }
            Ok(delivered) if delivered.files.is_empty() => {
                screen::say(&format!("{}  held nothing", spool.display()));
            }
            Ok(delivered) => {
                screen::say(&format!(
                    "{}  {:.1} s",
                    screen::place(&delivered),
                    delivered.duration.as_secs_f64()
                ));
            }
            // The others are still tried.
            Err(error) => {
                if let Some(earlier) = failed.replace(Failure::from(error)) {
                    screen::say(&format!("error: {earlier}"));
                }
            }
        }
        if stop.asked() {
            break;
        }
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Those that Tencent's own programs take from the environment.
fn keys_of_vod() -> Option<Keys> {
    let read = |name| std::env::var(name).ok();
    Some(Keys::new(&read("TENCENTCLOUD_SECRET_ID")?, &read("TENCENTCLOUD_SECRET_KEY")?))
}

/// This spool, or those in this folder.
fn spools(folder: &Path) -> Vec<PathBuf> {
    let is_spool = |path: &Path| path.join("recording.json").exists();
    let inside = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = inside.filter(|path| is_spool(path)).collect();
    if is_spool(folder) || found.is_empty() {
        return vec![folder.to_owned()];
    }
    found.sort();
    found
}
