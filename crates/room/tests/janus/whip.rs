//! Tests publishing to a third-party WHIP server.

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Room, RoomService, RoomUrl, Secret};
use pagecast_room::publish::Publisher;
use pagecast_testkit::janus::Config;
use pagecast_testkit::{JanusServer, MachineLock, WhipServer};
use serde_json::json;

use crate::room_config;
use crate::support::{
    self, both_layers_are_watched, is_running, refusal_error, start_running, wait_for_status,
};

fn room(server: &WhipServer, token: Option<&str>, user: &str) -> Result<Room> {
    // The URL is a template that contains the user.
    let url = RoomUrl::parse(&server.url("{user}"))?;
    support::room(RoomService::Whip { url, token: token.map(Secret::new) }, "1234", user)
}

#[test]
fn a_browser_gets_both_layers_published_over_whip() -> Result<()> {
    let _lock = MachineLock::shared()?;
    let janus = JanusServer::start(Config { rooms: vec![room_config("1234")], ..Config::default() })?;
    let Some(server) = WhipServer::start(&janus)? else { return Ok(()) };
    server.add_endpoint("webcast", &json!(1234), &json!({ "token": "token-of-webcast" }))?;
    let published = || room(&server, Some("token-of-{user}"), "webcast");
    both_layers_are_watched(&janus, published()?, "room=1234&user=webcast")?;
    // The session was closed, so the endpoint is free at once.
    let status = start_running(published()?)?.finish().context("the thread panicked")?.0;
    ensure!(status.error.is_none() && status.reconnects == 0, "{status:?}, {}", server.log());
    Ok(())
}

#[test]
fn a_wrong_token_is_refused_by_whip() -> Result<()> {
    let janus = JanusServer::start(Config { rooms: vec![room_config("1234")], ..Config::default() })?;
    let Some(server) = WhipServer::start(&janus)? else { return Ok(()) };
    server.add_endpoint("webcast", &json!(1234), &json!({ "token": "token-1" }))?;
    for token in [None, Some("guess-1")] {
        let error = refusal_error(room(&server, token, "webcast")?)?;
        println!("{error}");
        ensure!(error.contains("403") && !error.contains("guess-1"), "{error}");
    }
    Ok(())
}

#[test]
fn a_whip_publisher_reconnects_to_a_restarted_server() -> Result<()> {
    let mut janus = JanusServer::start(Config { rooms: vec![room_config("1234")], ..Config::default() })?;
    let Some(server) = WhipServer::start(&janus)? else { return Ok(()) };
    server.add_endpoint("webcast", &json!(1234), &json!({}))?;
    let publisher = start_running(room(&server, None, "webcast")?)?;
    janus.kill();
    let status = wait_for_status(&publisher, "losing the server", |status| status.error.is_some())?;
    println!("{:?}", status.error);
    janus.restart()?;
    let status =
        wait_for_status(&publisher, "reconnecting", |status| is_running(status) && status.reconnects > 0)?;
    println!("{:?}, {} reconnects", status.error, status.reconnects);
    drop(Publisher::finish(publisher));
    Ok(())
}
