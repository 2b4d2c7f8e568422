//! One direction of a bad network link: loss, delay and a bandwidth limit. Sans-IO: callers hand in datagrams
//! with the time at which they are sent, and get them back when they arrive. The same datagrams at the same
//! times always have the same losses and delays.
//!
//! [`Link::handle`] takes an input, [`Link::poll`] returns the next datagram that has arrived, and
//! [`Link::deadline`] is when the next one arrives.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most datagrams on their way; more are lost. Links with limited bandwidth drop before that.
const MAX_QUEUED_DATAGRAMS: usize = 10_000;
/// Default of the longest time in the queue: that of a home router with some buffer bloat.
const MAX_QUEUE_DELAY: Duration = Duration::from_millis(200);

/// Conditions of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkConditions {
    /// Share of datagrams that are lost at random, 0 to 1.
    pub loss: f64,
    /// Every nth datagram is lost; 0 means none.
    pub lose_every: u64,
    /// Delay of each datagram.
    pub delay: Duration,
    /// Largest random delay added to each datagram. The order stays.
    pub jitter: Duration,
    /// Bandwidth in bits per second; `None` for no limit.
    pub bits_per_second: Option<u64>,
    /// Longest time that datagrams wait for the bandwidth. Those that would wait longer are lost.
    pub max_queue_delay: Duration,
}

impl Default for LinkConditions {
    /// A perfect link.
    fn default() -> Self {
        Self {
            loss: 0.0,
            lose_every: 0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            bits_per_second: None,
            max_queue_delay: MAX_QUEUE_DELAY,
        }
    }
}

/// Input of a [`Link`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input<T> {
    /// A datagram is sent.
    Datagram {
        /// The datagram, which the link does not look at.
        datagram: T,
        /// Its length, in bytes.
        length: usize,
    },
    /// The conditions change for datagrams that are sent from now on.
    Conditions(LinkConditions),
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link<T> {
    conditions: LinkConditions,
    rng_state: u64,
    /// Datagrams sent so far.
    count: u64,
    /// When the last datagram has passed the bandwidth limit.
    busy_until: Option<Instant>,
    /// Datagrams on their way, with their arrival time.
    queue: VecDeque<(Instant, T)>,
    /// When the last datagram arrives.
    last_arrival: Option<Instant>,
}

impl<T> Link<T> {
    /// A link on which nothing was sent yet. Equal seeds give equal losses and delays; zero is no seed.
    #[must_use]
    pub fn new(conditions: LinkConditions, seed: u64) -> Self {
        Self {
            conditions,
            rng_state: seed,
            count: 0,
            busy_until: None,
            queue: VecDeque::new(),
            last_arrival: None,
        }
    }

    /// Processes an input at time `now`.
    pub fn handle(&mut self, now: Instant, input: Input<T>) {
        match input {
            Input::Datagram { datagram, length } => self.send(now, datagram, length),
            Input::Conditions(conditions) => self.conditions = conditions,
        }
    }

    /// Returns the next datagram that has arrived, if any.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        self.queue.pop_front_if(|(at, _)| *at <= now).map(|(_, datagram)| datagram)
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.queue.front().map(|(at, _)| *at)
    }

    fn send(&mut self, now: Instant, datagram: T, length: usize) {
        let conditions = self.conditions;
        self.count += 1;
        let loses_nth = conditions.lose_every > 0 && self.count.is_multiple_of(conditions.lose_every);
        if self.next_random() < conditions.loss || loses_nth || self.queue.len() == MAX_QUEUED_DATAGRAMS {
            return;
        }
        let mut passed_at = self.busy_until.map_or(now, |at| at.max(now));
        if let Some(bits) = conditions.bits_per_second {
            passed_at += Duration::from_secs_f64(length as f64 * 8.0 / bits as f64);
            if passed_at > now + conditions.max_queue_delay {
                return;
            }
        }
        let arrival = passed_at + conditions.delay + conditions.jitter.mul_f64(self.next_random());
        let arrival = self.last_arrival.map_or(arrival, |last| last.max(arrival));
        (self.busy_until, self.last_arrival) = (Some(passed_at), Some(arrival));
        self.queue.push_back((arrival, datagram));
    }

    /// Next pseudo-random number from 0 to 1 (xorshift).
    fn next_random(&mut self) -> f64 {
        self.rng_state ^= self.rng_state << 13;
        self.rng_state ^= self.rng_state >> 7;
        self.rng_state ^= self.rng_state << 17;
        (self.rng_state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends 200 datagrams of 1000 bytes within two seconds. Returns how many arrive, and the shortest and
    /// the longest delay in milliseconds.
    fn transfer(conditions: LinkConditions) -> (usize, u128, u128) {
        let (mut link, start) = (Link::new(conditions, 1), Instant::now());
        let (mut delays, mut last) = (Vec::new(), None);
        let mut receive = |link: &mut Link<u32>, now| {
            while let Some(number) = link.poll(now) {
                assert!(last < Some(number), "datagrams are out of order");
                last = Some(number);
                delays.push((now - start - Duration::from_millis(10) * number).as_millis());
            }
        };
        for number in 0..200 {
            let now = start + Duration::from_millis(10) * number;
            while let Some(at) = link.deadline().filter(|at| *at < now) {
                receive(&mut link, at);
            }
            link.handle(now, Input::Datagram { datagram: number, length: 1000 });
            receive(&mut link, now);
        }
        while let Some(at) = link.deadline() {
            receive(&mut link, at);
        }
        let (shortest, longest) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        (delays.len(), *shortest, *longest)
    }

    #[test]
    fn a_perfect_link_loses_and_delays_nothing() {
        assert_eq!(transfer(LinkConditions::default()), (200, 0, 0));
    }

    #[test]
    fn an_impaired_link_loses_and_delays() {
        let lossy = LinkConditions { loss: 0.2, ..LinkConditions::default() };
        let (count, ..) = transfer(lossy);
        assert!((140..180).contains(&count), "{count}");
        assert_eq!(transfer(lossy), transfer(lossy));
        assert_eq!(transfer(LinkConditions { lose_every: 4, ..LinkConditions::default() }), (150, 0, 0));
        let ms = Duration::from_millis;
        let slow = LinkConditions { delay: ms(30), jitter: ms(50), ..LinkConditions::default() };
        let (count, shortest, longest) = transfer(slow);
        assert!(count == 200 && (30..35).contains(&shortest) && (75..=80).contains(&longest));
    }

    #[test]
    fn a_narrow_link_queues_up_to_its_limit() {
        // 25 datagrams per second pass, and the queue holds five when the last one is sent.
        let narrow = LinkConditions { bits_per_second: Some(200_000), ..LinkConditions::default() };
        let (count, shortest, longest) = transfer(narrow);
        assert!((53..=55).contains(&count) && shortest == 40 && (190..=200).contains(&longest), "{count}");
        let bloated = LinkConditions { max_queue_delay: Duration::from_millis(400), ..narrow };
        let (count, _, longest) = transfer(bloated);
        assert!((58..=60).contains(&count) && (390..=400).contains(&longest), "{count} {longest}");
    }
}
