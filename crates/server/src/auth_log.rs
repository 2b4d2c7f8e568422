//! Refused authentication, in the log: which key was named, from which address, and what was answered.
//!
//! A front end that refuses to believe who asks attaches [`AuthFailure`] to its answer. One layer around all
//! of them knows the address and writes the line. It is at level info: operators count such lines, and ban
//! addresses by them.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Lines a second at most: a flood of forged requests must not fill the disk with log. The next line says how
/// many were left out.
const MAX_LINES_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Longest part of a text from outside that a line repeats, in characters; as long as an id of a key may be.
const MAX_FIELD_CHARS: usize = 128;

/// Says of an answer that it refuses who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthFailure {
    api: &'static str,
    key_id: String,
    code: &'static str,
}

impl AuthFailure {
    /// By this API, with this code; `key_id` is what the request claimed.
    pub(crate) fn new(api: &'static str, key_id: impl Into<String>, code: &'static str) -> Self {
        Self { api, key_id: sanitize(&key_id.into()), code }
    }
}

/// Writes the lines.
#[derive(Debug)]
pub(crate) struct FailureLog {
    rate_limiter: DefaultDirectRateLimiter,
    suppressed: AtomicU64,
}

impl Default for FailureLog {
    fn default() -> Self {
        Self {
            rate_limiter: RateLimiter::direct(Quota::per_second(MAX_LINES_PER_SECOND)),
            suppressed: AtomicU64::new(0),
        }
    }
}

impl FailureLog {
    fn write(&self, refused: &AuthFailure, address: Option<SocketAddr>, forwarded_for: Option<&str>) {
        if self.rate_limiter.check().is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = Some(self.suppressed.swap(0, Ordering::Relaxed)).filter(|count| *count > 0);
        let (api, key_id, code) = (refused.api, refused.key_id.as_str(), refused.code);
        let address = address.map(|address| address.ip()).map(tracing::field::display);
        tracing::info!(api, key_id, address, forwarded_for, code, left_out, "authentication refused");
    }
}

/// A layer around all front ends.
pub(crate) async fn log_failures(
    State(log): State<Arc<FailureLog>>,
    request: Request,
    next: Next,
) -> Response {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| *address);
    let forwarded_for = forwarded_for(request.headers());
    let mut response = next.run(request).await;
    if let Some(refused) = response.extensions_mut().remove::<AuthFailure>() {
        log.write(&refused, address, forwarded_for.as_deref());
    }
    response
}

/// What a proxy says about whom it passes on, or what somebody pretends to be one.
fn forwarded_for(headers: &HeaderMap) -> Option<String> {
    headers.get("x-forwarded-for")?.to_str().ok().map(sanitize)
}

fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_FIELD_CHARS).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{self, Write};
    use std::sync::{Mutex, PoisonError};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    pub(crate) struct CapturedLogs(Arc<Mutex<Vec<u8>>>);

    impl CapturedLogs {
        /// All of it.
        pub(crate) fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
        }
    }

    impl Write for CapturedLogs {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for CapturedLogs {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_flood_is_counted_and_not_repeated() {
        let lines = CapturedLogs::default();
        let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
        let log = FailureLog::default();
        let refused = AuthFailure::new("tencent", format!("AKID\n{}", "x".repeat(1000)), "AuthFailure.X");
        tracing::subscriber::with_default(subscriber, || {
            let address = Some("192.0.2.1:1234".parse().unwrap());
            (0..500).for_each(|_| log.write(&refused, address, Some("198.51.100.7")));
            // A second later.
            FailureLog { suppressed: log.suppressed, ..FailureLog::default() }.write(&refused, None, None);
        });
        let said = lines.text();
        let count = said.lines().count();
        assert!((21..100).contains(&count), "{count} lines");
        let (first, last) = (said.lines().next().unwrap(), said.lines().last().unwrap());
        for words in [
            " INFO ",
            "authentication refused",
            "api=\"tencent\"",
            "key_id=\"AKIDxxx",
            "address=192.0.2.1 ",
            "forwarded_for=\"198.51.100.7\"",
            "code=\"AuthFailure.X\"",
        ] {
            assert!(first.contains(words), "{words} is not in {first}");
        }
        assert!(first.len() < 400 && last.contains("left_out="), "{first}\n{last}");
    }
}
