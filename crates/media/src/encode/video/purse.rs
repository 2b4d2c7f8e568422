//! What a room's picture may spend by now, in bits. Sans-IO.
//!
//! It earns steadily, as the network carries, and saves up for what is expensive: a keyframe, a new slide.

use crate::encode::Weight;

/// Most that is saved up, as seconds of earning: what is spent at once comes late by as much.
const SAVED_SECONDS: f64 = 0.6;
/// The same in ticks, at least: room for one frame.
const SAVED_TICKS: f64 = 1.5;
/// Debt at which frames are left out, as seconds of earning, and the most that is remembered.
const DEBT_SECONDS: f64 = 0.2;
const WORST_DEBT_SECONDS: f64 = 2.0;
/// A frame that takes more is heavy, as seconds of earning; one that takes less is light, in bits.
const HEAVY_SECONDS: f64 = 0.04;
const LIGHT_BITS: u64 = 4000;
/// Longest time since the last frame that the next one may count on, in seconds.
const SINCE_SECONDS: f64 = 0.25;

/// Counts what was earned and what was spent.
#[derive(Debug)]
pub(super) struct Purse {
    bits_per_tick: f64,
    fps: f64,
    bits: f64,
    /// The tick up to which is counted.
    at: i64,
    /// The tick of the last frame.
    last: i64,
}

impl Purse {
    /// A full one.
    pub(super) fn new(bps: u32, fps: u32) -> Self {
        let fps = f64::from(fps);
        let mut purse = Self { bits_per_tick: 0.0, fps, bits: f64::MAX, at: 0, last: 0 };
        purse.set_cap(bps);
        purse
    }

    /// Earns so many bits per second from now on.
    pub(super) fn set_cap(&mut self, bps: u32) {
        self.bits_per_tick = f64::from(bps) / self.fps;
        self.bits = self.bits.min(self.size());
    }

    /// Tick `index` has come.
    pub(super) fn earn(&mut self, index: i64) {
        let ticks = (index - self.at).max(0) as f64;
        self.at = index;
        self.bits = (self.bits + ticks * self.bits_per_tick).min(self.size());
    }

    /// A frame took so many bits.
    pub(super) fn spend(&mut self, bits: u64) -> Weight {
        self.last = self.at;
        let worst = -WORST_DEBT_SECONDS * self.fps * self.bits_per_tick;
        self.bits = (self.bits - bits as f64).max(worst);
        match bits {
            ..LIGHT_BITS => Weight::Light,
            _ if bits as f64 > HEAVY_SECONDS * self.fps * self.bits_per_tick => Weight::Heavy,
            _ => Weight::Medium,
        }
    }

    /// Whether frames should be left out until there is more.
    pub(super) fn is_in_debt(&self) -> bool {
        self.bits < -DEBT_SECONDS * self.fps * self.bits_per_tick
    }

    /// What is in it, in bits.
    pub(super) fn bits(&self) -> f64 {
        self.bits
    }

    /// The most that can be in it, in bits.
    pub(super) fn size(&self) -> f64 {
        (SAVED_SECONDS * self.fps).max(SAVED_TICKS) * self.bits_per_tick
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
    pub(super) fn since_last(&self) -> f64 {
        let ticks = (self.at - self.last).max(1) as f64;
        ticks.min((SINCE_SECONDS * self.fps).max(1.0)) * self.bits_per_tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_earns_steadily_and_holds_so_much() {
        let mut purse = Purse::new(300_000, 30);
        assert_eq!((purse.bits(), purse.size()), (180_000.0, 180_000.0));
        assert_eq!(purse.spend(100_000), Weight::Heavy);
        purse.earn(3);
        assert_eq!((purse.bits(), purse.since_last()), (110_000.0, 30_000.0));
        purse.earn(15);
        assert_eq!((purse.bits(), purse.since_last()), (180_000.0, 75_000.0));
        assert_eq!([purse.spend(3999), purse.spend(4000)], [Weight::Light, Weight::Medium]);
    }

    #[test]
    fn another_cap_holds_from_now_on() {
        let mut purse = Purse::new(300_000, 30);
        purse.set_cap(30_000);
        assert_eq!((purse.bits(), purse.bits_per_tick()), (18_000.0, 1000.0));
        purse.set_cap(3_000_000);
        purse.earn(1);
        assert_eq!(purse.bits(), 118_000.0);
    }

    #[test]
    fn debts_are_paid_back_but_not_for_ever() {
        let mut purse = Purse::new(300_000, 30);
        purse.spend(u64::MAX);
        assert!(purse.is_in_debt());
        let paid = (0..).find(|index| {
            purse.earn(*index);
            !purse.is_in_debt()
        });
        assert_eq!(paid, Some(54));
    }

    #[test]
    fn a_slow_page_has_room_for_a_frame() {
        let purse = Purse::new(300_000, 1);
        assert_eq!((purse.size(), purse.since_last()), (450_000.0, 300_000.0));
    }
}
