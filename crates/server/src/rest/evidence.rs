//! Evidence files: screenshots and console output of a page with a fault. Their content comes from the page,
//! so they are served in a way that a browser does not execute.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path as FilePath;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use pagecast_fleet::{CastId, is_stats_history};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::{ApiError, Caller, ErrorCode, RestState, json_response};
use crate::internal_error::InternalError;
use crate::service::{Service, StoredEvidence};

/// Most files in a list. A page that keeps failing must not make an unbounded answer.
pub(crate) const MAX_FILES: usize = 500;
/// Largest file that is served, in bytes, because it is read into memory.
pub(crate) const MAX_FILE_LEN: u64 = 32 << 20;
/// Longest time for an answer of the fleet's store.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest name of a file, in bytes.
const MAX_NAME_LEN: usize = 128;

/// Evidence of faults of a page.
#[derive(Serialize, ToSchema)]
pub(super) struct EvidenceList {
    /// At most 500 files, sorted by name.
    files: Vec<EvidenceFile>,
}

/// An evidence file.
#[derive(Serialize, ToSchema)]
struct EvidenceFile {
    /// Name of the file.
    name: String,
    /// Size in bytes.
    bytes: u64,
    /// Path on this server.
    href: String,
}

/// Whether this can be the name of an evidence file.
pub(crate) fn is_valid_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=MAX_NAME_LEN).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// List the evidence of a cast: screenshots and console output.
#[utoipa::path(get, path = "/v1/casts/{id}/evidence", tag = "casts", operation_id = "listEvidence",
    params(("id" = String, Path, description = "The cast.")),
    responses((status = 200, description = "The files.", body = EvidenceList),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn list(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let mut found = find_all(&rest.service, &cast.id).await.map_err(read_error)?;
    found.retain(|(name, _)| !is_stats_history(name));
    let file = |(name, bytes): (String, u64)| {
        let href = format!("/v1/casts/{}/evidence/{name}", cast.id);
        EvidenceFile { name, bytes, href }
    };
    Ok(json_response(StatusCode::OK, &EvidenceList { files: found.into_iter().map(file).collect() }))
}

/// Get an evidence file.
#[utoipa::path(get, path = "/v1/casts/{id}/evidence/{name}", tag = "casts", operation_id = "getEvidence",
    params(("id" = String, Path, description = "The \
        cast."), ("name" = String, Path, description = "Name of the file.")),
    responses((status = 200, description = "The \
        file.", body = [u8], content_type = "application/octet-stream"),
        (status = 404, description = "`no-such-cast`, `no-such-file`.", body = ErrorResponse),
        (status = 413, description = "`too-large`: the file is larger than 32 MiB.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let missing = || ApiError::new(ErrorCode::NoSuchFile, "this cast has no such file");
    if !is_valid_name(&name) {
        return Err(missing());
    }
    let content_type_name = content_type(&name);
    let content = read_any(&rest.service, &cast.id, &name).await.map_err(read_error)?;
    let bytes = match content {
        EvidenceContent::Bytes(bytes) => bytes,
        EvidenceContent::NotFound => return Err(missing()),
        EvidenceContent::TooLarge => {
            let message = "the file is larger than 32 MiB: open it on the server";
            return Err(ApiError::new(ErrorCode::TooLarge, message));
        }
    };
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type_name));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    Ok(response)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("png") => "image/png",
        Some("txt" | "log") => "text/plain; charset=utf-8",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// Lists the files of a cast on all nodes and in the store of the fleet: names and sizes, sorted by name.
pub(super) async fn find_all(service: &Service, cast: &CastId) -> io::Result<Vec<(String, u64)>> {
    let mut found = list_local(service, cast).await?;
    if let Some(peers) = &service.peers {
        // A cast may have run on several nodes.
        found.extend(peers.find_evidence(cast).await);
    }
    if let Some(store) = &service.evidence {
        // Behind those of the nodes, which are current.
        found.extend(list_stored(store.as_ref(), cast).await);
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.dedup_by(|(a, _), (b, _)| a == b);
    found.truncate(MAX_FILES);
    Ok(found)
}

/// Reads a file of a cast from whichever node or store has it. `name` must be [valid](is_valid_name).
pub(super) async fn read_any(service: &Service, cast: &CastId, name: &str) -> io::Result<EvidenceContent> {
    let mut content = read_local(service, cast, name.to_owned()).await?;
    if let (EvidenceContent::NotFound, Some(peers)) = (&content, &service.peers) {
        content = peers.read_evidence(cast, name).await;
    }
    if let (EvidenceContent::NotFound, Some(store)) = (&content, &service.evidence) {
        content = read_stored(store.as_ref(), cast, name).await?;
    }
    Ok(content)
}

pub(super) fn read_error(error: io::Error) -> ApiError {
    let message = "the evidence cannot be read: the log of the service has the cause under this request id";
    ApiError::internal(InternalError::new("read evidence", &error), message)
}

/// Lists the evidence of a cast in the store of the fleet. Without an answer, there is what the nodes have.
async fn list_stored(store: &dyn StoredEvidence, cast: &CastId) -> Vec<(String, u64)> {
    let listed = timeout(STORE_TIMEOUT, store.list(cast, MAX_FILES)).await;
    let listed = listed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let mut files = listed.unwrap_or_else(|error| {
        tracing::warn!(%cast, %error, "cannot list evidence in the fleet's store");
        Vec::new()
    });
    files.retain(|(name, _)| is_valid_name(name));
    files
}

/// Reads an evidence file from the store of the fleet.
async fn read_stored(store: &dyn StoredEvidence, cast: &CastId, name: &str) -> io::Result<EvidenceContent> {
    let read = timeout(STORE_TIMEOUT, store.read(cast, name, MAX_FILE_LEN as usize)).await;
    let found = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok(found.map_or(EvidenceContent::NotFound, EvidenceContent::Bytes))
}

/// Lists the evidence of a cast on this node: names and sizes, sorted by name.
pub(crate) async fn list_local(service: &Service, cast: &CastId) -> io::Result<Vec<(String, u64)>> {
    let folder = service.cast_folder("evidence", cast);
    run_blocking(move || list_files(&folder)).await
}

/// Reads an evidence file on this node. `name` must be [valid](is_valid_name).
pub(crate) async fn read_local(
    service: &Service,
    cast: &CastId,
    name: String,
) -> io::Result<EvidenceContent> {
    let folder = service.cast_folder("evidence", cast);
    run_blocking(move || read_file(&folder, &name)).await
}

/// Runs file operations on a blocking thread.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Opens a folder without following links, so that it cannot be exchanged afterwards; `None` if it does not
/// exist or is a link.
fn open_folder(folder: &FilePath) -> io::Result<Option<rustix::fd::OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, folder, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open_file(folder: &rustix::fd::OwnedFd, name: &str) -> io::Result<Option<(File, u64)>> {
    // Opening a pipe would otherwise block without limit.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&fd)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(regular.then(|| (File::from(fd), u64::try_from(stat.st_size).unwrap_or_default())))
}

fn list_files(folder: &FilePath) -> io::Result<Vec<(String, u64)>> {
    let Some(folder) = open_folder(folder)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().ok().filter(|name| is_valid_name(name)) else { continue };
        if let Some((_, bytes)) = open_file(&folder, name)? {
            found.push((name.to_owned(), bytes));
        }
        if found.len() == MAX_FILES {
            break;
        }
    }
    found.sort();
    Ok(found)
}

/// Content of an evidence file, if there is one.
#[derive(Debug)]
pub(crate) enum EvidenceContent {
    /// The whole file.
    Bytes(Vec<u8>),
    /// There is no such file.
    NotFound,
    /// The file is larger than [`MAX_FILE_LEN`].
    TooLarge,
}

fn read_file(folder: &FilePath, name: &str) -> io::Result<EvidenceContent> {
    let Some(folder) = open_folder(folder)? else { return Ok(EvidenceContent::NotFound) };
    let Some((file, length)) = open_file(&folder, name)? else { return Ok(EvidenceContent::NotFound) };
    if length > MAX_FILE_LEN {
        return Ok(EvidenceContent::TooLarge);
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    file.take(MAX_FILE_LEN).read_to_end(&mut bytes)?;
    Ok(EvidenceContent::Bytes(bytes))
}
