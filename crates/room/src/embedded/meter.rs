//! How much of a stream comes.

use std::time::{Duration, Instant};

/// How long a slot is, and how many are looked at.
const SLOT: Duration = Duration::from_millis(250);
const SLOTS: usize = 8;

/// Bytes and pictures of the last two seconds.
#[derive(Debug)]
pub(super) struct Meter {
    begin: Instant,
    slots: [(u64, u32); SLOTS],
    latest: u128,
    last: Option<Instant>,
}

impl Meter {
    /// One that has seen nothing.
    pub(super) fn new(now: Instant) -> Self {
        Self { begin: now, slots: [(0, 0); SLOTS], latest: 0, last: None }
    }

    /// A packet comes; the last of a picture?
    pub(super) fn add(&mut self, now: Instant, bytes: usize, picture: bool) {
        self.roll(now);
        let slot = &mut self.slots[index(self.latest)];
        slot.0 += bytes as u64;
        slot.1 += u32::from(picture);
        self.last = Some(now);
    }

    /// Bits a second.
    pub(super) fn bps(&mut self, now: Instant) -> u64 {
        self.roll(now);
        let bytes: u64 = self.slots.iter().map(|slot| slot.0).sum();
        bytes * 8_000 / self.window(now)
    }

    /// Pictures a second.
    pub(super) fn fps(&mut self, now: Instant) -> f64 {
        self.roll(now);
        let pictures: u32 = self.slots.iter().map(|slot| slot.1).sum();
        let window = u32::try_from(self.window(now)).unwrap_or(u32::MAX);
        (f64::from(pictures) * 10_000.0 / f64::from(window)).round() / 10.0
    }

    /// Whether anything came within this time.
    pub(super) fn is_alive(&self, now: Instant, within: Duration) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < within)
    }

    /// Milliseconds that the slots cover.
    fn window(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.begin);
        let whole =
            SLOT * 7 + Duration::from_nanos(u64::try_from(age.as_nanos() % SLOT.as_nanos()).unwrap_or(0));
        u64::try_from(age.min(whole).as_millis()).unwrap_or(1).max(SLOT.as_millis() as u64)
    }

    fn roll(&mut self, now: Instant) {
        let slot = now.saturating_duration_since(self.begin).as_nanos() / SLOT.as_nanos();
        for stale in (self.latest + 1..=slot).take(SLOTS) {
            self.slots[index(stale)] = (0, 0);
        }
        if slot > self.latest + SLOTS as u128 {
            self.slots = [(0, 0); SLOTS];
        }
        self.latest = self.latest.max(slot);
    }
}

fn index(slot: u128) -> usize {
    usize::try_from(slot % SLOTS as u128).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = Meter::new(start);
        for tick in 0..300 {
            meter.add(at(tick * 33), 1000, true);
        }
        let now = at(299 * 33);
        assert!((230_000..250_000).contains(&meter.bps(now)), "{}", meter.bps(now));
        assert!((29.0..31.5).contains(&meter.fps(now)), "{}", meter.fps(now));
        assert!(meter.is_alive(now, Duration::from_secs(1)));
        assert_eq!(meter.bps(at(60_000)), 0);
        assert!(!meter.is_alive(at(60_000), Duration::from_secs(1)));
        meter.add(at(60_000), 1000, false);
        assert!(meter.bps(at(60_000)) < 5000);
    }
}
