//! Emulates a bad network link: a UDP relay with loss, delay and a bandwidth limit, in both directions.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

/// Longest datagram, in bytes: more than an MTU of 1500.
const MAX_DATAGRAM_LEN: usize = 2048;
/// Most queued datagrams in one direction of one client; more are lost. The delay limit drops before that.
const MAX_QUEUED_DATAGRAMS: usize = 10_000;

/// Conditions of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LinkConditions {
    /// Share of datagrams that are lost, 0 to 1.
    pub loss: f64,
    /// Delay of each datagram.
    pub delay: Duration,
    /// Largest random delay added to each datagram. The order stays.
    pub jitter: Duration,
    /// Bandwidth in bits per second; `None` for no limit. Datagrams above it are queued for up to 200 ms,
    /// then lost.
    pub bits_per_second: Option<u64>,
}

/// Longest time in the queue of a link with limited bandwidth: that of a home router with some buffer bloat.
const MAX_QUEUE_DELAY: Duration = Duration::from_millis(200);

/// A link to one server; stopped when dropped. Conditions apply to the first client, or to all but the first;
/// others have a perfect link.
#[derive(Debug)]
pub struct LinkEmulator {
    address: SocketAddr,
    conditions: Arc<Mutex<LinkConditions>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LinkEmulator {
    /// Starts a perfect link to `server`.
    ///
    /// # Errors
    /// There is no free port, or no thread can be started.
    pub fn start(server: SocketAddr) -> Result<Self> {
        Self::start_for(server, |client| client == 0)
    }

    /// Starts a perfect link to `server`. Conditions apply to all clients but the first: to the viewers of a
    /// room to which one cast publishes.
    ///
    /// # Errors
    /// There is no free port, or no thread can be started.
    pub fn start_for_viewers(server: SocketAddr) -> Result<Self> {
        Self::start_for(server, |client| client > 0)
    }

    fn start_for(server: SocketAddr, is_impaired: fn(u64) -> bool) -> Result<Self> {
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
                        () = relay_datagrams(Arc::new(socket), server, shared, is_impaired) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_background();
            })
            .context("cannot start a thread")?;
        Ok(Self { address, conditions, stop: Some(stop), thread: Some(thread) })
    }

    /// Address that clients use instead of the server's.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the conditions from now on.
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
    /// When the last datagram has passed the bandwidth limit.
    busy_until: Instant,
    /// When the last datagram arrives.
    last_arrival: Instant,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
}

impl Direction {
    fn new(
        conditions: &Arc<Mutex<LinkConditions>>,
        impaired: bool,
        seed: u64,
        socket: Arc<UdpSocket>,
        to: SocketAddr,
    ) -> Self {
        let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_QUEUED_DATAGRAMS);
        tokio::task::spawn(async move {
            while let Some((at, data)) = queue.recv().await {
                sleep_until(at.into()).await;
                let _lost = socket.send_to(&data, to).await;
            }
        });
        let now = Instant::now();
        Self {
            conditions: Arc::clone(conditions),
            impaired,
            rng_state: seed,
            busy_until: now,
            last_arrival: now,
            queue: sender,
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
        // Lost if the queue is full.
        let _sent = self.queue.try_send((self.last_arrival, data.to_owned()));
    }

    /// Next pseudo-random number from 0 to 1, the same sequence in each run (xorshift).
    fn next_random(&mut self) -> f64 {
        self.rng_state ^= self.rng_state << 13;
        self.rng_state ^= self.rng_state >> 7;
        self.rng_state ^= self.rng_state << 17;
        (self.rng_state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

async fn relay_datagrams(
    front: Arc<UdpSocket>,
    server: SocketAddr,
    conditions: Arc<Mutex<LinkConditions>>,
    is_impaired: fn(u64) -> bool,
) {
    let mut directions = BTreeMap::<SocketAddr, Direction>::new();
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
        if !directions.contains_key(&client) {
            let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            let (back, number) = (Arc::new(back), directions.len() as u64);
            let impaired = is_impaired(number);
            let direction = |seed, socket: &Arc<UdpSocket>, to| {
                Direction::new(&conditions, impaired, seed, Arc::clone(socket), to)
            };
            directions.insert(client, direction(0x9e37_79b9 + number, &back, server));
            let home = direction(0x7f4a_7c15 + number, &front, client);
            tokio::task::spawn(relay_replies(back, home));
        }
        if let Some(direction) = directions.get_mut(&client) {
            direction.forward(&buffer[..length]);
        }
    }
}

/// Relays datagrams of the server to one client.
async fn relay_replies(back: Arc<UdpSocket>, mut direction: Direction) {
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        if let Ok((length, _)) = back.recv_from(&mut buffer).await {
            direction.forward(&buffer[..length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as Socket;

    /// Sends 200 datagrams of 1000 bytes within two seconds. Returns how many arrive, and the longest delay.
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
                assert!(sent >= last, "datagrams are out of order");
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
