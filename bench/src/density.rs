//! Number of simultaneous casts that keep the full frame rate.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::cast::{Cast, FPS, Recorder};
use crate::measure::{COOL_DOWN, WARM_UP, sample_usage};
use crate::page::BenchPage;
use crate::quality::MeasuredFile;
use crate::site::BenchSite;
use crate::usage::kill_descendants;

/// Share of the requested frame rate that counts as full.
pub(crate) const FULL_RATE_SHARE: f64 = 0.97;
/// Most casts that are tried.
pub(crate) const MAX_CASTS: usize = 32;

/// Measurement of a number of simultaneous casts.
#[derive(Debug)]
pub(crate) struct DensityStep {
    pub(crate) casts: usize,
    /// New pictures per second of the slowest cast; `None` if a cast failed.
    pub(crate) worst_fps: Option<f64>,
    /// CPU cores used by all casts.
    pub(crate) cores: f64,
}

impl DensityStep {
    pub(crate) fn is_full_rate(&self) -> bool {
        self.worst_fps.is_some_and(|fps| fps >= FULL_RATE_SHARE * f64::from(FPS))
    }

    /// Text about the slowest cast.
    pub(crate) fn describe_worst(&self) -> String {
        self.worst_fps.map_or_else(|| "a cast failed".to_owned(), |fps| format!("{fps:.1} fps"))
    }
}

/// Adds casts one by one until one of them is too slow.
pub(crate) fn measure_density(
    recorder: Recorder,
    site: &BenchSite,
    page: BenchPage,
    program: &Path,
    window: Duration,
) -> Result<Vec<DensityStep>> {
    let mut steps = Vec::new();
    for casts in 1..=MAX_CASTS {
        let step = measure_step(casts, recorder, site, page, program, window)?;
        eprintln!("{casts} x {}: {}, {:.2} cores", recorder.name(), step.describe_worst(), step.cores);
        let is_last = !step.is_full_rate();
        steps.push(step);
        if is_last {
            break;
        }
    }
    Ok(steps)
}

fn measure_step(
    count: usize,
    recorder: Recorder,
    site: &BenchSite,
    page: BenchPage,
    program: &Path,
    window: Duration,
) -> Result<DensityStep> {
    let mut casts = Vec::new();
    for _ in 0..count {
        // One after the other, as starts are not measured here.
        let mut cast = Cast::start(recorder, site, page, program)?;
        cast.wait_until_shown(site)?;
        casts.push(cast);
    }
    std::thread::sleep(WARM_UP);
    let (cores, _) = sample_usage(window)?;
    std::thread::sleep(COOL_DOWN);
    let worst = finish_all(casts, window);
    kill_descendants()?;
    if let Err(error) = &worst {
        eprintln!("{count} x {}: {error:#}", recorder.name());
    }
    Ok(DensityStep { casts: count, worst_fps: worst.ok(), cores: cores.total() })
}

/// Ends all casts and returns the new pictures per second of the slowest one.
fn finish_all(casts: Vec<Cast>, window: Duration) -> Result<f64> {
    casts.iter().try_for_each(Cast::interrupt)?;
    let finished = casts.into_iter().map(Cast::finish).collect::<Result<Vec<_>>>()?;
    finished.iter().try_fold(f64::from(FPS), |worst, cast| {
        Ok(worst.min(MeasuredFile::open(&cast.file, window.as_secs_f64())?.distinct_fps()))
    })
}
