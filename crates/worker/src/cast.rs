//! The life of one cast.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::{CastSpec, MediaTime, Packet, Samples, SpecError, Tick};
use pagecast_media::encode::{self, End, audio, video};
use pagecast_media::record::{self, Finished, Recorder, Tracks};
use pagecast_page::{Page, browser};
use serde::Serialize;

use crate::usage;

/// Ticks on their way to the encoder. Full: a change is told with a later tick.
const TICKS: usize = 4;
/// Runs of samples on their way to the encoder (10 to 100 ms each). Full: they are lost and become silence.
const SAMPLES: usize = 256;
/// Packets on their way to the file. Full: the encoders wait.
const PACKETS: usize = 256;
/// How long a page may take to draw something; after that it is recorded as it is.
const PAINT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a page that is loaded may take to draw something: one that is empty never does.
const EMPTY_PAGE_GRACE: Duration = Duration::from_millis(300);
/// How often the cast looks at what it started.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the browser's memory is measured.
const MEMORY_INTERVAL: Duration = Duration::from_secs(3);

/// Why a cast cannot start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The description is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// There is no page to record, or no longer.
    #[error(transparent)]
    Page(#[from] pagecast_page::Error),
    /// Nothing can be encoded.
    #[error(transparent)]
    Encode(#[from] encode::Error),
    /// Nothing can be written, or no longer.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A thread panicked.
    #[error("a bug: the thread {0} panicked")]
    Panic(&'static str),
}

impl From<browser::Error> for Error {
    fn from(error: browser::Error) -> Self {
        Self::Page(error.into())
    }
}

/// Ends a cast from outside.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The flag itself, for a signal handler to set.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    fn asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How far a cast has come.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Length of the recording so far.
    pub elapsed: MediaTime,
    /// Pictures of the page so far.
    pub frames_captured: u64,
    /// Frames encoded so far.
    pub frames_encoded: u64,
    /// Ticks without a change so far.
    pub frames_unchanged: u64,
    /// Changes told late so far.
    pub frames_dropped: u64,
    /// Bytes encoded so far.
    pub bytes: u64,
    /// Loudest sample since the last progress, 0 to 1 and beyond: left, right.
    pub peak: [f32; 2],
}

/// CPU seconds by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CpuSeconds {
    /// All processes of the browser.
    pub browser: f64,
    /// Display and sound card.
    pub display: f64,
    /// Everything else of Pagecast: conversion, encoders, file.
    pub encode: f64,
    /// The sum.
    pub total: f64,
}

/// Most memory by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PeakRss {
    /// All processes of the browser.
    pub browser: u64,
    /// This process.
    pub pagecast: u64,
}

/// What became of a cast.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Ticks that brought a changed picture.
    pub frames_captured: u64,
    /// Frames encoded: changes, refinements and heartbeats.
    pub frames_encoded: u64,
    /// Ticks that brought no change.
    pub frames_unchanged: u64,
    /// Changes that were told with a later tick, because the encoder was busy.
    pub frames_dropped: u64,
    /// From the start of the cast to its first frame.
    pub first_frame_ms: u64,
    /// Length of the recording.
    pub duration_ms: u64,
    /// Size of the file.
    pub bytes: u64,
    /// What it took to make.
    pub cpu_seconds: CpuSeconds,
    /// What it took to hold.
    pub peak_rss_bytes: PeakRss,
    /// The file.
    pub output: PathBuf,
    /// Why the file is still fragmented, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_fragmented: Option<String>,
}

/// A cast that ended too early: what was recorded until then, if anything, and why.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// The recording so far.
    pub report: Option<Box<Report>>,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), report: None }
    }
}

/// Runs a cast until its duration is over or `stop` is set. `started` is when the user asked for it; `tell` is called about
/// once a second.
///
/// # Errors
/// [`Failure`]; whatever was recorded is in the file and plays.
pub fn run(
    spec: &CastSpec,
    started: Instant,
    stop: &Stop,
    tell: impl FnMut(&Progress),
) -> Result<Report, Failure> {
    spec.check()?;
    let video_config =
        video::Config { size: spec.source.size, fps: spec.source.fps, bitrate_bps: spec.bitrate_bps() };
    let video = video::Encoder::open(video_config)?;
    let audio = audio::Encoder::open()?;
    let tracks = Tracks { video: (video.parameters(), spec.source.fps), audio: audio.parameters() };
    let recorder = Recorder::create(&spec.recording.path, spec.recording.overwrite, tracks)?;
    let (packets, packets_out) = sync_channel(PACKETS);
    let recording = Thread("record", recorder.spawn(packets_out)?);
    let (ticks, ticks_out) = sync_channel(TICKS);
    let (samples, samples_out) = sync_channel(SAMPLES);
    let page = match open(spec, ticks, samples, stop) {
        Ok(page) => page,
        Err(error) => {
            // Without a packet the recorder removes its file.
            drop(packets);
            let _nothing = recording.join();
            return Err(error.into());
        }
    };
    let end = End::new(spec.recording.duration.map(Into::into));
    let line = Line::start(video, audio, (ticks_out, samples_out), packets, end, recording)?;
    Running { spec, started, page, line, ended: None, usage: usage::Browser::default() }.watch(stop, tell)
}

/// Starts a browser, opens the page and waits until there is something to see.
fn open(
    spec: &CastSpec,
    ticks: SyncSender<Tick>,
    samples: SyncSender<Samples>,
    stop: &Stop,
) -> Result<Page, Error> {
    let page = Page::start(&spec.source, &spec.network, ticks, samples)?;
    tracing::info!(url = %spec.source.url, size = %spec.source.size, fps = spec.source.fps.get(), "opening the page");
    page.browser.open(&spec.source.url, &|| stop.asked())?;
    let deadline = Instant::now() + PAINT_TIMEOUT;
    loop {
        let state = page.browser.wait_until(WATCH_INTERVAL, |s| s.painted || s.loaded)?;
        if stop.asked() {
            return Err(browser::Error::GivenUp.into());
        }
        if state.painted {
            break;
        }
        if state.loaded {
            page.browser.wait_until(EMPTY_PAGE_GRACE, |s| s.painted)?;
            break;
        }
        if Instant::now() > deadline {
            tracing::warn!(
                "the page has drawn nothing for {} s, recording it as it is",
                PAINT_TIMEOUT.as_secs()
            );
            break;
        }
    }
    Ok(page)
}

/// A named thread that ends with a result.
#[derive(Debug)]
struct Thread<T>(&'static str, JoinHandle<T>);

impl<T> Thread<T> {
    fn join(self) -> Result<T, Error> {
        self.1.join().map_err(|_| Error::Panic(self.0))
    }
}

/// From frames and samples to the file.
#[derive(Debug)]
struct Line {
    end: End,
    video_stats: Arc<video::Stats>,
    audio_stats: Arc<audio::Stats>,
    video: Thread<Result<(), encode::Error>>,
    audio: Thread<Result<(), encode::Error>>,
    recording: Thread<Result<Option<Finished>, record::Error>>,
}

impl Line {
    fn start(
        video: video::Encoder,
        audio: audio::Encoder,
        (ticks, samples): (Receiver<Tick>, Receiver<Samples>),
        packets: SyncSender<Packet>,
        end: End,
        recording: Thread<Result<Option<Finished>, record::Error>>,
    ) -> Result<Self, Error> {
        let (video_stats, audio_stats) = (video.stats(), audio.stats());
        let video = Thread("encode-video", video.spawn(ticks, end.clone(), packets.clone())?);
        let audio = Thread("encode-audio", audio.spawn(samples, end.clone(), packets)?);
        Ok(Self { end, video_stats, audio_stats, video, audio, recording })
    }

    /// Whether nothing more will come out, because the end was reached or something failed.
    fn is_over(&self) -> bool {
        self.recording.1.is_finished() || self.video.1.is_finished() && self.audio.1.is_finished()
    }
}

#[derive(Debug)]
struct Running<'a> {
    spec: &'a CastSpec,
    started: Instant,
    page: Page,
    line: Line,
    /// Why the cast ends before it should.
    ended: Option<Error>,
    usage: usage::Browser,
}

impl Running<'_> {
    fn watch(mut self, stop: &Stop, mut tell: impl FnMut(&Progress)) -> Result<Report, Failure> {
        self.page.begin();
        let (mut told, mut measured) = (Instant::now(), Instant::now());
        while !self.line.is_over() {
            if let Err(error) = self.page.browser.wait_until(WATCH_INTERVAL, |_| false)
                && self.ended.is_none()
            {
                self.ended = Some(error.into());
                self.end_now();
            }
            if self.ended.is_some() {
                // A browser that is gone is not waited for.
                std::thread::sleep(WATCH_INTERVAL);
            }
            if stop.asked() {
                self.end_now();
            }
            if self.page.display.has_failed() {
                self.ended.get_or_insert(Error::Panic("display"));
                self.end_now();
                break;
            }
            if told.elapsed() >= PROGRESS_INTERVAL {
                told += PROGRESS_INTERVAL;
                tell(&self.progress());
            }
            if measured.elapsed() >= MEMORY_INTERVAL {
                measured = Instant::now();
                self.measure();
            }
        }
        self.measure();
        self.finish()
    }

    /// Ends the recording with the tick after the one that the encoder is at.
    fn end_now(&self) {
        let next = i64::try_from(self.line.video_stats.ticks()).unwrap_or(0) + 1;
        self.line.end.at(self.spec.source.fps.time_of(next));
    }

    fn progress(&self) -> Progress {
        let video = &self.line.video_stats;
        let display = self.page.display.stats();
        Progress {
            elapsed: self.spec.source.fps.time_of(i64::try_from(video.ticks()).unwrap_or(0)),
            frames_captured: display.frames,
            frames_encoded: video.encoded(),
            frames_unchanged: video.unchanged(),
            frames_dropped: display.dropped,
            bytes: video.bytes() + self.line.audio_stats.bytes(),
            peak: self.page.sound.stats().peak,
        }
    }

    fn measure(&mut self) {
        let now = usage::browser(self.page.browser.pid());
        self.usage.cpu_seconds = now.cpu_seconds.max(self.usage.cpu_seconds);
        self.usage.rss_bytes = now.rss_bytes.max(self.usage.rss_bytes);
    }

    fn finish(self) -> Result<Report, Failure> {
        let Self { spec, started, page, line, mut ended, usage } = self;
        let display = page.display.stats();
        let display_cpu = usage::thread_cpu_seconds("display") + usage::thread_cpu_seconds("sound");
        for line in page.browser.console() {
            tracing::debug!(level = line.level, text = line.text, "console");
        }
        // The page goes first: without it, no tick and no sample comes, and the encoders end wherever they are.
        drop(page);
        for encoder in [line.video, line.audio] {
            if let Err(error) = encoder.join().and_then(|r| r.map_err(Into::into)) {
                ended.get_or_insert(error);
            }
        }
        let finished = match line.recording.join().and_then(|r| r.map_err(Into::into)) {
            Ok(finished) => finished,
            Err(error) => {
                // A file that cannot be written is why the encoders had nobody to send to.
                ended = Some(error);
                None
            }
        };
        let video = &line.video_stats;
        let total = usage.cpu_seconds + usage::own_cpu().as_secs_f64();
        let report = Report {
            frames_captured: display.frames,
            frames_encoded: video.encoded(),
            frames_unchanged: video.unchanged(),
            frames_dropped: display.dropped,
            first_frame_ms: video.first_at().map_or(0, |at| millis(at.saturating_duration_since(started))),
            duration_ms: u64::try_from(
                spec.source.fps.time_of(i64::try_from(video.ticks()).unwrap_or(0)).as_millis(),
            )
            .unwrap_or(0),
            bytes: finished.as_ref().map_or_else(|| file_size(&spec.recording.path), |f| f.bytes),
            cpu_seconds: CpuSeconds {
                browser: round(usage.cpu_seconds),
                display: round(display_cpu),
                encode: round(total - usage.cpu_seconds - display_cpu),
                total: round(total),
            },
            peak_rss_bytes: PeakRss { browser: usage.rss_bytes, pagecast: usage::own_peak_rss_bytes() },
            output: spec.recording.path.clone(),
            left_fragmented: finished.and_then(|f| f.left_fragmented),
        };
        match ended {
            None => Ok(report),
            Some(error) => Err(Failure { error, report: (report.bytes > 0).then(|| Box::new(report)) }),
        }
    }
}

fn file_size(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
