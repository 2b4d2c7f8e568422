//! History of a cast's statistics: samples in a file beside its evidence, which is readable through other
//! nodes and copied to the fleet's store as evidence is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

use pagecast_fleet::{CastStats, UnixMs, stats_history_name};

/// Time between two samples in the beginning, in milliseconds: what a page does in between is in the events.
const FIRST_INTERVAL_MS: UnixMs = 5000;
/// Most samples in the file, some 300 bytes each. Then every second one is removed, and the interval doubles:
/// a day has a sample every 80 s.
const MAX_SAMPLES: usize = 1000;

/// The file of one owner of a cast.
#[derive(Debug)]
pub(super) struct StatsHistory {
    path: PathBuf,
    interval_ms: UnixMs,
    last_ms: Option<UnixMs>,
    samples: usize,
}

impl StatsHistory {
    /// The history in this folder, which is created with the first sample.
    pub(super) fn new(folder: PathBuf, epoch: u64) -> Self {
        let path = folder.join(stats_history_name(epoch));
        Self { path, interval_ms: FIRST_INTERVAL_MS, last_ms: None, samples: 0 }
    }

    /// Adds a sample, if the last one is old enough. What cannot be written is missing in the history.
    pub(super) fn add(&mut self, stats: &CastStats) {
        let is_due = self.last_ms.is_none_or(|last| (stats.at_ms - last).abs() >= self.interval_ms);
        if !is_due {
            return;
        }
        self.last_ms = Some(stats.at_ms);
        if let Err(error) = self.write(stats) {
            tracing::debug!(%error, "sample of statistics not written");
        }
    }

    fn write(&mut self, stats: &CastStats) -> io::Result<()> {
        if self.samples >= MAX_SAMPLES {
            self.remove_every_second()?;
        }
        // Errors and states are in the events.
        let sample = CastStats { upload_error: None, pushes: Vec::new(), ..stats.clone() };
        let mut line = serde_json::to_vec(&sample)?;
        line.push(b'\n');
        let open = || OpenOptions::new().append(true).create(true).open(&self.path);
        let mut file = open().or_else(|_| {
            self.path.parent().map(fs::create_dir_all).transpose()?;
            open()
        })?;
        self.samples += 1;
        file.write_all(&line)
    }

    fn remove_every_second(&mut self) -> io::Result<()> {
        let lines = fs::read_to_string(&self.path)?;
        let kept: Vec<&str> = lines.lines().step_by(2).collect();
        let draft = self.path.with_extension("draft");
        let mut file = File::create(&draft)?;
        file.write_all((kept.join("\n") + "\n").as_bytes())?;
        fs::rename(&draft, &self.path)?;
        self.samples = kept.len();
        self.interval_ms *= 2;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_of_a_long_cast_has_fewer_samples() {
        let folder = std::env::temp_dir().join(format!("pagecast-stats-history-{}", std::process::id()));
        let mut history = StatsHistory::new(folder.join("cast"), 3);
        // Ten hours, with a report each second.
        for second in 0..36_000 {
            let stats = CastStats { at_ms: second * 1000, fps: 30.0, ..CastStats::default() };
            history.add(&stats);
        }
        let content = fs::read_to_string(folder.join("cast/stats-3.jsonl")).unwrap();
        let samples: Vec<CastStats> =
            content.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!((MAX_SAMPLES / 2..=MAX_SAMPLES).contains(&samples.len()), "{}", samples.len());
        assert_eq!(samples[0].at_ms, 0);
        assert!(samples.last().unwrap().at_ms > 35_900_000);
        let gaps = samples.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms);
        assert!(gaps.max().unwrap() <= 2 * history.interval_ms, "the samples are evenly spread");
        assert_eq!(fs::read_dir(folder.join("cast")).unwrap().count(), 1, "no draft is left");
        fs::remove_dir_all(folder).unwrap();
    }
}
