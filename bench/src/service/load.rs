//! Sends requests, and keeps the time.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::calls::Request;

/// That wait for an answer at the same time. If all of them do, the next request is late, and counts from when it was due.
const SENDERS: usize = 128;

/// How long it took until answers were there.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// In milliseconds, the shortest first. Errors count as well.
    ms: Vec<f64>,
    /// Requests that were refused, or had no answer.
    pub(crate) errors: usize,
    /// What was wrong with one of them.
    problem: Option<String>,
    asked: usize,
}

impl Times {
    /// Milliseconds and what was wrong, of each answer to so many requests.
    pub(crate) fn of(answers: Vec<(f64, Option<String>)>, asked: usize) -> Self {
        let mut times = Self { asked, errors: asked - answers.len(), ..Self::default() };
        for (ms, problem) in answers {
            times.ms.push(ms);
            times.errors += usize::from(problem.is_some());
            times.problem = problem.or(times.problem);
        }
        times.ms.sort_by(f64::total_cmp);
        times
    }

    /// How many requests there were.
    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    /// This part of the answers, 0 to 1, was there within so many milliseconds.
    pub(crate) fn within_ms(&self, part: f64) -> f64 {
        let last = (self.ms.len() as f64 * part).ceil() as usize;
        self.ms.get(last.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, nearly, all] = [0.5, 0.95, 0.99, 1.0].map(|part| self.within_ms(part));
        write!(f, "50 % {half:.1} ms, 95 % {most:.1} ms, 99 % {nearly:.1} ms, all {all:.1} ms")?;
        match &self.problem {
            None => write!(f, ", {} errors", self.errors),
            Some(problem) => write!(f, ", {} errors: {problem}", self.errors),
        }
    }
}

/// Sends each request when it is due, whatever became of those before; its time begins then.
pub(super) fn at_rate(url: &str, requests: &[Request], per_second: u32) -> Times {
    send(url, requests, SENDERS, |n| Duration::from_secs_f64(n as f64 / f64::from(per_second)))
}

/// Sends them as fast as so many senders can that wait for their answers.
pub(super) fn at_once(url: &str, requests: &[Request], senders: usize) -> Times {
    send(url, requests, senders, |_| Duration::ZERO)
}

/// Sends each one when the answer to the one before is there; its time begins then.
pub(super) fn one_by_one(url: &str, requests: &[Request]) -> Times {
    let answers = requests.iter().map(|request| answer(url, request, Instant::now()));
    Times::of(answers.collect(), requests.len())
}

fn send(url: &str, requests: &[Request], senders: usize, due: impl Fn(usize) -> Duration + Sync) -> Times {
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let sender = || {
        let mut answers = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(request) = requests.get(n) else { return answers };
            let due = begun + due(n);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            answers.push(answer(url, request, due));
        }
    };
    let answers = thread::scope(|scope| {
        let senders: Vec<_> = (0..senders).map(|_| scope.spawn(sender)).collect();
        senders.into_iter().flat_map(|sender| sender.join().unwrap_or_default()).collect()
    });
    Times::of(answers, requests.len())
}

fn answer(url: &str, request: &Request, due: Instant) -> (f64, Option<String>) {
    let problem = request.carry_out(url).err().map(|error| format!("{error:#}"));
    (due.elapsed().as_secs_f64() * 1000.0, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_all_answers() {
        let answers = (1..=200).rev().map(|ms| (f64::from(ms), (ms == 7).then(|| "no".to_owned())));
        let times = Times::of(answers.collect(), 201);
        let within = [0.5, 0.95, 0.99, 1.0].map(|part| times.within_ms(part));
        assert_eq!((within, times.errors), ([100.0, 190.0, 198.0, 200.0], 2));
        assert!(Times::default().within_ms(0.5).is_nan());
    }
}
