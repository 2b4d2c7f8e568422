//! How many casts at once keep the full rate.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::casts::{Cast, FPS, Side};
use crate::measure::{COOL_DOWN, WARM_UP, watch};
use crate::page::Page;
use crate::site::Site;
use crate::usage::sweep;
use crate::verdict::Footage;

/// Part of the asked rate that counts as full.
pub(crate) const FULL: f64 = 0.97;
/// A machine that carries more than this is not found out here.
pub(crate) const MOST: usize = 32;

/// Some casts at once.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) casts: usize,
    /// New pictures a second of the slowest cast.
    pub(crate) worst_fps: f64,
    /// Cores used by all of them.
    pub(crate) cores: f64,
}

impl Crowd {
    pub(crate) fn is_full_rate(&self) -> bool {
        self.worst_fps >= FULL * f64::from(FPS)
    }
}

/// One more cast each time, until one of them is too slow.
pub(crate) fn climb(side: Side, site: &Site, page: Page, program: &Path, window: Duration) -> Result<Vec<Crowd>> {
    let mut crowds = Vec::new();
    for casts in 1..=MOST {
        let crowd = crowd(casts, side, site, page, program, window)?;
        eprintln!("  {} x {casts}: {:.1} fps, {:.2} cores", side.name(), crowd.worst_fps, crowd.cores);
        let enough = !crowd.is_full_rate();
        crowds.push(crowd);
        if enough {
            break;
        }
    }
    Ok(crowds)
}

fn crowd(count: usize, side: Side, site: &Site, page: Page, program: &Path, window: Duration) -> Result<Crowd> {
    let mut casts = Vec::new();
    for _ in 0..count {
        // One after the other: starting is not what is measured.
        let mut cast = Cast::start(side, site, page, program)?;
        cast.shown(site)?;
        casts.push(cast);
    }
    std::thread::sleep(WARM_UP);
    let (cores, _) = watch(window)?;
    std::thread::sleep(COOL_DOWN);
    casts.iter().try_for_each(Cast::interrupt)?;
    let finished = casts.into_iter().map(Cast::finish).collect::<Result<Vec<_>>>()?;
    sweep()?;
    let mut worst_fps = f64::from(FPS);
    for cast in finished {
        worst_fps = worst_fps.min(Footage::open(&cast.file, window.as_secs_f64())?.distinct_fps());
    }
    Ok(Crowd { casts: count, worst_fps, cores: cores.total() })
}
