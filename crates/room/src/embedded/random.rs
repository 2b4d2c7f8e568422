//! What nobody can guess.

use rustix::rand::{GetRandomFlags, getrandom};

/// Random letters: two for each byte of randomness. None where the system has no randomness, as early in its start.
pub(super) fn random_hex(bytes: usize) -> Option<String> {
    let mut random = vec![0; bytes];
    let got = getrandom(&mut random, GetRandomFlags::empty()).ok()?;
    (got == bytes).then(|| random.iter().map(|byte| format!("{byte:02x}")).collect())
}
