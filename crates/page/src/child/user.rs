//! Reserves a system user for the browser of each cast, where we are root.
//!
//! User ids come from a range that nobody else uses. A locked file in [`lock_folder`] marks an id as taken
//! for all processes of this machine. The cast and its janitor hold the lock, so it ends with the later of
//! them, however they end.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

/// Environment variable with the user ids of browsers, like `2000000000-2000065535`.
pub const BROWSER_UIDS_VARIABLE: &str = "PAGECAST_BROWSER_UIDS";
/// Default range: within 1879048192 to 2147483647, which systemd's list of user ids leaves unused.
const DEFAULT_UID_RANGE: UidRange = UidRange { first: 2_000_000_000, last: 2_000_065_535 };
/// Default range in user namespaces that map only 16-bit ids, as in containers: unused by the same list.
const DEFAULT_UID_RANGE_16_BIT: UidRange = UidRange { first: 60_706, last: 61_183 };
/// Smallest id that a range may begin with: smaller ones belong to system accounts.
const MIN_UID: u32 = 1000;
/// Ids that are never assigned: `nobody` and "no id", in 16 and in 32 bits.
const RESERVED_UIDS: [u32; 3] = [65_534, 65_535, u32::MAX];
/// Folders for the locks; the first one that can be created is used.
const LOCK_FOLDERS: [&str; 2] = ["/run/pagecast-users", "/tmp/pagecast-users"];
/// How often processes of a user are searched and killed until there are none: for one second in all.
const MAX_KILL_ATTEMPTS: u32 = 50;
/// Pause between two such attempts.
const KILL_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Range of user ids, both ends included. The group of each user has the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UidRange {
    first: u32,
    last: u32,
}

impl UidRange {
    fn parse(text: &str) -> io::Result<Self> {
        let wrong = || {
            let message = format!(
                "{BROWSER_UIDS_VARIABLE}={text} is not a range of user ids: write two ids of at \
                 least {MIN_UID}, like {}-{}",
                DEFAULT_UID_RANGE.first, DEFAULT_UID_RANGE.last
            );
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let range = Self { first: number(first)?, last: number(last)? };
        if range.first < MIN_UID || range.first > range.last {
            return Err(wrong());
        }
        Ok(range)
    }

    /// Whether our user namespace maps the whole range, according to the text of `/proc/self/uid_map`.
    fn is_mapped(self, map: &str) -> bool {
        map.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
            let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
                (fields.next(), fields.next(), fields.next())
            else {
                return false;
            };
            u64::from(self.first) >= first && u64::from(self.last) < first + count
        })
    }
}

/// User and group that a child runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A user reserved for one browser, as long as this value or a janitor with a copy of the lock lives.
#[derive(Debug)]
pub(crate) struct ReservedUser {
    pub(crate) user: User,
    lock: File,
}

impl ReservedUser {
    /// Reserves a user that no other cast of this machine has, and kills processes that an earlier browser
    /// left. `None` if we are not root: then the browser runs as our own user.
    ///
    /// # Errors
    /// The range is invalid, not mapped in this user namespace, or completely in use; or no lock can be
    /// created.
    pub(crate) fn reserve() -> io::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let range = uid_range(std::env::var(BROWSER_UIDS_VARIABLE).ok().as_deref())?;
        Self::reserve_in(&lock_folder()?, range).map(Some)
    }

    fn reserve_in(folder: &Path, range: UidRange) -> io::Result<Self> {
        let assigned = passwd_uids(&std::fs::read_to_string("/etc/passwd").unwrap_or_default());
        for uid in range.first..=range.last {
            if RESERVED_UIDS.contains(&uid) || assigned.contains(&uid) {
                continue;
            }
            let Some(lock) = try_lock_uid(folder, uid)? else { continue };
            kill_processes_of(uid)?;
            return Ok(Self { user: User { uid, gid: uid }, lock });
        }
        let UidRange { first, last } = range;
        let message = format!(
            "all user ids from {first} to {last} are in use: set a larger range in {BROWSER_UIDS_VARIABLE}"
        );
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, message))
    }

    /// Copies the lock, which is held until both copies are closed.
    pub(super) fn clone_lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }
}

impl Drop for ReservedUser {
    fn drop(&mut self) {
        // Processes that left the group and session of the browser are found by their user.
        if let Err(error) = kill_processes_of(self.user.uid) {
            tracing::warn!(%error, uid = self.user.uid, "cannot kill leftover browser processes");
        }
    }
}

/// The range to reserve users from: `set`, or the first default range that is mapped.
fn uid_range(set: Option<&str>) -> io::Result<UidRange> {
    let maps: Vec<String> = ["/proc/self/uid_map", "/proc/self/gid_map"]
        .iter()
        .map(std::fs::read_to_string)
        .collect::<Result<_, _>>()?;
    let is_mapped = |range: UidRange| maps.iter().all(|map| range.is_mapped(map));
    let candidates = match set {
        Some(text) => vec![UidRange::parse(text)?],
        None => vec![DEFAULT_UID_RANGE, DEFAULT_UID_RANGE_16_BIT],
    };
    candidates.iter().copied().find(|range| is_mapped(*range)).ok_or_else(|| {
        let UidRange { first, last } = candidates[0];
        let message = format!(
            "the user ids {first} to {last} do not exist in this user namespace: set others in \
             {BROWSER_UIDS_VARIABLE}"
        );
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// User ids of the accounts in the text of `/etc/passwd`.
fn passwd_uids(passwd: &str) -> HashSet<u32> {
    passwd.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect()
}

/// Creates the folder of the locks, which only we may write to.
fn lock_folder() -> io::Result<PathBuf> {
    let mut failed = None;
    for folder in LOCK_FOLDERS {
        match create_lock_folder(Path::new(folder)) {
            Ok(()) => return Ok(folder.into()),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

fn create_lock_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(folder)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && ours && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let message = format!("{} belongs to another user, or others may use it: remove it", folder.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

/// Locks a user id; `None` if another process holds the lock.
fn try_lock_uid(folder: &Path, uid: u32) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(false).mode(0o600).open(folder.join(uid.to_string()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Kills processes that still run as a user whose cast and janitor are gone. Does nothing if another cast has
/// reserved the user meanwhile.
pub(super) fn kill_stale_processes(uid: u32) {
    let in_range = uid_range(std::env::var(BROWSER_UIDS_VARIABLE).ok().as_deref())
        .is_ok_and(|range| (range.first..=range.last).contains(&uid));
    if in_range
        && let Ok(folder) = lock_folder()
        && let Ok(Some(_lock)) = try_lock_uid(&folder, uid)
        && let Err(error) = kill_processes_of(uid)
    {
        tracing::warn!(%error, uid, "cannot kill leftover browser processes");
    }
}

/// Kills all processes of a user, repeatedly until there are none.
fn kill_processes_of(uid: u32) -> io::Result<()> {
    for _ in 0..MAX_KILL_ATTEMPTS {
        let found = processes_of(uid)?;
        if found.is_empty() {
            return Ok(());
        }
        for pid in found {
            // Fails if the process has exited meanwhile.
            let _gone = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(KILL_RETRY_INTERVAL);
    }
    Err(io::Error::other(format!("processes of user {uid} cannot be killed")))
}

/// All processes whose real or effective user is `uid`, without zombies.
fn processes_of(uid: u32) -> io::Result<Vec<Pid>> {
    let entries = std::fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_user = |pid: &i32| {
        // The owner of the folder in /proc does not help: for a sandboxed process it is root.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let is_dead =
            status.lines().any(|line| line.starts_with("State:\tZ") || line.starts_with("State:\tX"));
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        !is_dead && ids.split_ascii_whitespace().any(|id| id.parse() == Ok(uid))
    };
    Ok(pids.filter(of_user).filter_map(Pid::from_raw).collect())
}

/// Whether the process at the other end of a socket runs as `uid`, the user of the browser, or as our own
/// user, as the browser does if it has no user of its own.
pub(crate) fn is_browser_peer(socket: &UnixStream, uid: Option<u32>) -> bool {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(socket) else { return false };
    Some(peer.uid.as_raw()) == uid || peer.uid == rustix::process::geteuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(UidRange::parse("1000-1000").unwrap(), UidRange { first: 1000, last: 1000 });
        for wrong in ["", "5", "0-10", "999-2000", "3000-2000", "a-b", "1000-", "1000-4294967296", "-1-5"] {
            let message = UidRange::parse(wrong).unwrap_err().to_string();
            assert!(
                message.contains("not a range of user ids") && message.contains("2000000000-2000065535"),
                "{message}"
            );
        }
        let all = "         0          0 4294967295\n";
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(DEFAULT_UID_RANGE.is_mapped(all) && DEFAULT_UID_RANGE_16_BIT.is_mapped(all));
        assert!(
            !DEFAULT_UID_RANGE.is_mapped(rootless)
                && DEFAULT_UID_RANGE_16_BIT.is_mapped(rootless)
                && !DEFAULT_UID_RANGE_16_BIT.is_mapped("nonsense")
        );
    }

    #[test]
    fn assigned_ids_are_found() {
        let found = passwd_uids("root:x:0:0:root:/root:/bin/sh\nnonsense\nann:x:60706:1::/:/bin/sh\n");
        assert_eq!(found, HashSet::from([0, 60_706]));
    }

    #[test]
    fn no_two_casts_have_the_same_user_and_leftover_processes_are_killed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can start processes of other users");
            return;
        }
        let folder = std::env::temp_dir().join(format!("pagecast-user-locks-{}", std::process::id()));
        create_lock_folder(&folder).unwrap();
        // Outside of the range that casts of this machine use.
        let range = UidRange { first: 1_999_000_000, last: 1_999_000_001 };
        let first = ReservedUser::reserve_in(&folder, range).unwrap();
        let second = ReservedUser::reserve_in(&folder, range).unwrap();
        assert_eq!((first.user.uid, second.user.uid), (range.first, range.last));
        assert!(ReservedUser::reserve_in(&folder, range).unwrap_err().to_string().contains("are in use"));
        let spec = super::super::SpawnOptions {
            program: Path::new("/bin/sh"),
            args: vec!["-c".into(), "sleep 1000".into()],
            env: vec![("PATH", "/usr/bin:/bin".into())],
            folder: Path::new("/"),
            fds: vec![],
            user: Some(first.user),
            isolated_run_folder: None,
            max_file_bytes: None,
            stderr: std::process::Stdio::null(),
        };
        let mut leftover = super::super::spawn(spec).unwrap();
        let copy = first.clone_lock().unwrap();
        drop(first);
        leftover.wait().unwrap();
        assert!(processes_of(range.first).unwrap().is_empty());
        assert!(ReservedUser::reserve_in(&folder, range).is_err(), "the janitor of the first still has it");
        drop(copy);
        assert_eq!(ReservedUser::reserve_in(&folder, range).unwrap().user.uid, range.first);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_used_for_locks() {
        let folder = std::env::temp_dir().join(format!("pagecast-open-locks-{}", std::process::id()));
        DirBuilder::new().mode(0o755).create(&folder).unwrap();
        let message = create_lock_folder(&folder).unwrap_err().to_string();
        assert!(message.contains("others may use it"), "{message}");
        std::fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink("/etc", &folder).unwrap();
        assert!(create_lock_folder(&folder).is_err());
        std::fs::remove_file(folder).unwrap();
    }
}
