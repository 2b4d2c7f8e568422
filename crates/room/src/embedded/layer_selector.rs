//! Which layer of a picture a viewer gets. Sans-IO.
//!
//! Down at once, when the line carries less than what is sent; up only after it has carried more for a while,
//! and more cautiously after each time it did not. Sound always has its share first: where not even the
//! smallest layer fits, there is no picture for a while. A line that is clear, because nothing is lost or
//! held up, carries what is sent, whatever the estimate says: nothing is taken away on it.

use std::time::{Duration, Instant};

use crate::congestion::CongestionDetector;

/// What a layer must leave free of the line to be gone up to: it has peaks.
const HEADROOM_PERCENT: u64 = 125;
/// How much more than the line carries is put up with, as estimates are low now and then.
const TOLERANCE_PERCENT: u64 = 110;
/// How long the line must be too small before less is sent, and before no picture is sent at all. Where only
/// little is missing, the estimate may be wrong; if it is not, it goes down further.
const SWITCH_DOWN_DELAY: Duration = Duration::from_millis(250);
const SMALL_SHORTFALL_PERCENT: u64 = 60;
const SMALL_SHORTFALL_DELAY: Duration = Duration::from_secs(2);
const PAUSE_DELAY: Duration = Duration::from_secs(2);
/// How long it must be large enough before more is sent: at first, and at most after it was not several
/// times.
const SWITCH_UP_DELAY: Duration = Duration::from_secs(1);
const MAX_SWITCH_UP_DELAY: Duration = Duration::from_secs(20);
/// Going down so soon after going up means that it was a mistake.
const FAILED_UP_SWITCH_WINDOW: Duration = Duration::from_secs(10);

/// What a viewer asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum LayerPreference {
    /// What the line carries.
    #[default]
    Auto,
    /// The layer of this name, whatever the line carries.
    Layer(String),
}

/// What a line shows of its own, beside what is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CongestionLevel {
    /// Nothing is lost or held up: it carries what is sent.
    Clear,
    /// Some losses or delays: the estimate may be right.
    Congested,
    /// Many losses or long delays: a picture that does not fit keeps the sound from getting through.
    Severe,
}

impl CongestionLevel {
    /// What this line shows now.
    pub(super) fn from_detector(line: &CongestionDetector, now: Instant) -> Self {
        match (line.is_clear(now), line.is_severe(now)) {
            (true, _) => Self::Clear,
            (false, false) => Self::Congested,
            (false, true) => Self::Severe,
        }
    }
}

/// A layer that there is, the largest one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerOption {
    /// Its place in the publisher's offer.
    pub(super) layer: usize,
    /// What it costs, in bit/s.
    pub(super) bps: u64,
}

/// The choice for one viewer.
#[derive(Debug)]
pub(super) struct LayerSelector {
    /// The layer that was chosen; none: no picture.
    selected: Option<usize>,
    /// Since when the line is too small for what is chosen.
    insufficient_since: Option<Instant>,
    /// Since when it is large enough for more.
    sufficient_since: Option<Instant>,
    /// When more was chosen the last time.
    last_up_switch: Option<Instant>,
    up_switch_delay: Duration,
    /// Whether there was a picture ever.
    started: bool,
}

impl LayerSelector {
    /// Nothing chosen yet.
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

    /// Forgets what was chosen, but not what was learned: there is another publisher.
    pub(super) fn reset(&mut self) {
        *self = Self { up_switch_delay: self.up_switch_delay, ..Self::new() };
    }

    /// The layer to send. `layers` are those that there are, the largest one first; `budget_bps` is what the
    /// line is estimated to carry beside the sound, and `line` what it shows.
    pub(super) fn select(
        &mut self,
        now: Instant,
        layers: &[LayerOption],
        budget_bps: u64,
        line: CongestionLevel,
    ) -> Option<usize> {
        let place = self.selected.and_then(|chosen| layers.iter().position(|option| option.layer == chosen));
        let (Some(smallest), Some(place)) = (layers.last(), place) else {
            return self.select_initial(layers, budget_bps, now);
        };
        let now_bps = layers[place].bps;
        if now_bps * 100 > budget_bps * TOLERANCE_PERCENT {
            self.sufficient_since = None;
            if line == CongestionLevel::Clear {
                self.insufficient_since = None;
                return self.selected;
            }
            let tight_for = now - *self.insufficient_since.get_or_insert(now);
            // The first smaller one that fits, or the smallest.
            let fitting = layers[place + 1..].iter().find(|option| option.bps <= budget_bps);
            let smaller = fitting.or(layers[place + 1..].last());
            let little = budget_bps * 100 >= now_bps * SMALL_SHORTFALL_PERCENT;
            let down_after = if little { SMALL_SHORTFALL_DELAY } else { SWITCH_DOWN_DELAY };
            match smaller {
                Some(smaller) if tight_for >= down_after => self.switch_down(now, Some(smaller.layer)),
                None if line == CongestionLevel::Severe
                    && tight_for >= PAUSE_DELAY
                    && smallest.bps * 100 > budget_bps * 150 =>
                {
                    self.switch_down(now, None);
                }
                _ => {}
            }
            return self.selected;
        }
        self.insufficient_since = None;
        let Some(larger) = layers[..place].iter().find(|option| fits_with_headroom(option, budget_bps))
        else {
            self.sufficient_since = None;
            return self.selected;
        };
        if now - *self.sufficient_since.get_or_insert(now) >= self.up_switch_delay {
            self.switch_up(now, larger.layer);
        }
        self.selected
    }

    /// There is no picture yet, or not any more.
    fn select_initial(&mut self, layers: &[LayerOption], budget_bps: u64, now: Instant) -> Option<usize> {
        self.insufficient_since = None;
        let paused = self.selected.is_none() && self.started;
        let fitting = layers.iter().find(|option| fits_with_headroom(option, budget_bps));
        match (paused, fitting) {
            // For the first time, or because the layer has gone: at once, the smallest in the worst case.
            (false, _) => {
                self.selected = fitting.or(layers.last()).map(|option| option.layer);
                self.started = self.selected.is_some();
            }
            (true, None) => self.sufficient_since = None,
            (true, Some(option)) => {
                if now - *self.sufficient_since.get_or_insert(now) >= self.up_switch_delay {
                    self.switch_up(now, option.layer);
                }
            }
        }
        self.selected
    }

    fn switch_down(&mut self, now: Instant, to: Option<usize>) {
        let mistaken = self.last_up_switch.is_some_and(|up| now - up < FAILED_UP_SWITCH_WINDOW);
        self.up_switch_delay =
            if mistaken { (self.up_switch_delay * 2).min(MAX_SWITCH_UP_DELAY) } else { SWITCH_UP_DELAY };
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
        choice: LayerSelector,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self { choice: LayerSelector::new(), now: Instant::now() }
        }

        /// Lets `ms` go by with this budget; how long it took to get to `layer`.
        fn time_until(&mut self, layer: Option<usize>, budget: u64, ms: u64) -> Option<u64> {
            (0..=ms / 50).map(|step| step * 50).find(|_| {
                self.now += Duration::from_millis(50);
                self.choice.select(self.now, &LAYERS, budget, CongestionLevel::Severe) == layer
            })
        }
    }

    #[test]
    fn begins_with_what_fits() {
        assert_eq!(Fixture::new().time_until(Some(0), 2_500_000, 0), Some(0));
        assert_eq!(Fixture::new().time_until(Some(1), 600_000, 0), Some(0));
        assert_eq!(Fixture::new().time_until(Some(1), 10_000, 0), Some(0));
        let mut nobody = LayerSelector::new();
        assert_eq!(nobody.select(Instant::now(), &[], 1_000_000, CongestionLevel::Severe), None);
    }

    #[test]
    fn goes_down_fast_and_up_slowly() {
        let mut viewer = Fixture::new();
        viewer.time_until(Some(0), 2_500_000, 0);
        assert!(viewer.time_until(Some(1), 500_000, 2000).unwrap() <= 500);
        assert_eq!(viewer.time_until(Some(0), 1_400_000, 5000), None, "not enough headroom");
        let mut wronged = Fixture::new();
        wronged.time_until(Some(0), 2_500_000, 0);
        assert_eq!(wronged.time_until(Some(1), 900_000, 1500), None, "that may be a mistake");
        assert_eq!(wronged.time_until(Some(1), 2_500_000, 5000), None);
        assert!(wronged.time_until(Some(1), 900_000, 3000).is_some());
        let up = viewer.time_until(Some(0), 2_000_000, 5000).unwrap();
        assert!((900..1200).contains(&up), "{up}");
    }

    #[test]
    fn learns_from_mistakes() {
        let mut viewer = Fixture::new();
        viewer.time_until(Some(0), 2_500_000, 0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            viewer.time_until(Some(1), 500_000, 2000).unwrap();
            waits.push(viewer.time_until(Some(0), 2_000_000, 60_000).unwrap());
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]) && waits[5] >= 19_000, "{waits:?}");
    }

    #[test]
    fn sound_comes_first() {
        let mut viewer = Fixture::new();
        viewer.time_until(Some(0), 2_500_000, 0);
        viewer.time_until(Some(1), 100_000, 1000).unwrap();
        let pause = viewer.time_until(None, 100_000, 5000).unwrap();
        assert!((1900..2200).contains(&pause), "{pause}");
        assert_eq!(viewer.time_until(Some(1), 310_000, 10_000), None);
        assert!(viewer.time_until(Some(1), 400_000, 10_000).unwrap() <= 2100);
    }

    /// What an estimator may believe of a viewer of a full-screen video on loopback, and the round trip in ms,
    /// each 250 ms: made up after what `/stats` showed.
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

    /// The layer after each of the false estimates, `-` for none, on a line that loses so many percent and
    /// holds packets up for so many ms from the sixth on.
    fn replay(layers: &[LayerOption], loss: u32, delay: u64) -> String {
        let (mut choice, mut line, mut now) =
            (LayerSelector::new(), CongestionDetector::new(true), Instant::now());
        let mut chosen = String::new();
        for (place, (estimate, rtt)) in FALSE_ESTIMATES.into_iter().enumerate() {
            now += Duration::from_millis(250);
            let (loss, delay) = if place > 4 { (loss, delay) } else { (0, 0) };
            line.record(now, Some(Duration::from_millis(rtt + delay)), Some(loss as f32 / 100.0));
            let layer = choice.select(now, layers, estimate, CongestionLevel::from_detector(&line, now));
            chosen.push_str(&layer.map_or("-".to_owned(), |layer| layer.to_string()));
        }
        chosen
    }

    #[test]
    fn a_clear_link_keeps_its_layer_whatever_is_estimated() {
        let video = [LayerOption { layer: 0, bps: 1_900_000 }, LayerOption { layer: 1, bps: 400_000 }];
        assert_eq!(replay(&video[..1], 0, 0), "0000000000000000");
        assert_eq!(replay(&video, 0, 0), "0000000000000000");
        // A machine that is busy for long: a smaller layer, but no pause.
        assert_eq!(replay(&video[..1], 3, 100), "0000000000000000");
        assert!(replay(&video, 3, 100).starts_with("0000001111111"));
        // The same estimates are believed as soon as the line loses packets or holds them up, as quickly as
        // ever.
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
    fn a_layer_that_goes_away_is_left_at_once() {
        let mut viewer = Fixture::new();
        viewer.time_until(Some(0), 2_500_000, 0);
        assert_eq!(
            viewer.choice.select(viewer.now, &LAYERS[1..], 2_500_000, CongestionLevel::Severe),
            Some(1)
        );
    }
}
