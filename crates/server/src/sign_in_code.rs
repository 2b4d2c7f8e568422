//! One-time code with which the person who started the service signs in to the console as the administrator.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::service::random_bytes;

/// How long a code is valid: the time to open a link that was just printed.
const LIFETIME: Duration = Duration::from_secs(600);
/// Random bytes of a code: it cannot be guessed.
const CODE_LEN: usize = 24;

/// The code of this process. It is valid once.
#[derive(Debug, Default)]
pub struct SignInCode(Mutex<Option<(String, Instant)>>);

impl SignInCode {
    /// Creates a code, which replaces the one before.
    #[must_use]
    pub fn create(&self) -> String {
        let code = base16ct::lower::encode_string(&random_bytes::<CODE_LEN>());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((code.clone(), Instant::now()));
        code
    }

    /// Uses up the code. Returns whether it was this one; a wrong code does not use it up.
    pub(crate) fn redeem(&self, given: &str) -> bool {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_valid = current.as_ref().is_some_and(|(code, created)| {
            created.elapsed() < LIFETIME && verify_slices_are_equal(code.as_bytes(), given.as_bytes()).is_ok()
        });
        if is_valid {
            *current = None;
        }
        is_valid
    }
}
