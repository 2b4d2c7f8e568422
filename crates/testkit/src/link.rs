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
const MAX_DATAGRAM: usize = 2048;
/// Datagrams on their way, in one direction of one client; further ones are lost.
const ON_THE_WAY: usize = 10_000;

/// What a line does to datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Conditions {
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
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// A line to one server; gone when dropped. Conditions are those of the first client; all others have a perfect line.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    conditions: Arc<Mutex<Conditions>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// A perfect line to `server`.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = runtime.block_on(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = socket.local_addr()?;
        let conditions = Arc::<Mutex<Conditions>>::default();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&conditions);
        let thread = std::thread::Builder::new()
            .name("link".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = relay(Arc::new(socket), server, shared) => {}
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
    pub fn set(&self, conditions: Conditions) {
        *lock(&self.conditions) = conditions;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn lock(conditions: &Mutex<Conditions>) -> MutexGuard<'_, Conditions> {
    conditions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One direction of one client.
struct Lane {
    conditions: Arc<Mutex<Conditions>>,
    bad: bool,
    seed: u64,
    /// When the last datagram has passed the narrow place, and when it arrives.
    free_at: Instant,
    last: Instant,
    out: mpsc::Sender<(Instant, Vec<u8>)>,
}

impl Lane {
    fn new(
        conditions: &Arc<Mutex<Conditions>>,
        bad: bool,
        seed: u64,
        socket: Arc<UdpSocket>,
        to: SocketAddr,
    ) -> Self {
        let (out, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
        tokio::task::spawn(async move {
            while let Some((at, data)) = queue.recv().await {
                sleep_until(at.into()).await;
                let _lost = socket.send_to(&data, to).await;
            }
        });
        let now = Instant::now();
        Self { conditions: Arc::clone(conditions), bad, seed, free_at: now, last: now, out }
    }

    fn take(&mut self, data: &[u8]) {
        let conditions = if self.bad { *lock(&self.conditions) } else { Conditions::default() };
        let now = Instant::now();
        if self.draw() < conditions.loss {
            return;
        }
        self.free_at = self.free_at.max(now);
        if let Some(bits) = conditions.bits_per_second {
            let takes = Duration::from_secs_f64(data.len() as f64 * 8.0 / bits as f64);
            if self.free_at + takes > now + LONGEST_WAIT {
                return;
            }
            self.free_at += takes;
        }
        let jitter = conditions.jitter.mul_f64(self.draw());
        self.last = self.last.max(self.free_at + conditions.delay + jitter);
        // Full: lost.
        let _sent = self.out.try_send((self.last, data.to_owned()));
    }

    /// The next of a sequence of numbers from 0 to 1 that has no pattern, but is the same each time (xorshift).
    fn draw(&mut self) -> f64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

async fn relay(front: Arc<UdpSocket>, server: SocketAddr, conditions: Arc<Mutex<Conditions>>) {
    let mut lanes = BTreeMap::<SocketAddr, Lane>::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
        if !lanes.contains_key(&client) {
            let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            let (back, number) = (Arc::new(back), lanes.len() as u64);
            let bad = number == 0;
            let lane =
                |seed, socket: &Arc<UdpSocket>, to| Lane::new(&conditions, bad, seed, Arc::clone(socket), to);
            lanes.insert(client, lane(0x9e37_79b9 + number, &back, server));
            let home = lane(0x7f4a_7c15 + number, &front, client);
            tokio::task::spawn(answers(back, home));
        }
        if let Some(lane) = lanes.get_mut(&client) {
            lane.take(&buffer[..length]);
        }
    }
}

/// What the server sends to one client.
async fn answers(back: Arc<UdpSocket>, mut lane: Lane) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        if let Ok((length, _)) = back.recv_from(&mut buffer).await {
            lane.take(&buffer[..length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as Socket;

    /// Datagrams of 1000 bytes that arrive of 200, sent within two seconds, and how long the slowest took.
    fn through(conditions: Conditions) -> Result<(usize, Duration)> {
        let server = Socket::bind("127.0.0.1:0")?;
        server.set_read_timeout(Some(Duration::from_millis(800)))?;
        let link = Link::start(server.local_addr()?)?;
        link.set(conditions);
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
                slowest = slowest.max(Duration::from_nanos((nanos() - sent) as u64));
                count += 1;
            }
            (count, slowest)
        });
        for _ in 0..200 {
            let mut data = [0; 1000];
            data[..16].copy_from_slice(&nanos().to_be_bytes());
            client.send(&data)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(receiver.join().unwrap())
    }

    fn nanos() -> u128 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
    }

    #[test]
    fn a_perfect_line_loses_nothing() -> Result<()> {
        assert_eq!(through(Conditions::default())?.0, 200);
        Ok(())
    }

    #[test]
    fn a_bad_line_loses_and_delays() -> Result<()> {
        let jitter = Duration::from_millis(50);
        let (count, slowest) = through(Conditions { loss: 0.2, jitter, ..Conditions::default() })?;
        assert!((130..190).contains(&count), "{count}");
        assert!(slowest > Duration::from_millis(30), "{slowest:?}");
        Ok(())
    }

    #[test]
    fn a_narrow_line_holds_up() -> Result<()> {
        let (count, slowest) =
            through(Conditions { bits_per_second: Some(200_000), ..Conditions::default() })?;
        assert!((30..110).contains(&count) && slowest > Duration::from_millis(100), "{count} {slowest:?}");
        Ok(())
    }
}
