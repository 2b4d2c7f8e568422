//! CPU and memory of the descendants of this process, read from /proc.
//!
//! The bench is a subreaper, so daemons whose parents have ended are counted too.

mod excluded;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

pub(crate) use excluded::ExcludedProcess;

/// Purpose of a process or thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Component {
    Browser,
    Display,
    Sound,
    Encode,
    /// Threads that push to servers.
    Push,
    Other,
}

impl Component {
    /// Component of a process or of a thread of Pagecast, by its name.
    fn of_name(name: &str) -> Self {
        match name {
            "chromium" | "chrome" | "chrome_crashpad" => Self::Browser,
            "Xvfb" | "display" => Self::Display,
            "pulseaudio" | "sound" => Self::Sound,
            "ffmpeg" => Self::Encode,
            thread if thread.starts_with("encode") => Self::Encode,
            thread if thread.starts_with("push") => Self::Push,
            _ => Self::Other,
        }
    }
}

/// CPU time by component: in seconds, or in cores after [`CpuUsage::per_second_of`].
#[derive(Debug, Clone, Default)]
pub(crate) struct CpuUsage(pub(crate) BTreeMap<Component, f64>);

impl CpuUsage {
    /// CPU time of all descendants so far.
    pub(crate) fn now() -> Result<Self> {
        let mut cpu = Self::default();
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        for process in descendants(getpid())? {
            // A process may end after it was listed.
            let Some(total) = process.cpu_ticks() else { continue };
            if process.name == "pagecast" {
                let mut rest = total;
                for (name, ticks) in process.threads() {
                    rest = rest.saturating_sub(ticks);
                    *cpu.0.entry(Component::of_name(&name)).or_default() += ticks as f64 / per_second;
                }
                *cpu.0.entry(Component::Other).or_default() += rest as f64 / per_second;
            } else {
                *cpu.0.entry(Component::of_name(&process.name)).or_default() += total as f64 / per_second;
            }
        }
        Ok(cpu)
    }

    pub(crate) fn of_component(&self, part: Component) -> f64 {
        self.0.get(&part).copied().unwrap_or_default()
    }

    pub(crate) fn total(&self) -> f64 {
        self.0.values().sum()
    }

    /// Converts seconds to cores.
    pub(crate) fn per_second_of(self, wall: Duration) -> Self {
        Self(self.0.into_iter().map(|(part, s)| (part, s / wall.as_secs_f64())).collect())
    }
}

impl Sub for CpuUsage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self(self.0.into_iter().map(|(part, s)| (part, s - earlier.0.get(&part).unwrap_or(&0.0))).collect())
    }
}

/// CPU time of this process so far, in seconds.
pub(crate) fn own_cpu_s() -> Result<f64> {
    let process = Process::read(getpid().as_raw_nonzero().get());
    let ticks = process.and_then(|process| process.cpu_ticks()).context("cannot read /proc/self/stat")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// CPU time of a process so far, without its children, in seconds.
pub(crate) fn process_cpu_s(pid: u32) -> Result<f64> {
    let stat = ProcStat::read(Path::new(&format!("/proc/{pid}/stat")));
    let ticks = stat.and_then(|stat| Some(stat.field(11)? + stat.field(12)?));
    let ticks = ticks.with_context(|| format!("process {pid} has ended"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Sum of the proportional set sizes of all descendants, in bytes.
pub(crate) fn pss_bytes() -> Result<u64> {
    let kib = |process: &Process| {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).ok()?;
        let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Ok(descendants(getpid())?.iter().filter_map(kib).sum::<u64>() * 1024)
}

/// Makes this process the parent of orphaned descendants.
pub(crate) fn become_subreaper() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("cannot become a subreaper")
}

/// Terminates all descendants, and kills those that remain after two seconds.
///
/// # Errors
/// A process is alive after ten seconds.
pub(crate) fn kill_descendants() -> Result<()> {
    let started = Instant::now();
    loop {
        while wait(WaitOptions::NOHANG).is_ok_and(|ended| ended.is_some()) {}
        let left = descendants(getpid())?;
        if left.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = left.iter().map(|p| p.name.as_str()).collect();
        ensure!(
            started.elapsed() < Duration::from_secs(10),
            "these processes do not end: {}",
            names.join(", ")
        );
        let signal = if started.elapsed() < Duration::from_secs(2) { Signal::TERM } else { Signal::KILL };
        for process in &left {
            if let Some(pid) = Pid::from_raw(process.pid) {
                kill_process(pid, signal).ok();
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[derive(Debug)]
struct Process {
    pid: i32,
    parent: i32,
    name: String,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = ProcStat::read(Path::new(&format!("/proc/{pid}/stat")))?;
        Some(Self { pid, parent: stat.field(1)?.try_into().ok()?, name: stat.name })
    }

    /// Clock ticks of the process and of its ended children.
    fn cpu_ticks(&self) -> Option<u64> {
        let stat = ProcStat::read(Path::new(&format!("/proc/{}/stat", self.pid)))?;
        (11..=14).map(|i| stat.field(i)).sum()
    }

    fn threads(&self) -> Vec<(String, u64)> {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return Vec::new() };
        let stats = tasks.flatten().filter_map(|task| ProcStat::read(&task.path().join("stat")));
        stats.filter_map(|stat| Some((stat.name.clone(), stat.field(11)? + stat.field(12)?))).collect()
    }
}

/// A `stat` file of /proc: the name, and the fields after it. The first one is field 3 in proc(5).
struct ProcStat {
    name: String,
    rest: String,
}

impl ProcStat {
    fn read(path: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // Names may contain parentheses and spaces.
        let (head, rest) = text.rsplit_once(") ")?;
        let (_, name) = head.split_once(" (")?;
        Some(Self { name: name.to_owned(), rest: rest.to_owned() })
    }

    fn field(&self, at: usize) -> Option<u64> {
        self.rest.split_ascii_whitespace().nth(at)?.parse().ok()
    }
}

/// All descendants of `root`, without each [`ExcludedProcess`].
fn descendants(root: Pid) -> Result<Vec<Process>> {
    let mut children = BTreeMap::<i32, Vec<Process>>::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        let pid = pid.filter(|pid| !excluded::is_excluded(*pid));
        if let Some(process) = pid.and_then(Process::read) {
            children.entry(process.parent).or_default().push(process);
        }
    }
    let mut found = children.remove(&root.as_raw_nonzero().get()).unwrap_or_default();
    let mut at = 0;
    while at < found.len() {
        let next = children.remove(&found[at].pid).unwrap_or_default();
        found.extend(next);
        at += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use pagecast_testkit::command::program;

    use super::*;

    #[test]
    fn a_process_name_may_contain_parentheses() {
        let stat =
            ProcStat::parse("7 (a) (b c)) S 1 7 7 0 -1 4194560 1 2 3 4 50 60 70 80 20").expect("a stat line");
        assert_eq!(stat.name, "a) (b c)");
        assert_eq!((stat.field(1), stat.field(11), stat.field(14)), (Some(1), Some(50), Some(80)));
    }

    #[test]
    fn a_busy_child_is_measured_and_killed() {
        become_subreaper().expect("a subreaper");
        let mut server = program("sleep").arg("60").spawn().expect("a server");
        let excluded = ExcludedProcess::exclude(server.id());
        // The inner shell outlives its parent and becomes a child of the test.
        let mut shell = program("sh");
        let status = shell.args(["-c", "sh -c 'while :; do :; done' & exit 0"]).status().expect("a shell");
        assert!(status.success());
        let started = Instant::now();
        while CpuUsage::now().expect("usage").of_component(Component::Other) < 0.1 {
            assert!(started.elapsed() < Duration::from_secs(20), "the time of the child is not counted");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(pss_bytes().expect("memory") > 0);
        kill_descendants().expect("an end");
        assert!(descendants(getpid()).expect("processes").is_empty());
        assert!(matches!(server.try_wait(), Ok(None)), "an excluded process was killed");
        drop(excluded);
        kill_descendants().expect("an end");
        assert!(!matches!(server.try_wait(), Ok(None)));
    }
}
