//! Three nodes on one PostgreSQL database are one service: any node answers for any cast, a cast goes on
//! elsewhere when its node dies, and nothing ends when the database does not answer.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

#[path = "fleet/moving.rs"]
mod moving;
#[path = "fleet/partition.rs"]
mod partition;
#[path = "fleet/store.rs"]
mod store;
#[path = "fleet/tenants.rs"]
mod tenants;
#[path = "fleet/viewer.rs"]
mod viewer;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use pagecast_testkit::fleet::{BUCKET, LEASE_S, TAKE_OVER_TIMEOUT, TIMEOUT};
use pagecast_testkit::timecode::{Timecode, TimecodePosition};
use pagecast_testkit::{FleetConfig, MachineLock, Recording, Signal, TestFleet, wait_until};
use serde_json::json;

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");

/// Starts a fleet in which a cast records the counter page in this format, and some segments are stored.
/// Returns it with the cast's id and the node that runs the cast.
fn start_with_recording(nodes: usize, format: &str) -> Result<(TestFleet, String, usize)> {
    let mut fleet = TestFleet::start(PAGECAST, &FleetConfig::of_nodes(nodes))?;
    let id = fleet.start_recording(0, format)?;
    fleet.wait_for_segments(&id, 3, TIMEOUT)?;
    let owner = fleet.owner()?;
    Ok((fleet, id, owner))
}

#[test]
fn a_cast_goes_on_elsewhere_when_its_node_dies() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (mut fleet, id, first) = start_with_recording(3, "both")?;
    let (other, stopper) = ((first + 1) % 3, (first + 2) % 3);
    // Another node answers for it.
    let cast = fleet.nodes[other].rest("GET", &format!("/v1/casts/{id}"), None)?.json()?;
    ensure!(cast["state"] == "live", "{cast:#}");

    let died = Instant::now();
    fleet.kill_node(first)?;
    let listed = fleet.playlist(&id);
    fleet.wait_for_take_over(&id)?;
    println!("first segment {:.1} s after the death", died.elapsed().as_secs_f64());
    let second = wait_until("one node runs the cast", TIMEOUT, || fleet.owner())?;
    ensure!(second != first);
    fleet.wait_for_segments(&id, 2, TIMEOUT)?;

    // The dead node comes back and must change nothing.
    fleet.nodes[first].restart()?;
    fleet.wait_for_segments(&id, 3, TIMEOUT)?;
    ensure!(fleet.owner()? == second, "the cast went back");
    fleet.stop_cast(stopper, &id)?;
    let playlist = fleet.playlist(&id);
    ensure!(playlist.ends_with("#EXT-X-ENDLIST\n"), "{playlist}");
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 1, "{playlist}");
    // The last segment may have been stored when the fleet did not know of it yet.
    let names: Vec<&str> = listed.lines().filter(|line| line.ends_with(".m4s")).collect();
    for name in &names[..names.len().saturating_sub(1)] {
        ensure!(playlist.contains(name), "{name} is gone from {playlist}");
    }
    let writes = fleet.s3.write_counts(BUCKET);
    let twice: Vec<_> = writes
        .iter()
        .filter(|(name, count)| **count > 1 && !name.ends_with(".m3u8") && !name.ends_with(".json"))
        .collect();
    ensure!(twice.is_empty(), "written twice: {twice:?}");
    verify_frames(&Recording::open(&fleet.object_path(&id, ".m3u8"))?)?;
    let events = ["queued", "started", "live", "lost-node", "resumed", "ended", "stored"];
    fleet.wait_for_callbacks(&id, &events)
}

/// Checks that a recording shows two loads of the page, each without a gap, and that the time between them is
/// not too long, by the page's counter and clock.
fn verify_frames(recording: &Recording) -> Result<()> {
    let pictures = recording.timecodes(TimecodePosition::PAGE)?;
    let shown: Vec<Timecode> = pictures.into_iter().filter_map(|picture| picture.timecode).collect();
    let is_load = |pair: &[Timecode]| pair[1].counter < pair[0].counter;
    let loads: Vec<_> = shown.windows(2).filter(|pair| is_load(pair)).collect();
    let [load] = loads[..] else { bail!("the page was loaded {} more times: {shown:?}", loads.len()) };
    let gap = load[1].page_s() - load[0].page_s();
    let steps = shown.windows(2).filter(|pair| !is_load(pair)).map(|pair| pair[1].counter - pair[0].counter);
    let missing: u32 = steps.map(|step| step.saturating_sub(1)).sum();
    println!("no frame for {gap:.1} s by the page's clock; {missing} of {} frames missing", shown.len());
    ensure!(gap > 0.0 && gap < TAKE_OVER_TIMEOUT.as_secs_f64(), "no frame for {gap:.1} s");
    // A busy machine merges a frame into a later one now and then.
    ensure!(missing as usize <= shown.len() / 5, "{missing} of {} frames are missing", shown.len());
    Ok(())
}

#[test]
fn nothing_ends_when_the_database_does_not_answer() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (mut fleet, id, owner) = start_with_recording(2, "hls")?;
    let pids = fleet.nodes[owner].cast_pids();
    fleet.database.kill();
    let away = Instant::now();
    let request = json!({ "url": fleet.page.url("counter.html"), "recording": {} });
    let refused = fleet.nodes[0].rest("POST", "/v1/casts", Some(&request))?;
    println!("while the database is away: {} {}", refused.status, refused.text());
    ensure!(refused.status == 503, "{} {}", refused.status, refused.text());
    ensure!(refused.header("retry-after").is_some(), "no Retry-After");
    // The outage is twenty seconds long.
    std::thread::sleep(Duration::from_secs(20).saturating_sub(away.elapsed()));
    ensure!(fleet.nodes[owner].cast_pids() == pids, "the cast has another process");
    fleet.database.restart()?;
    fleet.wait_for_segments(&id, 3, TIMEOUT)?;
    ensure!(fleet.nodes[owner].cast_pids() == pids, "the cast has another process");
    ensure!(fleet.owner()? == owner, "the cast was taken over");
    fleet.stop_cast(1 - owner, &id)?;
    let playlist = fleet.playlist(&id);
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 0, "{playlist}");
    fleet.wait_for_callbacks(&id, &["queued", "started", "live", "ended", "stored"])
}

#[test]
fn a_node_without_the_database_keeps_its_casts_if_another_has_it() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (mut fleet, id, owner) = start_with_recording(2, "hls")?;
    let pids = fleet.nodes[owner].cast_pids();
    fleet.links[owner].set_down(true);
    // Three leases long, the other node says that the cast is not taken, and leaves it alone.
    std::thread::sleep(Duration::from_secs(3 * LEASE_S));
    ensure!(fleet.owner()? == owner && fleet.nodes[owner].cast_pids() == pids, "the cast was taken over");
    fleet.links[owner].set_down(false);
    fleet.wait_for_segments(&id, 3, TIMEOUT)?;
    ensure!(fleet.nodes[owner].cast_pids() == pids, "the cast has another process");
    fleet.stop_cast(1 - owner, &id)?;
    Ok(())
}

#[test]
fn a_paused_node_loses_its_casts_and_writes_nothing_more() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (mut fleet, id, first) = start_with_recording(2, "hls")?;
    fleet.nodes[first].signal_matching("", Signal::STOP)?;
    fleet.wait_for_take_over(&id)?;
    fleet.wait_for_segments(&id, 1, TIMEOUT)?;
    let objects = |fleet: &TestFleet| -> Result<usize> {
        Ok(fleet.s3.objects(BUCKET)?.into_keys().filter(|name| !name.contains("_r2_")).count())
    };
    let before = objects(&fleet)?;
    fleet.nodes[first].signal_matching("", Signal::CONT)?;
    let node = &mut fleet.nodes[first];
    wait_until("it has ended its cast", TIMEOUT, || {
        ensure!(node.cast_pids().is_empty(), "{:?} run it", node.cast_pids());
        Ok(())
    })?;
    fleet.wait_for_segments(&id, 3, TIMEOUT)?;
    ensure!(objects(&fleet)? == before, "the paused node stored something");
    ensure!(fleet.owner()? != first);
    fleet.stop_cast(first, &id)?;
    let playlist = fleet.playlist(&id);
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 1, "{playlist}");
    Ok(())
}
