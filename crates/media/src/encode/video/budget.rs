//! The bit budget of a room's video: a leaky bucket that fills at the bitrate limit. Sans-IO.
//!
//! Unused bits are saved for expensive frames: a keyframe, a new slide.

use crate::encode::FrameCost;

/// Capacity in seconds of the bitrate: a frame that spends all of it arrives late by as much.
const MAX_SAVED_SECONDS: f64 = 0.6;
/// Least capacity in ticks: room for one frame at low frame rates.
const MIN_CAPACITY_TICKS: f64 = 1.5;
/// Debt at which frames are skipped, and the largest debt that is counted, in seconds of the bitrate.
const SKIP_DEBT_SECONDS: f64 = 0.2;
const MAX_DEBT_SECONDS: f64 = 2.0;
/// Larger frames have a high cost (in seconds of the bitrate), smaller ones a low cost (in bits).
const HIGH_COST_SECONDS: f64 = 0.04;
const LOW_COST_BITS: u64 = 4000;
/// Longest time since the last frame whose bits the next one may use, in seconds.
const MAX_FRAME_CREDIT_SECONDS: f64 = 0.25;

/// Counts the bits that may be spent.
#[derive(Debug)]
pub(super) struct BitBudget {
    bits_per_tick: f64,
    fps: f64,
    available_bits: f64,
    /// Tick of the last refill.
    tick: i64,
    /// The tick of the last frame.
    last_frame_tick: i64,
}

impl BitBudget {
    /// A full budget.
    pub(super) fn new(bps: u32, fps: u32) -> Self {
        let fps = f64::from(fps);
        let mut budget =
            Self { bits_per_tick: 0.0, fps, available_bits: f64::MAX, tick: 0, last_frame_tick: 0 };
        budget.set_bitrate(bps);
        budget
    }

    /// Sets the refill rate in bit/s.
    pub(super) fn set_bitrate(&mut self, bps: u32) {
        self.bits_per_tick = f64::from(bps) / self.fps;
        self.available_bits = self.available_bits.min(self.capacity());
    }

    /// Refills the budget up to tick `index`.
    pub(super) fn refill(&mut self, index: i64) {
        let ticks = (index - self.tick).max(0) as f64;
        self.tick = index;
        self.available_bits = (self.available_bits + ticks * self.bits_per_tick).min(self.capacity());
    }

    /// Spends the bits of a frame and returns its cost class.
    pub(super) fn spend(&mut self, bits: u64) -> FrameCost {
        self.last_frame_tick = self.tick;
        let max_debt = -MAX_DEBT_SECONDS * self.fps * self.bits_per_tick;
        self.available_bits = (self.available_bits - bits as f64).max(max_debt);
        match bits {
            ..LOW_COST_BITS => FrameCost::Low,
            _ if bits as f64 > HIGH_COST_SECONDS * self.fps * self.bits_per_tick => FrameCost::High,
            _ => FrameCost::Medium,
        }
    }

    /// Whether frames should be skipped until the budget has recovered.
    pub(super) fn is_in_debt(&self) -> bool {
        self.available_bits < -SKIP_DEBT_SECONDS * self.fps * self.bits_per_tick
    }

    /// Bits available now; negative in debt.
    pub(super) fn available_bits(&self) -> f64 {
        self.available_bits
    }

    /// Largest number of available bits.
    pub(super) fn capacity(&self) -> f64 {
        (MAX_SAVED_SECONDS * self.fps).max(MIN_CAPACITY_TICKS) * self.bits_per_tick
    }

    /// Bits refilled per tick.
    pub(super) fn bits_per_tick(&self) -> f64 {
        self.bits_per_tick
    }

    /// Ticks per second.
    pub(super) fn fps(&self) -> f64 {
        self.fps
    }

    /// Bits refilled since the last frame, limited to [`MAX_FRAME_CREDIT_SECONDS`].
    pub(super) fn bits_since_last_frame(&self) -> f64 {
        let ticks = (self.tick - self.last_frame_tick).max(1) as f64;
        ticks.min((MAX_FRAME_CREDIT_SECONDS * self.fps).max(1.0)) * self.bits_per_tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_refills_steadily_up_to_its_capacity() {
        let mut budget = BitBudget::new(300_000, 30);
        assert_eq!((budget.available_bits(), budget.capacity()), (180_000.0, 180_000.0));
        assert_eq!(budget.spend(100_000), FrameCost::High);
        budget.refill(3);
        assert_eq!((budget.available_bits(), budget.bits_since_last_frame()), (110_000.0, 30_000.0));
        budget.refill(15);
        assert_eq!((budget.available_bits(), budget.bits_since_last_frame()), (180_000.0, 75_000.0));
        assert_eq!([budget.spend(3999), budget.spend(4000)], [FrameCost::Low, FrameCost::Medium]);
    }

    #[test]
    fn another_bitrate_applies_at_once() {
        let mut budget = BitBudget::new(300_000, 30);
        budget.set_bitrate(30_000);
        assert_eq!((budget.available_bits(), budget.bits_per_tick()), (18_000.0, 1000.0));
        budget.set_bitrate(3_000_000);
        budget.refill(1);
        assert_eq!(budget.available_bits(), 118_000.0);
    }

    #[test]
    fn debt_is_limited() {
        let mut budget = BitBudget::new(300_000, 30);
        budget.spend(u64::MAX);
        assert!(budget.is_in_debt());
        let paid = (0..).find(|index| {
            budget.refill(*index);
            !budget.is_in_debt()
        });
        assert_eq!(paid, Some(54));
    }

    #[test]
    fn a_slow_page_has_room_for_a_frame() {
        let budget = BitBudget::new(300_000, 1);
        assert_eq!((budget.capacity(), budget.bits_since_last_frame()), (450_000.0, 300_000.0));
    }
}
