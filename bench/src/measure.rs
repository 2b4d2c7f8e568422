//! One cast, alone on the machine, measured from outside over a window after its start.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cast::{Cast, Recorder};
use crate::page::BenchPage;
use crate::quality::{MeasuredFile, Ssim};
use crate::reference::ReferenceFrames;
use crate::site::BenchSite;
use crate::usage::{CpuUsage, kill_descendants, pss_bytes};

/// From the page's first drawing to the window: caches fill, encoders find their rate, still pictures get sharp.
pub(crate) const WARM_UP: Duration = Duration::from_secs(4);
/// From the window to the end of the recording.
pub(crate) const COOL_DOWN: Duration = Duration::from_millis(700);

/// What one cast cost and what it was worth.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// Cores in use during the window.
    pub(crate) cores: CpuUsage,
    /// Largest memory seen during the window.
    pub(crate) pss_bytes: u64,
    pub(crate) distinct_fps: f64,
    pub(crate) coded_fps: f64,
    pub(crate) kbps: f64,
    pub(crate) ssim: Option<Ssim>,
    /// What Pagecast says it used, over what was seen from outside.
    pub(crate) self_reported_cpu_ratio: Option<f64>,
}

/// Casts `page` once; `drawn` is given if pictures are to be compared.
pub(crate) fn measure_cast(
    side: Recorder,
    site: &BenchSite,
    page: BenchPage,
    program: &Path,
    window: Duration,
    drawn: Option<&mut ReferenceFrames<'_>>,
) -> Result<Measurement> {
    let mut cast = Cast::start(side, site, page, program)?;
    cast.wait_until_shown(site)?;
    std::thread::sleep(WARM_UP);
    let (cores, pss_bytes) = sample_usage(window)?;
    std::thread::sleep(COOL_DOWN);
    let used = CpuUsage::now()?.total();
    cast.interrupt()?;
    let finished = cast.finish()?;
    kill_descendants()?;
    let footage = MeasuredFile::open(&finished.file, window.as_secs_f64())?;
    Ok(Measurement {
        cores,
        pss_bytes,
        distinct_fps: footage.distinct_fps(),
        coded_fps: footage.coded_fps(),
        kbps: footage.kbps()?,
        ssim: drawn.map(|drawn| footage.ssim(page, side, drawn)).transpose()?,
        self_reported_cpu_ratio: finished.self_report.map(|claims| claims.cpu_s / used),
    })
}

/// Cores used by everything below this process over `window`, and the most memory seen meanwhile.
pub(crate) fn sample_usage(window: Duration) -> Result<(CpuUsage, u64)> {
    let started = Instant::now();
    let before = CpuUsage::now()?;
    let mut peak = 0;
    while started.elapsed() < window {
        // Walking page tables takes time from whoever is measured: not more often than needed.
        peak = peak.max(pss_bytes()?);
        std::thread::sleep(Duration::from_secs(2).min(window.saturating_sub(started.elapsed())));
    }
    let after = CpuUsage::now()?;
    Ok(((after - before).per_second_of(started.elapsed()), peak))
}
