//! Log lines about refused authentication: key id, source address, error code and request id.
//!
//! A front end that refuses a caller attaches [`AuthFailure`] to its answer. One layer around all front ends
//! knows the source address and writes the line, at level info. Operators count these lines and ban
//! addresses.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::request_id::RequestId;

/// Most lines in a second. A flood of forged requests must not fill the disk; the next line counts the lines
/// that were suppressed.
const MAX_LINES_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Longest value from a request in a line, in characters: the longest key id.
const MAX_FIELD_CHARS: usize = 128;

/// Marks an answer that refuses authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthFailure {
    api: &'static str,
    key_id: String,
    code: &'static str,
}

impl AuthFailure {
    /// Names the API, the error code of the answer, and the key id that the request claims.
    pub(crate) fn new(api: &'static str, key_id: impl Into<String>, code: &'static str) -> Self {
        Self { api, key_id: sanitize(&key_id.into()), code }
    }
}

/// Writes the lines, at most [`MAX_LINES_PER_SECOND`].
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

/// Where a request came from.
#[derive(Debug, Default, Clone)]
struct RequestOrigin {
    address: Option<SocketAddr>,
    forwarded_for: Option<String>,
}

impl FailureLog {
    fn write(&self, failure: &AuthFailure, request_id: &RequestId, origin: &RequestOrigin) {
        if self.rate_limiter.check().is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let suppressed = Some(self.suppressed.swap(0, Ordering::Relaxed)).filter(|count| *count > 0);
        let AuthFailure { api, key_id, code } = failure;
        let address = origin.address.map(|address| tracing::field::display(address.ip()));
        let forwarded_for = origin.forwarded_for.as_deref();
        tracing::info!(
            api,
            key_id,
            address,
            forwarded_for,
            code,
            %request_id,
            suppressed,
            "authentication refused"
        );
    }
}

/// Logs refused authentication of all front ends.
pub(crate) async fn log_failures(
    State(log): State<Arc<FailureLog>>,
    request: Request,
    next: Next,
) -> Response {
    let request_id = RequestId::of(request.extensions());
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| *address);
    let origin = RequestOrigin { address, forwarded_for: forwarded_for(request.headers()) };
    let mut response = next.run(request).await;
    if let Some(failure) = response.extensions_mut().remove::<AuthFailure>() {
        log.write(&failure, &request_id, &origin);
    }
    response
}

/// The header `X-Forwarded-For`. Anyone can send it; it is only as reliable as the proxy in front.
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

    /// A log writer that keeps what was logged.
    #[derive(Clone, Default)]
    pub(crate) struct CapturedLogs(Arc<Mutex<Vec<u8>>>);

    impl CapturedLogs {
        /// Everything that was logged.
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
    fn excess_failures_are_counted_instead_of_logged() {
        let lines = CapturedLogs::default();
        let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
        let log = FailureLog::default();
        let failure = AuthFailure::new("tencent", format!("AKID\n{}", "x".repeat(1000)), "AuthFailure.X");
        tracing::subscriber::with_default(subscriber, || {
            let origin = RequestOrigin {
                address: Some("192.0.2.1:1234".parse().unwrap()),
                forwarded_for: Some("198.51.100.7".to_owned()),
            };
            (0..500).for_each(|_| log.write(&failure, &RequestId::random(), &origin));
            // A fresh rate limiter stands for the next second.
            let next_second = FailureLog { suppressed: log.suppressed, ..FailureLog::default() };
            next_second.write(&failure, &RequestId::random(), &RequestOrigin::default());
        });
        let text = lines.text();
        let count = text.lines().count();
        assert!((21..100).contains(&count), "{count} lines");
        let (first, last) = (text.lines().next().unwrap(), text.lines().last().unwrap());
        for field in [
            " INFO ",
            "authentication refused",
            "api=\"tencent\"",
            "key_id=\"AKIDxxx",
            "address=192.0.2.1 ",
            "forwarded_for=\"198.51.100.7\"",
            "code=\"AuthFailure.X\"",
            " request_id=",
        ] {
            assert!(first.contains(field), "{field} is not in {first}");
        }
        assert!(first.len() < 400 && last.contains("suppressed="), "{first}\n{last}");
    }
}
