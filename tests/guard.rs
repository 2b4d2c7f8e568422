//! What a page in a real browser can reach, and what a person is told about it.

#[path = "guard/websocket.rs"]
mod websocket;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::{Outcome, Pagecast, Reply, Server, Signal, Turn};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(60);
const BAD_VALUE: i32 = 2;
const PAGE: i32 = 3;
/// Ways in which `reach.html` says how it fared.
const WAYS: usize = 16;

fn record(url: &str) -> Pagecast {
    Pagecast::record(PAGECAST, url).guarded().with("duration", "3s")
}

/// A server on loopback that a page has no business with, and how often it was connected to.
struct Other {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Other {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    let heard = stream.read(&mut [0; 4096]);
                    heard.and_then(|_| stream.write_all(answer.as_bytes())).ok()
                });
            }
        });
        Ok(Self { port, connections })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn port_of(server: &Server) -> Result<u16> {
    let url = server.url("");
    let port = url.trim_end_matches('/').rsplit(':').next().context("no port")?;
    Ok(port.parse()?)
}

/// Runs into the guard: exit code, words, no file.
fn check(run: Pagecast, words: &[&str]) -> Result<Outcome> {
    let outcome = run.finish(LIMIT)?;
    outcome.expect_failure(PAGE, words)?;
    outcome.nothing_recorded()?;
    Ok(outcome)
}

#[test]
fn a_page_on_loopback_is_refused_however_it_is_written() -> Result<()> {
    let _turn = Turn::shared()?;
    let other = Other::start()?;
    let port = other.port;
    for (host, address, rule) in [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1", "localhost"),
        ("2130706433", "127.0.0.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0", "0.0.0.0"),
        ("[::1]", "::1", "[::1]"),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1", "[::ffff:127.0.0.1]"),
    ] {
        let why = format!("{address} is not a public address");
        let advice = format!("--allow-net {rule}:{port} ");
        check(record(&format!("http://{host}:{port}/")), &[&why, &advice])?;
    }
    ensure!(other.connections() == 0, "{} connections were made", other.connections());
    Ok(())
}

#[test]
fn the_advice_helps() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let port = port_of(&server)?;
    for (host, rule) in [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")] {
        let run = record(&format!("http://{host}:{port}/still.html"));
        run.with("allow-net", format!("{rule}:{port}")).finish(LIMIT)?.recording()?;
    }
    Ok(())
}

#[test]
fn what_is_denied_is_said_to_be() -> Result<()> {
    let _turn = Turn::shared()?;
    let other = Other::start()?;
    let run = record(&format!("http://127.0.0.1:{}/", other.port)).with("allow-net", "127.0.0.0/8");
    check(run.with("deny-net", format!("*:{}", other.port)), &["a rule of this cast denies it"])?;
    ensure!(other.connections() == 0);
    Ok(())
}

#[test]
fn a_page_that_makes_a_call_without_udp_is_warned_of() -> Result<()> {
    let _turn = Turn::shared()?;
    let looks = "<script>window.RTCPeerConnection && RTCPeerConnection.prototype.createOffer</script>A page";
    let calls = "<script>const call = new RTCPeerConnection(); call.createDataChannel('a');
        call.createOffer().then((offer) => call.setLocalDescription(offer))
            .then(() => call.setLocalDescription())</script>A page";
    let html = |text: &str| Reply::Html(200, text.to_owned());
    let server = Server::start()?.route("/looks", html(looks)).route("/calls", html(calls));
    for (page, udp, warnings) in
        [("/looks", false, &[][..]), ("/calls", true, &[]), ("/calls", false, &["webrtc-without-udp"])]
    {
        let mut run = Pagecast::record(PAGECAST, &server.url(page)).with("duration", "2s");
        if udp {
            run = run.flag("allow-udp");
        }
        let outcome = run.finish(LIMIT)?;
        let report = outcome.report()?;
        ensure!(report.warnings == warnings, "{page}: {:?}", report.warnings);
        let said = outcome.stderr.matches("--allow-udp").count();
        ensure!(said == warnings.len(), "{page}: {}", outcome.stderr);
    }
    Ok(())
}

#[test]
fn a_redirect_leads_nowhere_else() -> Result<()> {
    let _turn = Turn::shared()?;
    let other = Other::start()?;
    let away = format!("http://127.0.0.1:{}/", other.port);
    let server = Server::start()?.route("/away", Reply::Redirect(away));
    let run = record(&server.url("away")).with("allow-net", format!("127.0.0.1:{}", port_of(&server)?));
    let advice = format!("--allow-net 127.0.0.1:{} ", other.port);
    check(run, &[&server.url("away"), "127.0.0.1 is not a public address", &advice])?;
    ensure!(other.connections() == 0, "the browser was let through");
    Ok(())
}

#[test]
fn rules_that_are_none() -> Result<()> {
    for name in ["allow-net", "deny-net"] {
        let outcome = record("http://127.0.0.1:9/").with(name, "http://a/").finish(LIMIT)?;
        outcome.expect_failure(BAD_VALUE, &[name, "network rule"])?;
    }
    Ok(())
}

/// Opens a page that tries everything; what came through, and what the other server and the UDP socket saw.
fn reach(other_allowed: bool) -> Result<(String, usize, bool, Outcome)> {
    let other = Other::start()?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    udp.set_nonblocking(true)?;
    let page = include_str!("guard/reach.html")
        .replace("OTHER", &other.port.to_string())
        .replace("UDP", &udp.local_addr()?.port().to_string());
    let away = format!("http://127.0.0.1:{}/redirected", other.port);
    let server =
        Server::start()?.route("/reach", Reply::Html(200, page)).route("/away", Reply::Redirect(away));
    let mut run = Pagecast::record(PAGECAST, &server.url("reach")).guarded();
    run = run.with("allow-net", format!("127.0.0.1:{}", port_of(&server)?));
    if other_allowed {
        run = run.with("allow-net", "127.0.0.0/8").flag("allow-udp");
    }
    let run = run.start()?;
    let said = format!("/said/{WAYS}?");
    let deadline = Instant::now() + LIMIT;
    let through = loop {
        if let Some(through) = server.requests().iter().find_map(|r| r.strip_prefix(&said)) {
            break through.to_owned();
        }
        ensure!(Instant::now() < deadline, "the page says nothing: {:?}", server.requests());
        std::thread::sleep(Duration::from_millis(20));
    };
    run.signal(Signal::INT)?;
    let outcome = run.finish(LIMIT)?;
    Ok((through, other.connections(), udp.recv(&mut [0; 2048]).is_ok(), outcome))
}

#[test]
fn a_page_reaches_nothing_else_and_goes_on() -> Result<()> {
    let _turn = Turn::shared()?;
    let (through, connections, udp, outcome) = reach(false)?;
    ensure!(through.is_empty(), "came through: {through}");
    ensure!(connections == 0, "the other server saw {connections} connections");
    ensure!(!udp, "the page sent UDP");
    outcome.recording().context("the recording did not go on")?;
    let told = outcome.stderr.lines().filter(|l| l.contains("kept the page from")).count();
    // By each name of the place, and not by each try.
    ensure!((1..=4).contains(&told), "the log tells {told} times: {}", outcome.stderr);
    Ok(())
}

/// So that the test above proves something.
#[test]
fn a_page_reaches_what_it_may() -> Result<()> {
    let _turn = Turn::shared()?;
    let (through, connections, udp, _) = reach(true)?;
    for way in ["decimal", "fetch", "mapped", "name", "post", "redirect", "script", "worker"] {
        ensure!(through.split(',').any(|w| w == way), "{way} did not come through, only {through}");
    }
    ensure!(connections >= 10, "the other server saw {connections} connections only");
    ensure!(udp, "the page sent no UDP");
    Ok(())
}

#[test]
fn two_hundred_websockets_at_once() -> Result<()> {
    let _turn = Turn::shared()?;
    let (port, open) = websocket::serve()?;
    let page = format!(
        "<script>window.all = Array.from({{length: 200}}, (_, i) => new WebSocket('ws://127.0.0.1:{port}/' + i));</script>"
    );
    let server = Server::start()?.route("/many", Reply::Html(200, page));
    let mut run = Pagecast::record(PAGECAST, &server.url("many")).start()?;
    let all = |_: &_| open.load(Ordering::SeqCst) == 200;
    run.wait_until("200 WebSockets were open at once", LIMIT, all)?;
    run.signal(Signal::INT)?;
    run.finish(LIMIT)?.expect_code(0)
}
