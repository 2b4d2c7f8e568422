//! A control group (version 2) for each cast, where the system lets us create one: systemd with
//! `Delegate=yes` does.
//!
//! Without one, the cast itself watches the memory of its browser, and the kernel shares CPU time as usual.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pagecast_core::spec::Limits;

/// Memory allowed for a cast's own process beside its browser, in bytes: pictures, encoders, and queues of
/// outputs (64 MiB each).
const PROCESS_OVERHEAD_BYTES: u64 = 1 << 30;

/// A control group with one cast in it. Dropping it kills what is left of the cast and removes the group.
#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// Moves a process that has not started anything yet into a group of its own. `None` if the system does
    /// not let us create groups.
    pub(super) fn enter(pid: u32) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let base = parent_group(Path::new("/sys/fs/cgroup"), &own)?;
        match create(&base, std::process::id(), pid) {
            Ok(group) => Some(group),
            Err(error) => {
                tracing::debug!(%error, base = %base.display(), "cannot create cgroup for cast");
                None
            }
        }
    }
}

impl Cgroup {
    /// Sets the memory limit and the CPU weight of the group.
    pub(super) fn set_limits(&self, limits: &Limits) {
        let memory = limits.memory_bytes.saturating_add(PROCESS_OVERHEAD_BYTES).to_string();
        for (file, value) in [("memory.max", memory), ("cpu.weight", limits.cpu_weight.to_string())] {
            if let Err(error) = fs::write(self.0.join(file), value) {
                tracing::warn!(%error, group = %self.0.display(), file, "cannot set cgroup limit");
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last processes of a killed cast may still run.
        let _kernel_too_old = fs::write(self.0.join("cgroup.kill"), "1");
        // A second in all: killed processes leave within milliseconds.
        for _ in 0..20 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        tracing::debug!(group = %self.0.display(), "cannot remove cgroup");
    }
}

/// Returns our own group, from `/proc/self/cgroup`; inside the group that we created for ourselves, the one
/// around it.
fn parent_group(root: &Path, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = path.strip_suffix("/supervisor").unwrap_or(path);
    let base = root.join(path);
    let controllers = fs::read_to_string(base.join("cgroup.controllers")).ok()?;
    let has = |name| controllers.split_whitespace().any(|c| c == name);
    (!path.is_empty() && has("memory") && has("cpu")).then_some(base)
}

fn create(base: &Path, own: u32, pid: u32) -> io::Result<Cgroup> {
    // The kernel passes controllers down only from groups without processes, so we move into a child group,
    // too.
    let inside = fs::read_to_string(base.join("cgroup.procs"))?;
    let exclusive = inside.lines().all(|line| line == own.to_string() || line == pid.to_string());
    if !exclusive {
        return Err(io::Error::other("the group has other processes"));
    }
    let supervisor = base.join("supervisor");
    fs::create_dir_all(&supervisor)?;
    let group = base.join(format!("cast-{pid}"));
    match fs::create_dir(&group) {
        // An earlier cast with this process id left its group, empty.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let cgroup = Cgroup(group.clone());
    for process in inside.lines() {
        let home = if process == pid.to_string() { &group } else { &supervisor };
        fs::write(home.join("cgroup.procs"), process)?;
    }
    fs::write(base.join("cgroup.subtree_control"), "+memory +cpu")?;
    fs::write(group.join("cgroup.procs"), pid.to_string())?;
    Ok(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a folder that looks like a delegated group.
    fn delegated(name: &str, procs: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("pagecast-cgroup-test-{}-{name}", std::process::id()));
        let base = root.join("app.slice/pagecast.service");
        fs::create_dir_all(&base).unwrap();
        fs::write(base.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        fs::write(base.join("cgroup.procs"), procs).unwrap();
        root
    }

    #[test]
    fn a_cast_gets_a_group_with_its_limits() {
        let root = delegated("made", "7\n8\n");
        let base = parent_group(&root, "1:name=systemd:/\n0::/app.slice/pagecast.service\n").unwrap();
        let limits = Limits { memory_bytes: 1 << 30, cpu_weight: 50, ..Limits::default() };
        let group = create(&base, 7, 8).unwrap();
        group.set_limits(&limits);
        let read = |path: &str| fs::read_to_string(base.join(path)).unwrap();
        assert_eq!(read("supervisor/cgroup.procs"), "7");
        assert_eq!(read("cast-8/cgroup.procs"), "8");
        assert_eq!(read("cast-8/memory.max"), (2_u64 << 30).to_string());
        assert_eq!(read("cast-8/cpu.weight"), "50");
        assert_eq!(read("cgroup.subtree_control"), "+memory +cpu");
        std::mem::drop(group);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_group_with_other_processes_or_without_controllers_is_not_used() {
        let root = delegated("shared", "7\n8\n9\n");
        let own = "0::/app.slice/pagecast.service/supervisor\n";
        let base_path = parent_group(&root, own).unwrap();
        assert!(create(&base_path, 7, 8).is_err());
        assert!(!base_path.join("supervisor").exists());
        fs::write(base_path.join("cgroup.controllers"), "pids\n").unwrap();
        assert_eq!(parent_group(&root, own), None);
        assert_eq!(parent_group(&root, "0::/\n"), None, "the root is never ours");
        fs::remove_dir_all(root).unwrap();
    }
}
