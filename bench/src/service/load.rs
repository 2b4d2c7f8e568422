//! Sends requests and measures their latency.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::calls::Request;

/// Most requests without a response. Further ones are sent late, and their latency counts from when they were
/// due.
const MAX_SENDERS: usize = 128;

/// Latencies of requests.
#[derive(Debug, Default)]
pub(crate) struct LatencyStats {
    /// Latencies in milliseconds, the shortest first, errors included.
    sorted_ms: Vec<f64>,
    /// Requests that were refused, or had no response.
    pub(crate) errors: usize,
    /// Message of one of the errors.
    sample_error: Option<String>,
    request_count: usize,
}

impl LatencyStats {
    /// Statistics of responses (milliseconds and error message) to `request_count` requests.
    pub(crate) fn of(responses: Vec<(f64, Option<String>)>, request_count: usize) -> Self {
        let mut times = Self { request_count, errors: request_count - responses.len(), ..Self::default() };
        for (ms, problem) in responses {
            times.sorted_ms.push(ms);
            times.errors += usize::from(problem.is_some());
            times.sample_error = problem.or(times.sample_error);
        }
        times.sorted_ms.sort_by(f64::total_cmp);
        times
    }

    /// Number of requests.
    pub(crate) fn request_count(&self) -> usize {
        self.request_count
    }

    /// Latency within which this share of the requests was answered, in milliseconds.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        let last = (self.sorted_ms.len() as f64 * share).ceil() as usize;
        self.sorted_ms.get(last.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for LatencyStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|share| self.percentile_ms(share));
        write!(f, "50 % {p50:.1} ms, 95 % {p95:.1} ms, 99 % {p99:.1} ms, all {max:.1} ms")?;
        match &self.sample_error {
            None => write!(f, ", {} errors", self.errors),
            Some(problem) => write!(f, ", {} errors: {problem}", self.errors),
        }
    }
}

/// Sends each request when it is due, without waiting for responses. Its latency counts from then.
pub(super) fn send_at_rate(url: &str, requests: &[Request], per_second: u32) -> LatencyStats {
    send(url, requests, MAX_SENDERS, |n| Duration::from_secs_f64(n as f64 / f64::from(per_second)))
}

/// Sends requests by concurrent senders, each of which waits for its responses.
pub(super) fn send_concurrently(url: &str, requests: &[Request], senders: usize) -> LatencyStats {
    send(url, requests, senders, |_| Duration::ZERO)
}

/// Sends each request after the response to the previous one.
pub(super) fn send_sequentially(url: &str, requests: &[Request]) -> LatencyStats {
    let answers = requests.iter().map(|request| send_timed(url, request, Instant::now()));
    LatencyStats::of(answers.collect(), requests.len())
}

fn send(
    url: &str,
    requests: &[Request],
    senders: usize,
    due: impl Fn(usize) -> Duration + Sync,
) -> LatencyStats {
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let sender = || {
        let mut answers = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = requests.get(n) else { return answers };
            let due = begun + due(n);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            answers.push(send_timed(url, request, due));
        }
    };
    let answers = thread::scope(|scope| {
        let senders: Vec<_> = (0..senders).map(|_| scope.spawn(sender)).collect();
        senders.into_iter().flat_map(|sender| sender.join().unwrap_or_default()).collect()
    });
    LatencyStats::of(answers, requests.len())
}

fn send_timed(url: &str, request: &Request, due: Instant) -> (f64, Option<String>) {
    let problem = request.send_expecting_ok(url).err().map(|error| format!("{error:#}"));
    (due.elapsed().as_secs_f64() * 1000.0, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_all_responses() {
        let answers = (1..=200).rev().map(|ms| (f64::from(ms), (ms == 7).then(|| "no".to_owned())));
        let times = LatencyStats::of(answers.collect(), 201);
        let within = [0.5, 0.95, 0.99, 1.0].map(|part| times.percentile_ms(part));
        assert_eq!((within, times.errors), ([100.0, 190.0, 198.0, 200.0], 2));
        assert!(LatencyStats::default().percentile_ms(0.5).is_nan());
    }
}
