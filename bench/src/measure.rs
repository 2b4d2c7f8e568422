//! Measures one cast, alone on the machine, from outside, over a window after its start.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cast::{Cast, Recorder};
use crate::page::BenchPage;
use crate::quality::{MeasuredFile, Ssim};
use crate::reference::ReferenceFrames;
use crate::site::BenchSite;
use crate::usage::{CpuUsage, kill_descendants, pss_bytes};

/// Time from the page's first drawing to the window: caches fill, encoders adapt, static pictures get sharp.
pub(crate) const WARM_UP: Duration = Duration::from_secs(4);
/// Time from the window to the end of the recording.
pub(crate) const COOL_DOWN: Duration = Duration::from_millis(700);

/// Cost and quality of a cast.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// CPU cores used during the window.
    pub(crate) cores: CpuUsage,
    /// Largest proportional set size during the window.
    pub(crate) pss_bytes: u64,
    pub(crate) distinct_fps: f64,
    pub(crate) coded_fps: f64,
    pub(crate) kbps: f64,
    pub(crate) ssim: Option<Ssim>,
    /// CPU time in Pagecast's report, divided by that measured from outside.
    pub(crate) self_reported_cpu_ratio: Option<f64>,
}

/// Measures a cast of `page`. Compares its pictures if there are `references`.
pub(crate) fn measure_cast(
    recorder: Recorder,
    site: &BenchSite,
    page: BenchPage,
    program: &Path,
    window: Duration,
    references: Option<&mut ReferenceFrames<'_>>,
) -> Result<Measurement> {
    let mut cast = Cast::start(recorder, site, page, program)?;
    cast.wait_until_shown(site)?;
    std::thread::sleep(WARM_UP);
    let (cores, pss_bytes) = sample_usage(window)?;
    std::thread::sleep(COOL_DOWN);
    let used = CpuUsage::now()?.total();
    cast.interrupt()?;
    let finished = cast.finish()?;
    kill_descendants()?;
    let file = MeasuredFile::open(&finished.file, window.as_secs_f64())?;
    Ok(Measurement {
        cores,
        pss_bytes,
        distinct_fps: file.distinct_fps(),
        coded_fps: file.coded_fps(),
        kbps: file.kbps()?,
        ssim: references.map(|references| file.ssim(page, recorder, references)).transpose()?,
        self_reported_cpu_ratio: finished.self_report.map(|report| report.cpu_s / used),
    })
}

/// CPU cores used by all descendants of this process over `window`, and their largest memory.
pub(crate) fn sample_usage(window: Duration) -> Result<(CpuUsage, u64)> {
    let started = Instant::now();
    let before = CpuUsage::now()?;
    let mut peak = 0;
    while started.elapsed() < window {
        // Reading set sizes walks page tables, which takes time from the measured processes.
        peak = peak.max(pss_bytes()?);
        std::thread::sleep(Duration::from_secs(2).min(window.saturating_sub(started.elapsed())));
    }
    let after = CpuUsage::now()?;
    Ok(((after - before).per_second_of(started.elapsed()), peak))
}
