//! Who changed what, and when: a record of requests, kept as long as the history of casts.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Error, UnixMs};

/// Most entries in one call of [`AuditTrail::append_audit`]; further ones are not stored.
pub const MAX_AUDIT_APPEND: usize = 1024;
/// Most entries of each application, and of those who have none in each role. The oldest are deleted, so that
/// nobody can displace the entries of others. 10 000 entries take some 4 MB.
pub const MAX_AUDIT_ENTRIES: i64 = 10_000;
/// Most entries on a page.
const MAX_PAGE_ENTRIES: usize = 1000;

/// In which role a request was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditRole {
    /// The administrator.
    Administrator,
    /// An application.
    Application,
    /// Somebody who was not identified.
    Unknown,
}

impl AuditRole {
    /// Stable identifier, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Application => "application",
            Self::Unknown => "unknown",
        }
    }

    /// Number of the role in databases.
    pub(crate) fn to_number(self) -> i16 {
        match self {
            Self::Administrator => 0,
            Self::Application => 1,
            Self::Unknown => 2,
        }
    }
}

/// A request that changed something, or tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Number of the entry; later entries have larger ones. The fleet assigns it.
    #[serde(skip)]
    pub id: u64,
    /// Time of the request.
    pub at_ms: UnixMs,
    /// In which role it was made.
    pub role: AuditRole,
    /// Application of the caller, or else the one that the request was about.
    pub app: Option<String>,
    /// Who made it: the id of a token, or a person.
    pub actor: String,
    /// By which way it came: `console` or `api`.
    pub via: String,
    /// Network address that it came from.
    pub address: Option<String>,
    /// Name of the operation.
    pub action: String,
    /// What it was about.
    pub target: Option<String>,
    /// HTTP status of its answer.
    pub status: u16,
    /// Id of the request.
    pub request_id: String,
    /// Number of requests that the entry stands for: more than one for refused ones like it.
    pub count: u32,
}

/// Which entries to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Application of the entries; `None` means any, and none.
    pub app: Option<String>,
    /// Last entry of the previous page.
    pub after: Option<u64>,
    /// Maximum number of entries, 1 to 1000.
    pub limit: usize,
}

impl AuditFilter {
    /// Exclusive upper bound of the numbers of the entries.
    pub(crate) fn before(&self) -> i64 {
        self.after.and_then(|after| i64::try_from(after).ok()).unwrap_or(i64::MAX)
    }

    /// Number of entries to read: one more than are returned, which tells whether another page follows.
    pub(crate) fn read_limit(&self) -> i64 {
        self.limit.clamp(1, MAX_PAGE_ENTRIES) as i64 + 1
    }
}

/// A page of entries, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// Entries of the page.
    pub entries: Vec<AuditEntry>,
    /// Whether another page follows.
    pub has_more: bool,
}

impl AuditPage {
    /// The page of the entries that were read, without the one behind the limit and those that are `None`
    /// because they cannot be read.
    pub(crate) fn new(mut read: Vec<Option<AuditEntry>>, filter: &AuditFilter) -> Self {
        let limit = usize::try_from(filter.read_limit() - 1).unwrap_or(MAX_PAGE_ENTRIES);
        let has_more = read.len() > limit;
        read.truncate(limit);
        Self { entries: read.into_iter().flatten().collect(), has_more }
    }
}

/// The record of requests.
#[async_trait]
pub trait AuditTrail: Debug + Send + Sync {
    /// Adds at most [`MAX_AUDIT_APPEND`] entries in this order. Each application keeps its newest
    /// [`MAX_AUDIT_ENTRIES`].
    ///
    /// # Errors
    /// The storage of the fleet fails, and nothing was added.
    async fn append_audit(&self, entries: Vec<AuditEntry>) -> Result<(), Error>;

    /// Returns entries, newest first. One that cannot be read is left out.
    ///
    /// # Errors
    /// The storage of the fleet fails.
    async fn audit_entries(&self, filter: &AuditFilter) -> Result<AuditPage, Error>;
}

/// Owners of entries, each once: role, and application or an empty text. Each has its own limit.
pub(crate) fn owners(entries: &[AuditEntry]) -> Vec<(i16, &str)> {
    let mut owners: Vec<_> =
        entries.iter().map(|entry| (entry.role.to_number(), app_column(entry))).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// Application of an entry as databases store it.
pub(crate) fn app_column(entry: &AuditEntry) -> &str {
    entry.app.as_deref().unwrap_or_default()
}
