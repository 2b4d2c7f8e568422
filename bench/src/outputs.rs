//! Cost of pushes and uploads beside a recording, and the delay of pushes.
//!
//! The servers are not counted: nginx is an [`crate::usage::ExcludedProcess`], and the storage is a thread of
//! the bench, of which only the descendants are measured.

pub(crate) mod delay;
mod pushed_cast;
mod pushes;
pub(crate) mod upload;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pagecast_testkit::av_sync::median;
use pagecast_testkit::rtmp::NginxRtmp;

use crate::cast::Recorder;
use crate::measure::sample_usage;
use crate::results::PerRecorder;
use crate::site::BenchSite;
use crate::usage::{Component, ExcludedProcess};
use delay::DelayStats;
use pushes::PushCosts;
use upload::UploadResults;

/// Goal: most CPU cores that one more server may cost.
pub(crate) const MAX_CORES_PER_PUSH: f64 = 0.02;

/// Results on outputs.
#[derive(Debug)]
pub(crate) struct OutputResults {
    pub(crate) pushes: PushCosts,
    pub(crate) delays: PerRecorder<Vec<DelayStats>>,
    pub(crate) uploads: UploadResults,
}

impl OutputResults {
    pub(crate) fn measure(site: &BenchSite, program: &Path, window: Duration, repeat: u32) -> Result<Self> {
        let nginx = NginxRtmp::start(None)?;
        let _excluded = ExcludedProcess::exclude(nginx.pid().context("nginx does not run")?);
        let (mut pushes, mut delays) = (PushCosts::default(), PerRecorder::<Vec<_>>::default());
        for _ in 0..repeat {
            pushes.measure_once(site, program, &nginx, window)?;
        }
        for _ in 0..repeat {
            for recorder in Recorder::ALL {
                let delay = delay::measure_delay(recorder, site, program, &nginx, window)?;
                eprintln!("delay at the server, {}: {:.0} ms", recorder.name(), delay.median_ms());
                delays.get_mut(recorder).push(delay);
            }
        }
        let uploads = UploadResults::measure(site, program, window, repeat)?;
        Ok(Self { pushes, delays, uploads })
    }
}

/// Costs of casts of the same kind.
#[derive(Debug, Default)]
pub(crate) struct CastCosts {
    cores: Vec<f64>,
    /// CPU cores of the push threads, included in `cores`.
    push_cores: Vec<f64>,
    pss_bytes: Vec<f64>,
}

impl CastCosts {
    /// Measures a cast after its warm-up.
    pub(crate) fn measure(&mut self, what: &str, window: Duration) -> Result<()> {
        let (cores, pss_bytes) = sample_usage(window)?;
        eprintln!("{what}: {:.3} cores, {} MiB", cores.total(), pss_bytes >> 20);
        self.cores.push(cores.total());
        self.push_cores.push(cores.of_component(Component::Push));
        self.pss_bytes.push(pss_bytes as f64);
        Ok(())
    }

    /// Median of the CPU cores.
    pub(crate) fn cores(&self) -> f64 {
        median(self.cores.clone())
    }

    /// Median of the CPU cores of the push threads.
    pub(crate) fn push_cores(&self) -> f64 {
        median(self.push_cores.clone())
    }

    /// Median of the memory, in MiB.
    pub(crate) fn memory_mib(&self) -> f64 {
        median(self.pss_bytes.clone()) / 1024.0 / 1024.0
    }

    #[cfg(test)]
    pub(crate) fn for_test(cores: f64, mib: u32) -> Self {
        Self { cores: vec![cores], push_cores: vec![0.0], pss_bytes: vec![f64::from(mib) * 1024.0 * 1024.0] }
    }
}
