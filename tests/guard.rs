//! Which addresses a page in a real browser can reach, and the messages about denied ones.

#[path = "guard/websocket.rs"]
mod websocket;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::{MachineLock, Outcome, PageResponse, PageServer, PagecastCommand, Signal, wait_until};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);
const EXIT_INVALID_VALUE: i32 = 2;
const EXIT_PAGE: i32 = 3;
/// Number of connection methods that `reach.html` tries and reports.
const METHOD_COUNT: usize = 16;

fn record_command(url: &str) -> PagecastCommand {
    PagecastCommand::record(PAGECAST, url).deny_loopback().option("duration", "3s")
}

/// A server on loopback that pages must not reach. Counts connections.
struct LoopbackServer {
    port: u16,
    connection_count: Arc<AtomicUsize>,
}

impl LoopbackServer {
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
                    let received = stream.read(&mut [0; 4096]);
                    received.and_then(|_| stream.write_all(answer.as_bytes())).ok()
                });
            }
        });
        Ok(Self { port, connection_count: connections })
    }

    fn connection_count(&self) -> usize {
        self.connection_count.load(Ordering::SeqCst)
    }
}

fn port_of(server: &PageServer) -> Result<u16> {
    let url = server.url("");
    let port = url.trim_end_matches('/').rsplit(':').next().context("no port")?;
    Ok(port.parse()?)
}

/// Checks that the run fails because its page is denied, with `words` in the message, and records nothing.
fn expect_blocked(run: PagecastCommand, words: &[&str]) -> Result<Outcome> {
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_PAGE, words)?;
    outcome.expect_nothing_recorded()?;
    Ok(outcome)
}

#[test]
fn a_page_on_loopback_is_refused_however_it_is_written() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let other = LoopbackServer::start()?;
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
        expect_blocked(record_command(&format!("http://{host}:{port}/")), &[&why, &advice])?;
    }
    ensure!(other.connection_count() == 0, "{} connections were made", other.connection_count());
    Ok(())
}

#[test]
fn the_advice_helps() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let port = port_of(&server)?;
    for (host, rule) in [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")] {
        let run = record_command(&format!("http://{host}:{port}/static.html"));
        run.option("allow-net", format!("{rule}:{port}")).finish(TIMEOUT)?.recording()?;
    }
    Ok(())
}

#[test]
fn a_denied_address_is_reported_as_denied() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let other = LoopbackServer::start()?;
    let run = record_command(&format!("http://127.0.0.1:{}/", other.port)).option("allow-net", "127.0.0.0/8");
    expect_blocked(run.option("deny-net", format!("*:{}", other.port)), &["a rule of this cast denies it"])?;
    ensure!(other.connection_count() == 0);
    Ok(())
}

#[test]
fn a_call_without_udp_is_a_warning() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let reads = "<script>window.RTCPeerConnection && RTCPeerConnection.prototype.createOffer</script>A page";
    let calls = "<script>const call = new RTCPeerConnection(); call.createDataChannel('a');
        call.createOffer().then((offer) => call.setLocalDescription(offer))
            .then(() => call.setLocalDescription())</script>A page";
    let html = |text: &str| PageResponse::Html(200, text.to_owned());
    let server = PageServer::start()?.with_route("/reads", html(reads)).with_route("/calls", html(calls));
    for (page, udp, warnings) in
        [("/reads", false, &[][..]), ("/calls", true, &[]), ("/calls", false, &["webrtc-without-udp"])]
    {
        let mut run = PagecastCommand::record(PAGECAST, &server.url(page)).option("duration", "2s");
        if udp {
            run = run.flag("allow-udp");
        }
        let outcome = run.finish(TIMEOUT)?;
        let report = outcome.report()?;
        ensure!(report.warnings == warnings, "{page}: {:?}", report.warnings);
        let count = outcome.stderr.matches("--allow-udp").count();
        ensure!(count == warnings.len(), "{page}: {}", outcome.stderr);
    }
    Ok(())
}

#[test]
fn a_redirect_leads_nowhere_else() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let other = LoopbackServer::start()?;
    let away = format!("http://127.0.0.1:{}/", other.port);
    let server = PageServer::start()?.with_route("/away", PageResponse::Redirect(away));
    let run =
        record_command(&server.url("away")).option("allow-net", format!("127.0.0.1:{}", port_of(&server)?));
    let advice = format!("--allow-net 127.0.0.1:{} ", other.port);
    expect_blocked(run, &[&server.url("away"), "127.0.0.1 is not a public address", &advice])?;
    ensure!(other.connection_count() == 0, "the browser was connected");
    Ok(())
}

#[test]
fn malformed_rules_are_refused() -> Result<()> {
    for name in ["allow-net", "deny-net"] {
        let outcome = record_command("http://127.0.0.1:9/").option(name, "http://a/").finish(TIMEOUT)?;
        outcome.expect_failure(EXIT_INVALID_VALUE, &[name, "network rule"])?;
    }
    Ok(())
}

/// Opens a page that tries all connection methods. Returns those that worked, the number of connections to
/// the other server, whether UDP was received, and the outcome.
fn try_all_methods(other_allowed: bool) -> Result<(String, usize, bool, Outcome)> {
    let other = LoopbackServer::start()?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    udp.set_nonblocking(true)?;
    let page = include_str!("guard/reach.html")
        .replace("OTHER", &other.port.to_string())
        .replace("UDP", &udp.local_addr()?.port().to_string());
    let away = format!("http://127.0.0.1:{}/redirected", other.port);
    let server = PageServer::start()?
        .with_route("/reach", PageResponse::Html(200, page))
        .with_route("/away", PageResponse::Redirect(away));
    let mut run = PagecastCommand::record(PAGECAST, &server.url("reach")).deny_loopback();
    run = run.option("allow-net", format!("127.0.0.1:{}", port_of(&server)?));
    if other_allowed {
        run = run.option("allow-net", "127.0.0.0/8").flag("allow-udp");
    }
    let run = run.start()?;
    let prefix = format!("/report/{METHOD_COUNT}?");
    let through = wait_until("the page reports", TIMEOUT, || {
        let requests = server.requests();
        let through = requests.iter().find_map(|request| request.strip_prefix(&prefix));
        through.map(str::to_owned).with_context(|| format!("{requests:?}"))
    })?;
    run.signal(Signal::INT)?;
    let outcome = run.finish(TIMEOUT)?;
    Ok((through, other.connection_count(), udp.recv(&mut [0; 2048]).is_ok(), outcome))
}

#[test]
fn a_page_reaches_nothing_else_and_is_recorded() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (through, connections, udp, outcome) = try_all_methods(false)?;
    ensure!(through.is_empty(), "these methods worked: {through}");
    ensure!(connections == 0, "the other server saw {connections} connections");
    ensure!(!udp, "the page sent UDP");
    outcome.recording().context("the page was not recorded")?;
    let denied = outcome.stderr.lines().filter(|l| l.contains("page connection denied")).count();
    // Once for each name of the address, not for each attempt.
    ensure!((1..=4).contains(&denied), "the log has it {denied} times: {}", outcome.stderr);
    Ok(())
}

/// Shows that the methods of the test above work if they are allowed.
#[test]
fn a_page_reaches_what_it_may() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (through, connections, udp, _) = try_all_methods(true)?;
    for way in ["decimal", "fetch", "mapped", "name", "post", "redirect", "script", "worker"] {
        ensure!(through.split(',').any(|w| w == way), "{way} did not work, only {through}");
    }
    ensure!(connections >= 10, "the other server saw {connections} connections only");
    ensure!(udp, "the page sent no UDP");
    Ok(())
}

#[test]
fn two_hundred_websockets_at_once() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (port, open) = websocket::serve()?;
    let page = format!(
        "<script>
            window.all = Array.from({{length: 200}}, (_, i) => new WebSocket('ws://127.0.0.1:{port}/' + i));
        </script>"
    );
    let server = PageServer::start()?.with_route("/many", PageResponse::Html(200, page));
    let mut run = PagecastCommand::record(PAGECAST, &server.url("many")).start()?;
    let all = |_: &_| open.load(Ordering::SeqCst) == 200;
    run.wait_until("200 WebSockets were open at once", TIMEOUT, all)?;
    run.signal(Signal::INT)?;
    run.finish(TIMEOUT)?.expect_code(0)
}
