//! Whether the page's scripts run: they are asked for a sign of life again and again, and long silences are
//! noted.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Time between an answer and the next question. A question costs a page at rest a fraction of a millisecond.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest silence that counts as a hang: shorter ones are the ordinary work of a heavy page.
const MIN_HANG: Duration = Duration::from_secs(2);
/// Hangs kept for the report; a page that has more is the same all the time.
const MAX_HANGS: usize = 100;

/// A time during which the page's scripts did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// Milliseconds from the beginning of the cast to the question that was not answered, up to a second
    /// after the scripts stopped.
    pub at_ms: u64,
    /// How long the answer took in milliseconds, or until the page was loaded again or the cast over.
    pub ms: u64,
}

/// Asks a page and counts its silences; `P` is a question that was asked.
#[derive(Debug)]
pub(super) struct HangWatch<P> {
    /// When the cast began.
    began: Instant,
    /// When the question was asked that is not answered yet.
    asked: Option<(Instant, P)>,
    ask_at: Instant,
    /// Whether the last one of the hangs goes on.
    hangs_now: bool,
    hangs: Vec<Hang>,
}

impl<P> HangWatch<P> {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, asked: None, ask_at: began, hangs_now: false, hangs: Vec::new() }
    }

    /// Looks whether the question was answered, and asks the next one when that is due.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        is_answered: impl Fn(&P) -> bool,
        ask: impl FnOnce() -> Option<P>,
    ) {
        if let Some((at, question)) = &self.asked {
            let (at, answered) = (*at, is_answered(question));
            self.note(at, now);
            if !answered {
                return;
            }
            (self.asked, self.hangs_now, self.ask_at) = (None, false, now + ASK_INTERVAL);
        }
        if now >= self.ask_at
            && let Some(question) = ask()
        {
            self.asked = Some((now, question));
        }
    }

    /// How long the scripts have been silent.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.asked.as_ref().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }

    /// The page is another one: nobody answers what the last one was asked.
    pub(super) fn forget(&mut self, now: Instant) {
        if let Some((at, _)) = self.asked.take() {
            self.note(at, now);
        }
        (self.hangs_now, self.ask_at) = (false, now);
    }

    /// All hangs so far, in order.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Hang> {
        self.forget(now);
        std::mem::take(&mut self.hangs)
    }

    fn note(&mut self, since: Instant, now: Instant) {
        let silence = now.saturating_duration_since(since);
        if silence < MIN_HANG {
            return;
        }
        let ms = super::driver::millis(silence);
        if self.hangs_now {
            if let Some(last) = self.hangs.last_mut() {
                last.ms = ms;
            }
        } else if self.hangs.len() < MAX_HANGS {
            let at_ms = super::driver::millis(since.saturating_duration_since(self.began));
            self.hangs.push(Hang { at_ms, ms });
            self.hangs_now = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls every 50 ms as a cast does; the page answers unless it hangs from one of these moments for so
    /// long, in milliseconds.
    fn watched(hangs: &[(u64, u64)], until_ms: u64) -> Vec<Hang> {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut watch = HangWatch::new(began);
        for ms in (0..until_ms).step_by(50) {
            let runs = !hangs.iter().any(|(from, length)| (*from..from + length).contains(&ms));
            watch.poll(at(ms), |()| runs, || Some(()));
            assert!(watch.silence(at(ms)) <= Duration::from_millis(ms));
        }
        watch.take(at(until_ms))
    }

    #[test]
    fn long_silences_are_noted_with_their_length() {
        assert_eq!(watched(&[], 60_000), []);
        assert_eq!(watched(&[(10_000, 1900)], 60_000), [], "a page at work");
        let hangs = watched(&[(10_000, 5000), (30_000, 12_000)], 60_000);
        assert_eq!(hangs.len(), 2);
        for (hang, (at_ms, ms)) in hangs.iter().zip([(10_000, 5000), (30_000, 12_000)]) {
            assert!((at_ms..=at_ms + 1050).contains(&hang.at_ms), "{hang:?}");
            assert!((ms - 1050..=ms + 50).contains(&hang.ms), "{hang:?}");
        }
        let last = watched(&[(10_000, 90_000)], 20_000);
        assert!(last.len() == 1 && last[0].ms >= 8900, "one that never ends: {last:?}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let hangs: Vec<_> = (0..300).map(|n| (n * 10_000, 5000)).collect();
        assert_eq!(watched(&hangs, 3_000_000).len(), MAX_HANGS);
    }

    #[test]
    fn another_page_is_not_asked_for_the_answer_of_the_last() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut watch = HangWatch::new(began);
        watch.poll(at(0), |()| false, || Some(()));
        watch.poll(at(3000), |()| false, || Some(()));
        assert_eq!(watch.silence(at(3000)), Duration::from_secs(3));
        watch.forget(at(4000));
        assert_eq!(watch.silence(at(4000)), Duration::ZERO);
        watch.poll(at(4050), |()| false, || Some(()));
        assert_eq!(watch.silence(at(4100)), Duration::from_millis(50));
        assert_eq!(watch.take(at(4100)), [Hang { at_ms: 0, ms: 4000 }]);
    }
}
