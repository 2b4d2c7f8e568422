//! A node that reaches neither the database nor another node.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::fleet::{BUCKET, LEASE_S, NodeConfig, TAKE_OVER_TIMEOUT, TIMEOUT};
use pagecast_testkit::rtmp::NginxRtmp;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{FleetConfig, MachineLock, Recording, Signal, TestFleet, http, wait_until};
use serde_json::{Value, json};

use crate::PAGECAST;

/// Time after the end of its lease within which a node must have stopped, on a busy machine.
const STOP_DELAY: Duration = Duration::from_secs(4);
/// Range of the clock that pages show, in milliseconds.
const PAGE_CLOCK_RANGE_MS: f64 = 1e8;

/// Statistics of the publisher of a room that sends packets, if there is one.
fn active_publisher(watch: &str) -> Result<Option<Value>> {
    let stats = http::request("GET", &format!("{watch}/stats"), &[], b"")?;
    // A room that is empty does not exist.
    if stats.status == 404 {
        return Ok(None);
    }
    let stats = stats.json()?;
    let mut publishers = stats["publishers"].as_array().into_iter().flatten();
    Ok(publishers.find(|publisher| publisher["active"] == true).cloned())
}

/// Bytes in a folder, without its folders.
fn size_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// Times at which the page drew the first and the last picture of a file, in milliseconds.
fn drawn_between(file: &Path) -> Result<(f64, f64)> {
    let pictures = Recording::open(file)?.timecodes(TimecodePosition::PAGE)?;
    let mut times = pictures.iter().filter_map(|picture| Some(picture.timecode.as_ref()?.page_s() * 1e3));
    let first = times.next().with_context(|| format!("{} shows no page", file.display()))?;
    Ok((first, times.next_back().unwrap_or(first)))
}

/// Checks what the RTMP server got of each node, by the clock of the pages: the first one stopped soon after
/// the end of its lease, and before the second one began.
fn verify_pushes(rtmp: &NginxRtmp, cut_at: SystemTime) -> Result<()> {
    let pushed = rtmp.recordings("cast")?;
    ensure!(pushed.len() == 2, "{pushed:?}");
    let ((_, last), (first, _)) = (drawn_between(&pushed[0])?, drawn_between(&pushed[1])?);
    let cut_ms = cut_at.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() * 1e3 % PAGE_CLOCK_RANGE_MS;
    let (ended, gap) = ((last - cut_ms) / 1e3, (first - last) / 1e3);
    println!("pushing ended {ended:.1} s after the cut; the server got no picture for {gap:.1} s");
    ensure!(ended < LEASE_S as f64 + STOP_DELAY.as_secs_f64(), "pushed {ended:.1} s after the cut");
    ensure!(gap > 0.0, "two nodes pushed for {:.1} s", -gap);
    Ok(())
}

#[test]
fn a_node_that_is_cut_off_stops_its_outputs_and_records_on() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let rtmp = NginxRtmp::start(None)?;
    let roles = r#"roles = ["api", "worker"]"#.to_owned();
    let nodes = vec![NodeConfig::default(), NodeConfig { fleet_toml: roles, ..NodeConfig::default() }];
    let mut fleet = TestFleet::start(PAGECAST, &FleetConfig { nodes, ..FleetConfig::of_nodes(0) })?;
    let mut request = fleet.recording_request("hls");
    request["room"] = json!({ "room": "lecture", "user": "page" });
    request["pushes"] = json!([{ "url": rtmp.url("cast") }]);
    // The first node is paused, so the second one gets the cast. The room is on the first one.
    fleet.nodes[0].signal(Signal::STOP)?;
    let id = fleet.create_cast(1, &request)?;
    fleet.nodes[1].wait_until_cast(&id, "it is claimed", TIMEOUT, |cast| cast["node"] == "n1")?;
    fleet.nodes[0].signal(Signal::CONT)?;
    let cast = fleet.nodes[0].wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    let watch = cast["room"]["watch_url"].as_str().with_context(|| format!("no room in {cast:#}"))?;
    fleet.wait_for_segments(&id, 3, TIMEOUT)?;
    let publisher =
        wait_until("the cast publishes", TIMEOUT, || active_publisher(watch)?.context("nobody publishes"))?;
    let since = |publisher: &Value| publisher["published_since_ms"].as_u64();
    wait_until("the cast is pushed", TIMEOUT, || {
        ensure!(rtmp.recordings("cast")?.len() == 1, "{:?}", rtmp.recordings("cast")?);
        Ok(())
    })?;

    let (cut_at, cut_clock) = (Instant::now(), SystemTime::now());
    fleet.set_cut_off(1, true);
    wait_until("its publishing ends", Duration::from_secs(LEASE_S) + 2 * STOP_DELAY, || {
        let active = active_publisher(watch)?.filter(|active| since(active) == since(&publisher));
        ensure!(active.is_none(), "{active:?}");
        Ok(())
    })?;
    println!("publishing ended {:.1} s after the cut", cut_at.elapsed().as_secs_f64());
    let spool = fleet.nodes[1].data_folder().join("spool").join(&id);
    let spooled = size_of(&spool);
    fleet.wait_for_take_over(&id)?;
    println!("another node recorded {:.1} s after the cut", cut_at.elapsed().as_secs_f64());
    let stored = |fleet: &TestFleet| -> Result<usize> {
        Ok(fleet.s3.objects(BUCKET)?.into_keys().filter(|name| !name.contains("_r2_")).count())
    };
    let stored_before = stored(&fleet)?;
    wait_until("the other node publishes", TAKE_OVER_TIMEOUT, || {
        let active = active_publisher(watch)?.context("nobody publishes")?;
        ensure!(since(&active) > since(&publisher), "{active}");
        Ok(())
    })?;
    wait_until("the other node pushes", TAKE_OVER_TIMEOUT, || {
        ensure!(rtmp.recordings("cast")?.len() == 2, "{}", rtmp.log());
        Ok(())
    })?;
    wait_until("the node that is cut off records on", TIMEOUT, || {
        ensure!(size_of(&spool) > spooled, "the spool has still {spooled} bytes");
        Ok(())
    })?;
    ensure!(fleet.nodes[0].cast_pids().len() == 1 && fleet.nodes[1].cast_pids().len() == 1);
    // Once it is back, it may store what the other node does not have.
    ensure!(stored(&fleet)? == stored_before, "the node that is cut off stored something");

    fleet.set_cut_off(1, false);
    let node = &mut fleet.nodes[1];
    wait_until("it lets the cast go", TIMEOUT, || {
        ensure!(node.cast_pids().is_empty(), "{:?} run it", node.cast_pids());
        Ok(())
    })?;
    fleet.wait_for_segments(&id, 3, TIMEOUT)?;
    fleet.stop_cast(1, &id)?;
    let playlist = fleet.playlist(&id);
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 1, "{playlist}");
    verify_pushes(&rtmp, cut_clock)
}
