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
    /// New pictures a second of the slowest cast; `None` if a cast failed.
    pub(crate) worst_fps: Option<f64>,
    /// Cores used by all of them.
    pub(crate) cores: f64,
}

impl Crowd {
    pub(crate) fn is_full_rate(&self) -> bool {
        self.worst_fps.is_some_and(|fps| fps >= FULL * f64::from(FPS))
    }

    /// The slowest cast in words.
    pub(crate) fn worst(&self) -> String {
        self.worst_fps.map_or_else(|| "a cast failed".to_owned(), |fps| format!("{fps:.1} fps"))
    }
}

/// One more cast each time, until one of them is too slow.
pub(crate) fn climb(
    side: Side,
    site: &Site,
    page: Page,
    program: &Path,
    window: Duration,
) -> Result<Vec<Crowd>> {
    let mut crowds = Vec::new();
    for casts in 1..=MOST {
        let crowd = crowd(casts, side, site, page, program, window)?;
        eprintln!("{casts} x {}: {}, {:.2} cores", side.name(), crowd.worst(), crowd.cores);
        let enough = !crowd.is_full_rate();
        crowds.push(crowd);
        if enough {
            break;
        }
    }
    Ok(crowds)
}

fn crowd(
    count: usize,
    side: Side,
    site: &Site,
    page: Page,
    program: &Path,
    window: Duration,
) -> Result<Crowd> {
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
    let worst = end(casts, window);
    sweep()?;
    if let Err(error) = &worst {
        eprintln!("{count} x {}: {error:#}", side.name());
    }
    Ok(Crowd { casts: count, worst_fps: worst.ok(), cores: cores.total() })
}

/// Ends all casts; gives the new pictures a second of the slowest.
fn end(casts: Vec<Cast>, window: Duration) -> Result<f64> {
    casts.iter().try_for_each(Cast::interrupt)?;
    let finished = casts.into_iter().map(Cast::finish).collect::<Result<Vec<_>>>()?;
    finished.iter().try_fold(f64::from(FPS), |worst, cast| {
        Ok(worst.min(Footage::open(&cast.file, window.as_secs_f64())?.distinct_fps()))
    })
}
