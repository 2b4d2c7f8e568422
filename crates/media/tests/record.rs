//! Recording to segments and assembling files, also after crashes and with full disks.

#[path = "synthetic/stream.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod stream;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Format, Recording as Spec, Storage};
use pagecast_core::{MediaTime, Packet, Track};
use pagecast_media::contact_sheet;
use pagecast_media::encode::{EndTime, Tracks, video};
use pagecast_media::record::upload::{self, UploadReport};
use pagecast_media::record::{Error, Recorder, RunSummary, Spool, SpoolConfig};
use pagecast_testkit::media::probe::{packets, top_level_boxes};
use pagecast_testkit::media::{RgbImage, image::Rect};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{Recording, ScratchDir, Tmpfs, wait_until};

use stream::{
    beside_file, encode_video, fast_retry_config, grey_tick, record, record_to_file, resumed, sorted_by_dts,
    subscribed, test_packets, tracks, wait_for_upload,
};

const FPS: u32 = 30;
/// Longest wait for the recorder, for busy machines.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Time without a write after which the recorder waits for packets.
const IDLE_TIME: Duration = Duration::from_millis(300);

/// Bytes used on a small disk before the test, as a tmpfs cannot be smaller.
const BALLAST_BYTES: u64 = 65_536;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A recording to the folder `out/rec`.
fn folder_spec(scratch: &ScratchDir, format: Format) -> Spec {
    Spec { format, ..Spec::new("rec", Storage::Folder(scratch.join("out"))) }
}

/// A recording with its spool in the folder `rec.spool`.
fn spooled(scratch: &ScratchDir, spec: Spec) -> SpoolConfig {
    SpoolConfig::new(spec, scratch.join("rec.spool"))
}

fn is_faststart(path: &Path) -> Result<bool> {
    let kinds = top_level_boxes(path)?;
    let at =
        |kind: &str| kinds.iter().position(|k| k == kind).with_context(|| format!("no {kind} in {kinds:?}"));
    Ok(at("moov")? < at("mdat")? && !kinds.contains(&"moof".to_owned()))
}

/// The burnt-in counters of all pictures.
fn counters(path: &Path) -> Result<Vec<u32>> {
    Ok(Recording::open(path)?
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .filter_map(|p| Some(p.timecode?.counter))
        .collect())
}

fn expect_all_stored(done: (Result<RunSummary, Error>, UploadReport)) -> Result<UploadReport> {
    let (summary, report) = done;
    summary?;
    ensure!(report.spool.is_none(), "{report:?}");
    Ok(report)
}

#[test]
fn a_file_has_all_packets() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let path = scratch.join("out.mp4");
    let all = sorted_by_dts(test_packets(FPS, 9)?);
    let done = record_to_file(&path, FPS, all.clone())?;
    ensure!(is_faststart(&path)?, "{:?}", top_level_boxes(&path)?);
    ensure!(fs::read_dir(scratch.path())?.count() == 1, "something was left beside the file");
    ensure!(done.files.len() == 1 && done.files[0].bytes == fs::metadata(&path)?.len(), "{done:?}");
    ensure!(done.duration.as_millis() == 9000, "{:?}", done.duration);
    ensure!(done.files[0].end_unix_ms - done.files[0].start_unix_ms == 9000, "{done:?}");
    let file = Recording::open(&path)?;
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    ensure!(counters(&path)? == (0..270).collect::<Vec<_>>());
    for (track, stream) in [(Track::Video, "v:0"), (Track::Audio, "a:0")] {
        let track_of = if stream == "v:0" { Some(&file.video) } else { file.audio.as_ref() };
        let base = track_of.context("a track")?;
        let sent: Vec<_> = all.iter().filter(|p| p.track == track).collect();
        let kept = packets(&path, stream)?;
        ensure!(sent.len() == kept.len(), "{} of {} {stream}", kept.len(), sent.len());
        for (sent, kept) in sent.iter().zip(&kept) {
            let at = base.seconds(kept.pts);
            ensure!((at - sent.pts.as_secs_f64()).abs() < 2e-5, "{at} is not {:?}", sent.pts);
            ensure!(kept.keyframe == sent.keyframe);
        }
    }
    Ok(())
}

#[test]
fn a_relative_destination_becomes_absolute() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = SpoolConfig::new(Spec::to_file("a.mp4".into()), scratch.join("a.spool"));
    drop(Spool::create(&spec)?);
    let opened = Spool::open(&scratch.join("a.spool"))?;
    ensure!(opened.recording().to == Storage::File(std::env::current_dir()?.join("a.mp4")));
    Ok(())
}

#[test]
fn a_file_is_not_replaced_unless_allowed() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let path = scratch.join("out.mp4");
    fs::write(&path, "precious")?;
    let mut spec = beside_file(Spec::to_file(path.clone()));
    let done = record(&spec, tracks(FPS)?, test_packets(FPS, 1)?);
    ensure!(matches!(done, Err(Error::Exists(p)) if p == path));
    ensure!(fs::read(&path)? == b"precious" && !spec.folder.exists());
    spec.recording.overwrite = true;
    expect_all_stored(record(&spec, tracks(FPS)?, test_packets(FPS, 1)?)?)?;
    ensure!(is_faststart(&path)?);
    Ok(())
}

#[test]
fn a_destination_folder_must_exist_and_the_spool_must_not() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let result = record(&beside_file(Spec::to_file(scratch.join("no/out.mp4"))), tracks(FPS)?, Vec::new());
    ensure!(matches!(result, Err(Error::NoFolder(p)) if p == scratch.join("no")));
    let folder = scratch.path().to_owned();
    let result = record(&beside_file(Spec::to_file(folder)), tracks(FPS)?, Vec::new());
    ensure!(matches!(result, Err(Error::Create(..))), "a folder is not a file");
    let spec = beside_file(Spec::to_file(scratch.join("out.mp4")));
    fs::create_dir(&spec.folder)?;
    fs::write(spec.folder.join("mine"), "")?;
    let result = record(&spec, tracks(FPS)?, Vec::new());
    ensure!(matches!(result, Err(Error::Unfinished(p)) if p == spec.folder));
    ensure!(
        matches!(Spool::open(&spec.folder), Err(Error::NotASpool { .. })),
        "a folder without a description is not a spool"
    );
    Ok(())
}

#[test]
fn a_spool_does_not_overlap_with_its_destination() -> Result<()> {
    let scratch = ScratchDir::new()?;
    for spool in ["out/rec", "out/rec/spool", "out"] {
        let spec = SpoolConfig::new(folder_spec(&scratch, Format::Both), scratch.join(spool));
        let result = record(&spec, tracks(FPS)?, Vec::new());
        ensure!(matches!(result, Err(Error::Overlap(_))), "{spool}: {result:?}");
    }
    Ok(())
}

#[test]
fn a_file_that_appears_during_the_recording_is_kept() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let path = scratch.join("out.mp4");
    let spec = beside_file(Spec::to_file(path.clone()));
    record_and_crash(&spec, test_packets(FPS, 5)?)?;
    fs::write(&path, "precious")?;
    let done = wait_for_upload(upload::recover(Arc::new(Spool::open(&spec.folder)?), fast_retry_config())?);
    ensure!(done.spool.is_some() && fs::read(&path)? == b"precious", "{done:?}");
    ensure!(done.status.problem.is_some_and(|problem| problem.contains("already exists")));
    fs::remove_file(&path)?;
    let done = wait_for_upload(upload::recover(Arc::new(Spool::open(&spec.folder)?), fast_retry_config())?);
    ensure!(done.spool.is_none() && counters(&path)?.len() > 100, "{done:?}");
    Ok(())
}

/// Every file of a spool is truncated, corrupted or removed; the result is an error or a shorter recording.
#[test]
fn a_damaged_spool_causes_no_panic() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = spooled(&scratch, Spec { overwrite: true, ..folder_spec(&scratch, Format::BothTs) });
    record_and_crash(&spec, test_packets(FPS, 10)?)?;
    let whole = scratch.join("whole");
    fs::rename(&spec.folder, &whole)?;
    let mut names: Vec<_> = fs::read_dir(&whole)?.flatten().map(|e| e.file_name()).collect();
    names.sort();
    for name in names {
        for damage in 0..4 {
            let _earlier = fs::remove_dir_all(&spec.folder);
            copy_folder(&whole, &spec.folder)?;
            let path = spec.folder.join(&name);
            let content = fs::read(&path)?;
            match damage {
                0 => fs::remove_file(&path)?,
                1 => fs::write(&path, &content[..content.len() / 2])?,
                2 => fs::write(&path, b"nonsense")?,
                _ => fs::write(&path, String::from_utf8_lossy(&content).replace("0", "9223372036854775807"))?,
            }
            let recovered = Spool::open(&spec.folder)
                .and_then(|spool| upload::recover(Arc::new(spool), fast_retry_config()));
            if let Ok(upload) = recovered {
                // A panic of the upload would panic here.
                let _report = wait_for_upload(upload);
            }
        }
    }
    Ok(())
}

#[test]
fn an_empty_recording_has_no_file() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = beside_file(Spec { manifest: true, ..Spec::to_file(scratch.join("out.mp4")) });
    let done = expect_all_stored(record(&spec, tracks(FPS)?, Vec::new())?)?;
    ensure!(done.files.is_empty() && fs::read_dir(scratch.path())?.count() == 0, "{done:?}");
    Ok(())
}

#[test]
fn a_split_neither_loses_nor_repeats_packets() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = spooled(&scratch, Spec { split: secs(8), ..folder_spec(&scratch, Format::Mp4) });
    let all = test_packets(FPS, 22)?;
    let done = expect_all_stored(record(&spec, tracks(FPS)?, all.clone())?)?;
    let names: Vec<_> = done.files.iter().map(|f| f.name.as_str()).collect();
    ensure!(names == ["rec_0.mp4", "rec_1.mp4", "rec_2.mp4"], "{names:?}");
    let (mut pictures, mut audio_packets) = (Vec::new(), 0);
    for (name, length) in names.iter().zip([8.0, 8.0, 6.0]) {
        let path = scratch.join("out/rec").join(name);
        ensure!(is_faststart(&path)?);
        let file = Recording::open(&path)?;
        ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
        ensure!((file.end_s() - length).abs() < 0.001, "{name} lasts {} s", file.end_s());
        ensure!(packets(&path, "v:0")?.first().is_some_and(|p| p.pts == 0 && p.keyframe));
        audio_packets += packets(&path, "a:0")?.len();
        pictures.extend(counters(&path)?);
    }
    ensure!(pictures == (0..660).collect::<Vec<_>>(), "{pictures:?}");
    ensure!(audio_packets == all.iter().filter(|p| p.track == Track::Audio).count());
    let times: Vec<_> = done.files.iter().map(|f| (f.start_unix_ms, f.end_unix_ms)).collect();
    ensure!(
        times[0].1 == times[1].0 && times[1].1 == times[2].0 && times[2].1 - times[0].0 == 22_000,
        "{times:?}"
    );
    Ok(())
}

/// Encoded video and audio of `seconds` seconds from `begins_at` on, with keyframes at split points.
fn test_packets_split(split: Duration, begins_at: MediaTime, seconds: i64) -> Result<Vec<Packet>> {
    let ticks =
        (0..seconds * i64::from(FPS)).map(|i| stream::tick(FPS, i, true)).collect::<Result<Vec<_>>>()?;
    let mut encoder = video::Encoder::open(stream::config(FPS)?)?;
    encoder.force_keyframes_at_splits(split, begins_at);
    let (packets_in, packets) = sync_channel(10_000);
    let end = || EndTime::new(Some(MediaTime::from_index(seconds, 1)));
    let thread = encoder.spawn(stream::channel_of(ticks), end(), packets_in)?;
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    let mut all: Vec<_> = packets.iter().collect();
    all.extend(stream::encode_audio(Vec::new(), end())?.0);
    Ok(all)
}

/// Length of each file in ticks; checks that each file starts with a keyframe at zero.
fn file_lengths(scratch: &ScratchDir, done: &UploadReport) -> Result<Vec<u32>> {
    let length = |name: &str| {
        let path = scratch.join("out/rec").join(name);
        let file = Recording::open(&path)?;
        ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
        ensure!(packets(&path, "v:0")?.first().is_some_and(|p| p.pts == 0 && p.keyframe));
        let pictures = u32::try_from(counters(&path)?.len())?;
        ensure!(
            (file.end_s() - f64::from(pictures) / f64::from(FPS)).abs() < 0.05,
            "{name}: {}",
            file.end_s()
        );
        Ok(pictures)
    };
    done.files.iter().filter(|file| file.name.ends_with(".mp4")).map(|file| length(&file.name)).collect()
}

#[test]
fn files_have_the_requested_length_to_a_frame() -> Result<()> {
    for (split, wanted) in [(5, &[150, 150, 60][..]), (10, &[300, 60]), (12, &[360])] {
        let scratch = ScratchDir::new()?;
        let spec = spooled(&scratch, Spec { split: secs(split), ..folder_spec(&scratch, Format::Both) });
        let all = test_packets_split(secs(split), MediaTime::ZERO, 12)?;
        let done = expect_all_stored(record(&spec, tracks(FPS)?, all)?)?;
        ensure!(file_lengths(&scratch, &done)? == wanted, "{split} s: {:?}", file_lengths(&scratch, &done)?);
        // No segment exceeds the target duration, and none is lost.
        let playlist = scratch.join("out/rec/rec.m3u8");
        ensure!(fs::read_to_string(&playlist)?.contains("#EXT-X-TARGETDURATION:4\n"));
        ensure!(counters(&playlist)? == (0..360).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn a_resumed_recording_has_the_same_split_points() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = spooled(&scratch, Spec { split: secs(5), ..folder_spec(&scratch, Format::Mp4) });
    record_and_crash(&spec, test_packets_split(secs(5), MediaTime::ZERO, 8)?)?;
    let spec = resumed(spec);
    let begins_at = Recorder::create(Spool::create(&spec)?, tracks(FPS)?)?.begins_at();
    ensure!((6500..8000).contains(&begins_at.as_millis()), "{begins_at:?}");
    let done = expect_all_stored(record(&spec, tracks(FPS)?, test_packets_split(secs(5), begins_at, 9)?)?)?;
    let rest = u32::try_from(begins_at.to_index(FPS))? + 9 * FPS - 450;
    ensure!(file_lengths(&scratch, &done)? == [150, 150, 150, rest], "{:?}", file_lengths(&scratch, &done)?);
    Ok(())
}

#[test]
fn a_file_has_its_creation_time() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = spooled(&scratch, Spec { split: secs(5), ..folder_spec(&scratch, Format::Mp4) });
    let all = test_packets_split(secs(5), MediaTime::ZERO, 7)?;
    let done = expect_all_stored(record(&spec, tracks(FPS)?, all)?)?;
    ensure!(done.files.len() == 2, "{done:?}");
    for file in &done.files {
        let path = scratch.join("out/rec").join(&file.name);
        let opened = Recording::open(&path)?;
        for track in [Some(&opened.video), opened.audio.as_ref()].into_iter().flatten() {
            let created = track.json["tags"]["creation_time"].as_str().context("no creation time")?;
            let created: chrono::DateTime<chrono::Utc> = created.parse()?;
            ensure!(
                created.timestamp() == file.start_unix_ms / 1000,
                "{created} is not {}",
                file.start_unix_ms
            );
        }
    }
    Ok(())
}

#[test]
fn playlists_hold_every_frame() -> Result<()> {
    for (format, kind) in
        [(Format::Both, "m4s"), (Format::BothTs, "ts"), (Format::Hls, "m4s"), (Format::HlsTs, "ts")]
    {
        let scratch = ScratchDir::new()?;
        let spec = Spec { manifest: true, segment: secs(2), ..folder_spec(&scratch, format) };
        let spec = spooled(&scratch, spec);
        // Keyframes every four seconds, so segments of four.
        let done = expect_all_stored(record(&spec, tracks(FPS)?, test_packets(FPS, 10)?)?)?;
        let folder = scratch.join("out/rec");
        let mut names: Vec<_> =
            fs::read_dir(&folder)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        let mut wanted: Vec<String> = (0..3).map(|n| format!("rec_{n}.{kind}")).collect();
        wanted.extend(["rec.m3u8".into(), "rec_live.m3u8".into(), "rec.json".into()]);
        wanted.extend((kind == "m4s").then(|| "rec_init.mp4".into()));
        wanted.extend(format.has_mp4().then(|| "rec_0.mp4".into()));
        wanted.sort();
        ensure!(names == wanted, "{names:?}");
        let playlist = folder.join("rec.m3u8");
        let text = fs::read_to_string(&playlist)?;
        ensure!(text.contains("#EXT-X-PLAYLIST-TYPE:VOD") && text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
        // Live viewers can play to the end.
        let live = fs::read_to_string(folder.join("rec_live.m3u8"))?;
        ensure!(!live.contains("PLAYLIST-TYPE") && live.ends_with("#EXT-X-ENDLIST\n"), "{live}");
        ensure!(
            text.matches("#EXTINF:4.000000,").count() == 2 && text.contains("#EXTINF:2.000000,"),
            "{text}"
        );
        let file = Recording::open(&playlist)?;
        ensure!(file.decoder_warnings()?.is_empty(), "{format:?}: {}", file.decoder_warnings()?);
        ensure!(
            counters(&playlist)? == (0..300).collect::<Vec<_>>(),
            "{format:?}: {:?}",
            counters(&playlist)?
        );
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("rec.json"))?)?;
        ensure!(manifest["duration_ms"] == 10_000 && manifest["segments"] == 3, "{manifest}");
        ensure!(done.files.iter().any(|f| f.name == "rec.m3u8"), "{done:?}");
    }
    Ok(())
}

#[test]
fn an_audio_only_recording() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = spooled(&scratch, Spec { audio_only: true, ..folder_spec(&scratch, Format::BothTs) });
    let audio_only = || Ok::<_, anyhow::Error>(Tracks { video: None, ..tracks(FPS)? });
    let all: Vec<_> = test_packets(FPS, 10)?.into_iter().filter(|p| p.track == Track::Audio).collect();
    expect_all_stored(record(&spec, audio_only()?, all.clone())?)?;
    for (name, least) in [("rec_0.mp4", all.len()), ("rec.m3u8", all.len())] {
        let kept = packets(&scratch.join("out/rec").join(name), "a:0")?.len();
        ensure!(kept == least, "{name}: {kept} of {least} packets");
    }
    let text = fs::read_to_string(scratch.join("out/rec/rec.m3u8"))?;
    let lengths =
        text.lines().filter_map(|line| line.strip_prefix("#EXTINF:")?.trim_end_matches(',').parse().ok());
    let lengths: Vec<f64> = lengths.collect();
    ensure!(lengths.len() == 3 && lengths[..2].iter().all(|s| (s - 4.0).abs() < 0.03), "{text}");
    Ok(())
}

/// Records packets and leaves the spool as a crash would: packets in the recorder's memory are lost.
fn record_and_crash(spec: &SpoolConfig, all: Vec<Packet>) -> Result<()> {
    let spool = Spool::create(spec)?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
    let (sender, subscription) = subscribed(Track::Video)?;
    let thread = recorder.spawn(subscription, None)?;
    let last = all.iter().map(|p| p.dts).max().context("packets")?;
    for packet in sorted_by_dts(all) {
        sender.send(packet)?;
    }
    // Everything is written except packets in the interleaver and the last fragment.
    wait_until_written(&spec.folder)?;
    let left = spec.folder.with_extension("left");
    copy_folder(&spec.folder, &left)?;
    drop(sender);
    thread.join().ok().context("a panic")??;
    drop(spool);
    fs::remove_dir_all(&spec.folder)?;
    fs::rename(left, &spec.folder)?;
    tracing::debug!(?last, "recording interrupted");
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[test]
fn an_interrupted_recording_is_recovered_without_at_most_a_fragment() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = spooled(&scratch, folder_spec(&scratch, Format::Both));
    record_and_crash(&spec, test_packets(FPS, 10)?)?;
    let spool = Arc::new(Spool::open(&spec.folder)?);
    ensure!(matches!(Spool::open(&spec.folder), Err(Error::Busy(_))), "two owners of one spool");
    let done = wait_for_upload(upload::recover(spool, fast_retry_config())?);
    ensure!(done.spool.is_none() && !spec.folder.exists(), "{done:?}");
    for name in ["rec_0.mp4", "rec.m3u8"] {
        let path = scratch.join("out/rec").join(name);
        let seen = counters(&path)?;
        ensure!(seen == (0..seen.len() as u32).collect::<Vec<_>>(), "{seen:?}");
        ensure!((270..300).contains(&seen.len()), "{} pictures of 300 in {name}", seen.len());
        let file = Recording::open(&path)?;
        ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    }
    Ok(())
}

#[test]
fn a_torn_segment_is_truncated_to_complete_fragments() -> Result<()> {
    let scratch = ScratchDir::new()?;
    for (cut, least) in [(1_u64, 180), (3000, 120)] {
        let spec = beside_file(Spec { overwrite: true, ..Spec::to_file(scratch.join("out.mp4")) });
        record_and_crash(&spec, test_packets(FPS, 8)?)?;
        let open = spec.folder.join("out_1.m4s");
        let file = fs::OpenOptions::new().write(true).open(&open)?;
        file.set_len(file.metadata()?.len() - cut)?;
        let done =
            wait_for_upload(upload::recover(Arc::new(Spool::open(&spec.folder)?), fast_retry_config())?);
        ensure!(done.spool.is_none());
        let seen = counters(&scratch.join("out.mp4"))?;
        ensure!(seen == (0..seen.len() as u32).collect::<Vec<_>>() && seen.len() < 240, "{seen:?}");
        ensure!(seen.len() >= least, "{} pictures", seen.len());
    }
    Ok(())
}

#[test]
fn a_recording_is_resumed_in_another_run() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let spec = spooled(&scratch, Spec { manifest: true, ..folder_spec(&scratch, Format::Both) });
    record_and_crash(&spec, test_packets(FPS, 6)?)?;
    let done = expect_all_stored(record(&resumed(spec), tracks(FPS)?, test_packets(FPS, 5)?)?)?;
    let path = scratch.join("out/rec/rec_0.mp4");
    let seen = counters(&path)?;
    let first = seen.len() - 150;
    ensure!((150..180).contains(&first), "{first} pictures of the first run");
    ensure!(
        seen[..first] == (0..first as u32).collect::<Vec<_>>()
            && seen[first..] == (0..150).collect::<Vec<_>>()
    );
    let file = Recording::open(&path)?;
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    let steps: Vec<_> = packets(&path, "v:0")?.windows(2).map(|p| p[1].pts - p[0].pts).collect();
    ensure!(steps.iter().all(|step| *step == steps[0]), "a gap in the video: {steps:?}");
    let sound = packets(&path, "a:0")?;
    let gaps = sound.windows(2).map(|p| file.audio.as_ref().map_or(0.0, |a| a.seconds(p[1].pts - p[0].pts)));
    let worst = gaps.fold(0.0, f64::max);
    ensure!(worst < 0.1, "a gap of {worst} s in the audio");
    let text = fs::read_to_string(scratch.join("out/rec/rec.m3u8"))?;
    ensure!(text.matches("#EXT-X-DISCONTINUITY\n").count() == 1 && text.contains("rec_init_1.mp4"), "{text}");
    let listed = counters(&scratch.join("out/rec/rec.m3u8"))?;
    ensure!(listed == seen, "{listed:?}");
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(scratch.join("out/rec/rec.json"))?)?;
    ensure!(
        manifest["runs"].as_array().is_some_and(|s| s.len() == 2 && s[1]["duration_ms"] == 5000),
        "{manifest}"
    );
    ensure!(done.duration.as_millis() == first as i64 * 1000 / 30 + 5000, "{:?}", done.duration);
    Ok(())
}

#[test]
fn a_recording_is_resumed_after_a_still_picture_with_longer_audio() -> Result<()> {
    let scratch = ScratchDir::new()?;
    for format in [Format::Mp4, Format::HlsTs] {
        let spec = spooled(&scratch, Spec { overwrite: true, ..folder_spec(&scratch, format) });
        let mut first = test_packets(FPS, 6)?;
        // A still picture is encoded once a second; audio is continuous.
        let second = 1_000_000_000;
        first.retain(|p| p.track == Track::Audio || p.pts.0 < 2 * second || p.pts.0 % second < second / 60);
        record_and_crash(&spec, first)?;
        let done = expect_all_stored(record(&resumed(spec), tracks(FPS)?, test_packets(FPS, 5)?)?)?;
        ensure!(done.spool.is_none() && !done.files.is_empty(), "{done:?}");
        let name = if format == Format::Mp4 { "rec_0.mp4" } else { "rec.m3u8" };
        for track in ["v:0", "a:0"] {
            let packets = packets(&scratch.join("out/rec").join(name), track)?;
            ensure!(
                packets.len() > 150 && packets.is_sorted_by(|a, b| a.pts < b.pts),
                "{track} of {name} goes back"
            );
        }
        fs::remove_dir_all(scratch.join("out"))?;
    }
    Ok(())
}

/// Records 20 s to a spool on a disk with `room` bytes left; returns the result and the recovered counters.
fn record_on_small_disk(room: u64) -> Result<(Result<RunSummary, Error>, Vec<u32>)> {
    let scratch = ScratchDir::new()?;
    let disk = Tmpfs::mount(scratch.join("disk"), room + BALLAST_BYTES)?;
    fs::write(disk.path().join("ballast"), [0; BALLAST_BYTES as usize])?;
    let path = scratch.join("out.mp4");
    let spec = SpoolConfig::new(Spec::to_file(path.clone()), disk.path().join("spool"));
    let (added, done) = match record(&spec, tracks(FPS)?, test_packets(FPS, 20)?) {
        Ok(done) => done,
        Err(error) => return Ok((Err(error), Vec::new())),
    };
    if done.spool.is_some() {
        fs::remove_file(disk.path().join("ballast"))?;
        let again =
            wait_for_upload(upload::recover(Arc::new(Spool::open(&spec.folder)?), fast_retry_config())?);
        ensure!(again.spool.is_none(), "{again:?}");
    }
    ensure!(Recording::open(&path)?.decoder_warnings()?.is_empty(), "what is left is torn");
    Ok((added, counters(&path)?))
}

#[test]
fn on_a_full_disk_everything_recorded_so_far_is_kept() -> Result<()> {
    if !Tmpfs::is_supported_or_skip() {
        return Ok(());
    }
    let (added, _) = record_on_small_disk(0)?;
    ensure!(
        matches!(added, Err(Error::DiskFull(_) | Error::Create(..) | Error::NotASpool { .. })),
        "{added:?}"
    );
    let whole = {
        let scratch = ScratchDir::new()?;
        record_to_file(&scratch.join("out.mp4"), FPS, test_packets(FPS, 20)?)?.files[0].bytes
    };
    let (added, seen) = record_on_small_disk(whole / 2)?;
    ensure!(matches!(added, Err(Error::DiskFull(_))), "{added:?}");
    ensure!(seen == (0..seen.len() as u32).collect::<Vec<_>>());
    ensure!((120..450).contains(&seen.len()), "{} pictures of 600 on half a disk", seen.len());
    // Room for the recording, but not for a copy of it.
    let (added, seen) = record_on_small_disk(whole * 3 / 2)?;
    ensure!(added.is_ok() && seen.len() == 600, "{added:?}: {} pictures", seen.len());
    Ok(())
}

/// Waits until all packets are written, except those of the open fragment.
fn wait_until_written(spool: &Path) -> Result<()> {
    let bytes = || -> Result<u64> {
        Ok(fs::read_dir(spool)?.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum())
    };
    wait_until("all packets are written", WAIT_TIMEOUT, || {
        let before = bytes()?;
        // The recorder does not tell when it waits for packets, but then it writes nothing.
        std::thread::sleep(IDLE_TIME);
        ensure!(before > 0 && before == bytes()?, "{before} bytes, and growing");
        Ok(())
    })
}

/// Fills a disk completely.
fn fill_disk(disk: &Path) -> Result<()> {
    let mut filler = fs::File::create(disk.join("filler"))?;
    for size in [1 << 20, 4096, 1] {
        while filler.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}

/// The disk is filled by others in the middle of a segment, at 10.5 s.
#[test]
fn a_disk_filled_by_others_loses_nothing_that_was_recorded() -> Result<()> {
    if !Tmpfs::is_supported_or_skip() {
        return Ok(());
    }
    let scratch = ScratchDir::new()?;
    let disk = Tmpfs::mount(scratch.join("disk"), 128 << 20)?;
    let path = scratch.join("out.mp4");
    let spec = SpoolConfig::new(Spec::to_file(path.clone()), disk.path().join("spool"));
    let spool = Spool::create(&spec)?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks(FPS)?)?;
    let (sender, subscription) = subscribed(Track::Video)?;
    let thread = recorder.spawn(subscription, None)?;
    let all = sorted_by_dts(test_packets(FPS, 20)?);
    let half = all.iter().position(|p| p.dts.as_secs_f64() >= 10.5).context("a middle")?;
    for packet in &all[..half] {
        sender.send(packet.clone())?;
    }
    wait_until_written(&spec.folder)?;
    fill_disk(disk.path())?;
    for packet in &all[half..] {
        // The recorder may have ended already.
        let _ended = sender.send(packet.clone());
    }
    drop(sender);
    let ended = thread.join().ok().context("a panic")?;
    ensure!(matches!(ended, Err(Error::DiskFull(_))), "{ended:?}");
    drop(spool);
    // The segment was closed in order, not salvaged: the disk is still full.
    let segments = fs::read_to_string(spec.folder.join("recorded.log"))?.matches("\"segment\"").count();
    ensure!(segments == 3, "{segments} segments of 4 s are in the log");
    let done = wait_for_upload(upload::recover(Arc::new(Spool::open(&spec.folder)?), fast_retry_config())?);
    ensure!(done.spool.is_some() || path.exists(), "{done:?}");
    fs::remove_file(disk.path().join("filler"))?;
    if done.spool.is_some() {
        wait_for_upload(upload::recover(Arc::new(Spool::open(&spec.folder)?), fast_retry_config())?);
    }
    let seen = counters(&path)?;
    ensure!(seen == (0..seen.len() as u32).collect::<Vec<_>>());
    ensure!(seen.len() >= 315, "{} pictures are kept of the 315 from before", seen.len());
    ensure!(Recording::open(&path)?.decoder_warnings()?.is_empty(), "what is left is torn");
    Ok(())
}

#[test]
fn a_full_spool_ends_the_recording_and_is_kept() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let path = scratch.join("out.mp4");
    let spec = beside_file(Spec { spool_limit_bytes: 1 << 20, ..Spec::to_file(path.clone()) });
    let mut all = test_packets(FPS, 20)?;
    // Decoders ignore zeros behind a picture.
    for packet in all.iter_mut().filter(|p| p.track == Track::Video && p.keyframe) {
        packet.data = [&packet.data[..], &[0; 600_000]].concat().into();
    }
    let (added, done) = record(&spec, tracks(FPS)?, all)?;
    let Err(Error::SpoolFull { used, limit, .. }) = added else { anyhow::bail!("{added:?}") };
    ensure!(used > limit && limit == 1 << 20 && done.spool.is_none(), "{done:?}");
    let seen = counters(&path)?.len();
    ensure!(seen % 120 == 0 && seen < 600, "{seen} pictures");
    Ok(())
}

#[test]
fn a_sheet_shows_the_middle_of_each_part() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let (path, png) = (scratch.join("out.mp4"), scratch.join("out.png"));
    // Dark for two seconds, then light.
    let levels =
        (0..120).map(|i| grey_tick(FPS, i, if i < 60 { 40 } else { 200 })).collect::<Result<Vec<_>>>()?;
    let (packets, _) = encode_video(FPS, levels, EndTime::new(None))?;
    record_to_file(&path, FPS, packets)?;
    contact_sheet::write(&path, &png, 4)?;
    let sheet = RgbImage::open(&png)?;
    // Stills of 420x84, three in a row, 8 pixels apart.
    ensure!((sheet.width, sheet.height) == (1292, 192), "{}x{}", sheet.width, sheet.height);
    for (x, y, level) in [(8, 8, 40), (436, 8, 40), (864, 8, 200), (8, 100, 200), (0, 0, 24), (436, 100, 24)]
    {
        let inside = Rect { x: x + 2, y: y + 2, width: 4, height: 4 };
        let seen = sheet.mean_rgb(inside)[0];
        ensure!((seen - f64::from(level)).abs() < 4.0, "{seen} instead of {level} at {x},{y}");
    }
    Ok(())
}
