//! All measurements and their medians.

use pagecast_testkit::av_sync::{AvOffsets, median};

use crate::cast::Recorder;
use crate::density::DensityStep;
use crate::fleet::FleetResults;
use crate::measure::Measurement;
use crate::outputs::OutputResults;
use crate::page::BenchPage;
use crate::playback::PlaybackResults;
use crate::rooms::RoomResults;
use crate::service::ServiceResults;
use crate::service::console::ConsoleResults;
use crate::take_over::TakeOverResults;
use crate::usage::Component;

/// Goal: largest SSIM loss of Pagecast's pictures against the baseline's.
pub(crate) const MAX_SSIM_LOSS: f64 = 0.003;
/// Goal: longest time to the first frame, in seconds.
pub(crate) const MAX_FIRST_FRAME_S: f64 = 0.9;
/// Goal: longest time to the first frame with a warm browser, in seconds.
pub(crate) const MAX_WARM_FIRST_FRAME_S: f64 = 0.25;

/// One value for each recorder.
#[derive(Debug, Default)]
pub(crate) struct PerRecorder<T> {
    pub(crate) pagecast: T,
    pub(crate) baseline: T,
}

impl<T> PerRecorder<T> {
    pub(crate) fn get(&self, recorder: Recorder) -> &T {
        match recorder {
            Recorder::Pagecast => &self.pagecast,
            Recorder::Baseline => &self.baseline,
        }
    }

    pub(crate) fn get_mut(&mut self, recorder: Recorder) -> &mut T {
        match recorder {
            Recorder::Pagecast => &mut self.pagecast,
            Recorder::Baseline => &mut self.baseline,
        }
    }
}

/// All casts of one page.
#[derive(Debug)]
pub(crate) struct PageResult {
    pub(crate) page: BenchPage,
    pub(crate) casts: PerRecorder<Vec<Measurement>>,
}

/// Results of a run.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) pages: Vec<PageResult>,
    pub(crate) first_frames_s: PerRecorder<Vec<f64>>,
    /// First frames of Pagecast with a warm browser.
    pub(crate) warm_first_frames_s: Vec<f64>,
    pub(crate) offsets: PerRecorder<Vec<AvOffsets>>,
    pub(crate) density: Option<(BenchPage, PerRecorder<Vec<DensityStep>>)>,
    pub(crate) outputs: Option<OutputResults>,
    pub(crate) rooms: Option<RoomResults>,
    pub(crate) playback: Option<PlaybackResults>,
    pub(crate) service: Option<ServiceResults>,
    pub(crate) console: Option<ConsoleResults>,
    pub(crate) fleet: Option<FleetResults>,
    pub(crate) take_over: Option<TakeOverResults>,
}

impl PageResult {
    /// Median of a value over all casts of a recorder.
    pub(crate) fn median(&self, recorder: Recorder, value: impl Fn(&Measurement) -> f64) -> f64 {
        median(self.casts.get(recorder).iter().map(value).collect())
    }

    pub(crate) fn cores(&self, recorder: Recorder, part: Component) -> f64 {
        self.median(recorder, |m| m.cores.of_component(part))
    }

    pub(crate) fn total_cores(&self, recorder: Recorder) -> f64 {
        self.median(recorder, |m| m.cores.total())
    }

    /// Ratio of Pagecast's CPU to the baseline's.
    pub(crate) fn ratio(&self) -> f64 {
        self.total_cores(Recorder::Pagecast) / self.total_cores(Recorder::Baseline)
    }

    /// Medians of the SSIM of luma and of all planes; NaN if not measured.
    pub(crate) fn ssim(&self, recorder: Recorder) -> (f64, f64) {
        let median_of = |value: fn(&Measurement) -> Option<f64>| {
            median(self.casts.get(recorder).iter().filter_map(value).collect())
        };
        (median_of(|m| m.ssim.map(|s| s.luma)), median_of(|m| m.ssim.map(|s| s.all)))
    }

    /// Whether the goal for this page is met, if it has one: less CPU without SSIM loss.
    pub(crate) fn meets_goal(&self) -> Option<bool> {
        let similar = self.ssim(Recorder::Pagecast).0 >= self.ssim(Recorder::Baseline).0 - MAX_SSIM_LOSS;
        self.page.max_cpu_ratio().map(|goal| self.ratio() <= goal && similar)
    }
}

impl Results {
    pub(crate) fn first_frame_s(&self, recorder: Recorder) -> f64 {
        median(self.first_frames_s.get(recorder).clone())
    }

    pub(crate) fn warm_first_frame_s(&self) -> f64 {
        median(self.warm_first_frames_s.clone())
    }
}

/// Most casts that kept the full frame rate.
pub(crate) fn max_full_rate_casts(steps: &[DensityStep]) -> usize {
    steps.iter().filter(|c| c.is_full_rate()).map(|c| c.casts).max().unwrap_or_default()
}
