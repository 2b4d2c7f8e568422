//! Everything that was measured, and the middle of it.

use pagecast_testkit::sync::{Offsets, median};

use crate::casts::Side;
use crate::density::Crowd;
use crate::measure::Measured;
use crate::outputs::Outputs;
use crate::page::Page;
use crate::rooms::Rooms;
use crate::service::Service;
use crate::usage::Part;

/// How much less similar than the recipe's pictures Pagecast's may be.
pub(crate) const SSIM_SLACK: f64 = 0.003;
/// The longest that the first frame may take.
pub(crate) const FIRST_FRAME_GOAL_S: f64 = 0.9;
/// The same with a browser that was started before.
pub(crate) const WARM_FIRST_FRAME_GOAL_S: f64 = 0.25;

/// One value for each side.
#[derive(Debug, Default)]
pub(crate) struct Pair<T> {
    pub(crate) pagecast: T,
    pub(crate) recipe: T,
}

impl<T> Pair<T> {
    pub(crate) fn of(&self, side: Side) -> &T {
        match side {
            Side::Pagecast => &self.pagecast,
            Side::Recipe => &self.recipe,
        }
    }

    pub(crate) fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Pagecast => &mut self.pagecast,
            Side::Recipe => &mut self.recipe,
        }
    }
}

/// All casts of one page.
#[derive(Debug)]
pub(crate) struct PageResult {
    pub(crate) page: Page,
    pub(crate) casts: Pair<Vec<Measured>>,
}

/// All that a run found out.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) pages: Vec<PageResult>,
    pub(crate) first_frames_s: Pair<Vec<f64>>,
    /// Of Pagecast with a browser that was started before.
    pub(crate) warm_first_frames_s: Vec<f64>,
    pub(crate) offsets: Pair<Vec<Offsets>>,
    pub(crate) crowds: Option<(Page, Pair<Vec<Crowd>>)>,
    pub(crate) outputs: Option<Outputs>,
    pub(crate) rooms: Option<Rooms>,
    pub(crate) service: Option<Service>,
}

impl PageResult {
    /// The middle of a value over all casts of a side.
    pub(crate) fn middle(&self, side: Side, value: impl Fn(&Measured) -> f64) -> f64 {
        median(self.casts.of(side).iter().map(value).collect())
    }

    pub(crate) fn cores(&self, side: Side, part: Part) -> f64 {
        self.middle(side, |m| m.cores.part(part))
    }

    pub(crate) fn total_cores(&self, side: Side) -> f64 {
        self.middle(side, |m| m.cores.total())
    }

    /// Pagecast's CPU over the recipe's.
    pub(crate) fn ratio(&self) -> f64 {
        self.total_cores(Side::Pagecast) / self.total_cores(Side::Recipe)
    }

    /// Similarity of brightness and of all planes; NaN if it was not measured.
    pub(crate) fn ssim(&self, side: Side) -> (f64, f64) {
        let middle = |value: fn(&Measured) -> Option<f64>| {
            median(self.casts.of(side).iter().filter_map(value).collect())
        };
        (middle(|m| m.ssim.map(|s| s.luma)), middle(|m| m.ssim.map(|s| s.all)))
    }

    /// Whether the goal for this page is met, if it has one: less CPU at no lower similarity.
    pub(crate) fn meets_goal(&self) -> Option<bool> {
        let similar = self.ssim(Side::Pagecast).0 >= self.ssim(Side::Recipe).0 - SSIM_SLACK;
        self.page.goal().map(|goal| self.ratio() <= goal && similar)
    }
}

impl Results {
    pub(crate) fn first_frame_s(&self, side: Side) -> f64 {
        median(self.first_frames_s.of(side).clone())
    }

    pub(crate) fn warm_first_frame_s(&self) -> f64 {
        median(self.warm_first_frames_s.clone())
    }
}

/// The most casts that kept the full rate.
pub(crate) fn most(crowds: &[Crowd]) -> usize {
    crowds.iter().filter(|c| c.is_full_rate()).map(|c| c.casts).max().unwrap_or_default()
}
