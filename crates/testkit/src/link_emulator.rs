//! A bad line: a relay of datagrams that loses, delays and narrows what passes, both ways.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

/// Longest datagram.
const MAX_DATAGRAM_LEN: usize = 2048;
/// Datagrams on their way, in one direction of one client; further ones are lost.
const MAX_QUEUED_DATAGRAMS: usize = 10_000;

/// What a line does to datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LinkConditions {
    /// Part of them that is lost, 0 to 1.
    pub loss: f64,
    /// What each is delayed by.
    pub delay: Duration,
    /// What each is delayed by further: anything up to this. Their order stays.
    pub jitter: Duration,
    /// Bits per second that fit through; what does not fit waits, up to 200 ms, and is lost beyond. `None`: any number.
    pub bits_per_second: Option<u64>,
}

/// How long what does not fit may wait.
const MAX_QUEUE_DELAY: Duration = Duration::from_millis(200);

/// A line to one server; gone when dropped. Conditions are those of the first client; all others have a perfect line.
#[derive(Debug)]
pub struct LinkEmulator {
    address: SocketAddr,
    conditions: Arc<Mutex<LinkConditions>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LinkEmulator {
    /// A perfect line to `server`.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = runtime.block_on(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = socket.local_addr()?;
        let conditions = Arc::<Mutex<LinkConditions>>::default();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&conditions);
        let thread = std::thread::Builder::new()
            .name("link".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = relay_datagrams(Arc::new(socket), server, shared) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_background();
            })
            .context("cannot start a thread")?;
        Ok(Self { address, conditions, stop: Some(stop), thread: Some(thread) })
    }

    /// Where clients send to instead of the server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set_conditions(&self, conditions: LinkConditions) {
        *lock(&self.conditions) = conditions;
    }
}

impl Drop for LinkEmulator {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn lock(conditions: &Mutex<LinkConditions>) -> MutexGuard<'_, LinkConditions> {
    conditions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One direction of one client.
struct Direction {
    conditions: Arc<Mutex<LinkConditions>>,
    impaired: bool,
    rng_state: u64,
    /// When the last datagram has passed the narrow place, and when it arrives.
    busy_until: Instant,
    last_arrival: Instant,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
}

impl Direction {
    fn new(
        conditions: &Arc<Mutex<LinkConditions>>,
        bad: bool,
        seed: u64,
        socket: Arc<UdpSocket>,
        to: SocketAddr,
    ) -> Self {
        let (out, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_QUEUED_DATAGRAMS);
        tokio::task::spawn(async move {
            while let Some((at, data)) = queue.recv().await {
                sleep_until(at.into()).await;
                let _lost = socket.send_to(&data, to).await;
            }
        });
        let now = Instant::now();
        Self {
            conditions: Arc::clone(conditions),
            impaired: bad,
            rng_state: seed,
            busy_until: now,
            last_arrival: now,
            queue: out,
        }
    }

    fn forward(&mut self, data: &[u8]) {
        let conditions = if self.impaired { *lock(&self.conditions) } else { LinkConditions::default() };
        let now = Instant::now();
        if self.next_random() < conditions.loss {
            return;
        }
        self.busy_until = self.busy_until.max(now);
        if let Some(bits) = conditions.bits_per_second {
            let takes = Duration::from_secs_f64(data.len() as f64 * 8.0 / bits as f64);
            if self.busy_until + takes > now + MAX_QUEUE_DELAY {
                return;
            }
            self.busy_until += takes;
        }
        let jitter = conditions.jitter.mul_f64(self.next_random());
        self.last_arrival = self.last_arrival.max(self.busy_until + conditions.delay + jitter);
        // Full: lost.
        let _sent = self.queue.try_send((self.last_arrival, data.to_owned()));
    }

    /// The next of a sequence of numbers from 0 to 1 that has no pattern, but is the same each time (xorshift).
    fn next_random(&mut self) -> f64 {
        self.rng_state ^= self.rng_state << 13;
        self.rng_state ^= self.rng_state >> 7;
        self.rng_state ^= self.rng_state << 17;
        (self.rng_state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

async fn relay_datagrams(front: Arc<UdpSocket>, server: SocketAddr, conditions: Arc<Mutex<LinkConditions>>) {
    let mut lanes = BTreeMap::<SocketAddr, Direction>::new();
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
        if !lanes.contains_key(&client) {
            let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            let (back, number) = (Arc::new(back), lanes.len() as u64);
            let bad = number == 0;
            let lane = |seed, socket: &Arc<UdpSocket>, to| {
                Direction::new(&conditions, bad, seed, Arc::clone(socket), to)
            };
            lanes.insert(client, lane(0x9e37_79b9 + number, &back, server));
            let home = lane(0x7f4a_7c15 + number, &front, client);
            tokio::task::spawn(relay_replies(back, home));
        }
        if let Some(lane) = lanes.get_mut(&client) {
            lane.forward(&buffer[..length]);
        }
    }
}

/// What the server sends to one client.
async fn relay_replies(back: Arc<UdpSocket>, mut lane: Direction) {
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        if let Ok((length, _)) = back.recv_from(&mut buffer).await {
            lane.forward(&buffer[..length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as Socket;

    /// Datagrams of 1000 bytes that arrive of 200, sent within two seconds, and how long the slowest took.
    fn transfer(conditions: LinkConditions) -> Result<(usize, Duration)> {
        let server = Socket::bind("127.0.0.1:0")?;
        server.set_read_timeout(Some(Duration::from_millis(800)))?;
        let link = LinkEmulator::start(server.local_addr()?)?;
        link.set_conditions(conditions);
        let client = Socket::bind("127.0.0.1:0")?;
        client.connect(link.address())?;
        let receiver = std::thread::spawn(move || {
            let (mut count, mut slowest, mut buffer) = (0, Duration::ZERO, [0; 2000]);
            let mut last = 0;
            while let Ok(length) = server.recv(&mut buffer) {
                assert_eq!(length, 1000);
                let sent = u128::from_be_bytes(buffer[..16].try_into().unwrap());
                assert!(sent >= last, "they overtake each other");
                last = sent;
                slowest = slowest.max(Duration::from_nanos((unix_ns() - sent) as u64));
                count += 1;
            }
            (count, slowest)
        });
        for _ in 0..200 {
            let mut data = [0; 1000];
            data[..16].copy_from_slice(&unix_ns().to_be_bytes());
            client.send(&data)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(receiver.join().unwrap())
    }

    fn unix_ns() -> u128 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
    }

    #[test]
    fn a_perfect_link_loses_nothing() -> Result<()> {
        assert_eq!(transfer(LinkConditions::default())?.0, 200);
        Ok(())
    }

    #[test]
    fn an_impaired_link_loses_and_delays() -> Result<()> {
        let jitter = Duration::from_millis(50);
        let (count, slowest) = transfer(LinkConditions { loss: 0.2, jitter, ..LinkConditions::default() })?;
        assert!((130..190).contains(&count), "{count}");
        assert!(slowest > Duration::from_millis(30), "{slowest:?}");
        Ok(())
    }

    #[test]
    fn a_narrow_link_delays() -> Result<()> {
        let (count, slowest) =
            transfer(LinkConditions { bits_per_second: Some(200_000), ..LinkConditions::default() })?;
        assert!((30..110).contains(&count) && slowest > Duration::from_millis(100), "{count} {slowest:?}");
        Ok(())
    }
}
