//! Finds the processes that belong to a run, and those that are alive.
//!
//! Three marks identify them, because a browser loses each one somewhere: the parent (lost when it dies), the
//! environment (overwritten by Chromium's helpers), and the run's private folder on the command line.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// All processes of one run that were seen so far.
#[derive(Debug)]
pub struct ProcessTree {
    folder: String,
    /// Name by process id and start time. The start time distinguishes a reused id.
    members: BTreeMap<(u32, u64), String>,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
    started: u64,
    zombie: bool,
}

impl ProcessTree {
    /// Starts with `pid`. Processes with `folder` in their environment or command line belong to the run too.
    #[must_use]
    pub fn new(pid: u32, folder: &Path) -> Self {
        let mut tree = Self { folder: folder.display().to_string(), members: BTreeMap::new() };
        tree.members.extend(Process::read(pid).map(|p| p.entry()));
        tree
    }

    /// Scans for new members. Returns the ids of all members that are alive.
    pub fn refresh(&mut self) -> Vec<u32> {
        let all = read_all_processes();
        let mut members: HashSet<u32> = all.iter().filter(|p| self.is_member(p)).map(|p| p.pid).collect();
        loop {
            let grown = members.len();
            members.extend(
                all.iter().filter(|p| members.contains(&p.parent)).map(|p| p.pid).collect::<Vec<_>>(),
            );
            if members.len() == grown {
                break;
            }
        }
        let living = all.into_iter().filter(|p| members.contains(&p.pid) && !p.zombie);
        living.map(|p| (p.pid, self.members.extend([p.entry()])).0).collect()
    }

    /// Describes each member that is alive, for messages.
    pub fn describe_alive(&mut self) -> Vec<String> {
        let living = self.refresh();
        let name = |pid: &u32| self.members.iter().find(|((p, _), _)| p == pid).map_or("", |(_, name)| name);
        living.iter().map(|pid| format!("process {pid} ({})", name(pid))).collect()
    }

    /// Members that are alive and have the argument `word`, oldest first.
    #[must_use]
    pub fn with_argument(&self, word: &str) -> Vec<u32> {
        self.with_arguments(|all| all.contains(&word))
    }

    /// Members that are alive and whose arguments match, oldest first.
    pub fn with_arguments(&self, matches: impl Fn(&[&str]) -> bool) -> Vec<u32> {
        let has = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            matches(&String::from_utf8_lossy(&line).split(['\0', ' ']).collect::<Vec<_>>())
        };
        let mut living: Vec<_> =
            self.members.keys().filter(|k| Process::read(k.0).is_some_and(|p| p.identity() == **k)).collect();
        living.sort_by_key(|(_, started)| *started);
        living.into_iter().map(|(pid, _)| *pid).filter(|pid| has(*pid)).collect()
    }

    /// Kills every member that is alive.
    pub fn kill(&mut self) {
        for pid in self.refresh() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
    }

    fn is_member(&self, process: &Process) -> bool {
        let mentions = |file: &str| {
            let bytes = fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
            mentions_folder(&String::from_utf8_lossy(&bytes), &self.folder)
        };
        self.members.contains_key(&process.identity()) || mentions("environ") || mentions("cmdline")
    }
}

/// Whether `text` has the path of the folder or of a file in it. `/tmp/1` is not in `/tmp/10`.
fn mentions_folder(text: &str, folder: &str) -> bool {
    let ends = |(at, _): (usize, &str)| !text[at + folder.len()..].starts_with(char::is_alphanumeric);
    text.match_indices(folder).any(ends)
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let fields: Vec<_> = rest.split(' ').collect();
        Some(Self {
            pid,
            name: name.to_owned(),
            zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    fn identity(&self) -> (u32, u64) {
        (self.pid, self.started)
    }

    fn entry(&self) -> ((u32, u64), String) {
        (self.identity(), self.name.clone())
    }
}

fn read_all_processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| Process::read(e.file_name().to_str()?.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::program;
    use crate::scratch::ScratchDir;

    #[test]
    fn a_folder_is_not_that_of_another_test() {
        let ours = ["/tmp/test-1", "A=/tmp/test-1\0B=2", "--log=/tmp/test-1/log", "/tmp/test-12 /tmp/test-1"];
        assert!(ours.iter().all(|text| mentions_folder(text, "/tmp/test-1")));
        assert!(
            ["", "/tmp/test-10", "A=/tmp/test-12/log"]
                .iter()
                .all(|text| !mentions_folder(text, "/tmp/test-1"))
        );
    }

    #[test]
    fn orphans_stay_in_the_tree() {
        let scratch = ScratchDir::new().unwrap();
        let mut shell = program("sh");
        // The inner sleep loses its parent and its environment, and its command line has no folder.
        shell.args(["-c", "env -i sh -c 'sleep 30 & sleep 30 & wait' & wait"]).env("MARK", scratch.path());
        let mut child = shell.spawn().unwrap();
        let mut tree = ProcessTree::new(child.id(), scratch.path());
        while tree.refresh().len() < 4 {
            std::thread::yield_now();
        }
        assert!(!tree.with_argument("sleep").is_empty() && tree.with_argument("chromium").is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(tree.describe_alive().len(), 3, "{:?}", tree.describe_alive());
        tree.kill();
        while !tree.describe_alive().is_empty() {
            std::thread::yield_now();
        }
    }
}
