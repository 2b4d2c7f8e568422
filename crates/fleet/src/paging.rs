//! Pages of lists of casts, the same for every backend: the newest casts first, by creation time and id.

use std::cmp::Reverse;

use crate::{CastId, CastState, Filter, UnixMs};

/// Maximum number of casts on a page of a list.
pub(crate) const MAX_PAGE_CASTS: usize = 1000;
/// Maximum number of bytes of descriptions on a page: 1000 typical casts take 1 MB. A larger
/// cast is a page by itself.
const MAX_PAGE_BYTES: i64 = 8 << 20;
/// Maximum number of events returned at once.
pub(crate) const MAX_READ_EVENTS: usize = 10_000;

/// A cast that a list may contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Time of its creation.
    pub created_ms: UnixMs,
    /// Id of the cast, as text.
    pub id: String,
    /// Row number.
    pub n: i64,
    /// Bytes of its description.
    pub bytes: i64,
}

/// States that a filter selects. Each is queried by itself, so that an index returns its casts in order.
pub(crate) fn states(filter: &Filter) -> impl Iterator<Item = CastState> {
    CastState::ALL.into_iter().filter(|state| filter.states.is_empty() || filter.states.contains(state))
}

/// Exclusive upper bound of a page: casts created before this time, or at this time with a smaller id.
/// `created_ms` is the creation time of the cast behind which the page begins, if that cast still exists.
pub(crate) fn page_start(filter: &Filter, created_ms: Option<UnixMs>) -> (UnixMs, String) {
    let before = (filter.before_ms.unwrap_or(i64::MAX), String::new());
    let Some(after) = &filter.after else { return before };
    // The id of a deleted cast still contains its creation time.
    let at = created_ms.or_else(|| created_ms_of(after));
    before.min((at.unwrap_or(i64::MAX), after.as_str().to_owned()))
}

fn created_ms_of(id: &CastId) -> Option<UnixMs> {
    i64::from_str_radix(&id.as_str()[..12], 16).ok()
}

/// Chooses the casts of a page with this limit, from those of all states; also returns whether another page
/// follows.
pub(crate) fn page(mut found: Vec<Listed>, limit: usize) -> (Vec<Listed>, bool) {
    found.sort_unstable_by(|a, b| Reverse((a.created_ms, &a.id)).cmp(&Reverse((b.created_ms, &b.id))));
    let mut bytes = 0;
    let fit = found.iter().take(limit).take_while(|listed| {
        let first = bytes == 0;
        bytes += listed.bytes.max(1);
        first || bytes <= MAX_PAGE_BYTES
    });
    let fit = fit.count();
    let has_more = found.len() > fit;
    found.truncate(fit);
    (found, has_more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_cast_is_a_page_by_itself() {
        let listed = |created_ms, bytes| Listed { created_ms, id: String::new(), n: created_ms, bytes };
        let times = |found: &[Listed]| found.iter().map(|listed| listed.created_ms).collect::<Vec<_>>();
        let (first, more) = page(vec![listed(1, 10), listed(3, MAX_PAGE_BYTES + 1), listed(2, 10)], 10);
        assert_eq!((times(&first), more), (vec![3], true));
        let (rest, more) = page(vec![listed(1, 10), listed(2, 10)], 10);
        assert_eq!((times(&rest), more), (vec![2, 1], false));
    }
}
