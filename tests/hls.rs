//! What is recorded as HLS plays in a browser: while it is recorded, from start to end, and across a cast that was killed.
//!
//! Pagecast records a page with hls.js that plays what Pagecast records: the pictures of the second recording say what was played.
#![expect(clippy::print_stdout, reason = "what was measured is shown beside a failure")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{output_of, program};
use pagecast_testkit::media::{Seen, beeps};
use pagecast_testkit::strip::Place;
use pagecast_testkit::{Outcome, Pagecast, Recording, Run, Scratch, Server, Signal, Turn, sync};
use serde::Deserialize;

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(90);
/// Where the page shows its first player, and its second.
const PLAYERS: [Place; 2] = [Place::PAGE, Place { x: 0, y: 360, cell: 8 }];

/// A recording in a folder, and a server of it, of our pages and of hls.js.
struct Bench {
    format: &'static str,
    folder: Scratch,
    server: Server,
}

/// What the page says of a player.
#[derive(Debug, Deserialize)]
struct Player {
    how: String,
    played_s: f64,
    duration_s: f64,
    farthest_behind: f64,
    errors: Vec<String>,
    ended: bool,
}

/// Pictures in the order they were shown, each once: when, and its number. Numbers begin anew with each page.
struct Shown(Vec<(f64, u32)>);

impl Bench {
    fn new(format: &'static str) -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        output_of(&mut program(here.join("tests/third-party/install"))).context("cannot install hls.js")?;
        let folder = Scratch::new()?;
        let server = Server::start()?
            .folder("/pages/", &here.join("tests/third-party/pages"))
            .folder("/packages/", &here.join("target/third-party/node_modules"))
            .folder("/recorded/", &folder.join("rec"));
        Ok(Self { format, folder, server })
    }

    fn record(&self, page: &str) -> Result<Run> {
        Pagecast::record(PAGECAST, &self.server.url(page))
            .with("size", "640x360")
            .with("format", self.format)
            .with("segment", "2s")
            .with("name", "rec")
            .output(self.folder.path().to_owned())
            .start()
    }

    /// Waits until so many segments can be played.
    fn wait_for_segments(&self, run: &mut Run, count: usize) -> Result<()> {
        let playlist = self.folder.join("rec/rec_live.m3u8");
        run.wait_until("there was something to play", LIMIT, |_| {
            std::fs::read_to_string(&playlist).is_ok_and(|text| text.matches("#EXTINF").count() >= count)
        })
    }

    /// Begins to play, and to record what is played.
    fn play(&self, players: &str) -> Result<Run> {
        Pagecast::record(PAGECAST, &self.server.url(&format!("pages/hls.html?{players}")))
            .with("size", format!("640x{}", 360 * players.split('&').count()))
            .flag("wait-for-start")
            .start()
    }

    /// Plays all that was recorded.
    fn play_whole(&self) -> Result<(Outcome, Player)> {
        let outcome = self.play("whole=/recorded/rec.m3u8")?.finish(LIMIT)?;
        let player = self.said()?.pop().context("no player")?;
        println!("{} on demand: {player:?}", self.format);
        Ok((outcome, player))
    }

    /// The last that the page said of its players.
    fn said(&self) -> Result<Vec<Player>> {
        let requests = self.server.requests();
        let last = requests.iter().rfind(|r| r.starts_with("/said/player?")).context("no player spoke")?;
        let url = url::Url::parse(&self.server.url(last))?;
        let (text, _) = url.query_pairs().next().context("no words")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// What was recorded, as others read it.
    fn recorded(&self) -> Result<Recording> {
        Recording::open(&self.folder.join("rec/rec.m3u8"))
    }
}

impl Shown {
    fn of(seen: impl IntoIterator<Item = Seen>) -> Self {
        let mut all: Vec<_> = seen.into_iter().filter_map(|s| Some((s.pts_s, s.strip?.counter))).collect();
        all.dedup_by_key(|(_, counter)| *counter);
        Self(all)
    }

    /// How often a picture followed that was drawn before.
    fn jumps_back(&self) -> usize {
        self.0.windows(2).filter(|pair| pair[1].1 < pair[0].1).count()
    }

    /// The longest time that one picture but the first was shown, in seconds.
    fn longest_s(&self) -> f64 {
        let times = self.0.iter().skip(1).map(|(at, _)| *at).collect::<Vec<_>>();
        times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
    }

    /// Numbers, with those of later pages behind those of earlier ones.
    fn numbers(&self) -> Vec<u64> {
        let (mut page, mut last) = (0_u64, 0);
        let number = |(_, counter): &(f64, u32)| {
            page += u64::from(*counter < std::mem::replace(&mut last, *counter));
            page << 32 | u64::from(*counter)
        };
        self.0.iter().map(number).collect()
    }
}

/// Checks that what was played is what was recorded from some picture on: in order and without a hole but for what a busy machine
/// may skip, to the last picture, and that the player had nothing to complain about.
fn played_to_the_end(what: &str, player: &Player, played: &Shown, recorded: &Shown) -> Result<()> {
    ensure!(player.ended && player.errors.is_empty(), "{what}: {player:?}");
    let (shown, all) = (played.numbers(), recorded.numbers());
    let (first, last) = shown.first().zip(shown.last()).context("nothing was played")?;
    let place = |number| all.iter().position(|n| n == number).context("what was played was never recorded");
    let due = &all[place(first)?..=place(last)?];
    let missing: Vec<_> = due.iter().filter(|n| shown.binary_search(n).is_err()).collect();
    println!(
        "{what}: {} of {} pictures were played, {} missed, one was shown for {:.2} s, {} jumps back",
        shown.len(),
        due.len(),
        missing.len(),
        played.longest_s(),
        played.jumps_back()
    );
    ensure!(played.jumps_back() == recorded.jumps_back(), "{what}: it went back: {:?}", played.0);
    ensure!(shown.iter().all(|n| due.contains(n)), "{what}: pictures were played that were not recorded");
    ensure!(missing.len() * 20 <= due.len(), "{what}: {missing:?} of {} were not played", due.len());
    let stalled_s = played.longest_s() - recorded.longest_s();
    ensure!(stalled_s < 1.0, "{what}: it stalled for {stalled_s:.2} s");
    ensure!(shown.last() == all.last(), "{what}: it ended with {:?}, not {:?}", shown.last(), all.last());
    Ok(())
}

/// The same for all of it.
fn played_whole(what: &str, player: &Player, played: &Shown, recorded: &Shown) -> Result<()> {
    let (first, due) = (played.0.first().map(|p| p.1), recorded.0.first().map(|p| p.1));
    ensure!(first == due, "{what}: it began with {first:?}, not {due:?}");
    played_to_the_end(what, player, played, recorded)
}

fn plays_live_and_on_demand(format: &'static str) -> Result<()> {
    let _turn = Turn::alone()?;
    let bench = Bench::new(format)?;
    let mut recorder = bench.record("sync.html")?;
    bench.wait_for_segments(&mut recorder, 4)?;
    let viewer = bench.play("live=/recorded/rec_live.m3u8&whole=/recorded/rec.m3u8")?;
    bench.server.wait_for("/said/played-8", LIMIT)?;
    let live = bench.said()?;
    println!("{format} live: {live:?}");
    recorder.signal(Signal::INT)?;
    let report = recorder.finish(LIMIT)?.report()?;
    let viewed = viewer.finish(LIMIT)?;
    let whole = bench.said()?;
    println!("{format} to its end: {whole:?}");

    let recording = bench.recorded()?;
    let recorded = Shown::of(recording.strips(Place::PAGE)?);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (pts_s, strips) in viewed.recording()?.strips_at(&PLAYERS)? {
        first.push(Seen { pts_s, strip: strips[0] });
        second.push(Seen { pts_s, strip: strips[1] });
    }
    played_to_the_end("live", &whole[0], &Shown::of(first), &recorded)?;
    played_whole("from its start", &whole[1], &Shown::of(second), &recorded)?;
    let near = &live[0];
    // What it says is a little older than what it was waited for.
    ensure!(near.how == "live" && near.played_s > 6.0, "{near:?}");
    ensure!(near.farthest_behind > 0.0 && near.farthest_behind < 20.0, "{near:?}");

    let (outcome, player) = bench.play_whole()?;
    let seen = outcome.recording()?;
    let pictures = seen.strips(Place::PAGE)?;
    played_whole("on demand", &player, &Shown::of(pictures.iter().copied()), &recorded)?;
    ensure!((player.duration_s - report.duration_ms / 1000.0).abs() < 0.1, "{player:?}, {report:?}");
    let offsets = sync::page(&pictures, &beeps::onsets(seen.pcm()?, sync::PAGE_BEEP)?);
    println!("{format} on demand: {offsets}");
    ensure!(offsets.len() >= 8 && offsets.median_ms().abs() < 50.0, "{offsets}");
    Ok(())
}

fn plays_on_where_a_cast_was_killed(format: &'static str) -> Result<()> {
    let _turn = Turn::alone()?;
    let bench = Bench::new(format)?;
    let mut recorder = bench.record("counter.html?say")?;
    bench.server.wait_for("/said/second-5", LIMIT)?;
    recorder.kill_those_with("run-cast")?;
    bench.server.wait_for_times("/said/second-4", 2, LIMIT)?;
    recorder.signal(Signal::INT)?;
    let report = recorder.finish(LIMIT)?.report()?;
    ensure!(report.restarts == 1, "{report:?}");
    let playlist = std::fs::read_to_string(bench.folder.join("rec/rec.m3u8"))?;
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 1, "{playlist}");

    let (outcome, player) = bench.play_whole()?;
    let played = Shown::of(outcome.recording()?.strips(Place::PAGE)?);
    let recorded = Shown::of(bench.recorded()?.strips(Place::PAGE)?);
    ensure!(recorded.jumps_back() == 1, "the second part was not recorded: {playlist}");
    played_whole("two parts", &player, &played, &recorded)
}

#[test]
fn fragmented_mp4_plays_live_and_on_demand() -> Result<()> {
    plays_live_and_on_demand("hls")
}

#[test]
fn mpeg_ts_plays_live_and_on_demand() -> Result<()> {
    plays_live_and_on_demand("hls-ts")
}

#[test]
fn fragmented_mp4_plays_on_where_a_cast_was_killed() -> Result<()> {
    plays_on_where_a_cast_was_killed("hls")
}

#[test]
fn mpeg_ts_plays_on_where_a_cast_was_killed() -> Result<()> {
    plays_on_where_a_cast_was_killed("hls-ts")
}
