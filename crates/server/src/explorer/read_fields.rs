//! Which parameters a parser has asked for, on this thread: tests compare them with the descriptions.

use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    static READ: RefCell<BTreeSet<String>> = RefCell::default();
}

/// Records that a parser has asked for a parameter. Positions in arrays are left out of its path.
pub(crate) fn record(path: &str) {
    let without_positions: Vec<&str> = path
        .split(['.', '[', ']'])
        .filter(|part| !part.is_empty() && !part.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    READ.with_borrow_mut(|read| read.insert(without_positions.join(".")));
}

/// Returns what was recorded since the last call.
pub(crate) fn take() -> BTreeSet<String> {
    READ.take()
}
