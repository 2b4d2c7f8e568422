//! Encodes pictures with a burnt-in counter and sound of a known level.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{KEYFRAME_INTERVAL, Recording, Size, Storage};
use pagecast_core::{Fps, Frame, MediaTime, Packet, Picture, SAMPLE_RATE, Samples, Tick, Tiles, Track};
use pagecast_media::encode::{EndTime, Tracks, audio, video};
use pagecast_media::fanout::{FanOut, QueueLimit, Subscription};
use pagecast_media::record::upload::{Config, State, UploadReport, UploadTask};
use pagecast_media::record::{Error, Recorder, RunSummary, Spool, SpoolConfig};
use pagecast_testkit::media::GrayImage;
use pagecast_testkit::timecode::{Timecode, TimecodePosition};

/// Size of all pictures: wide enough for the counter strip.
const SIZE: (u32, u32) = (320, 64);

/// Settings of the video encoder.
pub(crate) fn config(fps: u32) -> Result<video::Config> {
    let fps = Fps::new(fps).context("a rate")?;
    let size = Size::new(SIZE.0, SIZE.1)?;
    Ok(video::Config::for_files(size, fps, 1_000_000, KEYFRAME_INTERVAL))
}

/// Parameters of both tracks from new encoders.
pub(crate) fn tracks(fps: u32) -> Result<Tracks> {
    let config = config(fps)?;
    let video = video::Encoder::open(config)?;
    Ok(Tracks {
        video: Some((video.parameters(), config.fps)),
        audio: audio::Encoder::open(audio::Config::FILES)?.parameters(),
    })
}

/// Tick `index`; a changed one shows its own index.
pub(crate) fn tick(fps: u32, index: i64, changed: bool) -> Result<Tick> {
    let pts = config(fps)?.fps.time_of(index);
    Ok(Tick { index, pts, frame: changed.then(|| frame(u32::try_from(index).unwrap_or(0))) })
}

/// Tick `index` with a picture that shows `counter`.
pub(crate) fn numbered_tick(fps: u32, index: i64, counter: u32) -> Result<Tick> {
    Ok(Tick { frame: Some(frame(counter)), ..tick(fps, index, false)? })
}

fn frame(counter: u32) -> Frame {
    let (width, height) = SIZE;
    let mut gray = GrayImage::new(width as usize, height as usize);
    Timecode { counter, page_time: 0, event_time: None, user_bits: 0 }
        .draw(&mut gray, TimecodePosition::PAGE);
    let mut picture = Picture::new(width, height);
    for (pixel, value) in picture.bgrx_mut().chunks_exact_mut(4).zip(&gray.data) {
        pixel.fill(*value);
    }
    Frame { picture: Arc::new(picture), damage: Tiles::all(width, height) }
}

/// Tick `index` with a picture of one grey level.
pub(crate) fn grey_tick(fps: u32, index: i64, level: u8) -> Result<Tick> {
    let mut picture = Picture::new(SIZE.0, SIZE.1);
    picture.bgrx_mut().fill(level);
    let frame = Frame { picture: Arc::new(picture), damage: Tiles::all(SIZE.0, SIZE.1) };
    Ok(Tick { frame: Some(frame), ..tick(fps, index, false)? })
}

/// A run of `len` samples of one level on both channels.
pub(crate) fn sample_run(start: u64, len: usize, level: f32) -> Samples {
    Samples { start, pcm: vec![level; 2 * len].into() }
}

/// The end at sample `index`.
pub(crate) fn end_at(index: i64) -> EndTime {
    EndTime::new(Some(MediaTime::from_index(index, SAMPLE_RATE)))
}

/// Encodes ticks as video.
pub(crate) fn encode_video(
    fps: u32,
    ticks: Vec<Tick>,
    end: EndTime,
) -> Result<(Vec<Packet>, Arc<video::Stats>)> {
    let encoder = video::Encoder::open(config(fps)?)?;
    let stats = encoder.stats();
    let (packets_in, packets) = sync_channel(10_000);
    let thread = encoder.spawn(channel_of(ticks), end, packets_in)?;
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    Ok((packets.iter().collect(), stats))
}

/// Encodes runs of samples as audio.
pub(crate) fn encode_audio(runs: Vec<Samples>, end: EndTime) -> Result<(Vec<Packet>, Arc<audio::Stats>)> {
    let encoder = audio::Encoder::open(audio::Config::FILES)?;
    let stats = encoder.stats();
    let (packets_in, packets) = sync_channel(10_000);
    let thread = encoder.spawn(channel_of(runs), end, packets_in)?;
    ensure!(thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
    Ok((packets.iter().collect(), stats))
}

/// A closed channel with these items.
pub(crate) fn channel_of<T>(all: Vec<T>) -> Receiver<T> {
    let (sender, receiver) = sync_channel(all.len());
    for item in all {
        // The receiver exists and there is room for all items.
        let _sent = sender.send(item);
    }
    receiver
}

/// A subscription with room for all packets.
pub(crate) fn subscribed(reference_track: Track) -> std::io::Result<(SyncSender<Packet>, Subscription)> {
    let (packets, fan_out) = FanOut::spawn(reference_track)?;
    let subscription = fan_out.subscribe("test", QueueLimit { bytes: usize::MAX, duration: Duration::MAX });
    Ok((packets, subscription))
}

/// Longest time for an upload on a busy machine.
pub(crate) const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The recording with its spool beside its file.
pub(crate) fn beside_file(recording: Recording) -> SpoolConfig {
    let Storage::File(path) = &recording.to else { panic!("not to a file: {recording:?}") };
    let spool = path.with_extension("mp4.spool");
    SpoolConfig::new(recording, spool)
}

/// The recording, resumed.
pub(crate) fn resumed(mut config: SpoolConfig) -> SpoolConfig {
    config.recording.resume = true;
    config
}

/// Records packets by decode time and waits until the recording is stored.
pub(crate) fn record(
    config: &SpoolConfig,
    tracks: Tracks,
    packets: Vec<Packet>,
) -> Result<(Result<RunSummary, Error>, UploadReport), Error> {
    let spool = Spool::create(config)?;
    let recorder = Recorder::create(Arc::clone(&spool), tracks)?;
    let upload = UploadTask::spawn(spool, recorder.wakeup(), fast_retry_config())?;
    let reference_track = if config.recording.audio_only { Track::Audio } else { Track::Video };
    let (sender, subscription) = subscribed(reference_track).expect("the thread starts");
    let thread = recorder.spawn(subscription, None)?;
    for packet in sorted_by_dts(packets) {
        sender.send(packet).expect("the fan-out takes all packets");
    }
    drop(sender);
    let summary = thread.join().expect("the recorder does not panic");
    upload.end_input();
    Ok((summary, wait_for_upload(upload)))
}

/// Waits for an upload, and cancels it if it fails or takes too long.
pub(crate) fn wait_for_upload(upload: UploadTask) -> UploadReport {
    let begin = Instant::now();
    while !upload.is_finished() {
        // A failed upload needs an operator.
        if begin.elapsed() > UPLOAD_TIMEOUT || upload.status().state == State::Failed {
            upload.cancel();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    upload.join().expect("the upload does not panic")
}

/// Settings with short pauses between retries.
pub(crate) fn fast_retry_config() -> Config {
    Config { initial_backoff: Duration::from_millis(20), ..Config::default() }
}

/// Packets in the order of their decode times.
pub(crate) fn sorted_by_dts(mut packets: Vec<Packet>) -> Vec<Packet> {
    packets.sort_by_key(|p| p.dts);
    packets
}

/// Writes packets to one MP4 file.
pub(crate) fn record_to_file(path: &Path, fps: u32, packets: Vec<Packet>) -> Result<UploadReport> {
    let (summary, report) = record(&beside_file(Recording::to_file(path.to_owned())), tracks(fps)?, packets)?;
    summary?;
    ensure!(report.spool.is_none(), "not stored: {report:?}");
    Ok(report)
}

/// Encoded video and audio of `seconds` seconds.
pub(crate) fn test_packets(fps: u32, seconds: i64) -> Result<Vec<Packet>> {
    let count = seconds * i64::from(fps);
    let ticks = (0..count).map(|i| tick(fps, i, true)).collect::<Result<Vec<_>>>()?;
    let end = || EndTime::new(Some(MediaTime::from_index(seconds, 1)));
    let (mut packets, _) = encode_video(fps, ticks, end())?;
    packets.extend(encode_audio(Vec::new(), end())?.0);
    Ok(packets)
}
