//! A WHIP server that is not ours.

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Room, RoomService, RoomUrl, Secret};
use pagecast_room::publish::Publisher;
use pagecast_testkit::janus::Config;
use pagecast_testkit::{Janus, Turn, Whip};
use serde_json::json;

use crate::known;
use crate::watch::{self, both_layers_are_watched, refused, running, runs, wait};

fn room(server: &Whip, token: Option<&str>, user: &str) -> Result<Room> {
    // The endpoint is found by a template.
    let url = RoomUrl::parse(&server.url("{user}"))?;
    watch::room(RoomService::Whip { url, token: token.map(Secret::new) }, "1234", user)
}

#[test]
fn a_browser_chooses_layers_of_what_came_by_whip() -> Result<()> {
    let _turn = Turn::shared()?;
    let janus = Janus::start(Config { rooms: vec![known("1234")], ..Config::default() })?;
    let Some(server) = Whip::start(&janus)? else { return Ok(()) };
    server.add_endpoint("webcast", &json!(1234), &json!({ "token": "token-of-webcast" }))?;
    let published = || room(&server, Some("token-of-{user}"), "webcast");
    both_layers_are_watched(&janus, published()?, "room=1234&user=webcast")?;
    // It was told goodbye: the endpoint is free again at once.
    let status = running(published()?)?.finish().context("the thread panicked")?.0;
    ensure!(status.error.is_none() && status.reconnects == 0, "{status:?}, {}", server.log());
    Ok(())
}

#[test]
fn a_wrong_token_is_refused_by_whip() -> Result<()> {
    let janus = Janus::start(Config { rooms: vec![known("1234")], ..Config::default() })?;
    let Some(server) = Whip::start(&janus)? else { return Ok(()) };
    server.add_endpoint("webcast", &json!(1234), &json!({ "token": "token-1" }))?;
    for token in [None, Some("guess-1")] {
        let error = refused(room(&server, token, "webcast")?)?;
        println!("{error}");
        ensure!(error.contains("403") && !error.contains("guess-1"), "{error}");
    }
    Ok(())
}

#[test]
fn whip_finds_a_server_again_that_was_killed() -> Result<()> {
    let mut janus = Janus::start(Config { rooms: vec![known("1234")], ..Config::default() })?;
    let Some(server) = Whip::start(&janus)? else { return Ok(()) };
    server.add_endpoint("webcast", &json!(1234), &json!({}))?;
    let publisher = running(room(&server, None, "webcast")?)?;
    janus.kill();
    let status = wait(&publisher, "losing the server", |status| status.error.is_some())?;
    println!("{:?}", status.error);
    janus.run()?;
    let status = wait(&publisher, "finding it again", |status| runs(status) && status.reconnects > 0)?;
    println!("{:?}, {} reconnects", status.error, status.reconnects);
    drop(Publisher::finish(publisher));
    Ok(())
}
