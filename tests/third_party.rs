//! Pages of others, as they come from the npm registry: what is recorded is what a person sees.
#![expect(clippy::print_stdout, reason = "what was measured is shown beside a failure")]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{output_of, program};
use pagecast_testkit::media::beeps;
use pagecast_testkit::media::picture::Area;
use pagecast_testkit::strip::Place;
use pagecast_testkit::{Outcome, Pagecast, Server, Turn, flash, screenshot, sync};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(60);

static INSTALLING: Mutex<()> = Mutex::new(());

/// A server of our pages around the packages, which are installed first if they are not.
fn server() -> Result<Server> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let _one_at_a_time = INSTALLING.lock().map_err(|_| anyhow::anyhow!("an installation failed"))?;
    output_of(&mut program(here.join("tests/third-party/install")))
        .context("cannot install the packages of the third-party pages")?;
    Ok(Server::start()?
        .folder("/pages/", &here.join("tests/third-party/pages"))
        .folder("/packages/", &here.join("target/third-party/node_modules"))
        .folder("/media/", &flash::folder()))
}

fn record(server: &Server, page: &str, seconds: u32) -> Result<Outcome> {
    Pagecast::record(PAGECAST, &server.url(page)).with("duration", format!("{seconds}s")).finish(LIMIT)
}

/// Records `page`, which comes to rest within `seconds`, and compares its end with a screenshot of `rest`.
fn ends_like(page: &str, rest: &str, seconds: u32, least_db: f64) -> Result<Outcome> {
    let _turn = Turn::shared()?;
    let server = server()?;
    let outcome = record(&server, page, seconds)?;
    let shown = outcome.recording()?.picture_at(f64::from(seconds) - 0.1)?;
    let wanted = screenshot(&server.url(rest), 1280, 720, Duration::from_secs(6))?;
    let psnr = shown.psnr_db(&wanted)?;
    println!("{page}: PSNR {psnr:.1} dB, detail {:.3}, {} colours", wanted.detail(), wanted.colours(0.001));
    ensure!(
        wanted.detail() > 0.03 && wanted.colours(0.001) >= 4,
        "the page itself is empty, nothing is proved"
    );
    ensure!(psnr >= least_db, "{page}: PSNR is {psnr:.1} dB");
    Ok(outcome)
}

/// How different the pictures at two moments are, in dB.
fn alike_db(outcome: &Outcome, one_s: f64, other_s: f64) -> Result<f64> {
    let file = outcome.recording()?;
    file.picture_at(one_s)?.psnr_db(&file.picture_at(other_s)?)
}

#[test]
fn a_reveal_deck_turns_its_pages() -> Result<()> {
    let outcome = ends_like("pages/deck.html?play", "pages/deck.html#/2", 7, 35.0)?;
    let alike = alike_db(&outcome, 1.2, 6.5)?;
    ensure!(alike < 25.0, "the deck never turned a page: {alike:.1} dB");
    Ok(())
}

#[test]
fn an_echarts_dashboard_is_complete() -> Result<()> {
    ends_like("pages/dashboard.html?play", "pages/dashboard.html", 5, 35.0).map(drop)
}

#[test]
fn a_three_js_scene_is_drawn_and_moves() -> Result<()> {
    let outcome = ends_like("pages/scene.html?play", "pages/scene.html", 7, 32.0)?;
    let alike = alike_db(&outcome, 2.0, 2.5)?;
    ensure!(alike < 40.0, "the scene did not move: {alike:.1} dB");
    Ok(())
}

#[test]
fn a_player_shows_and_sounds() -> Result<()> {
    let _turn = Turn::alone()?;
    let server = server()?;
    let playlist = flash::hls(30)?.join("index.m3u8");
    let address = playlist.strip_prefix(flash::folder())?.display().to_string();
    let outcome = record(&server, &format!("pages/player.html?src=/media/{address}"), 12)?;
    let file = outcome.recording()?;
    let pictures = file.strips(Place { x: 160, y: 60, cell: 24 })?;
    let onsets = beeps::onsets(file.pcm()?, flash::BEEP)?;
    let offsets = sync::video(&sync::on_ticks(&pictures, 30, file.end_s()), 30, &onsets);
    println!("player: {offsets} {:?}", offsets.all);
    ensure!(offsets.len() >= 5, "only {} beeps seen and heard", offsets.len());
    ensure!(offsets.median_ms().abs() <= 15.0 && offsets.spread_ms() < 20.0, "{offsets}");
    let controls = file.picture_at(11.0)?.crop(Area { x: 160, y: 560, width: 960, height: 40 });
    ensure!(controls.detail() > 0.02, "the player shows no controls");
    Ok(())
}

/// Kept beside the tests that need it: the script and the lock file it installs from.
#[test]
fn the_lock_file_names_no_registry() -> Result<()> {
    let lock = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/third-party/package-lock.json");
    let text = std::fs::read_to_string(lock)?;
    ensure!(
        text.contains("\"integrity\"") && !text.contains("\"resolved\""),
        "made without the option in install"
    );
    Ok(())
}
