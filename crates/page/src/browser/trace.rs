//! Measures how long the browser takes to draw, from short samples of its own trace.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::cdp::{CdpClient, Error};

/// Trace category with the events of a frame from its begin to its presentation.
const TRACE_CATEGORY: &str = "disabled-by-default-devtools.timeline.frame";
/// Event that spans the life of a frame.
const FRAME_EVENT: &str = "PipelineReporter";
/// Event within it that shows that the page itself drew the frame.
const MAIN_FRAME_EVENT: &str = "SendBeginMainFrameToCommit";
/// Event within it that shows that the frame was presented.
const PRESENTATION_EVENT: &str = "SubmitCompositorFrameToPresentationCompositorFrame";
/// Events that are kept of a sample. A sample of twelve ticks has a few hundred.
const MAX_TRACE_EVENTS: usize = 10_000;
/// Memory that the browser may use for a sample, in KiB.
const TRACE_BUFFER_KIB: u32 = 1024;
/// How long the browser may take to answer a trace command or to send a sample.
const TRACE_TIMEOUT: Duration = Duration::from_secs(5);

/// Events of the sample that is being recorded, and whether it is complete.
#[derive(Debug, Default)]
pub(super) struct TraceBuffer {
    events: Mutex<(Vec<TraceEvent>, bool)>,
    complete: Condvar,
}

#[derive(Debug, Clone, PartialEq)]
struct TraceEvent {
    timestamp_us: f64,
    /// Process and identifier of the frame.
    frame: (u64, String),
    phase: FramePhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FramePhase {
    Begin,
    MainFrameCommitted,
    Presented,
    End,
}

impl TraceEvent {
    fn parse(event: &Value) -> Option<Self> {
        let phase = match (event["name"].as_str()?, event["ph"].as_str()?) {
            (FRAME_EVENT, "b") => FramePhase::Begin,
            (MAIN_FRAME_EVENT, "e") => FramePhase::MainFrameCommitted,
            (PRESENTATION_EVENT, "e") => FramePhase::Presented,
            (FRAME_EVENT, "e") => FramePhase::End,
            _ => return None,
        };
        let id = event.get("id").or_else(|| event.get("id2"))?.to_string();
        Some(Self { timestamp_us: event["ts"].as_f64()?, frame: (event["pid"].as_u64()?, id), phase })
    }
}

impl TraceBuffer {
    /// Adds the events of one message.
    pub(super) fn add_events(&self, params: &Value) {
        let mut sample = self.lock();
        let room = MAX_TRACE_EVENTS - sample.0.len();
        let events = params["value"].as_array().into_iter().flatten();
        sample.0.extend(events.filter_map(TraceEvent::parse).take(room));
    }

    /// Marks the sample as complete, or the browser as gone.
    pub(super) fn finish(&self) {
        self.lock().1 = true;
        self.complete.notify_all();
    }

    fn clear(&self) {
        *self.lock() = (Vec::new(), false);
    }

    fn wait_for_events(&self) -> Vec<TraceEvent> {
        let guard = self.lock();
        let (mut guard, _) = self
            .complete
            .wait_timeout_while(guard, TRACE_TIMEOUT, |sample| !sample.1)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut guard.0)
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<TraceEvent>, bool)> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records samples of the browser's trace.
#[derive(Debug)]
pub(crate) struct FrameTracer {
    pub(super) cdp: CdpClient,
    pub(super) shared: Arc<super::Shared>,
}

impl FrameTracer {
    /// Records while `pause` runs. Returns, for each frame that the page drew, the time from the tick on
    /// which it was begun until it was presented. Empty if `pause` returns false, for interrupted.
    pub(crate) fn record_frame_latencies(
        &self,
        pause: impl FnOnce() -> bool,
    ) -> Result<Vec<Duration>, Error> {
        let trace = &self.shared.trace;
        trace.clear();
        let config = json!({
            "recordMode": "recordUntilFull",
            "includedCategories": [TRACE_CATEGORY],
            "excludedCategories": ["*"],
            "traceBufferSizeInKb": TRACE_BUFFER_KIB,
        });
        let params = json!({"transferMode": "ReportEvents", "traceConfig": config});
        self.cdp.call("", "Tracing.start", params, TRACE_TIMEOUT)?;
        if !pause() {
            return Ok(Vec::new());
        }
        self.cdp.call("", "Tracing.end", json!({}), TRACE_TIMEOUT)?;
        Ok(frame_latencies(trace.wait_for_events()))
    }
}

fn frame_latencies(mut events: Vec<TraceEvent>) -> Vec<Duration> {
    events.sort_by(|a, b| a.timestamp_us.total_cmp(&b.timestamp_us));
    let mut frames: HashMap<(u64, String), (f64, bool, bool)> = HashMap::new();
    let mut latencies = Vec::new();
    for event in events {
        match event.phase {
            FramePhase::Begin => {
                frames.insert(event.frame, (event.timestamp_us, false, false));
            }
            FramePhase::MainFrameCommitted => {
                frames.entry(event.frame).and_modify(|frame| frame.1 = true);
            }
            FramePhase::Presented => {
                frames.entry(event.frame).and_modify(|frame| frame.2 = true);
            }
            FramePhase::End => {
                if let Some((begun_us, true, true)) = frames.remove(&event.frame) {
                    latencies.extend(Duration::try_from_secs_f64((event.timestamp_us - begun_us) / 1e6));
                }
            }
        }
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, phase: &str, id: &str, ts: f64) -> Value {
        json!({"name": name, "ph": phase, "pid": 7, "id2": {"local": id}, "ts": ts, "cat": "cc"})
    }

    #[test]
    fn only_presented_frames_of_the_page_count() {
        let trace = TraceBuffer::default();
        trace.clear();
        // Messages arrive out of order. Frame 0x2 continues another one, and was not drawn by the page.
        trace.add_events(&json!({"value": [
            event(PRESENTATION_EVENT, "e", "0x1", 36_000.0),
            event(FRAME_EVENT, "e", "0x1", 36_000.0),
            event(FRAME_EVENT, "e", "0x2", 36_000.0),
            event(PRESENTATION_EVENT, "e", "0x2", 36_000.0),
        ]}));
        trace.add_events(&json!({"value": [
            event(FRAME_EVENT, "b", "0x1", 1_000.0),
            event(MAIN_FRAME_EVENT, "e", "0x1", 2_000.0),
            event(FRAME_EVENT, "b", "0x2", 34_000.0),
            event(FRAME_EVENT, "b", "0x3", 34_000.0),
            event(MAIN_FRAME_EVENT, "e", "0x3", 35_000.0),
            event(FRAME_EVENT, "e", "0x3", 35_500.0),
            {"name": FRAME_EVENT, "ph": "b", "ts": "soon"},
            17,
        ]}));
        trace.finish();
        assert_eq!(frame_latencies(trace.wait_for_events()), [Duration::from_millis(35)]);
    }

    #[test]
    fn a_sample_is_bounded() {
        let trace = TraceBuffer::default();
        let many: Vec<Value> = (0..6000).map(|i| event(FRAME_EVENT, "b", &i.to_string(), 0.0)).collect();
        let many = json!({ "value": many });
        trace.add_events(&many);
        trace.add_events(&many);
        assert_eq!(trace.lock().0.len(), MAX_TRACE_EVENTS);
    }
}
