//! Maps events of a cast's process to events of the fleet, each reported once, and collects the cast's
//! statistics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pagecast_core::cast::{EndReason, Event, HealthFault, LoadError, Warning};
use pagecast_core::connection;
use pagecast_fleet::{Cast, CastStats, EventKind, RoomStats, StoredFile, UnixMs};
use pagecast_media::record::upload::SPOOL_ELSEWHERE;

use crate::cast::{CastEvent, Progress, PushEvent, RecordedFile, RoomStatus, UploadReport, UploadState};
use crate::process::{FailureInfo, Outcome};

/// Weight of the newest value in the averages of CPU and frame rate: about the last three seconds count.
const SMOOTHING_FACTOR: f64 = 0.3;
/// Shortest time over which these values are measured. A busy machine delays reports, which then arrive
/// together: a second's CPU time seems to have been used in a moment.
const MIN_RATE_INTERVAL: Duration = Duration::from_millis(500);

/// What comes before the names of the nodes that have what is missing, in the error of a stored event.
const BUT_ON: &str = ", but on ";

/// Maps the events of one cast.
#[derive(Debug)]
pub(super) struct EventMapper {
    /// The fleet knows that the cast was live.
    was_live: bool,
    /// The fleet knows that the cast has ended.
    ended: bool,
    /// The fleet knows that the upload is incomplete.
    incomplete: bool,
    /// Why the cast is about to fail, once that is known.
    failure_reason: Option<(String, Option<LoadError>)>,
    upload_failing: bool,
    room: Option<connection::State>,
    stats: CastStats,
    last_progress: Option<(Instant, Progress)>,
    /// Other nodes that recorded the cast, in words.
    earlier_nodes: String,
    pushes: BTreeMap<u32, connection::State>,
    warnings: BTreeSet<Warning>,
}

impl EventMapper {
    /// A mapper for a cast in the state that the fleet knows.
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
            earlier_nodes: String::new(),
            pushes: BTreeMap::new(),
            warnings: BTreeSet::new(),
        }
    }

    /// Sets the other nodes that recorded the cast before this one.
    pub(super) fn with_earlier_nodes(mut self, nodes: &[&str]) -> Self {
        if !nodes.is_empty() {
            self.earlier_nodes = format!("{BUT_ON}{}", nodes.join(", "));
        }
        self
    }

    /// Returns whether the fleet knows that the cast has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Maps an event; returns `None` if the fleet does not need it, or has it already.
    pub(super) fn map(&mut self, event: CastEvent) -> Option<EventKind> {
        if let CastEvent::Lifecycle(Event::Reloaded(_) | Event::Moved(_)) | CastEvent::Restarted = event {
            self.stats.reloads += 1;
        }
        match event {
            CastEvent::Lifecycle(Event::Live) => {
                (!std::mem::replace(&mut self.was_live, true)).then_some(EventKind::Live)
            }
            CastEvent::Lifecycle(Event::Reloaded(fault)) => Some(EventKind::Reloaded { fault }),
            CastEvent::Lifecycle(Event::Moved(fault)) => Some(EventKind::Moved { fault }),
            CastEvent::Lifecycle(Event::Ended(reason)) => self.end_event(reason, None, None),
            CastEvent::FailureReason(message, cause) => {
                self.failure_reason = Some((message, cause));
                None
            }
            CastEvent::Restarted => Some(EventKind::Restarted),
            CastEvent::RecordingStopped => Some(EventKind::RecordingStopped),
            CastEvent::Push(PushEvent { id, url, state, error }) => {
                self.pushes.insert(id, state);
                Some(EventKind::Push { id, url, state, error })
            }
            CastEvent::Room(status) => self.map_room(&status),
            CastEvent::Upload(status) => {
                (self.stats.upload_pending, self.stats.upload_error) =
                    (status.pending, status.problem.clone());
                let failing = matches!(status.state, UploadState::Stuck | UploadState::Failed);
                (std::mem::replace(&mut self.upload_failing, failing) != failing).then_some(
                    EventKind::Upload {
                        failing,
                        pending: status.pending,
                        error: status.problem.filter(|_| failing),
                    },
                )
            }
            CastEvent::Progress(progress) => {
                self.update_stats(Instant::now(), progress);
                None
            }
            CastEvent::Warning(warning) => {
                // Each process of the cast reports its warnings anew.
                let first = self.warnings.insert(warning);
                first.then_some(EventKind::Warning { warning })
            }
            CastEvent::Snapshot(..)
            | CastEvent::LoadRetry(_)
            | CastEvent::Ledger(_)
            | CastEvent::Isolated { .. } => None,
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
        let changed = self.room.replace(status.state) != Some(status.state);
        changed.then(|| EventKind::Room { state: status.state, error: status.error.clone() })
    }

    fn update_stats(&mut self, now: Instant, progress: Progress) {
        let stats = &mut self.stats;
        let (at, before) = *self.last_progress.get_or_insert((now, progress));
        let interval = now.saturating_duration_since(at);
        if interval >= MIN_RATE_INTERVAL {
            let frames = progress.frames_captured.saturating_sub(before.frames_captured) as f64;
            stats.fps += SMOOTHING_FACTOR * (frames / interval.as_secs_f64() - stats.fps);
            let cpu = (progress.cpu_seconds - before.cpu_seconds).max(0.0);
            stats.cpu_cores += SMOOTHING_FACTOR * (cpu / interval.as_secs_f64() - stats.cpu_cores);
            self.last_progress = Some((now, progress));
        }
        stats.elapsed_ms = u64::try_from(progress.elapsed.as_millis()).unwrap_or(0);
        (stats.frames_captured, stats.frames_encoded) = (progress.frames_captured, progress.frames_encoded);
        (stats.frames_unchanged, stats.frames_dropped) = (progress.frames_unchanged, progress.frames_dropped);
        (stats.bytes, stats.peak, stats.memory_bytes) = (progress.bytes, progress.peak, progress.rss_bytes);
    }

    /// Returns the statistics of the cast.
    pub(super) fn stats(&self, now: UnixMs) -> CastStats {
        let pushes = self.pushes.iter().map(|(id, state)| (*id, *state)).collect();
        CastStats { at_ms: now, pushes, ..self.stats.clone() }
    }

    /// Returns the event of the cast's end, unless the fleet has it already.
    pub(super) fn end_event(
        &mut self,
        reason: EndReason,
        message: Option<String>,
        cause: Option<LoadError>,
    ) -> Option<EventKind> {
        let (message, cause) = match (message, self.failure_reason.take()) {
            (None, Some((message, cause))) => (Some(message), cause),
            (message, _) => (message, cause),
        };
        (!std::mem::replace(&mut self.ended, true)).then_some(EventKind::Ended { reason, message, cause })
    }

    /// Maps the outcome of a cast whose process is gone: its end, if not reported yet, and what was uploaded.
    pub(super) fn map_outcome(&mut self, outcome: &Outcome) -> Vec<EventKind> {
        let failure = outcome.failure.as_ref();
        let reason = match (failure, self.was_live) {
            (None, _) => EndReason::Stopped,
            (Some(_), true) => EndReason::PageFailed(HealthFault::Crash),
            (Some(_), false) => EndReason::StartFailed,
        };
        let cause = failure.and_then(|failure| failure.cause.clone());
        let end = self.end_event(reason, failure.map(|failure| failure.message.clone()), cause);
        let upload = outcome.report.as_ref().and_then(|report| report.recording.as_ref());
        let changed = upload.filter(|upload| {
            let incomplete = upload.spool.is_some();
            !(std::mem::replace(&mut self.incomplete, incomplete) && incomplete)
        });
        let stored = changed.map(|upload| stored_event(upload, &self.earlier_nodes, failure));
        end.into_iter().chain(stored).collect()
    }
}

/// Returns the event for the result of an upload.
fn stored_event(upload: &UploadReport, earlier_nodes: &str, failure: Option<&FailureInfo>) -> EventKind {
    let complete = upload.spool.is_none() && upload.missing.is_none();
    let missing = upload.missing.as_ref().map(|missing| format!("{missing}{earlier_nodes}"));
    let problem = upload.status.problem.clone().or(missing);
    let problem = problem.or_else(|| failure.map(|failure| failure.message.clone()));
    EventKind::Stored {
        files: upload.files.iter().map(stored_file).collect(),
        complete,
        backup: upload.status.backup,
        error: problem.filter(|_| !complete),
    }
}

fn stored_file(item: &RecordedFile) -> StoredFile {
    StoredFile {
        name: item.name.clone(),
        bytes: item.bytes,
        begin_ms: item.start_unix_ms,
        end_ms: item.end_unix_ms,
        media_id: item.file_id.clone(),
        url: item.url.clone(),
    }
}

/// Returns the event for what a node has stored of a recording after its cast was closed. `before` is the
/// last stored event; `has_later_owner`: another node had gone on with the recording.
pub(super) fn stored_later_event(
    before: Option<&EventKind>,
    upload: &UploadReport,
    node: &str,
    has_later_owner: bool,
) -> EventKind {
    let own: Vec<StoredFile> = upload.files.iter().map(stored_file).collect();
    let alone = (Vec::new(), !has_later_owner && upload.missing.is_none(), upload.missing.clone());
    let (mut files, mut complete, mut error) = alone;
    let mut backup = upload.status.backup;
    if let Some(EventKind::Stored { files: known, complete: was_complete, backup: on_backup, error: why }) =
        before
    {
        files.clone_from(known);
        if has_later_owner {
            (complete, error, backup) = (*was_complete, why.clone(), *on_backup);
        }
    }
    files.retain(|known| own.iter().all(|file| file.name != known.name));
    files.extend(own);
    files.sort_by_key(|file| file.begin_ms);
    if let Some(known) = error.take_if(|_| has_later_owner) {
        error = still_missing(&known, &files, node);
        complete = error.is_none();
    }
    EventKind::Stored { files, complete, backup, error }
}

/// Returns what of an error of a stored event is still true after this node has stored what it had.
fn still_missing(error: &str, files: &[StoredFile], node: &str) -> Option<String> {
    if let Some((what, nodes)) = error.rsplit_once(BUT_ON) {
        let others: Vec<&str> = nodes.split(", ").filter(|other| *other != node).collect();
        return (!others.is_empty()).then(|| format!("{what}{BUT_ON}{}", others.join(", ")));
    }
    // No other node has a part. Files that are named may have been in several spools of this one.
    let mut named = error.split_whitespace().filter(|word| word.ends_with(".mp4"));
    let is_stored = |name: &str| files.iter().any(|file| file.name == name);
    let is_resolved = error.ends_with(SPOOL_ELSEWHERE) && named.all(is_stored);
    (!is_resolved).then(|| error.to_owned())
}

#[cfg(test)]
mod tests {
    use pagecast_core::CastSpec;
    use pagecast_core::spec::{Source, SourceUrl};
    use pagecast_fleet::{CastId, CastState};

    use super::*;
    use crate::cast::{FailureKind, Report, UploadStatus};

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
        let upload = UploadReport { spool: spool.map(Into::into), ..UploadReport::default() };
        let failure = failure.map(|message| FailureInfo::new(FailureKind::Output, message));
        Outcome { report: Some(Report { recording: Some(upload), ..Report::default() }), failure }
    }

    #[test]
    fn reports_that_arrive_together_are_measured_together() {
        let mut mapper = EventMapper::new(&cast(true, false));
        let began = Instant::now();
        // One core and 30 frames a second; every third report comes with the two before it.
        for second in 1..=30_u32 {
            let progress = Progress {
                frames_captured: u64::from(second) * 30,
                cpu_seconds: f64::from(second),
                ..Progress::default()
            };
            let arrival = Duration::from_secs(u64::from(second.div_ceil(3)) * 3);
            mapper.update_stats(began + arrival + Duration::from_millis(second.into()), progress);
            assert!(mapper.stats(0).cpu_cores < 1.1, "{:?}", mapper.stats(0));
        }
        let stats = mapper.stats(0);
        assert!((0.9..1.1).contains(&stats.cpu_cores) && (27.0..33.0).contains(&stats.fps), "{stats:?}");
    }

    #[test]
    fn each_event_is_reported_once() {
        let mut mapper = EventMapper::new(&cast(false, false));
        assert_eq!(mapper.map(CastEvent::Lifecycle(Event::Live)), Some(EventKind::Live));
        assert_eq!(mapper.map(CastEvent::Restarted), Some(EventKind::Restarted));
        assert_eq!(mapper.map(CastEvent::Lifecycle(Event::Live)), None, "the cast was live already");
        assert_eq!(mapper.map(CastEvent::FailureReason("why".into(), None)), None);
        let reason = EndReason::PageFailed(HealthFault::Crash);
        let ended = EventKind::Ended { reason, message: Some("why".into()), cause: None };
        assert_eq!(mapper.map(CastEvent::Lifecycle(Event::Ended(reason))), Some(ended));
        assert!(mapper.has_ended());
        assert!(matches!(
            mapper.map_outcome(&outcome(None, None))[..],
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
        let mut mapper = EventMapper::new(&cast(false, false));
        assert_eq!(mapper.map(CastEvent::LoadRetry("nothing listens there".into())), None);
        assert_eq!(mapper.map(CastEvent::FailureReason("nothing listens there".into(), cause())), None);
        let message = "nothing listens there".to_owned();
        let ended = EventKind::Ended {
            reason: EndReason::StartFailed,
            message: Some(message.clone()),
            cause: cause(),
        };
        assert_eq!(
            mapper.map(CastEvent::Lifecycle(Event::Ended(EndReason::StartFailed))),
            Some(ended.clone())
        );
        let failure = FailureInfo { kind: FailureKind::Page, message, cause: cause() };
        let outcome = Outcome { report: None, failure: Some(failure) };
        assert_eq!(EventMapper::new(&cast(false, false)).map_outcome(&outcome), [ended]);
    }

    #[test]
    fn a_warning_is_reported_once_whatever_process_it_comes_from() {
        let mut mapper = EventMapper::new(&cast(true, false));
        let warning = Warning::WebRtcWithoutUdp;
        assert_eq!(mapper.map(CastEvent::Warning(warning)), Some(EventKind::Warning { warning }));
        assert_eq!(mapper.map(CastEvent::Restarted), Some(EventKind::Restarted));
        assert_eq!(mapper.map(CastEvent::Warning(warning)), None);
    }

    #[test]
    fn a_process_without_a_report_ends_its_cast() {
        for (live, reason) in
            [(false, EndReason::StartFailed), (true, EndReason::PageFailed(HealthFault::Crash))]
        {
            let mut mapper = EventMapper::new(&cast(live, false));
            let failure = Some(FailureInfo::new(FailureKind::Unexpected, "gone"));
            let events = mapper.map_outcome(&Outcome { report: None, failure });
            assert_eq!(events, [EventKind::Ended { reason, message: Some("gone".into()), cause: None }]);
        }
    }

    #[test]
    fn an_incomplete_upload_is_reported_once_and_then_its_completion() {
        let mut mapper = EventMapper::new(&cast(true, true));
        let first = mapper.map_outcome(&outcome(Some("/spool"), Some("no key")));
        let EventKind::Stored { complete: false, error: Some(error), .. } = &first[0] else {
            panic!("{first:?}")
        };
        assert_eq!(error, "no key");
        assert_eq!(mapper.map_outcome(&outcome(Some("/spool"), Some("no key"))), []);
        assert!(matches!(
            mapper.map_outcome(&outcome(None, None))[..],
            [EventKind::Stored { complete: true, .. }]
        ));
    }

    #[test]
    fn what_is_on_another_node_is_not_complete() {
        let mut mapper = EventMapper::new(&cast(true, true)).with_earlier_nodes(&["node-a"]);
        let missing = Some("rec_0.mp4 cannot be stored: the spool is not on this machine".to_owned());
        let upload = UploadReport { missing, ..UploadReport::default() };
        let report = Report { recording: Some(upload), ..Report::default() };
        let events = mapper.map_outcome(&Outcome { report: Some(report), failure: None });
        let [EventKind::Stored { complete: false, error: Some(error), .. }] = &events[..] else {
            panic!("{events:?}")
        };
        assert!(error.ends_with("not on this machine, but on node-a"), "{error}");
    }

    #[test]
    fn what_a_node_stores_later_completes_the_recording() {
        let upload = |name: &str, start_unix_ms| UploadReport {
            files: vec![RecordedFile {
                name: name.into(),
                bytes: 1,
                start_unix_ms,
                end_unix_ms: start_unix_ms + 1,
                file_id: None,
                url: None,
            }],
            ..UploadReport::default()
        };
        let missing = UploadReport { missing: Some("rec_0.mp4".into()), ..upload("rec_2.mp4", 20) };
        let first = stored_event(&missing, ", but on node-a, node-b", None);
        let then = |before: &EventKind, name, start, node| {
            stored_later_event(Some(before), &upload(name, start), node, true)
        };
        let names = |event: &EventKind| match event {
            EventKind::Stored { files, complete, error, .. } => (
                files.iter().map(|file| file.name.clone()).collect::<Vec<_>>().join(" "),
                *complete,
                error.clone(),
            ),
            other => panic!("{other:?}"),
        };
        let second = then(&first, "rec_0.mp4", 0, "node-a");
        let error = Some("rec_0.mp4, but on node-b".to_owned());
        assert_eq!(names(&second), ("rec_0.mp4 rec_2.mp4".into(), false, error));
        let third = then(&second, "rec_1.mp4", 10, "node-b");
        assert_eq!(names(&third), ("rec_0.mp4 rec_1.mp4 rec_2.mp4".into(), true, None));
        assert_eq!(names(&then(&third, "rec_1.mp4", 10, "node-c")), names(&third));
        let first = stored_event(&missing, ", but on node-a", None);
        assert_eq!(
            names(&then(&first, "rec_0.mp4", 0, "node-a")),
            ("rec_0.mp4 rec_2.mp4".into(), true, None)
        );
        let missing = format!("rec_0.mp4 to rec_1.mp4 cannot be stored: {SPOOL_ELSEWHERE}");
        let missing = UploadReport { missing: Some(missing), ..upload("rec_2.mp4", 20) };
        let second = then(&stored_event(&missing, "", None), "rec_0.mp4", 0, "node-a");
        assert!(!names(&second).1 && names(&then(&second, "rec_1.mp4", 10, "node-a")).1);
        let own = stored_later_event(None, &upload("rec_0.mp4", 0), "node-a", false);
        assert_eq!(names(&own), ("rec_0.mp4".into(), true, None));
    }

    #[test]
    fn storage_is_reported_when_its_state_changes() {
        let mut mapper = EventMapper::new(&cast(true, false));
        let mut map = |state, pending| {
            mapper.map(CastEvent::Upload(UploadStatus { state, pending, ..UploadStatus::default() }))
        };
        assert_eq!(map(UploadState::Uploading, 3), None);
        let stuck = Some(EventKind::Upload { failing: true, pending: 4, error: None });
        assert_eq!((map(UploadState::Stuck, 4), map(UploadState::Stuck, 5)), (stuck, None));
        let working = Some(EventKind::Upload { failing: false, pending: 1, error: None });
        assert_eq!(map(UploadState::Uploading, 1), working);
        assert_eq!(mapper.stats(9).upload_pending, 1);
    }
}
