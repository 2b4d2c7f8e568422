//! Files and folders of this machine.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::{Attempt, Error};
use super::{Stored, probe_name};

/// A file, or a folder of files.
#[derive(Debug, Clone)]
pub(super) enum Local {
    File(PathBuf),
    Folder(PathBuf),
}

/// What a new file is made of.
enum Source {
    File(PathBuf),
    Bytes(Bytes),
}

impl Local {
    pub(super) fn place(&self) -> String {
        match self {
            Self::File(path) => folder_of(path).display().to_string(),
            Self::Folder(path) => path.display().to_string(),
        }
    }

    pub(super) async fn put(self, name: &str, file: &Path) -> Result<Stored, Error> {
        let file = file.to_owned();
        self.blocking(name, move |local, name| local.place_at(&name, Source::File(file))).await
    }

    pub(super) async fn put_bytes(self, name: &str, bytes: Bytes) -> Result<Stored, Error> {
        self.blocking(name, move |local, name| local.place_at(&name, Source::Bytes(bytes))).await
    }

    pub(super) async fn head(self, name: &str) -> Result<Option<Stored>, Error> {
        self.blocking(name, |local, name| match fs::metadata(local.target(&name)) {
            Ok(data) => Ok(Some(stored(data.len()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::of_disk(local.attempt("look for", &name), e)),
        })
        .await
    }

    pub(super) async fn delete(self, name: &str) -> Result<(), Error> {
        self.blocking(name, |local, name| match fs::remove_file(local.target(&name)) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::of_disk(local.attempt("delete", &name), e)),
        })
        .await
    }

    pub(super) async fn probe(self) -> Result<(), Error> {
        self.blocking(&probe_name(), |local, name| {
            let failed = |e| Error::of_disk(local.attempt("write", "a test file"), e);
            let folder = local.folder("write", "a test file")?;
            let path = folder.join(format!(".{name}"));
            let written = fs::write(&path, "Can be deleted: a test of Pagecast.\n");
            let removed = fs::remove_file(&path);
            written.and(removed).map_err(failed)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        self,
        name: &str,
        work: impl FnOnce(&Self, String) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let attempt = self.attempt("work on", name);
        let name = name.to_owned();
        let done = tokio::task::spawn_blocking(move || work(&self, name)).await;
        done.unwrap_or_else(|e| Err(Error::Local(attempt, io::Error::other(e))))
    }

    fn attempt(&self, verb: &'static str, name: &str) -> Attempt {
        let name = match self {
            Self::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Self::Folder(_) => name.to_owned(),
        };
        Attempt { verb, name, place: self.place() }
    }

    fn target(&self, name: &str) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Folder(path) => path.join(name),
        }
    }

    /// The folder, which must be there: one that is not may be a disk that is not mounted.
    fn folder(&self, verb: &'static str, name: &str) -> Result<&Path, Error> {
        let folder = match self {
            Self::File(path) => folder_of(path),
            Self::Folder(path) => path,
        };
        if folder.is_dir() {
            return Ok(folder);
        }
        Err(Error::Missing(self.attempt(verb, name), "there is no such folder: make it first".into()))
    }

    fn place_at(&self, name: &str, source: Source) -> Result<Stored, Error> {
        self.folder("store", name)?;
        let target = self.target(name);
        let expected = match &source {
            Source::File(file) => {
                let data =
                    File::open(file).and_then(|f| f.metadata()).map_err(|e| Error::unreadable(file, e))?;
                data.len()
            }
            Source::Bytes(bytes) => bytes.len() as u64,
        };
        let failed = |e| Error::of_disk(self.attempt("store", name), e);
        let folder = folder_of(&target);
        make_folders(folder).map_err(failed)?;
        let draft = folder.join(format!(".{}.part", probe_name()));
        let placed = draw_up(&draft, &source).and_then(|()| {
            let bytes = fs::metadata(&draft)?.len();
            if bytes != expected {
                return Err(io::Error::other(format!("{bytes} bytes were written of {expected}")));
            }
            fs::rename(&draft, &target)?;
            File::open(folder)?.sync_all()
        });
        // To rename a file to another name of itself does nothing, and there may be a draft after a failure.
        let _usually_gone = fs::remove_file(&draft);
        placed.map_err(failed)?;
        Ok(stored(expected))
    }
}

fn stored(bytes: u64) -> Stored {
    Stored { bytes, etag: None, medium: None }
}

/// The folder that something is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a folder and those above it, each of them known to the disk.
fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    make_folders(above)?;
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    File::open(above)?.sync_all()
}

/// A complete file at `draft`, on the disk. A second name of the same file costs nothing, where that is possible.
fn draw_up(draft: &Path, source: &Source) -> io::Result<()> {
    match source {
        Source::File(file) => {
            // Follows no link: whoever names a link wants what is behind it.
            let file = fs::canonicalize(file)?;
            if fs::hard_link(&file, draft).is_err() {
                fs::copy(&file, draft)?;
            }
            File::open(draft)?.sync_all()
        }
        Source::Bytes(bytes) => {
            let mut file = File::create_new(draft)?;
            file.write_all(bytes)?;
            file.sync_all()
        }
    }
}
