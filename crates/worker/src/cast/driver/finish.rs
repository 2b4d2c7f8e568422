//! The end of a cast: everything is put away, and what it came to is counted.

use std::sync::Arc;

use pagecast_core::cast::EndReason;

use super::super::line::Ended;
use super::super::report::{self, CpuSeconds, PeakRss, Report};
use super::super::{Error, Failure, News};
use super::{Driver, Line, millis};
use crate::usage;

impl Driver<'_> {
    pub(super) fn finish(mut self, reason: EndReason) -> Result<Report, Failure> {
        self.measure();
        let display = self.page.as_ref().map(|page| page.display.stats()).unwrap_or_default();
        let display_cpu = ["display", "sound", "guard"].map(usage::thread_cpu_seconds).iter().sum::<f64>();
        // The page goes first: without it, no tick and no sample comes, and the encoders end wherever they are.
        self.page = None;
        (self.ticks, self.samples) = ((None, None), (None, None));
        let video = self.line.as_ref().map(|line| Arc::clone(&line.video_stats));
        let Ended { finished, failed, pushes, news } = self.line.take().map(Line::finish).unwrap_or_default();
        news.into_iter().for_each(|news| (self.tell.get_mut().tell)(News::Push(news)));
        let (end, trouble) = report::words(reason);
        let browser_cpu = self.usage.before_s + self.usage.now.cpu_seconds;
        let total = browser_cpu + usage::own_cpu().as_secs_f64();
        let mut report = Report {
            end: end.to_owned(),
            trouble,
            timeline: std::mem::take(&mut self.timeline),
            reloads: self.reloads,
            moves: self.moves,
            frames_captured: display.frames,
            frames_encoded: 0,
            frames_unchanged: 0,
            frames_dropped: display.dropped,
            first_frame_ms: 0,
            duration_ms: 0,
            bytes: finished.as_ref().map_or(0, |f| f.bytes),
            cpu_seconds: CpuSeconds {
                browser: round(browser_cpu),
                display: round(display_cpu),
                encode: round(total - browser_cpu - display_cpu),
                total: round(total),
            },
            peak_rss_bytes: PeakRss {
                browser: self.usage.peak_rss_bytes,
                pagecast: usage::own_peak_rss_bytes(),
            },
            output: finished.as_ref().map(|f| f.path.clone()).unwrap_or_default(),
            evidence: self.evidence.folder(),
            pushes,
            left_fragmented: finished.and_then(|f| f.left_fragmented),
        };
        if let Some(video) = &video {
            let duration = self.spec.source.fps.time_of(i64::try_from(video.ticks()).unwrap_or(0));
            report.frames_encoded = video.encoded();
            report.frames_unchanged = video.unchanged();
            report.first_frame_ms =
                video.first_at().map_or(0, |at| millis(at.saturating_duration_since(self.started)));
            report.duration_ms = u64::try_from(duration.as_millis()).unwrap_or(0);
        }
        let error = match (failed, reason) {
            (Some(error), _) => Some(error),
            (None, EndReason::GaveUp(trouble)) => Some(Error::GaveUp(trouble, self.machine.attempts())),
            (None, EndReason::OutputFailed | EndReason::StartFailed) => {
                Some(self.error.take().unwrap_or(Error::Panic("encode")))
            }
            (None, _) => video.is_none().then_some(Error::NothingRecorded(reason)),
        };
        let report = Box::new(report);
        match error {
            None => Ok(*report),
            Some(error) => Err(Failure { error, report: Some(report) }),
        }
    }
}

fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
