//! What a cast's process tells becomes what the fleet is told: each turn once, and how it gets on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use pagecast_core::cast::{EndReason, Event, HealthFault, LoadError, Warning};
use pagecast_core::connection;
use pagecast_fleet::{Cast, CastStats, EventKind, RoomStats, StoredFile, UnixMs};

use crate::cast::{CastEvent, DeliveryState, Progress, RoomStatus, UploadReport};
use crate::process::{FailureInfo, Outcome};

/// How fast CPU and pictures of the last seconds fade.
const SMOOTHING_FACTOR: f64 = 0.3;

/// Follows one cast.
#[derive(Debug)]
pub(super) struct EventMapper {
    /// The fleet knows that it was live.
    was_live: bool,
    /// The fleet knows that it is over.
    ended: bool,
    /// The fleet knows that not all is stored.
    incomplete: bool,
    /// Why it is about to end, once that is known.
    failure_reason: Option<(String, Option<LoadError>)>,
    upload_failing: bool,
    room: Option<connection::State>,
    stats: CastStats,
    last_progress: Option<(Instant, Progress)>,
    pushes: BTreeMap<u32, connection::State>,
    warnings: BTreeSet<Warning>,
}

impl EventMapper {
    /// Of a cast as the fleet knows it.
    pub(super) fn new(cast: &Cast) -> Self {
        Self {
            was_live: cast.live_ms.is_some(),
            ended: cast.end.is_some(),
            incomplete: false,
            failure_reason: None,
            upload_failing: false,
            room: None,
            stats: CastStats::default(),
            last_progress: None,
            pushes: BTreeMap::new(),
            warnings: BTreeSet::new(),
        }
    }

    /// Whether the fleet knows that it is over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// What happened, if that is news to the fleet.
    pub(super) fn map(&mut self, news: CastEvent) -> Option<EventKind> {
        match news {
            CastEvent::Lifecycle(Event::Live) => {
                (!std::mem::replace(&mut self.was_live, true)).then_some(EventKind::Live)
            }
            CastEvent::Lifecycle(Event::Reloaded(trouble)) => Some(EventKind::Reloaded { fault: trouble }),
            CastEvent::Lifecycle(Event::Moved(trouble)) => Some(EventKind::Moved { fault: trouble }),
            CastEvent::Lifecycle(Event::Ended(reason)) => self.end_event(reason, None, None),
            CastEvent::FailureReason(why, cause) => {
                self.failure_reason = Some((why, cause));
                None
            }
            CastEvent::Restarted => Some(EventKind::Restarted),
            CastEvent::RecordingStopped => Some(EventKind::RecordingStopped),
            CastEvent::Push(news) => {
                self.pushes.insert(news.id, news.state);
                Some(EventKind::Push { id: news.id, url: news.url, state: news.state, error: news.error })
            }
            CastEvent::Room(status) => self.map_room(&status),
            CastEvent::Upload(status) => {
                (self.stats.upload_pending, self.stats.upload_error) =
                    (status.pending, status.problem.clone());
                let stuck = matches!(status.state, DeliveryState::Stuck | DeliveryState::Failed);
                (std::mem::replace(&mut self.upload_failing, stuck) != stuck).then_some(EventKind::Upload {
                    failing: stuck,
                    pending: status.pending,
                    error: status.problem.filter(|_| stuck),
                })
            }
            CastEvent::Progress(progress) => {
                self.update_stats(progress);
                None
            }
            CastEvent::Warning(warning) => {
                // Told again by each process.
                let first = self.warnings.insert(warning);
                first.then_some(EventKind::Warning { warning })
            }
            CastEvent::Snapshot(..) | CastEvent::LoadRetry(_) => None,
        }
    }

    fn map_room(&mut self, status: &RoomStatus) -> Option<EventKind> {
        let sent: u32 = status.layers.iter().map(|layer| layer.bitrate_kbps).sum();
        self.stats.room = Some(RoomStats {
            state: status.state,
            bitrate_kbps: sent.saturating_add(status.audio_kbps),
            rtt_ms: status.rtt_ms,
            loss: status.layers.iter().map(|layer| layer.loss).fold(0.0, f32::max),
        });
        let news = self.room.replace(status.state) != Some(status.state);
        news.then(|| EventKind::Room { state: status.state, error: status.error.clone() })
    }

    fn update_stats(&mut self, progress: Progress) {
        let now = Instant::now();
        let v = &mut self.stats;
        if let Some((at, before)) = self.last_progress.replace((now, progress)) {
            let seconds = (now - at).as_secs_f64().max(0.001);
            let frames = progress.frames_captured.saturating_sub(before.frames_captured) as f64;
            v.fps += SMOOTHING_FACTOR * (frames / seconds - v.fps);
            let cpu = (progress.cpu_seconds - before.cpu_seconds).max(0.0);
            v.cpu_cores += SMOOTHING_FACTOR * (cpu / seconds - v.cpu_cores);
        }
        v.elapsed_ms = u64::try_from(progress.elapsed.as_millis()).unwrap_or(0);
        (v.frames_captured, v.frames_encoded) = (progress.frames_captured, progress.frames_encoded);
        (v.frames_unchanged, v.frames_dropped) = (progress.frames_unchanged, progress.frames_dropped);
        (v.bytes, v.peak, v.memory_bytes) = (progress.bytes, progress.peak, progress.rss_bytes);
    }

    /// How it gets on.
    pub(super) fn stats(&self, now: UnixMs) -> CastStats {
        let pushes = self.pushes.iter().map(|(id, state)| (*id, *state)).collect();
        CastStats { at_ms: now, pushes, ..self.stats.clone() }
    }

    /// It is over, unless the fleet knows that.
    pub(super) fn end_event(
        &mut self,
        reason: EndReason,
        message: Option<String>,
        cause: Option<LoadError>,
    ) -> Option<EventKind> {
        let (message, cause) = match (message, self.failure_reason.take()) {
            (None, Some((why, of_page))) => (Some(why), of_page),
            (message, _) => (message, cause),
        };
        (!std::mem::replace(&mut self.ended, true)).then_some(EventKind::Ended { reason, message, cause })
    }

    /// What came of it when its process is gone: its end, if that was not told, and what was stored.
    pub(super) fn map_outcome(&mut self, outcome: &Outcome) -> Vec<EventKind> {
        let failure = outcome.failure.as_ref();
        let reason = match (failure, self.was_live) {
            (None, _) => EndReason::Stopped,
            (Some(_), true) => EndReason::GaveUp(HealthFault::Crash),
            (Some(_), false) => EndReason::StartFailed,
        };
        let cause = failure.and_then(|failure| failure.cause.clone());
        let end = self.end_event(reason, failure.map(|failure| failure.message.clone()), cause);
        let delivered = outcome.report.as_ref().and_then(|report| report.recording.as_ref());
        let news = delivered.filter(|delivered| {
            let incomplete = delivered.spool.is_some();
            !(std::mem::replace(&mut self.incomplete, incomplete) && incomplete)
        });
        end.into_iter().chain(news.map(|delivered| stored_event(delivered, failure))).collect()
    }
}

/// What became of a recording.
fn stored_event(delivered: &UploadReport, failure: Option<&FailureInfo>) -> EventKind {
    let complete = delivered.spool.is_none();
    let file = |item: &crate::cast::RecordedFile| StoredFile {
        name: item.name.clone(),
        bytes: item.bytes,
        begin_ms: item.start_unix_ms,
        end_ms: item.end_unix_ms,
        media_id: item.file_id.clone(),
        url: item.url.clone(),
    };
    let problem = delivered.status.problem.clone().or_else(|| failure.map(|failure| failure.message.clone()));
    EventKind::Stored {
        files: delivered.files.iter().map(file).collect(),
        complete,
        backup: delivered.status.backup,
        error: problem.filter(|_| !complete),
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::CastSpec;
    use pagecast_core::spec::{Source, SourceUrl};
    use pagecast_fleet::{CastId, CastState};

    use super::*;
    use crate::cast::{DeliveryStatus, FailureKind, Report};

    fn cast(live: bool, ended: bool) -> Cast {
        let end = pagecast_fleet::CastEnd { reason: EndReason::Stopped, message: None, cause: None };
        Cast {
            id: CastId::new(1, [0; 10]),
            app: String::new(),
            api: String::new(),
            key: None,
            request: serde_json::Value::Null,
            spec: CastSpec::new(Source::new(SourceUrl::parse("http://a/").unwrap())),
            state: CastState::Queued,
            end: ended.then_some(end),
            created_ms: 0,
            started_ms: None,
            live_ms: live.then_some(1),
            ended_ms: None,
            stop_requested: false,
            closed: false,
            worker: None,
            epoch: 1,
            report: None,
            events_dropped: 0,
        }
    }

    fn outcome(spool: Option<&str>, failure: Option<&str>) -> Outcome {
        let delivered = UploadReport { spool: spool.map(Into::into), ..UploadReport::default() };
        let failure = failure.map(|message| FailureInfo::new(FailureKind::Output, message));
        Outcome { report: Some(Report { recording: Some(delivered), ..Report::default() }), failure }
    }

    #[test]
    fn each_event_is_reported_once() {
        let mut told = EventMapper::new(&cast(false, false));
        assert_eq!(told.map(CastEvent::Lifecycle(Event::Live)), Some(EventKind::Live));
        assert_eq!(told.map(CastEvent::Restarted), Some(EventKind::Restarted));
        assert_eq!(
            told.map(CastEvent::Lifecycle(Event::Live)),
            None,
            "another process is live, the cast was"
        );
        assert_eq!(told.map(CastEvent::FailureReason("why".into(), None)), None);
        let reason = EndReason::GaveUp(HealthFault::Crash);
        let ended = EventKind::Ended { reason, message: Some("why".into()), cause: None };
        assert_eq!(told.map(CastEvent::Lifecycle(Event::Ended(reason))), Some(ended));
        assert!(told.has_ended());
        assert!(matches!(
            told.map_outcome(&outcome(None, None))[..],
            [EventKind::Stored { complete: true, .. }]
        ));
        assert_eq!(EventMapper::new(&cast(true, false)).map(CastEvent::Lifecycle(Event::Live)), None);
        assert_eq!(
            EventMapper::new(&cast(true, true)).map(CastEvent::Lifecycle(Event::Ended(EndReason::Stopped))),
            None
        );
    }

    #[test]
    fn the_end_carries_the_load_error() {
        let cause = || Some(LoadError::ConnectionRefused);
        let mut told = EventMapper::new(&cast(false, false));
        assert_eq!(told.map(CastEvent::LoadRetry("nothing listens there".into())), None);
        assert_eq!(told.map(CastEvent::FailureReason("nothing listens there".into(), cause())), None);
        let message = "nothing listens there".to_owned();
        let ended = EventKind::Ended {
            reason: EndReason::StartFailed,
            message: Some(message.clone()),
            cause: cause(),
        };
        assert_eq!(told.map(CastEvent::Lifecycle(Event::Ended(EndReason::StartFailed))), Some(ended.clone()));
        let failure = FailureInfo { kind: FailureKind::Page, message, cause: cause() };
        let outcome = Outcome { report: None, failure: Some(failure) };
        assert_eq!(EventMapper::new(&cast(false, false)).map_outcome(&outcome), [ended]);
    }

    #[test]
    fn a_warning_is_reported_once_whatever_process_it_comes_from() {
        let mut told = EventMapper::new(&cast(true, false));
        let warning = Warning::WebRtcWithoutUdp;
        assert_eq!(told.map(CastEvent::Warning(warning)), Some(EventKind::Warning { warning }));
        assert_eq!(told.map(CastEvent::Restarted), Some(EventKind::Restarted));
        assert_eq!(told.map(CastEvent::Warning(warning)), None);
    }

    #[test]
    fn a_process_that_reported_nothing_ends_its_cast() {
        for (live, reason) in [(false, EndReason::StartFailed), (true, EndReason::GaveUp(HealthFault::Crash))]
        {
            let mut told = EventMapper::new(&cast(live, false));
            let failure = Some(FailureInfo::new(FailureKind::Unexpected, "gone"));
            let happened = told.map_outcome(&Outcome { report: None, failure });
            assert_eq!(happened, [EventKind::Ended { reason, message: Some("gone".into()), cause: None }]);
        }
    }

    #[test]
    fn an_incomplete_upload_is_reported_once_and_then_its_completion() {
        let mut told = EventMapper::new(&cast(true, true));
        let first = told.map_outcome(&outcome(Some("/spool"), Some("no key")));
        let EventKind::Stored { complete: false, error: Some(problem), .. } = &first[0] else {
            panic!("{first:?}")
        };
        assert_eq!(problem, "no key");
        assert_eq!(told.map_outcome(&outcome(Some("/spool"), Some("no key"))), []);
        assert!(matches!(
            told.map_outcome(&outcome(None, None))[..],
            [EventKind::Stored { complete: true, .. }]
        ));
    }

    #[test]
    fn storage_is_reported_when_its_state_changes() {
        let mut told = EventMapper::new(&cast(true, false));
        let mut hear = |state, pending| {
            told.map(CastEvent::Upload(DeliveryStatus { state, pending, ..DeliveryStatus::default() }))
        };
        assert_eq!(hear(DeliveryState::Uploading, 3), None);
        let stuck = Some(EventKind::Upload { failing: true, pending: 4, error: None });
        assert_eq!((hear(DeliveryState::Stuck, 4), hear(DeliveryState::Stuck, 5)), (stuck, None));
        let well = Some(EventKind::Upload { failing: false, pending: 1, error: None });
        assert_eq!(hear(DeliveryState::Uploading, 1), well);
        assert_eq!(told.stats(9).upload_pending, 1);
    }
}
