//! The end of a cast: closes page and outputs, waits for the upload, and builds the report.

use std::sync::Arc;
use std::time::Duration;

use pagecast_core::MediaTime;
use pagecast_core::cast::EndReason;
use pagecast_page::clock;

use super::super::pipeline::FinishedOutputs;
use super::super::report::{self, CpuMs, PeakRss, Report};
use super::super::wakeup::Wakeup;
use super::super::{CastEvent, Error, Failure, PendingUpload, StopToken, UploadState};
use super::{Driver, Pipeline, millis};
use crate::usage;

/// How long to wait for a storage that refuses the recording until its configuration is fixed: longer would
/// not help.
const FAILED_UPLOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the status of the upload is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

impl Driver<'_> {
    /// Returns the error of a cast that ended for this reason while its outputs did not fail; `begun`: the
    /// outputs had started.
    fn end_error(&mut self, reason: EndReason, begun: bool) -> Option<Error> {
        match reason {
            EndReason::PageFailed(fault) => Some(Error::GaveUp(fault, self.machine.attempts())),
            EndReason::OutputFailed | EndReason::StartFailed => {
                Some(self.error.take().unwrap_or(Error::Panic("encode")))
            }
            _ => (!begun).then_some(Error::NothingRecorded(reason)),
        }
    }

    /// Closes page and outputs, and waits for the upload.
    pub(super) fn finish(mut self, reason: EndReason) -> Result<Report, Failure> {
        tracing::debug!(changes = self.wakes.changes, deadlines = self.wakes.deadlines, "main loop ended");
        self.usage.measure(self.page.as_ref());
        let display = self.page.as_ref().map(|page| page.display.stats()).unwrap_or_default();
        let display_cpu = ["display", "sound", "egress"].map(usage::thread_cpu_seconds).iter().sum::<f64>();
        // The page is closed first: without its ticks and samples, the encoders end.
        self.page = None;
        (self.outputs.ticks, self.outputs.samples) = ((None, None), (None, None));
        let video = self.outputs.pipeline.as_ref().map(|pipeline| Arc::clone(&pipeline.video_stats));
        let begins_at = self.outputs.pipeline.as_ref().map_or(MediaTime::ZERO, Pipeline::begins_at);
        let FinishedOutputs { upload, error: mut failed, pushes, push_events, room } =
            self.outputs.pipeline.take().map(Pipeline::finish).unwrap_or_default();
        let (room, room_changes) =
            room.map_or((None, Vec::new()), |(status, changes)| (Some(status), changes));
        let events = push_events.into_iter().map(CastEvent::Push);
        for event in events.chain(room_changes.into_iter().map(CastEvent::Room)) {
            self.reporter.report(event);
        }
        let (end, fault) = report::end_reason_code(reason);
        let browser_cpu = self.usage.cpu_s();
        let mut report = Report {
            end: end.to_owned(),
            fault,
            timeline: std::mem::take(&mut self.history.timeline),
            reloads: self.history.reloads,
            moves: self.history.moves,
            hangs: self.observer.hangs.take_hangs(clock::now()),
            warnings: std::mem::take(&mut self.history.warnings),
            frames_captured: display.frames,
            frames_encoded: 0,
            frames_unchanged: 0,
            frames_dropped: display.dropped,
            first_frame_ms: 0,
            duration_ms: 0,
            bytes: 0,
            cpu_ms: cpu_ms(browser_cpu, display_cpu),
            peak_rss_bytes: PeakRss {
                browser: self.usage.peak_rss_bytes(),
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
            let age = clock::now().since(self.started);
            report.first_frame_ms =
                video.first_frame_at().map_or(0, |at| millis(age.saturating_sub(at.elapsed())));
            report.duration_ms = u64::try_from(duration.as_millis()).unwrap_or(0);
        }
        let timeout = self.spec.recording.as_ref().map_or(Duration::ZERO, |r| r.upload_timeout);
        // Clears the request that ended the cast: a second one ends the upload.
        let _first = self.stop.take_request();
        let control = (self.stop, &self.wakeup);
        if let Some(upload) = upload.or(self.outputs.leftover_upload.take())
            && let Err(error) =
                wait_for_upload(upload, timeout, control, self.reporter.on_event(), &mut report)
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

/// Waits until the recording is uploaded, up to `timeout` or until a stop is requested.
pub(in super::super) fn wait_for_upload(
    upload: PendingUpload,
    timeout: Duration,
    (stop, wakeup): (&StopToken, &Wakeup),
    on_event: &mut dyn FnMut(CastEvent),
    report: &mut Report,
) -> Result<(), Error> {
    stop.set_waker(wakeup.waker().clone());
    upload.set_waker(wakeup.waker().clone());
    let began = clock::now();
    let (mut report_at, mut reported) = (began + REPORT_INTERVAL, upload.status().summary());
    while !upload.is_finished() {
        let (now, status) = (clock::now(), upload.status());
        let refused = status.state == UploadState::Failed;
        let timeout = if refused { timeout.min(FAILED_UPLOAD_TIMEOUT) } else { timeout };
        let give_up = now >= began + timeout || stop.is_requested();
        if give_up {
            upload.give_up();
        }
        if now >= report_at || status.summary() != reported {
            (report_at, reported) = (now + REPORT_INTERVAL, status.summary());
            on_event(CastEvent::Upload(status));
        }
        report_ledger(&upload, on_event);
        // After giving up, only the end of the upload is waited for.
        let deadline = if give_up { report_at } else { report_at.min(began + timeout) };
        let _woken = wakeup.wait_until(deadline);
    }
    report_ledger(&upload, on_event);
    let uploaded = upload.join()?;
    report.duration_ms = u64::try_from(uploaded.duration.as_millis()).unwrap_or(0);
    report.bytes = uploaded.files.iter().map(|file| file.bytes).sum();
    let (spool, problem) = (uploaded.spool.clone(), uploaded.status.problem.clone());
    report.recording = Some(uploaded);
    match spool {
        Some(spool) => {
            let error = problem.unwrap_or_else(|| "the time for it was over".into());
            Err(Error::NotStored { spool, error })
        }
        None => Ok(()),
    }
}

fn report_ledger(upload: &PendingUpload, on_event: &mut dyn FnMut(CastEvent)) {
    let rows = upload.take_ledger_rows();
    if !rows.is_empty() {
        on_event(CastEvent::Ledger(rows));
    }
}

/// Converts seconds to whole milliseconds.
fn whole_ms(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}

/// CPU time of the cast, from the seconds of the browser and of the threads of display and sound card. All
/// other time of this process counts as encoding.
fn cpu_ms(browser_s: f64, display_s: f64) -> CpuMs {
    let total_s = browser_s + usage::own_cpu().as_secs_f64();
    CpuMs {
        browser: whole_ms(browser_s),
        display: whole_ms(display_s),
        encode: whole_ms(total_s - browser_s - display_s),
        total: whole_ms(total_s),
    }
}
