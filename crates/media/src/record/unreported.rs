//! Finds segments that an earlier owner stored, but did not report: its ledger is some 100 ms behind, and as
//! far behind as the fleet's database was away when it was lost.
//!
//! A segment counts if its storage has it and the stored playlist lists it, with its length; or if the store
//! of the fleet has a copy, whose packets tell the length. What storages answer is bounded and checked.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pagecast_core::MediaTime;
use pagecast_core::ledger::{LedgerRow, Run, Segment, StoredIn};
use pagecast_core::spec::Recording;

use super::file_names::FileNames;
use super::ledger_import::storage_in_use;
use super::salvage::end_time;
use super::spool::SpoolConfig;
use super::upload::MAX_PLAYLIST_BYTES;
use crate::split_points::SplitPoints;
use crate::store::{Store, TransferConfig};

/// Names of the initialization segment and the segment that are read.
pub(super) const DRAFTS: [&str; 2] = ["init.part", "segment.part"];
/// Longest search: the recording waits for it.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(4);
/// Most segments that are found: those of a quarter of an hour.
const MAX_FOUND: u32 = 256;
/// Largest segment, in bytes: a minute at 100 Mbit/s.
const MAX_SEGMENT_BYTES: u64 = 750 << 20;
/// Longest segment, in seconds: ten times the longest that can be configured.
const MAX_SEGMENT_S: f64 = 600.0;

/// Returns the ledger of the earlier owners, with what they had stored beyond it. `folder` holds files during
/// the search.
pub(super) fn complete(config: &SpoolConfig, folder: &Path) -> Vec<LedgerRow> {
    let mut rows = config.earlier.clone();
    let Some(search) = Search::new(config, folder) else { return rows };
    // The caller may be a task of another runtime.
    let found = std::thread::scope(|scope| scope.spawn(|| search.run_to_end()).join().unwrap_or_default());
    if found.is_empty() {
        return rows;
    }
    tracing::info!(segments = found.len(), "found stored segments that were not reported");
    if found.iter().any(|row| matches!(row, LedgerRow::Segment { stored: Some(_), .. })) {
        // A playlist lists no segment before the initialization segment is stored.
        for row in &mut rows {
            if let LedgerRow::Run { run, init, .. } = row
                && run.index == search.run.index
            {
                *init = Some(search.storage);
            }
        }
    }
    rows.extend(found);
    rows
}

/// A search for segments behind the last one that was reported.
struct Search<'a> {
    config: &'a SpoolConfig,
    folder: &'a Path,
    names: FileNames,
    storage: StoredIn,
    /// The last run, and its initialization segment.
    run: Run,
    init: Option<Vec<u8>>,
    /// The last segment and its file, if there is one.
    last: Option<(Segment, Option<u32>)>,
}

impl<'a> Search<'a> {
    /// `None` if there is nothing to search for.
    fn new(config: &'a SpoolConfig, folder: &'a Path) -> Option<Self> {
        // Whatever was there before it may look like the recording.
        if config.recording.overwrite {
            return None;
        }
        let rows = &config.earlier;
        let runs = rows.iter().filter_map(|row| match row {
            LedgerRow::Run { run, init_segment, .. } => Some((*run, init_segment)),
            _ => None,
        });
        let (run, init_segment) = runs.max_by_key(|(run, _)| run.index)?;
        let init = init_segment.as_ref().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let segments = rows.iter().filter_map(|row| match row {
            LedgerRow::Segment { segment, file, .. } => Some((*segment, *file)),
            _ => None,
        });
        let count = segments.clone().count();
        let last = segments.max_by_key(|(segment, _)| segment.index);
        // Behind a gap, the places of segments are not known.
        if last.is_some_and(|(segment, _)| segment.index as usize + 1 != count) {
            return None;
        }
        let names = FileNames::new(&config.recording.name);
        Some(Self { config, folder, names, storage: storage_in_use(rows), run, init, last })
    }

    fn run_to_end(&self) -> Vec<LedgerRow> {
        let mut found = Vec::new();
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let search = async { tokio::time::timeout(SEARCH_TIMEOUT, self.search(&mut found)).await };
                if runtime.block_on(search).is_err() {
                    tracing::warn!("search for stored segments took too long");
                }
                runtime.shutdown_background();
            }
            Err(error) => tracing::warn!(%error, "cannot search for stored segments"),
        }
        found
    }

    async fn search(&self, found: &mut Vec<LedgerRow>) {
        let recording = &self.config.recording;
        let place =
            if self.storage == StoredIn::Backup { recording.backup.as_ref() } else { Some(&recording.to) };
        let storage = place.filter(|_| recording.format.has_hls()).and_then(|place| Store::open(place).ok());
        let listed = match &storage {
            Some(storage) => self.read_playlist(storage).await,
            None => HashMap::new(),
        };
        let fleet = self.config.store.as_ref().filter(|_| self.init.is_some());
        let fleet =
            fleet.and_then(|fleet| Some((fleet.open(TransferConfig::default()).ok()?, &fleet.folder)));
        let mut last = self.last;
        for _ in 0..MAX_FOUND {
            let next = self.next_after(last.map(|(segment, _)| segment));
            let mut segment = match &storage {
                Some(storage) => self.stored_segment(storage, &listed, next).await,
                None => None,
            };
            let (stored, mut copied) = (segment.map(|_| self.storage), false);
            if let Some((store, folder)) = &fleet {
                if segment.is_none() {
                    segment = self.copied_segment(store, folder, next).await;
                    copied = segment.is_some();
                } else if recording.format.is_ts() {
                    // MP4 files are made of the copy.
                    let name = self.names.segment(next.epoch, next.index);
                    let copy = store.head(&format!("{folder}/{name}")).await.ok().flatten();
                    copied = copy.is_some();
                    segment =
                        segment.map(|s| Segment { bytes: copy.map_or(s.bytes, |copy| copy.bytes), ..s });
                }
            }
            let Some(segment) = segment else { return };
            let file = match last {
                Some((before, file)) => self.file_of(&segment, &before, file),
                None => recording.format.has_mp4().then_some(0),
            };
            found.push(LedgerRow::Segment { segment, file, stored, copied });
            last = Some((segment, file));
        }
    }

    /// The next segment, of unknown length and size.
    fn next_after(&self, last: Option<Segment>) -> Segment {
        let (index, start) = last.map_or((0, MediaTime::ZERO), |s| (s.index + 1, s.start + s.duration));
        let (run, epoch) = (self.run.index, self.run.epoch);
        Segment { index, run, epoch, start, duration: MediaTime::ZERO, bytes: 0 }
    }

    /// Number of the MP4 file of a segment, as its recorder has split it.
    fn file_of(&self, segment: &Segment, before: &Segment, file: Option<u32>) -> Option<u32> {
        let splits = (self.run.tick > MediaTime::ZERO)
            .then(|| SplitPoints::new(self.config.recording.split, self.run.tick));
        let is_split = splits.is_some_and(|s| s.count_until(segment.start) > s.count_until(before.start));
        file.map(|file| file.saturating_add(u32::from(is_split)))
    }

    /// Lengths of the segments in the stored playlist, by name.
    async fn read_playlist(&self, storage: &Store) -> HashMap<String, MediaTime> {
        let name = object_name(&self.config.recording, &self.names.playlist());
        match storage.get(&name, MAX_PLAYLIST_BYTES).await {
            Ok(text) => parse_playlist(&String::from_utf8_lossy(&text.unwrap_or_default())),
            Err(error) => {
                tracing::debug!(error = crate::chain(&error), "cannot read the stored playlist");
                HashMap::new()
            }
        }
    }

    /// The segment, if the recording's storage has it and its playlist lists it.
    async fn stored_segment(
        &self,
        storage: &Store,
        listed: &HashMap<String, MediaTime>,
        segment: Segment,
    ) -> Option<Segment> {
        let (epoch, index) = (segment.epoch, segment.index);
        let name = match self.config.recording.format.is_ts() {
            true => self.names.ts(epoch, index),
            false => self.names.segment(epoch, index),
        };
        let duration = *listed.get(&name)?;
        let object = storage.head(&object_name(&self.config.recording, &name)).await.ok()??;
        let is_plausible = (1..=MAX_SEGMENT_BYTES).contains(&object.bytes);
        is_plausible.then_some(Segment { duration, bytes: object.bytes, ..segment })
    }

    /// The segment, if the store of the fleet has a copy that can be read.
    async fn copied_segment(&self, store: &Store, folder: &str, segment: Segment) -> Option<Segment> {
        let name = self.names.segment(segment.epoch, segment.index);
        let (init, copy) = (self.folder.join(DRAFTS[0]), self.folder.join(DRAFTS[1]));
        fs::write(&init, self.init.as_ref()?).ok()?;
        let file = File::create(&copy).ok()?;
        let downloaded = store.download(&format!("{folder}/{name}"), file, MAX_SEGMENT_BYTES).await;
        let bytes = downloaded.ok().flatten().filter(|bytes| *bytes <= MAX_SEGMENT_BYTES);
        let end = bytes.and_then(|_| end_time(&init, &copy).ok());
        for path in [&init, &copy] {
            // The next search overwrites it.
            let _ignored = fs::remove_file(path);
        }
        let duration = end? - segment.start;
        let is_plausible = (1e-3..=MAX_SEGMENT_S).contains(&duration.as_secs_f64());
        is_plausible.then_some(Segment { duration, bytes: bytes?, ..segment })
    }
}

fn object_name(recording: &Recording, name: &str) -> String {
    format!("{}/{name}", recording.name)
}

/// Lengths of the segments of a playlist, by name. What is not plausible is left out.
fn parse_playlist(text: &str) -> HashMap<String, MediaTime> {
    let mut segments = HashMap::new();
    let mut seconds: Option<f64> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("#EXTINF:") {
            seconds = rest.split(',').next().and_then(|number| number.parse().ok());
        } else if !line.starts_with('#')
            && let Some(seconds) = seconds.take().filter(|s| (1e-3..=MAX_SEGMENT_S).contains(s))
        {
            segments.insert(line.to_owned(), MediaTime((seconds * 1e9).round() as i64));
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_playlist_is_read_with_care() {
        let text = "#EXTM3U\n#EXT-X-MAP:URI=\"a_init.mp4\"\n#EXTINF:4.000000,\na_0.m4s\n#EXTINF:0.033333,x\n\
                    a_1.m4s\na_2.m4s\n#EXTINF:1e9,\na_3.m4s\n#EXTINF:NaN,\na_4.m4s\n#EXTINF:-1,\na_5.m4s\n\
                    #EXTINF:,\na_6.m4s\n#EXTINF:2";
        let segments = parse_playlist(text);
        let mut found: Vec<_> = segments.iter().map(|(name, length)| (name.as_str(), length.0)).collect();
        found.sort_unstable();
        assert_eq!(found, [("a_0.m4s", 4_000_000_000), ("a_1.m4s", 33_333_000)]);
        assert!(parse_playlist("\u{0}\u{fffd}#EXTINF").is_empty());
    }
}
