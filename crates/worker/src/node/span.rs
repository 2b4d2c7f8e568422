//! The span of a cast: from when this node took it to its end, or to when somebody else may have it.

use std::cell::RefCell;
use std::time::Instant;

use pagecast_core::cast::EndReason;
use pagecast_fleet::{Cast, EventKind};
use tracing::Span;
use tracing::field::Empty;

/// A span that is open while the cast lives here.
#[derive(Debug)]
pub(super) struct CastSpan {
    span: RefCell<Option<Span>>,
    began: Instant,
    labels: CastLabels,
}

/// What a cast is called, for the log.
#[derive(Debug)]
struct CastLabels {
    cast: String,
    app: String,
    api: String,
    /// The id of the task, in the words of the API: the id of the cast where a caller does not choose it.
    task: String,
    room: Option<String>,
}

impl CastLabels {
    fn of(cast: &Cast) -> Self {
        let (cast_id, ids) = (cast.id.to_string(), cast.spec.room.as_ref().map(|room| &room.ids));
        Self {
            app: cast.app.clone(),
            api: cast.api.clone(),
            task: ids.map_or_else(|| cast_id.clone(), |ids| ids.task.clone()),
            room: ids.map(|ids| ids.room.clone()),
            cast: cast_id,
        }
    }

    /// The end, in full: a vendor's API tells only a word of it.
    fn log_end(&self, reason: EndReason, error: Option<&str>) {
        let Self { cast, app, api, task, room } = self;
        let (room, reason_word) = (room.as_deref(), end_reason_code(reason));
        if is_failure(reason) {
            tracing::warn!(cast, app, api, task, room, reason = reason_word, error, "cast failed");
        } else {
            tracing::info!(cast, app, api, task, room, reason = reason_word, error, "cast ended");
        }
    }
}

impl CastSpan {
    /// It was taken now.
    pub(super) fn start(cast: &Cast) -> Self {
        // Whose trace is active here has nothing to do with it.
        let span = tracing::debug_span!(
            parent: None,
            "cast",
            cast = %cast.id,
            app = cast.app,
            api = cast.api,
            epoch = cast.epoch,
            live_after_ms = Empty,
            end = Empty,
            otel.status_code = Empty,
        );
        Self { span: RefCell::new(Some(span)), began: Instant::now(), labels: CastLabels::of(cast) }
    }

    /// Something happened to it.
    pub(super) fn record(&self, happening: &EventKind) {
        match happening {
            EventKind::Live => {
                if let Some(span) = &*self.span.borrow() {
                    let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    span.record("live_after_ms", ms);
                }
            }
            EventKind::Ended { reason, message, .. } => {
                self.labels.log_end(*reason, message.as_deref());
                self.close(&end_reason_code(*reason), is_failure(*reason));
            }
            _ => {}
        }
    }

    fn close(&self, end: &str, failed: bool) {
        let Some(span) = self.span.take() else { return };
        span.record("end", end);
        if failed {
            span.record("otel.status_code", "ERROR");
        }
    }
}

impl Drop for CastSpan {
    fn drop(&mut self) {
        self.close("left-to-others", false);
    }
}

/// Its word, as the REST API has it.
fn end_reason_code(reason: EndReason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(serde_json::Value::Object(of)) => {
            of.iter().map(|(word, more)| format!("{word}:{}", more.as_str().unwrap_or_default())).collect()
        }
        _ => format!("{reason:?}"),
    }
}

fn is_failure(reason: EndReason) -> bool {
    match reason {
        EndReason::Stopped
        | EndReason::PageEnded
        | EndReason::MaxTime
        | EndReason::Complete
        | EndReason::LargeVideo => false,
        EndReason::StartFailed | EndReason::GaveUp(_) | EndReason::OutputFailed => true,
    }
}
