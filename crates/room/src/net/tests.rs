//! Tests against a real TURN server, coturn.

use std::time::{Duration, Instant};

use pagecast_core::spec::{IceServer, Secret};
use pagecast_testkit::coturn::{Coturn, PASSWORD, USER};
use tokio::time::timeout;

use super::ice_server::Server;
use super::relay::{Error as RelayError, Relay};
use super::stream::TlsConfig;
use super::stun::{Builder, Class, Message, attribute, method};
use super::turn::Error as TurnError;
use super::*;

/// Longest duration of any step, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

fn server(url: String) -> IceServer {
    IceServer { url, username: USER.into(), credential: Secret::new(PASSWORD) }
}

async fn open(server: &IceServer, tls: Option<&TlsConfig>) -> Result<Relay, RelayError> {
    let server = Server::parse(server)?;
    timeout(TIMEOUT, Relay::open(&server, tls)).await.unwrap()
}

/// Starts a peer that echoes each datagram with `echo ` before it.
async fn echo_peer() -> (SocketAddr, JoinSet<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 3000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let reply = [b"echo ", &buffer[..length]].concat();
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    (address, tasks)
}

/// A relay whose task runs.
struct RunningRelay {
    relayed: SocketAddr,
    outgoing: mpsc::Sender<PeerDatagram>,
    incoming: mpsc::Receiver<ReceivedDatagram>,
    tasks: JoinSet<()>,
}

fn run_relay(relay: Relay) -> RunningRelay {
    let (outgoing, queued) = mpsc::channel(64);
    let (sender, incoming) = mpsc::channel(64);
    let relayed = relay.relayed_address();
    let mut tasks = JoinSet::new();
    tasks.spawn(relay.run(queued, sender));
    RunningRelay { relayed, outgoing, incoming, tasks }
}

impl RunningRelay {
    /// Sends until the echo arrives, because datagrams may get lost.
    async fn round_trip(&mut self, peer: SocketAddr, data: &[u8]) {
        let expected = [b"echo ", data].concat();
        let began = Instant::now();
        while began.elapsed() < TIMEOUT {
            self.outgoing.send((peer, data.to_vec())).await.unwrap();
            while let Ok(received) = timeout(Duration::from_secs(1), self.incoming.recv()).await {
                let received = received.expect("the relay runs");
                assert_eq!((received.from, received.to), (peer, self.relayed));
                if received.data == expected {
                    return;
                }
            }
        }
        panic!("no echo arrived");
    }
}

/// Counts the occurrences of a text in a server's log.
fn count_in_log(coturn: &Coturn, text: &str) -> usize {
    coturn.log().matches(text).count()
}

async fn wait_for_log(coturn: &Coturn, text: &str, times: usize) {
    let began = Instant::now();
    while count_in_log(coturn, text) < times {
        assert!(began.elapsed() < TIMEOUT, "no {text} in {}", coturn.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn data_is_relayed_over_udp_tcp_and_tls() {
    let coturn = Coturn::start(&[]).unwrap();
    let (peer, _echo) = echo_peer().await;
    let tls = TlsConfig::from_file(&coturn.certificate()).unwrap();
    for (at, url) in [coturn.url("udp"), coturn.url("tcp"), coturn.tls_url()].into_iter().enumerate() {
        let relay = open(&server(url.clone()), Some(&tls)).await.unwrap();
        assert!(
            relay.relayed_address().ip().is_loopback() && relay.relayed_address() != relay.local_address(),
            "{url}"
        );
        let mut running = run_relay(relay);
        // The first is sent in an indication, later ones over a channel, with all lengths modulo four.
        for length in [0, 1, 2, 3, 4, 1200] {
            running.round_trip(peer, &vec![7; length]).await;
        }
        assert_eq!(count_in_log(&coturn, "CHANNEL_BIND processed, success"), at + 1, "{url}");
        drop(running);
        wait_for_log(&coturn, "closed", at + 1).await;
    }
}

#[tokio::test]
async fn many_packets_keep_their_content_on_a_stream() {
    let coturn = Coturn::start(&[]).unwrap();
    let (peer, _echo) = echo_peer().await;
    let mut running = run_relay(open(&server(coturn.url("tcp")), None).await.unwrap());
    running.round_trip(peer, b"first").await;
    for round in 0..50_u8 {
        for at in 0..20_u8 {
            let data = vec![at ^ round; 1 + 50 * usize::from(at)];
            running.outgoing.send((peer, data)).await.unwrap();
        }
        for _ in 0..20 {
            // UDP may lose some, on a busy machine.
            let Ok(received) = timeout(Duration::from_secs(1), running.incoming.recv()).await else { break };
            let data = received.unwrap().data;
            assert!(data.starts_with(b"echo ") && data[5..].iter().all(|byte| *byte == data[5]), "{data:?}");
        }
    }
    running.round_trip(peer, b"last").await;
}

#[tokio::test]
async fn failures_name_the_cause() {
    let coturn = Coturn::start(&[]).unwrap();
    let wrong = IceServer { credential: Secret::new("hunter2"), ..server(coturn.url("udp")) };
    for url in [coturn.url("udp"), coturn.url("tcp")] {
        let error = open(&IceServer { url, ..wrong.clone() }, None).await.unwrap_err();
        assert_eq!(error.to_string(), "the TURN server rejects the user or the password");
    }
    let untrusted =
        open(&server(coturn.tls_url()), Some(&TlsConfig::from_system().unwrap())).await.unwrap_err();
    assert!(untrusted.to_string().contains("certificate"), "{untrusted}");
}

#[tokio::test]
async fn a_server_that_ends_is_noticed_and_found_again() {
    let mut coturn = Coturn::start(&[]).unwrap();
    let (peer, _echo) = echo_peer().await;
    let mut running = run_relay(open(&server(coturn.url("tcp")), None).await.unwrap());
    running.round_trip(peer, b"before").await;
    coturn.kill();
    timeout(TIMEOUT, running.tasks.join_next()).await.unwrap();
    assert!(running.outgoing.is_closed());
    for transport in ["udp", "tcp"] {
        let refused = open(&server(coturn.url(transport)), None).await.unwrap_err();
        assert!(refused.to_string().contains("refused"), "{transport}: {refused}");
    }
    coturn.restart().unwrap();
    for transport in ["udp", "tcp"] {
        let mut running = run_relay(open(&server(coturn.url(transport)), None).await.unwrap());
        running.round_trip(peer, b"after").await;
    }
}

#[tokio::test]
async fn short_lifetimes_of_nonces_and_allocations_do_no_harm() {
    let coturn = Coturn::start(&["--stale-nonce=1", "--max-allocate-lifetime=2"]).unwrap();
    let (peer, _echo) = echo_peer().await;
    let mut running = run_relay(open(&server(coturn.url("udp")), None).await.unwrap());
    running.round_trip(peer, b"first").await;
    wait_for_log(&coturn, "REFRESH processed, success", 4).await;
    assert!(count_in_log(&coturn, "Stale nonce") > 0, "{}", coturn.log());
    running.round_trip(peer, b"last").await;
    assert_eq!(count_in_log(&coturn, "ALLOCATE processed, success"), 1, "there is only one allocation");
}

#[tokio::test]
async fn an_alternate_server_is_used() {
    let second = Coturn::start(&[]).unwrap();
    let first = Coturn::start(&[&format!("--alternate-server={}", second.address())]).unwrap();
    let (peer, _echo) = echo_peer().await;
    let mut running = run_relay(open(&server(first.url("udp")), None).await.unwrap());
    running.round_trip(peer, b"data").await;
    assert_eq!(count_in_log(&second, "ALLOCATE processed, success"), 1);
    // Redirects in a circle end.
    let port = second.address().port();
    drop(second);
    let alternate = format!("--alternate-server={}", first.address());
    let circular = Coturn::start(&[&alternate, &format!("--alternate-server=127.0.0.1:{port}")]).unwrap();
    let error = open(&server(circular.url("udp")), None).await.unwrap_err();
    assert!(!matches!(error, RelayError::Turn(TurnError::Timeout)), "{error}");
}

#[tokio::test]
async fn candidates_of_working_servers_are_used() {
    let coturn = Coturn::start(&[]).unwrap();
    // A silent server, one with invalid responses, one that is not there, and invalid URLs.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("turn:{}", silent.local_addr().unwrap());
    let (invalid, _echo) = echo_peer().await;
    let ice = |relay_only| Ice {
        servers: vec![
            server(silent.clone()),
            server(format!("turn:{invalid}")),
            server("turn:127.0.0.1:1?transport=tcp".into()),
            server("turns:nobody.invalid".into()),
            server("turns:nobody.invalid?transport=udp".into()),
            server(coturn.stun_url()),
            server(coturn.url("udp")),
        ],
        relay_only,
    };
    let began = Instant::now();
    let mut net = IceSockets::open(&ice(false), true).await.unwrap();
    let took = began.elapsed();
    assert!(took < TIMEOUT / 3, "{took:?}");
    let lines =
        |net: &IceSockets| -> Vec<_> { net.candidates().iter().map(Candidate::to_sdp_string).collect() };
    let all = lines(&net);
    assert_eq!(all.iter().filter(|line| line.contains("typ relay")).count(), 1, "{all:?}");
    assert!(
        all.iter()
            .any(|line| line.contains(" udp ") && line.contains("127.0.0.1") && line.contains("typ host"))
    );
    assert!(all.iter().any(|line| line.contains(" tcp ") && line.contains("tcptype active")), "{all:?}");

    let (peer, _echo) = echo_peer().await;
    let relayed = net.relays[0].0;
    let host =
        net.udp.iter().map(|(address, _)| *address).find(|a| a.is_ipv4() && a.ip().is_loopback()).unwrap();
    for from in [relayed, host] {
        let received = timeout(TIMEOUT, async {
            loop {
                net.send(Protocol::Udp, from, peer, b"data");
                if let Ok(received) = timeout(Duration::from_secs(1), net.receive()).await {
                    return received;
                }
            }
        });
        let received = received.await.unwrap();
        assert_eq!((received.from, received.to, received.data.as_slice()), (peer, from, &b"echo data"[..]));
    }

    let relayed_only = IceSockets::open(&ice(true), true).await.unwrap();
    let all = lines(&relayed_only);
    assert!(all.len() == 1 && all[0].contains("typ relay"), "{all:?}");
}

#[tokio::test]
async fn without_any_address_the_error_names_the_cause() {
    let coturn = Coturn::start(&[]).unwrap();
    let wrong = IceServer { credential: Secret::new("hunter2"), ..server(coturn.url("udp")) };
    let error = IceSockets::open(&Ice { servers: vec![wrong], relay_only: true }, true)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("rejects the user or the password") && error.contains("turn:127.0.0.1"),
        "{error}"
    );
    assert!(!error.contains("hunter2"));
}

#[tokio::test]
async fn servers_can_be_added_later_without_loss() {
    let coturn = Coturn::start(&[]).unwrap();
    let mut net = IceSockets::open(&Ice::default(), true).await.unwrap();
    let before = net.candidates().len();
    let to =
        net.udp.iter().map(|(address, _)| *address).find(|a| a.is_ipv4() && a.ip().is_loopback()).unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    other.send_to(b"early", to).await.unwrap();
    let ice = Ice { servers: vec![server(coturn.url("udp")), server(coturn.url("tcp"))], relay_only: false };
    let new = net.add_ice_servers(&ice).await;
    assert_eq!((new.len(), net.candidates().len()), (2, before + 2), "{new:?}");
    let received = timeout(TIMEOUT, net.receive()).await.unwrap();
    assert_eq!((received.to, received.data.as_slice()), (to, &b"early"[..]));
}

#[tokio::test]
async fn sending_opens_a_tcp_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let mut net = IceSockets::open(&Ice::default(), true).await.unwrap();
    let active =
        |c: &&Candidate| c.proto() == Protocol::Tcp && c.addr().ip().is_loopback() && c.addr().is_ipv4();
    let from = net.candidates().iter().find(active).unwrap().addr();
    for again in 0..2 {
        let mut server = None;
        while server.is_none() {
            net.send(Protocol::Tcp, from, to, b"hello");
            server = timeout(Duration::from_secs(1), listener.accept()).await.ok();
        }
        let (mut server, _) = server.unwrap().unwrap();
        let mut received = [0; 7];
        tokio::io::AsyncReadExt::read_exact(&mut server, &mut received).await.unwrap();
        assert_eq!(&received, b"\0\x05hello", "connection {again}");
        tokio::io::AsyncWriteExt::write_all(&mut server, b"\0\x02yo").await.unwrap();
        let received = timeout(TIMEOUT, net.receive()).await.unwrap();
        assert_eq!((received.protocol, received.from, received.to), (Protocol::Tcp, to, from));
        assert_eq!(received.data, b"yo");
    }
}

/// A STUN server that answers with this mapped address, after some invalid responses.
async fn fake_stun_server(mapped: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    let (socket, stranger) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 3000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let id = Message::parse(&buffer[..length]).unwrap().transaction_id();
            let response = |class, id, mapped| {
                let built = Builder::new(class, method::BINDING, id);
                built.with_xor_address(attribute::XOR_MAPPED_ADDRESS, mapped).finish()
            };
            let wrong = SocketAddr::new([203, 0, 113, 66].into(), 6);
            stranger.send_to(&response(Class::Success, id, wrong), from).await.unwrap();
            for invalid in [
                response(Class::Success, [0; 12], wrong),
                response(Class::Error, id, wrong),
                response(Class::Request, id, wrong),
                Builder::new(Class::Success, method::BINDING, id).finish(),
                vec![0xFF; 2000],
                vec![1],
            ] {
                socket.send_to(&invalid, from).await.unwrap();
            }
            socket.send_to(&response(Class::Success, id, mapped), from).await.unwrap();
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn the_mapped_address_becomes_a_candidate() {
    let mapped = "203.0.113.5:4444".parse().unwrap();
    let (stun, _server) = fake_stun_server(mapped).await;
    let ice = Ice { servers: vec![server(format!("stun:{stun}"))], relay_only: false };
    let net = IceSockets::open(&ice, true).await.unwrap();
    let reflexive: Vec<_> =
        net.candidates().iter().map(Candidate::to_sdp_string).filter(|line| line.contains("srflx")).collect();
    assert!(reflexive.len() == 1 && reflexive[0].contains("203.0.113.5 4444"), "{reflexive:?}");
}

#[tokio::test]
async fn servers_with_another_protocol_fail() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("turn:{}?transport=tcp", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut at = 0;
        // Another protocol, an incomplete message, silence, a close at once.
        while let Ok((mut client, _)) = listener.accept().await {
            let bytes: &[u8] = [&b"SSH-2.0-x\r\n"[..], &[0, 1, 0xFF, 0xFF], &[], &[]][at % 4];
            tokio::io::AsyncWriteExt::write_all(&mut client, bytes).await.unwrap();
            if at % 4 != 3 {
                // Until the client closes.
                let _closed = tokio::io::AsyncReadExt::read_to_end(&mut client, &mut Vec::new()).await;
            }
            at += 1;
        }
    });
    for _ in 0..4 {
        let ice = Ice { servers: vec![server(url.clone())], relay_only: true };
        let began = Instant::now();
        let error = IceSockets::open(&ice, true).await.unwrap_err();
        assert!(matches!(error, Error::NoRelay { .. }) && began.elapsed() < TIMEOUT, "{error}");
    }
}
