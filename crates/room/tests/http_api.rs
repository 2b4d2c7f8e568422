//! Tests the HTTP interface of the embedded rooms: WHIP (RFC 9725), WHEP, tokens, limits.

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
#[expect(dead_code, reason = "for other tests, too")]
mod peer;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::{Response, post_offer, send_request};
use pagecast_core::spec::Secret;
use pagecast_listen::ShutdownPhase;
use pagecast_room::embedded::token::{Claims, mint};
use pagecast_room::embedded::{Access, Config, Error, Limits, Server};
use pagecast_testkit::wait_until;
use peer::{Peer, SessionRequest};

const TIMEOUT: Duration = Duration::from_secs(30);
const SDP_FRAGMENT_HEADER: (&str, &str) = ("Content-Type", "application/trickle-ice-sdpfrag");

fn server(change: impl FnOnce(&mut Config)) -> Result<Server> {
    let mut config = Config { http: "127.0.0.1:0".parse()?, ..Config::default() };
    change(&mut config);
    Ok(Server::start(config)?)
}

fn publish_offer() -> Result<String> {
    Ok(peer::offer(Some(&peer::LAYERS), false)?.sdp)
}

fn check_response(response: &Response, status: u16, text: &str) -> Result<()> {
    let matches = response.status == status && response.body.contains(text);
    ensure!(matches, "not {status} {text:?}, but {response:?}");
    Ok(())
}

#[test]
fn offers_are_answered_as_the_rfc_says() -> Result<()> {
    let server = server(|_| ())?;
    let at = server.http_addr();
    let good = post_offer(at, "/rooms/demo/whip", None, &publish_offer()?)?;
    check_response(&good, 201, "a=ice-lite")?;
    ensure!(good.header("content-type") == Some("application/sdp"), "{good:?}");
    ensure!(good.header("etag").is_some_and(|tag| tag.starts_with('"')), "{good:?}");
    ensure!(
        good.header("access-control-expose-headers").is_some_and(|names| names.contains("Location")),
        "{good:?}"
    );
    let session = good.header("location").context("no session")?.to_owned();
    ensure!(session.starts_with("/rooms/demo/whip/") && session.len() > 40, "{session}");
    ensure!(good.body.contains("a=candidate") && good.body.contains("tcptype passive"), "{}", good.body);
    for (body, status, text) in [
        ("", 400, "is malformed"),
        ("v=0", 400, "is malformed"),
        (&publish_offer()?.replace("a=fingerprint", "a=nothing"), 400, "fingerprint"),
        (&publish_offer()?.replace("a=sendonly", "a=recvonly"), 422, "sends no"),
        (
            &publish_offer()?.replace("opus/48000", "xpus/48000").replace("H264/90000", "H26X/90000"),
            422,
            "sends no",
        ),
    ] {
        let answer = post_offer(at, "/rooms/demo/whip", None, body)?;
        check_response(&answer, status, text)?;
        ensure!(!answer.body.contains("0x"), "a memory address: {answer:?}");
    }
    check_response(&post_offer(at, "/rooms/demo/whep", None, &publish_offer()?)?, 422, "receives no")?;
    check_response(
        &send_request(at, "POST", "/rooms/demo/whip", &[("Content-Type", "text/plain")], &publish_offer()?)?,
        415,
        "application/sdp",
    )?;
    check_response(&post_offer(at, "/rooms/a%20b/whip", None, &publish_offer()?)?, 404, "a room name has")?;
    check_response(
        &post_offer(at, "/rooms/demo/whip?user=a/b", None, &publish_offer()?)?,
        400,
        "not a valid user name",
    )?;
    check_response(
        &post_offer(at, &format!("/rooms/{}/whip", "a".repeat(129)), None, &publish_offer()?)?,
        404,
        "",
    )?;
    check_response(&send_request(at, "GET", "/rooms/demo/whip", &[], "")?, 405, "")?;
    let preflight =
        send_request(at, "OPTIONS", "/rooms/demo/whip", &[("Access-Control-Request-Method", "POST")], "")?;
    check_response(&preflight, 204, "")?;
    ensure!(preflight.header("accept-post") == Some("application/sdp"), "{preflight:?}");
    ensure!(preflight.header("access-control-allow-headers").is_some_and(|names| names.contains("If-Match")));
    // An existing session, and unknown ones.
    check_response(&send_request(at, "OPTIONS", &session, &[], "")?, 204, "")?;
    check_response(&send_request(at, "POST", &session, &[], "")?, 405, "")?;
    check_response(&send_request(at, "DELETE", &session.replace("whip", "whep"), &[], "")?, 404, "")?;
    check_response(&send_request(at, "DELETE", &session.replace("demo", "other"), &[], "")?, 404, "")?;
    check_response(&send_request(at, "DELETE", &session, &[], "")?, 200, "")?;
    check_response(&send_request(at, "DELETE", &session, &[], "")?, 410, "ended")?;
    check_response(&send_request(at, "DELETE", "/rooms/demo/whip/0123456789abcdef", &[], "")?, 404, "")
}

#[test]
fn candidates_trickle_and_ice_restarts() -> Result<()> {
    let server = server(|_| ())?;
    let at = server.http_addr();
    let _publisher = Peer::publish(at, &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(at, &SessionRequest::room("demo"))?;
    viewer.wait("frames", TIMEOUT, |state| state.video.len() > 30)?;
    let candidate =
        "a=mid:0\r\na=candidate:1 1 UDP 2130706431 192.0.2.1 3478 typ host\r\na=candidate:nonsense\r\n";
    let patch =
        |headers: &[(&str, &str)], body: &str| send_request(at, "PATCH", &viewer.session, headers, body);
    check_response(&patch(&[SDP_FRAGMENT_HEADER, ("If-Match", &viewer.etag)], candidate)?, 204, "")?;
    check_response(&patch(&[SDP_FRAGMENT_HEADER, ("If-Match", "\"other\"")], candidate)?, 412, "current")?;
    check_response(&patch(&[SDP_FRAGMENT_HEADER], candidate)?, 428, "If-Match")?;
    check_response(&patch(&[("Content-Type", "text/plain"), ("If-Match", "*")], candidate)?, 415, "")?;
    check_response(&patch(&[SDP_FRAGMENT_HEADER, ("If-Match", "*")], candidate)?, 400, "a=ice-ufrag")?;
    let restart = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijklmn\r\n";
    let restarted = patch(&[SDP_FRAGMENT_HEADER, ("If-Match", "*")], restart)?;
    check_response(&restarted, 200, "a=ice-pwd:")?;
    ensure!(
        restarted.body.contains("a=candidate:") && restarted.header("etag") != Some(&viewer.etag),
        "{restarted:?}"
    );
    check_response(&patch(&[SDP_FRAGMENT_HEADER, ("If-Match", &viewer.etag)], candidate)?, 412, "")?;
    check_response(
        &patch(&[SDP_FRAGMENT_HEADER, ("If-Match", restarted.header("etag").unwrap_or(""))], candidate)?,
        204,
        "",
    )
}

#[test]
fn events_report_changes() -> Result<()> {
    let server = server(|_| ())?;
    let at = server.http_addr();
    server.expect_publisher("demo", "page");
    let viewer = Peer::watch(at, &SessionRequest::room("demo"))?;
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {}/events HTTP/1.1\r\nHost: {at}\r\n\r\n", viewer.session)?;
    let mut events = String::new();
    let mut until = |text: &str| -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while !events.contains(text) {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece)?;
            ensure!(length > 0 && Instant::now() < deadline, "no {text:?} in {events}");
            events.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        Ok(())
    };
    until("event: inactive")?;
    until("{\"viewercount\":1}")?;
    let publisher = Peer::publish(at, &SessionRequest::room("demo"))?;
    until("event: active")?;
    until("\"rid\":\"m\",\"width\":640")?;
    until("\"current_layer\":\"h\"")?;
    let body = "{\"layer\":\"m\"}";
    check_response(&send_request(at, "POST", &format!("{}/layer", viewer.session), &[], body)?, 204, "")?;
    until("\"current_layer\":\"m\",\"requested_layer\":\"m\"")?;
    let other = Peer::watch(at, &SessionRequest::room("demo"))?;
    until("{\"viewercount\":2}")?;
    other.leave()?;
    publisher.leave()?;
    until("\"layers\":[]")?;
    // A fourth event stream is refused. The event streams end with the session.
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut other = TcpStream::connect(at)?;
        other.set_read_timeout(Some(TIMEOUT))?;
        write!(other, "GET {}/events HTTP/1.1\r\nHost: {at}\r\n\r\n", viewer.session)?;
        ensure!(other.read(&mut [0; 64])? > 0);
        others.push(other);
    }
    check_response(
        &send_request(at, "GET", &format!("{}/events", viewer.session), &[], "")?,
        503,
        "event streams",
    )?;
    check_response(&send_request(at, "POST", &format!("{}/layer", viewer.session), &[], "layer")?, 400, "")?;
    viewer.leave()?;
    for mut other in others {
        let mut rest = Vec::new();
        other.read_to_end(&mut rest).ok();
        ensure!(rest.ends_with(b"0\r\n\r\n"), "the event stream does not end");
    }
    Ok(())
}

#[test]
fn tokens_allow_their_room_and_action() -> Result<()> {
    let secret = Secret::new("hush");
    let server = server(|config| config.access = Access::Jwt(secret.clone()))?;
    let at = server.http_addr();
    let hour = Duration::from_secs(3600);
    let token = |claims: Claims| mint(&secret, &claims);
    let publish = token(Claims::new("demo", hour).allow_publish("page"))?;
    let view = token(Claims::new("demo", hour).allow_view())?;
    let other = token(Claims::new("other", hour).allow_publish("page").allow_view())?;
    let stale = token(Claims { exp: 1, ..Claims::new("demo", hour).allow_publish("page") })?;
    let whip = |token: Option<&str>| post_offer(at, "/rooms/demo/whip", token, &publish_offer()?);
    let none = whip(None)?;
    check_response(&none, 401, "token is needed")?;
    ensure!(none.header("www-authenticate") == Some("Bearer"), "{none:?}");
    check_response(&whip(Some("nonsense"))?, 401, "not valid")?;
    check_response(&whip(Some(&stale))?, 401, "expired")?;
    check_response(&whip(Some(&other))?, 403, "another room")?;
    check_response(&whip(Some(&view))?, 403, "publishing")?;
    check_response(
        &post_offer(at, "/rooms/demo/whip?user=else", Some(&publish), &publish_offer()?)?,
        403,
        "another user",
    )?;
    check_response(&post_offer(at, "/rooms/demo/whep", Some(&publish), &publish_offer()?)?, 403, "watching")?;
    check_response(&send_request(at, "GET", "/rooms/demo/stats", &[], "")?, 401, "")?;
    check_response(
        &send_request(at, "GET", &format!("/rooms/demo/stats?token={view}"), &[], "")?,
        200,
        "publishers",
    )?;
    check_response(&send_request(at, "GET", "/rooms", &[], "")?, 403, "")?;
    check_response(&send_request(at, "GET", "/rooms/demo", &[], "")?, 200, "<video")?;
    let publisher =
        Peer::publish(at, &SessionRequest { token: Some(&publish), ..SessionRequest::room("demo") })?;
    let viewer = Peer::watch(at, &SessionRequest { token: Some(&view), ..SessionRequest::room("demo") })?;
    viewer.wait("frames", TIMEOUT, |state| state.video.len() > 30)?;
    wait_until("the publisher is in the statistics", TIMEOUT, || {
        let headers = [("Authorization", format!("bearer {view}"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let stats = send_request(at, "GET", "/rooms/demo/stats", &headers, "")?;
        ensure!(stats.body.contains("\"user\":\"page\""), "{stats:?}");
        Ok(())
    })?;
    // With a token, any origin is accepted.
    let remote = send_request(
        at,
        "GET",
        &format!("/rooms/demo/stats?token={view}"),
        &[("Origin", "https://a.example")],
        "",
    )?;
    ensure!(
        remote.status == 200 && remote.header("access-control-allow-origin") == Some("https://a.example"),
        "{remote:?}"
    );
    publisher.leave()
}

#[test]
fn rooms_without_tokens_accept_only_local_requests() -> Result<()> {
    let public = Config { http: "0.0.0.0:0".parse()?, ..Config::default() };
    ensure!(matches!(Server::start(public), Err(Error::OpenNotLoopback(_))));
    let server = server(|_| ())?;
    let at = server.http_addr();
    for origin in ["https://evil.example", "null", "http://192.168.1.5", "http://localhost.evil.example"] {
        check_response(
            &send_request(at, "GET", "/rooms/demo/stats", &[("Origin", origin)], "")?,
            403,
            "only local requests",
        )?;
    }
    check_response(
        &send_request(at, "GET", "/rooms/demo/stats", &[("Origin", "http://localhost:3000")], "")?,
        200,
        "",
    )?;
    check_response(
        &send_request(at, "GET", "/rooms/demo/stats", &[("X-Forwarded-For", "203.0.113.9")], "")?,
        403,
        "only local requests",
    )?;
    // A foreign host name that resolves to this machine (DNS rebinding).
    let request =
        format!("GET /rooms HTTP/1.1\r\nHost: rebound.example:{}\r\nConnection: close\r\n\r\n", at.port());
    check_response(&http::send_raw(at, request.as_bytes())?, 403, "only local requests")?;
    check_response(&send_request(at, "GET", "/rooms", &[], "")?, 200, "\"rooms\":[]")
}

#[test]
fn the_viewer_page_is_self_contained() -> Result<()> {
    let server = server(|_| ())?;
    let pages = [(); 2].map(|()| send_request(server.http_addr(), "GET", "/rooms/demo", &[], ""));
    let mut nonces = Vec::new();
    for page in pages {
        let page = page?;
        check_response(&page, 200, "<video")?;
        let policy = page.header("content-security-policy").context("no policy")?.to_owned();
        let nonce =
            policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).context("no nonce")?;
        ensure!(
            policy.contains("default-src 'none'")
                && page.body.contains(&format!("<script nonce=\"{nonce}\">"))
        );
        ensure!(
            !page.body.contains("{{nonce}}") && !page.body.contains("https://"),
            "the page is not self-contained"
        );
        nonces.push(nonce.to_owned());
    }
    ensure!(nonces[0] != nonces[1]);
    Ok(())
}

#[test]
fn limits_are_enforced() -> Result<()> {
    let limits =
        Limits { rooms: 2, publishers_per_room: 1, viewers_per_room: 2, viewers: 3, ..Limits::default() };
    let server = server(|config| config.limits = limits)?;
    let at = server.http_addr();
    ["a", "b", "c"].iter().for_each(|room| server.expect_publisher(room, "page"));
    let watch =
        |room: &str| post_offer(at, &format!("/rooms/{room}/whep"), None, &peer::offer(None, false)?.sdp);
    check_response(&watch("a")?, 201, "")?;
    check_response(&watch("a")?, 201, "")?;
    let full = watch("a")?;
    check_response(&full, 503, "viewers in this room")?;
    ensure!(full.header("retry-after").is_some(), "{full:?}");
    check_response(&watch("b")?, 201, "")?;
    check_response(&watch("b")?, 503, "viewers of this service")?;
    check_response(&watch("c")?, 503, "rooms of this service")?;
    check_response(&post_offer(at, "/rooms/a/whip?user=1", None, &publish_offer()?)?, 201, "")?;
    check_response(&post_offer(at, "/rooms/a/whip?user=1", None, &publish_offer()?)?, 201, "")?;
    check_response(&post_offer(at, "/rooms/a/whip?user=2", None, &publish_offer()?)?, 409, "1 publishers")?;
    check_response(&post_offer(at, "/rooms/a/whip", None, &"a=x\r\n".repeat(20_000))?, 413, "bytes")?;
    // None of the sessions connects, so they time out and free their places.
    wait_until("a session times out", TIMEOUT, || {
        let response = watch("c")?;
        ensure!(response.status == 201, "{response:?}");
        Ok(())
    })
}

#[test]
fn viewers_create_no_rooms() -> Result<()> {
    let server = server(|_| ())?;
    let at = server.http_addr();
    let watch = || post_offer(at, "/rooms/demo/whep", None, &peer::offer(None, false)?.sdp);
    let early = watch()?;
    check_response(&early, 404, "this room has no publisher")?;
    ensure!(early.header("retry-after") == Some("2"), "{early:?}");
    // An invalid room name gets no Retry-After.
    let invalid = post_offer(at, "/rooms/a%20b/whep", None, &peer::offer(None, false)?.sdp)?;
    ensure!(invalid.status == 404 && invalid.header("retry-after").is_none(), "{invalid:?}");
    check_response(&send_request(at, "GET", "/rooms", &[], "")?, 200, "{\"rooms\":[]}")?;
    // With a publisher, or an expected one, viewers may join.
    check_response(&post_offer(at, "/rooms/demo/whip", None, &publish_offer()?)?, 201, "")?;
    check_response(&watch()?, 201, "")?;
    let other = || post_offer(at, "/rooms/other/whep", None, &peer::offer(None, false)?.sdp);
    check_response(&other()?, 404, "no publisher")?;
    server.expect_publisher("other", "page");
    check_response(&other()?, 201, "")
}

/// One application cannot use up the places of another, even with many tokens.
#[test]
fn limits_of_an_application_protect_the_others() -> Result<()> {
    let secret = Secret::new("hush");
    let limits = Limits {
        rooms: 4,
        rooms_per_application: 2,
        viewers: 6,
        viewers_per_application: 3,
        connecting_per_token: 2,
        ..Limits::default()
    };
    let server = server(|config| {
        (config.access, config.limits) = (Access::Jwt(secret.clone()), limits);
    })?;
    let at = server.http_addr();
    let (publishes, watches) = (publish_offer()?, peer::offer(None, false)?.sdp);
    let mut minted = 0;
    let mut token = |room: &str, change: &dyn Fn(Claims) -> Claims| {
        // The lifetime makes each token a different one.
        minted += 1;
        mint(&secret, &change(Claims::new(room, Duration::from_secs(3600 + minted))))
    };
    let publish =
        |room: &str, token: String| post_offer(at, &format!("/rooms/{room}/whip"), Some(&token), &publishes);
    let watch =
        |room: &str, token: &str| post_offer(at, &format!("/rooms/{room}/whep"), Some(token), &watches);
    let publisher = |claims: Claims| claims.allow_publish("page");
    let viewer = |claims: Claims| claims.allow_view();
    check_response(&publish("evil~1", token("evil~1", &publisher)?)?, 201, "")?;
    check_response(&publish("evil~2", token("evil~2", &publisher)?)?, 201, "")?;
    check_response(&publish("evil~3", token("evil~3", &publisher)?)?, 503, "rooms of this application")?;
    // The service's own casts are exempt.
    let own = |claims: Claims| claims.allow_publish("page").for_own_cast();
    check_response(&publish("evil~3", token("evil~3", &own)?)?, 201, "")?;
    // The limit of connecting sessions applies to one token, the limit of viewers to the application.
    let shared = token("evil~1", &viewer)?;
    check_response(&watch("evil~1", &shared)?, 201, "")?;
    check_response(&watch("evil~1", &shared)?, 201, "")?;
    let third = watch("evil~1", &shared)?;
    check_response(&third, 503, "2 sessions with this token are connecting")?;
    ensure!(third.header("retry-after") == Some("1"), "{third:?}");
    check_response(&watch("evil~2", &token("evil~2", &viewer)?)?, 201, "")?;
    check_response(&watch("evil~2", &token("evil~2", &viewer)?)?, 503, "viewers of this application")?;
    // Another application gets all of its places.
    check_response(&publish("good~1", token("good~1", &publisher)?)?, 201, "")?;
    for _ in 0..3 {
        check_response(&watch("good~1", &token("good~1", &viewer)?)?, 201, "")?;
    }
    // Viewers and rooms are at their limits, but a second publisher may still join a room.
    check_response(&watch("good~1", &token("good~1", &viewer)?)?, 503, "limit reached: viewers")?;
    let other = |claims: Claims| claims.allow_publish("other");
    check_response(&publish("good~1", token("good~1", &other)?)?, 201, "")
}

#[test]
fn a_room_without_publisher_gives_way_to_a_publisher() -> Result<()> {
    let limits = Limits { rooms: 2, ..Limits::default() };
    let server = server(|config| config.limits = limits)?;
    let at = server.http_addr();
    let watch =
        |room: &str| post_offer(at, &format!("/rooms/{room}/whep"), None, &peer::offer(None, false)?.sdp);
    ["a", "b", "c"].iter().for_each(|room| server.expect_publisher(room, "page"));
    let waiting = watch("a")?;
    check_response(&waiting, 201, "")?;
    check_response(&watch("b")?, 201, "")?;
    check_response(&watch("c")?, 503, "rooms of this service")?;
    check_response(&post_offer(at, "/rooms/d/whip", None, &publish_offer()?)?, 201, "")?;
    let session = waiting.header("location").context("no session")?;
    check_response(&send_request(at, "OPTIONS", session, &[], "")?, 410, "over")?;
    check_response(&post_offer(at, "/rooms/e/whip", None, &publish_offer()?)?, 201, "")?;
    check_response(&post_offer(at, "/rooms/f/whip", None, &publish_offer()?)?, 503, "rooms of this service")
}

/// The service's main listener serves the rooms, and stops when the service does.
#[test]
fn another_listener_serves_the_rooms_until_their_shutdown() -> Result<()> {
    let server = server(|_| ())?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    let service = pagecast_listen::Service { router: server.router(), is_reserved: |_, _, _| false };
    let (stop, stopped) = tokio::sync::watch::channel(ShutdownPhase::Running);
    let serving = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let limits = pagecast_listen::Limits::default();
            pagecast_listen::serve(listener, limits, service, || None, stopped).await;
            Ok(())
        })
    });
    let publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(at, &SessionRequest::room("demo"))?;
    viewer.wait("frames", TIMEOUT, |state| state.video.len() > 30)?;
    let mut events = TcpStream::connect(at)?;
    events.set_read_timeout(Some(TIMEOUT))?;
    let head = format!("GET {}/events HTTP/1.1\r\nHost: {at}\r\nConnection: close", viewer.session);
    write!(events, "{head}\r\n\r\n")?;
    ensure!(events.read(&mut [0; 15])? == 15, "the event stream has not begun");
    server.shutdown();
    events.read_to_end(&mut Vec::new()).context("the event stream goes on")?;
    check_response(&post_offer(at, "/rooms/demo/whep", None, &peer::offer(None, false)?.sdp)?, 503, "")?;
    drop((publisher, viewer));
    stop.send_replace(ShutdownPhase::Draining);
    serving.join().map_err(|_| anyhow::anyhow!("the listener panicked"))?
}

/// Silent connections are closed in favor of publishers and viewers.
#[test]
fn silent_connections_give_way() -> Result<()> {
    let server = server(|config| {
        config.limits.viewers = 1;
        config.connection_limits.max_connections = 128;
    })?;
    let at = server.http_addr();
    // More than all connections.
    let _silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(at)).collect::<Result<_, _>>()?;
    check_response(&post_offer(at, "/rooms/demo/whip", None, &publish_offer()?)?, 201, "")?;
    check_response(&send_request(at, "GET", "/rooms/demo", &[], "")?, 200, "")
}

/// Whether the server closes a connection that sends `first` once and `repeated` again and again.
fn is_closed(at: SocketAddr, first: &[u8], repeated: &[u8]) -> Result<bool> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.write_all(first)?;
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        let _full = stream.write_all(repeated);
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return Ok(true),
        }
    }
    Ok(false)
}

#[test]
fn slow_requests_are_closed() -> Result<()> {
    let server = server(|_| ())?;
    let at = server.http_addr();
    let slow = [
        std::thread::spawn(move || is_closed(at, b"GET /rooms HTTP/1.1\r\nHost: localhost\r\n", b"a: b\r\n")),
        std::thread::spawn(move || is_closed(at, b"", b"")),
        std::thread::spawn(move || {
            let head = b"POST /rooms/a/whip HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n\
                Connection: close\r\nContent-Length: 9000\r\n\r\n";
            is_closed(at, head, b"v")
        }),
        std::thread::spawn(move || is_closed(at, &[b'A'; 100_000], b"A")),
    ];
    // Other requests are served meanwhile.
    check_response(&send_request(at, "GET", "/rooms", &[], "")?, 200, "")?;
    for (index, slow) in slow.into_iter().enumerate() {
        let closed = slow.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        ensure!(closed, "connection {index} is not closed");
    }
    Ok(())
}
