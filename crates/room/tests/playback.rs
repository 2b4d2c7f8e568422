//! Tests playback of a full-screen video over emulated links: a good link loses no frames, a narrow one gets
//! the layer that fits.
#![expect(clippy::print_stdout, reason = "measurements help to understand a failure")]

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
#[expect(dead_code, reason = "for other tests, too")]
mod peer;
#[path = "playback/publisher.rs"]
mod publisher;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_room::embedded::{Config, Server};
use peer::{Layer, LinkConditions, Peer, PeerState, SessionRequest};

const TIMEOUT: Duration = Duration::from_secs(40);
/// Timeout for estimates, which grow slowly on a busy machine.
const ESTIMATE_TIMEOUT: Duration = Duration::from_secs(90);
/// Layers of a full-screen video.
const VIDEO_LAYERS: [Layer; 2] = [Layer { rid: "h", bps: 2_500_000 }, Layer { rid: "m", bps: 500_000 }];
/// Time for which viewers are observed after they joined.
const WATCH_DURATION: Duration = Duration::from_secs(20);
/// Most consecutive frames that may be missing: 100 ms of the video.
const MAX_MISSING_FRAMES: u64 = 3;

fn server() -> Result<Server> {
    Ok(Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?)
}

/// Received frames: number, capture time, and arrival.
fn received_frames(state: &PeerState) -> Vec<(u64, Duration, Instant)> {
    let frame =
        |packet: &peer::ReceivedPacket| packet.label.map(|(_, frame, pts)| (frame, pts, packet.received_at));
    state.video.values().filter_map(frame).collect()
}

/// The largest number of consecutive missing frames, and the largest delay relative to the first frame.
fn worst_gap_and_lateness(state: &PeerState) -> Result<(u64, Duration)> {
    let frames = received_frames(state);
    let (_, first_pts, first_at) = *frames.first().context("no frame")?;
    let missing = frames.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0 + 1)).max().unwrap_or(0);
    let lateness =
        |(_, pts, at): &(u64, Duration, Instant)| (*at - first_at).saturating_sub(*pts - first_pts);
    Ok((missing, frames.iter().map(lateness).max().unwrap_or_default()))
}

/// Watches over these links, with viewers that join one after the other, and checks their gaps.
fn watch_over_links(layers: &[Layer], links: &[LinkConditions]) -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let publisher = Peer::publish(at, &SessionRequest::room("demo").layers(layers))?;
    publisher.wait("a connection", TIMEOUT, |state| state.connected)?;
    let mut viewers = Vec::new();
    for link in links {
        let viewer = Peer::watch(at, &SessionRequest::room("demo").link(link.clone()))?;
        viewer.wait("a frame", TIMEOUT, |state| !state.video.is_empty())?;
        viewers.push(viewer);
    }
    let frames = WATCH_DURATION.as_secs() * 30;
    for (viewer, link) in viewers.iter().zip(links) {
        viewer.wait("20 s of frames", TIMEOUT, |state| {
            let all = received_frames(state);
            all.last().zip(all.first()).is_some_and(|(last, first)| last.0 > first.0 + frames)
        })?;
        let (missing, late) = worst_gap_and_lateness(&viewer.state())?;
        println!("{} layers, {link:?}: {missing} consecutive frames missing, {late:?} late", layers.len());
    }
    for viewer in &viewers {
        let (missing, _) = worst_gap_and_lateness(&viewer.state())?;
        ensure!(missing <= MAX_MISSING_FRAMES, "{missing} consecutive frames are missing on a good link");
    }
    Ok(())
}

/// Good links, some with receivers that are busy at times.
fn good_links() -> Vec<LinkConditions> {
    let busy = |busy, reads| Some([Duration::from_millis(busy), Duration::from_millis(reads)]);
    [None, busy(20, 40), busy(30, 100), busy(35, 300)]
        .map(|busy| LinkConditions { busy, ..LinkConditions::default() })
        .to_vec()
}

#[test]
fn a_video_in_one_layer_plays_without_gaps() -> Result<()> {
    watch_over_links(&VIDEO_LAYERS[..1], &good_links())
}

#[test]
fn a_video_in_two_layers_plays_without_gaps() -> Result<()> {
    watch_over_links(&VIDEO_LAYERS, &good_links())
}

/// A viewer on a narrow link gets the smaller layer without gaps from the start, and the larger one when the
/// link improves.
#[test]
fn a_viewer_on_a_narrow_link_gets_the_layer_that_fits() -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let publisher = Peer::publish(at, &SessionRequest::room("demo").layers(&VIDEO_LAYERS))?;
    publisher.wait("a connection", TIMEOUT, |state| state.connected)?;
    let narrow = LinkConditions { bandwidth_bps: Some(1_000_000), ..LinkConditions::default() };
    let viewer = Peer::watch(at, &SessionRequest::room("demo").link(narrow))?;
    let frames = 10 * 30;
    viewer.wait("10 s of frames", TIMEOUT, |state| {
        let all = received_frames(state);
        all.last().zip(all.first()).is_some_and(|(last, first)| last.0 > first.0 + frames)
    })?;
    let (missing, late) = worst_gap_and_lateness(&viewer.state())?;
    println!("1 Mbit/s: {missing} consecutive frames missing, {late:?} late");
    ensure!(missing <= MAX_MISSING_FRAMES, "{missing} consecutive frames are missing on a narrow link");
    ensure!(viewer.state().layer() == Some(1), "{:?}", viewer.state().layer());
    viewer.set_link(LinkConditions::default());
    let began = Instant::now();
    viewer.wait("the larger layer", ESTIMATE_TIMEOUT, |state| state.layer() == Some(0))?;
    println!("the larger layer is back after {:?}", began.elapsed());
    Ok(())
}
