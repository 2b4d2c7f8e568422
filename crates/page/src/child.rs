//! Starts child processes in sessions of their own, and makes sure that they end with the cast.
#![expect(unsafe_code, reason = "sets up the child between fork and exec")]
#![expect(clippy::disallowed_methods, reason = "this is the one place where child processes start")]

mod namespace;
mod user;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit, Signal, WaitId, WaitIdOptions, waitid};

pub use namespace::PRIVATE_FOLDER_VARIABLE;
pub use user::BROWSER_UIDS_VARIABLE;
pub(crate) use user::{ReservedUser, User, is_browser_peer};

/// Descriptors for the child are duplicated to this number or above, clear of 3, 4 … that it will have.
const MIN_DUPLICATE_FD: RawFd = 10;
/// Name of the janitor process, as `ps` shows it among the arguments.
const JANITOR_NAME: &str = "pagecast-janitor";
/// File in a run folder that is locked as long as a cast or its janitor uses the folder.
const LOCK_FILE_NAME: &str = "lock";

/// Kills a process group and removes a folder once its standard input closes: on request, or when the process
/// that started it is gone for any reason. Each input line names the group; an empty line means that it is
/// gone. Signals for the foreground of the terminal do not reach it. The optional second argument is a user
/// id that belongs to these processes alone: all processes of that user are killed, also those that left the
/// group. Standard error is the lock of that user: nothing is written to it.
const JANITOR_SCRIPT: &str = r#"
trap '' HUP INT TERM
while read -r line; do group=$line; done
[ -n "$group" ] && kill -s KILL -- "-$group" 2>/dev/null
[ -n "$2" ] && setpriv --reuid "$2" --regid "$2" --clear-groups /bin/sh -c 'kill -s KILL -- -1' 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" 2>/dev/null; [ -e "$1" ] || exit 0; sleep 0.1; done
exit 1
"#;

/// Program to start, with its surroundings and limits.
#[derive(Debug)]
pub(crate) struct SpawnOptions<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: Vec<String>,
    /// All environment variables of the child; it inherits none.
    pub(crate) env: Vec<(&'static str, String)>,
    pub(crate) folder: &'a Path,
    /// Descriptors that become 3, 4 … in the child.
    pub(crate) fds: Vec<OwnedFd>,
    /// User to run as, which only root can set; the own one if `None`.
    pub(crate) user: Option<User>,
    /// The run folder, if the child gets its own namespaces, in which it sees no other file of the service.
    pub(crate) isolated_run_folder: Option<&'a Path>,
    /// Largest file that it may write, in bytes; no limit if `None`.
    pub(crate) max_file_bytes: Option<u64>,
    pub(crate) stderr: Stdio,
}

/// Starts a child that leads a session and process group of its own and is killed when **the calling thread**
/// ends.
pub(crate) fn spawn(spec: SpawnOptions<'_>) -> io::Result<Child> {
    let fds = spec
        .fds
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, MIN_DUPLICATE_FD))
        .collect::<Result<Vec<_>, _>>()?;
    let (program, args) = match spec.isolated_run_folder {
        Some(run_folder) => namespace::unshare_command(spec.program, spec.args, run_folder),
        None => (spec.program.to_owned(), spec.args.into_iter().map(OsString::from).collect()),
    };
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(spec.env).current_dir(spec.folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(spec.stderr);
    if let Some(user) = spec.user {
        command.gid(user.gid).uid(user.uid);
    }
    // SAFETY: the closure only makes system calls; it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            if let Some(bytes) = spec.max_file_bytes {
                let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
                rustix::process::setrlimit(Resource::Fsize, limit)?;
                // A write beyond the limit then fails; by default the signal would end the process.
                if libc::signal(libc::SIGXFSZ, libc::SIG_IGN) == libc::SIG_ERR {
                    return Err(io::Error::last_os_error());
                }
            }
            for (fd, target) in fds.iter().zip(3..) {
                // SAFETY: nothing in the child owns the target descriptor yet; it stays open for the program.
                let mut target = ManuallyDrop::new(OwnedFd::from_raw_fd(target));
                rustix::io::dup2(fd, &mut target)?;
            }
            Ok(())
        });
    }
    command.spawn()
}

/// How a browser is separated from those of other casts and from the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// A system user of its own, with this id. Needs root.
    User(u32),
    /// The user of the service, but its own namespaces: it sees no process and no file of others.
    Namespaces,
    /// Only Chromium's own sandbox, because the system allows neither of the above.
    Sandbox,
}

impl Isolation {
    pub(crate) fn detect(user: Option<User>, run_folder: &Path) -> Self {
        match user {
            Some(user) => Self::User(user.uid),
            None if namespace::are_available(run_folder) => Self::Namespaces,
            None => Self::Sandbox,
        }
    }
}

/// Folder of the service that browsers must not see; passed on to the casts of this process.
static PRIVATE_FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Hides a folder from the browsers of all casts that are started from now on. Only the first call has an
/// effect.
pub fn set_private_folder(folder: &Path) {
    let _only_first_call_counts = PRIVATE_FOLDER.set(folder.to_owned());
}

/// User id range for browsers, if one is set; passed on to the casts of this process.
static BROWSER_UID_RANGE: OnceLock<String> = OnceLock::new();

/// Sets the user ids that browsers of all casts started from now on may have, both ends included. Only the
/// first call has an effect.
pub fn set_browser_uid_range(first: u32, last: u32) {
    let _only_first_call_counts = BROWSER_UID_RANGE.set(format!("{first}-{last}"));
}

/// Starts the process of a cast in a process group of its own, with pipes for standard input and output, and
/// for its log if `capture_log`. Its standard input ends when the caller is gone.
///
/// # Errors
/// The program cannot be started.
pub fn spawn_cast(program: &Path, args: &[&str], capture_log: bool) -> io::Result<Child> {
    let mut command = Command::new(program);
    let stderr = if capture_log { Stdio::piped() } else { Stdio::inherit() };
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    command.envs(PRIVATE_FOLDER.get().map(|folder| (PRIVATE_FOLDER_VARIABLE, folder)));
    command.envs(BROWSER_UID_RANGE.get().map(|range| (BROWSER_UIDS_VARIABLE, range)));
    if capture_log {
        // Without `pre_exec` the standard library need not copy the memory map of the caller, which would be
        // the most expensive part of starting a cast.
        command.process_group(0);
    } else {
        // Its log may go to a terminal, which can stop background processes of its own session.
        // SAFETY: the closure only makes a system call.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
        }
    }
    command.spawn()
}

/// Runs a small program to its end in an empty environment, and returns whether it succeeded.
///
/// # Errors
/// The program cannot be started. The inner error is its standard error, as one line of at most 1000
/// characters.
pub(crate) fn run_tool<'a>(
    program: &Path,
    arguments: impl Iterator<Item = &'a str>,
    folder: &Path,
) -> io::Result<Result<(), String>> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir(folder).stdin(Stdio::null());
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stderr: String = stderr.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(1000).collect();
    Ok(if output.status.success() { Ok(()) } else { Err(stderr) })
}

/// Whether a child has exited. Does not reap it, so it can still be waited for.
#[must_use]
pub fn has_exited(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(rustix::process::Pid::from_child(child)), options), Ok(None))
}

/// Removes the run folders that neither a cast nor its janitor uses any more, and kills the processes that
/// still run in them. Returns the removed folders.
#[must_use]
pub fn remove_stale_run_folders(base: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::geteuid().as_raw();
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let ours = entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == me);
        if !ours || !name.to_str().is_some_and(is_run_folder) {
            continue;
        }
        // The cast and its janitor hold this lock. Unlike their process ids, it also works across containers.
        let Ok(lock) = File::open(path.join(LOCK_FILE_NAME)) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        kill_processes_naming(&path);
        // The group of the folder is that of the browser, whose user has the same id.
        if let Ok(meta) = entry.metadata()
            && me == 0
            && meta.gid() != 0
        {
            user::kill_stale_processes(meta.gid());
        }
        if std::fs::remove_dir_all(&path).is_ok() {
            removed.push(path);
        }
    }
    removed
}

/// Whether a folder name is that of a run folder.
fn is_run_folder(name: &str) -> bool {
    let numbers = name.strip_prefix("pagecast-").and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(pid, attempt)| pid.parse::<u32>().is_ok() && attempt.parse::<u32>().is_ok())
}

/// Kills every process with the folder on its command line, as those of the browser have it.
fn kill_processes_naming(folder: &Path) {
    let Some(folder) = folder.to_str() else { return };
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        // The path of another folder may begin with this one: its number then continues with a digit.
        let named = |(at, _): (usize, &str)| {
            !arguments[at + folder.len()..].starts_with(|c: char| c.is_ascii_digit())
        };
        if arguments.match_indices(folder).any(named)
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // Fails if the process has exited meanwhile.
            let _gone = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// A temporary folder that lives as long as the cast, together with the processes that use it. When the cast
/// ends, even by SIGKILL, the processes are killed and the folder is removed.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    janitor: Child,
    janitor_stdin: Option<File>,
    _lock: File,
    // Released when the janitor, which also holds the lock, is gone.
    _user: Option<ReservedUser>,
}

impl RunFolder {
    /// Creates a folder in the temporary folder of the system. Of other users only `user`, that of the
    /// browser, may pass through it to paths that it knows; it cannot list it.
    pub(crate) fn create(user: Option<ReservedUser>) -> io::Result<Self> {
        let path = create_private_folder(0o700)?;
        Self::start_janitor(&path, user).inspect_err(|_| {
            // It holds no more than the lock file.
            let _gone = std::fs::remove_dir_all(&path);
        })
    }

    fn start_janitor(path: &Path, user: Option<ReservedUser>) -> io::Result<Self> {
        if let Some(ReservedUser { user, .. }) = &user {
            std::os::unix::fs::chown(path, None, Some(user.gid))?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o710))?;
        }
        let lock =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.join(LOCK_FILE_NAME))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", JANITOR_SCRIPT, JANITOR_NAME]).arg(path).current_dir("/");
        // The janitor holds the locks as its output streams, and writes nothing.
        command.stdin(Stdio::from(reader)).stdout(Stdio::from(lock.try_clone()?)).stderr(Stdio::null());
        if let Some(user) = &user {
            command.arg(user.user.uid.to_string()).stderr(Stdio::from(user.clone_lock()?));
        }
        // SAFETY: the closure only makes a system call.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
        }
        let janitor = command.spawn()?;
        Ok(Self {
            path: path.to_owned(),
            janitor,
            janitor_stdin: Some(File::from(writer)),
            _lock: lock,
            _user: user,
        })
    }

    /// Path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the process group to kill before the folder is removed; `None` when it is gone.
    pub(crate) fn set_process_group(&mut self, leader: Option<&Child>) -> io::Result<()> {
        let group = leader.map(|leader| leader.id().to_string()).unwrap_or_default();
        // One write, so that the janitor never reads half a number.
        self.janitor_stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(format!("{group}\n").as_bytes()))
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        self.janitor_stdin = None;
        if let Err(error) = self.janitor.wait() {
            tracing::warn!(%error, folder = %self.path.display(), "waiting for the janitor failed");
        }
    }
}

fn create_private_folder(mode: u32) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base = std::env::temp_dir();
    for attempt in 0..100 {
        let name = format!("pagecast-{}-{attempt}", std::process::id());
        let path = base.join(name);
        match std::fs::DirBuilder::new().mode(mode).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{} holds 100 run folders of this process id: remove those named pagecast-*", base.display()),
    ))
}

/// Both ends of a pipe: `(read, write)`, closed on exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawn_sleeper(folder: &Path) -> Child {
        let spec = SpawnOptions {
            program: Path::new("/bin/sh"),
            args: vec!["-c".into(), "sleep 1000 & wait".into()],
            env: vec![("PATH", "/usr/bin:/bin".into())],
            folder,
            fds: vec![],
            user: None,
            isolated_run_folder: None,
            max_file_bytes: None,
            stderr: Stdio::null(),
        };
        spawn(spec).unwrap()
    }

    #[test]
    fn the_janitor_ends_the_group_and_removes_the_folder() {
        let mut folder = RunFolder::create(None).unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("file"), b"x").unwrap();
        let mut child = spawn_sleeper(&path);
        folder.set_process_group(Some(&child)).unwrap();
        assert!(path.exists());
        drop(folder);
        assert!(!path.exists());
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn descriptors_arrive_as_three_and_four() {
        let (out_r, out_w) = pipe().unwrap();
        let (in_r, in_w) = pipe().unwrap();
        let spec = SpawnOptions {
            program: Path::new("/bin/sh"),
            args: vec!["-c".into(), "cat <&3 >&4".into()],
            env: vec![("PATH", "/usr/bin:/bin".into())],
            folder: Path::new("/"),
            fds: vec![in_r, out_w],
            user: None,
            isolated_run_folder: None,
            max_file_bytes: None,
            stderr: Stdio::null(),
        };
        let mut child = spawn(spec).unwrap();
        File::from(in_w).write_all(b"through").unwrap();
        assert_eq!(io::read_to_string(File::from(out_r)).unwrap(), "through");
        assert!(child.wait().unwrap().success());
    }
}
