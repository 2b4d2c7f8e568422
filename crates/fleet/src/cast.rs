//! Casts as the fleet stores them.

use std::fmt;
use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_core::cast::{EndReason, LoadError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{UnixMs, WorkerId};

/// Unique id of a cast: 12 hex digits of its creation time in milliseconds and 20 random ones, so that ids
/// sort by time. It can be used in file names and URLs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CastId(String);

/// A text is not a [`CastId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cast id must have 32 lower-case hex digits")]
pub struct ParseCastIdError;

impl CastId {
    /// Creates an id from the current time and random bytes.
    #[must_use]
    pub fn new(now: UnixMs, random: [u8; 10]) -> Self {
        let mut text = format!("{:012x}", now.max(0) & 0xffff_ffff_ffff);
        random.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
        Self(text)
    }

    /// Parses an id from the form that [`Self::as_str`] returns.
    ///
    /// # Errors
    /// [`ParseCastIdError`].
    pub fn parse(text: &str) -> Result<Self, ParseCastIdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseCastIdError)
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CastId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CastId {
    type Error = ParseCastIdError;
    fn try_from(text: String) -> Result<Self, ParseCastIdError> {
        Self::parse(&text)
    }
}

impl From<CastId> for String {
    fn from(id: CastId) -> Self {
        id.0
    }
}

/// Key that only one cast can hold at a time: the API and the identifier that it uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CastKey(pub String);

/// How long a cast holds its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRetention {
    /// Until the cast has ended.
    UntilEnded,
    /// Until the cast has ended, but at least until this time.
    Until(UnixMs),
}

/// State of a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CastState {
    /// No worker has claimed the cast yet.
    Queued,
    /// A worker has claimed the cast, but the page is not in any output yet.
    Starting,
    /// The page is in the outputs.
    Live,
    /// The cast is over; its recording may still be uploaded.
    Ended,
}

impl CastState {
    /// All states in the order of a cast's life.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Starting, Self::Live, Self::Ended];

    /// Stable identifier, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Ended => "ended",
        }
    }

    /// Number of the state in databases.
    pub(crate) fn to_number(self) -> i16 {
        match self {
            Self::Queued => 0,
            Self::Starting => 1,
            Self::Live => 2,
            Self::Ended => 3,
        }
    }

    /// The state with this number in databases.
    pub(crate) fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| i64::from(state.to_number()) == number)
    }
}

/// End of a cast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastEnd {
    /// Reason of the end.
    pub reason: EndReason,
    /// Explanation for users, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Error of the page load, if that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<LoadError>,
}

/// A cast to be created.
#[derive(Debug, Clone)]
pub struct NewCast {
    /// Id, which names of outputs may contain.
    pub id: CastId,
    /// Application that owns the cast.
    pub app: String,
    /// API by which the cast was requested.
    pub api: String,
    /// Key that no other cast may hold at the same time.
    pub key: Option<CastKey>,
    /// How long the cast holds the key.
    pub key_retention: KeyRetention,
    /// Original request without storage keys; only the API interprets it.
    pub request: Value,
    /// Description of the cast.
    pub spec: CastSpec,
    /// Longest time in the queue; then the cast fails.
    pub queue_timeout: Duration,
    /// Maximum number of the application's casts that have not ended. Together with casts created within the
    /// last minute that ended before any worker claimed them, there may be twice as many. Beyond that, the
    /// outcome is [`CreateOutcome::QuotaExceeded`].
    pub quota: u32,
    /// Maximum number of bytes stored for the application's casts: requests, descriptions, events and
    /// delivery logs. Its oldest ended casts are deleted to make room; if that is not enough, the outcome is
    /// [`CreateOutcome::BytesExceeded`].
    pub max_bytes: u64,
    /// Maximum number of queued casts of all applications. Beyond it, the outcome is
    /// [`CreateOutcome::QueueFull`], unless the application has less than a tenth of this number in the
    /// queue.
    pub queue_limit: u32,
    /// Whether the cast's events are added to the outbox.
    pub notify: bool,
}

impl NewCast {
    /// Time until which the cast holds its key at least, in milliseconds since 1970.
    pub(crate) fn key_until_ms(&self) -> Option<UnixMs> {
        match (&self.key, self.key_retention) {
            (Some(_), KeyRetention::Until(until)) => Some(until),
            (Some(_), KeyRetention::UntilEnded) | (None, _) => None,
        }
    }

    /// The queued cast, created at this time.
    pub(crate) fn into_queued(self, now: UnixMs) -> Cast {
        Cast {
            id: self.id,
            app: self.app,
            api: self.api,
            key: self.key,
            request: self.request,
            spec: self.spec,
            state: CastState::Queued,
            end: None,
            created_ms: now,
            started_ms: None,
            live_ms: None,
            ended_ms: None,
            stop_requested: false,
            closed: false,
            worker: None,
            epoch: 0,
            report: None,
            events_dropped: 0,
        }
    }
}

/// Outcome of a request to create a cast.
#[derive(Debug, Clone)]
pub enum CreateOutcome {
    /// The cast was created and is queued.
    New(Cast),
    /// This other cast holds its key, or has its id.
    Exists(Cast),
    /// The application has reached its quota.
    QuotaExceeded,
    /// The queue is full.
    QueueFull,
    /// The cast would exceed the application's storage limit, of which this many bytes are in use.
    BytesExceeded(u64),
}

/// A stored cast.
#[derive(Debug, Clone)]
pub struct Cast {
    /// Id of the cast.
    pub id: CastId,
    /// Application that owns the cast.
    pub app: String,
    /// API by which the cast was requested.
    pub api: String,
    /// Key that no other cast may hold at the same time.
    pub key: Option<CastKey>,
    /// Original request without storage keys. Lists omit it.
    pub request: Value,
    /// Description of the cast, without the injected data (style sheet, script, headers, cookies), which may
    /// be megabytes: only a [`crate::Claim`] includes it.
    pub spec: CastSpec,
    /// State of the cast.
    pub state: CastState,
    /// End of the cast, once it has ended.
    pub end: Option<CastEnd>,
    /// Time of creation.
    pub created_ms: UnixMs,
    /// Time of the first claim by a worker.
    pub started_ms: Option<UnixMs>,
    /// Time at which the page was first in the outputs.
    pub live_ms: Option<UnixMs>,
    /// Time of the end.
    pub ended_ms: Option<UnixMs>,
    /// Whether a stop was requested.
    pub stop_requested: bool,
    /// Whether nothing is left to do for the cast, uploads included.
    pub closed: bool,
    /// Worker that owns the cast, if any.
    pub worker: Option<WorkerId>,
    /// Number of claims so far, which fences earlier owners.
    pub epoch: u64,
    /// The worker's summary, once the cast is closed. Lists and the outbox omit it.
    pub report: Option<Value>,
    /// Number of events that were not stored because of [`crate::MAX_EVENTS`].
    pub events_dropped: u64,
}

/// Expected resource use of a cast, in thousandths of a cast of 1280x720 pixels at 30 frames per second: a
/// fixed part and a part proportional to the pixel rate.
#[must_use]
pub fn weight(spec: &CastSpec) -> u32 {
    // Fixed part: browser and audio cost the same for every picture size.
    const BASE: u64 = 300;
    let size = spec.source.size;
    let pixels = u64::from(size.width()) * u64::from(size.height()) * u64::from(spec.source.fps.get());
    u32::try_from(BASE + (1000 - BASE) * pixels / (1280 * 720 * 30)).unwrap_or(u32::MAX)
}

/// Filter for a list of casts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Application of the casts; `None` means any.
    pub app: Option<String>,
    /// States of the casts; empty means any.
    pub states: Vec<CastState>,
    /// API of the casts; `None` means any.
    pub api: Option<String>,
    /// Earliest creation time, inclusive.
    pub since_ms: Option<UnixMs>,
    /// Latest creation time, exclusive.
    pub before_ms: Option<UnixMs>,
    /// Last cast of the previous page.
    pub after: Option<CastId>,
    /// Maximum number of casts, 1 to 1000; a page may have fewer if they are large.
    pub limit: usize,
}

/// A page of a list of casts, newest first.
#[derive(Debug, Clone, Default)]
pub struct CastPage {
    /// Casts of the page.
    pub casts: Vec<Cast>,
    /// Whether another page follows.
    pub has_more: bool,
}
