//! How long a cast is without pictures when its node is killed, and when the database is.
//!
//! Three nodes run one cast, which is recorded to a bucket and shown in an embedded room. Its page draws the
//! machine's clock and a counter. So each picture, in the recording and at a viewer, says when it was drawn,
//! and a smaller counter than before is the first picture of the page in another browser.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::fleet::{BUCKET, DATABASE, LEASE_S, S3_KEYS, TIMEOUT};
use pagecast_testkit::room_viewer::clock_ms;
use pagecast_testkit::timecode::{Timecode, TimecodePosition, page_loads};
use pagecast_testkit::{FleetConfig, Recording, RoomViewer, TestFleet, wait_until};
use serde_json::{Value, json};

use crate::cast::{FPS, HEIGHT, WIDTH};

/// Number of nodes.
pub(crate) const NODE_COUNT: usize = 3;
/// Goal: longest time from the death of a node to the next picture of its cast, in seconds.
pub(crate) const MAX_TAKE_OVER_S: f64 = 10.0;
/// How long the database is away, in seconds.
pub(crate) const OUTAGE_S: u64 = 20;
/// Time between a take-over and the next death: the node that was started again may take over casts only
/// when it has had the database for a whole lease.
const SETTLE_TIME: Duration = Duration::from_secs(LEASE_S + 4);
/// Nodes renew leases this often, so the deaths are spread over this time.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);
/// Pictures at a viewer before a measurement begins.
const MIN_PICTURES: usize = 30;

/// Results of all deaths of nodes, and of the outage of the database.
#[derive(Debug)]
pub(crate) struct TakeOverResults {
    pub(crate) take_overs: Vec<TakeOver>,
    pub(crate) outage: Outage,
}

/// What followed the death of a node, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakeOver {
    /// From the death until another node had claimed the cast.
    pub(crate) claimed_s: f64,
    /// From the death until the first picture that the recording has of the page in its new browser was
    /// drawn.
    pub(crate) recorded_s: f64,
    /// From the death until a viewer of the room showed a picture of the page in its new browser.
    pub(crate) shown_s: f64,
    /// Time that is missing in the recording: between the drawing of two pictures that follow each other.
    pub(crate) missing_s: f64,
    /// Whether the node had carried the room, too.
    pub(crate) had_room: bool,
}

/// What followed the death of the database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    /// Whether the cast went on in the same process.
    pub(crate) same_process: bool,
    /// Longest time between pictures meanwhile, in the recording and at a viewer, in seconds.
    pub(crate) recorded_gap_s: f64,
    pub(crate) shown_gap_s: f64,
}

/// A death of a node, as it was seen while it happened. What the recording has is added at the end.
struct Death {
    at_ms: f64,
    take_over: TakeOver,
}

impl TakeOverResults {
    /// Kills the node that runs the cast `kills` times, and then the database.
    pub(crate) fn measure(program: &Path, kills: u32) -> Result<Self> {
        let config = FleetConfig { has_store: true, ..FleetConfig::of_nodes(NODE_COUNT) };
        let mut watched = WatchedFleet::start(program, &config)?;
        let mut deaths = Vec::new();
        for number in 0..kills {
            std::thread::sleep(SETTLE_TIME + RENEWAL_INTERVAL * number / kills);
            let death = watched.kill_owner()?;
            let TakeOver { claimed_s, shown_s, had_room, .. } = death.take_over;
            eprintln!(
                "take-over {}/{kills}: claimed after {claimed_s:.1} s, in the room after {shown_s:.1} s{}",
                number + 1,
                if had_room { ", which was on the same node" } else { "" }
            );
            deaths.push(death);
        }
        std::thread::sleep(SETTLE_TIME);
        let (began_ms, mut outage) = watched.kill_database()?;
        let pictures = watched.recorded_pictures()?;
        for death in &mut deaths {
            let (before_ms, after_ms) =
                page_load_after(&pictures, death.at_ms).context("the recording did not go on")?;
            death.take_over.recorded_s = (after_ms - death.at_ms) / 1e3;
            death.take_over.missing_s = (after_ms - before_ms) / 1e3;
            eprintln!("recorded again after {:.1} s", death.take_over.recorded_s);
        }
        outage.recorded_gap_s = longest_gap_s(pictures.iter().map(|(ms, _)| *ms), began_ms);
        eprintln!("the database was away for {OUTAGE_S} s: {outage:?}");
        Ok(Self { take_overs: deaths.into_iter().map(|death| death.take_over).collect(), outage })
    }
}

/// A fleet with a cast.
struct WatchedFleet {
    fleet: TestFleet,
    id: String,
}

impl WatchedFleet {
    fn start(program: &Path, config: &FleetConfig) -> Result<Self> {
        let fleet = TestFleet::start(&program.to_string_lossy(), config)?;
        let request = json!({
            "url": fleet.page.url("counter.html?absolute"), "width": WIDTH, "height": HEIGHT, "fps": FPS,
            "room": { "room": "bench", "user": "page" },
            "recording": {
                "to": fleet.s3_location(BUCKET, "room"), "format": "both",
                "keys": { "access_key": S3_KEYS.0, "secret_key": S3_KEYS.1 },
            },
        });
        let id = fleet.create_cast(0, &request)?;
        fleet.nodes[0].wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
        Ok(Self { fleet, id })
    }

    fn describe(&self, node: usize, more: &str) -> Result<Value> {
        self.fleet.nodes[node].rest("GET", &format!("/v1/casts/{}{more}", self.id), None)?.json()
    }

    /// Watches the room through a node, and waits until the page is shown.
    fn watch(&self, node: usize) -> Result<RoomViewer> {
        let cast = self.describe(node, "")?;
        let mut viewer = RoomViewer::open(cast["room"]["watch_url"].as_str().context("no room")?)?;
        wait_until("the room shows the page", TIMEOUT, || {
            let pictures = viewer.frames()?.len();
            ensure!(pictures >= MIN_PICTURES, "{pictures} pictures; the page says {:?}", viewer.text()?);
            Ok(())
        })?;
        Ok(viewer)
    }

    /// Kills the node of the cast, waits until the cast is live on another one, and starts the node again.
    fn kill_owner(&mut self) -> Result<Death> {
        let owner = self.fleet.owner()?;
        let spectator = (owner + 1) % NODE_COUNT;
        let mut viewer = self.watch(spectator)?;
        let room_node = self.fleet.database.sql(DATABASE, "SELECT node FROM rooms")?;
        let at_ms = clock_ms();
        self.fleet.kill_node(owner)?;
        let shown_ms = wait_until("the room shows the page again", TIMEOUT, || {
            let frames = viewer.frames()?.iter();
            let pictures: Vec<_> = frames.map(|frame| (frame.shown_ms, frame.timecode)).collect();
            let load = page_load_after(&pictures, at_ms);
            Ok(load.with_context(|| format!("{} pictures", pictures.len()))?.1)
        })?;
        self.fleet.wait_for_segments(&self.id, 1, TIMEOUT)?;
        ensure!(self.fleet.owner()? != owner, "the cast went on at the dead node");
        let take_over = TakeOver {
            claimed_s: (self.claimed_ms(spectator)? - at_ms) / 1e3,
            recorded_s: f64::NAN,
            shown_s: (shown_ms - at_ms) / 1e3,
            missing_s: f64::NAN,
            had_room: room_node == format!("n{owner}"),
        };
        self.fleet.nodes[owner].restart()?;
        Ok(Death { at_ms, take_over })
    }

    /// When the cast was claimed last, in milliseconds since 1970.
    fn claimed_ms(&self, node: usize) -> Result<f64> {
        let history = self.describe(node, "/events")?;
        let events = history["events"].as_array().context("no events")?;
        let resumed = events.iter().rfind(|event| event["event"] == "resumed").context("never resumed")?;
        let at = resumed["at"].as_str().context("an event without a time")?;
        let sql = format!("SELECT extract(epoch FROM '{at}'::timestamptz) * 1000");
        Ok(self.fleet.database.sql(DATABASE, &sql)?.parse()?)
    }

    /// Kills the database for [`OUTAGE_S`]. Returns when, and what followed at a viewer.
    fn kill_database(&mut self) -> Result<(f64, Outage)> {
        let owner = self.fleet.owner()?;
        let mut viewer = self.watch((owner + 1) % NODE_COUNT)?;
        let pids = self.fleet.nodes[owner].cast_pids();
        let began_ms = clock_ms();
        self.fleet.database.kill();
        // The outage is this long.
        std::thread::sleep(Duration::from_secs(OUTAGE_S));
        self.fleet.database.restart()?;
        self.fleet.wait_for_segments(&self.id, 2, TIMEOUT)?;
        // Casts that were lost would be elsewhere by now.
        std::thread::sleep(SETTLE_TIME);
        let shown_gap_s = longest_gap_s(viewer.frames()?.iter().map(|frame| frame.shown_ms), began_ms);
        let same_process = self.fleet.nodes[owner].cast_pids() == pids;
        Ok((began_ms, Outage { same_process, recorded_gap_s: f64::NAN, shown_gap_s }))
    }

    /// Stops the cast, and returns when each picture of its recording was drawn, and its timecode.
    fn recorded_pictures(&self) -> Result<Vec<(f64, Timecode)>> {
        self.fleet.stop_cast(0, &self.id)?;
        // Nodes that were started again store the segments that they had open beside it, under other names.
        let recording = Recording::open(&self.fleet.object_path(&self.id, "_0.mp4"))?;
        let now_ms = clock_ms();
        let pictures = recording.timecodes(TimecodePosition::PAGE)?.into_iter();
        let timecodes = pictures.filter_map(|picture| picture.timecode);
        Ok(timecodes.map(|timecode| (timecode.drawn_ms(now_ms), timecode)).collect())
    }
}

/// Times of the two pictures between which the page was loaded anew, after a time. Pictures have a time and a
/// timecode each.
fn page_load_after(pictures: &[(f64, Timecode)], at_ms: f64) -> Option<(f64, f64)> {
    let timecodes: Vec<Timecode> = pictures.iter().map(|(_, timecode)| *timecode).collect();
    let mut loads = page_loads(&timecodes).into_iter();
    let load = loads.find(|load| pictures[*load].0 > at_ms)?;
    Some((pictures[load - 1].0, pictures[load].0))
}

/// Longest time between two pictures in the outage of the database and shortly after, in seconds.
fn longest_gap_s(times_ms: impl Iterator<Item = f64>, began_ms: f64) -> f64 {
    let end_ms = began_ms + (Duration::from_secs(OUTAGE_S) + SETTLE_TIME).as_secs_f64() * 1e3;
    let times: Vec<f64> = times_ms.filter(|ms| (began_ms..=end_ms).contains(ms)).collect();
    times.windows(2).map(|pair| (pair[1] - pair[0]) / 1e3).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(ms: f64, counter: u32) -> (f64, Timecode) {
        (ms, Timecode { counter, page_time: 0, event_time: None, user_bits: 0 })
    }

    #[test]
    fn a_page_is_found_again_after_each_death() {
        let pictures = [(0.0, 5), (100.0, 6), (9000.0, 0), (9100.0, 1), (18_000.0, 0)];
        let pictures = pictures.map(|(ms, counter)| picture(ms, counter));
        assert_eq!(page_load_after(&pictures, 150.0), Some((100.0, 9000.0)));
        assert_eq!(page_load_after(&pictures, 9200.0), Some((9100.0, 18_000.0)));
        assert_eq!(page_load_after(&pictures, 19_000.0), None);
    }

    #[test]
    fn gaps_outside_of_the_outage_do_not_count() {
        let times = [0.0, 5000.0, 5100.0, 5600.0, 5700.0, 90_000.0];
        assert_eq!(longest_gap_s(times.into_iter(), 4900.0), 0.5);
    }
}
