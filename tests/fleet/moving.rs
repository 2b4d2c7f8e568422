//! A cast that is moved on request.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::fleet::{BUCKET, TIMEOUT};
use pagecast_testkit::{MachineLock, Recording, TestFleet, wait_until};
use serde_json::Value;

use crate::{start_with_recording, verify_frames};

/// Longest time until the next owner records: the start of a page on a machine that runs the whole fleet. A
/// lease of the length that these tests use does not end meanwhile.
const MOVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Moves the cast, and waits until the next owner records.
fn move_cast(fleet: &TestFleet, node: usize, id: &str) -> Result<()> {
    let moved = fleet.nodes[node].rest("POST", &format!("/v1/casts/{id}/move"), None)?;
    ensure!(moved.status == 202, "{} {}", moved.status, moved.text());
    wait_until("the next owner records", MOVE_TIMEOUT, || {
        ensure!(fleet.playlist(id).contains("_r2_"), "{}", fleet.playlist(id));
        Ok(())
    })
}

/// Events of a cast: their names, and the node of each that has one.
fn events(fleet: &TestFleet, id: &str) -> Result<Vec<(String, Option<String>)>> {
    let list = fleet.nodes[0].rest("GET", &format!("/v1/casts/{id}/events"), None)?.json()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = list["events"].as_array().context("no events")?.iter();
    Ok(list.map(|event| (text(&event["event"]).unwrap_or_default(), text(&event["node"]))).collect())
}

#[test]
fn a_cast_goes_on_at_another_node_when_it_is_moved() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (mut fleet, id, first) = start_with_recording(2, "hls")?;
    let second = 1 - first;
    move_cast(&fleet, second, &id)?;
    ensure!(fleet.owner()? == second, "the same node goes on");
    fleet.wait_for_segments(&id, 3, TIMEOUT)?;
    fleet.stop_cast(first, &id)?;
    let playlist = fleet.playlist(&id);
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 1, "{playlist}");
    ensure!(playlist.ends_with("#EXT-X-ENDLIST\n"), "{playlist}");
    verify_frames(&Recording::open(&fleet.object_path(&id, ".m3u8"))?)?;
    let events = events(&fleet, &id)?;
    let resumed = events.iter().find(|(name, _)| name == "resumed").context("no resumed")?;
    ensure!(resumed.1.as_deref() == Some(format!("n{second}").as_str()), "{events:?}");
    // The node that it left stores what it still has, so no segment is missing in the bucket.
    let spool = fleet.nodes[first].data_folder().join("spool");
    wait_until("the node that it left has stored its spool", TIMEOUT, || {
        let left: Vec<_> = fs::read_dir(&spool)?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    let names: Vec<String> = fleet.s3.objects(BUCKET)?.into_keys().collect();
    let mut numbers: Vec<u32> = names
        .iter()
        .filter(|name| name.ends_with(".m4s") && !name.contains("_r2_"))
        .filter_map(|name| name.trim_end_matches(".m4s").rsplit('_').next()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    ensure!(!numbers.is_empty() && numbers.iter().copied().eq(0..numbers.len() as u32), "{names:?}");
    let reported = fleet.callbacks.received().into_iter().map(|request| request.json());
    let reported: Vec<_> = reported.filter(|body| body["cast"] == id.as_str()).collect();
    let of = |name: &str| reported.iter().filter(|body| body["event"] == name).count();
    ensure!(
        of("resumed") == 1 && of("lost-node") == 0 && of("ended") == 1 && of("live") == 1,
        "{reported:?}"
    );
    Ok(())
}

#[test]
fn a_cast_begins_anew_at_the_same_node_if_there_is_no_other() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (mut fleet, id, _) = start_with_recording(1, "hls")?;
    let pids = fleet.nodes[0].cast_pids();
    move_cast(&fleet, 0, &id)?;
    ensure!(fleet.nodes[0].cast_pids() != pids, "the same process goes on");
    fleet.wait_for_segments(&id, 2, TIMEOUT)?;
    fleet.stop_cast(0, &id)?;
    let playlist = fleet.playlist(&id);
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 1, "{playlist}");
    verify_frames(&Recording::open(&fleet.object_path(&id, ".m3u8"))?)?;
    fleet.wait_for_callbacks(&id, &["queued", "started", "live", "resumed", "ended", "stored"])
}
