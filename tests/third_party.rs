//! Third-party web applications from the npm registry are recorded as Chromium shows them.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::media::beeps;
use pagecast_testkit::media::image::Rect;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{MachineLock, Outcome, PageServer, PagecastCommand, av_sync, flash_beep, screenshot};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);

static INSTALL_LOCK: Mutex<()> = Mutex::new(());

/// Installs the packages if needed, and starts a server of them and of the pages that use them.
fn start_server() -> Result<PageServer> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let _one_at_a_time = INSTALL_LOCK.lock().map_err(|_| anyhow::anyhow!("an installation failed"))?;
    run_for_output(&mut program(here.join("tests/third-party/install")))
        .context("cannot install the packages of the third-party pages")?;
    Ok(PageServer::start()?
        .with_folder("/pages/", &here.join("tests/third-party/pages"))
        .with_folder("/packages/", &here.join("target/third-party/node_modules"))
        .with_folder("/media/", &flash_beep::media_folder()))
}

fn record(server: &PageServer, page: &str, seconds: u32) -> Result<Outcome> {
    PagecastCommand::record(PAGECAST, &server.url(page))
        .option("duration", format!("{seconds}s"))
        .finish(TIMEOUT)
}

/// Records `page`, which stops moving within `seconds`, and compares its end with a screenshot of
/// `final_page`.
fn verify_last_frame(page: &str, final_page: &str, seconds: u32, min_psnr_db: f64) -> Result<Outcome> {
    let _turn = MachineLock::shared()?;
    let server = start_server()?;
    let outcome = record(&server, page, seconds)?;
    let shown = outcome.recording()?.frame_at(f64::from(seconds) - 0.1)?;
    let expected = screenshot(&server.url(final_page), 1280, 720, Duration::from_secs(6))?;
    let psnr = shown.psnr_db(&expected)?;
    println!(
        "{page}: PSNR {psnr:.1} dB, detail {:.3}, {} colours",
        expected.non_background_share(),
        expected.distinct_colours(0.001)
    );
    ensure!(
        expected.non_background_share() > 0.03 && expected.distinct_colours(0.001) >= 4,
        "the page is empty, so the comparison proves nothing"
    );
    ensure!(psnr >= min_psnr_db, "{page}: PSNR is {psnr:.1} dB");
    Ok(outcome)
}

/// PSNR between the pictures at two times, in dB.
fn psnr_between_db(outcome: &Outcome, one_s: f64, other_s: f64) -> Result<f64> {
    let file = outcome.recording()?;
    file.frame_at(one_s)?.psnr_db(&file.frame_at(other_s)?)
}

#[test]
fn a_reveal_deck_turns_its_pages() -> Result<()> {
    let outcome = verify_last_frame("pages/deck.html?play", "pages/deck.html#/2", 7, 35.0)?;
    let alike = psnr_between_db(&outcome, 1.2, 6.5)?;
    ensure!(alike < 25.0, "the deck never turned a page: {alike:.1} dB");
    Ok(())
}

#[test]
fn an_echarts_dashboard_is_complete() -> Result<()> {
    verify_last_frame("pages/dashboard.html?play", "pages/dashboard.html", 5, 35.0).map(drop)
}

#[test]
fn a_three_js_scene_is_drawn_and_moves() -> Result<()> {
    let outcome = verify_last_frame("pages/scene.html?play", "pages/scene.html", 7, 32.0)?;
    let alike = psnr_between_db(&outcome, 2.0, 2.5)?;
    ensure!(alike < 40.0, "the scene did not move: {alike:.1} dB");
    Ok(())
}

/// URLs of a registry in the lock file would break installations from another one.
#[test]
fn the_lock_file_names_no_registry() -> Result<()> {
    let lock = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/third-party/package-lock.json");
    let text = std::fs::read_to_string(lock)?;
    ensure!(
        text.contains("\"integrity\"") && !text.contains("\"resolved\""),
        "make the lock file with the command in tests/third-party/install"
    );
    Ok(())
}

/// Tests that measure time, so they need the machine for themselves.
mod exclusive {
    use super::*;

    #[test]
    fn a_player_plays_video_and_sound() -> Result<()> {
        let _turn = MachineLock::exclusive()?;
        let server = start_server()?;
        let playlist = flash_beep::hls(30)?.join("index.m3u8");
        let address = playlist.strip_prefix(flash_beep::media_folder())?.display().to_string();
        let outcome = record(&server, &format!("pages/player.html?src=/media/{address}"), 12)?;
        let file = outcome.recording()?;
        let pictures = file.timecodes(TimecodePosition { x: 160, y: 60, cell_size: 24 })?;
        let onsets = beeps::onsets(file.pcm()?, flash_beep::BEEP)?;
        let offsets =
            av_sync::video_offsets(&av_sync::hold_to_ticks(&pictures, 30, file.end_s()), 30, &onsets);
        println!("player: {offsets} {:?}", offsets.measurements);
        ensure!(offsets.len() >= 5, "only {} beeps were measured", offsets.len());
        ensure!(offsets.median_ms().abs() <= 15.0 && offsets.spread_ms() < 20.0, "{offsets}");
        let controls = file.frame_at(11.0)?.crop(Rect { x: 160, y: 560, width: 960, height: 40 });
        ensure!(controls.non_background_share() > 0.02, "the player shows no controls");
        Ok(())
    }
}
