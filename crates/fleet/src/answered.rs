//! Signatures of requests that nodes have answered. A copy of a signed request must not have an effect again,
//! whichever node it is sent to.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Error, UnixMs};

/// Most requests in one call of [`AnsweredRequests::put_answered`].
pub const MAX_ANSWERED: usize = 1024;
/// Size of a stored request in bytes: its time (little-endian), and its signature.
const RECORD_BYTES: usize = 8 + 32;
/// Time for which rows are remembered, in milliseconds, so that each is read once. A row can be committed so
/// long after later ones: each of its statements is aborted after 15 s.
const OVERLAP_MS: i64 = 60_000;

/// A request that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnsweredRequest {
    /// Wall time of its first answer.
    pub at_ms: UnixMs,
    /// Its signature.
    pub signature: [u8; 32],
}

/// The table of answered requests. It is not part of [`crate::Fleet`], because a node that is alone needs
/// none.
#[async_trait]
pub trait AnsweredRequests: Debug + Send + Sync {
    /// Adds at most [`MAX_ANSWERED`] requests for all nodes, and keeps them for this time.
    ///
    /// # Errors
    /// The storage of the fleet fails.
    async fn put_answered(&self, requests: &[AnsweredRequest], keep: Duration) -> Result<(), Error>;

    /// Returns requests that nodes have added, this one included, and that were not read with this cursor
    /// before. There may be more if there are any.
    ///
    /// # Errors
    /// The storage of the fleet fails. The cursor is unchanged then.
    async fn read_answered(&self, cursor: &mut AnsweredCursor) -> Result<Vec<AnsweredRequest>, Error>;
}

/// What a process has read of the table.
#[derive(Debug, Clone, Default)]
pub struct AnsweredCursor {
    /// Rows of the last [`OVERLAP_MS`], with their fleet times.
    rows: BTreeMap<i64, i64>,
    newest_ms: Option<i64>,
}

impl AnsweredCursor {
    /// Fleet time after which there can be unread rows, and the rows after it that were read.
    pub(crate) fn unread_after(&self) -> (i64, Vec<i64>) {
        let oldest_ms = self.newest_ms.map_or(i64::MIN, |newest| newest.saturating_sub(OVERLAP_MS));
        (oldest_ms, self.rows.keys().copied().collect())
    }

    /// Adds a row that was read.
    pub(crate) fn add(&mut self, row: i64, at_ms: i64) {
        self.rows.insert(row, at_ms);
        self.newest_ms = self.newest_ms.max(Some(at_ms));
        let oldest_ms = self.newest_ms.unwrap_or(at_ms).saturating_sub(OVERLAP_MS);
        self.rows.retain(|_, at_ms| *at_ms > oldest_ms);
    }
}

/// Writes requests one behind the other.
pub(crate) fn pack(requests: &[AnsweredRequest]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(requests.len() * RECORD_BYTES);
    for request in requests {
        packed.extend(request.at_ms.to_le_bytes());
        packed.extend(request.signature);
    }
    packed
}

/// Reads what [`pack`] has written.
pub(crate) fn unpack(packed: &[u8]) -> impl Iterator<Item = AnsweredRequest> {
    packed.as_chunks::<RECORD_BYTES>().0.iter().map(|record| {
        let (mut at_ms, mut signature) = ([0; 8], [0; 32]);
        at_ms.copy_from_slice(&record[..8]);
        signature.copy_from_slice(&record[8..]);
        AnsweredRequest { at_ms: UnixMs::from_le_bytes(at_ms), signature }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_row_is_found() {
        let mut cursor = AnsweredCursor::default();
        assert_eq!(cursor.unread_after(), (i64::MIN, vec![]));
        cursor.add(3, 100_000);
        cursor.add(4, 130_000);
        assert_eq!(cursor.unread_after(), (70_000, vec![3, 4]), "row 2 may still be committed");
        cursor.add(2, 99_000);
        assert_eq!(cursor.unread_after(), (70_000, vec![2, 3, 4]));
        cursor.add(9, 160_500);
        assert_eq!(cursor.unread_after(), (100_500, vec![4, 9]));
    }

    #[test]
    fn requests_are_packed() {
        let requests = [
            AnsweredRequest { at_ms: -7, signature: [1; 32] },
            AnsweredRequest { at_ms: i64::MAX, signature: [255; 32] },
        ];
        assert!(unpack(&pack(&requests)).eq(requests));
    }
}
