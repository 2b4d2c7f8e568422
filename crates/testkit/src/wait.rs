//! Waits until a condition holds, with a limit.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Shortest and longest pause between two checks. Between them it is a tenth of the time since the start, so
/// that a short wait ends soon and a long one leaves the processor to what it waits for.
const PAUSE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];

/// Calls `check` until it succeeds, and returns its value.
///
/// # Errors
/// It does not succeed within `limit`. The cause is its last error, which says what was there instead.
pub fn wait_until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if begin.elapsed() >= limit => {
                return Err(error.context(format!("not within {limit:?}: {what}")));
            }
            Err(_) => std::thread::sleep((begin.elapsed() / 10).clamp(PAUSE[0], PAUSE[1])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_or_the_last_error_is_returned() {
        let mut calls = 0;
        let third = wait_until("the third call", Duration::from_secs(60), || {
            calls += 1;
            anyhow::ensure!(calls == 3, "call {calls}");
            Ok(calls)
        });
        assert_eq!(third.unwrap(), 3);
        let never = wait_until::<()>("a miracle", Duration::from_millis(30), || anyhow::bail!("nothing"));
        assert_eq!(format!("{:#}", never.unwrap_err()), "not within 30ms: a miracle: nothing");
    }
}
