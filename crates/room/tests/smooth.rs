//! Viewers of a full-screen video on lines of their own: who has a good one misses no test_frame, and who has a
//! narrow one gets what fits.
#![expect(clippy::print_stdout, reason = "what was measured is shown beside a failure")]

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
#[expect(dead_code, reason = "for other tests, too")]
mod peer;
#[path = "smooth/publisher.rs"]
mod publisher;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_room::embedded::{Config, Server};
use peer::{Layer, LinkConditions, Peer, PeerState, SessionRequest};

const TIMEOUT: Duration = Duration::from_secs(40);
/// Estimates of a line on a busy machine grow slowly.
const ESTIMATE_TIMEOUT: Duration = Duration::from_secs(90);
/// A video that fills the screen, in one layer and in two.
const VIDEO_LAYERS: [Layer; 2] = [Layer { rid: "h", bps: 2_500_000 }, Layer { rid: "m", bps: 500_000 }];
/// How long viewers are followed after they joined.
const WATCH_DURATION: Duration = Duration::from_secs(20);
/// Most pictures that may be missing in a row: 133 ms of the video.
const MAX_MISSING_FRAMES: u64 = 3;

fn server() -> Result<Server> {
    Ok(Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?)
}

/// Pictures that came: which one, when it was made, and when it came.
fn received_frames(seen: &PeerState) -> Vec<(u64, Duration, Instant)> {
    let said = |got: &peer::ReceivedPacket| got.label.map(|(_, frame, made)| (frame, made, got.received_at));
    seen.video.values().filter_map(said).collect()
}

/// Most pictures in a row that never came, and by how much the latest one was later than the earliest.
fn worst_gap_and_lateness(seen: &PeerState) -> Result<(u64, Duration)> {
    let pictures = received_frames(seen);
    let (_, first_made, first_at) = *pictures.first().context("no picture")?;
    let missing = pictures.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0 + 1)).max().unwrap_or(0);
    let lateness =
        |(_, made, at): &(u64, Duration, Instant)| (*at - first_at).saturating_sub(*made - first_made);
    Ok((missing, pictures.iter().map(lateness).max().unwrap_or_default()))
}

/// Viewers on such lines, who join one after the other; each as long as the first is followed.
fn watch_over_links(layers: &[Layer], lines: &[LinkConditions]) -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let publisher = Peer::publish(at, &SessionRequest::room("demo").layers(layers))?;
    publisher.wait("it is connected", TIMEOUT, |seen| seen.connected)?;
    let mut viewers = Vec::new();
    for line in lines {
        let viewer = Peer::watch(at, &SessionRequest::room("demo").link(line.clone()))?;
        viewer.wait("a picture", TIMEOUT, |seen| !seen.video.is_empty())?;
        viewers.push(viewer);
    }
    let frames = WATCH_DURATION.as_secs() * 30;
    for (viewer, line) in viewers.iter().zip(lines) {
        viewer.wait("20 s of pictures", TIMEOUT, |seen| {
            let all = received_frames(seen);
            all.last().zip(all.first()).is_some_and(|(last, first)| last.0 > first.0 + frames)
        })?;
        let (missing, late) = worst_gap_and_lateness(&viewer.state())?;
        println!("{} layers, {line:?}: {missing} pictures missing in a row, {late:?} late", layers.len());
    }
    for viewer in &viewers {
        let (missing, _) = worst_gap_and_lateness(&viewer.state())?;
        ensure!(missing <= MAX_MISSING_FRAMES, "{missing} pictures in a row are missing on a good line");
    }
    Ok(())
}

/// Good lines: receivers with time, and those that have other things to do.
fn good_links() -> Vec<LinkConditions> {
    let busy = |busy, reads| Some([Duration::from_millis(busy), Duration::from_millis(reads)]);
    [None, busy(20, 40), busy(30, 100), busy(35, 300)]
        .map(|busy| LinkConditions { busy, ..LinkConditions::default() })
        .to_vec()
}

#[test]
fn a_video_in_one_layer_goes_on_for_all_who_join() -> Result<()> {
    watch_over_links(&VIDEO_LAYERS[..1], &good_links())
}

#[test]
fn a_video_in_two_layers_goes_on_for_all_who_join() -> Result<()> {
    watch_over_links(&VIDEO_LAYERS, &good_links())
}

/// A narrow line from the beginning: the layer that fits, whole, and the larger one when the line is good
/// again.
#[test]
fn a_viewer_on_a_narrow_link_gets_the_layer_that_fits() -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let publisher = Peer::publish(at, &SessionRequest::room("demo").layers(&VIDEO_LAYERS))?;
    publisher.wait("it is connected", TIMEOUT, |seen| seen.connected)?;
    let narrow = LinkConditions { bandwidth_bps: Some(1_000_000), ..LinkConditions::default() };
    let viewer = Peer::watch(at, &SessionRequest::room("demo").link(narrow))?;
    let began = Instant::now();
    // Five seconds of the smaller layer without a picture missing.
    viewer.wait("the smaller layer", TIMEOUT, |seen| {
        let said: Vec<_> = seen.video.values().filter_map(|got| got.label).collect();
        let Some(latest) = said.len().checked_sub(150).and_then(|from| said.get(from..)) else {
            return false;
        };
        latest.iter().all(|(layer, ..)| *layer == 1)
            && latest.windows(2).all(|pair| pair[1].1 <= pair[0].1 + 1 + MAX_MISSING_FRAMES)
    })?;
    println!("the smaller layer is whole after {:?}", began.elapsed());
    viewer.set_link(LinkConditions::default());
    let began = Instant::now();
    viewer.wait("the larger layer", ESTIMATE_TIMEOUT, |seen| seen.layer() == Some(0))?;
    println!("the larger layer is back after {:?}", began.elapsed());
    Ok(())
}
