//! Finds out the browser's depth: a thread that samples its trace when the page starts to draw, when it stumbled, and now
//! and then.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::Fps;

use super::{MAX_LATENCY_TICKS, RenderLatency};
use crate::browser::FrameTracer;
use crate::display::CommitCounters;

/// Ticks between two looks at whether the page draws.
const CHECK_INTERVAL_TICKS: u32 = 6;
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Ticks whose pictures are followed; those of the last ones are not there yet when the sample ends.
const TRACE_TICKS: u32 = 12;
/// Pictures that must be seen before anything is believed: a page that draws now and then, beside a video perhaps, is not
/// held up by pictures of its own, and what it draws is not what its sound must fit.
const MIN_TRACED_FRAMES: usize = 8;
/// Time between samples of a page that draws undisturbed, and of one that stumbles. A sample costs 20 ms of CPU.
const TRACE_INTERVAL: Duration = Duration::from_secs(6);
const UNSTABLE_TRACE_INTERVAL: Duration = Duration::from_secs(2);

/// The running thread. Stops when dropped.
#[derive(Debug)]
pub(crate) struct LatencyProbe {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LatencyProbe {
    pub(crate) fn start(
        tracer: FrameTracer,
        commits: CommitCounters,
        fps: Fps,
        depth: RenderLatency,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel::<()>(0);
        let interval = fps.interval();
        let run = move || {
            let pause = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            let mut plan = TraceSchedule::default();
            let mut looked = (Instant::now(), commits.commits(), commits.irregular_slots());
            while pause(MIN_CHECK_INTERVAL.max(interval * CHECK_INTERVAL_TICKS)) {
                let look = (Instant::now(), commits.commits(), commits.irregular_slots());
                let ticks = (look.0 - looked.0).as_secs_f64() / interval.as_secs_f64();
                let wanted = plan.is_trace_due(ticks, look.1 - looked.1, look.2 - looked.2, look.0);
                looked = look;
                if !wanted {
                    continue;
                }
                match tracer.record_frame_latencies(|| pause(interval * TRACE_TICKS)) {
                    Ok(pictures) => {
                        if let Some(found) = plan.confirm(latency_ticks(&pictures, interval), depth.ticks()) {
                            tracing::debug!(from = depth.ticks(), to = found, "the browser's depth");
                            depth.set_ticks(found);
                        }
                    }
                    Err(error) => tracing::debug!(%error, "no trace of the browser"),
                }
                plan.mark_traced(Instant::now());
                looked = (Instant::now(), commits.commits(), commits.irregular_slots());
            }
        };
        let thread = std::thread::Builder::new().name("sync".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for LatencyProbe {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sync thread panicked");
        }
    }
}

/// When to sample.
#[derive(Debug, Default)]
struct TraceSchedule {
    last_trace: Option<Instant>,
    irregular: bool,
    /// What the last sample found, if it is not what is known.
    candidate: Option<u8>,
}

impl TraceSchedule {
    /// Whether a sample is due, when in the last `ticks` there were this many commits and stumbles.
    fn is_trace_due(&mut self, ticks: f64, commits: u64, stumbles: u64, now: Instant) -> bool {
        self.irregular |= stumbles > 0;
        let draws = commits as f64 >= ticks / 2.0;
        let pause = match self {
            Self { candidate: Some(_), .. } => Duration::ZERO,
            Self { irregular: true, .. } => UNSTABLE_TRACE_INTERVAL,
            Self { .. } => TRACE_INTERVAL,
        };
        draws && self.last_trace.is_none_or(|last| now - last >= pause)
    }

    /// Takes the depth that a sample found; returns it when it is news. A player adapts to another depth for seconds, so one
    /// sample is not enough.
    fn confirm(&mut self, found: Option<u8>, known: u8) -> Option<u8> {
        let found = found.filter(|found| *found != known);
        if found.is_some() && std::mem::replace(&mut self.candidate, found) == found {
            self.candidate = None;
            return found;
        }
        self.candidate = found;
        None
    }

    fn mark_traced(&mut self, now: Instant) {
        (self.last_trace, self.irregular) = (Some(now), false);
    }
}

/// The depth, given how long each picture took from the tick on which it was begun until it was shown. Pictures are begun on
/// ticks and shown within a slot, so that whole intervals count. `None` if they do not agree.
fn latency_ticks(pictures: &[Duration], interval: Duration) -> Option<u8> {
    // Ticks as the browser counts them differ from ours by less than this.
    let tolerance = interval / 20;
    let mut of_depth = [0_usize; MAX_LATENCY_TICKS as usize + 1];
    for took in pictures {
        let ticks = (*took + tolerance).as_secs_f64() / interval.as_secs_f64();
        if let Some(count) = of_depth.get_mut(ticks as usize) {
            *count += 1;
        }
    }
    let (depth, count) = (0_u8..).zip(of_depth).max_by_key(|(_, count)| *count)?;
    (count >= MIN_TRACED_FRAMES && count * 3 >= pictures.len() * 2).then_some(depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(40);

    fn ms(times: &[u64]) -> Vec<Duration> {
        times.iter().map(|ms| Duration::from_millis(*ms)).collect()
    }

    #[test]
    fn depth_is_the_whole_intervals_that_most_pictures_took() {
        let of = |times: &[u64]| latency_ticks(&ms(times), INTERVAL);
        assert_eq!(of(&[3, 4, 30, 5, 4, 3, 3, 3]), Some(0));
        assert_eq!(of(&[44, 43, 75, 42, 38, 43, 43, 44, 81]), Some(1));
        assert_eq!(of(&[84, 83, 84, 41, 85, 84, 84, 84, 84]), Some(2));
        assert_eq!(of(&[44; 7]), None, "too few");
        assert_eq!(of(&[3, 44].repeat(10)), None, "both");
        assert_eq!(of(&[4000; 9]), None, "a page that hardly draws has no depth");
    }

    #[test]
    fn samples_are_taken_at_first_then_seldom_and_after_a_stumble_soon() {
        let (mut plan, start) = (TraceSchedule::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert!(!plan.is_trace_due(8.0, 0, 0, start), "a still page");
        assert!(plan.is_trace_due(8.0, 8, 0, start));
        plan.mark_traced(start);
        assert!(!plan.is_trace_due(8.0, 7, 0, at(5)));
        assert!(plan.is_trace_due(8.0, 8, 0, at(6)));
        plan.mark_traced(at(6));
        assert!(!plan.is_trace_due(8.0, 7, 1, at(7)));
        assert!(plan.is_trace_due(8.0, 8, 0, at(8)), "it stumbled since");
        plan.mark_traced(at(8));
        assert!(!plan.is_trace_due(8.0, 8, 0, at(12)));
    }

    #[test]
    fn another_depth_is_believed_when_it_is_found_twice_in_a_row() {
        let (mut plan, now) = (TraceSchedule::default(), Instant::now());
        assert_eq!(plan.confirm(Some(1), 1), None);
        assert_eq!(plan.confirm(Some(2), 1), None);
        plan.mark_traced(now);
        assert!(plan.is_trace_due(8.0, 8, 0, now), "the second sample follows at once");
        assert_eq!(plan.confirm(Some(0), 1), None);
        assert_eq!(plan.confirm(None, 1), None);
        assert_eq!(plan.confirm(Some(0), 1), None);
        assert_eq!(plan.confirm(Some(0), 1), Some(0));
        assert_eq!(plan.confirm(Some(0), 0), None);
    }
}
