//! The guard over its real socket, with clients tame and hostile.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{NetworkPolicy, NetworkRefusal, NetworkRule};
use pagecast_page::egress::{Config, ConnectError, EgressProxy, Resolve, SystemResolver};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long anything may take.
const TIMEOUT: Duration = Duration::from_secs(20);

const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const HOST_UNREACHABLE: u8 = 4;
const CONNECTION_REFUSED: u8 = 5;

/// Addresses that all are this machine, to tell apart what was connected to.
const LOOPBACK_2: [u8; 4] = [127, 0, 0, 2];
const LOOPBACK_3: [u8; 4] = [127, 0, 0, 3];

/// Says its lines one after the other, the last one for ever.
#[derive(Debug)]
struct ScriptedResolver {
    answers: Mutex<VecDeque<Vec<[u8; 4]>>>,
    queries: AtomicUsize,
}

impl ScriptedResolver {
    fn new(lines: &[&[[u8; 4]]]) -> Arc<Self> {
        let lines = Mutex::new(lines.iter().map(|l| l.to_vec()).collect());
        Arc::new(Self { answers: lines, queries: AtomicUsize::new(0) })
    }
}

impl Resolve for ScriptedResolver {
    fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        self.queries.fetch_add(1, Ordering::SeqCst);
        let mut lines = self.answers.lock().map_err(|_| io::ErrorKind::Other)?;
        let line = if lines.len() > 1 { lines.pop_front() } else { lines.front().cloned() };
        Ok(line.unwrap_or_default().into_iter().map(IpAddr::from).collect())
    }
}

/// Sends back what it hears, once it has heard all of it.
struct EchoServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// How many of them were made by [`EchoServer::connection_count`].
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
                    let mut heard = Vec::new();
                    stream.read_to_end(&mut heard).and_then(|_| stream.write_all(&heard)).ok()
                });
            }
        });
        Ok(Self { address, connections, own_connections: AtomicUsize::new(0), _accept: accept })
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many there were so far. Connections are accepted in the order in which they were made, so all of
    /// them have been counted when one of our own is answered.
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

fn connect(guard: &EgressProxy) -> Result<TcpStream> {
    let stream = TcpStream::connect(guard.address())?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn connect_request(host: &str, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, host.len() as u8], host.as_bytes(), &port.to_be_bytes()].concat()
}

/// Asks for a way to `host`: the connection, and the guard's reply.
fn request_tunnel(guard: &EgressProxy, host: &str, port: u16) -> Result<(TcpStream, u8)> {
    let mut stream = connect(guard)?;
    stream.write_all(&[5, 1, 0])?;
    let mut welcome = [0; 2];
    stream.read_exact(&mut welcome)?;
    ensure!(welcome == [5, 0], "{welcome:?}");
    stream.write_all(&connect_request(host, port))?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    ensure!(reply[0] == 5 && reply[2..] == [0, 1, 0, 0, 0, 0, 0, 0], "{reply:?}");
    Ok((stream, reply[1]))
}

fn reply_code(guard: &EgressProxy, host: &str, port: u16) -> Result<u8> {
    Ok(request_tunnel(guard, host, port)?.1)
}

/// Everything that comes until the end.
fn read_to_end(mut stream: &TcpStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).context("the connection does not end")?;
    Ok(all)
}

#[test]
fn what_is_allowed_is_reached_both_ways() -> Result<()> {
    let server = EchoServer::bind([127, 0, 0, 1], 0)?;
    let guard = start_proxy(&["127.0.0.1"], &[], Arc::new(SystemResolver))?;
    for host in ["127.0.0.1", "localhost", "app.localhost", "2130706433", "::ffff:127.0.0.1"] {
        let (mut stream, said) = request_tunnel(&guard, host, server.port())?;
        ensure!(said == SUCCEEDED, "{host}: {said}");
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        stream.write_all(&sent)?;
        // The server answers once we are done: what is half closed is still open the other way.
        stream.shutdown(Shutdown::Write)?;
        ensure!(read_to_end(&stream)? == sent, "{host}: not what was sent");
    }
    ensure!(guard.denied_targets().is_empty() && guard.last_error("localhost", server.port()).is_none());
    Ok(())
}

#[test]
fn loopback_is_refused_in_every_spelling() -> Result<()> {
    let server = EchoServer::bind([0, 0, 0, 0], 0)?;
    let guard = start_proxy(&[], &[], Arc::new(SystemResolver))?;
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
        let said = reply_code(&guard, host, server.port())?;
        ensure!(said == NOT_ALLOWED, "{host}: {said}");
    }
    reply_code(&guard, "127.0.0.1", server.port())?;
    ensure!(server.connection_count()? == 0, "a connection was made all the same");
    let refusals = guard.denied_targets();
    // With and without brackets is the same spelling.
    ensure!(refusals.len() == spellings.len() - 1, "{refusals:#?}");
    let last = refusals.last().context("no refusal")?;
    ensure!((last.host.as_str(), last.port, last.attempts) == ("127.0.0.1", server.port(), 2), "{last:?}");
    let decimal = guard.last_error("2130706433", server.port());
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
    let guard = start_proxy(&["127.0.0.0/8"], &["*.evil.test"], ScriptedResolver::new(&[&[LOOPBACK_2]]))?;
    ensure!(reply_code(&guard, "good.test", server.port())? == SUCCEEDED);
    ensure!(reply_code(&guard, "very.evil.test", server.port())? == NOT_ALLOWED);
    let why = guard.last_error("very.evil.test", server.port());
    ensure!(
        why == Some(ConnectError::AddressDenied {
            address: LOOPBACK_2.into(),
            reason: NetworkRefusal::Denied
        }),
        "{why:?}"
    );
    Ok(())
}

/// The trick: a name that means something harmless when it is checked and something else when it is connected
/// to.
#[test]
fn a_name_cannot_change_its_mind() -> Result<()> {
    let here = EchoServer::bind(LOOPBACK_2, 0)?;
    let there = EchoServer::bind(LOOPBACK_3, here.port())?;
    let script = ScriptedResolver::new(&[&[LOOPBACK_2], &[LOOPBACK_3]]);
    let guard = start_proxy(&["127.0.0.2"], &[], Arc::<ScriptedResolver>::clone(&script))?;
    ensure!(reply_code(&guard, "rebind.test", here.port())? == SUCCEEDED);
    ensure!(script.queries.load(Ordering::SeqCst) == 1, "it was asked for again");
    ensure!(here.connection_count()? == 1, "it went elsewhere");
    ensure!(
        reply_code(&guard, "rebind.test", here.port())? == NOT_ALLOWED,
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
        let guard = start_proxy(&["127.0.0.2", "127.0.0.4"], &[], ScriptedResolver::new(&[&addresses]))?;
        let said = reply_code(&guard, "many.test", here.port())?;
        ensure!(said == wanted, "{addresses:?}: {said}");
    }
    ensure!((here.connection_count()?, there.connection_count()?) == (2, 0));
    Ok(())
}

#[test]
fn no_rule_lets_a_page_talk_to_its_guard() -> Result<()> {
    let guard = start_proxy(&["*"], &[], Arc::new(SystemResolver))?;
    for host in ["127.0.0.1", "127.0.0.2", "localhost", "0.0.0.0", "::1", "::ffff:127.0.0.1", "127.1"] {
        let said = reply_code(&guard, host, guard.address().port())?;
        ensure!(said == NOT_ALLOWED, "{host}: {said}");
    }
    Ok(())
}

#[test]
fn failures_say_what_failed() -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let guard = start_proxy(&["127.0.0.0/8"], &[], ScriptedResolver::new(&[&[]]))?;
    ensure!(reply_code(&guard, "nowhere.test", 80)? == HOST_UNREACHABLE);
    ensure!(guard.last_error("nowhere.test", 80) == Some(ConnectError::NoSuchHost));
    ensure!(reply_code(&guard, "127.0.0.1", free)? == CONNECTION_REFUSED);
    ensure!(guard.last_error("127.0.0.1", free) == Some(ConnectError::ConnectionRefused));
    ensure!(guard.denied_targets().is_empty(), "nothing was refused by us");
    Ok(())
}

#[test]
fn what_is_sent_too_early_arrives() -> Result<()> {
    let server = EchoServer::bind(LOOPBACK_2, 0)?;
    let guard = start_proxy(&["127.0.0.2"], &[], Arc::new(SystemResolver))?;
    let mut stream = connect(&guard)?;
    stream.write_all(&[&[5, 1, 0], &connect_request("127.0.0.2", server.port())[..], b"early"].concat())?;
    stream.shutdown(Shutdown::Write)?;
    let heard = read_to_end(&stream)?;
    ensure!(heard[..4] == [5, 0, 5, SUCCEEDED] && heard.ends_with(b"early"), "{heard:?}");
    Ok(())
}

#[test]
fn who_speaks_something_else_is_hung_up_on() -> Result<()> {
    let guard = start_proxy(&["*"], &[], Arc::new(SystemResolver))?;
    for (said, answer) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], &b""[..]),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b""),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00\x05\x07"),
        (b"\x05\x01\x00\x05\x03\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00\x05\x07"),
        (b"\x05\x01\x00\x05\x01\x00\x09", b"\x05\x00\x05\x08"),
        (b"\x05\x01\x00\x05\x01\x00\x03\x03a\nb\x00\x50", b"\x05\x00\x05\x01"),
        (b"\x05\x01\x00GET / HTTP/1.1", b"\x05\x00"),
    ] {
        let mut stream = connect(&guard)?;
        stream.write_all(said)?;
        let mut heard = Vec::new();
        // With something of ours unread, the end may come as a reset.
        let _reset = stream.read_to_end(&mut heard);
        ensure!(heard.starts_with(answer) && heard.len() <= 12, "{said:?} was answered with {heard:?}");
        ensure!(!answer.is_empty() || heard.is_empty(), "{said:?} was answered with {heard:?}");
    }
    ensure!(reply_code(&guard, "127.0.0.1", 9)? == CONNECTION_REFUSED, "it still serves others");
    Ok(())
}

#[test]
fn who_says_nothing_is_hung_up_on() -> Result<()> {
    let guard = start_proxy(&["*"], &[], Arc::new(SystemResolver))?;
    let begin = Instant::now();
    let mut slow = connect(&guard)?;
    slow.write_all(&[5, 1])?;
    ensure!(read_to_end(&slow)?.is_empty());
    ensure!((8..15).contains(&begin.elapsed().as_secs()), "after {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn tunnels_are_counted() -> Result<()> {
    // Ours and the guard's ends of all of them are in this process.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let server = EchoServer::bind(LOOPBACK_2, 0)?;
    let guard = start_proxy(&["127.0.0.2"], &[], Arc::new(SystemResolver))?;
    let mut open = Vec::new();
    for i in 0..512 {
        let (stream, said) = request_tunnel(&guard, "127.0.0.2", server.port())?;
        ensure!(said == SUCCEEDED, "{i}: {said}");
        open.push(stream);
    }
    ensure!(reply_code(&guard, "127.0.0.2", server.port())? == GENERAL_FAILURE);
    // Who is being turned away is counted too.
    let silent: Vec<_> = (0..64).map(|_| connect(&guard)).collect::<Result<_>>()?;
    let further: Vec<_> = (0..24).map(|_| connect(&guard)).collect::<Result<_>>()?;
    let begin = Instant::now();
    for stream in &further {
        ensure!(read_to_end(stream).is_ok_and(|heard| heard.is_empty()), "one too many is served");
    }
    ensure!(begin.elapsed() < Duration::from_secs(5), "one too many is listened to");
    drop((open, silent));
    let deadline = Instant::now() + TIMEOUT;
    while request_tunnel(&guard, "127.0.0.2", server.port()).map_or(true, |(_, said)| said != SUCCEEDED) {
        ensure!(Instant::now() < deadline, "a place that is given up is not given to others");
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
    let guard = start_proxy(&["127.0.0.2"], &[], Arc::new(HangingResolver))?;
    let (open, said) = request_tunnel(&guard, "127.0.0.2", server.port())?;
    ensure!(said == SUCCEEDED);
    let idle = connect(&guard)?;
    let mut resolving = connect(&guard)?;
    resolving.write_all(&[&[5, 1, 0], &connect_request("hangs.test", 80)[..]].concat())?;
    resolving.read_exact(&mut [0; 2])?;
    let address = guard.address();
    let begin = Instant::now();
    drop(guard);
    ensure!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
    for stream in [&open, &idle, &resolving] {
        // An end or a reset, but no waiting.
        let mut stream = stream;
        let heard = stream.read(&mut [0; 16]);
        ensure!(!matches!(&heard, Ok(1..)), "{heard:?}");
        ensure!(heard.map_or_else(|e| e.kind() == io::ErrorKind::ConnectionReset, |_| true), "still open");
    }
    ensure!(TcpStream::connect(address).is_err(), "it still listens");
    Ok(())
}
