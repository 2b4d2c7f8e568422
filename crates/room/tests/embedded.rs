//! The embedded room with peers of str0m: what is published arrives, numbered without a gap, in the layer that the line carries.

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
mod peer;

use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_room::embedded::{Config, Server};
use peer::{Peer, Wish};

const LIMIT: Duration = Duration::from_secs(30);

fn server() -> Result<Server> {
    Ok(Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?)
}

#[test]
fn what_is_published_arrives() -> Result<()> {
    let server = server()?;
    let publisher = Peer::publish(server.http_addr(), &Wish::room("demo"))?;
    let viewer = Peer::watch(server.http_addr(), &Wish::room("demo"))?;
    publisher.wait("it is connected", LIMIT, |seen| seen.connected)?;
    viewer.wait("pictures", LIMIT, |seen| seen.video.len() > 300 && seen.audio.len() > 100)?;
    let seen = viewer.seen();
    ensure!(seen.layer() == Some(0), "layer {:?}", seen.layer());
    ensure!(seen.missing().is_empty(), "missing {:?}", seen.missing());
    ensure!(seen.video.values().next().is_some_and(|got| got.keyframe), "it does not begin with a keyframe");
    Ok(())
}
