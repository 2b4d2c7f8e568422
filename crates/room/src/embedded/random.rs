//! Random identifiers and secrets.

use rustix::rand::{GetRandomFlags, getrandom};

/// `bytes` random bytes in hexadecimal. `None` if the system has no randomness yet, as early at boot.
pub(super) fn random_hex(bytes: usize) -> Option<String> {
    let mut random = vec![0; bytes];
    let got = getrandom(&mut random, GetRandomFlags::empty()).ok()?;
    (got == bytes).then(|| random.iter().map(|byte| format!("{byte:02x}")).collect())
}
