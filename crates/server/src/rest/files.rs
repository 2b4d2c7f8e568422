//! Files of a recording: what a player opens, and what belongs to it, from the storage that has them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, IF_RANGE, LOCATION, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use pagecast_core::spec::{Storage, is_object_name};
use pagecast_fleet::{Cast, CastId, EventKind, StoredFile, WorkerId};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

use super::casts::{read_events, set_header};
use super::error::ErrorResponse;
use super::{ApiError, Caller, ErrorCode, RestState, json_response};
use crate::internal_error::InternalError;
use crate::peer::PeerClient;
use crate::service::{RecordingReader, Service};

/// Bytes that are read at once: about a second of video, and one request to a bucket.
pub(crate) const CHUNK_LEN: usize = 512 << 10;
/// Most files that are sent at once, each with a chunk in memory. Further requests are refused.
const MAX_TRANSFERS: usize = 128;
/// Value of `Retry-After` beyond that, in seconds.
const RETRY_AFTER_S: u64 = 2;

/// Limits the files that are sent at once.
pub(super) struct Transfers(Arc<Semaphore>);

impl Default for Transfers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TRANSFERS)))
    }
}

/// Files of a cast's recording.
#[derive(Serialize, ToSchema)]
pub(super) struct RecordingFileList {
    /// The files that a player opens, in their order; none before the recording is stored.
    files: Vec<RecordingFile>,
}

/// File of a recording.
#[derive(Serialize, ToSchema)]
struct RecordingFile {
    /// Name of the file.
    name: String,
    /// Size in bytes.
    bytes: u64,
    /// Media type.
    #[schema(example = "video/mp4")]
    content_type: &'static str,
    /// Path of the file on this server.
    href: String,
    /// Whether browsers play the file by themselves: MP4, not a playlist.
    playable: bool,
}

/// List the files of a recording.
#[utoipa::path(get, path = "/v1/casts/{id}/files", tag = "casts", operation_id = "listFiles",
    params(("id" = String, Path, description = "Id of the cast.")),
    responses((status = 200, description = "The files.", body = RecordingFileList),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn list(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let stored = find_stored(&rest.service, &cast).await?.unwrap_or_default();
    let file = |file: StoredFile| RecordingFile {
        bytes: file.bytes,
        content_type: content_type(&file.name),
        href: format!("/v1/casts/{}/files/{}", cast.id, file.name),
        playable: file.name.ends_with(".mp4"),
        name: file.name,
    };
    let files = stored.files.into_iter().map(file).collect();
    Ok(json_response(StatusCode::OK, &RecordingFileList { files }))
}

/// Get a file of a recording: one that a player opens, or a segment or thumbnail that belongs to it.
///
/// Playlists are there while the cast runs, MP4 files when they are complete. With the parameter `download`,
/// browsers save the file.
#[utoipa::path(get, path = "/v1/casts/{id}/files/{name}", tag = "casts", operation_id = "getFile",
    params(("id" = String, Path, description = "Id of the cast."),
        ("name" = String, Path, description = "Name of the file."),
        ("download" = Option<bool>, Query, description = "Whether browsers save the file."),
        ("Range" = Option<String>, Header, description = "One range of bytes, as in `bytes=0-1023`.")),
    responses(
        (status = 200, description = "The file.", body = [u8], content_type = "application/octet-stream"),
        (status = 206, description = "The range.", body = [u8], content_type = "application/octet-stream",
            headers(("Content-Range" = String, description = "Place of the range, and size of the file."))),
        (status = 302, description = "The video-on-demand service has the file at this address.",
            headers(("Location" = String, description = "Address of the file."))),
        (status = 404, description = "`no-such-cast`, `no-such-file`.", body = ErrorResponse),
        (status = 416, description = "`range-not-satisfiable`: the range begins behind the end.",
            body = ErrorResponse),
        (status = 429, description = "`too-many-streams`, `too-many-requests`.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let cast = caller.find_cast(service, &id).await?;
    let is_download = parse_query(query.as_deref().unwrap_or_default())?;
    if !is_file_name(&name) {
        return Err(no_such_file());
    }
    let stored = find_stored(service, &cast).await?.unwrap_or_default();
    if let Some(url) = stored.address_of(&name) {
        return Ok(redirect(url));
    }
    let permit = Arc::clone(&rest.transfers.0).try_acquire_owned().map_err(|_| {
        let message = "too many files are being sent: try again in some seconds";
        ApiError::retry_later(ErrorCode::TooManyStreams, message, RETRY_AFTER_S)
    })?;
    let begin = first_byte(&headers);
    let (source, first, size) = open(service, &cast, &name, stored.backup, begin).await?;
    let range = requested_range(&headers, size)?;
    let (from, to) = range.unwrap_or((0, size));
    // What was read to find the file is the beginning of nearly all answers.
    let first = (from == begin).then_some(first);
    let transfer = Transfer { source, name: name.clone(), next: from, end: to, first, _permit: permit };
    let mut response = Response::new(Body::from_stream(chunks(transfer)));
    let head = response.headers_mut();
    head.insert(CONTENT_LENGTH, HeaderValue::from(to - from));
    head.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    head.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(&name)));
    head.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    head.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    head.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    let disposition = if is_download { "attachment" } else { "inline" };
    set_header(&mut response, CONTENT_DISPOSITION, &format!("{disposition}; filename=\"{name}\""));
    if range.is_some() {
        set_header(&mut response, CONTENT_RANGE, &format!("bytes {from}-{}/{size}", to - 1));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Whether this can be the name of a file: an object's, without folders.
fn is_file_name(name: &str) -> bool {
    !name.contains('/') && is_object_name(name)
}

fn no_such_file() -> ApiError {
    ApiError::new(ErrorCode::NoSuchFile, "this recording has no such file, or it is not stored yet")
}

fn redirect(url: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    set_header(&mut response, LOCATION, url);
    response
}

/// The files of a recording, as the last event says.
#[derive(Default)]
struct Stored {
    files: Vec<StoredFile>,
    backup: bool,
}

impl Stored {
    /// Address of a file that the storage gave one.
    fn address_of(&self, name: &str) -> Option<&str> {
        let file = self.files.iter().find(|file| file.name == name)?;
        file.url.as_deref().filter(|url| url.starts_with("https://") || url.starts_with("http://"))
    }
}

async fn find_stored(service: &Service, cast: &Cast) -> Result<Option<Stored>, ApiError> {
    let mut stored = None;
    if cast.spec.recording.is_some() {
        read_events(service, &cast.id, |event| {
            if let EventKind::Stored { files, backup, .. } = &event.kind {
                stored = Some(Stored { files: files.clone(), backup: *backup });
            }
        })
        .await?;
    }
    Ok(stored)
}

/// Who has a file.
enum Source {
    Storage(Arc<dyn RecordingReader>),
    Node(PeerClient, WorkerId, CastId),
}

impl Source {
    /// Reads a chunk, and the size of the file.
    async fn read(&self, name: &str, from: u64) -> io::Result<Option<(Bytes, u64)>> {
        match self {
            Self::Storage(reader) => reader.read(name, from, CHUNK_LEN).await,
            Self::Node(peers, node, cast) => {
                peers.read_recording(node, cast, name, from).await.map_err(io::Error::other)
            }
        }
    }
}

/// Finds a file: in the storage, or in the folder of another node. Returns the chunk from this offset, and
/// the size of the file.
async fn open(
    service: &Service,
    cast: &Cast,
    name: &str,
    backup: bool,
    from: u64,
) -> Result<(Source, Bytes, u64), ApiError> {
    let reader = reader_of(service, cast, backup).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::Unsupported => no_such_file(),
        _ => read_error(&error),
    })?;
    let source = Source::Storage(Arc::clone(&reader));
    if let Some((chunk, size)) = source.read(name, from).await.map_err(|error| read_error(&error))? {
        return Ok((source, chunk, size));
    }
    if let (true, Some(peers)) = (reader.is_local(), &service.peers) {
        for node in peers.nodes() {
            let source = Source::Node(peers.clone(), node.clone(), cast.id.clone());
            match source.read(name, from).await {
                Ok(Some((chunk, size))) => return Ok((source, chunk, size)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(cast = %cast.id, node = node.0, %error, "cannot read a recording");
                }
            }
        }
    }
    Err(no_such_file())
}

fn reader_of(service: &Service, cast: &Cast, backup: bool) -> io::Result<Arc<dyn RecordingReader>> {
    service.recordings.as_ref().ok_or(io::ErrorKind::Unsupported)?.open(cast, backup)
}

/// Reads a chunk of a file in a folder of this node, for another node.
pub(crate) async fn read_local(
    service: &Service,
    cast: &Cast,
    name: &str,
    from: u64,
) -> io::Result<Option<(Bytes, u64)>> {
    if !is_file_name(name) {
        return Ok(None);
    }
    let recording = cast.spec.recording.as_ref();
    for (backup, storage) in recording
        .iter()
        .flat_map(|recording| [(false, Some(&recording.to)), (true, recording.backup.as_ref())])
    {
        if matches!(storage, Some(Storage::Folder(_)))
            && let Some(found) = reader_of(service, cast, backup)?.read(name, from, CHUNK_LEN).await?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read_error(error: &io::Error) -> ApiError {
    let message = "the file cannot be read from the storage: the log of the service has the cause under this \
                   request id";
    ApiError::internal(InternalError::new("read a recording", error), message)
}

/// The rest of an answer.
struct Transfer {
    source: Source,
    name: String,
    /// Offset of the next byte.
    next: u64,
    /// Offset behind the last byte.
    end: u64,
    /// A chunk that was read already.
    first: Option<Bytes>,
    _permit: OwnedSemaphorePermit,
}

/// Reads the chunks of an answer, each when the client has taken the one before. If one cannot be read, the
/// answer ends before its length, which clients notice.
fn chunks(transfer: Transfer) -> impl Stream<Item = Result<Bytes, Infallible>> {
    unfold(transfer, |mut transfer| async move {
        let left = usize::try_from(transfer.end.saturating_sub(transfer.next)).unwrap_or(usize::MAX);
        if left == 0 {
            return None;
        }
        let mut chunk = match transfer.first.take() {
            Some(chunk) => chunk,
            None => match transfer.source.read(&transfer.name, transfer.next).await {
                Ok(found) => found?.0,
                Err(error) => {
                    tracing::warn!(%error, "reading a recording failed");
                    return None;
                }
            },
        };
        chunk.truncate(left);
        if chunk.is_empty() {
            return None;
        }
        transfer.next += chunk.len() as u64;
        Some((Ok(chunk), transfer))
    })
}

/// Offset at which the range of a request probably begins: only its file's size tells for sure.
fn first_byte(headers: &HeaderMap) -> u64 {
    let text = headers.get(RANGE).and_then(|header| header.to_str().ok()?.strip_prefix("bytes="));
    text.and_then(|text| text.split_once('-')?.0.trim().parse().ok()).unwrap_or(0)
}

/// The range of bytes that a request asks for, its end exclusive; `None` means the whole file.
fn requested_range(headers: &HeaderMap, size: u64) -> Result<Option<(u64, u64)>, ApiError> {
    // Files have no validators, so a condition is never met.
    let header = headers.get(RANGE).filter(|_| !headers.contains_key(IF_RANGE));
    let text = header.and_then(|header| header.to_str().ok()).and_then(|text| text.strip_prefix("bytes="));
    // Several ranges are allowed to be answered with everything.
    let Some((from, to)) = text.and_then(|text| text.split_once('-')).filter(|(_, to)| !to.contains(','))
    else {
        return Ok(None);
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => (from, to.saturating_add(1).min(size)),
        (Some(from), None) if to.trim().is_empty() => (from, size),
        (None, Some(length)) if from.trim().is_empty() => (size.saturating_sub(length), size),
        _ => return Ok(None),
    };
    if range.0 < range.1 {
        return Ok(Some(range));
    }
    let message = format!("the file has {size} bytes: ask for a range within it");
    Err(ApiError::new(ErrorCode::RangeNotSatisfiable, message).with_field("Range"))
}

fn parse_query(query: &str) -> Result<bool, ApiError> {
    let mut is_download = false;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        is_download = match (&*name, &*value) {
            ("download", "true" | "") => true,
            ("download", "false") => false,
            ("download", _) => {
                return Err(ApiError::invalid_parameter("download", "it must be true or false"));
            }
            _ => return Err(ApiError::invalid_parameter(name, "there is no such parameter: use download")),
        };
    }
    Ok(is_download)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("mp4") => "video/mp4",
        Some("m4s") => "video/iso.segment",
        Some("ts") => "video/mp2t",
        Some("m3u8") => "application/vnd.apple.mpegurl",
        Some("m4a") => "audio/mp4",
        Some("aac") => "audio/aac",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("vtt") => "text/vtt",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        let range = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_str(text).unwrap());
            requested_range(&headers, 100).map_err(|error| error.code())
        };
        for (text, expected) in [
            ("bytes=0-", Ok(Some((0, 100)))),
            ("bytes=0-0", Ok(Some((0, 1)))),
            ("bytes=10-19", Ok(Some((10, 20)))),
            ("bytes=90-1000", Ok(Some((90, 100)))),
            ("bytes=-10", Ok(Some((90, 100)))),
            ("bytes=-1000", Ok(Some((0, 100)))),
            ("bytes=99-18446744073709551615", Ok(Some((99, 100)))),
            ("bytes=100-", Err(ErrorCode::RangeNotSatisfiable)),
            ("bytes=-0", Err(ErrorCode::RangeNotSatisfiable)),
            // Malformed ranges and several ones are ignored.
            ("bytes=20-10", Ok(None)),
            ("bytes=a-b", Ok(None)),
            ("bytes=-", Ok(None)),
            ("bytes=0-1,5-6", Ok(None)),
            ("lines=0-1", Ok(None)),
        ] {
            assert_eq!(range(text), expected, "{text}");
        }
    }
}
