//! Namespaces of its own for each browser, where we are not root and all of them run as one user: it sees no
//! process and no file of another cast, nor the service's own.
//!
//! A user namespace is what lets a plain user have the others; processes and mounts are what separates. The
//! tools are `unshare` and `setpriv` of util-linux and `mount`, which every Debian has.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Names a folder that browsers must not see: the data of the service.
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

/// Covers the folder for temporary files but for the run folder, shared memory, and each folder named before
/// `--`; then gives up the right to mount anything and becomes the program. Arguments: the run folder, which is
/// the working directory, the folder for temporary files, folders to cover, `--`, the program with its own.
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

/// A program and its arguments, which run `program` in namespaces of its own. It sees `run_folder`, and
/// nothing else of the folder for temporary files, of our home, or of the service's data.
pub(super) fn unshare_command(
    program: &Path,
    args: Vec<String>,
    run_folder: &Path,
) -> (PathBuf, Vec<OsString>) {
    let temporary = run_folder.parent().unwrap_or(run_folder);
    let mut all: Vec<OsString> = UNSHARE_ARGS.iter().map(OsString::from).collect();
    all.extend(["/bin/sh", "-c", MOUNT_SCRIPT, "pagecast-cover"].map(OsString::from));
    all.extend([run_folder, temporary].map(OsString::from));
    all.extend(folders_to_hide(program, temporary).into_iter().map(OsString::from));
    all.push("--".into());
    all.push(program.into());
    all.extend(args.into_iter().map(OsString::from));
    (UNSHARE.into(), all)
}

/// Folders of ours to cover: home, working directory and the service's data, but for those that hold what the
/// browser needs.
fn folders_to_hide(program: &Path, temporary: &Path) -> Vec<PathBuf> {
    let me = rustix::process::geteuid().as_raw();
    let named = ["HOME", PRIVATE_FOLDER_VARIABLE].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = named
        .chain(std::env::current_dir())
        .filter_map(|folder| folder.canonicalize().ok())
        .filter(|folder| std::fs::metadata(folder).is_ok_and(|meta| meta.is_dir() && meta.uid() == me))
        .filter(|folder| [program, temporary].iter().all(|needed| !needed.starts_with(folder)))
        // Covered anyway.
        .filter(|folder| !folder.starts_with(temporary))
        .collect();
    folders.sort();
    // What is inside of another one is covered with it.
    folders.dedup_by(|inner, outer| inner.starts_with(outer));
    folders
}

/// Whether this machine lets us have them. Found out once, by a program that does nothing.
pub(super) fn are_available(run_folder: &Path) -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        let (program, args) = unshare_command(Path::new("/bin/true"), Vec::new(), run_folder);
        let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
        match super::run_tool(&program, args.into_iter(), run_folder) {
            Ok(Ok(())) => true,
            Ok(Err(why)) => {
                tracing::warn!(why, "browsers of different casts are not separated by namespaces");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "browsers of different casts are not separated by namespaces");
                false
            }
        }
    })
}
