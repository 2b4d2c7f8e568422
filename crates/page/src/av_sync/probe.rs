//! Measures the render latency: a thread that samples the browser's trace when the page starts to draw, after
//! irregular commits, and periodically.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::Fps;

use super::{MAX_LATENCY_TICKS, RenderLatency};
use crate::browser::FrameTracer;
use crate::display::CommitCounters;

/// Ticks between two checks whether the page draws.
const CHECK_INTERVAL_TICKS: u32 = 6;
/// Least time between two such checks, for high frame rates.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Length of a sample, in ticks. The frames of the last few are not complete when the sample ends.
const TRACE_TICKS: u32 = 12;
/// Frames that a sample must hold to count. A page that draws only now and then, perhaps beside a video, is
/// not delayed by frames of its own, and its sound does not belong to them.
const MIN_TRACED_FRAMES: usize = 8;
/// Time between samples of a page that commits regularly. A sample costs 20 ms of CPU.
const TRACE_INTERVAL: Duration = Duration::from_secs(6);
/// Time between samples of a page with irregular commits, whose latency may have changed.
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
        latency: RenderLatency,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel::<()>(0);
        let interval = fps.interval();
        let run = move || {
            let pause = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            let mut schedule = TraceSchedule::default();
            let mut previous = (Instant::now(), commits.commits(), commits.irregular_slots());
            while pause(MIN_CHECK_INTERVAL.max(interval * CHECK_INTERVAL_TICKS)) {
                let current = (Instant::now(), commits.commits(), commits.irregular_slots());
                let ticks = (current.0 - previous.0).as_secs_f64() / interval.as_secs_f64();
                let (committed, irregular) = (current.1 - previous.1, current.2 - previous.2);
                let is_due = schedule.is_trace_due(ticks, committed, irregular, current.0);
                previous = current;
                if !is_due {
                    continue;
                }
                match tracer.record_frame_latencies(|| pause(interval * TRACE_TICKS)) {
                    Ok(latencies) => {
                        let measured = latency_ticks(&latencies, interval);
                        if let Some(ticks) = schedule.confirm(measured, latency.ticks()) {
                            let from_ticks = latency.ticks();
                            tracing::debug!(from_ticks, to_ticks = ticks, "render latency changed");
                            latency.set_ticks(ticks);
                        }
                    }
                    Err(error) => tracing::debug!(%error, "browser trace failed"),
                }
                schedule.mark_traced(Instant::now());
                previous = (Instant::now(), commits.commits(), commits.irregular_slots());
            }
        };
        let thread = std::thread::Builder::new().name("av-sync".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for LatencyProbe {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("av-sync thread panicked");
        }
    }
}

/// Decides when to take a sample, and when to believe it.
#[derive(Debug, Default)]
struct TraceSchedule {
    last_trace: Option<Instant>,
    irregular: bool,
    /// Latency that the last sample measured, if it differs from the known one.
    candidate: Option<u8>,
}

impl TraceSchedule {
    /// Whether a sample is due, after `ticks` with this many commits and irregular slots.
    fn is_trace_due(&mut self, ticks: f64, commits: u64, irregular_slots: u64, now: Instant) -> bool {
        self.irregular |= irregular_slots > 0;
        let draws = commits as f64 >= ticks / 2.0;
        let pause = match self {
            Self { candidate: Some(_), .. } => Duration::ZERO,
            Self { irregular: true, .. } => UNSTABLE_TRACE_INTERVAL,
            Self { .. } => TRACE_INTERVAL,
        };
        draws && self.last_trace.is_none_or(|last| now - last >= pause)
    }

    /// Takes the latency that a sample measured; returns it if it differs from `known` twice in a row. One
    /// sample is not enough: a player takes seconds to adapt to another latency.
    fn confirm(&mut self, measured: Option<u8>, known: u8) -> Option<u8> {
        let changed = measured.filter(|measured| *measured != known);
        if changed.is_some() && std::mem::replace(&mut self.candidate, changed) == changed {
            self.candidate = None;
            return changed;
        }
        self.candidate = changed;
        None
    }

    fn mark_traced(&mut self, now: Instant) {
        (self.last_trace, self.irregular) = (Some(now), false);
    }
}

/// The render latency in ticks, from the time that each frame took from the tick on which it was begun until
/// it was presented. Frames are begun on ticks and presented within a slot, so only whole intervals count.
/// `None` if the frames do not agree.
fn latency_ticks(latencies: &[Duration], interval: Duration) -> Option<u8> {
    // The browser's ticks differ from ours by less than this.
    let tolerance = interval / 20;
    let mut counts = [0_usize; MAX_LATENCY_TICKS as usize + 1];
    for latency in latencies {
        let ticks = (*latency + tolerance).as_secs_f64() / interval.as_secs_f64();
        if let Some(count) = counts.get_mut(ticks as usize) {
            *count += 1;
        }
    }
    let (ticks, count) = (0_u8..).zip(counts).max_by_key(|(_, count)| *count)?;
    (count >= MIN_TRACED_FRAMES && count * 3 >= latencies.len() * 2).then_some(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(40);

    fn ms(times: &[u64]) -> Vec<Duration> {
        times.iter().map(|ms| Duration::from_millis(*ms)).collect()
    }

    #[test]
    fn latency_is_the_whole_intervals_that_most_frames_took() {
        let of = |times: &[u64]| latency_ticks(&ms(times), INTERVAL);
        assert_eq!(of(&[3, 4, 30, 5, 4, 3, 3, 3]), Some(0));
        assert_eq!(of(&[44, 43, 75, 42, 38, 43, 43, 44, 81]), Some(1));
        assert_eq!(of(&[84, 83, 84, 41, 85, 84, 84, 84, 84]), Some(2));
        assert_eq!(of(&[44; 7]), None, "too few");
        assert_eq!(of(&[3, 44].repeat(10)), None, "both");
        assert_eq!(of(&[4000; 9]), None, "a page that hardly draws has no latency");
    }

    #[test]
    fn samples_are_taken_at_first_then_seldom_and_soon_after_irregular_slots() {
        let (mut schedule, start) = (TraceSchedule::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert!(!schedule.is_trace_due(8.0, 0, 0, start), "a still page");
        assert!(schedule.is_trace_due(8.0, 8, 0, start));
        schedule.mark_traced(start);
        assert!(!schedule.is_trace_due(8.0, 7, 0, at(5)));
        assert!(schedule.is_trace_due(8.0, 8, 0, at(6)));
        schedule.mark_traced(at(6));
        assert!(!schedule.is_trace_due(8.0, 7, 1, at(7)));
        assert!(schedule.is_trace_due(8.0, 8, 0, at(8)), "it was irregular since");
        schedule.mark_traced(at(8));
        assert!(!schedule.is_trace_due(8.0, 8, 0, at(12)));
    }

    #[test]
    fn another_latency_counts_when_it_is_measured_twice_in_a_row() {
        let (mut schedule, now) = (TraceSchedule::default(), Instant::now());
        assert_eq!(schedule.confirm(Some(1), 1), None);
        assert_eq!(schedule.confirm(Some(2), 1), None);
        schedule.mark_traced(now);
        assert!(schedule.is_trace_due(8.0, 8, 0, now), "the second sample follows at once");
        assert_eq!(schedule.confirm(Some(0), 1), None);
        assert_eq!(schedule.confirm(None, 1), None);
        assert_eq!(schedule.confirm(Some(0), 1), None);
        assert_eq!(schedule.confirm(Some(0), 1), Some(0));
        assert_eq!(schedule.confirm(Some(0), 0), None);
    }
}
