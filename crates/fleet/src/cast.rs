//! A cast as the fleet knows it.

use std::fmt;
use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_core::cast::{EndReason, LoadError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{UnixMs, WorkerId};

/// Names a cast among all casts ever: 12 hex digits of its time in milliseconds and 20 of chance, so that
/// later ones sort behind earlier ones. Fit for file names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CastId(String);

/// Not a [`CastId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a cast: 32 hex digits are")]
pub struct ParseCastIdError;

impl CastId {
    /// The id of a cast made now, with this chance.
    #[must_use]
    pub fn new(now: UnixMs, chance: [u8; 10]) -> Self {
        let mut text = format!("{:012x}", now.max(0) & 0xffff_ffff_ffff);
        chance.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
        Self(text)
    }

    /// Reads what [`Self::as_str`] shows.
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

    /// As text.
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

/// What only one cast at a time may have: in whose words it was asked for, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CastKey(pub String);

/// How long a cast keeps its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRetention {
    /// Until it has ended.
    UntilEnded,
    /// Until then, at least, whether it has ended or not.
    Until(UnixMs),
}

/// Where a cast stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CastState {
    /// Nobody runs it yet.
    Queued,
    /// A worker has it, and the page is not in any output yet.
    Starting,
    /// The page is in its outputs.
    Live,
    /// Over. Its recording may still be being stored.
    Ended,
}

impl CastState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Starting, Self::Live, Self::Ended];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Ended => "ended",
        }
    }
}

/// Why a cast is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastEnd {
    /// In a word.
    pub reason: EndReason,
    /// For people, without secrets, if there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why its page could not be loaded, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<LoadError>,
}

/// A cast that is wanted.
#[derive(Debug, Clone)]
pub struct NewCast {
    /// Its id, which its outputs may be named after.
    pub id: CastId,
    /// The application that wants it.
    pub app: String,
    /// By which API it was asked for.
    pub api: String,
    /// What no other cast may have at the same time.
    pub key: Option<CastKey>,
    /// For how long.
    pub key_retention: KeyRetention,
    /// As it was asked for, without the keys of storages: for the API, opaque to the fleet.
    pub request: Value,
    /// What is to be done.
    pub spec: CastSpec,
    /// How long it may wait to be begun; then it has failed.
    pub queue_timeout: Duration,
    /// Most casts that this application may have that have not ended, and as many again that were asked for
    /// within the last minute and ended before anybody began them. More are [`CreateOutcome::QuotaExceeded`].
    pub quota: u32,
    /// Most bytes that may be kept of this application's casts: requests, descriptions, events, delivery
    /// logs. Its oldest casts that are over are forgotten for it; if that is not enough,
    /// [`CreateOutcome::BytesExceeded`].
    pub max_bytes: u64,
    /// Most casts that may be queued, of all applications. More are [`CreateOutcome::QueueFull`].
    pub queue_limit: u32,
    /// Whether its events go to the outbox.
    pub notify: bool,
}

/// What became of a wish.
#[derive(Debug, Clone)]
pub enum CreateOutcome {
    /// It is queued.
    New(Cast),
    /// Another has its key: this one.
    Exists(Cast),
    /// The application has as many casts as it may have.
    QuotaExceeded,
    /// As many casts are queued as may be.
    QueueFull,
    /// So many bytes are kept of the application's casts that with this one there would be too many.
    BytesExceeded(u64),
}

/// A cast.
#[derive(Debug, Clone)]
pub struct Cast {
    /// Names it.
    pub id: CastId,
    /// The application that wants it.
    pub app: String,
    /// By which API it was asked for.
    pub api: String,
    /// What no other cast may have at the same time.
    pub key: Option<CastKey>,
    /// As it was asked for.
    pub request: Value,
    /// What is to be done, without what is put into the page (style sheet, script, headers, cookies): only a
    /// [`crate::ClaimedSignature`] has that, since it may be megabytes.
    pub spec: CastSpec,
    /// Where it stands.
    pub state: CastState,
    /// Why it is over, once it is.
    pub end: Option<CastEnd>,
    /// When it was asked for.
    pub created_ms: UnixMs,
    /// When a worker first took it.
    pub started_ms: Option<UnixMs>,
    /// When the page was first in its outputs.
    pub live_ms: Option<UnixMs>,
    /// When it was over.
    pub ended_ms: Option<UnixMs>,
    /// Whether somebody asked for its end.
    pub stop_requested: bool,
    /// Whether nothing is left to do for it, storing included.
    pub closed: bool,
    /// Who runs it, if anybody does.
    pub worker: Option<WorkerId>,
    /// How often it got another owner.
    pub epoch: u64,
    /// What became of it, in the worker's words, once it is closed. Not in lists and in the outbox.
    pub report: Option<Value>,
    /// Events that are not in its history because there were more than [`crate::MAX_EVENTS`].
    pub events_dropped: u64,
}

/// What a cast is expected to take of a machine, in thousandths of what one of 1280x720 at 30 frames per
/// second does: a part that is the same for all, and one that grows with the picture.
#[must_use]
pub fn weight(spec: &CastSpec) -> u32 {
    const BASE: u64 = 300;
    let size = spec.source.size;
    let pixels = u64::from(size.width()) * u64::from(size.height()) * u64::from(spec.source.fps.get());
    u32::try_from(BASE + (1000 - BASE) * pixels / (1280 * 720 * 30)).unwrap_or(u32::MAX)
}

/// Which casts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this application.
    pub app: Option<String>,
    /// In one of these states; any if empty.
    pub states: Vec<CastState>,
    /// By this API.
    pub api: Option<String>,
    /// Asked for at this time or later.
    pub since_ms: Option<UnixMs>,
    /// Asked for before this time.
    pub before_ms: Option<UnixMs>,
    /// Behind this one, which was the last of the page before.
    pub after: Option<CastId>,
    /// At most so many, 1 to 1000; fewer, if they are large.
    pub limit: usize,
}

/// Some casts, the newest first.
#[derive(Debug, Clone, Default)]
pub struct CastPage {
    /// They.
    pub casts: Vec<Cast>,
    /// Whether there are more behind them.
    pub has_more: bool,
}
