//! Stores objects as local files.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use super::error::{Attempt, Error};
use super::{ListedObject, StoredObject, probe_name, too_large};

/// A single file, or a folder of files.
#[derive(Debug, Clone)]
pub(super) enum LocalStore {
    File(PathBuf),
    Folder(PathBuf),
}

/// Contents of a new object.
enum Content {
    File(PathBuf),
    Bytes(Bytes),
}

impl LocalStore {
    pub(super) fn location(&self) -> String {
        match self {
            Self::File(path) => parent_folder(path).display().to_string(),
            Self::Folder(path) => path.display().to_string(),
        }
    }

    pub(super) async fn put(self, name: &str, file: &Path) -> Result<StoredObject, Error> {
        let file = file.to_owned();
        self.blocking(name, move |local, name| local.put_content(&name, Content::File(file))).await
    }

    pub(super) async fn put_bytes(self, name: &str, bytes: Bytes) -> Result<StoredObject, Error> {
        self.blocking(name, move |local, name| local.put_content(&name, Content::Bytes(bytes))).await
    }

    pub(super) async fn head(self, name: &str) -> Result<Option<StoredObject>, Error> {
        self.blocking(name, |local, name| match fs::metadata(local.target_path(&name)) {
            Ok(data) => Ok(Some(stored_object(data.len()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from_disk_error(local.attempt("look up", &name), e)),
        })
        .await
    }

    pub(super) async fn get(self, name: &str, max_bytes: usize) -> Result<Option<Bytes>, Error> {
        self.blocking(name, move |local, name| match read_up_to(&local.target_path(&name), max_bytes) {
            Ok(content) if content.len() > max_bytes => {
                Err(Error::Permanent(local.attempt("read", &name), too_large(max_bytes)))
            }
            Ok(content) => Ok(Some(content.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from_disk_error(local.attempt("read", &name), e)),
        })
        .await
    }

    pub(super) async fn read_range(
        self,
        name: &str,
        from: u64,
        max: usize,
    ) -> Result<Option<(Bytes, u64)>, Error> {
        self.blocking(name, move |local, name| match read_at(&local.target_path(&name), from, max) {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from_disk_error(local.attempt("read", &name), e)),
        })
        .await
    }

    pub(super) async fn download(
        self,
        name: &str,
        mut to: File,
        max_bytes: u64,
    ) -> Result<Option<u64>, Error> {
        self.blocking(name, move |local, name| {
            let copied = File::open(local.target_path(&name)).and_then(|from| {
                // One byte more tells that the object is larger.
                io::copy(&mut from.take(max_bytes.saturating_add(1)), &mut to)
            });
            match copied {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(Error::from_disk_error(local.attempt("read", &name), e)),
            }
        })
        .await
    }

    pub(super) async fn list(self, folder: &str, max: usize) -> Result<Vec<ListedObject>, Error> {
        self.blocking(folder, move |local, folder| {
            let root = local.target_path("");
            let mut objects = Vec::new();
            let mut folders = vec![local.target_path(&folder)];
            while let Some(folder) = folders.pop() {
                let entries = match fs::read_dir(&folder) {
                    Ok(entries) => entries,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(Error::from_disk_error(local.attempt("list", "objects"), e)),
                };
                for entry in entries.flatten() {
                    let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
                    if objects.len() + folders.len() >= max {
                        return Ok(objects);
                    }
                    if meta.is_dir() {
                        folders.push(path);
                        continue;
                    }
                    let modified = meta.modified().unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH);
                    let modified_ms = i64::try_from(modified.unwrap_or_default().as_millis()).unwrap_or(0);
                    let name = path.strip_prefix(&root).ok().and_then(Path::to_str).map(str::to_owned);
                    objects.extend(name.map(|name| ListedObject { name, bytes: meta.len(), modified_ms }));
                }
            }
            Ok(objects)
        })
        .await
    }

    /// Removes a folder, if it is empty.
    pub(super) async fn remove_folder(self, folder: &str) {
        let removed = self.blocking(folder, |local, folder| {
            // It does not exist, or a new object was stored in it.
            let _kept = fs::remove_dir(local.target_path(&folder));
            Ok(())
        });
        // A task that was cancelled leaves an empty folder.
        let _done = removed.await;
    }

    pub(super) async fn delete(self, name: &str) -> Result<(), Error> {
        self.blocking(name, |local, name| match fs::remove_file(local.target_path(&name)) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::from_disk_error(local.attempt("delete", &name), e)),
        })
        .await
    }

    pub(super) async fn probe(self) -> Result<(), Error> {
        self.blocking(&probe_name(), |local, name| {
            let failed = |e| Error::from_disk_error(local.attempt("write", "a test file"), e);
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
        Attempt { verb, name, location: self.location() }
    }

    fn target_path(&self, name: &str) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Folder(path) => path.join(name),
        }
    }

    /// The folder, which must exist: a missing one may be a disk that is not mounted.
    fn folder(&self, verb: &'static str, name: &str) -> Result<&Path, Error> {
        let folder = match self {
            Self::File(path) => parent_folder(path),
            Self::Folder(path) => path,
        };
        if folder.is_dir() {
            return Ok(folder);
        }
        Err(Error::NotFound(self.attempt(verb, name), "the folder does not exist: create it first".into()))
    }

    fn put_content(&self, name: &str, source: Content) -> Result<StoredObject, Error> {
        self.folder("store", name)?;
        let target = self.target_path(name);
        let expected = match &source {
            Content::File(file) => {
                let data = File::open(file)
                    .and_then(|f| f.metadata())
                    .map_err(|e| Error::source_unreadable(file, e))?;
                data.len()
            }
            Content::Bytes(bytes) => bytes.len() as u64,
        };
        let failed = |e| Error::from_disk_error(self.attempt("store", name), e);
        let folder = parent_folder(&target);
        create_folders(folder).map_err(failed)?;
        let draft = folder.join(format!(".{}.part", probe_name()));
        let placed = write_draft(&draft, &source).and_then(|()| {
            let bytes = fs::metadata(&draft)?.len();
            if bytes != expected {
                return Err(io::Error::other(format!("wrote {bytes} of {expected} bytes")));
            }
            fs::rename(&draft, &target)?;
            File::open(folder)?.sync_all()
        });
        // Renaming a hard link onto the same file leaves the draft, and so does a failure.
        let _usually_gone = fs::remove_file(&draft);
        placed.map_err(failed)?;
        Ok(stored_object(expected))
    }
}

/// Reads a file, and one byte more than `max_bytes` if it is larger.
fn read_up_to(path: &Path, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take((max_bytes as u64).saturating_add(1)).read_to_end(&mut content)?;
    Ok(content)
}

/// Reads a part of a file, and the size of the file.
fn read_at(path: &Path, from: u64, max: usize) -> io::Result<(Bytes, u64)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.min(size)))?;
    let mut content = Vec::new();
    file.take(max as u64).read_to_end(&mut content)?;
    Ok((content.into(), size))
}

fn stored_object(bytes: u64) -> StoredObject {
    StoredObject { bytes, etag: None, vod_asset: None }
}

/// The parent folder of a path; `.` for a bare file name.
pub(crate) fn parent_folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates a folder and its parents and syncs each to the disk.
fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent_folder(folder);
    create_folders(above)?;
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    File::open(above)?.sync_all()
}

/// Writes a complete file to `draft` and syncs it. Uses a hard link where possible, which copies nothing.
fn write_draft(draft: &Path, source: &Content) -> io::Result<()> {
    match source {
        Content::File(file) => {
            // `hard_link` does not follow symbolic links, but the target is what shall be stored.
            let file = fs::canonicalize(file)?;
            if fs::hard_link(&file, draft).is_err() {
                fs::copy(&file, draft)?;
            }
            File::open(draft)?.sync_all()
        }
        Content::Bytes(bytes) => {
            let mut file = File::create_new(draft)?;
            file.write_all(bytes)?;
            file.sync_all()
        }
    }
}
