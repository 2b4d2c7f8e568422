//! Reads request bodies with limits on length, time and the number of large bodies at once.
//!
//! A signature covers the body, so a sender is not authenticated before the body is complete. A head that
//! names a known key probably comes from a customer; any other sender is anonymous, gets lower limits, and
//! competes with other anonymous senders only.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::service::Service;

/// Longest body of a request to `/`, in bytes: Tencent's limit.
pub const MAX_BODY_LEN: usize = 10 << 20;
/// Longest body of an anonymous sender, in bytes: Volcengine's limit. Longer bodies count as large.
const SMALL_BODY_LEN: usize = 1 << 16;
/// Longest form of an anonymous sender, in bytes: the limit of Tencent's signature version 1, whose key id is
/// in the form itself.
const MAX_ANONYMOUS_FORM_LEN: usize = 1 << 20;
/// Longest time that a body may take to arrive: 10 MiB at 3 Mbit/s. Shorter in tests.
const BODY_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 2000 } else { 30_000 });
/// The same for an anonymous sender, whose connection others may need: 1 MiB at 1 Mbit/s.
const ANONYMOUS_BODY_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });
/// Most large bodies at once. One of 10 MiB takes up to 30 MB until it is answered: 240 MB together.
const MAX_LARGE_BODIES: usize = 8;
/// Most large bodies at once of one key, so that one key cannot take all permits. Anyone who knows the id of
/// a key can use its permits.
const MAX_LARGE_BODIES_PER_KEY: usize = 2;
/// Most large bodies at once of all anonymous senders, 1 MiB each.
const MAX_ANONYMOUS_LARGE_BODIES: usize = 4;

static KEYED_LIMITER: LazyLock<LargeBodyLimiter> =
    LazyLock::new(|| LargeBodyLimiter::new(MAX_LARGE_BODIES, MAX_LARGE_BODIES_PER_KEY));
static ANONYMOUS_LIMITER: LazyLock<LargeBodyLimiter> =
    LazyLock::new(|| LargeBodyLimiter::new(MAX_ANONYMOUS_LARGE_BODIES, MAX_ANONYMOUS_LARGE_BODIES));

/// Sender of a body as its head claims; nothing is proved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClaimedPrincipal {
    /// The head names a known key or token.
    Key(String),
    /// Any other sender.
    Anonymous,
}

/// Why a body cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body did not arrive in time")]
    TimedOut,
    #[error("the body cannot be read")]
    ReadFailed,
    #[error(
        "the body has more than {0} bytes, the limit for requests whose headers name no known access key"
    )]
    TooLarge(usize),
}

impl ClaimedPrincipal {
    /// Sender of a request to `/`: the key id that `Authorization` names, with a valid signature or not.
    pub(super) fn from_headers(service: &Service, headers: &HeaderMap) -> Self {
        let text = headers.get(axum::http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Both vendors write `Credential=ID/…`.
        let credential = text.and_then(|text| text.split_once("Credential="));
        let id = credential.and_then(|(_, rest)| rest.split(['/', ',', ' ']).next()).unwrap_or_default();
        if service.apps.by_key(id).is_empty() { Self::Anonymous } else { Self::Key(format!("key {id}")) }
    }

    /// Longest body of an anonymous sender, in bytes.
    fn max_anonymous_len(headers: &HeaderMap) -> usize {
        let content_type =
            headers.get(axum::http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_form = content_type
            .is_some_and(|content_type| content_type.starts_with("application/x-www-form-urlencoded"));
        if is_form { MAX_ANONYMOUS_FORM_LEN } else { SMALL_BODY_LEN }
    }
}

/// Body of a request with its SHA-256, computed while the body arrived.
#[derive(Debug, Clone)]
pub struct HashedBody {
    bytes: Bytes,
    sha256: digest::Digest,
}

impl HashedBody {
    /// The empty body.
    #[must_use]
    pub fn empty() -> Self {
        Bytes::new().into()
    }

    /// SHA-256 of the body, 32 bytes.
    #[must_use]
    pub fn sha256(&self) -> &[u8] {
        self.sha256.as_ref()
    }

    /// The bytes without the hash.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl From<Bytes> for HashedBody {
    fn from(bytes: Bytes) -> Self {
        let sha256 = digest::digest(&digest::SHA256, &bytes);
        Self { bytes, sha256 }
    }
}

impl Deref for HashedBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body, whatever `Content-Length` says. A body over `max_len` bytes ends one byte behind it, so that
/// the front end can refuse it in its own format. An anonymous body over its lower limit is an error here.
pub(super) async fn read(
    body: Body,
    sender: &ClaimedPrincipal,
    headers: &HeaderMap,
    max_len: usize,
) -> Result<HashedBody, BodyError> {
    let ClaimedPrincipal::Anonymous = sender else { return read_up_to(body, sender, max_len).await };
    let max_anonymous = max_len.min(ClaimedPrincipal::max_anonymous_len(headers));
    let bytes = read_up_to(body, sender, max_anonymous).await?;
    if bytes.len() > max_anonymous { Err(BodyError::TooLarge(max_anonymous)) } else { Ok(bytes) }
}

/// Reads a body of at most `max_len` bytes, and one byte more of a longer one.
pub(crate) async fn read_up_to(
    body: Body,
    sender: &ClaimedPrincipal,
    max_len: usize,
) -> Result<HashedBody, BodyError> {
    let (limiter, key, deadline) = match sender {
        ClaimedPrincipal::Key(key) => (&*KEYED_LIMITER, key.as_str(), BODY_TIMEOUT),
        ClaimedPrincipal::Anonymous => (&*ANONYMOUS_LIMITER, "", ANONYMOUS_BODY_TIMEOUT),
    };
    timeout(deadline, collect(body, max_len, limiter, key)).await.map_err(|_| BodyError::TimedOut)?
}

async fn collect(
    mut body: Body,
    max_len: usize,
    limiter: &LargeBodyLimiter,
    key: &str,
) -> Result<HashedBody, BodyError> {
    let mut buffer = BytesMut::new();
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let mut permit = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::ReadFailed)?.into_data() else { continue };
        let taken = data.len().min(max_len + 1 - buffer.len());
        if buffer.len() + taken > SMALL_BODY_LEN && permit.is_none() {
            permit = limiter.acquire(key).await;
            // Reserves the whole length if it is known: growing step by step takes up to three times as much
            // memory.
            let announced = http_body::Body::size_hint(&body).lower();
            let announced = usize::try_from(announced).unwrap_or(usize::MAX).saturating_add(taken);
            buffer.reserve(announced.min(max_len + 1 - buffer.len()));
        }
        buffer.extend_from_slice(&data[..taken]);
        sha256.update(&data[..taken]);
        if buffer.len() > max_len {
            break;
        }
    }
    let bytes = match permit {
        // The permit lives as long as any reference to the bytes.
        Some(permit) => Bytes::from_owner(PermittedBytes { bytes: buffer.freeze(), _permit: permit }),
        None => buffer.freeze(),
    };
    Ok(HashedBody { bytes, sha256: sha256.finish() })
}

/// A large body with its permit.
struct PermittedBytes {
    bytes: Bytes,
    _permit: LargeBodyPermit,
}

impl AsRef<[u8]> for PermittedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Limits the number of large bodies. When it is full, bodies wait within their time limit.
struct LargeBodyLimiter {
    permits: Arc<Semaphore>,
    permits_per_key: usize,
    /// Semaphore of each key that has or awaits a permit.
    per_key: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// Permission for one large body; dropping it frees the permit.
struct LargeBodyPermit {
    _permit: OwnedSemaphorePermit,
    _key_permit: KeyPermit,
}

/// Permit among those of one key.
struct KeyPermit {
    key: String,
    per_key: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl LargeBodyLimiter {
    fn new(permits: usize, permits_per_key: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(permits)), permits_per_key, per_key: Arc::default() }
    }

    /// Waits for a permit. `None` if the semaphore is closed, which never happens.
    async fn acquire(&self, key: &str) -> Option<LargeBodyPermit> {
        let own = {
            let mut keys = self.per_key.lock().unwrap_or_else(PoisonError::into_inner);
            let own =
                keys.entry(key.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.permits_per_key)));
            Arc::clone(own)
        };
        // Created before waiting, so that a cancelled wait also cleans up.
        let mut key_permit =
            KeyPermit { key: key.to_owned(), per_key: Arc::clone(&self.per_key), permit: None };
        key_permit.permit = Some(own.acquire_owned().await.ok()?);
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some(LargeBodyPermit { _permit: permit, _key_permit: key_permit })
    }
}

impl Drop for KeyPermit {
    fn drop(&mut self) {
        self.permit = None;
        let mut keys = self.per_key.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiting tasks and permits hold a reference to the semaphore.
        if keys.get(&self.key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
