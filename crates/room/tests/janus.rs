//! Rooms of a real Janus, and of a WHIP server in front of it: published by us, watched by Chromium.
#![expect(clippy::print_stdout, reason = "what was measured is shown beside a failure")]

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
use pagecast_testkit::janus::{Config, Room as Known};
use pagecast_testkit::{JanusServer, MachineLock};

use support::{
    both_layers_are_watched, is_running, refusal_error, start_running, wait_for_failure, wait_for_status,
};

/// A room of that server.
fn room(url: &str, room: &str, user: &str) -> Result<Room> {
    let service =
        RoomService::Janus { url: RoomUrl::parse(url)?, secret: None, room_secret: None, pin: None };
    support::room(service, room, user)
}

/// The same with an API secret, the room's secret and its pin.
fn with_secrets(mut room: Room, secrets: [Option<&str>; 3]) -> Room {
    if let RoomService::Janus { secret, room_secret, pin, .. } = &mut room.service {
        [*secret, *room_secret, *pin] = secrets.map(|text| text.map(Secret::new));
    }
    room
}

fn room_config(id: &str) -> Known {
    Known { id: id.into(), ..Known::default() }
}

#[test]
fn a_browser_chooses_layers_of_what_came_by_websocket() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let janus = JanusServer::start(Config { rooms: vec![room_config("1234")], ..Config::default() })?;
    both_layers_are_watched(&janus, room(&janus.ws_url(), "1234", "webcast")?, "room=1234&user=webcast")
}

#[test]
fn a_browser_chooses_layers_of_what_came_by_http() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let config = Config { string_ids: true, api_secret: Some("api-secret".into()), ..Config::default() };
    let janus = JanusServer::start(Config {
        rooms: vec![Known { pin: Some("pin-1".into()), ..room_config("4711") }],
        ..config
    })?;
    // A room whose name looks like a number, on a server where none is.
    let published = room(&janus.http_url(), "4711", "webcast")?;
    let published = with_secrets(published, [Some("api-secret"), None, Some("pin-1")]);
    let query = "room=%224711%22&user=webcast&secret=api-secret&pin=pin-1";
    both_layers_are_watched(&janus, published, query)
}

#[test]
fn a_room_that_is_missing_is_made_if_that_is_allowed() -> Result<()> {
    let janus = JanusServer::start(Config::default())?;
    let published =
        with_secrets(room(&janus.ws_url(), "77", "webcast")?, [None, Some("of-the-room"), Some("pin-1")]);
    let publisher = Publisher::start(published)?;
    wait_for_status(&publisher, "connecting", is_running)?;
    // It has the pin that it was made with.
    let error = refusal_error(room(&janus.ws_url(), "77", "somebody")?)?;
    ensure!(error.contains("refuses") && error.contains("pin"), "{error}");
    let error =
        refusal_error(with_secrets(room(&janus.ws_url(), "77", "somebody")?, [None, None, Some("guess-1")]))?;
    ensure!(error.contains("wrong pin") && !error.contains("guess-1"), "{error}");
    drop(publisher.finish());

    let janus =
        JanusServer::start(Config { admin_key: Some("key-of-the-admin".into()), ..Config::default() })?;
    let error = refusal_error(room(&janus.http_url(), "77", "webcast")?)?;
    ensure!(error.contains("there is no room 77, and we may not make one"), "{error}");
    let error = refusal_error(room(&janus.http_url(), "demo", "webcast")?)?;
    ensure!(error.contains("its rooms have numbers, and this is none: demo"), "{error}");
    Ok(())
}

#[test]
fn who_has_no_secret_is_refused() -> Result<()> {
    let janus = JanusServer::start(Config {
        api_secret: Some("api-secret".into()),
        rooms: vec![room_config("1")],
        ..Config::default()
    })?;
    for url in [janus.ws_url(), janus.http_url()] {
        let error = refusal_error(room(&url, "1", "webcast")?)?;
        ensure!(error.contains("it wants an API secret or a token"), "{error}");
        let error = refusal_error(with_secrets(room(&url, "1", "webcast")?, [Some("guess-1"), None, None]))?;
        ensure!(error.contains("secret or token is wrong") && !error.contains("guess-1"), "{error}");
    }
    Ok(())
}

#[test]
fn tokens_are_known_to_the_server() -> Result<()> {
    let janus =
        JanusServer::start(Config { token_auth: true, rooms: vec![room_config("1")], ..Config::default() })?;
    // What it is made of is filled in.
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
    let secret = |id: &str| Known { secret: Some("of-the-room".into()), ..room_config(id) };
    let numbers =
        JanusServer::start(Config { rooms: vec![room_config("1"), secret("2")], ..Config::default() })?;
    let texts = Config { string_ids: true, rooms: vec![secret("demo")], ..Config::default() };
    let texts = JanusServer::start(texts)?;
    // A room without a secret, one with it, and another kind of server by another way.
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
        rooms: vec![Known { secret, ..room_config("2") }],
        ..Config::default()
    })?;
    let first = start_running(room(&janus.ws_url(), "2", "webcast")?)?;
    let second = start_running(room(&janus.ws_url(), "2", "webcast")?)?;
    let wrong = with_secrets(room(&janus.ws_url(), "2", "webcast")?, [None, Some("guess-1"), None]);
    let error = refusal_error(wrong)?;
    ensure!(
        error.contains("the room's secret to throw it out is wrong") && !error.contains("guess-1"),
        "{error}"
    );
    for publisher in [first, second] {
        let status = publisher.status();
        ensure!(is_running(&status) && status.reconnects == 0, "{status:?}");
        drop(publisher.finish());
    }
    Ok(())
}

#[test]
fn a_server_that_was_killed_is_found_again() -> Result<()> {
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
    let returned = Instant::now();
    for publisher in publishers {
        let status = wait_for_status(&publisher, "finding it again", is_running)?;
        println!("back {:?} after its return", returned.elapsed());
        ensure!(status.reconnects == 1, "{status:?}");
        drop(publisher.finish());
    }
    Ok(())
}

#[test]
fn a_full_room_and_a_rejected_codec_are_reported() -> Result<()> {
    let full = Known { publishers: 1, ..room_config("1") };
    let vp9 = Known { videocodec: Some("vp9".into()), ..room_config("2") };
    let janus = JanusServer::start(Config { rooms: vec![full, vp9], ..Config::default() })?;
    let first = start_running(room(&janus.ws_url(), "1", "one")?)?;
    // Somebody may leave, so it is tried again, and the first one leaves.
    let second = Publisher::start(room(&janus.ws_url(), "1", "two")?)?;
    let status = wait_for_status(&second, "hearing that it is full", |status| status.error.is_some())?;
    ensure!(
        !second.is_finished()
            && status.error.as_deref().is_some_and(|e| e.contains("as many publish as may")),
        "{status:?}"
    );
    drop(first.finish());
    wait_for_status(&second, "getting in", is_running)?;
    drop(second.finish());
    let error = refusal_error(room(&janus.ws_url(), "2", "webcast")?)?;
    ensure!(error.contains("takes no H.264"), "{error}");
    Ok(())
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_not_trusted() -> Result<()> {
    let janus = JanusServer::start(Config { rooms: vec![room_config("1")], ..Config::default() })?;
    let publisher = Publisher::start(room(&janus.wss_url(), "1", "webcast")?)?;
    let status = wait_for_status(&publisher, "refusing", |status| status.error.is_some())?;
    println!("{:?}", status.error);
    // Somebody may put that right, so it is not given up.
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
    // That time passes is what is tested.
    std::thread::sleep(Duration::from_secs(36));
    for publisher in publishers {
        let (status, _) = publisher.finish().context("the thread panicked")?;
        ensure!(status.error.is_none() && status.reconnects == 0, "{status:?}");
    }
    Ok(())
}
