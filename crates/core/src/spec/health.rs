//! When a cast may begin, how its page is watched, and what it may use.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::MAX_VALUE_LEN;
use super::{Field, Size, SpecError};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How long a page may be waited for; zero waits for ever.
pub const READY_TIMEOUT_RANGE: RangeInclusive<Duration> = secs(0)..=secs(60);
/// Time between two looks for a frozen or blank page.
pub const CHECK_INTERVAL_RANGE: RangeInclusive<Duration> = secs(2)..=secs(30);
/// Time between two looks for a crashed page.
pub const CRASH_CHECK_INTERVAL_RANGE: RangeInclusive<Duration> = secs(1)..=secs(30);
/// How long a cast may run.
pub const MAX_TIME_RANGE: RangeInclusive<Duration> = secs(10)..=secs(86_400);
/// How often a cast may start a browser.
pub const ATTEMPTS_RANGE: RangeInclusive<u32> = 1..=10;
/// Memory for the browser of a cast.
pub const MEMORY_RANGE: RangeInclusive<u64> = 256 << 20..=256 << 30;
/// What the browser of a cast may write to the disk. A fresh profile takes 6 MB, and one file of shared
/// memory may be as large as this.
pub const DISK_RANGE: RangeInclusive<u64> = 256 << 20..=256 << 30;
/// Share of a busy machine.
pub const CPU_WEIGHT_RANGE: RangeInclusive<u32> = 1..=10_000;

/// When the page is ready to be shown; until then nothing goes into any output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readiness {
    /// What the page calls.
    pub signal: ReadySignal,
    /// How long the page's call is waited for; zero waits for ever.
    pub timeout: Duration,
    /// A CSS selector that must match something visible.
    pub selector: Option<String>,
    /// Nothing is being loaded for half a second.
    pub network_idle: bool,
}

/// How a page says that it is ready. The functions exist in the page only if they are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadySignal {
    /// It does not: it is shown as soon as it has drawn something.
    #[default]
    None,
    /// `onWebcastStart()`; `onWebcastEnd()` ends the cast. Whoever does not call for the second time is
    /// moved.
    Webcast,
    /// `notifyReady()`. Whoever does not call for the second time has failed.
    NotifyReady,
}

/// How often to look whether the page is alive; `None` never looks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthChecks {
    /// Frozen: nothing changed on the page, 2 to 30 s.
    pub freeze: Option<Duration>,
    /// Blank: every pixel is white, 2 to 30 s.
    pub blank: Option<Duration>,
    /// Crashed: the renderer is gone, or its scripts do not get on, 1 to 30 s.
    pub crash: Option<Duration>,
}

/// What a cast may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Time from the first frame in the outputs to the end, 10 s to 24 h; as long may pass before that frame.
    pub max_time: Duration,
    /// Browsers that may be started for it, 1 to 10: the first one and those it is moved to.
    pub attempts: u32,
    /// Memory of its browser in bytes, 256 MiB to 256 GiB; a browser that needs more has crashed.
    pub memory_bytes: u64,
    /// What its browser may write to the disk in bytes, 256 MiB to 256 GiB: profile, caches, what pages
    /// store. A browser that writes more has crashed.
    pub disk_bytes: u64,
    /// Weight of its CPU time against other casts, 1 to 10000, where control groups allow it.
    pub cpu_weight: u32,
    /// The largest video that its page may play, upright or not, like `[1920, 1080]`; one that is larger ends
    /// the cast.
    pub max_video: Option<Size>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_time: *MAX_TIME_RANGE.end(),
            attempts: 3,
            memory_bytes: 4 << 30,
            disk_bytes: 1 << 30,
            cpu_weight: 100,
            max_video: None,
        }
    }
}

impl Readiness {
    pub(super) fn validate(&self) -> Result<(), SpecError> {
        validate_duration(Field::ReadyTimeout, self.timeout, &READY_TIMEOUT_RANGE)?;
        match &self.selector {
            Some(s) if s.is_empty() || s.len() > MAX_VALUE_LEN => {
                Err(SpecError::Context { what: "selector to wait for", why: "it must have 1 to 8192 bytes" })
            }
            _ => Ok(()),
        }
    }
}

impl HealthChecks {
    pub(super) fn validate(&self) -> Result<(), SpecError> {
        for (field, value, range) in [
            (Field::FreezeCheck, self.freeze, &CHECK_INTERVAL_RANGE),
            (Field::BlankCheck, self.blank, &CHECK_INTERVAL_RANGE),
            (Field::CrashCheck, self.crash, &CRASH_CHECK_INTERVAL_RANGE),
        ] {
            value.map_or(Ok(()), |value| validate_duration(field, value, range))?;
        }
        Ok(())
    }
}

impl Limits {
    pub(super) fn validate(&self) -> Result<(), SpecError> {
        validate_duration(Field::MaxTime, self.max_time, &MAX_TIME_RANGE)?;
        let number = |field, value: u64, range: RangeInclusive<u64>| {
            let (low, high) = (*range.start(), *range.end());
            if range.contains(&value) {
                Ok(())
            } else {
                Err(SpecError::NumberOutOfRange { field, value, low, high })
            }
        };
        let wide = |range: &RangeInclusive<u32>| u64::from(*range.start())..=u64::from(*range.end());
        number(Field::Attempts, self.attempts.into(), wide(&ATTEMPTS_RANGE))?;
        number(Field::Memory, self.memory_bytes, MEMORY_RANGE)?;
        number(Field::Disk, self.disk_bytes, DISK_RANGE)?;
        number(Field::CpuWeight, self.cpu_weight.into(), wide(&CPU_WEIGHT_RANGE))
    }
}

pub(super) fn validate_duration(
    field: Field,
    value: Duration,
    range: &RangeInclusive<Duration>,
) -> Result<(), SpecError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(SpecError::DurationOutOfRange { field, value, low: *range.start(), high: *range.end() })
}
