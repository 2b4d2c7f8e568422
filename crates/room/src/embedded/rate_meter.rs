//! Measures bitrate and frame rate of a stream.

use std::time::{Duration, Instant};

/// Length and number of the slots: together they cover two seconds.
const SLOT_DURATION: Duration = Duration::from_millis(250);
const SLOT_COUNT: usize = 8;

/// Meter of the bytes and frames of the last two seconds.
#[derive(Debug)]
pub(super) struct RateMeter {
    started_at: Instant,
    slots: [(u64, u32); SLOT_COUNT],
    latest_slot: u128,
    last_packet_at: Option<Instant>,
}

impl RateMeter {
    /// An empty meter.
    pub(super) fn new(now: Instant) -> Self {
        Self { started_at: now, slots: [(0, 0); SLOT_COUNT], latest_slot: 0, last_packet_at: None }
    }

    /// Adds a packet. `ends_frame` marks the last packet of a frame.
    pub(super) fn add(&mut self, now: Instant, bytes: usize, ends_frame: bool) {
        self.advance_to(now);
        let slot = &mut self.slots[slot_index(self.latest_slot)];
        slot.0 += bytes as u64;
        slot.1 += u32::from(ends_frame);
        self.last_packet_at = Some(now);
    }

    /// Bitrate, in bit/s.
    pub(super) fn bps(&mut self, now: Instant) -> u64 {
        self.advance_to(now);
        let bytes: u64 = self.slots.iter().map(|slot| slot.0).sum();
        bytes * 8_000 / self.window_ms(now)
    }

    /// Frame rate, in frames per second, rounded to 0.1.
    pub(super) fn fps(&mut self, now: Instant) -> f64 {
        self.advance_to(now);
        let frames: u32 = self.slots.iter().map(|slot| slot.1).sum();
        let window = u32::try_from(self.window_ms(now)).unwrap_or(u32::MAX);
        (f64::from(frames) * 10_000.0 / f64::from(window)).round() / 10.0
    }

    /// Whether a packet arrived within this time.
    pub(super) fn is_active(&self, now: Instant, within: Duration) -> bool {
        self.last_packet_at.is_some_and(|last| now.saturating_duration_since(last) < within)
    }

    /// Time that the slots cover, in milliseconds.
    fn window_ms(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.started_at);
        let whole = SLOT_DURATION * 7
            + Duration::from_nanos(u64::try_from(age.as_nanos() % SLOT_DURATION.as_nanos()).unwrap_or(0));
        u64::try_from(age.min(whole).as_millis()).unwrap_or(1).max(SLOT_DURATION.as_millis() as u64)
    }

    fn advance_to(&mut self, now: Instant) {
        let slot = now.saturating_duration_since(self.started_at).as_nanos() / SLOT_DURATION.as_nanos();
        for stale in (self.latest_slot + 1..=slot).take(SLOT_COUNT) {
            self.slots[slot_index(stale)] = (0, 0);
        }
        if slot > self.latest_slot + SLOT_COUNT as u128 {
            self.slots = [(0, 0); SLOT_COUNT];
        }
        self.latest_slot = self.latest_slot.max(slot);
    }
}

fn slot_index(slot: u128) -> usize {
    usize::try_from(slot % SLOT_COUNT as u128).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = RateMeter::new(start);
        for tick in 0..300 {
            meter.add(at(tick * 33), 1000, true);
        }
        let now = at(299 * 33);
        assert!((230_000..250_000).contains(&meter.bps(now)), "{}", meter.bps(now));
        assert!((29.0..31.5).contains(&meter.fps(now)), "{}", meter.fps(now));
        assert!(meter.is_active(now, Duration::from_secs(1)));
        assert_eq!(meter.bps(at(60_000)), 0);
        assert!(!meter.is_active(at(60_000), Duration::from_secs(1)));
        meter.add(at(60_000), 1000, false);
        assert!(meter.bps(at(60_000)) < 5000);
    }
}
