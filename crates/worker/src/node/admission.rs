//! Admission: decides by measured CPU, memory and disk whether one more cast fits on this machine. Sans-IO:
//! all measurements are passed in.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use pagecast_fleet::{CastId, WorkerStatus};
use pagecast_media::disk::Space;

/// Estimated cores of a cast of 1280x720 at 30 fps, before any was measured.
const DEFAULT_CAST_CORES: f64 = 0.5;
/// Estimated memory of a cast, in bytes, before any was measured.
const DEFAULT_CAST_MEMORY_BYTES: f64 = 400e6;
/// On a disk too small for the configured free space, this part of it (one in so many) is kept free.
const SMALL_DISK_DIVISOR: u64 = 4;
/// Age below which a cast counts with the estimate, as it is still starting.
const STARTUP_TIME: Duration = Duration::from_secs(10);
/// Weight of each measurement in the estimates: at one a second, they follow within a minute.
const SMOOTHING_FACTOR: f64 = 0.05;

/// How long a cast is passed over before room is reserved for it: long enough that most fit somewhere before,
/// short beside the minute that casts usually wait.
const RESERVE_AFTER: Duration = Duration::from_secs(10);
/// Longest reservation for one cast. If it does not fit by then, the running casts are long ones, and the
/// room is worth more to others: no cast waits longer than this for another one's reservation.
const RESERVATION_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two reservations for the same cast.
const RESERVATION_COOLDOWN: Duration = Duration::from_secs(60);

/// Limits on what casts may use of the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Share of the cores that casts may use; above 1 overcommits.
    pub cpu_share: f64,
    /// Memory kept free for other programs, in bytes.
    pub reserved_memory_bytes: u64,
    /// Space kept free on each disk, in bytes. No cast is admitted while a disk has less; of a small disk, a
    /// quarter is enough.
    pub min_free_disk_bytes: u64,
    /// Most running casts, whatever the measurements allow.
    pub max_casts: usize,
}

/// A cast that runs on this machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RunningCast {
    /// Time since the claim.
    pub(super) age: Duration,
    /// Its expected resource use ([`pagecast_fleet::cast::weight`]).
    pub(super) weight: u32,
    /// Measured cores and bytes of memory, once known.
    pub(super) measured: Option<(f64, u64)>,
    /// Whether the page has ended and only the upload is left.
    pub(super) is_uploading: bool,
}

/// Decides whether casts fit, from measurements and estimates.
#[derive(Debug)]
pub(super) struct Admission {
    config: Config,
    worker_status: WorkerStatus,
    is_disk_full: bool,
    /// Estimated cores of a cast of 1280x720 at 30 fps.
    cast_cores: f64,
    /// Estimated memory of a cast, in bytes.
    cast_memory_bytes: f64,
}

/// Returns the CPU cost of a cast of this weight, relative to one of 1280x720 at 30 fps.
fn relative_cpu_cost(weight: u32) -> f64 {
    f64::from(weight) / 1000.0
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

    /// Takes a measurement of the machine.
    pub(super) fn set_worker_status(&mut self, load: &WorkerStatus) {
        self.worker_status = load.clone();
    }

    /// Takes a measurement of the disks.
    pub(super) fn set_disk_space(&mut self, disks: impl Iterator<Item = Space>) {
        let min_free = self.config.min_free_disk_bytes;
        let is_full = |disk: &Space| disk.free_bytes < min_free.min(disk.total_bytes / SMALL_DISK_DIVISOR);
        let full = disks.into_iter().find(is_full);
        match (std::mem::replace(&mut self.is_disk_full, full.is_some()), full) {
            (false, Some(Space { free_bytes, .. })) => {
                tracing::warn!(free_bytes, "disk nearly full, admission paused");
            }
            (true, None) => tracing::info!("disk space recovered, admission resumed"),
            _ => {}
        }
    }

    /// Updates the estimates from the running casts.
    pub(super) fn update_estimates(&mut self, running: &[RunningCast]) {
        for cast in running.iter().filter(|cast| cast.age >= STARTUP_TIME && !cast.is_uploading) {
            let Some((cores, memory_bytes)) = cast.measured else { continue };
            self.cast_cores += SMOOTHING_FACTOR * (cores / relative_cpu_cost(cast.weight) - self.cast_cores);
            self.cast_memory_bytes += SMOOTHING_FACTOR * (memory_bytes as f64 - self.cast_memory_bytes);
        }
    }

    /// Returns why no cast can ever run here, if that is certain. Only memory counts: one cast is always
    /// admitted, whatever its page needs of the cores.
    pub(super) fn never_fits_reason(&self) -> Option<String> {
        let total = self.worker_status.memory_bytes as f64;
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        // Before the first measurement the total is zero.
        (total > 0.0 && self.cast_memory_bytes > total).then(|| {
            let (needed, total) = (mib(self.cast_memory_bytes), mib(total));
            format!(
                "a cast needs about {needed:.0} MiB of memory, and the machine has {total:.0} MiB in total"
            )
        })
    }

    /// Returns whether a cast of this weight would fit on the empty machine by its CPU cost, so that
    /// reserving room for it makes sense. A cast that fits only alone would keep all others away until the
    /// running ones have ended.
    pub(super) fn fits_empty_machine(&self, weight: u32) -> bool {
        self.cast_cores * relative_cpu_cost(weight) <= self.worker_status.cores * self.config.cpu_share
    }

    /// Returns whether a cast of this weight fits beside the running ones.
    pub(super) fn fits(&self, running: &[RunningCast], weight: u32) -> bool {
        // The running casts need the rest of the disk to finish.
        if self.is_disk_full {
            return false;
        }
        let expected = self.cast_cores * relative_cpu_cost(weight);
        // Cores that casts use now, cores that they will use with the new one, and memory that they will
        // still allocate.
        let (mut used, mut needed, mut growth) = (0.0, expected, self.cast_memory_bytes);
        let pages = running.iter().filter(|cast| !cast.is_uploading);
        let alone = pages.clone().next().is_none();
        for cast in pages {
            let (cores, memory_bytes) = cast.measured.unwrap_or_default();
            let starting = cast.age < STARTUP_TIME;
            used += cores;
            needed +=
                if starting { cores.max(self.cast_cores * relative_cpu_cost(cast.weight)) } else { cores };
            growth += if starting { (self.cast_memory_bytes - memory_bytes as f64).max(0.0) } else { 0.0 };
        }
        let free = self.worker_status.memory_free_bytes as f64 - self.config.reserved_memory_bytes as f64;
        if growth > free {
            return false;
        }
        // One cast is always admitted, whatever other programs use.
        let others = (self.worker_status.cores_used - used).max(0.0);
        alone || others + needed <= self.worker_status.cores * self.config.cpu_share
    }
}

/// Reservations for queued casts: which were passed over since when, and for which one room is reserved.
///
/// Without reservations large casts would wait for ever, since small ones take each bit of room that becomes
/// free.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    passed_over_since: HashMap<CastId, Instant>,
    /// The cast that room is reserved for, and until when.
    reserved: Option<(CastId, Instant)>,
    /// When room was last reserved for each cast.
    last_reserved_at: HashMap<CastId, Instant>,
    /// Casts seen in the current scan of the queue.
    seen: HashSet<CastId>,
}

impl Reservations {
    /// Decides whether a queued cast is admitted. `fits`: whether there is room for it now. `may_reserve`:
    /// whether room may be reserved for it here, as no other node has more.
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

    /// Ends a scan of the queue and forgets casts that have left it. `taken` are the casts that were claimed:
    /// they may have ended the scan early, so casts not seen stay known.
    pub(super) fn end_scan<'a>(&mut self, taken: impl IntoIterator<Item = &'a CastId>) {
        let seen = std::mem::take(&mut self.seen);
        let mut taken = taken.into_iter().peekable();
        if taken.peek().is_some() {
            taken.for_each(|id| self.forget(id));
            return;
        }
        self.passed_over_since.retain(|id, _| seen.contains(id));
        self.last_reserved_at.retain(|id, _| seen.contains(id));
        if self.reserved.as_ref().is_some_and(|(id, _)| !seen.contains(id)) {
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
    use pagecast_core::spec::{Size, Source, SourceUrl};
    use pagecast_core::{CastSpec, Fps};
    use pagecast_fleet::cast;

    use super::*;

    fn weight(width: u32, height: u32, fps: u32) -> u32 {
        let source = Source::new(SourceUrl::parse("http://a/").unwrap());
        let (size, fps) = (Size::new(width, height).unwrap(), Fps::new(fps).unwrap());
        cast::weight(&CastSpec::new(Source { size, fps, ..source }))
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
        RunningCast { age: Duration::from_secs(age_s), weight: 1000, measured, is_uploading: false }
    }

    #[test]
    fn measured_usage_counts() {
        let hd = weight(1280, 720, 30);
        let cheap = vec![running(60, Some((0.05, 300_000_000))); 20];
        assert!(admission(2.0, 1.0, 8).fits(&cheap, hd), "twenty pages at rest use little");
        let expensive = vec![running(60, Some((0.7, 300_000_000))); 2];
        assert!(!admission(2.0, 1.4, 8).fits(&expensive, hd));
        assert!(admission(4.0, 1.4, 8).fits(&expensive, hd));
        assert!(
            admission(2.0, 1.9, 8).fits(&[], hd),
            "the first cast is admitted whatever other programs use"
        );
        assert!(!admission(2.0, 1.9, 8).fits(&cheap, hd), "a second cast is not");
    }

    #[test]
    fn starting_casts_count_with_the_estimate() {
        let hd = weight(1280, 720, 30);
        let starting = |n| vec![running(1, None); n];
        let fits = |n| admission(2.0, 0.1, 8).fits(&starting(n), hd);
        assert_eq!((0..5).map(fits).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert!(
            !admission(2.0, 0.1, 8).fits(&starting(1), weight(1920, 1080, 60)),
            "a large cast needs more"
        );
    }

    #[test]
    fn nothing_is_admitted_while_a_disk_is_nearly_full() {
        let hd = weight(1280, 720, 30);
        let mut admission = admission(2.0, 0.1, 8);
        assert!(admission.fits(&[], hd), "before the first measurement of the disks");
        let mut fits = |free_bytes, total_bytes| {
            let large = Space { free_bytes: 50_000_000_000, total_bytes: 100_000_000_000 };
            admission.set_disk_space([large, Space { free_bytes, total_bytes }].into_iter());
            admission.fits(&[], hd)
        };
        assert!(!fits(1_999_999_999, 100_000_000_000) && fits(2_000_000_000, 100_000_000_000));
        assert!(
            fits(250_000_000, 1_000_000_000) && !fits(249_999_999, 1_000_000_000),
            "a small disk must keep a quarter free"
        );
    }

    #[test]
    fn memory_is_kept_free_for_other_programs() {
        let hd = weight(1280, 720, 30);
        assert!(admission(2.0, 0.0, 1).fits(&[], hd));
        assert!(
            !admission(2.0, 0.0, 1).fits(&[running(1, None)], hd),
            "the starting cast will need memory, too"
        );
        let settled = running(60, Some((0.1, 400_000_000)));
        assert!(admission(2.0, 0.1, 1).fits(&[settled], hd), "its memory is already allocated");
        assert!(!admission(2.0, 0.0, 0).fits(&[], hd));
    }

    #[test]
    fn a_cast_that_needs_more_memory_than_the_machine_has_never_fits() {
        let mut admission = admission(2.0, 0.1, 8);
        assert_eq!(admission.never_fits_reason(), None, "the memory of the machine is not known");
        let load = |bytes| WorkerStatus { cores: 2.0, memory_bytes: bytes, ..WorkerStatus::default() };
        admission.set_worker_status(&load(700_000_000));
        assert_eq!(admission.never_fits_reason(), None, "only the total memory counts");
        admission.set_worker_status(&load(200_000_000));
        let why = admission.never_fits_reason().unwrap();
        assert!(why.contains("381 MiB") && why.contains("191 MiB"), "{why}");
        assert!(
            !admission.fits_empty_machine(weight(3840, 2160, 60))
                && admission.fits_empty_machine(weight(1280, 720, 30))
        );
    }

    fn id(n: u8) -> CastId {
        CastId::new(1, [n; 10])
    }

    #[test]
    fn room_is_reserved_for_a_waiting_cast_for_a_limited_time() {
        let (begin, s) = (Instant::now(), Duration::from_secs);
        let (mut reservations, large, small) = (Reservations::default(), id(1), id(2));
        // The large cast never fits, the small one always does. Returns whether one of them is admitted.
        let mut scan = |at: u64, may_reserve| {
            let now = begin + s(at);
            let taken = if reservations.admits(now, &large, || false, || may_reserve) {
                Some(large.clone())
            } else {
                reservations.admits(now, &small, || true, || may_reserve).then(|| small.clone())
            };
            reservations.end_scan(&taken);
            taken.is_some()
        };
        let taken: Vec<bool> = (0..200).map(|at| scan(at, true)).collect();
        let reserved: Vec<usize> = (0..200).filter(|at| !taken[*at]).collect();
        let expected: Vec<usize> = (10..30).chain(90..110).chain(170..190).collect();
        assert_eq!(reserved, expected);
        let mut reservations = Reservations::default();
        for at in 0..100 {
            let now = begin + s(at);
            assert!(!reservations.admits(now, &large, || false, || false));
            assert!(
                reservations.admits(now, &small, || true, || false),
                "nothing is reserved if another node has more room"
            );
            reservations.end_scan([&small]);
        }
    }

    #[test]
    fn reserved_room_goes_to_its_cast() {
        let (begin, s) = (Instant::now(), Duration::from_secs);
        let (mut reservations, large, small) = (Reservations::default(), id(1), id(2));
        for at in [0, 10] {
            assert!(!reservations.admits(begin + s(at), &large, || false, || true));
            reservations.end_scan([]);
        }
        assert!(
            !reservations.admits(begin + s(11), &small, || true, || true),
            "others wait, whichever is scanned first"
        );
        assert!(reservations.admits(begin + s(11), &large, || true, || true));
        reservations.end_scan([&large]);
        assert!(reservations.admits(begin + s(11), &small, || true, || true));
        reservations.end_scan([&small]);
        // A cast that has left the queue holds no reservation.
        for at in [20, 31] {
            assert!(!reservations.admits(begin + s(at), &large, || false, || true));
            reservations.end_scan([]);
        }
        assert!(!reservations.admits(begin + s(32), &small, || true, || true));
        reservations.end_scan([]);
        assert!(reservations.admits(begin + s(32), &small, || true, || true), "the large cast was stopped");
        assert!(reservations.passed_over_since.is_empty() && reservations.last_reserved_at.is_empty());
    }

    #[test]
    fn estimates_follow_the_measurements() {
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
