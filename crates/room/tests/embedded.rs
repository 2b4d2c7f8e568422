//! The embedded room with peers of str0m: what is published arrives, numbered without a gap, in the layer
//! that the line carries.

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
#[expect(dead_code, reason = "for other tests, too")]
mod peer;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use pagecast_room::embedded::{Config, Limits, RoomStats, Server};
use peer::{Layer, LinkConditions, Peer, PeerState, SessionRequest};

const TIMEOUT: Duration = Duration::from_secs(40);
/// Estimates of a line on a busy machine grow slowly.
const ESTIMATE_TIMEOUT: Duration = Duration::from_secs(180);

/// Rooms, of which one is going to be published in: viewers may come first.
fn server() -> Result<Server> {
    let server = Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?;
    server.expect_publisher("demo", "somebody");
    Ok(server)
}

/// Waits until the room says this of itself.
fn wait_for_stats(server: &Server, what: &str, condition: impl Fn(&RoomStats) -> bool) -> Result<RoomStats> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let stats = server.stats("demo").unwrap_or_default();
        if condition(&stats) {
            return Ok(stats);
        }
        ensure!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}; {stats:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn request_layer(server: &Server, viewer: &Peer, layer: &str) -> Result<()> {
    let path = format!("{}/layer", viewer.session);
    let answer =
        http::send_request(server.http_addr(), "POST", &path, &[], &format!("{{\"layer\":\"{layer}\"}}"))?;
    ensure!(answer.status == 204, "{answer:?}");
    Ok(())
}

/// How many pictures came since this was asked the last time, by layer.
fn count_frames(seen: &PeerState, layer: usize) -> usize {
    seen.video.values().filter(|got| got.label.is_some_and(|says| says.0 == layer)).count()
}

/// One stream, as decoders like it: no number is missing, time goes on, and a layer begins with a keyframe.
fn check_continuous(viewer: &Peer) -> Result<()> {
    let seen = viewer.state();
    ensure!(seen.missing().is_empty(), "missing {:?}", seen.missing());
    ensure!(seen.video.values().next().context("no picture")?.keyframe, "it does not begin with a keyframe");
    let (mut last, mut keyframe_at) = (None::<(u64, usize, u64)>, 0);
    for got in seen.video.values() {
        if got.keyframe {
            keyframe_at = got.timestamp;
        }
        let Some((layer, frame, made)) = got.label else { continue };
        if let Some((time, last_layer, last_frame)) = last {
            ensure!(got.timestamp > time, "time goes from {time} to {} at frame {frame}", got.timestamp);
            if layer != last_layer {
                ensure!(keyframe_at == got.timestamp, "layer {layer} begins without a keyframe at {made:?}");
            } else if frame > last_frame {
                let (passed, expected) = (got.timestamp - time, (frame - last_frame) * 3000);
                ensure!(
                    passed.abs_diff(expected) <= 2 || layer != last_layer,
                    "{passed} instead of {expected}"
                );
            }
        }
        last = Some((got.timestamp, layer, frame));
    }
    Ok(())
}

#[test]
fn what_is_published_arrives() -> Result<()> {
    let server = server()?;
    let publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    publisher.wait("it is connected", TIMEOUT, |seen| seen.connected)?;
    viewer.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > 60 && seen.audio.len() > 100)?;
    viewer.wait("the large layer", TIMEOUT, |seen| seen.layer() == Some(0))?;
    check_continuous(&viewer)?;
    let stats = wait_for_stats(&server, "all is told", |stats| {
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
    viewer.wait("the end is told", TIMEOUT, |seen| seen.disconnected)
}

#[test]
fn who_comes_first_waits() -> Result<()> {
    let server = server()?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    viewer.wait("it is connected", TIMEOUT, |seen| seen.connected)?;
    let publisher =
        Peer::publish(server.http_addr(), &SessionRequest::room("demo").layers(&peer::LAYERS[..1]))?;
    viewer.wait("pictures", TIMEOUT, |seen| seen.video.len() > 100)?;
    // The first keyframe of all was for this viewer, too.
    ensure!(viewer.state().video.values().find_map(|got| got.label).is_some_and(|says| says.1 < 15));
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
    for (name, place) in [("h", 0), ("m", 1), ("h", 0), ("m", 1), ("auto", 0)] {
        viewer.wait("it is connected", TIMEOUT, |seen| seen.connected)?;
        request_layer(&server, &viewer, name)?;
        let before = count_frames(&viewer.state(), place);
        viewer.wait("that layer", TIMEOUT, |seen| {
            seen.layer() == Some(place) && count_frames(seen, place) > before + 10
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
    let rich = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    viewer.wait("the large layer", TIMEOUT, |seen| seen.layer() == Some(0) && count_frames(seen, 0) > 60)?;
    viewer.set_link(LinkConditions { bandwidth_bps: Some(600_000), ..LinkConditions::default() });
    let before = Instant::now();
    viewer.wait("the small layer", TIMEOUT, |seen| seen.layer() == Some(1))?;
    println!("down after {:?}", before.elapsed());
    viewer.set_link(LinkConditions { bandwidth_bps: Some(110_000), ..LinkConditions::default() });
    let before = Instant::now();
    wait_for_stats(&server, "no picture", |stats| {
        stats
            .viewers
            .iter()
            .any(|viewer| viewer.layer.is_none() && viewer.estimate_bps.is_some_and(|bps| bps < 300_000))
    })?;
    println!("paused after {:?}", before.elapsed());
    let sound = viewer.state().audio.len();
    viewer.wait("sound", TIMEOUT, |seen| seen.audio.len() > sound + 100)?;
    viewer.set_link(LinkConditions::default());
    let before = Instant::now();
    viewer.wait("the large layer again", ESTIMATE_TIMEOUT, |seen| seen.layer() == Some(0))?;
    println!("up after {:?}", before.elapsed());
    // Who has a good line has noticed nothing, unless the machine was so busy that its line was not good.
    check_continuous(&rich)?;
    let seen = rich.state();
    let (large, small) = (count_frames(&seen, 0), count_frames(&seen, 1));
    ensure!(large > small, "{large} large pictures and {small} small ones");
    Ok(())
}

#[test]
fn what_is_lost_is_sent_again() -> Result<()> {
    let server = server()?;
    let _publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let lossy =
        SessionRequest::room("demo").link(LinkConditions { drop_every: 20, ..LinkConditions::default() });
    let viewer = Peer::watch(server.http_addr(), &lossy)?;
    viewer.wait("pictures", TIMEOUT, |seen| seen.video.keys().last().is_some_and(|last| *last > 1000))?;
    let seen = viewer.state();
    let (missing, all) = (seen.missing().len(), seen.video.len());
    ensure!(missing * 200 < all, "{missing} of {all} are missing: nothing is sent again");
    Ok(())
}

/// Time stamps of a kind mean the same moments: when it was made, by the wall clock of the sender reports.
fn capture_offsets(seen: &PeerState, kind: &'static str, rate: u64) -> Result<Vec<f64>> {
    let packets = if kind == "video" { &seen.video } else { &seen.audio };
    let (wall, time) =
        seen.sender_reports.get(kind).and_then(|reports| reports.last()).context("no sender report")?;
    let wall = wall.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
    let said = packets.values().filter_map(|got| Some((got.timestamp, got.label?.2)));
    Ok(said.map(|(at, made)| wall + (at as f64 - *time as f64) / rate as f64 - made.as_secs_f64()).collect())
}

#[test]
fn picture_and_sound_stay_together() -> Result<()> {
    let server = server()?;
    let _publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let early = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    early.wait("pictures", TIMEOUT, |seen| seen.video.len() > 300)?;
    let late = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    for viewer in [early, late] {
        request_layer(&server, &viewer, "m")?;
        viewer.wait("the small layer", TIMEOUT, |seen| count_frames(seen, 1) > 40)?;
        let reports = |seen: &PeerState, kind: &str| seen.sender_reports.get(kind).map_or(0, Vec::len);
        let before = viewer.state().sender_reports.get("video").map_or(0, Vec::len);
        viewer.wait("reports", TIMEOUT, |seen| {
            reports(seen, "video") > before + 1 && reports(seen, "audio") > 2
        })?;
        let seen = viewer.state();
        let (video, audio) =
            (capture_offsets(&seen, "video", 90_000)?, capture_offsets(&seen, "audio", 48_000)?);
        let middle = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
        let apart = (middle(&video) - middle(&audio)) * 1000.0;
        ensure!(apart.abs() < 10.0, "sound and picture are {apart:.1} ms apart");
        let (first, last) = (video.first().context("none")?, video.last().context("none")?);
        ensure!((first - last).abs() < 0.010, "after a switch, pictures are off by {:.4} s", first - last);
    }
    Ok(())
}

#[test]
fn viewers_stay_when_a_publisher_goes_and_comes_again() -> Result<()> {
    let server = server()?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    let mut before = 0;
    for round in 0..3 {
        let publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo").user("page"))?;
        viewer.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > before + 40)?;
        match round {
            // Gone without a word: another one takes its place.
            0 => drop(publisher),
            1 => publisher.close(),
            _ => publisher.leave()?,
        }
        before = count_frames(&viewer.state(), 0);
    }
    let seen = viewer.state();
    ensure!(!seen.disconnected && seen.missing().is_empty(), "missing {:?}", seen.missing());
    // Time has gone on as it does: each frame is as much later than the last as it came later, roughly.
    let times: Vec<(u64, Instant)> = seen
        .video
        .values()
        .filter(|got| got.label.is_some())
        .map(|got| (got.timestamp, got.received_at))
        .collect();
    for pair in times.windows(2) {
        let (ticks, passed) =
            (pair[1].0.checked_sub(pair[0].0).context("time goes back")?, pair[1].1 - pair[0].1);
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
    viewer.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > 10)?;
    let second = Peer::publish(at, &SessionRequest::room("demo").user("page"))?;
    first.wait("the goodbye", TIMEOUT, |seen| seen.closed_at.is_some())?;
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
    viewer.wait("pictures of the second", TIMEOUT, |seen| count_frames(seen, 0) > before + 10)?;
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
    first.wait("it is connected", TIMEOUT, |seen| seen.connected)?;
    let _second = Peer::publish(at, &SessionRequest::room("demo").user("b").layers(&small))?;
    let third = Peer::publish(at, &SessionRequest::room("demo").user("c")).unwrap_err().to_string();
    ensure!(third.contains("409") && third.contains("2 publishers"), "{third}");
    let any = Peer::watch(at, &SessionRequest::room("demo"))?;
    let of_b = Peer::watch(at, &SessionRequest::room("demo").user("b"))?;
    any.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > 10)?;
    of_b.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > 10)?;
    let stats = wait_for_stats(&server, "both watch", |stats| {
        stats.viewers.iter().filter(|v| v.watches.is_some()).count() == 2
    })?;
    let watched: Vec<_> =
        stats.viewers.iter().map(|viewer| viewer.watches.as_deref().unwrap_or("")).collect();
    ensure!(watched == ["a", "b"], "{watched:?}");
    // The first leaves: who did not choose sees the other one.
    first.leave()?;
    wait_for_stats(&server, "both watch b", |stats| {
        stats.viewers.iter().all(|v| v.watches.as_deref() == Some("b"))
    })
    .map(drop)
}

#[test]
fn twenty_watch_and_some_of_them_badly() -> Result<()> {
    let server = server()?;
    let at = server.http_addr();
    let publisher =
        Peer::publish(at, &SessionRequest::room("demo").layers(&[Layer { rid: "h", bps: 400_000 }]))?;
    publisher.wait("it is connected", TIMEOUT, |seen| seen.connected)?;
    let begin = Instant::now();
    let bad = [
        LinkConditions { no_media: true, ..LinkConditions::default() },
        LinkConditions { tcp: true, no_reads: true, ..LinkConditions::default() },
        LinkConditions { bandwidth_bps: Some(100_000), ..LinkConditions::default() },
    ];
    let bad: Vec<Peer> = bad
        .into_iter()
        .map(|line| Peer::watch(at, &SessionRequest::room("demo").link(line)))
        .collect::<Result<_>>()?;
    let good: Vec<Peer> =
        (0..20).map(|_| Peer::watch(at, &SessionRequest::room("demo"))).collect::<Result<_>>()?;
    for viewer in &good {
        viewer.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > 100)?;
        check_no_gaps(viewer)?;
    }
    // However many send_request, the publisher is asked twice a second at most.
    let asked = publisher.state().keyframe_requests[0];
    let most = begin.elapsed().as_secs_f64() * 2.0 + 2.0;
    ensure!(asked >= 1 && (asked as f64) <= most, "{asked} keyframes were asked for");
    // The one that never even said hello is let go.
    wait_for_stats(&server, "one is gone", |stats| stats.viewers.len() <= 22)?;
    drop(bad);
    Ok(())
}

#[test]
fn new_ways_are_found_while_media_go_on() -> Result<()> {
    let server = server()?;
    let publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    viewer.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > 10)?;
    for _ in 0..2 {
        publisher.restart_ice()?;
        viewer.restart_ice()?;
        let before = count_frames(&viewer.state(), 0);
        // Longer than a dead connection is waited for.
        viewer.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > before + 500)?;
    }
    ensure!(!publisher.state().disconnected && !viewer.state().disconnected);
    check_continuous(&viewer)
}

#[test]
fn tcp_does_where_udp_does_not() -> Result<()> {
    let server = server()?;
    let by_tcp =
        || SessionRequest::room("demo").link(LinkConditions { tcp: true, ..LinkConditions::default() });
    let _publisher = Peer::publish(server.http_addr(), &by_tcp())?;
    let viewer = Peer::watch(server.http_addr(), &by_tcp())?;
    viewer.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > 60)?;
    check_continuous(&viewer)?;
    // It reads no more: what is for it piles up, until it is cut off.
    viewer.set_link(LinkConditions { no_reads: true, ..LinkConditions::default() });
    wait_for_stats(&server, "it is cut off", |stats| stats.viewers.is_empty()).map(drop)
}

#[test]
#[ignore = "for people"]
fn trace_link_stats() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let server = server()?;
    let _publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    let viewer = Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?;
    viewer.wait("the large layer", TIMEOUT, |seen| seen.layer() == Some(0) && count_frames(seen, 0) > 150)?;
    for (bps, seconds) in [(Some(600_000), 6)] {
        viewer.set_link(LinkConditions { bandwidth_bps: bps, ..LinkConditions::default() });
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_millis(200));
            let stats = server.stats("demo").unwrap_or_default();
            let of = &stats.viewers[0];
            println!(
                "{bps:?} {:4.1} sent {:8} estimate {:8} layer {:?} got {:?} rtt {:?} loss {:?}",
                begin.elapsed().as_secs_f64(),
                of.bitrate_bps,
                of.estimate_bps.unwrap_or(0),
                of.layer,
                viewer.state().layer(),
                of.rtt_ms,
                of.loss
            );
        }
    }
    Ok(())
}

/// What the thread of the room has used of the processor.
fn room_thread_cpu_time() -> Result<Duration> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == "room" {
            let stat = std::fs::read_to_string(task.join("stat"))?;
            let fields: Vec<&str> = stat.rsplit(')').next().context("no stat")?.split_whitespace().collect();
            let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
            return Ok(Duration::from_millis(ticks * 10));
        }
    }
    anyhow::bail!("there is no thread of this name")
}

#[test]
#[ignore = "for people: what a viewer costs"]
fn what_a_viewer_costs() -> Result<()> {
    let server = server()?;
    let publisher = Peer::publish(server.http_addr(), &SessionRequest::room("demo"))?;
    publisher.wait("it is connected", TIMEOUT, |seen| seen.connected)?;
    let mut viewers = Vec::new();
    for many in [0, 1, 20] {
        while viewers.len() < many {
            viewers.push(Peer::watch(server.http_addr(), &SessionRequest::room("demo"))?);
        }
        for viewer in &viewers {
            viewer.wait("pictures", TIMEOUT, |seen| count_frames(seen, 0) > 60)?;
        }
        let (before, begin) = (room_thread_cpu_time()?, Instant::now());
        std::thread::sleep(Duration::from_secs(10));
        let cores = (room_thread_cpu_time()? - before).as_secs_f64() / begin.elapsed().as_secs_f64();
        println!("{many} viewers: {cores:.3} cores");
    }
    Ok(())
}
