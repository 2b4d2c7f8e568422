//! What a room's picture may spend by now, in bits. Sans-IO.
//!
//! It earns steadily, as the network carries, and saves up for what is expensive: a keyframe, a new slide.

use crate::encode::FrameCost;

/// Most that is saved up, as seconds of earning: what is spent at once comes late by as much.
const MAX_SAVED_SECONDS: f64 = 0.6;
/// The same in ticks, at least: room for one frame.
const MIN_CAPACITY_TICKS: f64 = 1.5;
/// Debt at which frames are left out, as seconds of earning, and the most that is remembered.
const SKIP_DEBT_SECONDS: f64 = 0.2;
const MAX_DEBT_SECONDS: f64 = 2.0;
/// A frame that takes more is heavy, as seconds of earning; one that takes less is light, in bits.
const HIGH_COST_SECONDS: f64 = 0.04;
const LOW_COST_BITS: u64 = 4000;
/// Longest time since the last frame that the next one may count on, in seconds.
const MAX_FRAME_CREDIT_SECONDS: f64 = 0.25;

/// Counts what was earned and what was spent.
#[derive(Debug)]
pub(super) struct BitBudget {
    bits_per_tick: f64,
    fps: f64,
    available_bits: f64,
    /// The tick up to which is counted.
    tick: i64,
    /// The tick of the last frame.
    last_frame_tick: i64,
}

impl BitBudget {
    /// A full one.
    pub(super) fn new(bps: u32, fps: u32) -> Self {
        let fps = f64::from(fps);
        let mut purse =
            Self { bits_per_tick: 0.0, fps, available_bits: f64::MAX, tick: 0, last_frame_tick: 0 };
        purse.set_bitrate(bps);
        purse
    }

    /// Earns so many bits per second from now on.
    pub(super) fn set_bitrate(&mut self, bps: u32) {
        self.bits_per_tick = f64::from(bps) / self.fps;
        self.available_bits = self.available_bits.min(self.capacity());
    }

    /// Tick `index` has come.
    pub(super) fn refill(&mut self, index: i64) {
        let ticks = (index - self.tick).max(0) as f64;
        self.tick = index;
        self.available_bits = (self.available_bits + ticks * self.bits_per_tick).min(self.capacity());
    }

    /// A frame took so many bits.
    pub(super) fn spend(&mut self, bits: u64) -> FrameCost {
        self.last_frame_tick = self.tick;
        let worst = -MAX_DEBT_SECONDS * self.fps * self.bits_per_tick;
        self.available_bits = (self.available_bits - bits as f64).max(worst);
        match bits {
            ..LOW_COST_BITS => FrameCost::Low,
            _ if bits as f64 > HIGH_COST_SECONDS * self.fps * self.bits_per_tick => FrameCost::High,
            _ => FrameCost::Medium,
        }
    }

    /// Whether frames should be left out until there is more.
    pub(super) fn is_in_debt(&self) -> bool {
        self.available_bits < -SKIP_DEBT_SECONDS * self.fps * self.bits_per_tick
    }

    /// What is in it, in bits.
    pub(super) fn available_bits(&self) -> f64 {
        self.available_bits
    }

    /// The most that can be in it, in bits.
    pub(super) fn capacity(&self) -> f64 {
        (MAX_SAVED_SECONDS * self.fps).max(MIN_CAPACITY_TICKS) * self.bits_per_tick
    }

    /// What it earns from one tick to the next, in bits.
    pub(super) fn bits_per_tick(&self) -> f64 {
        self.bits_per_tick
    }

    /// Ticks per second.
    pub(super) fn fps(&self) -> f64 {
        self.fps
    }

    /// What it earned since the last frame, in bits, as far as the next one may count on it.
    pub(super) fn bits_since_last_frame(&self) -> f64 {
        let ticks = (self.tick - self.last_frame_tick).max(1) as f64;
        ticks.min((MAX_FRAME_CREDIT_SECONDS * self.fps).max(1.0)) * self.bits_per_tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_earns_steadily_and_holds_so_much() {
        let mut purse = BitBudget::new(300_000, 30);
        assert_eq!((purse.available_bits(), purse.capacity()), (180_000.0, 180_000.0));
        assert_eq!(purse.spend(100_000), FrameCost::High);
        purse.refill(3);
        assert_eq!((purse.available_bits(), purse.bits_since_last_frame()), (110_000.0, 30_000.0));
        purse.refill(15);
        assert_eq!((purse.available_bits(), purse.bits_since_last_frame()), (180_000.0, 75_000.0));
        assert_eq!([purse.spend(3999), purse.spend(4000)], [FrameCost::Low, FrameCost::Medium]);
    }

    #[test]
    fn another_cap_holds_from_now_on() {
        let mut purse = BitBudget::new(300_000, 30);
        purse.set_bitrate(30_000);
        assert_eq!((purse.available_bits(), purse.bits_per_tick()), (18_000.0, 1000.0));
        purse.set_bitrate(3_000_000);
        purse.refill(1);
        assert_eq!(purse.available_bits(), 118_000.0);
    }

    #[test]
    fn debts_are_paid_back_but_not_for_ever() {
        let mut purse = BitBudget::new(300_000, 30);
        purse.spend(u64::MAX);
        assert!(purse.is_in_debt());
        let paid = (0..).find(|index| {
            purse.refill(*index);
            !purse.is_in_debt()
        });
        assert_eq!(paid, Some(54));
    }

    #[test]
    fn a_slow_page_has_room_for_a_frame() {
        let purse = BitBudget::new(300_000, 1);
        assert_eq!((purse.capacity(), purse.bits_since_last_frame()), (450_000.0, 300_000.0));
    }
}
