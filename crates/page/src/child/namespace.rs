//! Runs each browser in its own Linux namespaces where we are not root, so that all browsers run as one user:
//! a browser sees no process and no file of other casts or of the service.
//!
//! The user namespace lets an unprivileged user create the others; the process and mount namespaces separate.
//! The tools are `unshare` and `setpriv` of util-linux and `mount`, which every Debian has.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Environment variable with a folder that browsers must not see: the data of the service.
pub const PRIVATE_FOLDER_VARIABLE: &str = "PAGECAST_PRIVATE_FOLDER";

const UNSHARE: &str = "/usr/bin/unshare";
const UNSHARE_ARGS: [&str; 8] = [
    "--user",
    "--map-current-user",
    "--keep-caps",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
];

/// Mounts empty folders over the temporary folder except for the run folder, over shared memory, and over
/// each folder named before `--`; then drops the right to mount and executes the program. Arguments: the run
/// folder, the temporary folder, folders to hide, `--`, the program and its arguments.
const MOUNT_SCRIPT: &str = r#"
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
run=$1 temporary=$2; shift 2
work=$(pwd)
cd "$run"
while [ "$1" != -- ]; do mount -t tmpfs -o mode=0500,ro tmpfs "$1"; shift; done
shift
mount -t tmpfs -o mode=0700 tmpfs "$temporary"
mkdir -p "$run"
mount -c --bind /proc/self/cwd "$run"
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
cd "$work"
exec setpriv --ambient-caps=-all --inh-caps=-all "$@"
"#;

/// Returns a command that runs `program` in its own namespaces. There it sees `run_folder`, but nothing else
/// in the temporary folder, in our home, or in the data folder of the service.
pub(super) fn unshare_command(
    program: &Path,
    args: Vec<String>,
    run_folder: &Path,
) -> (PathBuf, Vec<OsString>) {
    let temporary = run_folder.parent().unwrap_or(run_folder);
    let mut all: Vec<OsString> = UNSHARE_ARGS.iter().map(OsString::from).collect();
    all.extend(["/bin/sh", "-c", MOUNT_SCRIPT, "pagecast-namespace"].map(OsString::from));
    all.extend([run_folder, temporary].map(OsString::from));
    all.extend(folders_to_hide(program, temporary).into_iter().map(OsString::from));
    all.push("--".into());
    all.push(program.into());
    all.extend(args.into_iter().map(OsString::from));
    (UNSHARE.into(), all)
}

/// Folders of ours to hide: home, working directory and the data of the service, except those that contain
/// what the browser needs.
fn folders_to_hide(program: &Path, temporary: &Path) -> Vec<PathBuf> {
    let me = rustix::process::geteuid().as_raw();
    let named = ["HOME", PRIVATE_FOLDER_VARIABLE].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = named
        .chain(std::env::current_dir())
        .filter_map(|folder| folder.canonicalize().ok())
        .filter(|folder| std::fs::metadata(folder).is_ok_and(|meta| meta.is_dir() && meta.uid() == me))
        .filter(|folder| [program, temporary].iter().all(|needed| !needed.starts_with(folder)))
        // The temporary folder is hidden anyway.
        .filter(|folder| !folder.starts_with(temporary))
        .collect();
    folders.sort();
    // Hiding a folder hides those inside of it.
    folders.dedup_by(|inner, outer| inner.starts_with(outer));
    folders
}

/// Whether this machine lets us create these namespaces. Tried once, with a program that does nothing.
pub(super) fn are_available(run_folder: &Path) -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let (program, args) = unshare_command(Path::new("/bin/true"), Vec::new(), run_folder);
        let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
        let outcome = super::run_tool(&program, args.into_iter(), run_folder);
        let failure = outcome.unwrap_or_else(|error| Err(error.to_string())).err();
        if let Some(reason) = &failure {
            tracing::warn!(reason, "namespaces unavailable, browsers are not isolated from each other");
        }
        failure.is_none()
    })
}
