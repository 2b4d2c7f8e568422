//! Tests the embedded rooms with str0m peers: media arrive without gaps, in the layer that the link carries.

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
#[expect(dead_code, reason = "for other tests, too")]
mod peer;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use pagecast_room::embedded::{Config, Limits, RoomStats, Server};
use pagecast_testkit::wait_until;
use peer::{Layer, LinkConditions, Peer, PeerState, SessionRequest};

const TIMEOUT: Duration = Duration::from_secs(40);
/// Timeout for estimates, which grow slowly on a busy machine.
const ESTIMATE_TIMEOUT: Duration = Duration::from_secs(180);

/// Rooms with an expected publisher in `demo`, so that viewers may join first.
fn server() -> Result<Server> {
    let server = Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?;
    server.expect_publisher("demo", "somebody");
    Ok(server)
}

/// Waits for statistics of the room that meet a condition.
fn wait_for_stats(server: &Server, what: &str, condition: impl Fn(&RoomStats) -> bool) -> Result<RoomStats> {
    wait_until(what, TIMEOUT, || {
        let stats = server.stats("demo").unwrap_or_default();
        ensure!(condition(&stats), "{stats:#?}");
        Ok(stats)
    })
}

fn request_layer(server: &Server, viewer: &Peer, layer: &str) -> Result<()> {
    let path = format!("{}/layer", viewer.session);
    let body = format!("{{\"layer\":\"{layer}\"}}");
    let response = http::send_request(server.http_addr(), "POST", &path, &[], &body)?;
    ensure!(response.status == 204, "{response:?}");
    Ok(())
}

/// Number of received frames of a layer.
fn count_frames(state: &PeerState, layer: usize) -> usize {
    state.video.values().filter(|packet| packet.label.is_some_and(|label| label.0 == layer)).count()
}

/// Checks that the stream can be decoded: no packet is missing, time stamps grow, layers start with a
/// keyframe.
fn check_continuous(viewer: &Peer) -> Result<()> {
    let state = viewer.state();
    ensure!(state.missing().is_empty(), "missing {:?}", state.missing());
    ensure!(state.video.values().next().context("no frame")?.keyframe, "no keyframe at the start");
    let (mut last, mut keyframe_at) = (None::<(u64, usize, u64)>, 0);
    for packet in state.video.values() {
        let timestamp = packet.timestamp;
        if packet.keyframe {
            keyframe_at = timestamp;
        }
        let Some((layer, frame, pts)) = packet.label else { continue };
        if let Some((time, last_layer, last_frame)) = last {
            ensure!(timestamp > time, "time stamps go from {time} to {timestamp} at frame {frame}");
            if layer != last_layer {
                ensure!(keyframe_at == timestamp, "layer {layer} starts without a keyframe at {pts:?}");
            } else if frame > last_frame {
                let (passed, expected) = (timestamp - time, (frame - last_frame) * 3000);
                ensure!(
                    passed.abs_diff(expected) <= 2 || layer != last_layer,
                    "{passed} instead of {expected}"
                );
            }
        }
        last = Some((timestamp, layer, frame));
    }
    Ok(())
}

#[test]
fn published_media_arrive() -> Result<()> {
    let server = server()?;
    let publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    publisher.wait("a connection", TIMEOUT, |state| state.connected)?;
    viewer.wait("frames", TIMEOUT, |state| count_frames(state, 0) > 60 && state.audio.len() > 100)?;
    viewer.wait("the large layer", TIMEOUT, |state| state.layer() == Some(0))?;
    check_continuous(&viewer)?;
    let stats = wait_for_stats(&server, "statistics of both layers", |stats| {
        let layers = stats.publishers.first().map(|publisher| &publisher.layers[..]);
        matches!(layers, Some([h, m]) if h.width == Some(1280) && m.width == Some(640) && h.viewers == 1)
            && stats
                .viewers
                .first()
                .is_some_and(|viewer| viewer.bitrate_bps > 600_000 && viewer.rtt_ms.is_some())
    })?;
    let publisher = &stats.publishers[0];
    ensure!((900_000..1_600_000).contains(&publisher.layers[0].bitrate_bps), "{publisher:?}");
    ensure!((20.0..40.0).contains(&publisher.layers[1].fps) && publisher.audio_bps > 30_000, "{publisher:?}");
    server.stop();
    viewer.wait("the end of the session", TIMEOUT, |state| state.disconnected)
}

#[test]
fn viewers_can_join_before_the_publisher() -> Result<()> {
    let server = server()?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    viewer.wait("a connection", TIMEOUT, |state| state.connected)?;
    let publisher =
        Peer::publish(server.http_addr(), &SessionRequest::room("demo").layers(&peer::LAYERS[..1]))?;
    viewer.wait("frames", TIMEOUT, |state| state.video.len() > 100)?;
    // The viewer got the publisher's first keyframe.
    let first_label = viewer.state().video.values().find_map(|packet| packet.label);
    ensure!(first_label.is_some_and(|label| label.1 < 15));
    publisher.leave()?;
    wait_for_stats(&server, "the publisher is gone", |stats| {
        stats.publishers.is_empty() && stats.viewers.len() == 1
    })?;
    viewer.leave()?;
    wait_for_stats(&server, "the room is gone", |stats| stats.viewers.is_empty()).map(drop)
}

#[test]
fn layers_are_switched_on_request() -> Result<()> {
    let server = server()?;
    let _publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    for (name, index) in [("h", 0), ("m", 1), ("h", 0), ("m", 1), ("auto", 0)] {
        viewer.wait("a connection", TIMEOUT, |state| state.connected)?;
        request_layer(&server, &viewer, name)?;
        let before = count_frames(&viewer.state(), index);
        viewer.wait("that layer", TIMEOUT, |state| {
            state.layer() == Some(index) && count_frames(state, index) > before + 10
        })?;
    }
    check_continuous(&viewer)?;
    let answer = http::send_request(
        server.http_addr(),
        "POST",
        &format!("{}/layer", viewer.session),
        &[],
        "{\"layer\":\"x\"}",
    )?;
    ensure!(answer.status == 422, "{answer:?}");
    Ok(())
}

#[test]
fn a_starved_link_gets_less_and_audio_first() -> Result<()> {
    let server = server()?;
    let _publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    let unlimited = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    viewer
        .wait("the large layer", TIMEOUT, |state| state.layer() == Some(0) && count_frames(state, 0) > 60)?;
    viewer.set_link(LinkConditions { bandwidth_bps: Some(600_000), ..LinkConditions::default() });
    let before = Instant::now();
    viewer.wait("the small layer", TIMEOUT, |state| state.layer() == Some(1))?;
    println!("down after {:?}", before.elapsed());
    viewer.set_link(LinkConditions { bandwidth_bps: Some(110_000), ..LinkConditions::default() });
    let before = Instant::now();
    wait_for_stats(&server, "a paused video", |stats| {
        stats
            .viewers
            .iter()
            .any(|viewer| viewer.layer.is_none() && viewer.estimate_bps.is_some_and(|bps| bps < 300_000))
    })?;
    println!("paused after {:?}", before.elapsed());
    let audio_packets = viewer.state().audio.len();
    viewer.wait("audio", TIMEOUT, |state| state.audio.len() > audio_packets + 100)?;
    viewer.set_link(LinkConditions::default());
    let before = Instant::now();
    viewer.wait("the large layer again", ESTIMATE_TIMEOUT, |state| state.layer() == Some(0))?;
    println!("up after {:?}", before.elapsed());
    // The viewer on the unlimited link mostly gets the large layer, unless the machine was too busy.
    check_continuous(&unlimited)?;
    let state = unlimited.state();
    let (large, small) = (count_frames(&state, 0), count_frames(&state, 1));
    ensure!(large > small, "{large} frames of the large layer and {small} of the small one");
    Ok(())
}

#[test]
fn lost_packets_are_retransmitted() -> Result<()> {
    let server = server()?;
    let _publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let lossy =
        SessionRequest::room("demo").link(LinkConditions { drop_every: 20, ..LinkConditions::default() });
    let viewer = Peer::watch(server.http_addr(), &lossy)?;
    viewer.wait("frames", TIMEOUT, |state| state.video.keys().last().is_some_and(|last| *last > 1000))?;
    let state = viewer.state();
    let (missing, all) = (state.missing().len(), state.video.len());
    ensure!(missing * 200 < all, "{missing} of {all} are missing: nothing is retransmitted");
    Ok(())
}

/// Differences between wall-clock time by the sender reports and capture time, in seconds, per packet.
fn capture_offsets(state: &PeerState, kind: &'static str, rate: u64) -> Result<Vec<f64>> {
    let packets = if kind == "video" { &state.video } else { &state.audio };
    let (wall, time) =
        state.sender_reports.get(kind).and_then(|reports| reports.last()).context("no sender report")?;
    let wall = wall.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
    let labeled = packets.values().filter_map(|packet| Some((packet.timestamp, packet.label?.2)));
    let offset =
        |(at, pts): (u64, Duration)| wall + (at as f64 - *time as f64) / rate as f64 - pts.as_secs_f64();
    Ok(labeled.map(offset).collect())
}

#[test]
fn audio_and_video_stay_synchronized() -> Result<()> {
    let server = server()?;
    let _publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let early = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    early.wait("frames", TIMEOUT, |state| state.video.len() > 300)?;
    let late = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    for viewer in [early, late] {
        request_layer(&server, &viewer, "m")?;
        viewer.wait("the small layer", TIMEOUT, |state| count_frames(state, 1) > 40)?;
        let reports = |state: &PeerState, kind: &str| state.sender_reports.get(kind).map_or(0, Vec::len);
        let before = viewer.state().sender_reports.get("video").map_or(0, Vec::len);
        viewer.wait("sender reports", TIMEOUT, |state| {
            reports(state, "video") > before + 1 && reports(state, "audio") > 2
        })?;
        let state = viewer.state();
        let (video, audio) =
            (capture_offsets(&state, "video", 90_000)?, capture_offsets(&state, "audio", 48_000)?);
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
        let apart = (mean(&video) - mean(&audio)) * 1000.0;
        ensure!(apart.abs() < 10.0, "audio and video are {apart:.1} ms apart");
        let (first, last) = (video.first().context("none")?, video.last().context("none")?);
        ensure!((first - last).abs() < 0.010, "after a switch, frames are off by {:.4} s", first - last);
    }
    Ok(())
}

#[test]
fn viewers_stay_when_a_publisher_reconnects() -> Result<()> {
    let server = server()?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    let mut before = 0;
    for round in 0..3 {
        let publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo").user("page"))?;
        viewer.wait("frames", TIMEOUT, |state| count_frames(state, 0) > before + 40)?;
        match round {
            // It ends without closing the session; the next one replaces it.
            0 => drop(publisher),
            1 => publisher.close(),
            _ => publisher.leave()?,
        }
        before = count_frames(&viewer.state(), 0);
    }
    let state = viewer.state();
    ensure!(!state.disconnected && state.missing().is_empty(), "missing {:?}", state.missing());
    // Time stamps advance roughly as fast as packets arrive.
    let times: Vec<(u64, Instant)> = state
        .video
        .values()
        .filter(|packet| packet.label.is_some())
        .map(|packet| (packet.timestamp, packet.received_at))
        .collect();
    for pair in times.windows(2) {
        let (ticks, passed) =
            (pair[1].0.checked_sub(pair[0].0).context("time stamps go back")?, pair[1].1 - pair[0].1);
        let off = (ticks as f64 / 90_000.0 - passed.as_secs_f64()).abs();
        ensure!(off < 1.0, "{ticks} ticks for {passed:?}");
    }
    Ok(())
}

#[test]
fn the_same_user_replaces_the_earlier_one() -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let first = Peer::publish(at, &SessionRequest::room("demo").user("page"))?;
    let viewer = Peer::watch(at, &SessionRequest::room("demo"))?;
    viewer.wait("frames", TIMEOUT, |state| count_frames(state, 0) > 10)?;
    let second = Peer::publish(at, &SessionRequest::room("demo").user("page"))?;
    first.wait("the end of the first", TIMEOUT, |state| state.closed_at.is_some())?;
    for (method, headers) in [
        ("OPTIONS", &[][..]),
        ("PATCH", &[("Content-Type", "application/trickle-ice-sdpfrag"), ("If-Match", "*")]),
        ("PATCH", &[("Content-Type", "application/trickle-ice-sdpfrag")]),
        ("DELETE", &[]),
    ] {
        let answer = http::send_request(at, method, &first.session, headers, "")?;
        ensure!(
            answer.status == 410 && answer.header("pagecast-session") == Some("replaced"),
            "{method}: {answer:?}"
        );
    }
    let before = count_frames(&viewer.state(), 0);
    viewer.wait("frames of the second", TIMEOUT, |state| count_frames(state, 0) > before + 10)?;
    wait_for_stats(&server, "one publisher", |stats| stats.publishers.len() == 1)?;
    check_no_gaps(&viewer)?;
    let session = second.session.clone();
    second.leave()?;
    let answer = http::send_request(at, "OPTIONS", &session, &[], "")?;
    ensure!(answer.status == 410 && answer.header("pagecast-session") == Some("ended"), "{answer:?}");
    Ok(())
}

fn check_no_gaps(viewer: &Peer) -> Result<()> {
    let missing = viewer.state().missing();
    ensure!(missing.is_empty(), "missing {missing:?}");
    Ok(())
}

#[test]
fn several_publish_and_viewers_choose() -> Result<()> {
    let limits = Limits { publishers_per_room: 2, ..Limits::default() };
    let server = Server::start(Config { http: "127.0.0.1:0".parse()?, limits, ..Config::default() })?;
    let at = server.http_addr();
    let small = [Layer { rid: "h", bps: 200_000 }];
    let first = Peer::publish(at, &SessionRequest::room("demo").user("a"))?;
    first.wait("a connection", TIMEOUT, |state| state.connected)?;
    let _second = Peer::publish(at, &SessionRequest::room("demo").user("b").layers(&small))?;
    let third = Peer::publish(at, &SessionRequest::room("demo").user("c")).unwrap_err().to_string();
    ensure!(third.contains("409") && third.contains("2 publishers"), "{third}");
    let any = Peer::watch(at, &SessionRequest::room("demo"))?;
    let of_b = Peer::watch(at, &SessionRequest::room("demo").user("b"))?;
    any.wait("frames", TIMEOUT, |state| count_frames(state, 0) > 10)?;
    of_b.wait("frames", TIMEOUT, |state| count_frames(state, 0) > 10)?;
    let stats = wait_for_stats(&server, "both watch", |stats| {
        stats.viewers.iter().filter(|v| v.publisher.is_some()).count() == 2
    })?;
    let watched: Vec<_> =
        stats.viewers.iter().map(|viewer| viewer.publisher.as_deref().unwrap_or("")).collect();
    ensure!(watched == ["a", "b"], "{watched:?}");
    // After the first leaves, the viewer without a chosen publisher gets the other one.
    first.leave()?;
    wait_for_stats(&server, "both watch b", |stats| {
        stats.viewers.iter().all(|v| v.publisher.as_deref() == Some("b"))
    })
    .map(drop)
}

#[test]
fn bad_links_do_not_disturb_other_viewers() -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let publisher =
        Peer::publish(at, &SessionRequest::room("demo").layers(&[Layer { rid: "h", bps: 400_000 }]))?;
    publisher.wait("a connection", TIMEOUT, |state| state.connected)?;
    let begin = Instant::now();
    let bad = [
        LinkConditions { no_media: true, ..LinkConditions::default() },
        LinkConditions { tcp: true, no_reads: true, ..LinkConditions::default() },
        LinkConditions { bandwidth_bps: Some(100_000), ..LinkConditions::default() },
    ];
    let bad: Vec<Peer> = bad
        .into_iter()
        .map(|link| Peer::watch(at, &SessionRequest::room("demo").link(link)))
        .collect::<Result<_>>()?;
    let good: Vec<Peer> =
        (0..20).map(|_| Peer::watch(at, &SessionRequest::room("demo"))).collect::<Result<_>>()?;
    for viewer in &good {
        viewer.wait("frames", TIMEOUT, |state| count_frames(state, 0) > 100)?;
        check_no_gaps(viewer)?;
    }
    // However many viewers need one, a keyframe is requested at most twice per second.
    let requests = publisher.state().keyframe_requests[0];
    let max = begin.elapsed().as_secs_f64() * 2.0 + 2.0;
    ensure!(requests >= 1 && (requests as f64) <= max, "{requests} keyframes were requested");
    // A viewer that does not connect is removed.
    wait_for_stats(&server, "one viewer removed", |stats| stats.viewers.len() <= 22)?;
    drop(bad);
    Ok(())
}

#[test]
fn ice_restarts_without_a_gap() -> Result<()> {
    let server = server()?;
    let publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    viewer.wait("frames", TIMEOUT, |state| count_frames(state, 0) > 10)?;
    for _ in 0..2 {
        publisher.restart_ice()?;
        viewer.restart_ice()?;
        let before = count_frames(&viewer.state(), 0);
        // Longer than the timeout of a dead session.
        viewer.wait("frames", TIMEOUT, |state| count_frames(state, 0) > before + 500)?;
    }
    ensure!(!publisher.state().disconnected && !viewer.state().disconnected);
    check_continuous(&viewer)
}

#[test]
fn media_can_use_tcp() -> Result<()> {
    let server = server()?;
    let over_tcp =
        || SessionRequest::room("demo").link(LinkConditions { tcp: true, ..LinkConditions::default() });
    let _publisher = Peer::publish(server.http_addr(), &over_tcp())?;
    let viewer = Peer::watch(server.http_addr(), &over_tcp())?;
    viewer.wait("frames", TIMEOUT, |state| count_frames(state, 0) > 60)?;
    check_continuous(&viewer)?;
    // A viewer that stops reading is removed when its send queue is full.
    viewer.set_link(LinkConditions { no_reads: true, ..LinkConditions::default() });
    wait_for_stats(&server, "its removal", |stats| stats.viewers.is_empty()).map(drop)
}
