//! Whether there is room for one more cast, by what the machine and the casts on it take. Told everything, so it can be tested
//! without a machine.

use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_fleet::Load;
use pagecast_media::disk::Space;

/// Cores that a cast of 1280x720 at 30 pictures a second is taken to need before any was measured.
const CORES: f64 = 0.5;
/// The part of it that does not grow with the picture.
const BASE: f64 = 0.3;
/// Memory that a cast is taken to need before any was measured.
const MEMORY_BYTES: f64 = 400e6;
/// Of a disk that is too small for what is to be left on it, this part is left: one in so many.
const SMALL_DISK_PART: u64 = 4;
/// A cast that runs for less is still starting: it counts with what is expected of it.
const STARTING: Duration = Duration::from_secs(10);
/// How fast measurements take over what was believed before.
const LEARNING: f64 = 0.05;

/// How much of the machine casts may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Part of the cores; beyond 1, more is promised than there is.
    pub cpu_share: f64,
    /// Memory that is left to others, in bytes.
    pub spare_memory_bytes: u64,
    /// Space that is left on each disk, in bytes. No cast is taken while one has less, unless all of it is so
    /// small that a quarter has to do.
    pub spare_disk_bytes: u64,
    /// Most casts, whatever the machine could carry.
    pub max: usize,
}

/// A cast that runs here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Running {
    /// Since it was taken.
    pub(super) age: Duration,
    /// How much picture it has, compared to 1280x720 at 30.
    pub(super) scale: f64,
    /// What it takes, once that was measured.
    pub(super) measured: Option<(f64, u64)>,
    /// Whether its page is gone, and only its recording is being stored.
    pub(super) is_over: bool,
}

/// Decides.
#[derive(Debug)]
pub(super) struct Admission {
    config: Config,
    load: Load,
    is_disk_full: bool,
    /// Cores of a cast of scale 1, and memory of one.
    cores: f64,
    memory: f64,
}

/// How much picture a cast has, compared to 1280x720 at 30.
pub(super) fn scale(spec: &CastSpec) -> f64 {
    let size = spec.source.size;
    f64::from(size.width() * size.height()) * f64::from(spec.source.fps.get()) / f64::from(1280 * 720 * 30)
}

/// The part of what a cast of scale 1 takes that one of this scale does.
fn part(scale: f64) -> f64 {
    BASE + (1.0 - BASE) * scale
}

impl Admission {
    pub(super) fn new(config: Config) -> Self {
        Self { config, load: Load::default(), is_disk_full: false, cores: CORES, memory: MEMORY_BYTES }
    }

    /// How the machine is.
    pub(super) fn note(&mut self, load: &Load) {
        self.load = load.clone();
    }

    /// How much room the disks have.
    pub(super) fn note_disks(&mut self, disks: impl Iterator<Item = Space>) {
        let spare = self.config.spare_disk_bytes;
        let short = |disk: &Space| disk.free_bytes < spare.min(disk.total_bytes / SMALL_DISK_PART);
        let full = disks.into_iter().find(short);
        match (std::mem::replace(&mut self.is_disk_full, full.is_some()), full) {
            (false, Some(Space { free_bytes, .. })) => {
                tracing::warn!(free_bytes, "a disk is nearly full: no more casts are begun");
            }
            (true, None) => tracing::info!("all disks have room again: casts are begun"),
            _ => {}
        }
    }

    /// Learns what casts take.
    pub(super) fn learn(&mut self, running: &[Running]) {
        for cast in running.iter().filter(|cast| cast.age >= STARTING && !cast.is_over) {
            let Some((cores, memory_bytes)) = cast.measured else { continue };
            self.cores += LEARNING * (cores / part(cast.scale) - self.cores);
            self.memory += LEARNING * (memory_bytes as f64 - self.memory);
        }
    }

    /// Whether a cast like this one can be taken beside those that run.
    pub(super) fn fits(&self, running: &[Running], spec: &CastSpec) -> bool {
        // What runs must be able to finish: not even one more is possible.
        if self.is_disk_full {
            return false;
        }
        let expected = self.cores * part(scale(spec));
        // How much of what is in use is theirs, and how much of it they will still come to use.
        let (mut own, mut wanted, mut coming) = (0.0, expected, self.memory);
        let pages = running.iter().filter(|cast| !cast.is_over);
        let alone = pages.clone().next().is_none();
        for cast in pages {
            let (cores, memory_bytes) = cast.measured.unwrap_or_default();
            let starting = cast.age < STARTING;
            own += cores;
            wanted += if starting { cores.max(self.cores * part(cast.scale)) } else { cores };
            coming += if starting { (self.memory - memory_bytes as f64).max(0.0) } else { 0.0 };
        }
        let free = self.load.memory_free_bytes as f64 - self.config.spare_memory_bytes as f64;
        if coming > free {
            return false;
        }
        // What others do is not ours to wait for: one cast is always possible.
        let others = (self.load.cores_used - own).max(0.0);
        alone || others + wanted <= self.load.cores * self.config.cpu_share
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::Fps;
    use pagecast_core::spec::{Size, Source, SourceUrl};

    use super::*;

    fn spec(width: u32, height: u32, fps: u32) -> CastSpec {
        let source = Source::new(SourceUrl::parse("http://a/").unwrap());
        let (size, fps) = (Size::new(width, height).unwrap(), Fps::new(fps).unwrap());
        CastSpec::new(Source { size, fps, ..source })
    }

    fn admission(cores: f64, used: f64, free_gb: u64) -> Admission {
        let mut admission = Admission::new(Config {
            cpu_share: 0.9,
            spare_memory_bytes: 500_000_000,
            spare_disk_bytes: 2_000_000_000,
            max: 100,
        });
        let load =
            Load { cores, cores_used: used, memory_free_bytes: free_gb * 1_000_000_000, ..Load::default() };
        admission.note(&load);
        admission
    }

    fn running(age_s: u64, measured: Option<(f64, u64)>) -> Running {
        Running { age: Duration::from_secs(age_s), scale: 1.0, measured, is_over: false }
    }

    #[test]
    fn what_is_measured_counts() {
        let hd = spec(1280, 720, 30);
        let cheap = vec![running(60, Some((0.05, 300_000_000))); 20];
        assert!(admission(2.0, 1.0, 8).fits(&cheap, &hd), "twenty pages that rest are no load");
        let dear = vec![running(60, Some((0.7, 300_000_000))); 2];
        assert!(!admission(2.0, 1.4, 8).fits(&dear, &hd));
        assert!(admission(4.0, 1.4, 8).fits(&dear, &hd));
        assert!(admission(2.0, 1.9, 8).fits(&[], &hd), "others' work keeps no first cast away");
        assert!(!admission(2.0, 1.9, 8).fits(&cheap, &hd), "but a second one");
    }

    #[test]
    fn those_that_start_count_with_what_is_expected() {
        let hd = spec(1280, 720, 30);
        let starting = |n| vec![running(1, None); n];
        let fits = |n| admission(2.0, 0.1, 8).fits(&starting(n), &hd);
        assert_eq!((0..5).map(fits).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert!(!admission(2.0, 0.1, 8).fits(&starting(1), &spec(1920, 1080, 60)), "a large one needs more");
    }

    #[test]
    fn nothing_is_taken_while_the_disk_is_nearly_full() {
        let hd = spec(1280, 720, 30);
        let mut admission = admission(2.0, 0.1, 8);
        assert!(admission.fits(&[], &hd), "as long as nobody has looked");
        let mut fits = |free_bytes, total_bytes| {
            let large = Space { free_bytes: 50_000_000_000, total_bytes: 100_000_000_000 };
            admission.note_disks([large, Space { free_bytes, total_bytes }].into_iter());
            admission.fits(&[], &hd)
        };
        assert!(!fits(1_999_999_999, 100_000_000_000) && fits(2_000_000_000, 100_000_000_000));
        assert!(fits(250_000_000, 1_000_000_000) && !fits(249_999_999, 1_000_000_000), "it is small");
    }

    #[test]
    fn memory_is_left_to_others() {
        let hd = spec(1280, 720, 30);
        assert!(admission(2.0, 0.0, 1).fits(&[], &hd));
        assert!(!admission(2.0, 0.0, 1).fits(&[running(1, None)], &hd), "both will need theirs");
        let settled = running(60, Some((0.1, 400_000_000)));
        assert!(admission(2.0, 0.1, 1).fits(&[settled], &hd), "its memory is not free any more");
        assert!(!admission(2.0, 0.0, 0).fits(&[], &hd));
    }

    #[test]
    fn it_learns() {
        let mut admission = admission(2.0, 1.5, 8);
        let busy = running(60, Some((1.5, 300_000_000)));
        for _ in 0..200 {
            admission.learn(&[busy]);
        }
        assert!((admission.cores - 1.5).abs() < 0.1 && (admission.memory - 3e8).abs() < 1e7);
        admission.learn(&[Running { is_over: true, measured: Some((90.0, 0)), ..busy }]);
        assert!((admission.cores - 1.5).abs() < 0.1);
    }
}
