//! Tests that random input does not disturb the sessions of the embedded rooms, nor grow their memory.

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
#[expect(dead_code, reason = "for other tests, too")]
mod peer;

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_room::embedded::{Config, Server};
use peer::{Peer, SessionRequest};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Random numbers, the same in each run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    /// Changes, cuts or doubles a few bytes.
    fn mutate(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes.truncate(at),
                2 => bytes[at] ^= 1 << self.below(8),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes.truncate(60_000);
        bytes
    }
}

/// Valid packets: STUN, DTLS, RTP, RTCP.
fn valid_packets(ufrag: &str) -> Vec<Vec<u8>> {
    let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.extend([7; 12]);
    let name = format!("{ufrag}:them");
    stun.extend([0, 6]);
    stun.extend((name.len() as u16).to_be_bytes());
    stun.extend(name.as_bytes());
    stun.resize(stun.len().next_multiple_of(4), 0);
    stun.extend([0, 0x24, 0, 4, 1, 2, 3, 4, 0, 0x25, 0, 0, 0x80, 0x2a, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    stun.extend([0, 8, 0, 20]);
    stun.extend([9; 20]);
    stun.extend([0x80, 0x28, 0, 4, 1, 2, 3, 4]);
    let length = (stun.len() - 20) as u16;
    stun[2..4].copy_from_slice(&length.to_be_bytes());
    let mut dtls =
        vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60, 1, 0, 0, 48, 0, 0, 0, 0, 0, 0, 0, 48, 254, 253];
    dtls.resize(73, 3);
    let mut rtp = vec![0x90, 0x6c, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0xbe, 0xde, 0, 1, 0x30, 1, 0, 0];
    rtp.resize(1200, 0x55);
    let mut rtcp = vec![0x80, 200, 0, 6];
    rtcp.resize(60, 1);
    vec![stun, dtls, rtp, rtcp]
}

/// Memory of this process, in bytes.
fn resident_bytes() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}

fn ufrag(at: SocketAddr) -> Result<String> {
    let answer = http::post_offer(at, "/rooms/demo/whep", None, &peer::offer(None, false)?.sdp)?;
    let ufrag = answer.body.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).context("no ufrag")?;
    Ok(ufrag.trim().to_owned())
}

/// Sends datagrams to the media port: random ones, and mutated valid ones.
fn send_random_datagrams(to: SocketAddr, ufrag: &str, count: usize) -> Result<()> {
    let (mut rng, valid) = (Rng(1), valid_packets(ufrag));
    let sockets: Vec<UdpSocket> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    for n in 0..count {
        let data = match n % 3 {
            0 => {
                let length = rng.below(2000);
                rng.bytes(length)
            }
            _ => {
                let which = rng.below(valid.len());
                rng.mutate(&valid[which])
            }
        };
        // The socket buffer may be full.
        let _full = sockets[rng.below(sockets.len())].send_to(&data, to);
        if n % 64 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Sends mutated frames over TCP connections and closes them.
fn send_random_frames(to: SocketAddr, ufrag: &str, count: usize) -> Result<()> {
    let (mut rng, valid) = (Rng(2), valid_packets(ufrag));
    for _ in 0..count {
        let mut stream = TcpStream::connect(to)?;
        for _ in 0..rng.below(5) {
            let which = rng.below(valid.len());
            let frame = rng.mutate(&valid[which]);
            let length = if rng.below(4) == 0 { rng.below(65_536) } else { frame.len() };
            let _closed = stream.write_all(&(length as u16).to_be_bytes());
            let _closed = stream.write_all(&frame);
        }
    }
    Ok(())
}

/// Sends mutated offers and requests to the HTTP listener.
fn send_random_requests(at: SocketAddr, count: usize) -> Result<()> {
    let mut rng = Rng(3);
    let offers = [peer::offer(Some(&peer::LAYERS), false)?.sdp, peer::offer(None, false)?.sdp];
    for n in 0..count {
        let which = rng.below(2);
        let offer = &offers[which];
        let mut lines: Vec<&str> = offer.lines().collect();
        match rng.below(3) {
            // Remove or repeat a line.
            0 => drop(lines.remove(rng.below(lines.len()))),
            1 => lines.insert(rng.below(lines.len()), lines[rng.below(lines.len())]),
            _ => {}
        }
        let mut body = (lines.join("\r\n") + "\r\n").into_bytes();
        if rng.below(2) == 0 {
            body = rng.mutate(&body);
        }
        let verb = ["whip", "whep"][which];
        let mut request = format!(
            "POST /rooms/bad{}/{verb} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n",
            n % 4,
            body.len()
        )
        .into_bytes();
        request.extend(body);
        if rng.below(8) == 0 {
            request = rng.mutate(&request);
        }
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let _closed = stream.write_all(&request);
        let _closed = stream.shutdown(std::net::Shutdown::Write);
        let _response = std::io::copy(&mut stream, &mut std::io::sink());
    }
    Ok(())
}

#[test]
fn random_input_does_not_disturb_a_viewer() -> Result<()> {
    let server = Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?;
    let (at, media) = (server.http_addr(), server.media_addr());
    let publisher = Peer::publish(at, &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(at, &SessionRequest::room("demo"))?;
    let count_frames =
        |state: &peer::PeerState| state.video.values().filter(|packet| packet.label.is_some()).count();
    viewer.wait("frames", TIMEOUT, |state| count_frames(state) > 30)?;
    // A first round allocates the memory that is kept.
    send_random_requests(at, 100)?;
    send_random_frames(media, &ufrag(at)?, 20)?;
    // So does the first panic within the library, which is caught: its backtrace loads the test's symbols.
    let _symbols = std::backtrace::Backtrace::force_capture().to_string();
    let before = resident_bytes()?;
    let senders = [
        std::thread::spawn(move || send_random_datagrams(media, &ufrag(at)?, 30_000)),
        std::thread::spawn(move || send_random_frames(media, &ufrag(at)?, 1500)),
        std::thread::spawn(move || send_random_requests(at, 1500)),
    ];
    let begin = Instant::now();
    for sender in senders {
        sender.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    println!("sent within {:?}", begin.elapsed());
    let after = resident_bytes()?;
    let frames_before = count_frames(&viewer.state());
    viewer.wait("more frames", TIMEOUT, |state| count_frames(state) > frames_before + 60)?;
    ensure!(!viewer.state().disconnected && !publisher.state().disconnected, "a session ended");
    let missing = viewer.state().missing().len();
    ensure!(missing < 20, "{missing} packets are missing");
    // The peers keep received packets, some 10 MB.
    println!("{} MB more", after.saturating_sub(before) >> 20);
    ensure!(after.saturating_sub(before) < 200 << 20, "from {before} to {after} bytes");
    // New viewers can still join.
    let another = Peer::watch(at, &SessionRequest::room("demo"))?;
    another.wait("frames", TIMEOUT, |state| count_frames(state) > 30)?;
    viewer.leave()?;
    publisher.leave()
}

#[test]
fn unauthenticated_packets_get_no_answer() -> Result<()> {
    let server = Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?;
    let at = server.http_addr();
    server.expect_publisher("demo", "page");
    let ufrag = ufrag(at)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    for datagram in valid_packets(&ufrag) {
        socket.send_to(&datagram, server.media_addr())?;
    }
    // The user fragment without the password is not enough.
    let answer = socket.recv_from(&mut [0; 2000]);
    ensure!(answer.is_err(), "an unauthenticated packet was answered");
    Ok(())
}
