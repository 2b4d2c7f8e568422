//! What it costs to send a page to servers and buckets while it is recorded, and how late it is there.
//!
//! The servers run beside the casts and are not counted: nginx is set apart ([`crate::usage::Apart`]), and the storage is a
//! thread of the bench itself, of which only the processes below it are measured.

pub(crate) mod delay;
mod pushes;
mod stream;
pub(crate) mod upload;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pagecast_testkit::rtmp::Nginx;
use pagecast_testkit::sync::median;

use crate::casts::Side;
use crate::measure::watch;
use crate::results::Pair;
use crate::site::Site;
use crate::usage::{Apart, Part};
use delay::Delay;
use pushes::Pushes;
use upload::Uploads;

/// The most CPU that one more server may cost, in cores.
pub(crate) const PUSH_GOAL: f64 = 0.02;

/// All that was found out about outputs.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) pushes: Pushes,
    pub(crate) delays: Pair<Vec<Delay>>,
    pub(crate) uploads: Uploads,
}

impl Outputs {
    pub(crate) fn measure(site: &Site, program: &Path, window: Duration, repeat: u32) -> Result<Self> {
        let nginx = Nginx::start(None)?;
        let _apart = Apart::new(nginx.pid().context("nginx does not run")?);
        let (mut pushes, mut delays) = (Pushes::default(), Pair::<Vec<_>>::default());
        for _ in 0..repeat {
            pushes.once(site, program, &nginx, window)?;
        }
        for _ in 0..repeat {
            for side in Side::BOTH {
                let delay = delay::measure(side, site, program, &nginx, window)?;
                eprintln!("at the server, {}: {:.0} ms late", side.name(), delay.median_ms());
                delays.of_mut(side).push(delay);
            }
        }
        let uploads = Uploads::measure(site, program, window, repeat)?;
        Ok(Self { pushes, delays, uploads })
    }
}

/// What some casts of the same kind cost.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    cores: Vec<f64>,
    /// Of these, those of the threads that push.
    pushing: Vec<f64>,
    pss_bytes: Vec<f64>,
}

impl Costs {
    /// Measures a cast that has warmed up.
    pub(crate) fn watch(&mut self, what: &str, window: Duration) -> Result<()> {
        let (cores, pss_bytes) = watch(window)?;
        eprintln!("{what}: {:.3} cores, {} MiB", cores.total(), pss_bytes >> 20);
        self.cores.push(cores.total());
        self.pushing.push(cores.part(Part::Push));
        self.pss_bytes.push(pss_bytes as f64);
        Ok(())
    }

    /// Cores in use, the middle of all casts.
    pub(crate) fn cores(&self) -> f64 {
        median(self.cores.clone())
    }

    /// Cores in use by the threads that push, the same.
    pub(crate) fn pushing(&self) -> f64 {
        median(self.pushing.clone())
    }

    /// Memory in MiB, the same.
    pub(crate) fn mib(&self) -> f64 {
        median(self.pss_bytes.clone()) / 1024.0 / 1024.0
    }

    #[cfg(test)]
    pub(crate) fn of(cores: f64, mib: u32) -> Self {
        Self { cores: vec![cores], pushing: vec![0.0], pss_bytes: vec![f64::from(mib) * 1024.0 * 1024.0] }
    }
}
