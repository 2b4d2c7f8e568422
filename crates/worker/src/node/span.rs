//! The span of a cast: from its claim by this node to its end or its release.

use std::cell::RefCell;
use std::time::Instant;

use pagecast_core::cast::EndReason;
use pagecast_fleet::{Cast, EventKind};
use tracing::Span;
use tracing::field::Empty;

/// The span of a cast, open while the cast runs on this node.
#[derive(Debug)]
pub(super) struct CastSpan {
    span: RefCell<Option<Span>>,
    began: Instant,
    labels: CastLabels,
}

/// The names of a cast, as fields of the log.
#[derive(Debug)]
struct CastLabels {
    cast: String,
    app: String,
    api: String,
    /// The task id that the API's client chose, or the id of the cast.
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

    /// Logs the end with its whole error: a vendor's API answers with a code only.
    fn log_end(&self, reason: EndReason, error: Option<&str>) {
        let Self { cast, app, api, task, room } = self;
        let (room, reason_code) = (room.as_deref(), end_reason_code(reason));
        if is_failure(reason) {
            tracing::warn!(cast, app, api, task, room, reason = reason_code, error, "cast failed");
        } else {
            tracing::info!(cast, app, api, task, room, reason = reason_code, error, "cast ended");
        }
    }
}

impl CastSpan {
    /// Opens the span, at the claim of the cast.
    pub(super) fn start(cast: &Cast) -> Self {
        // The trace that is active here, if any, is unrelated.
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

    /// Records an event of the cast.
    pub(super) fn record(&self, event: &EventKind) {
        match event {
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
        self.close("released", false);
    }
}

/// Returns the code of a reason, as in the REST API; a fault follows after a colon.
fn end_reason_code(reason: EndReason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(code)) => code,
        Ok(serde_json::Value::Object(codes)) => codes
            .iter()
            .map(|(code, fault)| format!("{code}:{}", fault.as_str().unwrap_or_default()))
            .collect(),
        _ => format!("{reason:?}"),
    }
}

fn is_failure(reason: EndReason) -> bool {
    match reason {
        EndReason::Stopped
        | EndReason::PageEnded
        | EndReason::MaxTime
        | EndReason::Complete
        | EndReason::VideoTooLarge => false,
        EndReason::StartFailed | EndReason::PageFailed(_) | EndReason::OutputFailed => true,
    }
}
