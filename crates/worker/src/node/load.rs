//! Cores and memory of the machine and their use, from `/proc`; inside a control group with limits, those of
//! the group.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pagecast_fleet::{NodeInfo, UnixMs, WorkerStatus};

/// Measures the load between two calls.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Busy seconds of all cores at the last measurement, and its time.
    last: Option<(f64, Instant)>,
}

impl Meter {
    /// Measures the machine; CPU use is the average since the last call.
    pub(super) fn measure(&mut self, casts: usize, draining: bool, node: NodeInfo) -> WorkerStatus {
        let busy = busy_seconds(&fs::read_to_string("/proc/stat").unwrap_or_default());
        let now = Instant::now();
        let cores_used = match self.last.replace((busy, now)) {
            Some((before, at)) if now > at => (busy - before).max(0.0) / (now - at).as_secs_f64(),
            _ => 0.0,
        };
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let (all, free) = (meminfo_bytes(&memory, "MemTotal:"), meminfo_bytes(&memory, "MemAvailable:"));
        let group = Path::new("/sys/fs/cgroup");
        let (memory_bytes, memory_free_bytes) = match memory_limit(group) {
            Some((limit, used)) if limit < all => (limit, free.min(limit.saturating_sub(used))),
            _ => (all, free),
        };
        let cores = available_cores(group);
        WorkerStatus {
            at_ms: unix_ms(),
            cores,
            cores_used: cores_used.min(cores),
            memory_bytes,
            memory_free_bytes,
            casts,
            viewers: 0,
            draining,
            renewal_age_ms: None,
            heartbeat_age_ms: 0,
            node,
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> UnixMs {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(now.as_millis()).unwrap_or(UnixMs::MAX)
}

/// Returns the number of cores available to us, limited by the quota of the group.
fn available_cores(group: &Path) -> f64 {
    let own = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let quota = fs::read_to_string(group.join("cpu.max")).ok().and_then(|text| {
        let (quota, period) = text.trim().split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    });
    quota.map_or(own, |quota| own.min(quota))
}

/// Returns limit and use of the group's memory in bytes, without cache that the kernel can reclaim.
fn memory_limit(group: &Path) -> Option<(u64, u64)> {
    let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let files = fs::read_to_string(group.join("memory.stat")).ok()?;
    let inactive = files.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok());
    Some((number("memory.max")?, number("memory.current")?.saturating_sub(inactive.unwrap_or(0))))
}

/// Returns the seconds that cores were busy since the boot: all but idle and waiting for disks.
fn busy_seconds(stat: &str) -> f64 {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else { return 0.0 };
    let fields: Vec<u64> = line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let busy: u64 =
        fields.iter().take(8).enumerate().filter(|(i, _)| *i != 3 && *i != 4).map(|(_, n)| n).sum();
    busy as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn meminfo_bytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_of_this_machine_is_measured() {
        let mut meter = Meter::default();
        let first = meter.measure(0, false, NodeInfo::default());
        let begin = Instant::now();
        while begin.elapsed().as_millis() < 200 {
            std::hint::black_box(fs::read_to_string("/proc/stat").unwrap());
        }
        let load = meter.measure(3, true, NodeInfo::default());
        assert!(first.cores >= 0.1 && load.cores_used > 0.3 && load.cores_used <= load.cores, "{load:?}");
        assert!(load.memory_free_bytes > 1 << 20 && load.memory_free_bytes <= load.memory_bytes, "{load:?}");
        assert_eq!((load.casts, load.draining), (3, true));
    }

    #[test]
    fn proc_files_are_parsed() {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = "cpu  100 10 50 9000 800 5 5 30 7 0\ncpu0 1 2 3\n";
        assert!((busy_seconds(stat) * ticks - 200.0).abs() < 1e-9);
        assert_eq!(meminfo_bytes("MemTotal:  2048 kB\nMemAvailable: 1024 kB\n", "MemAvailable:"), 1 << 20);
        assert_eq!((busy_seconds("x"), meminfo_bytes("x", "y")), (0.0, 0));
    }
}
