//! CPU time and memory of all browsers that a cast has had.

use std::time::{Duration, Instant};

use pagecast_page::Page;

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
    measured_at: Option<Instant>,
}

impl BrowserUsage {
    /// Returns whether the next measurement is due.
    pub(super) fn is_due(&self) -> bool {
        self.measured_at.is_none_or(|at| at.elapsed() >= USAGE_INTERVAL)
    }

    /// Measures the browser of this page, if it runs.
    pub(super) fn measure(&mut self, page: Option<&Page>) {
        self.measured_at = Some(Instant::now());
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
