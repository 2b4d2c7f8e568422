//! CPU time and memory of a cast, from `/proc`, and how much of the disk its browser may use.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Most processes counted of one browser, so that a measurement stays short; a page with more frames is
/// counted too low.
const MAX_PROCESSES: usize = 512;

/// Free disk space below which the limit of browsers shrinks to [`SCARCE_DISK_BYTES`], in bytes. A gigabyte
/// holds half an hour of a recording at 4 Mbit/s.
const LOW_DISK_BYTES: u64 = 1 << 30;
/// Limit of a browser on a disk that is nearly full, in bytes. Ordinary pages need a tenth of it.
const SCARCE_DISK_BYTES: u64 = 256 << 20;

/// Returns how many bytes a browser may have on a disk with so much free: its limit, or less to leave room
/// for recordings.
pub(crate) fn allowed_disk_bytes(limit_bytes: u64, free_bytes: u64) -> u64 {
    if free_bytes < LOW_DISK_BYTES { limit_bytes.min(SCARCE_DISK_BYTES) } else { limit_bytes }
}

/// CPU time and memory of a browser's processes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct BrowserUsage {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: u64,
}

/// Measures a process and its descendants. Shared memory is counted once, as far as `/proc` shows that it is
/// shared.
pub(crate) fn browser_usage(root: u32) -> BrowserUsage {
    let (mut ticks, mut private, mut largest_file_map) = (0, 0, 0);
    for pid in process_tree(root) {
        // A child that ended is counted by the parent that waited for it.
        ticks += sum_stat_fields(&format!("/proc/{pid}/stat"), &[14, 15, 16, 17]);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        private += status_kib(&status, "RssAnon:") + status_kib(&status, "RssShmem:");
        largest_file_map = status_kib(&status, "RssFile:").max(largest_file_map);
    }
    BrowserUsage { cpu_seconds: ticks_to_seconds(ticks), rss_bytes: (private + largest_file_map) * 1024 }
}

/// Returns whether the browser's renderers are confined: system calls filtered, and no way to gain
/// privileges.
pub(crate) fn is_sandboxed(root: u32) -> bool {
    let is_page = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|b| *b == 0 || *b == b' ').any(|arg| arg == b"--type=renderer")
    };
    let confined = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let has = |line: &str| status.lines().any(|l| l == line);
        has("Seccomp:\t2") && has("NoNewPrivs:\t1")
    };
    let pages: Vec<u32> = process_tree(root).into_iter().filter(is_page).collect();
    !pages.is_empty() && pages.into_iter().all(confined)
}

/// Returns the CPU seconds of this process's threads of this name.
pub(crate) fn thread_cpu_seconds(name: &str) -> f64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0.0 };
    let mut ticks = 0;
    for task in tasks.flatten() {
        let path = task.path();
        if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
            ticks += sum_stat_fields(&path.join("stat").display().to_string(), &[14, 15]);
        }
    }
    ticks_to_seconds(ticks)
}

/// Returns the CPU time of this process.
pub(crate) fn own_cpu() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// Returns the peak resident memory of this process, in bytes.
pub(crate) fn own_peak_rss_bytes() -> u64 {
    status_kib(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmHWM:") * 1024
}

/// Returns the resident memory of this process, in bytes.
pub(crate) fn own_rss_bytes() -> u64 {
    status_kib(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS:") * 1024
}

/// Returns the sum of these fields of a `stat` file, numbered as in proc(5).
fn sum_stat_fields(path: &str, numbers: &[usize]) -> u64 {
    let stat = fs::read_to_string(path).unwrap_or_default();
    // The command name (field 2) may contain anything; no field after it contains a parenthesis.
    let Some((_, rest)) = stat.rsplit_once(')') else { return 0 };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    numbers.iter().filter_map(|n| fields.get(n - 3)?.parse::<u64>().ok()).sum()
}

/// Lists a process and its descendants.
fn process_tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while next < all.len() && all.len() < MAX_PROCESSES {
        all.extend(child_pids(all[next]));
        next += 1;
    }
    all
}

fn child_pids(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

fn status_kib(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn ticks_to_seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_less_before_the_disk_is_full() {
        assert_eq!(allowed_disk_bytes(4 << 30, LOW_DISK_BYTES), 4 << 30);
        assert_eq!(allowed_disk_bytes(4 << 30, LOW_DISK_BYTES - 1), SCARCE_DISK_BYTES);
        assert_eq!(allowed_disk_bytes(1 << 20, 0), 1 << 20);
    }

    #[test]
    fn its_own_usage_is_measured() {
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::black_box(fs::read_to_string("/proc/self/stat").unwrap());
        }
        let own = browser_usage(std::process::id());
        assert!(own.cpu_seconds > 0.0 && own.rss_bytes > 100_000, "{own:?}");
        assert!(own_peak_rss_bytes() >= own.rss_bytes / 4);
        assert!(own_cpu() > Duration::from_millis(10));
    }
}
