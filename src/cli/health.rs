//! Options of readiness, health checks and limits of a page.

use std::time::Duration;

use clap::{Args, ValueEnum};
use pagecast_core::spec::{HealthChecks, Limits, Readiness, ReadySignal, Size};

use super::{parse_bytes, parse_duration, parse_size};

/// Default of `--crash-check`: as long as Chromium waits before it asks a person whether to close an
/// unresponsive page.
const DEFAULT_HANG_TIMEOUT: Duration = Duration::from_secs(15);

/// Options of readiness, health checks and limits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Page health and limits")]
pub(crate) struct HealthOptions {
    /// Show nothing until the page calls onWebcastStart() (`webcast`, which also provides onWebcastEnd()) or
    /// notifyReady() (`ready`)
    #[arg(long, value_name = "FUNCTION", num_args = 0..=1, require_equals = true,
    default_missing_value = "webcast")]
    wait_for_start: Option<StartFunction>,
    /// How long to wait until the page is ready, up to 60s; after that the page is reloaded once, then moved
    /// to a new browser [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ready_timeout: Option<Duration>,
    /// Start when a visible element matches this selector
    #[arg(long, value_name = "CSS")]
    wait_for_selector: Option<String>,
    /// Start when the network has been idle for half a second
    #[arg(long)]
    wait_for_network_idle: bool,
    /// Longest time to show the page, 10s to 24h [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_time: Option<Duration>,
    /// Check for changes every 2 to 30 s; reload after two unchanged checks, replace the browser after two
    /// more
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    freeze_check: Option<Duration>,
    /// Check every 2 to 30 s whether the page is all white; reload and replace as for --freeze-check
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    blank_check: Option<Duration>,
    /// Replace the browser when the page's scripts have not run for this time, 1 to 30 s; 0
    /// disables the check [default: 15s]. A browser that crashed is replaced in any case
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    crash_check: Option<Duration>,
    /// Number of browsers to try before the cast fails, 1 to 10 [default: 3]
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// Memory limit of the browser, like 2G; a browser above it is replaced [default: 4G]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_memory: Option<u64>,
    /// Disk limit of the browser, like 2G; a browser above it is replaced [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_disk: Option<u64>,
    /// End the cast when the page plays a video larger than this, in either orientation [default: no limit]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    max_video: Option<Size>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StartFunction {
    Webcast,
    Ready,
}

impl HealthOptions {
    pub(crate) fn readiness(&self) -> Readiness {
        let signal = match self.wait_for_start {
            None => ReadySignal::None,
            Some(StartFunction::Webcast) => ReadySignal::Webcast,
            Some(StartFunction::Ready) => ReadySignal::NotifyReady,
        };
        Readiness {
            signal,
            timeout: self.ready_timeout.unwrap_or_default(),
            selector: self.wait_for_selector.clone(),
            network_idle: self.wait_for_network_idle,
        }
    }

    pub(crate) fn checks(&self) -> HealthChecks {
        let enabled = |time: Option<Duration>| time.filter(|t| !t.is_zero());
        HealthChecks {
            freeze: enabled(self.freeze_check),
            blank: enabled(self.blank_check),
            crash: enabled(self.crash_check.or(Some(DEFAULT_HANG_TIMEOUT))),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        let defaults = Limits::default();
        Limits {
            max_time: self.max_time.unwrap_or(defaults.max_time),
            attempts: self.attempts.unwrap_or(defaults.attempts),
            memory_bytes: self.max_memory.unwrap_or(defaults.memory_bytes),
            disk_bytes: self.max_disk.unwrap_or(defaults.disk_bytes),
            max_video: self.max_video,
            ..defaults
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        health: HealthOptions,
    }

    #[test]
    fn hang_check_is_on_by_default() {
        let checks = |arguments: &[&str]| {
            TestCli::try_parse_from(std::iter::once(&"x").chain(arguments)).unwrap().health.checks()
        };
        let crash =
            |seconds| HealthChecks { crash: Some(Duration::from_secs(seconds)), ..HealthChecks::default() };
        assert_eq!(checks(&[]), crash(15));
        assert_eq!(checks(&["--crash-check=3s"]), crash(3));
        assert_eq!(checks(&["--crash-check=0"]), HealthChecks::default());
        let freeze = HealthChecks { freeze: Some(Duration::from_secs(2)), ..crash(15) };
        assert_eq!(checks(&["--freeze-check=2s"]), freeze);
    }
}
