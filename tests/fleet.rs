//! Three nodes on one PostgreSQL database are one service: any node answers for any cast, a cast goes on
//! elsewhere when its node dies, and nothing ends when the database does not answer.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::rtmp::free_port;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    MachineLock, PageServer, Postgres, PostgresProxy, Recording, S3Server, ScratchDir, ServiceConfig,
    ServiceProcess, WebhookReceiver, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Seconds of a lease.
const LEASE_S: u64 = 6;
/// Longest time until a cast of a dead node is live again: the lease, a beat, and the start of a page on a
/// machine that runs three nodes and their database.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(30);
const DATABASE: &str = "postgres";
const S3_KEYS: (&str, &str) = ("AKIDFLEET", "secret-of-the-bucket");
/// Key of all nodes, and secret of the channel between them.
const SECRET_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const PEER_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Nodes with a database, a bucket and a receiver of callbacks.
struct Fleet {
    nodes: Vec<ServiceProcess>,
    database: Postgres,
    /// Ways of the nodes to the database, by which they can be cut off.
    links: Vec<PostgresProxy>,
    s3: S3Server,
    callbacks: WebhookReceiver,
    page: PageServer,
    _scratch: ScratchDir,
}

impl Fleet {
    /// Starts a fleet with this many nodes, called `n0`, `n1` …
    fn start(nodes: usize) -> Result<Self> {
        let (page, scratch, callbacks) =
            (PageServer::start()?, ScratchDir::new()?, WebhookReceiver::start()?);
        let s3 = S3Server::start(&scratch.join("s3"), S3_KEYS.0, S3_KEYS.1)?;
        s3.make_bucket("rec")?;
        let database = Postgres::start()?;
        let mut fleet =
            Self { nodes: Vec::new(), database, links: Vec::new(), s3, callbacks, page, _scratch: scratch };
        for number in 0..nodes {
            let link = PostgresProxy::start(fleet.database.socket())?;
            let peer = free_port()?;
            let top = format!(
                "secret_key = \"{SECRET_KEY}\"\n\
                 [fleet]\ndatabase = \"{}\"\nnode = \"n{number}\"\nlease_s = {LEASE_S}\n\
                 [fleet.peer]\nlisten = \"127.0.0.1:{peer}\"\nsecret = \"{PEER_SECRET}\"\n",
                link.url(DATABASE)
            );
            let config = ServiceConfig {
                callback_url: Some(fleet.callbacks.url("")),
                top_level_toml: top,
                ..ServiceConfig::default()
            };
            fleet.links.push(link);
            fleet.nodes.push(ServiceProcess::start(PAGECAST, &config)?);
        }
        Ok(fleet)
    }

    /// Starts a fleet in which a cast records the counter page in this format, and some segments are stored.
    /// Returns it with the cast's id and the node that runs the cast.
    fn start_with_recording(nodes: usize, format: &str) -> Result<(Self, String, usize)> {
        let mut fleet = Self::start(nodes)?;
        let id = fleet.start_recording(0, format)?;
        fleet.wait_for_segments(&id, 3, TIMEOUT)?;
        let owner = fleet.owner()?;
        Ok((fleet, id, owner))
    }

    /// Creates a cast that records the counter page to the bucket, through this node, and waits until it is
    /// live. Returns its id.
    fn start_recording(&self, node: usize, format: &str) -> Result<String> {
        let endpoint = self.s3.url().replace(':', "%3A").replace('/', "%2F");
        let request = json!({
            "url": self.page.url("counter.html"), "width": 320, "height": 180, "fps": 15,
            "recording": {
                "to": format!("s3://rec/room?endpoint={endpoint}"),
                "keys": { "access_key": S3_KEYS.0, "secret_key": S3_KEYS.1 },
                "format": format, "segment_s": 1,
            },
        });
        let made = self.nodes[node].rest("POST", "/v1/casts", Some(&request))?;
        ensure!(made.status == 201, "{}", made.text());
        let id = made.json()?["id"].as_str().context("no id")?.to_owned();
        self.nodes[node].wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
        Ok(id)
    }

    /// The node that runs the only cast.
    fn owner(&mut self) -> Result<usize> {
        let runs: Vec<bool> = self.nodes.iter_mut().map(|node| !node.cast_pids().is_empty()).collect();
        let owners: Vec<usize> = (0..runs.len()).filter(|node| runs[*node]).collect();
        ensure!(owners.len() == 1, "the nodes {owners:?} run the cast");
        Ok(owners[0])
    }

    /// Kills a node: the program, its casts and their browsers.
    fn kill_node(&mut self, node: usize) -> Result<()> {
        self.nodes[node].signal_matching("", Signal::KILL)?;
        self.nodes[node].kill();
        self.nodes[node].wait_until_exited(STOP_TIMEOUT)
    }

    fn object_path(&self, id: &str, name: &str) -> PathBuf {
        self.s3.object_path("rec", &format!("room/{id}/{id}{name}"))
    }

    fn playlist(&self, id: &str) -> String {
        std::fs::read_to_string(self.object_path(id, ".m3u8")).unwrap_or_default()
    }

    /// Waits until the playlist has this many more segments.
    fn wait_for_segments(&self, id: &str, more: usize, limit: Duration) -> Result<()> {
        let count = || self.playlist(id).matches("#EXTINF").count();
        let before = count();
        wait_until("there are more segments", limit, || {
            ensure!(count() >= before + more, "{}", self.playlist(id));
            Ok(())
        })
    }

    /// Stops a cast through a node, and waits until nothing is left to do.
    fn stop_cast(&self, node: usize, id: &str) -> Result<Value> {
        let stopped = self.nodes[node].rest("POST", &format!("/v1/casts/{id}/stop"), None)?;
        ensure!(stopped.status < 300, "{}", stopped.text());
        self.nodes[node].wait_until_cast(id, "it is closed", TIMEOUT, |cast| cast["closed"] == true)
    }

    /// Waits until the callbacks of a cast have reported these events, each once and in this order.
    fn wait_for_callbacks(&self, id: &str, expected: &[&str]) -> Result<()> {
        wait_until("all callbacks have arrived", TIMEOUT, || {
            let of_cast = self.callbacks.received().into_iter().map(|request| request.json());
            let of_cast = of_cast.filter(|body| body["cast"] == id);
            let reported: Vec<_> = of_cast.map(|body| body["event"].as_str().map(str::to_owned)).collect();
            ensure!(
                reported.iter().map(Option::as_deref).eq(expected.iter().map(|name| Some(*name))),
                "{reported:?}"
            );
            Ok(())
        })
    }

    /// Waits until another node than the first records.
    fn wait_for_take_over(&self, id: &str) -> Result<()> {
        wait_until("another node records", TAKE_OVER_TIMEOUT, || {
            ensure!(self.playlist(id).contains("_r2_"), "{}", self.playlist(id));
            Ok(())
        })
    }
}

#[test]
fn a_cast_goes_on_elsewhere_when_its_node_dies() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (mut fleet, id, first) = Fleet::start_with_recording(3, "both")?;
    let (other, stopper) = ((first + 1) % 3, (first + 2) % 3);
    // Another node answers for it.
    let cast = fleet.nodes[other].rest("GET", &format!("/v1/casts/{id}"), None)?.json()?;
    ensure!(cast["state"] == "live", "{cast:#}");

    let died = Instant::now();
    fleet.kill_node(first)?;
    let listed = fleet.playlist(&id);
    fleet.wait_for_take_over(&id)?;
    println!("first segment {:.1} s after the death", died.elapsed().as_secs_f64());
    let second = fleet.owner()?;
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
    let writes = fleet.s3.write_counts("rec");
    let twice: Vec<_> = writes
        .iter()
        .filter(|(name, count)| **count > 1 && !name.ends_with(".m3u8") && !name.ends_with(".json"))
        .collect();
    ensure!(twice.is_empty(), "written twice: {twice:?}");
    let recording = Recording::open(&fleet.object_path(&id, ".m3u8"))?;
    let counters: Vec<u32> = recording
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .filter_map(|picture| Some(picture.timecode.as_ref()?.counter))
        .collect();
    let loads = counters.windows(2).filter(|pair| pair[1] < pair[0]).count();
    ensure!(loads == 1, "the page was loaded {loads} more times: {counters:?}");
    let events = ["queued", "started", "live", "lost-node", "resumed", "ended", "stored"];
    fleet.wait_for_callbacks(&id, &events)
}

#[test]
fn nothing_ends_when_the_database_does_not_answer() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (mut fleet, id, owner) = Fleet::start_with_recording(2, "hls")?;
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
    let (mut fleet, id, owner) = Fleet::start_with_recording(2, "hls")?;
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
    let (mut fleet, id, first) = Fleet::start_with_recording(2, "hls")?;
    fleet.nodes[first].signal_matching("", Signal::STOP)?;
    fleet.wait_for_take_over(&id)?;
    fleet.wait_for_segments(&id, 1, TIMEOUT)?;
    let objects = |fleet: &Fleet| -> Result<usize> {
        Ok(fleet.s3.objects("rec")?.into_keys().filter(|name| !name.contains("_r2_")).count())
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
