//! Emulates a bad network link in real time: a UDP relay around a [`Link`] for each direction.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use crate::link::{Input, Link, LinkConditions};

/// Longest datagram, in bytes: more than an MTU of 1500.
const MAX_DATAGRAM_LEN: usize = 2048;
/// Received datagrams of one client that wait for its links; more are lost.
const MAX_QUEUED_DATAGRAMS: usize = 1000;

/// A link to one server; stopped when dropped. Conditions apply to both directions of the first client, or of
/// all but the first; others have a perfect link.
#[derive(Debug)]
pub struct LinkEmulator {
    address: SocketAddr,
    conditions: watch::Sender<LinkConditions>,
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
        let (conditions, current) = watch::channel(LinkConditions::default());
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("link".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = relay_datagrams(Arc::new(socket), server, current, is_impaired) => {}
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
        self.conditions.send_replace(conditions);
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

async fn relay_datagrams(
    front: Arc<UdpSocket>,
    server: SocketAddr,
    conditions: watch::Receiver<LinkConditions>,
    is_impaired: fn(u64) -> bool,
) {
    let mut clients = BTreeMap::<SocketAddr, mpsc::Sender<Vec<u8>>>::new();
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
        if !clients.contains_key(&client) {
            let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            let (sender, received) = mpsc::channel(MAX_QUEUED_DATAGRAMS);
            let number = clients.len() as u64;
            let links = ClientLinks {
                conditions: is_impaired(number).then(|| conditions.clone()),
                uplink: Link::new(LinkConditions::default(), 0x9e37_79b9 + number),
                downlink: Link::new(LinkConditions::default(), 0x7f4a_7c15 + number),
            };
            tokio::task::spawn(links.run(received, (Arc::clone(&front), client), (back, server)));
            clients.insert(client, sender);
        }
        if let Some(sender) = clients.get(&client) {
            let _full = sender.try_send(buffer[..length].to_vec());
        }
    }
}

/// Both directions of one client.
struct ClientLinks {
    /// `None` for a perfect link.
    conditions: Option<watch::Receiver<LinkConditions>>,
    uplink: Link<Vec<u8>>,
    downlink: Link<Vec<u8>>,
}

impl ClientLinks {
    /// Relays datagrams until the client is dropped. `front` reaches the client, and `back` the server.
    async fn run(
        mut self,
        mut received: mpsc::Receiver<Vec<u8>>,
        front: (Arc<UdpSocket>, SocketAddr),
        back: (UdpSocket, SocketAddr),
    ) {
        let mut buffer = vec![0; MAX_DATAGRAM_LEN];
        loop {
            let deadline = [self.uplink.deadline(), self.downlink.deadline()].into_iter().flatten().min();
            let timer = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let datagram = tokio::select! {
                received = received.recv() => match received {
                    Some(datagram) => Some((&mut self.uplink, datagram)),
                    None => return,
                },
                // An error is that of an earlier datagram: the server is not there.
                received = back.0.recv_from(&mut buffer) => {
                    received.ok().map(|(length, _)| (&mut self.downlink, buffer[..length].to_vec()))
                }
                () = timer => None,
            };
            let now = Instant::now();
            if let Some((link, datagram)) = datagram {
                if let Some(conditions) = &self.conditions {
                    link.handle(now, Input::Conditions(*conditions.borrow()));
                }
                let length = datagram.len();
                link.handle(now, Input::Datagram { datagram, length });
            }
            // What a socket does not take is lost.
            while let Some(datagram) = self.uplink.poll(now) {
                let _lost = back.0.send_to(&datagram, back.1).await;
            }
            while let Some(datagram) = self.downlink.poll(now) {
                let _lost = front.0.send_to(&datagram, front.1).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as Socket;
    use std::time::Duration;

    /// Sends datagrams to an echo server and back, over a link with these conditions, and returns the time
    /// until the last one arrived.
    fn time_round_trips(conditions: LinkConditions, count: u8) -> Result<Duration> {
        let server = Socket::bind("127.0.0.1:0")?;
        let link = LinkEmulator::start(server.local_addr()?)?;
        link.set_conditions(conditions);
        let client = Socket::bind("127.0.0.1:0")?;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        client.connect(link.address())?;
        let echo = std::thread::spawn(move || -> Result<()> {
            let mut buffer = [0; 2000];
            for _ in 0..count {
                let (length, from) = server.recv_from(&mut buffer)?;
                server.send_to(&buffer[..length], from)?;
            }
            Ok(())
        });
        let began = Instant::now();
        for number in 0..count {
            client.send(&[number; 1000])?;
        }
        for number in 0..count {
            let mut buffer = [0; 2000];
            let length = client.recv(&mut buffer)?;
            assert_eq!(buffer[..length], [number; 1000]);
        }
        echo.join().unwrap()?;
        Ok(began.elapsed())
    }

    #[test]
    fn datagrams_pass_in_both_directions_under_the_conditions_of_the_link() -> Result<()> {
        time_round_trips(LinkConditions::default(), 20)?;
        let slow = LinkConditions { delay: Duration::from_millis(30), ..LinkConditions::default() };
        assert!(time_round_trips(slow, 20)? >= Duration::from_millis(60));
        // Each of four datagrams takes 20 ms.
        let narrow = LinkConditions { bits_per_second: Some(400_000), ..LinkConditions::default() };
        assert!(time_round_trips(narrow, 4)? >= Duration::from_millis(80));
        Ok(())
    }
}
