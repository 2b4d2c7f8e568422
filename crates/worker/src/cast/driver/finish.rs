//! The end of a cast: everything is put away, and what it came to is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pagecast_core::MediaTime;
use pagecast_core::cast::EndReason;

use super::super::pipeline::FinishedOutputs;
use super::super::report::{self, CpuMs, PeakRss, Report};
use super::super::{CastEvent, DeliveryState, Error, Failure, PendingUpload, StopToken};
use super::{Driver, Pipeline, millis};
use crate::usage;

/// How often it is looked whether a recording is stored.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long storage is waited for that will not work before somebody mends it.
const FAILED_UPLOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is told that it is not.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

impl Driver<'_> {
    /// What a cast that ended for this reason failed by, though its outputs did not; `begun`: there was
    /// something to show.
    fn end_error(&mut self, reason: EndReason, begun: bool) -> Option<Error> {
        match reason {
            EndReason::GaveUp(trouble) => Some(Error::GaveUp(trouble, self.machine.attempts())),
            EndReason::OutputFailed | EndReason::StartFailed => {
                Some(self.error.take().unwrap_or(Error::Panic("encode")))
            }
            _ => (!begun).then_some(Error::NothingRecorded(reason)),
        }
    }

    fn report_final_events(&mut self, news: impl Iterator<Item = CastEvent>) {
        news.for_each(|news| (self.reporter.get_mut().on_event)(news));
    }

    pub(super) fn finish(mut self, reason: EndReason) -> Result<Report, Failure> {
        self.measure_usage();
        let display = self.page.as_ref().map(|page| page.display.stats()).unwrap_or_default();
        let display_cpu = ["display", "sound", "guard"].map(usage::thread_cpu_seconds).iter().sum::<f64>();
        // The page goes first: without it, no tick and no sample comes, and the encoders end wherever they
        // are.
        self.page = None;
        (self.ticks, self.samples) = ((None, None), (None, None));
        let video = self.pipeline.as_ref().map(|line| Arc::clone(&line.video_stats));
        let begins_at = self.pipeline.as_ref().map_or(MediaTime::ZERO, Pipeline::begins_at);
        let FinishedOutputs { upload: recording, error: mut failed, pushes, push_events: news, room } =
            self.pipeline.take().map(Pipeline::finish).unwrap_or_default();
        let (room, of_room) = room.map_or((None, Vec::new()), |(status, news)| (Some(status), news));
        self.report_final_events(
            news.into_iter().map(CastEvent::Push).chain(of_room.into_iter().map(CastEvent::Room)),
        );
        let (end, trouble) = report::end_reason_code(reason);
        let browser_cpu = self.usage.past_cpu_s + self.usage.current.cpu_seconds;
        let total = browser_cpu + usage::own_cpu().as_secs_f64();
        let mut report = Report {
            end: end.to_owned(),
            fault: trouble,
            timeline: std::mem::take(&mut self.timeline),
            reloads: self.reloads,
            moves: self.moves,
            hangs: self.hangs.take_hangs(Instant::now()),
            warnings: std::mem::take(&mut self.warnings),
            frames_captured: display.frames,
            frames_encoded: 0,
            frames_unchanged: 0,
            frames_dropped: display.dropped,
            first_frame_ms: 0,
            duration_ms: 0,
            bytes: 0,
            cpu_ms: CpuMs {
                browser: whole_ms(browser_cpu),
                display: whole_ms(display_cpu),
                encode: whole_ms(total - browser_cpu - display_cpu),
                total: whole_ms(total),
            },
            peak_rss_bytes: PeakRss {
                browser: self.usage.peak_rss_bytes,
                pagecast: usage::own_peak_rss_bytes(),
            },
            restarts: 0,
            evidence: self.evidence.folder(),
            pushes,
            room,
            recording: None,
        };
        if let Some(video) = &video {
            let duration =
                begins_at + self.spec.source.fps.time_of(i64::try_from(video.ticks()).unwrap_or(0));
            report.frames_encoded = video.encoded();
            report.frames_unchanged = video.unchanged();
            report.first_frame_ms =
                video.first_frame_at().map_or(0, |at| millis(at.saturating_duration_since(self.started)));
            report.duration_ms = u64::try_from(duration.as_millis()).unwrap_or(0);
        }
        let patience = self.spec.recording.as_ref().map_or(Duration::ZERO, |r| r.upload_timeout);
        // The one that ended the cast.
        let _first = self.stop.take_request();
        if let Some(finishing) = recording.or(self.leftover_upload.take())
            && let Err(error) =
                wait_for_upload(finishing, patience, self.stop, self.reporter.get_mut().on_event, &mut report)
        {
            failed.get_or_insert(error);
        }
        let report = Box::new(report);
        match failed.or_else(|| self.end_error(reason, video.is_some())) {
            None => Ok(*report),
            Some(error) => Err(Failure { error, report: Some(report) }),
        }
    }
}

/// Waits until the recording is stored, but not longer than the cast's patience, or when somebody asks for
/// the end.
pub(in super::super) fn wait_for_upload(
    finishing: PendingUpload,
    patience: Duration,
    stop: &StopToken,
    tell: &mut dyn FnMut(CastEvent),
    report: &mut Report,
) -> Result<(), Error> {
    let begin = Instant::now();
    let mut told = Duration::ZERO;
    while !finishing.is_finished() {
        // What somebody must mend first takes longer than anybody waits.
        let mended_by_others =
            finishing.status().state == DeliveryState::Failed && begin.elapsed() >= FAILED_UPLOAD_TIMEOUT;
        if begin.elapsed() >= patience || mended_by_others || stop.is_requested() {
            finishing.give_up();
        }
        if begin.elapsed() >= told + REPORT_INTERVAL {
            told = begin.elapsed();
            tell(CastEvent::Upload(finishing.status()));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let delivered = finishing.join()?;
    report.duration_ms = u64::try_from(delivered.duration.as_millis()).unwrap_or(0);
    report.bytes = delivered.files.iter().map(|file| file.bytes).sum();
    let (spool, problem) = (delivered.spool.clone(), delivered.status.problem.clone());
    report.recording = Some(delivered);
    match spool {
        Some(spool) => {
            let problem = problem.unwrap_or_else(|| "there was no time for it".into());
            Err(Error::NotStored { spool, error: problem })
        }
        None => Ok(()),
    }
}

/// Seconds as whole milliseconds.
fn whole_ms(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}
