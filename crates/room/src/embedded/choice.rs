//! Which layer of a picture a viewer gets. Sans-IO.
//!
//! Down at once, when the line carries less than what is sent; up only after it has carried more for a while,
//! and more cautiously after each time it did not. Sound always has its share first: where not even the
//! smallest layer fits, there is no picture for a while. A line that is clear, because nothing is lost or
//! held up, carries what is sent, whatever the estimate says: nothing is taken away on it.

use std::time::{Duration, Instant};

use crate::congestion::Congestion;

/// What a layer must leave free of the line to be gone up to: it has peaks.
const HEADROOM_PERCENT: u64 = 125;
/// How much more than the line carries is put up with, as estimates are low now and then.
const TOLERANCE_PERCENT: u64 = 110;
/// How long the line must be too small before less is sent, and before no picture is sent at all. Where only
/// little is missing, the estimate may be wrong; if it is not, it goes down further.
const DOWN_AFTER: Duration = Duration::from_millis(250);
const LITTLE_PERCENT: u64 = 60;
const DOWN_FOR_LITTLE_AFTER: Duration = Duration::from_secs(2);
const PAUSE_AFTER: Duration = Duration::from_secs(2);
/// How long it must be large enough before more is sent: at first, and at most after it was not several
/// times.
const UP_AFTER: Duration = Duration::from_secs(1);
const UP_AFTER_AT_MOST: Duration = Duration::from_secs(20);
/// Going down so soon after going up means that it was a mistake.
const MISTAKE: Duration = Duration::from_secs(10);

/// What a viewer asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Wish {
    /// What the line carries.
    #[default]
    Auto,
    /// The layer of this name, whatever the line carries.
    Layer(String),
}

/// What a line shows of its own, beside what is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// Nothing is lost or held up: it carries what is sent.
    Nothing,
    /// Some losses or delays: the estimate may be right.
    Congestion,
    /// Many losses or long delays: a picture that does not fit keeps the sound from getting through.
    Jam,
}

impl Shows {
    /// What this line shows now.
    pub(super) fn of(line: &Congestion, now: Instant) -> Self {
        match (line.is_clear(now), line.is_jammed(now)) {
            (true, _) => Self::Nothing,
            (false, false) => Self::Congestion,
            (false, true) => Self::Jam,
        }
    }
}

/// A layer that there is, the largest one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Its place in the publisher's offer.
    pub(super) layer: usize,
    /// What it costs, in bit/s.
    pub(super) bps: u64,
}

/// The choice for one viewer.
#[derive(Debug)]
pub(super) struct Choice {
    /// The layer that was chosen; none: no picture.
    chosen: Option<usize>,
    /// Since when the line is too small for what is chosen.
    tight_since: Option<Instant>,
    /// Since when it is large enough for more.
    roomy_since: Option<Instant>,
    /// When more was chosen the last time.
    went_up: Option<Instant>,
    up_after: Duration,
    /// Whether there was a picture ever.
    begun: bool,
}

impl Choice {
    /// Nothing chosen yet.
    pub(super) fn new() -> Self {
        Self {
            chosen: None,
            tight_since: None,
            roomy_since: None,
            went_up: None,
            up_after: UP_AFTER,
            begun: false,
        }
    }

    /// Forgets what was chosen, but not what was learned: there is another publisher.
    pub(super) fn restart(&mut self) {
        *self = Self { up_after: self.up_after, ..Self::new() };
    }

    /// The layer to send. `layers` are those that there are, the largest one first; `budget_bps` is what the
    /// line is estimated to carry beside the sound, and `line` what it shows.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        layers: &[Offer],
        budget_bps: u64,
        line: Shows,
    ) -> Option<usize> {
        let place = self.chosen.and_then(|chosen| layers.iter().position(|option| option.layer == chosen));
        let (Some(smallest), Some(place)) = (layers.last(), place) else {
            return self.begin(layers, budget_bps, now);
        };
        let now_bps = layers[place].bps;
        if now_bps * 100 > budget_bps * TOLERANCE_PERCENT {
            self.roomy_since = None;
            if line == Shows::Nothing {
                self.tight_since = None;
                return self.chosen;
            }
            let tight_for = now - *self.tight_since.get_or_insert(now);
            // The first smaller one that fits, or the smallest.
            let fitting = layers[place + 1..].iter().find(|option| option.bps <= budget_bps);
            let smaller = fitting.or(layers[place + 1..].last());
            let little = budget_bps * 100 >= now_bps * LITTLE_PERCENT;
            let down_after = if little { DOWN_FOR_LITTLE_AFTER } else { DOWN_AFTER };
            match smaller {
                Some(smaller) if tight_for >= down_after => self.go_down(now, Some(smaller.layer)),
                None if line == Shows::Jam
                    && tight_for >= PAUSE_AFTER
                    && smallest.bps * 100 > budget_bps * 150 =>
                {
                    self.go_down(now, None);
                }
                _ => {}
            }
            return self.chosen;
        }
        self.tight_since = None;
        let Some(larger) = layers[..place].iter().find(|option| fits_well(option, budget_bps)) else {
            self.roomy_since = None;
            return self.chosen;
        };
        if now - *self.roomy_since.get_or_insert(now) >= self.up_after {
            self.go_up(now, larger.layer);
        }
        self.chosen
    }

    /// There is no picture yet, or not any more.
    fn begin(&mut self, layers: &[Offer], budget_bps: u64, now: Instant) -> Option<usize> {
        self.tight_since = None;
        let paused = self.chosen.is_none() && self.begun;
        let fitting = layers.iter().find(|option| fits_well(option, budget_bps));
        match (paused, fitting) {
            // For the first time, or because the layer has gone: at once, the smallest in the worst case.
            (false, _) => {
                self.chosen = fitting.or(layers.last()).map(|option| option.layer);
                self.begun = self.chosen.is_some();
            }
            (true, None) => self.roomy_since = None,
            (true, Some(option)) => {
                if now - *self.roomy_since.get_or_insert(now) >= self.up_after {
                    self.go_up(now, option.layer);
                }
            }
        }
        self.chosen
    }

    fn go_down(&mut self, now: Instant, to: Option<usize>) {
        let mistaken = self.went_up.is_some_and(|up| now - up < MISTAKE);
        self.up_after = if mistaken { (self.up_after * 2).min(UP_AFTER_AT_MOST) } else { UP_AFTER };
        (self.chosen, self.tight_since) = (to, None);
    }

    fn go_up(&mut self, now: Instant, to: usize) {
        (self.chosen, self.roomy_since, self.went_up) = (Some(to), None, Some(now));
    }
}

fn fits_well(option: &Offer, budget_bps: u64) -> bool {
    option.bps * HEADROOM_PERCENT <= budget_bps * 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [Offer; 2] = [Offer { layer: 0, bps: 1_200_000 }, Offer { layer: 1, bps: 300_000 }];

    struct Viewer {
        choice: Choice,
        now: Instant,
    }

    impl Viewer {
        fn new() -> Self {
            Self { choice: Choice::new(), now: Instant::now() }
        }

        /// Lets `ms` go by with this budget; how long it took to get to `layer`.
        fn until(&mut self, layer: Option<usize>, budget: u64, ms: u64) -> Option<u64> {
            (0..=ms / 50).map(|step| step * 50).find(|_| {
                self.now += Duration::from_millis(50);
                self.choice.choose(self.now, &LAYERS, budget, Shows::Jam) == layer
            })
        }
    }

    #[test]
    fn begins_with_what_fits() {
        assert_eq!(Viewer::new().until(Some(0), 2_500_000, 0), Some(0));
        assert_eq!(Viewer::new().until(Some(1), 600_000, 0), Some(0));
        assert_eq!(Viewer::new().until(Some(1), 10_000, 0), Some(0));
        let mut nobody = Choice::new();
        assert_eq!(nobody.choose(Instant::now(), &[], 1_000_000, Shows::Jam), None);
    }

    #[test]
    fn goes_down_fast_and_up_slowly() {
        let mut viewer = Viewer::new();
        viewer.until(Some(0), 2_500_000, 0);
        assert!(viewer.until(Some(1), 500_000, 2000).unwrap() <= 500);
        assert_eq!(viewer.until(Some(0), 1_400_000, 5000), None, "not enough headroom");
        let mut wronged = Viewer::new();
        wronged.until(Some(0), 2_500_000, 0);
        assert_eq!(wronged.until(Some(1), 900_000, 1500), None, "that may be a mistake");
        assert_eq!(wronged.until(Some(1), 2_500_000, 5000), None);
        assert!(wronged.until(Some(1), 900_000, 3000).is_some());
        let up = viewer.until(Some(0), 2_000_000, 5000).unwrap();
        assert!((900..1200).contains(&up), "{up}");
    }

    #[test]
    fn learns_from_mistakes() {
        let mut viewer = Viewer::new();
        viewer.until(Some(0), 2_500_000, 0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            viewer.until(Some(1), 500_000, 2000).unwrap();
            waits.push(viewer.until(Some(0), 2_000_000, 60_000).unwrap());
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]) && waits[5] >= 19_000, "{waits:?}");
    }

    #[test]
    fn sound_comes_first() {
        let mut viewer = Viewer::new();
        viewer.until(Some(0), 2_500_000, 0);
        viewer.until(Some(1), 100_000, 1000).unwrap();
        let pause = viewer.until(None, 100_000, 5000).unwrap();
        assert!((1900..2200).contains(&pause), "{pause}");
        assert_eq!(viewer.until(Some(1), 310_000, 10_000), None);
        assert!(viewer.until(Some(1), 400_000, 10_000).unwrap() <= 2100);
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
    fn replay(layers: &[Offer], loss: u32, delay: u64) -> String {
        let (mut choice, mut line, mut now) = (Choice::new(), Congestion::new(true), Instant::now());
        let mut chosen = String::new();
        for (place, (estimate, rtt)) in FALSE_ESTIMATES.into_iter().enumerate() {
            now += Duration::from_millis(250);
            let (loss, delay) = if place > 4 { (loss, delay) } else { (0, 0) };
            line.measured(now, Some(Duration::from_millis(rtt + delay)), Some(loss as f32 / 100.0));
            let layer = choice.choose(now, layers, estimate, Shows::of(&line, now));
            chosen.push_str(&layer.map_or("-".to_owned(), |layer| layer.to_string()));
        }
        chosen
    }

    #[test]
    fn a_clear_line_keeps_its_layer_whatever_is_estimated() {
        let video = [Offer { layer: 0, bps: 1_900_000 }, Offer { layer: 1, bps: 400_000 }];
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
        let mut viewer = Viewer::new();
        viewer.until(Some(0), 2_500_000, 0);
        assert_eq!(viewer.choice.choose(viewer.now, &LAYERS[1..], 2_500_000, Shows::Jam), Some(1));
    }
}
