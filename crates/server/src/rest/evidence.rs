//! Pictures and last words of a page in trouble. What is in them comes from the page: browsers get it as something that does nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path as FilePath;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::{ApiError, Caller, RestState, json_response};

/// Most files that are listed.
const MAX_FILES: usize = 500;
/// Largest file that is shown, in bytes.
const MAX_FILE_LEN: u64 = 32 << 20;
/// Longest name of a file.
const MAX_NAME_LEN: usize = 128;

/// Files that say what was wrong with a page.
#[derive(Serialize, ToSchema)]
pub(super) struct EvidenceList {
    /// By their names, at most 500.
    files: Vec<EvidenceFile>,
}

/// A file that says what was wrong with a page.
#[derive(Serialize, ToSchema)]
struct EvidenceFile {
    /// Its name.
    name: String,
    /// Bytes.
    bytes: u64,
    /// Where it is, below the server's address.
    href: String,
}

fn is_valid_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=MAX_NAME_LEN).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// What is wrong with the page: pictures and last words.
#[utoipa::path(get, path = "/v1/casts/{id}/evidence", tag = "casts", operation_id = "listEvidence",
    params(("id" = String, Path, description = "The cast.")),
    responses((status = 200, description = "The files that there are.", body = EvidenceList),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn list(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let folder = rest.service.cast_folder("evidence", &cast.id);
    let found = run_blocking(move || list_files(&folder)).await?;
    let file = |(name, bytes): (String, u64)| {
        let href = format!("/v1/casts/{}/evidence/{name}", cast.id);
        EvidenceFile { name, bytes, href }
    };
    Ok(json_response(StatusCode::OK, &EvidenceList { files: found.into_iter().map(file).collect() }))
}

/// One of these files.
#[utoipa::path(get, path = "/v1/casts/{id}/evidence/{name}", tag = "casts", operation_id = "getEvidence",
    params(("id" = String, Path, description = "The cast."), ("name" = String, Path, description = "The file.")),
    responses((status = 200, description = "It.", body = [u8], content_type = "application/octet-stream"),
        (status = 404, description = "`no-such-cast`, `no-such-file`.", body = ErrorResponse),
        (status = 413, description = "`too-large`: more than 32 MiB.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let missing = || ApiError::not_found("no-such-file", "this cast has no such file");
    if !is_valid_name(&name) {
        return Err(missing());
    }
    let folder = rest.service.cast_folder("evidence", &cast.id);
    let kind = content_type(&name);
    let bytes = match run_blocking(move || read_file(&folder, &name)).await? {
        ReadOutcome::Content(bytes) => bytes,
        ReadOutcome::NotFound => return Err(missing()),
        ReadOutcome::TooLarge => {
            let words = "this file has more than 32 MiB: look at it on the server";
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", words));
        }
    };
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
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

/// Disks are waited for elsewhere.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let outcome = tokio::task::spawn_blocking(work).await;
    let error = match outcome {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => error,
        Err(lost) => io::Error::other(lost),
    };
    tracing::warn!(%error, "evidence cannot be read");
    let words = "the files cannot be read: the log of the server says why";
    Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", words))
}

/// The folder itself, whatever the name means by now; `None` if there is none, or a link.
fn open_folder(folder: &FilePath) -> io::Result<Option<rustix::fd::OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, folder, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open_file(folder: &rustix::fd::OwnedFd, name: &str) -> io::Result<Option<(File, u64)>> {
    // A pipe would be waited for, for ever.
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

enum ReadOutcome {
    Content(Vec<u8>),
    NotFound,
    TooLarge,
}

fn read_file(folder: &FilePath, name: &str) -> io::Result<ReadOutcome> {
    let Some(folder) = open_folder(folder)? else { return Ok(ReadOutcome::NotFound) };
    let Some((file, length)) = open_file(&folder, name)? else { return Ok(ReadOutcome::NotFound) };
    if length > MAX_FILE_LEN {
        return Ok(ReadOutcome::TooLarge);
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(MAX_FILE_LEN).read_to_end(&mut bytes)?;
    Ok(ReadOutcome::Content(bytes))
}
