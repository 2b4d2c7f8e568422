//! The egress proxy over its real socket, with well-behaved and hostile clients.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{NetworkPolicy, NetworkRefusal, NetworkRule};
use pagecast_egress::{Resolve, SystemResolver};
use pagecast_page::egress::{Config, ConnectError, EgressProxy};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long anything may take.
const TIMEOUT: Duration = Duration::from_secs(20);

const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const HOST_UNREACHABLE: u8 = 4;
const CONNECTION_REFUSED: u8 = 5;

/// Loopback addresses, to distinguish the targets of connections.
const LOOPBACK_2: [u8; 4] = [127, 0, 0, 2];
const LOOPBACK_3: [u8; 4] = [127, 0, 0, 3];

/// Returns its answers one after the other, and then the last one for ever.
#[derive(Debug)]
struct ScriptedResolver {
    answers: Mutex<VecDeque<Vec<[u8; 4]>>>,
    queries: AtomicUsize,
}

impl ScriptedResolver {
    fn new(answers: &[&[[u8; 4]]]) -> Arc<Self> {
        let answers = Mutex::new(answers.iter().map(|l| l.to_vec()).collect());
        Arc::new(Self { answers, queries: AtomicUsize::new(0) })
    }
}

impl Resolve for ScriptedResolver {
    fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        self.queries.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().map_err(|_| io::ErrorKind::Other)?;
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Ok(answer.unwrap_or_default().into_iter().map(IpAddr::from).collect())
    }
}

/// Sends back what it received, once the client has sent everything.
struct EchoServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Number of connections made by [`EchoServer::connection_count`].
    own_connections: AtomicUsize,
    _accept: JoinHandle<()>,
}

impl EchoServer {
    fn bind(address: [u8; 4], port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::from(address), port))?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let accept = std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let mut received = Vec::new();
                    stream.read_to_end(&mut received).and_then(|_| stream.write_all(&received)).ok()
                });
            }
        });
        Ok(Self { address, connections, own_connections: AtomicUsize::new(0), _accept: accept })
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    /// Number of connections so far. They are accepted in order, so all of them are counted when one of our
    /// own is answered.
    fn connection_count(&self) -> Result<usize> {
        let mut last = TcpStream::connect(self.address)?;
        last.set_read_timeout(Some(TIMEOUT))?;
        last.write_all(b"last")?;
        last.shutdown(Shutdown::Write)?;
        ensure!(read_to_end(&last)? == b"last");
        let own = self.own_connections.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(self.connections.load(Ordering::SeqCst) - own)
    }
}

fn rules(texts: &[&str]) -> Result<Vec<NetworkRule>> {
    Ok(texts.iter().map(|t| NetworkRule::parse(t)).collect::<Result<_, _>>()?)
}

fn start_proxy(allow: &[&str], deny: &[&str], resolver: Arc<dyn Resolve>) -> Result<EgressProxy> {
    let network = NetworkPolicy { allow: rules(allow)?, deny: rules(deny)?, udp: false };
    Ok(EgressProxy::start(Config { resolver, ..Config::new(network) })?)
}

fn connect(proxy: &EgressProxy) -> Result<TcpStream> {
    let stream = TcpStream::connect(proxy.address())?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn connect_request(host: &str, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, host.len() as u8], host.as_bytes(), &port.to_be_bytes()].concat()
}

/// Requests a tunnel to `host`, and returns the connection and the reply code.
fn request_tunnel(proxy: &EgressProxy, host: &str, port: u16) -> Result<(TcpStream, u8)> {
    let mut stream = connect(proxy)?;
    stream.write_all(&[5, 1, 0])?;
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting)?;
    ensure!(greeting == [5, 0], "{greeting:?}");
    stream.write_all(&connect_request(host, port))?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    ensure!(reply[0] == 5 && reply[2..] == [0, 1, 0, 0, 0, 0, 0, 0], "{reply:?}");
    Ok((stream, reply[1]))
}

fn reply_code(proxy: &EgressProxy, host: &str, port: u16) -> Result<u8> {
    Ok(request_tunnel(proxy, host, port)?.1)
}

/// Reads until the end of the stream.
fn read_to_end(mut stream: &TcpStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).context("the connection does not end")?;
    Ok(all)
}

#[test]
fn permitted_hosts_are_reached_in_both_directions() -> Result<()> {
    let server = EchoServer::bind([127, 0, 0, 1], 0)?;
    let proxy = start_proxy(&["127.0.0.1"], &[], Arc::new(SystemResolver))?;
    for host in ["127.0.0.1", "localhost", "app.localhost", "2130706433", "::ffff:127.0.0.1"] {
        let (mut stream, reply) = request_tunnel(&proxy, host, server.port())?;
        ensure!(reply == SUCCEEDED, "{host}: {reply}");
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        stream.write_all(&sent)?;
        // The server answers once we are done: the other direction stays open.
        stream.shutdown(Shutdown::Write)?;
        ensure!(read_to_end(&stream)? == sent, "{host}: other bytes than were sent");
    }
    ensure!(proxy.denied_targets().is_empty() && proxy.last_error("localhost", server.port()).is_none());
    Ok(())
}

#[test]
fn loopback_is_refused_in_every_spelling() -> Result<()> {
    let server = EchoServer::bind([0, 0, 0, 0], 0)?;
    let proxy = start_proxy(&[], &[], Arc::new(SystemResolver))?;
    let spellings = [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "2130706433",
        "0177.0.0.1",
        "0x7f.1",
        "127.1",
        "127.9.9.9",
        "0.0.0.0",
        "0",
        "::1",
        "[::1]",
        "::",
        "::ffff:127.0.0.1",
        "::7f00:1",
        "64:ff9b::127.0.0.1",
    ];
    for host in spellings {
        let reply = reply_code(&proxy, host, server.port())?;
        ensure!(reply == NOT_ALLOWED, "{host}: {reply}");
    }
    reply_code(&proxy, "127.0.0.1", server.port())?;
    ensure!(server.connection_count()? == 0, "a connection was made");
    let denied = proxy.denied_targets();
    // With and without brackets is the same spelling.
    ensure!(denied.len() == spellings.len() - 1, "{denied:#?}");
    let last = denied.last().context("nothing was denied")?;
    ensure!((last.host.as_str(), last.port, last.attempts) == ("127.0.0.1", server.port(), 2), "{last:?}");
    let decimal = proxy.last_error("2130706433", server.port());
    let wanted = ConnectError::AddressDenied {
        address: Ipv4Addr::LOCALHOST.into(),
        reason: NetworkRefusal::NotPublic,
    };
    ensure!(decimal == Some(wanted), "{decimal:?}");
    Ok(())
}

#[test]
fn a_denied_name_is_not_reached_though_its_address_is_allowed() -> Result<()> {
    let server = EchoServer::bind(LOOPBACK_2, 0)?;
    let proxy = start_proxy(&["127.0.0.0/8"], &["*.evil.test"], ScriptedResolver::new(&[&[LOOPBACK_2]]))?;
    ensure!(reply_code(&proxy, "good.test", server.port())? == SUCCEEDED);
    ensure!(reply_code(&proxy, "very.evil.test", server.port())? == NOT_ALLOWED);
    let why = proxy.last_error("very.evil.test", server.port());
    ensure!(
        why == Some(ConnectError::AddressDenied {
            address: LOOPBACK_2.into(),
            reason: NetworkRefusal::Denied
        }),
        "{why:?}"
    );
    Ok(())
}

/// DNS rebinding: a name with a permitted address when it is checked, and another one afterwards.
#[test]
fn a_name_is_resolved_once() -> Result<()> {
    let here = EchoServer::bind(LOOPBACK_2, 0)?;
    let there = EchoServer::bind(LOOPBACK_3, here.port())?;
    let resolver = ScriptedResolver::new(&[&[LOOPBACK_2], &[LOOPBACK_3]]);
    let proxy = start_proxy(&["127.0.0.2"], &[], Arc::<ScriptedResolver>::clone(&resolver))?;
    ensure!(reply_code(&proxy, "rebind.test", here.port())? == SUCCEEDED);
    ensure!(resolver.queries.load(Ordering::SeqCst) == 1, "it was resolved again");
    ensure!(here.connection_count()? == 1, "it connected elsewhere");
    ensure!(
        reply_code(&proxy, "rebind.test", here.port())? == NOT_ALLOWED,
        "the next connection is checked again"
    );
    ensure!(there.connection_count()? == 0);
    Ok(())
}

#[test]
fn of_several_addresses_only_the_permitted_are_tried() -> Result<()> {
    let here = EchoServer::bind(LOOPBACK_2, 0)?;
    let there = EchoServer::bind(LOOPBACK_3, here.port())?;
    let nobody = [127, 0, 0, 4];
    for (addresses, wanted) in [
        ([LOOPBACK_3, LOOPBACK_2], SUCCEEDED),
        // Permitted, but nobody listens there: the next one is tried.
        ([nobody, LOOPBACK_2], SUCCEEDED),
        ([nobody, LOOPBACK_3], CONNECTION_REFUSED),
        ([LOOPBACK_3, [10, 0, 0, 1]], NOT_ALLOWED),
    ] {
        let proxy = start_proxy(&["127.0.0.2", "127.0.0.4"], &[], ScriptedResolver::new(&[&addresses]))?;
        let reply = reply_code(&proxy, "many.test", here.port())?;
        ensure!(reply == wanted, "{addresses:?}: {reply}");
    }
    ensure!((here.connection_count()?, there.connection_count()?) == (2, 0));
    Ok(())
}

#[test]
fn no_rule_permits_connections_to_the_proxy_itself() -> Result<()> {
    let proxy = start_proxy(&["*"], &[], Arc::new(SystemResolver))?;
    for host in ["127.0.0.1", "127.0.0.2", "localhost", "0.0.0.0", "::1", "::ffff:127.0.0.1", "127.1"] {
        let reply = reply_code(&proxy, host, proxy.address().port())?;
        ensure!(reply == NOT_ALLOWED, "{host}: {reply}");
    }
    Ok(())
}

#[test]
fn replies_tell_failures_apart() -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let proxy = start_proxy(&["127.0.0.0/8"], &[], ScriptedResolver::new(&[&[]]))?;
    ensure!(reply_code(&proxy, "nowhere.test", 80)? == HOST_UNREACHABLE);
    ensure!(proxy.last_error("nowhere.test", 80) == Some(ConnectError::NoSuchHost));
    ensure!(reply_code(&proxy, "127.0.0.1", free)? == CONNECTION_REFUSED);
    ensure!(proxy.last_error("127.0.0.1", free) == Some(ConnectError::ConnectionRefused));
    ensure!(proxy.denied_targets().is_empty(), "nothing was denied");
    Ok(())
}

#[test]
fn early_data_arrives() -> Result<()> {
    let server = EchoServer::bind(LOOPBACK_2, 0)?;
    let proxy = start_proxy(&["127.0.0.2"], &[], Arc::new(SystemResolver))?;
    let mut stream = connect(&proxy)?;
    stream.write_all(&[&[5, 1, 0], &connect_request("127.0.0.2", server.port())[..], b"early"].concat())?;
    stream.shutdown(Shutdown::Write)?;
    let received = read_to_end(&stream)?;
    ensure!(received[..4] == [5, 0, 5, SUCCEEDED] && received.ends_with(b"early"), "{received:?}");
    Ok(())
}

#[test]
fn other_protocols_are_rejected() -> Result<()> {
    let proxy = start_proxy(&["*"], &[], Arc::new(SystemResolver))?;
    for (sent, answer) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], &b""[..]),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b""),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00\x05\x07"),
        (b"\x05\x01\x00\x05\x03\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00\x05\x07"),
        (b"\x05\x01\x00\x05\x01\x00\x09", b"\x05\x00\x05\x08"),
        (b"\x05\x01\x00\x05\x01\x00\x03\x03a\nb\x00\x50", b"\x05\x00\x05\x01"),
        (b"\x05\x01\x00GET / HTTP/1.1", b"\x05\x00"),
    ] {
        let mut stream = connect(&proxy)?;
        stream.write_all(sent)?;
        let mut received = Vec::new();
        // If the proxy has not read everything, the connection may end with a reset.
        let _reset = stream.read_to_end(&mut received);
        ensure!(
            received.starts_with(answer) && received.len() <= 12,
            "{sent:?} was answered with {received:?}"
        );
        ensure!(!answer.is_empty() || received.is_empty(), "{sent:?} was answered with {received:?}");
    }
    ensure!(reply_code(&proxy, "127.0.0.1", 9)? == CONNECTION_REFUSED, "it does not serve others any more");
    Ok(())
}

#[test]
fn silent_clients_are_disconnected() -> Result<()> {
    let proxy = start_proxy(&["*"], &[], Arc::new(SystemResolver))?;
    let begin = Instant::now();
    let mut slow = connect(&proxy)?;
    slow.write_all(&[5, 1])?;
    ensure!(read_to_end(&slow)?.is_empty());
    ensure!((8..15).contains(&begin.elapsed().as_secs()), "after {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn tunnels_are_limited() -> Result<()> {
    // This process has both ends of all connections.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let server = EchoServer::bind(LOOPBACK_2, 0)?;
    let proxy = start_proxy(&["127.0.0.2"], &[], Arc::new(SystemResolver))?;
    let mut open = Vec::new();
    for i in 0..512 {
        let (stream, reply) = request_tunnel(&proxy, "127.0.0.2", server.port())?;
        ensure!(reply == SUCCEEDED, "{i}: {reply}");
        open.push(stream);
    }
    ensure!(reply_code(&proxy, "127.0.0.2", server.port())? == GENERAL_FAILURE);
    // Clients that wait for an error reply are limited, too.
    let silent: Vec<_> = (0..64).map(|_| connect(&proxy)).collect::<Result<_>>()?;
    let further: Vec<_> = (0..24).map(|_| connect(&proxy)).collect::<Result<_>>()?;
    let begin = Instant::now();
    for stream in &further {
        ensure!(
            read_to_end(stream).is_ok_and(|received| received.is_empty()),
            "a client beyond the limit is served"
        );
    }
    ensure!(begin.elapsed() < Duration::from_secs(5), "a client beyond the limit is waited for");
    drop((open, silent));
    let deadline = Instant::now() + TIMEOUT;
    while request_tunnel(&proxy, "127.0.0.2", server.port()).map_or(true, |(_, reply)| reply != SUCCEEDED) {
        ensure!(Instant::now() < deadline, "a closed tunnel does not make room");
    }
    let connections = server.connection_count()?;
    ensure!(connections == 513, "{connections} connections");
    Ok(())
}

#[derive(Debug)]
struct HangingResolver;

impl Resolve for HangingResolver {
    fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        std::thread::sleep(Duration::from_secs(3600));
        Ok(Vec::new())
    }
}

#[test]
fn nothing_is_left_after_a_drop() -> Result<()> {
    let server = EchoServer::bind(LOOPBACK_2, 0)?;
    let proxy = start_proxy(&["127.0.0.2"], &[], Arc::new(HangingResolver))?;
    let (open, reply) = request_tunnel(&proxy, "127.0.0.2", server.port())?;
    ensure!(reply == SUCCEEDED);
    let idle = connect(&proxy)?;
    let mut resolving = connect(&proxy)?;
    resolving.write_all(&[&[5, 1, 0], &connect_request("hangs.test", 80)[..]].concat())?;
    resolving.read_exact(&mut [0; 2])?;
    let address = proxy.address();
    let begin = Instant::now();
    drop(proxy);
    ensure!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
    for stream in [&open, &idle, &resolving] {
        // An end or a reset, but no timeout.
        let mut stream = stream;
        let received = stream.read(&mut [0; 16]);
        ensure!(!matches!(&received, Ok(1..)), "{received:?}");
        ensure!(
            received.map_or_else(|e| e.kind() == io::ErrorKind::ConnectionReset, |_| true),
            "the connection is still open"
        );
    }
    ensure!(TcpStream::connect(address).is_err(), "the proxy still listens");
    Ok(())
}
