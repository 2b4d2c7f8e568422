//! What a cast's process tells becomes what the fleet is told: each turn once, and how it gets on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use pagecast_core::cast::{EndReason, Event, LoadError, Trouble, Warning};
use pagecast_core::push;
use pagecast_fleet::{Cast, File, Happening, RoomVitals, UnixMs, Vitals};

use crate::cast::{Delivered, DeliveryState, News, Progress, RoomStatus};
use crate::process::{Failed, Outcome};

/// How fast CPU and pictures of the last seconds fade.
const FADE: f64 = 0.3;

/// Follows one cast.
#[derive(Debug)]
pub(super) struct Told {
    /// The fleet knows that it was live.
    was_live: bool,
    /// The fleet knows that it is over.
    ended: bool,
    /// The fleet knows that not all is stored.
    incomplete: bool,
    /// Why it is about to end, once that is known.
    failing: Option<(String, Option<LoadError>)>,
    stuck: bool,
    room: Option<push::State>,
    vitals: Vitals,
    last: Option<(Instant, Progress)>,
    pushes: BTreeMap<u32, push::State>,
    warnings: BTreeSet<Warning>,
}

impl Told {
    /// Of a cast as the fleet knows it.
    pub(super) fn new(cast: &Cast) -> Self {
        Self {
            was_live: cast.live_ms.is_some(),
            ended: cast.end.is_some(),
            incomplete: false,
            failing: None,
            stuck: false,
            room: None,
            vitals: Vitals::default(),
            last: None,
            pushes: BTreeMap::new(),
            warnings: BTreeSet::new(),
        }
    }

    /// Whether the fleet knows that it is over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// What happened, if that is news to the fleet.
    pub(super) fn hear(&mut self, news: News) -> Option<Happening> {
        match news {
            News::Event(Event::Live) => {
                (!std::mem::replace(&mut self.was_live, true)).then_some(Happening::Live)
            }
            News::Event(Event::Reloaded(trouble)) => Some(Happening::Reloaded { trouble }),
            News::Event(Event::Moved(trouble)) => Some(Happening::Moved { trouble }),
            News::Event(Event::Ended(reason)) => self.end(reason, None, None),
            News::Failing(why, cause) => {
                self.failing = Some((why, cause));
                None
            }
            News::Restarted => Some(Happening::Restarted),
            News::Unrecorded => Some(Happening::Unrecorded),
            News::Push(news) => {
                self.pushes.insert(news.id, news.state);
                Some(Happening::Push { id: news.id, url: news.url, state: news.state, error: news.error })
            }
            News::Room(status) => self.hear_room(&status),
            News::Delivery(status) => {
                (self.vitals.upload_pending, self.vitals.upload_problem) =
                    (status.pending, status.problem.clone());
                let stuck = matches!(status.state, DeliveryState::Stuck | DeliveryState::Failed);
                (std::mem::replace(&mut self.stuck, stuck) != stuck).then_some(Happening::Storing {
                    stuck,
                    pending: status.pending,
                    problem: status.problem.filter(|_| stuck),
                })
            }
            News::Progress(progress) => {
                self.measure(progress);
                None
            }
            News::Warning(warning) => {
                // Told again by each process.
                let first = self.warnings.insert(warning);
                first.then_some(Happening::Warning { warning })
            }
            News::Snapshot(..) | News::Retrying(_) => None,
        }
    }

    fn hear_room(&mut self, status: &RoomStatus) -> Option<Happening> {
        let sent: u32 = status.layers.iter().map(|layer| layer.bitrate_kbps).sum();
        self.vitals.room = Some(RoomVitals {
            state: status.state,
            bitrate_kbps: sent.saturating_add(status.audio_kbps),
            rtt_ms: status.rtt_ms,
            loss: status.layers.iter().map(|layer| layer.loss).fold(0.0, f32::max),
        });
        let news = self.room.replace(status.state) != Some(status.state);
        news.then(|| Happening::Room { state: status.state, error: status.error.clone() })
    }

    fn measure(&mut self, progress: Progress) {
        let now = Instant::now();
        let v = &mut self.vitals;
        if let Some((at, before)) = self.last.replace((now, progress)) {
            let seconds = (now - at).as_secs_f64().max(0.001);
            let frames = progress.frames_captured.saturating_sub(before.frames_captured) as f64;
            v.fps += FADE * (frames / seconds - v.fps);
            let cpu = (progress.cpu_seconds - before.cpu_seconds).max(0.0);
            v.cpu_cores += FADE * (cpu / seconds - v.cpu_cores);
        }
        v.elapsed_ms = u64::try_from(progress.elapsed.as_millis()).unwrap_or(0);
        (v.frames_captured, v.frames_encoded) = (progress.frames_captured, progress.frames_encoded);
        (v.frames_unchanged, v.frames_dropped) = (progress.frames_unchanged, progress.frames_dropped);
        (v.bytes, v.peak, v.memory_bytes) = (progress.bytes, progress.peak, progress.rss_bytes);
    }

    /// How it gets on.
    pub(super) fn vitals(&self, now: UnixMs) -> Vitals {
        let pushes = self.pushes.iter().map(|(id, state)| (*id, *state)).collect();
        Vitals { at_ms: now, pushes, ..self.vitals.clone() }
    }

    /// It is over, unless the fleet knows that.
    pub(super) fn end(
        &mut self,
        reason: EndReason,
        message: Option<String>,
        cause: Option<LoadError>,
    ) -> Option<Happening> {
        let (message, cause) = match (message, self.failing.take()) {
            (None, Some((why, of_page))) => (Some(why), of_page),
            (message, _) => (message, cause),
        };
        (!std::mem::replace(&mut self.ended, true)).then_some(Happening::Ended { reason, message, cause })
    }

    /// What came of it when its process is gone: its end, if that was not told, and what was stored.
    pub(super) fn conclude(&mut self, outcome: &Outcome) -> Vec<Happening> {
        let failure = outcome.failure.as_ref();
        let reason = match (failure, self.was_live) {
            (None, _) => EndReason::Stopped,
            (Some(_), true) => EndReason::GaveUp(Trouble::Crash),
            (Some(_), false) => EndReason::StartFailed,
        };
        let cause = failure.and_then(|failure| failure.cause.clone());
        let end = self.end(reason, failure.map(|failure| failure.message.clone()), cause);
        let delivered = outcome.report.as_ref().and_then(|report| report.recording.as_ref());
        let news = delivered.filter(|delivered| {
            let incomplete = delivered.spool.is_some();
            !(std::mem::replace(&mut self.incomplete, incomplete) && incomplete)
        });
        end.into_iter().chain(news.map(|delivered| stored(delivered, failure))).collect()
    }
}

/// What became of a recording.
fn stored(delivered: &Delivered, failure: Option<&Failed>) -> Happening {
    let complete = delivered.spool.is_none();
    let file = |item: &crate::cast::RecordedFile| File {
        name: item.name.clone(),
        bytes: item.bytes,
        begin_ms: item.start_unix_ms,
        end_ms: item.end_unix_ms,
        media_id: item.file_id.clone(),
        url: item.url.clone(),
    };
    let problem = delivered.status.problem.clone().or_else(|| failure.map(|failure| failure.message.clone()));
    Happening::Stored {
        files: delivered.files.iter().map(file).collect(),
        complete,
        backup: delivered.status.backup,
        problem: problem.filter(|_| !complete),
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::CastSpec;
    use pagecast_core::spec::{Source, SourceUrl};
    use pagecast_fleet::{CastId, State};

    use super::*;
    use crate::cast::{DeliveryStatus, Kind, Report};

    fn cast(live: bool, ended: bool) -> Cast {
        let end = pagecast_fleet::End { reason: EndReason::Stopped, message: None, cause: None };
        Cast {
            id: CastId::new(1, [0; 10]),
            app: String::new(),
            origin: String::new(),
            key: None,
            request: serde_json::Value::Null,
            spec: CastSpec::new(Source::new(SourceUrl::parse("http://a/").unwrap())),
            state: State::Queued,
            end: ended.then_some(end),
            created_ms: 0,
            started_ms: None,
            live_ms: live.then_some(1),
            ended_ms: None,
            stop_asked: false,
            closed: false,
            worker: None,
            epoch: 1,
            report: None,
            events_dropped: 0,
        }
    }

    fn outcome(spool: Option<&str>, failure: Option<&str>) -> Outcome {
        let delivered = Delivered { spool: spool.map(Into::into), ..Delivered::default() };
        let failure = failure.map(|message| Failed::new(Kind::Output, message));
        Outcome { report: Some(Report { recording: Some(delivered), ..Report::default() }), failure }
    }

    #[test]
    fn each_turn_is_told_once() {
        let mut told = Told::new(&cast(false, false));
        assert_eq!(told.hear(News::Event(Event::Live)), Some(Happening::Live));
        assert_eq!(told.hear(News::Restarted), Some(Happening::Restarted));
        assert_eq!(told.hear(News::Event(Event::Live)), None, "another process is live, the cast was");
        assert_eq!(told.hear(News::Failing("why".into(), None)), None);
        let reason = EndReason::GaveUp(Trouble::Crash);
        let ended = Happening::Ended { reason, message: Some("why".into()), cause: None };
        assert_eq!(told.hear(News::Event(Event::Ended(reason))), Some(ended));
        assert!(told.has_ended());
        assert!(matches!(
            told.conclude(&outcome(None, None))[..],
            [Happening::Stored { complete: true, .. }]
        ));
        assert_eq!(Told::new(&cast(true, false)).hear(News::Event(Event::Live)), None);
        assert_eq!(Told::new(&cast(true, true)).hear(News::Event(Event::Ended(EndReason::Stopped))), None);
    }

    #[test]
    fn why_a_page_could_not_be_loaded_is_told_with_its_end() {
        let cause = || Some(LoadError::ConnectionRefused);
        let mut told = Told::new(&cast(false, false));
        assert_eq!(told.hear(News::Retrying("nothing listens there".into())), None);
        assert_eq!(told.hear(News::Failing("nothing listens there".into(), cause())), None);
        let message = "nothing listens there".to_owned();
        let ended = Happening::Ended {
            reason: EndReason::StartFailed,
            message: Some(message.clone()),
            cause: cause(),
        };
        assert_eq!(told.hear(News::Event(Event::Ended(EndReason::StartFailed))), Some(ended.clone()));
        let failure = Failed { kind: Kind::Page, message, cause: cause() };
        let outcome = Outcome { report: None, failure: Some(failure) };
        assert_eq!(Told::new(&cast(false, false)).conclude(&outcome), [ended]);
    }

    #[test]
    fn a_warning_is_told_once_whatever_process_it_comes_from() {
        let mut told = Told::new(&cast(true, false));
        let warning = Warning::WebRtcWithoutUdp;
        assert_eq!(told.hear(News::Warning(warning)), Some(Happening::Warning { warning }));
        assert_eq!(told.hear(News::Restarted), Some(Happening::Restarted));
        assert_eq!(told.hear(News::Warning(warning)), None);
    }

    #[test]
    fn a_process_that_said_nothing_ends_its_cast() {
        for (live, reason) in [(false, EndReason::StartFailed), (true, EndReason::GaveUp(Trouble::Crash))] {
            let mut told = Told::new(&cast(live, false));
            let failure = Some(Failed::new(Kind::Unexpected, "gone"));
            let happened = told.conclude(&Outcome { report: None, failure });
            assert_eq!(happened, [Happening::Ended { reason, message: Some("gone".into()), cause: None }]);
        }
    }

    #[test]
    fn what_is_not_stored_is_told_once_and_then_when_it_is() {
        let mut told = Told::new(&cast(true, true));
        let first = told.conclude(&outcome(Some("/spool"), Some("no key")));
        let Happening::Stored { complete: false, problem: Some(problem), .. } = &first[0] else {
            panic!("{first:?}")
        };
        assert_eq!(problem, "no key");
        assert_eq!(told.conclude(&outcome(Some("/spool"), Some("no key"))), []);
        assert!(matches!(
            told.conclude(&outcome(None, None))[..],
            [Happening::Stored { complete: true, .. }]
        ));
    }

    #[test]
    fn storage_is_news_when_its_state_changes() {
        let mut told = Told::new(&cast(true, false));
        let mut hear = |state, pending| {
            told.hear(News::Delivery(DeliveryStatus { state, pending, ..DeliveryStatus::default() }))
        };
        assert_eq!(hear(DeliveryState::Uploading, 3), None);
        let stuck = Some(Happening::Storing { stuck: true, pending: 4, problem: None });
        assert_eq!((hear(DeliveryState::Stuck, 4), hear(DeliveryState::Stuck, 5)), (stuck, None));
        let well = Some(Happening::Storing { stuck: false, pending: 1, problem: None });
        assert_eq!(hear(DeliveryState::Uploading, 1), well);
        assert_eq!(told.vitals(9).upload_pending, 1);
    }
}
