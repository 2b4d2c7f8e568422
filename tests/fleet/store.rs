//! A fleet with a store, whose nodes talk to each other over TLS.

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::fleet::{BUCKET, NodeConfig, STORE_BUCKET, TAKE_OVER_TIMEOUT, TIMEOUT};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    CertificateAuthority, FleetConfig, MachineLock, Recording, ScratchDir, ServiceConfig, TestFleet, http,
    wait_until,
};

use crate::PAGECAST;

/// Copies of segments in the store. It also has evidence and logs, which stay as long as the cast is known.
fn copies(fleet: &TestFleet) -> Result<Vec<String>> {
    let names = fleet.s3.objects(STORE_BUCKET)?.into_keys();
    Ok(names.filter(|name| !name.contains("/evidence/")).collect())
}

/// Waits until the store has this many copies of a cast's segments that this owner recorded.
fn wait_for_copies(fleet: &TestFleet, id: &str, owner: &str, count: usize) -> Result<()> {
    wait_until("there are copies", TIMEOUT.max(TAKE_OVER_TIMEOUT), || {
        let copies = copies(fleet)?;
        let found = copies.iter().filter(|name| name.contains(id) && name.contains(owner)).count();
        ensure!(found >= count, "{copies:?}");
        Ok(())
    })
}

/// The channel refuses requests that are not encrypted, and a node does not talk to one whose certificate it
/// does not trust.
fn check_tls(fleet: &TestFleet, id: &str, owner: usize) -> Result<()> {
    let snapshot = |node: usize| fleet.nodes[node].rest("GET", &format!("/v1/casts/{id}/snapshot.jpg"), None);
    let trusting = snapshot(1 - owner)?;
    ensure!(
        trusting.status == 200 && trusting.body.starts_with(&[0xff, 0xd8, 0xff]),
        "{} {}",
        trusting.status,
        trusting.text()
    );
    let distrusting = snapshot(2)?;
    ensure!(distrusting.status >= 500, "{} {}", distrusting.status, distrusting.text());
    let plain = format!("http://127.0.0.1:{}/peer/status", fleet.peer_links[owner].port());
    let plain = http::request("GET", &plain, &[], b"");
    ensure!(plain.as_ref().map_or(true, |answer| answer.status >= 400), "{plain:?}");
    Ok(())
}

#[test]
fn the_next_owner_makes_one_file_of_the_fleets_store() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let certificates = ScratchDir::new()?;
    let authority = CertificateAuthority::create(certificates.path())?;
    let ca = format!("ca = {{ file = \"{}\" }}\n", authority.certificate.display());
    let node = |fleet_toml: String| NodeConfig {
        fleet_toml,
        service: ServiceConfig { tls: Some(authority.issued.clone()), ..ServiceConfig::default() },
        ..NodeConfig::default()
    };
    // The third one does not know the authority.
    let nodes = vec![node(ca.clone()), node(ca), node("roles = [\"api\"]\n".to_owned())];
    let config = FleetConfig { nodes, has_store: true, ..FleetConfig::of_nodes(0) };
    let mut fleet = TestFleet::start(PAGECAST, &config)?;
    let id = fleet.start_recording(2, "mp4")?;
    let first = fleet.owner()?;
    wait_for_copies(&fleet, &id, "", 3)?;
    check_tls(&fleet, &id, first)?;
    wait_until("the log of the first owner is copied", TIMEOUT, || {
        let is_copied = fleet.s3.objects(STORE_BUCKET)?.into_keys().any(|name| name.ends_with("cast.log"));
        ensure!(is_copied, "no log yet");
        Ok(())
    })?;

    fleet.kill_node(first)?;
    wait_for_copies(&fleet, &id, "_r2_", 3)?;
    ensure!(fleet.owner()? == 1 - first);
    let cast = fleet.stop_cast(2, &id)?;
    let stored = &cast["recording"]["stored"];
    println!("{stored}");
    let files = stored["files"].as_array().context("no files")?;
    ensure!(files.len() == 1 && files[0]["name"] == format!("{id}_0.mp4"), "{stored}");
    let others: Vec<_> =
        fleet.s3.objects(BUCKET)?.into_keys().filter(|name| !name.ends_with("_0.mp4")).collect();
    ensure!(others.is_empty(), "other objects are {others:?}");
    let file = Recording::open(&fleet.object_path(&id, "_0.mp4"))?;
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    let counters: Vec<u32> =
        pictures.iter().filter_map(|picture| Some(picture.timecode.as_ref()?.counter)).collect();
    let loads: Vec<usize> = (1..counters.len()).filter(|at| counters[*at] < counters[*at - 1]).collect();
    // Each owner's three segments of a second.
    ensure!(loads.len() == 1 && loads[0] > 30 && counters.len() - loads[0] > 30, "{loads:?} in {counters:?}");
    wait_until("the store has no copies", TIMEOUT, || {
        let copies = copies(&fleet)?;
        ensure!(copies.is_empty(), "{copies:?}");
        Ok(())
    })?;
    let logs: Vec<_> =
        fleet.s3.objects(STORE_BUCKET)?.into_keys().filter(|name| name.ends_with(".log")).collect();
    ensure!(logs.len() == 2, "logs of both owners: {logs:?}");
    Ok(())
}
