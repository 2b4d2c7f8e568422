//! Readiness, health checks and limits of a cast.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::MAX_VALUE_LEN;
use super::{Field, Size, SpecError};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Range of the ready timeout; zero means no timeout.
pub const READY_TIMEOUT_RANGE: RangeInclusive<Duration> = secs(0)..=secs(60);
/// Range of the interval of the freeze and blank checks.
pub const CHECK_INTERVAL_RANGE: RangeInclusive<Duration> = secs(2)..=secs(30);
/// Range of the interval of the crash check.
pub const CRASH_CHECK_INTERVAL_RANGE: RangeInclusive<Duration> = secs(1)..=secs(30);
/// Range of the maximum running time.
pub const MAX_TIME_RANGE: RangeInclusive<Duration> = secs(10)..=secs(86_400);
/// Range of the number of browsers that a cast may start.
pub const ATTEMPTS_RANGE: RangeInclusive<u32> = 1..=10;
/// Range of the browser's memory limit, in bytes.
pub const MEMORY_RANGE: RangeInclusive<u64> = 256 << 20..=256 << 30;
/// Range of the browser's disk limit, in bytes. A fresh profile takes 6 MB, and a single shared-memory file
/// may be as large as the limit.
pub const DISK_RANGE: RangeInclusive<u64> = 256 << 20..=256 << 30;
/// Range of the CPU weight, as in control groups (`cpu.weight`).
pub const CPU_WEIGHT_RANGE: RangeInclusive<u32> = 1..=10_000;

/// Conditions for showing a page; until all are met, nothing of it goes to any output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readiness {
    /// Call by which the page signals that it is ready.
    pub signal: ReadySignal,
    /// Longest time to wait for that call, 0 to 60 s; zero means no timeout.
    pub timeout: Duration,
    /// CSS selector that must match a visible element.
    pub selector: Option<String>,
    /// Whether to wait until no request was under way for half a second.
    pub network_idle: bool,
}

/// Call by which a page signals that it is ready. The functions exist in the page only if they are selected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadySignal {
    /// No call: the page is ready once it has drawn something.
    #[default]
    None,
    /// `onWebcastStart()`; `onWebcastEnd()` ends the cast. The second timeout moves the page to a fresh
    /// browser.
    Webcast,
    /// `notifyReady()`. The second timeout ends the cast.
    NotifyReady,
}

/// Intervals of the health checks; `None` turns a check off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthChecks {
    /// Freeze check: fails if nothing changed on the page. 2 to 30 s.
    pub freeze: Option<Duration>,
    /// Blank check: fails if every pixel is white. 2 to 30 s.
    pub blank: Option<Duration>,
    /// Crash check: fails if the page's scripts do not respond. 1 to 30 s.
    pub crash: Option<Duration>,
}

/// Limits of a cast's time and resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Maximum running time, counted from the first frame in the outputs, 10 s to 24 h. The time before that
    /// frame is limited to the same value.
    pub max_time: Duration,
    /// Number of browsers that may be started in a row, 1 to 10: the first one and the moves.
    pub attempts: u32,
    /// Memory limit of the browser in bytes, 256 MiB to 256 GiB; exceeding it counts as a crash.
    pub memory_bytes: u64,
    /// Disk limit of the browser in bytes, 256 MiB to 256 GiB: profile, caches, and data that pages store.
    /// Exceeding it counts as a crash.
    pub disk_bytes: u64,
    /// CPU weight relative to other casts, 1 to 10000, where control groups are available.
    pub cpu_weight: u32,
    /// Largest video that the page may play, in either orientation, like `[1920, 1080]`; a larger one ends
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
