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
const SMALL: usize = 1 << 16;
/// Longest form of a stranger, in bytes: the first version of Tencent's signature, which is in the form, is
/// good for as much.
const MAX_FORM: usize = 1 << 20;
/// A body must have come by then; a stranger's sooner, as its connection is wanted for others. Tests do not
/// wait for that.
const WITHIN: Duration = Duration::from_millis(if cfg!(test) { 2000 } else { 30_000 });
const WITHIN_OF_STRANGERS: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });
/// Large bodies at once. One of 10 MiB takes up to 30 MB until it is answered, so that all of them stay below
/// 250 MB.
const LARGE_ONES: usize = 8;
/// Large bodies at once of one key, so that nobody takes all places: not its owner, and not somebody who
/// knows its id.
const LARGE_ONES_OF_A_KEY: usize = 2;
/// Large bodies of all strangers at once, 1 MiB each.
const LARGE_ONES_OF_STRANGERS: usize = 4;

static OF_KEYS: LazyLock<LargeBodies> = LazyLock::new(|| LargeBodies::new(LARGE_ONES, LARGE_ONES_OF_A_KEY));
static OF_STRANGERS: LazyLock<LargeBodies> =
    LazyLock::new(|| LargeBodies::new(LARGE_ONES_OF_STRANGERS, LARGE_ONES_OF_STRANGERS));

/// Whose a body is, as far as its head tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Somebody who names a key or a token that is known here.
    Key(String),
    /// Somebody else.
    Stranger,
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the body did not come in time")]
    Late,
    #[error("the body cannot be read")]
    Broken,
    #[error(
        "the body has more than {0} bytes: as many are possible unless a header names a known access key"
    )]
    TooLong(usize),
}

impl Sender {
    /// Who sends this to `/`: the owner of the access key that `Authorization` names, whether or not the
    /// signature is good.
    pub(super) fn of(service: &Service, headers: &HeaderMap) -> Self {
        let text = headers.get(axum::http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Both vendors write it alike: `Credential=ID/…`.
        let credential = text.and_then(|text| text.split_once("Credential="));
        let id = credential.and_then(|(_, rest)| rest.split(['/', ',', ' ']).next()).unwrap_or_default();
        if service.apps.with_key(id).is_empty() { Self::Stranger } else { Self::Key(format!("key {id}")) }
    }

    /// How much of a stranger's body is read, in bytes.
    fn strangers_len(headers: &HeaderMap) -> usize {
        let kind = headers.get(axum::http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_form = kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        if is_form { MAX_FORM } else { SMALL }
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
    sender: &Sender,
    headers: &HeaderMap,
    most: usize,
) -> Result<HashedBody, Lost> {
    let Sender::Stranger = sender else { return read_of(body, sender, most).await };
    let least = most.min(Sender::strangers_len(headers));
    let bytes = read_of(body, sender, least).await?;
    if bytes.len() > least { Err(Lost::TooLong(least)) } else { Ok(bytes) }
}

/// Reads a body of at most `most` bytes, and one more if it is longer.
pub(crate) async fn read_of(body: Body, sender: &Sender, most: usize) -> Result<HashedBody, Lost> {
    let (large, whose, within) = match sender {
        Sender::Key(key) => (&*OF_KEYS, key.as_str(), WITHIN),
        Sender::Stranger => (&*OF_STRANGERS, "", WITHIN_OF_STRANGERS),
    };
    timeout(within, collect(body, most, large, whose)).await.map_err(|_| Lost::Late)?
}

async fn collect(mut body: Body, most: usize, large: &LargeBodies, whose: &str) -> Result<HashedBody, Lost> {
    let mut all = BytesMut::new();
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let mut place = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Lost::Broken)?.into_data() else { continue };
        let taken = data.len().min(most + 1 - all.len());
        if all.len() + taken > SMALL && place.is_none() {
            place = large.take(whose).await;
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
        Some(place) => Bytes::from_owner(Held { bytes: all.freeze(), _place: place }),
        None => all.freeze(),
    };
    Ok(HashedBody { bytes, sha256: sha256.finish() })
}

/// A large body, and its place.
struct Held {
    bytes: Bytes,
    _place: LargeBody,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How many large bodies there may be. Full: more wait, within their time.
struct LargeBodies {
    places: Arc<Semaphore>,
    of_each: usize,
    /// Places of each key, as long as it has or wants one.
    keys: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// A place for a large body, free again when this is dropped.
struct LargeBody {
    _place: OwnedSemaphorePermit,
    _of_key: OfKey,
}

/// A place among those of a key.
struct OfKey {
    key: String,
    keys: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl LargeBodies {
    fn new(places: usize, of_each: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), of_each, keys: Arc::default() }
    }

    /// Waits for a place; none comes if the semaphore is closed, which nobody does.
    async fn take(&self, key: &str) -> Option<LargeBody> {
        let own = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let own = keys.entry(key.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.of_each)));
            Arc::clone(own)
        };
        // Made before waiting: whoever gives up cleans up.
        let mut of_key = OfKey { key: key.to_owned(), keys: Arc::clone(&self.keys), permit: None };
        of_key.permit = Some(own.acquire_owned().await.ok()?);
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(LargeBody { _place: place, _of_key: of_key })
    }
}

impl Drop for OfKey {
    fn drop(&mut self) {
        self.permit = None;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiting for a permit holds the semaphore, and so does having one.
        if keys.get(&self.key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
