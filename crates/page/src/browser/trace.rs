//! How long the browser takes to draw: read from its own trace, a few pictures at a time.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::cdp::{Cdp, Error};

/// The one category in which frames are followed from their begin to their presentation.
const CATEGORY: &str = "disabled-by-default-devtools.timeline.frame";
/// The event that spans a frame's life, and those within it that say that the page itself drew it, and that it was shown.
const FRAME: &str = "PipelineReporter";
const DRAWN: &str = "SendBeginMainFrameToCommit";
const SHOWN: &str = "SubmitCompositorFrameToPresentationCompositorFrame";
/// Events kept of a sample. One of twelve ticks has a few hundred.
const MAX_EVENTS: usize = 10_000;
/// Memory that the browser may use for a sample.
const BUFFER_KIB: u32 = 1024;
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the browser told of the sample that is being taken.
#[derive(Debug, Default)]
pub(super) struct Trace {
    sample: Mutex<(Vec<Event>, bool)>,
    complete: Condvar,
}

#[derive(Debug, Clone, PartialEq)]
struct Event {
    at_us: f64,
    /// Of the frame: process and identifier.
    frame: (u64, String),
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Begun,
    Drawn,
    Shown,
    Done,
}

impl Event {
    fn read(event: &Value) -> Option<Self> {
        let what = match (event["name"].as_str()?, event["ph"].as_str()?) {
            (FRAME, "b") => What::Begun,
            (DRAWN, "e") => What::Drawn,
            (SHOWN, "e") => What::Shown,
            (FRAME, "e") => What::Done,
            _ => return None,
        };
        let id = event.get("id").or_else(|| event.get("id2"))?.to_string();
        Some(Self { at_us: event["ts"].as_f64()?, frame: (event["pid"].as_u64()?, id), what })
    }
}

impl Trace {
    /// Takes a part of the trace.
    pub(super) fn take(&self, params: &Value) {
        let mut sample = self.lock();
        let room = MAX_EVENTS - sample.0.len();
        let events = params["value"].as_array().into_iter().flatten();
        sample.0.extend(events.filter_map(Event::read).take(room));
    }

    /// There is no more, or nobody to tell it.
    pub(super) fn finish(&self) {
        self.lock().1 = true;
        self.complete.notify_all();
    }

    fn start(&self) {
        *self.lock() = (Vec::new(), false);
    }

    fn wait(&self) -> Vec<Event> {
        let guard = self.lock();
        let (mut guard, _) = self
            .complete
            .wait_timeout_while(guard, TIMEOUT, |sample| !sample.1)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut guard.0)
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Event>, bool)> {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes samples of the browser's trace.
#[derive(Debug)]
pub(crate) struct Tracer {
    pub(super) cdp: Cdp,
    pub(super) shared: Arc<super::Shared>,
}

impl Tracer {
    /// How long each picture that the page drew took, from the tick on which it was begun until it was shown, while `pause`
    /// lasts. Empty when `pause` says that it was interrupted.
    pub(crate) fn sample(&self, pause: impl FnOnce() -> bool) -> Result<Vec<Duration>, Error> {
        let trace = &self.shared.trace;
        trace.start();
        let config = json!({
            "recordMode": "recordUntilFull",
            "includedCategories": [CATEGORY],
            "excludedCategories": ["*"],
            "traceBufferSizeInKb": BUFFER_KIB,
        });
        let params = json!({"transferMode": "ReportEvents", "traceConfig": config});
        self.cdp.call("", "Tracing.start", params, TIMEOUT)?;
        if !pause() {
            return Ok(Vec::new());
        }
        self.cdp.call("", "Tracing.end", json!({}), TIMEOUT)?;
        Ok(pictures(trace.wait()))
    }
}

fn pictures(mut events: Vec<Event>) -> Vec<Duration> {
    events.sort_by(|a, b| a.at_us.total_cmp(&b.at_us));
    let mut frames: HashMap<(u64, String), (f64, bool, bool)> = HashMap::new();
    let mut pictures = Vec::new();
    for event in events {
        match event.what {
            What::Begun => {
                frames.insert(event.frame, (event.at_us, false, false));
            }
            What::Drawn => {
                frames.entry(event.frame).and_modify(|frame| frame.1 = true);
            }
            What::Shown => {
                frames.entry(event.frame).and_modify(|frame| frame.2 = true);
            }
            What::Done => {
                if let Some((begun_us, true, true)) = frames.remove(&event.frame) {
                    pictures.extend(Duration::try_from_secs_f64((event.at_us - begun_us) / 1e6));
                }
            }
        }
    }
    pictures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, phase: &str, id: &str, ts: f64) -> Value {
        json!({"name": name, "ph": phase, "pid": 7, "id2": {"local": id}, "ts": ts, "cat": "cc"})
    }

    #[test]
    fn only_frames_that_the_page_drew_and_that_were_shown_count() {
        let trace = Trace::default();
        trace.start();
        // Parts come out of order; a frame that another continues has the same times, but was not drawn by the page.
        trace.take(&json!({"value": [
            event(SHOWN, "e", "0x1", 36_000.0),
            event(FRAME, "e", "0x1", 36_000.0),
            event(FRAME, "e", "0x2", 36_000.0),
            event(SHOWN, "e", "0x2", 36_000.0),
        ]}));
        trace.take(&json!({"value": [
            event(FRAME, "b", "0x1", 1_000.0),
            event(DRAWN, "e", "0x1", 2_000.0),
            event(FRAME, "b", "0x2", 34_000.0),
            event(FRAME, "b", "0x3", 34_000.0),
            event(DRAWN, "e", "0x3", 35_000.0),
            event(FRAME, "e", "0x3", 35_500.0),
            {"name": FRAME, "ph": "b", "ts": "soon"},
            17,
        ]}));
        trace.finish();
        assert_eq!(pictures(trace.wait()), [Duration::from_millis(35)]);
    }

    #[test]
    fn a_browser_that_tells_too_much_is_cut_off() {
        let trace = Trace::default();
        let many: Vec<Value> = (0..6000).map(|i| event(FRAME, "b", &i.to_string(), 0.0)).collect();
        let many = json!({ "value": many });
        trace.take(&many);
        trace.take(&many);
        assert_eq!(trace.lock().0.len(), MAX_EVENTS);
    }
}
