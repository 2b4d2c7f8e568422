//! Tests publishing to a real Janus, and to a WHIP server in front of it. Chromium watches.
#![expect(clippy::print_stdout, reason = "measurements help to understand a failure")]

#[path = "janus/feed.rs"]
mod feed;
#[path = "janus/support.rs"]
mod support;
#[path = "janus/whip.rs"]
mod whip;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Room, RoomService, RoomUrl, Secret};
use pagecast_room::publish::Publisher;
use pagecast_testkit::janus::{Config, Room as RoomConfig};
use pagecast_testkit::{JanusServer, MachineLock};

use support::{
    both_layers_are_watched, is_running, refusal_error, start_running, wait_for_failure, wait_for_status,
};

/// A room of the server at this URL.
fn room(url: &str, room: &str, user: &str) -> Result<Room> {
    let service =
        RoomService::Janus { url: RoomUrl::parse(url)?, secret: None, room_secret: None, pin: None };
    support::room(service, room, user)
}

/// Adds an API secret, the room's secret and its pin.
fn with_secrets(mut room: Room, secrets: [Option<&str>; 3]) -> Room {
    if let RoomService::Janus { secret, room_secret, pin, .. } = &mut room.service {
        [*secret, *room_secret, *pin] = secrets.map(|text| text.map(Secret::new));
    }
    room
}

fn room_config(id: &str) -> RoomConfig {
    RoomConfig { id: id.into(), ..RoomConfig::default() }
}

#[test]
fn a_browser_gets_both_layers_published_over_websocket() -> Result<()> {
    let _lock = MachineLock::shared()?;
    let janus = JanusServer::start(Config { rooms: vec![room_config("1234")], ..Config::default() })?;
    both_layers_are_watched(&janus, room(&janus.ws_url(), "1234", "webcast")?, "room=1234&user=webcast")
}

#[test]
fn a_browser_gets_both_layers_published_over_http() -> Result<()> {
    let _lock = MachineLock::shared()?;
    let config = Config { string_ids: true, api_secret: Some("api-secret".into()), ..Config::default() };
    let janus = JanusServer::start(Config {
        rooms: vec![RoomConfig { pin: Some("pin-1".into()), ..room_config("4711") }],
        ..config
    })?;
    // A numeric name on a server with string identifiers.
    let published = room(&janus.http_url(), "4711", "webcast")?;
    let published = with_secrets(published, [Some("api-secret"), None, Some("pin-1")]);
    let query = "room=%224711%22&user=webcast&secret=api-secret&pin=pin-1";
    both_layers_are_watched(&janus, published, query)
}

#[test]
fn a_missing_room_is_created_if_that_is_allowed() -> Result<()> {
    let janus = JanusServer::start(Config::default())?;
    let published =
        with_secrets(room(&janus.ws_url(), "77", "webcast")?, [None, Some("of-the-room"), Some("pin-1")]);
    let publisher = Publisher::start(published)?;
    wait_for_status(&publisher, "connecting", is_running)?;
    // The created room has the pin.
    let error = refusal_error(room(&janus.ws_url(), "77", "somebody")?)?;
    ensure!(error.contains("refuses") && error.contains("pin"), "{error}");
    let error =
        refusal_error(with_secrets(room(&janus.ws_url(), "77", "somebody")?, [None, None, Some("guess-1")]))?;
    ensure!(error.contains("wrong pin") && !error.contains("guess-1"), "{error}");
    drop(publisher.finish());

    let janus =
        JanusServer::start(Config { admin_key: Some("key-of-the-admin".into()), ..Config::default() })?;
    let error = refusal_error(room(&janus.http_url(), "77", "webcast")?)?;
    ensure!(error.contains("there is no room 77, and creating one is not allowed"), "{error}");
    let error = refusal_error(room(&janus.http_url(), "demo", "webcast")?)?;
    ensure!(error.contains("rooms need a number as identifier: demo"), "{error}");
    Ok(())
}

#[test]
fn a_missing_or_wrong_secret_is_refused() -> Result<()> {
    let janus = JanusServer::start(Config {
        api_secret: Some("api-secret".into()),
        rooms: vec![room_config("1")],
        ..Config::default()
    })?;
    for url in [janus.ws_url(), janus.http_url()] {
        let error = refusal_error(room(&url, "1", "webcast")?)?;
        ensure!(error.contains("an API secret or a token is needed"), "{error}");
        let error = refusal_error(with_secrets(room(&url, "1", "webcast")?, [Some("guess-1"), None, None]))?;
        ensure!(error.contains("secret or token is wrong") && !error.contains("guess-1"), "{error}");
    }
    Ok(())
}

#[test]
fn tokens_are_filled_in_from_templates() -> Result<()> {
    let janus =
        JanusServer::start(Config { token_auth: true, rooms: vec![room_config("1")], ..Config::default() })?;
    // The token is a template that contains the user.
    janus.add_token("token-of-webcast")?;
    for url in [janus.ws_url(), janus.http_url()] {
        let published = |user| -> Result<Room> {
            Ok(with_secrets(room(&url, "1", user)?, [Some("token-of-{user}"), None, None]))
        };
        let error = refusal_error(published("somebody")?)?;
        ensure!(error.contains("secret or token is wrong"), "{error}");
        let publisher = Publisher::start(published("webcast")?)?;
        wait_for_status(&publisher, "connecting", is_running)?;
        drop(publisher.finish());
    }
    Ok(())
}

#[test]
fn the_same_user_takes_over() -> Result<()> {
    let secret = |id: &str| RoomConfig { secret: Some("of-the-room".into()), ..room_config(id) };
    let numbers =
        JanusServer::start(Config { rooms: vec![room_config("1"), secret("2")], ..Config::default() })?;
    let texts = Config { string_ids: true, rooms: vec![secret("demo")], ..Config::default() };
    let texts = JanusServer::start(texts)?;
    // A room without a secret, one with a secret, and a server with string identifiers over HTTP.
    for (url, id) in [(numbers.ws_url(), "1"), (numbers.ws_url(), "2"), (texts.http_url(), "demo")] {
        let published = |user| -> Result<Room> {
            Ok(with_secrets(room(&url, id, user)?, [None, Some("of-the-room"), None]))
        };
        let (bystander, first) =
            (start_running(published("bystander")?)?, start_running(published("webcast")?)?);
        let second = start_running(published("webcast")?)?;
        let error = wait_for_failure(&first)?;
        ensure!(error == "another publisher took over as this user", "{error}");
        for other in [&second, &bystander] {
            let status = other.status();
            ensure!(is_running(&status) && status.reconnects == 0, "{status:?}");
        }
        drop([first, second, bystander].map(Publisher::finish));
    }
    Ok(())
}

#[test]
fn without_the_secret_of_the_room_both_stay() -> Result<()> {
    let secret = Some("of-the-room".to_owned());
    let janus = JanusServer::start(Config {
        rooms: vec![RoomConfig { secret, ..room_config("2") }],
        ..Config::default()
    })?;
    let first = start_running(room(&janus.ws_url(), "2", "webcast")?)?;
    let second = start_running(room(&janus.ws_url(), "2", "webcast")?)?;
    let wrong = with_secrets(room(&janus.ws_url(), "2", "webcast")?, [None, Some("guess-1"), None]);
    let error = refusal_error(wrong)?;
    ensure!(error.contains("the room secret is wrong") && !error.contains("guess-1"), "{error}");
    for publisher in [first, second] {
        let status = publisher.status();
        ensure!(is_running(&status) && status.reconnects == 0, "{status:?}");
        drop(publisher.finish());
    }
    Ok(())
}

#[test]
fn publishers_reconnect_to_a_restarted_server() -> Result<()> {
    let mut janus = JanusServer::start(Config { rooms: vec![room_config("1")], ..Config::default() })?;
    let publishers = [
        start_running(room(&janus.ws_url(), "1", "one")?)?,
        start_running(room(&janus.http_url(), "1", "two")?)?,
    ];
    janus.kill();
    for publisher in &publishers {
        let status = wait_for_status(publisher, "losing the server", |status| status.error.is_some())?;
        println!("{:?}", status.error);
        ensure!(!publisher.is_finished(), "{status:?}");
    }
    janus.restart()?;
    let restarted = Instant::now();
    for publisher in publishers {
        let status = wait_for_status(&publisher, "reconnecting", is_running)?;
        println!("reconnected {:?} after the restart", restarted.elapsed());
        ensure!(status.reconnects == 1, "{status:?}");
        drop(publisher.finish());
    }
    Ok(())
}

#[test]
fn a_full_room_and_a_rejected_codec_are_reported() -> Result<()> {
    let full = RoomConfig { publishers: 1, ..room_config("1") };
    let vp9 = RoomConfig { videocodec: Some("vp9".into()), ..room_config("2") };
    let janus = JanusServer::start(Config { rooms: vec![full, vp9], ..Config::default() })?;
    let first = start_running(room(&janus.ws_url(), "1", "one")?)?;
    // A full room is retried, because a publisher may leave.
    let second = Publisher::start(room(&janus.ws_url(), "1", "two")?)?;
    let status = wait_for_status(&second, "the error", |status| status.error.is_some())?;
    ensure!(
        !second.is_finished() && status.error.as_deref().is_some_and(|e| e.contains("limit of publishers")),
        "{status:?}"
    );
    drop(first.finish());
    wait_for_status(&second, "joining", is_running)?;
    drop(second.finish());
    let error = refusal_error(room(&janus.ws_url(), "2", "webcast")?)?;
    ensure!(error.contains("does not accept H.264"), "{error}");
    Ok(())
}

#[test]
fn an_untrusted_certificate_is_refused() -> Result<()> {
    let janus = JanusServer::start(Config { rooms: vec![room_config("1")], ..Config::default() })?;
    let publisher = Publisher::start(room(&janus.wss_url(), "1", "webcast")?)?;
    let status = wait_for_status(&publisher, "the error", |status| status.error.is_some())?;
    println!("{:?}", status.error);
    // It is retried, because the certificate may be replaced.
    ensure!(!publisher.is_finished() && status.error.is_some_and(|error| error.contains("certificate")));
    drop(publisher.finish());
    Ok(())
}

#[test]
fn a_session_is_kept_alive() -> Result<()> {
    let config = Config { session_timeout_s: Some(27), rooms: vec![room_config("1")], ..Config::default() };
    let janus = JanusServer::start(config)?;
    let publishers = [
        start_running(room(&janus.ws_url(), "1", "one")?)?,
        start_running(room(&janus.http_url(), "1", "two")?)?,
    ];
    // Longer than the session timeout.
    std::thread::sleep(Duration::from_secs(36));
    for publisher in publishers {
        let (status, _) = publisher.finish().context("the thread panicked")?;
        ensure!(status.error.is_none() && status.reconnects == 0, "{status:?}");
    }
    Ok(())
}
