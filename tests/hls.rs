//! HLS recordings play in a browser: live, from start to end, and across a cast that was killed.
//!
//! Pagecast records a page with hls.js, which plays another recording of Pagecast. The timecodes in the
//! second recording show which pictures were played.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::media::{FrameTimecode, beeps};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    MachineLock, Outcome, PageServer, PagecastCommand, PagecastProcess, Recording, ScratchDir, Signal,
    av_sync,
};
use serde::Deserialize;

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(90);
/// Positions of the timecodes of the page's first and second player.
const PLAYER_TIMECODES: [TimecodePosition; 2] =
    [TimecodePosition::PAGE, TimecodePosition { x: 0, y: 360, cell_size: 8 }];

/// A recording in a folder, and a server of the recording, of test pages and of hls.js.
struct HlsFixture {
    format: &'static str,
    folder: ScratchDir,
    server: PageServer,
}

/// Report of the page on a player.
#[derive(Debug, Deserialize)]
struct PlayerReport {
    mode: String,
    played_s: f64,
    duration_s: f64,
    max_latency_s: f64,
    errors: Vec<String>,
    ended: bool,
}

/// Pictures in the order in which they were shown, each once: time in seconds and number. Numbers restart
/// with each page load.
struct ShownFrames(Vec<(f64, u32)>);

impl HlsFixture {
    fn new(format: &'static str) -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        run_for_output(&mut program(here.join("tests/third-party/install")))
            .context("cannot install hls.js")?;
        let folder = ScratchDir::new()?;
        let server = PageServer::start()?
            .with_folder("/pages/", &here.join("tests/third-party/pages"))
            .with_folder("/packages/", &here.join("target/third-party/node_modules"))
            .with_folder("/recorded/", &folder.join("rec"));
        Ok(Self { format, folder, server })
    }

    fn record(&self, page: &str) -> Result<PagecastProcess> {
        PagecastCommand::record(PAGECAST, &self.server.url(page))
            .option("size", "640x360")
            .option("format", self.format)
            .option("segment", "2s")
            .option("name", "rec")
            .output(self.folder.path().to_owned())
            .start()
    }

    /// Waits until this many segments can be played.
    fn wait_for_segments(&self, run: &mut PagecastProcess, count: usize) -> Result<()> {
        let playlist = self.folder.join("rec/rec_live.m3u8");
        run.wait_until("the playlist had its segments", TIMEOUT, |_| {
            std::fs::read_to_string(&playlist).is_ok_and(|text| text.matches("#EXTINF").count() >= count)
        })
    }

    /// Starts players and a recording of them.
    fn play(&self, players: &str) -> Result<PagecastProcess> {
        PagecastCommand::record(PAGECAST, &self.server.url(&format!("pages/hls.html?{players}")))
            .option("size", format!("640x{}", 360 * players.split('&').count()))
            .flag("wait-for-start")
            .start()
    }

    /// Plays the finished recording from its start to its end.
    fn play_vod(&self) -> Result<(Outcome, PlayerReport)> {
        let outcome = self.play("whole=/recorded/rec.m3u8")?.finish(TIMEOUT)?;
        let player = self.player_reports()?.pop().context("no player")?;
        println!("{} on demand: {player:?}", self.format);
        Ok((outcome, player))
    }

    /// Last report of the page on its players.
    fn player_reports(&self) -> Result<Vec<PlayerReport>> {
        let requests = self.server.requests();
        let last =
            requests.iter().rfind(|r| r.starts_with("/report/player?")).context("no player reported")?;
        let url = url::Url::parse(&self.server.url(last))?;
        let (text, _) = url.query_pairs().next().context("the report is empty")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The recording, read from its playlist.
    fn recorded(&self) -> Result<Recording> {
        Recording::open(&self.folder.join("rec/rec.m3u8"))
    }
}

impl ShownFrames {
    fn from_timecodes(timecodes: impl IntoIterator<Item = FrameTimecode>) -> Self {
        let mut all: Vec<_> =
            timecodes.into_iter().filter_map(|s| Some((s.pts_s, s.timecode?.counter))).collect();
        all.dedup_by_key(|(_, counter)| *counter);
        Self(all)
    }

    /// Number of pictures that were drawn before the previous one.
    fn jumps_back(&self) -> usize {
        self.0.windows(2).filter(|pair| pair[1].1 < pair[0].1).count()
    }

    /// Longest time for which a picture was shown, in seconds, without the first picture.
    fn longest_frame_s(&self) -> f64 {
        let times = self.0.iter().skip(1).map(|(at, _)| *at).collect::<Vec<_>>();
        times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
    }

    /// Numbers of the pictures, increasing across page loads.
    fn frame_numbers(&self) -> Vec<u64> {
        let (mut page, mut last) = (0_u64, 0);
        let number = |(_, counter): &(f64, u32)| {
            page += u64::from(*counter < std::mem::replace(&mut last, *counter));
            page << 32 | u64::from(*counter)
        };
        self.0.iter().map(number).collect()
    }
}

/// What a busy machine may cost a player.
#[derive(Debug, Clone, Copy)]
struct Tolerance {
    /// Pictures that are not shown, of all pictures.
    skipped: f64,
    /// How much longer a picture is shown than in the recording, in seconds.
    stalled_s: f64,
}

impl Tolerance {
    /// For tests that have the machine for themselves.
    const ALONE: Self = Self { skipped: 0.05, stalled_s: 1.0 };
    /// For tests beside others.
    const SHARED: Self = Self { skipped: 0.3, stalled_s: 5.0 };
}

/// Checks that the played pictures are a suffix of the recorded ones, in order and within the tolerance, and
/// that the player reported no errors.
fn verify_played_to_end(
    what: &str,
    player: &PlayerReport,
    played: &ShownFrames,
    recorded: &ShownFrames,
    tolerance: Tolerance,
) -> Result<()> {
    ensure!(player.ended && player.errors.is_empty(), "{what}: {player:?}");
    let (shown, all) = (played.frame_numbers(), recorded.frame_numbers());
    let (first, last) = shown.first().zip(shown.last()).context("nothing was played")?;
    let place =
        |number| all.iter().position(|n| n == number).context("a played picture is not in the recording");
    let expected = &all[place(first)?..=place(last)?];
    let missing: Vec<_> = expected.iter().filter(|n| shown.binary_search(n).is_err()).collect();
    println!(
        "{what}: {} of {} pictures were played, {} missed, one was shown for {:.2} s, {} jumps back",
        shown.len(),
        expected.len(),
        missing.len(),
        played.longest_frame_s(),
        played.jumps_back()
    );
    ensure!(played.jumps_back() == recorded.jumps_back(), "{what}: it went back: {:?}", played.0);
    ensure!(
        shown.iter().all(|n| expected.contains(n)),
        "{what}: pictures were played that were not recorded"
    );
    ensure!(
        missing.len() as f64 <= tolerance.skipped * expected.len() as f64,
        "{what}: {missing:?} of {} were not played",
        expected.len()
    );
    let stalled_s = played.longest_frame_s() - recorded.longest_frame_s();
    ensure!(stalled_s < tolerance.stalled_s, "{what}: it stalled for {stalled_s:.2} s");
    ensure!(shown.last() == all.last(), "{what}: it ended with {:?}, not {:?}", shown.last(), all.last());
    Ok(())
}

/// As [`verify_played_to_end`], from the first recorded picture on.
fn verify_played_from_start(
    what: &str,
    player: &PlayerReport,
    played: &ShownFrames,
    recorded: &ShownFrames,
) -> Result<()> {
    let (first, expected) = (played.0.first().map(|p| p.1), recorded.0.first().map(|p| p.1));
    ensure!(first == expected, "{what}: it started with {first:?}, not {expected:?}");
    verify_played_to_end(what, player, played, recorded, Tolerance::ALONE)
}

fn check_live_and_on_demand(format: &'static str) -> Result<()> {
    let _turn = MachineLock::exclusive()?;
    let fixture = HlsFixture::new(format)?;
    let mut recorder = fixture.record("sync.html")?;
    fixture.wait_for_segments(&mut recorder, 4)?;
    let viewer = fixture.play("live=/recorded/rec_live.m3u8&whole=/recorded/rec.m3u8")?;
    fixture.server.wait_for_request("/report/played-8", TIMEOUT)?;
    let live = fixture.player_reports()?;
    println!("{format} live: {live:?}");
    recorder.signal(Signal::INT)?;
    let report = recorder.finish(TIMEOUT)?.report()?;
    let viewed = viewer.finish(TIMEOUT)?;
    let whole = fixture.player_reports()?;
    println!("{format} to its end: {whole:?}");

    let recording = fixture.recorded()?;
    let recorded = ShownFrames::from_timecodes(recording.timecodes(TimecodePosition::PAGE)?);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (pts_s, timecodes) in viewed.recording()?.timecodes_at(&PLAYER_TIMECODES)? {
        first.push(FrameTimecode { pts_s, timecode: timecodes[0] });
        second.push(FrameTimecode { pts_s, timecode: timecodes[1] });
    }
    let (first, second) = (ShownFrames::from_timecodes(first), ShownFrames::from_timecodes(second));
    verify_played_to_end("live", &whole[0], &first, &recorded, Tolerance::ALONE)?;
    verify_played_from_start("from its start", &whole[1], &second, &recorded)?;
    let near = &live[0];
    // The player report is up to a second older than `played-8`.
    ensure!(near.mode == "live" && near.played_s > 6.0, "{near:?}");
    ensure!(near.max_latency_s > 0.0 && near.max_latency_s < 20.0, "{near:?}");

    let (outcome, player) = fixture.play_vod()?;
    let played = outcome.recording()?;
    let pictures = played.timecodes(TimecodePosition::PAGE)?;
    verify_played_from_start(
        "on demand",
        &player,
        &ShownFrames::from_timecodes(pictures.iter().copied()),
        &recorded,
    )?;
    ensure!((player.duration_s - report.duration_ms / 1000.0).abs() < 0.1, "{player:?}, {report:?}");
    let offsets = av_sync::page_offsets(&pictures, &beeps::onsets(played.pcm()?, av_sync::PAGE_BEEP)?);
    println!("{format} on demand: {offsets}");
    ensure!(offsets.len() >= 8 && offsets.median_ms().abs() < 50.0, "{offsets}");
    Ok(())
}

fn check_playback_across_a_kill(format: &'static str) -> Result<()> {
    let _turn = MachineLock::shared()?;
    let fixture = HlsFixture::new(format)?;
    let mut recorder = fixture.record("counter.html?report")?;
    fixture.server.wait_for_request("/report/second-5", TIMEOUT)?;
    recorder.kill_matching("run-cast")?;
    fixture.server.wait_for_requests("/report/second-4", 2, TIMEOUT)?;
    recorder.signal(Signal::INT)?;
    let report = recorder.finish(TIMEOUT)?.report()?;
    ensure!(report.restarts == 1, "{report:?}");
    let playlist = std::fs::read_to_string(fixture.folder.join("rec/rec.m3u8"))?;
    ensure!(playlist.matches("#EXT-X-DISCONTINUITY\n").count() == 1, "{playlist}");

    let (outcome, player) = fixture.play_vod()?;
    let played = ShownFrames::from_timecodes(outcome.recording()?.timecodes(TimecodePosition::PAGE)?);
    let recorded = ShownFrames::from_timecodes(fixture.recorded()?.timecodes(TimecodePosition::PAGE)?);
    ensure!(recorded.jumps_back() == 1, "the second part was not recorded: {playlist}");
    verify_played_to_end("two parts", &player, &played, &recorded, Tolerance::SHARED)
}

#[test]
fn fragmented_mp4_plays_on_where_a_cast_was_killed() -> Result<()> {
    check_playback_across_a_kill("hls")
}

#[test]
fn mpeg_ts_plays_on_where_a_cast_was_killed() -> Result<()> {
    check_playback_across_a_kill("hls-ts")
}

/// Tests that measure time, so they need the machine for themselves.
mod exclusive {
    use super::*;

    #[test]
    fn fragmented_mp4_plays_live_and_on_demand() -> Result<()> {
        check_live_and_on_demand("hls")
    }

    #[test]
    fn mpeg_ts_plays_live_and_on_demand() -> Result<()> {
        check_live_and_on_demand("hls-ts")
    }
}
