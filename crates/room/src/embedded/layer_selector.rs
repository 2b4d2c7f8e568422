//! Selects the video layer for a viewer. Sans-IO.
//!
//! The selector begins with the smallest layer, because nothing is known of a new link, and a large layer on
//! a narrow link delays the picture for seconds. It switches up only after the bandwidth has sufficed for a
//! while, and waits longer after each up-switch that failed. It switches down soon after the bandwidth falls
//! below the sent bitrate. Audio has priority: if not even the smallest layer fits, the video pauses. On a
//! clear link, without loss or delay, the selector keeps its layer whatever the estimate is.

use std::time::{Duration, Instant};

use crate::congestion::CongestionDetector;

/// Budget that an up-switch needs, in percent of the layer's bitrate, because bitrates have peaks.
const HEADROOM_PERCENT: u64 = 125;
/// Budget from which the current layer is kept: its bitrate may be this many percent of the budget, because
/// estimates are low now and then.
const TOLERANCE_PERCENT: u64 = 110;
/// Time for which the budget must be too small before a down-switch.
const SWITCH_DOWN_DELAY: Duration = Duration::from_millis(250);
/// Budget in percent of the layer's bitrate from which the shortfall is small. The estimate may be wrong
/// then, so the selector waits longer; if it is right, it falls further.
const SMALL_SHORTFALL_PERCENT: u64 = 60;
const SMALL_SHORTFALL_DELAY: Duration = Duration::from_secs(2);
/// Time for which the budget must be too small for the smallest layer before the video pauses.
const PAUSE_DELAY: Duration = Duration::from_secs(2);
/// Time for which the budget must suffice before an up-switch. It doubles after each one that failed.
const SWITCH_UP_DELAY: Duration = Duration::from_secs(1);
const MAX_SWITCH_UP_DELAY: Duration = Duration::from_secs(20);
/// An up-switch has failed if a down-switch follows within this time.
const FAILED_UP_SWITCH_WINDOW: Duration = Duration::from_secs(10);

/// Layer that a viewer requested.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum LayerPreference {
    /// Automatic selection by bandwidth.
    #[default]
    Auto,
    /// The layer with this name, whatever the bandwidth.
    Layer(String),
}

/// Congestion of a link, apart from the bandwidth estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CongestionLevel {
    /// No loss or delay: the link carries what is sent.
    Clear,
    /// Some loss or delay: the estimate may be right.
    Congested,
    /// Much loss or delay: a video that does not fit disturbs the audio.
    Severe,
}

impl CongestionLevel {
    /// The current level of a detector.
    pub(super) fn from_detector(detector: &CongestionDetector, now: Instant) -> Self {
        match (detector.is_clear(now), detector.is_severe(now)) {
            (true, _) => Self::Clear,
            (false, false) => Self::Congested,
            (false, true) => Self::Severe,
        }
    }
}

/// A layer that can be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerOption {
    /// Index of the layer in the publisher's offer.
    pub(super) layer: usize,
    /// Current bitrate, in bit/s.
    pub(super) bps: u64,
}

/// Layer selection of one viewer.
#[derive(Debug)]
pub(super) struct LayerSelector {
    /// Selected layer. `None` if there is no video or it is paused.
    selected: Option<usize>,
    /// When the budget became too small for the selected layer.
    insufficient_since: Option<Instant>,
    /// When the budget became large enough for a larger layer.
    sufficient_since: Option<Instant>,
    /// Time of the last up-switch.
    last_up_switch: Option<Instant>,
    up_switch_delay: Duration,
    /// Whether a layer was ever selected.
    started: bool,
}

impl LayerSelector {
    /// A selector without a layer.
    pub(super) fn new() -> Self {
        Self {
            selected: None,
            insufficient_since: None,
            sufficient_since: None,
            last_up_switch: None,
            up_switch_delay: SWITCH_UP_DELAY,
            started: false,
        }
    }

    /// Clears the selection for another publisher, but keeps the delay of up-switches.
    pub(super) fn reset(&mut self) {
        *self = Self { up_switch_delay: self.up_switch_delay, ..Self::new() };
    }

    /// Selects the layer to send. `layers` are sorted, the largest first. `budget_bps` is the estimated
    /// bandwidth without the audio.
    pub(super) fn select(
        &mut self,
        now: Instant,
        layers: &[LayerOption],
        budget_bps: u64,
        congestion: CongestionLevel,
    ) -> Option<usize> {
        let index = self.selected.and_then(|layer| layers.iter().position(|option| option.layer == layer));
        let (Some(smallest), Some(index)) = (layers.last(), index) else {
            return self.select_initial(layers, budget_bps, now);
        };
        let current_bps = layers[index].bps;
        if current_bps * 100 > budget_bps * TOLERANCE_PERCENT {
            self.sufficient_since = None;
            if congestion == CongestionLevel::Clear {
                self.insufficient_since = None;
                return self.selected;
            }
            let insufficient_for = now - *self.insufficient_since.get_or_insert(now);
            // The largest smaller layer that fits, or the smallest.
            let fitting = layers[index + 1..].iter().find(|option| option.bps <= budget_bps);
            let smaller = fitting.or(layers[index + 1..].last());
            let is_small = budget_bps * 100 >= current_bps * SMALL_SHORTFALL_PERCENT;
            let delay = if is_small { SMALL_SHORTFALL_DELAY } else { SWITCH_DOWN_DELAY };
            match smaller {
                Some(smaller) if insufficient_for >= delay => self.switch_down(now, Some(smaller.layer)),
                None if congestion == CongestionLevel::Severe
                    && insufficient_for >= PAUSE_DELAY
                    && smallest.bps * 100 > budget_bps * 150 =>
                {
                    self.switch_down(now, None);
                }
                _ => {}
            }
            return self.selected;
        }
        self.insufficient_since = None;
        let Some(larger) = layers[..index].iter().find(|option| fits_with_headroom(option, budget_bps))
        else {
            self.sufficient_since = None;
            return self.selected;
        };
        if now - *self.sufficient_since.get_or_insert(now) >= self.up_switch_delay {
            self.switch_up(now, larger.layer);
        }
        self.selected
    }

    /// Selects a layer while none is selected, or the selected one is gone.
    fn select_initial(&mut self, layers: &[LayerOption], budget_bps: u64, now: Instant) -> Option<usize> {
        self.insufficient_since = None;
        let fitting = layers.iter().find(|option| fits_with_headroom(option, budget_bps));
        // Without headroom, a link that is just wide enough would never get its video back.
        let resumable = fitting.or(layers.last().filter(|smallest| smallest.bps <= budget_bps));
        match (self.selected, self.started, resumable) {
            (None, false, _) => {
                self.selected = layers.last().map(|option| option.layer);
                self.started = self.selected.is_some();
            }
            // The selected layer is gone: another one is selected at once, even if none fits.
            (Some(_), ..) => self.selected = fitting.or(layers.last()).map(|option| option.layer),
            // The video is paused.
            (None, true, None) => self.sufficient_since = None,
            (None, true, Some(option)) => {
                if now - *self.sufficient_since.get_or_insert(now) >= self.up_switch_delay {
                    self.switch_up(now, option.layer);
                }
            }
        }
        self.selected
    }

    fn switch_down(&mut self, now: Instant, to: Option<usize>) {
        let up_switch_failed = self.last_up_switch.is_some_and(|up| now - up < FAILED_UP_SWITCH_WINDOW);
        self.up_switch_delay = if up_switch_failed {
            (self.up_switch_delay * 2).min(MAX_SWITCH_UP_DELAY)
        } else {
            SWITCH_UP_DELAY
        };
        (self.selected, self.insufficient_since) = (to, None);
    }

    fn switch_up(&mut self, now: Instant, to: usize) {
        (self.selected, self.sufficient_since, self.last_up_switch) = (Some(to), None, Some(now));
    }
}

fn fits_with_headroom(option: &LayerOption, budget_bps: u64) -> bool {
    option.bps * HEADROOM_PERCENT <= budget_bps * 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [LayerOption; 2] =
        [LayerOption { layer: 0, bps: 1_200_000 }, LayerOption { layer: 1, bps: 300_000 }];

    struct Fixture {
        selector: LayerSelector,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self { selector: LayerSelector::new(), now: Instant::now() }
        }

        /// A viewer that has had the large layer for longer than an up-switch can count as failed.
        fn with_large_layer() -> Self {
            let mut viewer = Self::new();
            let up = viewer.time_until(Some(0), 2_500_000, 2000).unwrap();
            assert!((900..1200).contains(&up), "{up}");
            assert_eq!(viewer.time_until(None, 2_500_000, 11_000), None);
            viewer
        }

        /// Advances by up to `ms` with this budget. Returns the time after which `layer` was selected.
        fn time_until(&mut self, layer: Option<usize>, budget: u64, ms: u64) -> Option<u64> {
            (0..=ms / 50).map(|step| step * 50).find(|_| {
                self.now += Duration::from_millis(50);
                self.selector.select(self.now, &LAYERS, budget, CongestionLevel::Severe) == layer
            })
        }
    }

    #[test]
    fn begins_with_the_smallest_layer() {
        for budget in [10_000, 600_000, 2_500_000] {
            assert_eq!(Fixture::new().time_until(Some(1), budget, 0), Some(0), "{budget}");
        }
        let mut empty = LayerSelector::new();
        assert_eq!(empty.select(Instant::now(), &[], 1_000_000, CongestionLevel::Severe), None);
    }

    #[test]
    fn goes_down_fast_and_up_slowly() {
        let mut viewer = Fixture::with_large_layer();
        assert!(viewer.time_until(Some(1), 500_000, 2000).unwrap() <= 500);
        assert_eq!(viewer.time_until(Some(0), 1_400_000, 5000), None, "not enough headroom");
        let mut misled = Fixture::with_large_layer();
        assert_eq!(misled.time_until(Some(1), 900_000, 1500), None, "the estimate may be wrong");
        assert_eq!(misled.time_until(Some(1), 2_500_000, 5000), None);
        assert!(misled.time_until(Some(1), 900_000, 3000).is_some());
        let up = viewer.time_until(Some(0), 2_000_000, 5000).unwrap();
        assert!((900..1200).contains(&up), "{up}");
    }

    #[test]
    fn failed_up_switches_lengthen_the_delay() {
        let mut viewer = Fixture::with_large_layer();
        let mut waits = Vec::new();
        for _ in 0..6 {
            viewer.time_until(Some(1), 500_000, 2000).unwrap();
            waits.push(viewer.time_until(Some(0), 2_000_000, 60_000).unwrap());
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]) && waits[5] >= 19_000, "{waits:?}");
    }

    #[test]
    fn audio_has_priority() {
        let mut viewer = Fixture::with_large_layer();
        viewer.time_until(Some(1), 100_000, 1000).unwrap();
        let pause = viewer.time_until(None, 100_000, 5000).unwrap();
        assert!((1900..2200).contains(&pause), "{pause}");
        assert_eq!(viewer.time_until(Some(1), 290_000, 10_000), None);
        assert!(viewer.time_until(Some(1), 400_000, 10_000).unwrap() <= 2100);
    }

    /// Estimates in bit/s and round-trip times in ms, one every 250 ms, for a viewer of a full-screen video
    /// on loopback. Modeled on values from `/stats`.
    const FALSE_ESTIMATES: [(u64, u64); 16] = [
        (2_500_000, 1),
        (2_500_000, 2),
        (2_900_000, 1),
        (3_100_000, 4),
        (3_100_000, 3),
        (1_700_000, 15),
        (900_000, 9),
        (300_000, 5),
        (110_000, 2),
        (110_000, 2),
        (130_000, 1),
        (170_000, 3),
        (210_000, 2),
        (250_000, 2),
        (280_000, 1),
        (300_000, 2),
    ];

    /// The layer after each of the false estimates, `-` for none, on a link with this loss in percent and
    /// this delay in ms from the sixth on.
    fn replay(layers: &[LayerOption], loss: u32, delay: u64) -> String {
        let (mut selector, mut detector, mut now) =
            (LayerSelector::new(), CongestionDetector::new(true), Instant::now());
        // Time to switch up to the large layer.
        for _ in 0..6 {
            now += Duration::from_millis(250);
            detector.record(now, Some(Duration::from_millis(1)), Some(0.0));
            selector.select(now, layers, 2_500_000, CongestionLevel::from_detector(&detector, now));
        }
        let mut selected = String::new();
        for (index, (estimate, rtt)) in FALSE_ESTIMATES.into_iter().enumerate() {
            now += Duration::from_millis(250);
            let (loss, delay) = if index > 4 { (loss, delay) } else { (0, 0) };
            detector.record(now, Some(Duration::from_millis(rtt + delay)), Some(loss as f32 / 100.0));
            let congestion = CongestionLevel::from_detector(&detector, now);
            let layer = selector.select(now, layers, estimate, congestion);
            selected.push_str(&layer.map_or("-".to_owned(), |layer| layer.to_string()));
        }
        selected
    }

    #[test]
    fn a_clear_link_keeps_its_layer_whatever_is_estimated() {
        let video = [LayerOption { layer: 0, bps: 1_900_000 }, LayerOption { layer: 1, bps: 400_000 }];
        assert_eq!(replay(&video[..1], 0, 0), "0000000000000000");
        assert_eq!(replay(&video, 0, 0), "0000000000000000");
        // A machine that is busy for a long time gets a smaller layer, but no pause.
        assert_eq!(replay(&video[..1], 3, 100), "0000000000000000");
        assert!(replay(&video, 3, 100).starts_with("0000001111111"));
        // The same estimates count as soon as the link loses or delays packets.
        for (loss, delay, paused) in [(30, 0, "---"), (0, 300, "--")] {
            assert_eq!(replay(&video[..1], loss, delay), format!("{paused:0>16}"), "{loss} % {delay} ms");
            let smaller = replay(&video, loss, delay);
            assert!(
                smaller.starts_with("0000001111111") || smaller.starts_with("0000000111111"),
                "{loss} % {delay} ms: {smaller}"
            );
        }
    }

    #[test]
    fn a_removed_layer_is_replaced_at_once() {
        let mut viewer = Fixture::with_large_layer();
        assert_eq!(
            viewer.selector.select(viewer.now, &LAYERS[1..], 2_500_000, CongestionLevel::Severe),
            Some(1)
        );
    }
}
