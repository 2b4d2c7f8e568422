//! Whether there is room for one more cast, by what the machine and the casts on it take. Told everything, so
//! it can be tested without a machine.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use pagecast_core::CastSpec;
use pagecast_fleet::{CastId, WorkerStatus};
use pagecast_media::disk::Space;

/// Cores that a cast of 1280x720 at 30 pictures a second is taken to need before any was measured.
const DEFAULT_CAST_CORES: f64 = 0.5;
/// The part of it that does not grow with the picture.
const FIXED_CPU_PART: f64 = 0.3;
/// Memory that a cast is taken to need before any was measured.
const DEFAULT_CAST_MEMORY_BYTES: f64 = 400e6;
/// Of a disk that is too small for what is to be left on it, this part is left: one in so many.
const SMALL_DISK_DIVISOR: u64 = 4;
/// A cast that runs for less is still starting: it counts with what is expected of it.
const STARTUP_TIME: Duration = Duration::from_secs(10);
/// How fast measurements take over what was believed before.
const SMOOTHING_FACTOR: f64 = 0.05;

/// A cast that was passed over for so long has room kept for it: long enough that most fit somewhere before,
/// short beside the minute that casts usually wait.
const RESERVE_AFTER: Duration = Duration::from_secs(10);
/// Room is kept for one cast for so long. If it does not come to fit in that time, those that run are long
/// ones, and the room is worth more to others: nobody waits longer than this because of another's cast.
const RESERVATION_TIMEOUT: Duration = Duration::from_secs(20);
/// Room is kept for the same cast again after so long.
const RESERVATION_COOLDOWN: Duration = Duration::from_secs(60);

/// How much of the machine casts may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Part of the cores; beyond 1, more is promised than there is.
    pub cpu_share: f64,
    /// Memory that is left to others, in bytes.
    pub reserved_memory_bytes: u64,
    /// Space that is left on each disk, in bytes. No cast is taken while one has less, unless all of it is so
    /// small that a quarter has to do.
    pub min_free_disk_bytes: u64,
    /// Most casts, whatever the machine could carry.
    pub max_casts: usize,
}

/// A cast that runs here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RunningCast {
    /// Since it was taken.
    pub(super) age: Duration,
    /// How much picture it has, compared to 1280x720 at 30.
    pub(super) relative_pixel_rate: f64,
    /// What it takes, once that was measured.
    pub(super) measured: Option<(f64, u64)>,
    /// Whether its page is gone, and only its recording is being stored.
    pub(super) is_uploading: bool,
}

/// Decides.
#[derive(Debug)]
pub(super) struct Admission {
    config: Config,
    worker_status: WorkerStatus,
    is_disk_full: bool,
    /// Cores of a cast of scale 1, and memory of one.
    cast_cores: f64,
    cast_memory_bytes: f64,
}

/// How much picture a cast has, compared to 1280x720 at 30.
pub(super) fn relative_pixel_rate(spec: &CastSpec) -> f64 {
    let size = spec.source.size;
    f64::from(size.width() * size.height()) * f64::from(spec.source.fps.get()) / f64::from(1280 * 720 * 30)
}

/// The part of what a cast of scale 1 takes that one of this scale does.
fn relative_cpu_cost(scale: f64) -> f64 {
    FIXED_CPU_PART + (1.0 - FIXED_CPU_PART) * scale
}

impl Admission {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            worker_status: WorkerStatus::default(),
            is_disk_full: false,
            cast_cores: DEFAULT_CAST_CORES,
            cast_memory_bytes: DEFAULT_CAST_MEMORY_BYTES,
        }
    }

    /// How the machine is.
    pub(super) fn set_worker_status(&mut self, load: &WorkerStatus) {
        self.worker_status = load.clone();
    }

    /// How much room the disks have.
    pub(super) fn set_disk_space(&mut self, disks: impl Iterator<Item = Space>) {
        let spare = self.config.min_free_disk_bytes;
        let short = |disk: &Space| disk.free_bytes < spare.min(disk.total_bytes / SMALL_DISK_DIVISOR);
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
    pub(super) fn update_estimates(&mut self, running: &[RunningCast]) {
        for cast in running.iter().filter(|cast| cast.age >= STARTUP_TIME && !cast.is_uploading) {
            let Some((cores, memory_bytes)) = cast.measured else { continue };
            self.cast_cores +=
                SMOOTHING_FACTOR * (cores / relative_cpu_cost(cast.relative_pixel_rate) - self.cast_cores);
            self.cast_memory_bytes += SMOOTHING_FACTOR * (memory_bytes as f64 - self.cast_memory_bytes);
        }
    }

    /// Why no cast can ever be taken here, if that is so: by what is known for certain. What a page takes of
    /// the cores is not: one cast is always possible.
    pub(super) fn never_fits_reason(&self) -> Option<String> {
        let all = self.worker_status.memory_bytes as f64;
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        // Before the first measurement nothing is known.
        (all > 0.0 && self.cast_memory_bytes > all).then(|| {
            let (wanted, all) = (mib(self.cast_memory_bytes), mib(all));
            format!("a cast takes about {wanted:.0} MiB of memory, and the whole machine has {all:.0} MiB")
        })
    }

    /// Whether a cast like this one would have room on this machine if others of its kind ended: whether it
    /// is worth keeping room for it. One that fits only alone would keep everybody away until all others have
    /// ended.
    pub(super) fn fits_empty_machine(&self, spec: &CastSpec) -> bool {
        self.cast_cores * relative_cpu_cost(relative_pixel_rate(spec))
            <= self.worker_status.cores * self.config.cpu_share
    }

    /// Whether a cast like this one can be taken beside those that run.
    pub(super) fn fits(&self, running: &[RunningCast], spec: &CastSpec) -> bool {
        // What runs must be able to finish: not even one more is possible.
        if self.is_disk_full {
            return false;
        }
        let expected = self.cast_cores * relative_cpu_cost(relative_pixel_rate(spec));
        // How much of what is in use is theirs, and how much of it they will still come to use.
        let (mut own, mut wanted, mut coming) = (0.0, expected, self.cast_memory_bytes);
        let pages = running.iter().filter(|cast| !cast.is_uploading);
        let alone = pages.clone().next().is_none();
        for cast in pages {
            let (cores, memory_bytes) = cast.measured.unwrap_or_default();
            let starting = cast.age < STARTUP_TIME;
            own += cores;
            wanted += if starting {
                cores.max(self.cast_cores * relative_cpu_cost(cast.relative_pixel_rate))
            } else {
                cores
            };
            coming += if starting { (self.cast_memory_bytes - memory_bytes as f64).max(0.0) } else { 0.0 };
        }
        let free = self.worker_status.memory_free_bytes as f64 - self.config.reserved_memory_bytes as f64;
        if coming > free {
            return false;
        }
        // What others do is not ours to wait for: one cast is always possible.
        let others = (self.worker_status.cores_used - own).max(0.0);
        alone || others + wanted <= self.worker_status.cores * self.config.cpu_share
    }
}

/// The queue as a node sees it: who was passed over since when, and for whom room is kept.
///
/// Without it large casts would wait for ever, since small ones take each bit of room that comes free.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    passed_over_since: HashMap<CastId, Instant>,
    /// For which cast, and until when.
    reserved: Option<(CastId, Instant)>,
    /// When room was last kept for a cast.
    last_reserved_at: HashMap<CastId, Instant>,
    /// Those asked about in this look.
    seen: HashSet<CastId>,
}

impl Reservations {
    /// Whether a cast of the queue is taken, `fits` if there is room for it. `may_reserve` says whether no
    /// other node has more room.
    pub(super) fn admits(
        &mut self,
        now: Instant,
        id: &CastId,
        fits: impl FnOnce() -> bool,
        may_reserve: impl FnOnce() -> bool,
    ) -> bool {
        self.seen.insert(id.clone());
        match &self.reserved {
            Some((_, until)) if now >= *until => self.reserved = None,
            Some((other, _)) if other != id => return false,
            _ => {}
        }
        if fits() {
            return true;
        }
        let since = *self.passed_over_since.entry(id.clone()).or_insert(now);
        let again = self
            .last_reserved_at
            .get(id)
            .is_none_or(|at| now >= *at + RESERVATION_TIMEOUT + RESERVATION_COOLDOWN);
        if self.reserved.is_none() && now >= since + RESERVE_AFTER && again && may_reserve() {
            self.reserved = Some((id.clone(), now + RESERVATION_TIMEOUT));
            self.last_reserved_at.insert(id.clone(), now);
        }
        false
    }

    /// All of the queue was asked about: what is known of others is forgotten. `taken` is the one that was
    /// taken, if one was; then others were perhaps not asked about.
    pub(super) fn end_scan(&mut self, taken: Option<&CastId>) {
        let asked = std::mem::take(&mut self.seen);
        if let Some(taken) = taken {
            self.forget(taken);
            return;
        }
        self.passed_over_since.retain(|id, _| asked.contains(id));
        self.last_reserved_at.retain(|id, _| asked.contains(id));
        if self.reserved.as_ref().is_some_and(|(id, _)| !asked.contains(id)) {
            self.reserved = None;
        }
    }

    fn forget(&mut self, id: &CastId) {
        self.passed_over_since.remove(id);
        self.last_reserved_at.remove(id);
        if self.reserved.as_ref().is_some_and(|(reserved, _)| reserved == id) {
            self.reserved = None;
        }
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
            reserved_memory_bytes: 500_000_000,
            min_free_disk_bytes: 2_000_000_000,
            max_casts: 100,
        });
        let load = WorkerStatus {
            cores,
            cores_used: used,
            memory_free_bytes: free_gb * 1_000_000_000,
            ..WorkerStatus::default()
        };
        admission.set_worker_status(&load);
        admission
    }

    fn running(age_s: u64, measured: Option<(f64, u64)>) -> RunningCast {
        RunningCast {
            age: Duration::from_secs(age_s),
            relative_pixel_rate: 1.0,
            measured,
            is_uploading: false,
        }
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
            admission.set_disk_space([large, Space { free_bytes, total_bytes }].into_iter());
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
    fn what_needs_more_memory_than_there_is_never_fits() {
        let mut admission = admission(2.0, 0.1, 8);
        assert_eq!(admission.never_fits_reason(), None, "the memory of the machine is not known");
        let load = |bytes| WorkerStatus { cores: 2.0, memory_bytes: bytes, ..WorkerStatus::default() };
        admission.set_worker_status(&load(700_000_000));
        assert_eq!(admission.never_fits_reason(), None, "it is in use at the moment, and will not always be");
        admission.set_worker_status(&load(200_000_000));
        let why = admission.never_fits_reason().unwrap();
        assert!(why.contains("381 MiB") && why.contains("191 MiB"), "{why}");
        assert!(
            !admission.fits_empty_machine(&spec(3840, 2160, 60))
                && admission.fits_empty_machine(&spec(1280, 720, 30))
        );
    }

    fn id(n: u8) -> CastId {
        CastId::new(1, [n; 10])
    }

    #[test]
    fn room_is_kept_for_one_that_waits_and_not_for_ever() {
        let (begin, s) = (Instant::now(), Duration::from_secs);
        let (mut queue, large, small) = (Reservations::default(), id(1), id(2));
        // A large cast that never comes to fit, and a small one that always would: who is taken at each
        // second.
        let mut look = |at: u64, may_reserve| {
            let now = begin + s(at);
            let taken = if queue.admits(now, &large, || false, || may_reserve) {
                Some(large.clone())
            } else {
                queue.admits(now, &small, || true, || may_reserve).then(|| small.clone())
            };
            queue.end_scan(taken.as_ref());
            taken.is_some()
        };
        let taken: Vec<bool> = (0..200).map(|at| look(at, true)).collect();
        let kept: Vec<usize> = (0..200).filter(|at| !taken[*at]).collect();
        let expected: Vec<usize> = (10..30).chain(90..110).chain(170..190).collect();
        assert_eq!(kept, expected);
        let mut queue = Reservations::default();
        for at in 0..100 {
            let now = begin + s(at);
            assert!(!queue.admits(now, &large, || false, || false));
            assert!(queue.admits(now, &small, || true, || false), "another node has more room");
            queue.end_scan(Some(&small));
        }
    }

    #[test]
    fn room_that_is_kept_goes_to_whom_it_is_kept_for() {
        let (begin, s) = (Instant::now(), Duration::from_secs);
        let (mut queue, large, small) = (Reservations::default(), id(1), id(2));
        for at in [0, 10] {
            assert!(!queue.admits(begin + s(at), &large, || false, || true));
            queue.end_scan(None);
        }
        assert!(
            !queue.admits(begin + s(11), &small, || true, || true),
            "others wait, whoever is asked about first"
        );
        assert!(queue.admits(begin + s(11), &large, || true, || true));
        queue.end_scan(Some(&large));
        assert!(queue.admits(begin + s(11), &small, || true, || true));
        queue.end_scan(Some(&small));
        // One that is not in the queue any more keeps nobody waiting.
        for at in [20, 31] {
            assert!(!queue.admits(begin + s(at), &large, || false, || true));
            queue.end_scan(None);
        }
        assert!(!queue.admits(begin + s(32), &small, || true, || true));
        queue.end_scan(None);
        assert!(queue.admits(begin + s(32), &small, || true, || true), "the large one was stopped");
        assert!(queue.passed_over_since.is_empty() && queue.last_reserved_at.is_empty());
    }

    #[test]
    fn it_learns() {
        let mut admission = admission(2.0, 1.5, 8);
        let busy = running(60, Some((1.5, 300_000_000)));
        for _ in 0..200 {
            admission.update_estimates(&[busy]);
        }
        assert!((admission.cast_cores - 1.5).abs() < 0.1 && (admission.cast_memory_bytes - 3e8).abs() < 1e7);
        admission.update_estimates(&[RunningCast { is_uploading: true, measured: Some((90.0, 0)), ..busy }]);
        assert!((admission.cast_cores - 1.5).abs() < 0.1);
    }
}
