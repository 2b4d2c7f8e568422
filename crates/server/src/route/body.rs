//! What may come behind a request's head: so much, in so much time, and so many large ones at once.
//!
//! Before its body is there nobody has proved who they are. But a head that names a key we know is likely a
//! customer's, and one that does not is a stranger's: strangers get less, and what they take is taken from
//! other strangers.

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

/// Longest body of a request to `/`, in bytes: what Tencent takes at most.
pub const MAX_BODY_LEN: usize = 10 << 20;
/// Longest body of a stranger, in bytes: as long as Volcengine's may be, and the largest that is kept without
/// being counted.
const SMALL_BODY_LEN: usize = 1 << 16;
/// Longest form of a stranger, in bytes: the first version of Tencent's signature, which is in the form, is
/// good for as much.
const MAX_ANONYMOUS_FORM_LEN: usize = 1 << 20;
/// A body must have come by then; a stranger's sooner, as its connection is wanted for others. Tests do not
/// wait for that.
const BODY_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 2000 } else { 30_000 });
const ANONYMOUS_BODY_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });
/// Large bodies at once. One of 10 MiB takes up to 30 MB until it is answered, so that all of them stay below
/// 250 MB.
const MAX_LARGE_BODIES: usize = 8;
/// Large bodies at once of one key, so that nobody takes all places: not its owner, and not somebody who
/// knows its id.
const MAX_LARGE_BODIES_PER_KEY: usize = 2;
/// Large bodies of all strangers at once, 1 MiB each.
const MAX_ANONYMOUS_LARGE_BODIES: usize = 4;

static KEYED_LIMITER: LazyLock<LargeBodyLimiter> =
    LazyLock::new(|| LargeBodyLimiter::new(MAX_LARGE_BODIES, MAX_LARGE_BODIES_PER_KEY));
static ANONYMOUS_LIMITER: LazyLock<LargeBodyLimiter> =
    LazyLock::new(|| LargeBodyLimiter::new(MAX_ANONYMOUS_LARGE_BODIES, MAX_ANONYMOUS_LARGE_BODIES));

/// Whose a body is, as far as its head tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClaimedPrincipal {
    /// Somebody who names a key or a token that is known here.
    Key(String),
    /// Somebody else.
    Anonymous,
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body did not come in time")]
    TimedOut,
    #[error("the body cannot be read")]
    ReadFailed,
    #[error(
        "the body has more than {0} bytes: as many are possible unless a header names a known access key"
    )]
    TooLarge(usize),
}

impl ClaimedPrincipal {
    /// Who sends this to `/`: the owner of the access key that `Authorization` names, whether or not the
    /// signature is good.
    pub(super) fn from_headers(service: &Service, headers: &HeaderMap) -> Self {
        let text = headers.get(axum::http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Both vendors write it alike: `Credential=ID/…`.
        let credential = text.and_then(|text| text.split_once("Credential="));
        let id = credential.and_then(|(_, rest)| rest.split(['/', ',', ' ']).next()).unwrap_or_default();
        if service.apps.by_key(id).is_empty() { Self::Anonymous } else { Self::Key(format!("key {id}")) }
    }

    /// How much of a stranger's body is read, in bytes.
    fn max_anonymous_len(headers: &HeaderMap) -> usize {
        let kind = headers.get(axum::http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        if is_form { MAX_ANONYMOUS_FORM_LEN } else { SMALL_BODY_LEN }
    }
}

/// A request's body, and its SHA-256, which was taken while the body came in.
#[derive(Debug, Clone)]
pub struct HashedBody {
    bytes: Bytes,
    sha256: digest::Digest,
}

impl HashedBody {
    /// A request has none.
    #[must_use]
    pub fn empty() -> Self {
        Bytes::new().into()
    }

    /// Its SHA-256, 32 bytes.
    #[must_use]
    pub fn sha256(&self) -> &[u8] {
        self.sha256.as_ref()
    }

    /// Itself, without the hash.
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

/// Reads a body, of any length said or unsaid. What is longer than `most` bytes ends one byte behind it:
/// whose request it is says it in its own words. A stranger's is lost if it is too long.
pub(super) async fn read(
    body: Body,
    sender: &ClaimedPrincipal,
    headers: &HeaderMap,
    most: usize,
) -> Result<HashedBody, BodyError> {
    let ClaimedPrincipal::Anonymous = sender else { return read_up_to(body, sender, most).await };
    let least = most.min(ClaimedPrincipal::max_anonymous_len(headers));
    let bytes = read_up_to(body, sender, least).await?;
    if bytes.len() > least { Err(BodyError::TooLarge(least)) } else { Ok(bytes) }
}

/// Reads a body of at most `most` bytes, and one more if it is longer.
pub(crate) async fn read_up_to(
    body: Body,
    sender: &ClaimedPrincipal,
    most: usize,
) -> Result<HashedBody, BodyError> {
    let (large, whose, within) = match sender {
        ClaimedPrincipal::Key(key) => (&*KEYED_LIMITER, key.as_str(), BODY_TIMEOUT),
        ClaimedPrincipal::Anonymous => (&*ANONYMOUS_LIMITER, "", ANONYMOUS_BODY_TIMEOUT),
    };
    timeout(within, collect(body, most, large, whose)).await.map_err(|_| BodyError::TimedOut)?
}

async fn collect(
    mut body: Body,
    most: usize,
    large: &LargeBodyLimiter,
    whose: &str,
) -> Result<HashedBody, BodyError> {
    let mut all = BytesMut::new();
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let mut place = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::ReadFailed)?.into_data() else { continue };
        let taken = data.len().min(most + 1 - all.len());
        if all.len() + taken > SMALL_BODY_LEN && place.is_none() {
            place = large.acquire(whose).await;
            // All at once, if it says its length: growing step by step takes up to three times as much.
            let said = http_body::Body::size_hint(&body).lower();
            let said = usize::try_from(said).unwrap_or(usize::MAX).saturating_add(taken);
            all.reserve(said.min(most + 1 - all.len()));
        }
        all.extend_from_slice(&data[..taken]);
        sha256.update(&data[..taken]);
        if all.len() > most {
            break;
        }
    }
    let bytes = match place {
        // Its place is taken for as long as anybody has it.
        Some(place) => Bytes::from_owner(PermittedBytes { bytes: all.freeze(), _permit: place }),
        None => all.freeze(),
    };
    Ok(HashedBody { bytes, sha256: sha256.finish() })
}

/// A large body, and its place.
struct PermittedBytes {
    bytes: Bytes,
    _permit: LargeBodyPermit,
}

impl AsRef<[u8]> for PermittedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How many large bodies there may be. Full: more wait, within their time.
struct LargeBodyLimiter {
    permits: Arc<Semaphore>,
    permits_per_key: usize,
    /// Places of each key, as long as it has or wants one.
    per_key: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// A place for a large body, free again when this is dropped.
struct LargeBodyPermit {
    _permit: OwnedSemaphorePermit,
    _key_permit: KeyPermit,
}

/// A place among those of a key.
struct KeyPermit {
    key: String,
    per_key: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl LargeBodyLimiter {
    fn new(places: usize, of_each: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(places)), permits_per_key: of_each, per_key: Arc::default() }
    }

    /// Waits for a place; none comes if the semaphore is closed, which nobody does.
    async fn acquire(&self, key: &str) -> Option<LargeBodyPermit> {
        let own = {
            let mut keys = self.per_key.lock().unwrap_or_else(PoisonError::into_inner);
            let own =
                keys.entry(key.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.permits_per_key)));
            Arc::clone(own)
        };
        // Made before waiting: whoever gives up cleans up.
        let mut of_key = KeyPermit { key: key.to_owned(), per_key: Arc::clone(&self.per_key), permit: None };
        of_key.permit = Some(own.acquire_owned().await.ok()?);
        let place = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some(LargeBodyPermit { _permit: place, _key_permit: of_key })
    }
}

impl Drop for KeyPermit {
    fn drop(&mut self) {
        self.permit = None;
        let mut keys = self.per_key.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiting for a permit holds the semaphore, and so does having one.
        if keys.get(&self.key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
