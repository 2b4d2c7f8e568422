//! How a page is waited for, watched and ended.

use std::time::Duration;

use clap::{Args, ValueEnum};
use pagecast_core::spec::{HealthChecks, Limits, Readiness, ReadySignal, Size};

use super::{parse_bytes, parse_duration, parse_size};

/// How long the page's scripts may hang unless the command line says otherwise: as long as Chromium waits
/// before it asks a person whether to end an unresponsive page.
const DEFAULT_HANG_TIMEOUT: Duration = Duration::from_secs(15);

/// Options of `record` about the life of the cast.
#[derive(Debug, Args)]
#[command(next_help_heading = "The life of the recording")]
pub(crate) struct HealthOptions {
    /// Show nothing until the page calls onWebcastStart() (`webcast`, which gives it onWebcastEnd() too) or
    /// notifyReady() (`ready`)
    #[arg(long, value_name = "FUNCTION", num_args = 0..=1, require_equals = true, default_missing_value = "webcast")]
    wait_for_start: Option<StartFunction>,
    /// How long to wait until the page is ready, up to 60s; then it is loaded again, then moved to a fresh
    /// browser [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ready_timeout: Option<Duration>,
    /// Begin when something visible matches this selector
    #[arg(long, value_name = "CSS")]
    wait_for_selector: Option<String>,
    /// Begin when nothing was being loaded for half a second
    #[arg(long)]
    wait_for_network_idle: bool,
    /// End when the page was shown for so long, whatever happens, 10s to 24h [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max_time: Option<Duration>,
    /// Look every 2 to 30 s whether anything on the page changed; twice in a row not: load it again; twice
    /// more: fresh browser
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    freeze_check: Option<Duration>,
    /// Look every 2 to 30 s whether the page is all white, and do the same
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    blank_check: Option<Duration>,
    /// Give the page a fresh browser when its scripts have not run for so long, 1 to 30 s; 0 for never
    /// [default: 15s]. A browser that is gone is replaced in any case
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    crash_check: Option<Duration>,
    /// Browsers to try, 1 to 10, before the recording is given up [default: 3]
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// Memory for the browser, like 2G; one that needs more is replaced [default: 4G]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_memory: Option<u64>,
    /// What the browser may write to the disk, like 2G; one that writes more is replaced [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_disk: Option<u64>,
    /// End when the page plays a video larger than this, upright or not [default: any may be played]
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
        let some = |time: Option<Duration>| time.filter(|t| !t.is_zero());
        HealthChecks {
            freeze: some(self.freeze_check),
            blank: some(self.blank_check),
            crash: some(self.crash_check.or(Some(DEFAULT_HANG_TIMEOUT))),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            max_time: self.max_time.unwrap_or(usual.max_time),
            attempts: self.attempts.unwrap_or(usual.attempts),
            memory_bytes: self.max_memory.unwrap_or(usual.memory_bytes),
            disk_bytes: self.max_disk.unwrap_or(usual.disk_bytes),
            max_video: self.max_video,
            ..usual
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
