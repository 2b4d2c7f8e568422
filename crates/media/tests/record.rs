//! A file that plays at any moment, is final only when it is complete, and is not there for nothing.

#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_media::encode::End;
use pagecast_media::record::{Error, Finished, Kept, Recorder};
use pagecast_media::sheet;
use pagecast_testkit::media::probe::{boxes, packets};
use pagecast_testkit::media::{Rgb, picture::Area};
use pagecast_testkit::strip::Place;
use pagecast_testkit::{Recording, Scratch, Tmpfs};

use stream::{encode_video, record, shade, some, tapped, tracks};

const FPS: u32 = 30;

type Done = Result<Option<Finished>, Error>;

/// Bytes on a small disk that are taken already: a disk cannot be smaller.
const BALLAST: u64 = 65_536;

fn is_faststart(path: &Path) -> Result<bool> {
    let kinds = boxes(path)?;
    let at =
        |kind: &str| kinds.iter().position(|k| k == kind).with_context(|| format!("no {kind} in {kinds:?}"));
    Ok(at("moov")? < at("mdat")? && !kinds.contains(&"moof".to_owned()))
}

/// Times, sizes and keyframes of a file's packets.
fn contents(path: &Path) -> Result<Vec<(i64, u64, bool)>> {
    let mut all = Vec::new();
    for stream in ["v:0", "a:0"] {
        let file = Recording::open(path)?;
        let base = if stream == "v:0" { Some(&file.video) } else { file.audio.as_ref() };
        let base = base.context("two streams")?.time_base;
        // In microseconds: the two files count in units of their own.
        all.extend(
            packets(path, stream)?.iter().map(|p| (p.pts * 1_000_000 * base.0 / base.1, p.size, p.keyframe)),
        );
    }
    Ok(all)
}

#[test]
fn while_it_runs_it_plays_and_the_end_changes_nothing_but_the_order() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("out.mp4");
    let (sender, tap) = tapped()?;
    let thread = Recorder::create(&path, false, tracks(FPS)?)?.spawn(tap)?;
    let mut all = some(FPS, 4)?;
    all.sort_by_key(|p| p.dts);
    let held = all.split_off(all.len() - 1);
    for packet in all {
        sender.send(packet)?;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while boxes(&path)?.iter().filter(|k| *k == "moof").count() < 3 {
        ensure!(Instant::now() < deadline, "no fragments are written: {:?}", boxes(&path)?);
        std::thread::sleep(Duration::from_millis(5));
    }
    let early = scratch.join("early.mp4");
    fs::copy(&path, &early)?;
    let seen = Recording::open(&early)?.strips(Place::PAGE)?.len();
    ensure!(seen > 60, "only {seen} pictures play while it runs");
    for packet in held {
        sender.send(packet)?;
    }
    drop(sender);
    let finished = thread.join().ok().context("a panic")??.context("a file")?;
    ensure!(finished.left_fragmented.is_none() && finished.bytes == fs::metadata(&path)?.len());
    ensure!(is_faststart(&path)?, "{:?}", boxes(&path)?);
    let (before, after) = (contents(&early)?, contents(&path)?);
    ensure!(before.iter().all(|packet| after.contains(packet)), "packets changed");
    let file = Recording::open(&path)?;
    ensure!(file.complaints()?.is_empty(), "{}", file.complaints()?);
    let counters: Vec<_> = file.strips(Place::PAGE)?.iter().filter_map(|p| Some(p.strip?.counter)).collect();
    ensure!(counters == (0..120).collect::<Vec<_>>(), "{counters:?}");
    ensure!(fs::read_dir(scratch.path())?.count() == 2, "a draft was left");
    Ok(())
}

#[test]
fn a_file_is_not_replaced_unless_asked_for() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("out.mp4");
    fs::write(&path, "precious")?;
    ensure!(matches!(record(&path, FPS, false, some(FPS, 1)?), Err(Error::Exists(p)) if p == path));
    ensure!(fs::read(&path)? == b"precious");
    record(&path, FPS, true, some(FPS, 1)?)?.context("a file")?;
    ensure!(is_faststart(&path)?);
    Ok(())
}

#[test]
fn a_folder_must_be_there() -> Result<()> {
    let scratch = Scratch::new()?;
    let made = record(&scratch.join("no/out.mp4"), FPS, true, Vec::new());
    ensure!(matches!(made, Err(Error::NoFolder(p)) if p == scratch.join("no")));
    ensure!(
        matches!(record(scratch.path(), FPS, true, Vec::new()), Err(Error::Create(..))),
        "a folder is no file"
    );
    Ok(())
}

#[test]
fn nothing_recorded_is_no_file() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("out.mp4");
    ensure!(record(&path, FPS, false, Vec::new())?.is_none());
    ensure!(!path.exists());
    Ok(())
}

/// Records 20 s to a disk with `room` bytes left; how it ended and what is there then.
fn on_a_disk_with(room: u64) -> Result<(Done, Option<Recording>)> {
    let scratch = Scratch::new()?;
    let disk = Tmpfs::mount(scratch.join("disk"), room + BALLAST)?;
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, [0; BALLAST as usize])?;
    let path = disk.path().join("out.mp4");
    let done = record(&path, FPS, false, some(FPS, 20)?);
    let entries = fs::read_dir(disk.path())?.flatten().map(|entry| entry.path());
    let left: Vec<_> = entries.filter(|path| *path != ballast).collect();
    ensure!(left.is_empty() || left == [path.clone()], "{left:?}");
    if left.is_empty() {
        return Ok((done, None));
    }
    // The disk goes with this function.
    let kept = std::env::temp_dir().join(format!("pagecast-kept-{}.mp4", std::process::id()));
    fs::copy(&path, &kept)?;
    let file = Recording::open(&kept)?;
    let complaints = file.complaints();
    fs::remove_file(&kept)?;
    ensure!(complaints?.is_empty(), "what is left is torn");
    Ok((done, Some(file)))
}

#[test]
fn a_full_disk_keeps_whole_fragments_or_nothing() -> Result<()> {
    if !Tmpfs::possible() {
        eprintln!("skipped: mounting a small disk needs root");
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let whole = record(&scratch.join("out.mp4"), FPS, false, some(FPS, 20)?)?.context("a file")?.bytes;
    let (done, left) = on_a_disk_with(0)?;
    ensure!(matches!(done, Err(Error::Full { kept: Kept::Nothing, .. })) && left.is_none(), "{done:?}");
    let (done, left) = on_a_disk_with(whole / 2)?;
    ensure!(matches!(done, Err(Error::Full { kept: Kept::Fragments, .. })), "{done:?}");
    let end_s = left.context("a file")?.end_s();
    ensure!((5.0..15.0).contains(&end_s), "{end_s} s of 20 on half a disk");
    // Room for the recording, but not for a second one beside it.
    let (done, left) = on_a_disk_with(whole * 3 / 2)?;
    let finished = done?.context("a file")?;
    ensure!(finished.left_fragmented.is_some_and(|why| why.contains("space")));
    ensure!((left.context("a file")?.end_s() - 20.0).abs() < 1e-3);
    Ok(())
}

#[test]
fn a_sheet_shows_the_middle_of_each_part() -> Result<()> {
    let scratch = Scratch::new()?;
    let (path, png) = (scratch.join("out.mp4"), scratch.join("out.png"));
    // Dark for two seconds, then light.
    let levels =
        (0..120).map(|i| shade(FPS, i, if i < 60 { 40 } else { 200 })).collect::<Result<Vec<_>>>()?;
    let (packets, _) = encode_video(FPS, levels, End::new(None))?;
    record(&path, FPS, false, packets)?;
    sheet::write(&path, &png, 4)?;
    let sheet = Rgb::open(&png)?;
    // Stills of 420x84, three in a row, 8 pixels apart.
    ensure!((sheet.width, sheet.height) == (1292, 192), "{}x{}", sheet.width, sheet.height);
    for (x, y, level) in [(8, 8, 40), (436, 8, 40), (864, 8, 200), (8, 100, 200), (0, 0, 24), (436, 100, 24)]
    {
        let inside = Area { x: x + 2, y: y + 2, width: 4, height: 4 };
        let seen = sheet.mean(inside)[0];
        ensure!((seen - f64::from(level)).abs() < 4.0, "{seen} instead of {level} at {x},{y}");
    }
    Ok(())
}
