//! Rooms in which casts of this service are expected to publish. Sans-IO.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Time for which a publisher is expected. Queries of a cast that waits in the queue renew it; without them,
/// viewers retry until the cast publishes.
const EXPECTATION_TTL: Duration = Duration::from_secs(2 * 3600);
/// Most expected rooms; the oldest is dropped. At 300 bytes each, this is 1.2 MB.
const MAX_EXPECTED_ROOMS: usize = 4096;

/// Expected publishers, one per room: the latest.
#[derive(Debug, Default)]
pub(super) struct ExpectedPublishers {
    /// Expiry and user, by room.
    rooms: HashMap<String, (Instant, String)>,
    expiry_queue: VecDeque<(Instant, String)>,
}

impl ExpectedPublishers {
    /// Adds or renews the expected publisher of a room.
    pub(super) fn add(&mut self, now: Instant, room: &str, user: &str) {
        let expires_at = now + EXPECTATION_TTL;
        if let Some(known) = self.rooms.get_mut(room) {
            // remove_expired moves it back in the queue when its old entry is due.
            *known = (expires_at, user.to_owned());
            return;
        }
        self.remove_expired(now);
        while self.rooms.len() >= MAX_EXPECTED_ROOMS {
            let Some((_, oldest)) = self.expiry_queue.pop_front() else { break };
            self.rooms.remove(&oldest);
        }
        self.rooms.insert(room.to_owned(), (expires_at, user.to_owned()));
        self.expiry_queue.push_back((expires_at, room.to_owned()));
    }

    /// Whether a publisher is expected in this room.
    pub(super) fn has_room(&self, now: Instant, room: &str) -> bool {
        self.rooms.get(room).is_some_and(|(until, _)| now < *until)
    }

    /// Whether this user is expected in this room.
    pub(super) fn has_user(&self, now: Instant, room: &str, user: &str) -> bool {
        self.rooms.get(room).is_some_and(|(until, known)| now < *until && known == user)
    }

    /// Removes expired rooms.
    fn remove_expired(&mut self, now: Instant) {
        while self.expiry_queue.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, room)) = self.expiry_queue.pop_front() else { return };
            match self.rooms.get(&room) {
                Some((until, _)) if *until > now => self.expiry_queue.push_back((*until, room)),
                _ => drop(self.rooms.remove(&room)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_expire() {
        let (now, mut expected) = (Instant::now(), ExpectedPublishers::default());
        expected.add(now, "a", "page");
        assert!(expected.has_room(now, "a") && !expected.has_room(now, "b"));
        assert!(expected.has_user(now, "a", "page") && !expected.has_user(now, "a", "other"));
        let later = now + EXPECTATION_TTL;
        assert!(!expected.has_room(later, "a"));
        expected.add(later, "b", "page");
        assert_eq!(expected.rooms.len(), 1);
    }

    #[test]
    fn expected_rooms_are_bounded_and_renewed_ones_stay() {
        let (now, mut expected) = (Instant::now(), ExpectedPublishers::default());
        expected.add(now, "renewed", "page");
        for number in 0..MAX_EXPECTED_ROOMS + 10 {
            let at = now + Duration::from_millis(number as u64);
            expected.add(at, &number.to_string(), "page");
        }
        assert_eq!(
            (expected.rooms.len(), expected.expiry_queue.len()),
            (MAX_EXPECTED_ROOMS, MAX_EXPECTED_ROOMS)
        );
        assert!(!expected.has_room(now, "0") && expected.has_room(now, "11"));
        let half = now + EXPECTATION_TTL / 2;
        expected.add(half, "11", "page");
        let end = now + EXPECTATION_TTL + Duration::from_secs(60);
        expected.add(end, "new", "page");
        assert!(expected.has_room(end, "11") && !expected.has_room(end, "12"));
        assert_eq!((expected.rooms.len(), expected.expiry_queue.len()), (2, 2));
    }
}
