//! Viewers of a full-screen video on lines of their own: who has a good one misses no picture, and who has a
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
use peer::{Layer, Line, Peer, Seen, Wish};

const LIMIT: Duration = Duration::from_secs(40);
/// Estimates of a line on a busy machine grow slowly.
const PATIENCE: Duration = Duration::from_secs(90);
/// A video that fills the screen, in one layer and in two.
const VIDEO: [Layer; 2] = [Layer { rid: "h", bps: 2_500_000 }, Layer { rid: "m", bps: 500_000 }];
/// How long viewers are followed after they joined.
const WATCHED: Duration = Duration::from_secs(20);
/// Most pictures that may be missing in a row: 133 ms of the video.
const MISSING_AT_MOST: u64 = 3;

fn server() -> Result<Server> {
    Ok(Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?)
}

/// Pictures that came: which one, when it was made, and when it came.
fn pictures(seen: &Seen) -> Vec<(u64, Duration, Instant)> {
    let said = |got: &peer::Got| got.says.map(|(_, frame, made)| (frame, made, got.at));
    seen.video.values().filter_map(said).collect()
}

/// Most pictures in a row that never came, and by how much the latest one was later than the earliest.
fn worst(seen: &Seen) -> Result<(u64, Duration)> {
    let pictures = pictures(seen);
    let (_, first_made, first_at) = *pictures.first().context("no picture")?;
    let missing = pictures.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0 + 1)).max().unwrap_or(0);
    let lateness =
        |(_, made, at): &(u64, Duration, Instant)| (*at - first_at).saturating_sub(*made - first_made);
    Ok((missing, pictures.iter().map(lateness).max().unwrap_or_default()))
}

/// Viewers on such lines, who join one after the other; each as long as the first is followed.
fn join(layers: &[Layer], lines: &[Line]) -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let publisher = Peer::publish(at, &Wish::room("demo").layers(layers))?;
    publisher.wait("it is connected", LIMIT, |seen| seen.connected)?;
    let mut viewers = Vec::new();
    for line in lines {
        let viewer = Peer::watch(at, &Wish::room("demo").line(line.clone()))?;
        viewer.wait("a picture", LIMIT, |seen| !seen.video.is_empty())?;
        viewers.push(viewer);
    }
    let frames = WATCHED.as_secs() * 30;
    for (viewer, line) in viewers.iter().zip(lines) {
        viewer.wait("20 s of pictures", LIMIT, |seen| {
            let all = pictures(seen);
            all.last().zip(all.first()).is_some_and(|(last, first)| last.0 > first.0 + frames)
        })?;
        let (missing, late) = worst(&viewer.seen())?;
        println!("{} layers, {line:?}: {missing} pictures missing in a row, {late:?} late", layers.len());
    }
    for viewer in &viewers {
        let (missing, _) = worst(&viewer.seen())?;
        ensure!(missing <= MISSING_AT_MOST, "{missing} pictures in a row are missing on a good line");
    }
    Ok(())
}

/// Good lines: receivers with time, and those that have other things to do.
fn good_lines() -> Vec<Line> {
    let busy = |busy, reads| Some([Duration::from_millis(busy), Duration::from_millis(reads)]);
    [None, busy(20, 40), busy(30, 100), busy(35, 300)].map(|busy| Line { busy, ..Line::default() }).to_vec()
}

#[test]
fn a_video_in_one_layer_goes_on_for_all_who_join() -> Result<()> {
    join(&VIDEO[..1], &good_lines())
}

#[test]
fn a_video_in_two_layers_goes_on_for_all_who_join() -> Result<()> {
    join(&VIDEO, &good_lines())
}

/// A narrow line from the beginning: the layer that fits, whole, and the larger one when the line is good
/// again.
#[test]
fn who_has_a_narrow_line_gets_the_layer_that_fits() -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let publisher = Peer::publish(at, &Wish::room("demo").layers(&VIDEO))?;
    publisher.wait("it is connected", LIMIT, |seen| seen.connected)?;
    let narrow = Line { bps: Some(1_000_000), ..Line::default() };
    let viewer = Peer::watch(at, &Wish::room("demo").line(narrow))?;
    let began = Instant::now();
    // Five seconds of the smaller layer without a picture missing.
    viewer.wait("the smaller layer", LIMIT, |seen| {
        let said: Vec<_> = seen.video.values().filter_map(|got| got.says).collect();
        let Some(latest) = said.len().checked_sub(150).and_then(|from| said.get(from..)) else {
            return false;
        };
        latest.iter().all(|(layer, ..)| *layer == 1)
            && latest.windows(2).all(|pair| pair[1].1 <= pair[0].1 + 1 + MISSING_AT_MOST)
    })?;
    println!("the smaller layer is whole after {:?}", began.elapsed());
    viewer.line(Line::default());
    let began = Instant::now();
    viewer.wait("the larger layer", PATIENCE, |seen| seen.layer() == Some(0))?;
    println!("the larger layer is back after {:?}", began.elapsed());
    Ok(())
}
