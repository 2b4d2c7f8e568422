//! CPU time and memory of all browsers that a cast has had.

use std::time::Duration;

use pagecast_core::HostTime;
use pagecast_page::{Page, clock};

use crate::usage;

/// How often the browser is measured: each time reads a dozen files of `/proc`.
const USAGE_INTERVAL: Duration = Duration::from_secs(2);

/// CPU time and memory of the running browser and of those before it.
#[derive(Default)]
pub(super) struct BrowserUsage {
    /// CPU seconds of browsers that are gone.
    past_cpu_s: f64,
    current: usage::BrowserUsage,
    peak_rss_bytes: u64,
    /// When the next measurement is due; `None` for the first one.
    due_at: Option<HostTime>,
}

impl BrowserUsage {
    /// Returns whether the next measurement is due at `now`.
    pub(super) fn is_due(&self, now: HostTime) -> bool {
        self.due_at.is_none_or(|at| at <= now)
    }

    /// When the next measurement is due.
    pub(super) fn deadline(&self) -> Option<HostTime> {
        self.due_at
    }

    /// Measures the browser of this page, if it runs.
    pub(super) fn measure(&mut self, page: Option<&Page>) {
        self.due_at = Some(clock::now() + USAGE_INTERVAL);
        let Some(Ok(browser)) = page.map(Page::browser) else { return };
        let now = usage::browser_usage(browser.pid());
        self.peak_rss_bytes = self.peak_rss_bytes.max(now.rss_bytes);
        let cpu_seconds = now.cpu_seconds.max(self.current.cpu_seconds);
        self.current = usage::BrowserUsage { cpu_seconds, ..now };
    }

    /// Measures the running browser for the last time, before another one replaces it.
    pub(super) fn end_browser(&mut self, page: Option<&Page>) {
        self.measure(page);
        self.past_cpu_s += std::mem::take(&mut self.current).cpu_seconds;
    }

    /// Returns the CPU time of all browsers, in seconds.
    pub(super) fn cpu_s(&self) -> f64 {
        self.past_cpu_s + self.current.cpu_seconds
    }

    /// Returns the resident memory of the running browser, in bytes.
    pub(super) fn rss_bytes(&self) -> u64 {
        self.current.rss_bytes
    }

    /// Returns the largest resident memory of any browser, in bytes.
    pub(super) fn peak_rss_bytes(&self) -> u64 {
        self.peak_rss_bytes
    }
}
