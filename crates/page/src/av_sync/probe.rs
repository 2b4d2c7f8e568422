//! Measures the render latency: a thread that samples the browser's trace when the page starts to draw, after
//! irregular commits, and periodically.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::{Fps, HostTime};

use super::{MAX_LATENCY_TICKS, RenderLatency};
use crate::browser::FrameTracer;
use crate::clock;
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
        let run = move || run(&tracer, &commits, fps.interval(), &latency, &stopped);
        let thread = std::thread::Builder::new().name("av-sync".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

fn run(
    tracer: &FrameTracer,
    commits: &CommitCounters,
    interval: Duration,
    latency: &RenderLatency,
    stopped: &Receiver<()>,
) {
    let pause = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    let counts = || Counts { commits: commits.commits(), irregular_slots: commits.irregular_slots() };
    let mut schedule = TraceSchedule::new(clock::now(), interval, counts(), latency.ticks());
    while schedule.deadline().is_none_or(|at| pause(at.since(clock::now()))) {
        schedule.handle(clock::now(), Input::Counted(counts()));
        while let Some(output) = schedule.poll(clock::now()) {
            match output {
                Output::Trace => {
                    let traced = tracer.record_frame_latencies(|| pause(interval * TRACE_TICKS));
                    let input = match traced {
                        Ok(latencies) => {
                            let measured = latency_ticks(&latencies, interval);
                            Input::Traced { measured, counts: counts() }
                        }
                        Err(error) => {
                            tracing::debug!(%error, "browser trace failed");
                            Input::TraceFailed(counts())
                        }
                    };
                    schedule.handle(clock::now(), input);
                }
                Output::LatencyChanged(ticks) => {
                    let from_ticks = latency.ticks();
                    tracing::debug!(from_ticks, to_ticks = ticks, "render latency changed");
                    latency.set_ticks(ticks);
                }
            }
        }
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

/// Counters of the display since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    commits: u64,
    irregular_slots: u64,
}

/// Input of the [`TraceSchedule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// The counters at the deadline.
    Counted(Counts),
    /// A sample was taken: the latency that it measured, if any, and the counters at its end.
    Traced { measured: Option<u8>, counts: Counts },
    /// A sample could not be taken. The counters are those of now.
    TraceFailed(Counts),
}

/// Output of the [`TraceSchedule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// Take a sample, and answer with [`Input::Traced`].
    Trace,
    /// The latency is now so many ticks.
    LatencyChanged(u8),
}

/// Decides when to take a sample, and when to believe it. Sans-IO.
#[derive(Debug)]
struct TraceSchedule {
    interval: Duration,
    /// The counters at the last input, and its time.
    counted: Counts,
    counted_at: HostTime,
    traced_at: Option<HostTime>,
    irregular: bool,
    /// The latency that is in use.
    latency: u8,
    /// Latency that the last sample measured, if it differs from the one in use.
    candidate: Option<u8>,
    output: Option<Output>,
}

impl TraceSchedule {
    /// A schedule for a display with this interval of ticks and these counters.
    fn new(now: HostTime, interval: Duration, counted: Counts, latency: u8) -> Self {
        Self {
            interval,
            counted,
            counted_at: now,
            traced_at: None,
            irregular: false,
            latency,
            candidate: None,
            output: None,
        }
    }

    fn handle(&mut self, now: HostTime, input: Input) {
        match input {
            Input::Counted(counts) => {
                if self.is_trace_due(now, counts) {
                    self.output = Some(Output::Trace);
                }
                (self.counted, self.counted_at) = (counts, now);
            }
            Input::Traced { measured, counts } => {
                self.output = self.confirm(measured).map(Output::LatencyChanged);
                self.finish_trace(now, counts);
            }
            Input::TraceFailed(counts) => self.finish_trace(now, counts),
        }
    }

    fn finish_trace(&mut self, now: HostTime, counts: Counts) {
        (self.traced_at, self.irregular) = (Some(now), false);
        (self.counted, self.counted_at) = (counts, now);
    }

    fn poll(&mut self, _now: HostTime) -> Option<Output> {
        self.output.take()
    }

    /// When to hand in the counters.
    fn deadline(&self) -> Option<HostTime> {
        Some(self.counted_at + MIN_CHECK_INTERVAL.max(self.interval * CHECK_INTERVAL_TICKS))
    }

    fn is_trace_due(&mut self, now: HostTime, counts: Counts) -> bool {
        self.irregular |= counts.irregular_slots > self.counted.irregular_slots;
        let ticks = now.since(self.counted_at).as_secs_f64() / self.interval.as_secs_f64();
        let draws = (counts.commits - self.counted.commits) as f64 >= ticks / 2.0;
        let pause = match self {
            Self { candidate: Some(_), .. } => Duration::ZERO,
            Self { irregular: true, .. } => UNSTABLE_TRACE_INTERVAL,
            Self { .. } => TRACE_INTERVAL,
        };
        draws && self.traced_at.is_none_or(|last| now.since(last) >= pause)
    }

    /// Returns the measured latency if it differs from that in use twice in a row. One sample is not enough:
    /// a player takes seconds to adapt to another latency.
    fn confirm(&mut self, measured: Option<u8>) -> Option<u8> {
        let changed = measured.filter(|measured| *measured != self.latency);
        if changed.is_some() && std::mem::replace(&mut self.candidate, changed) == changed {
            self.candidate = None;
            self.latency = changed?;
            return changed;
        }
        self.candidate = changed;
        None
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

    /// A schedule at time 0, and a way to count so many commits and irregular slots in its last eight ticks.
    struct Fixture(TraceSchedule, Counts);

    impl Fixture {
        fn new() -> Self {
            let counts = Counts { commits: 0, irregular_slots: 0 };
            Self(TraceSchedule::new(at(0.0), INTERVAL, counts, 1), counts)
        }

        /// Whether a sample is due at this second, after eight ticks with so many commits and irregular
        /// slots.
        fn is_trace_due(&mut self, second: f64, commits: u64, irregular_slots: u64) -> bool {
            self.0.handle(at(second - 0.32), Input::Counted(self.1));
            self.0.poll(at(second));
            self.1.commits += commits;
            self.1.irregular_slots += irregular_slots;
            self.0.handle(at(second), Input::Counted(self.1));
            self.0.poll(at(second)) == Some(Output::Trace)
        }

        /// Takes a sample; returns the latency that changed.
        fn trace(&mut self, second: f64, measured: Option<u8>) -> Option<u8> {
            self.0.handle(at(second), Input::Traced { measured, counts: self.1 });
            match self.0.poll(at(second)) {
                Some(Output::LatencyChanged(ticks)) => Some(ticks),
                other => other.map(|output| panic!("{output:?}")),
            }
        }
    }

    fn at(second: f64) -> HostTime {
        HostTime(1234) + Duration::from_secs_f64(second.max(0.0))
    }

    #[test]
    fn samples_are_taken_at_first_then_seldom_and_soon_after_irregular_slots() {
        let mut display = Fixture::new();
        assert!(!display.is_trace_due(1.0, 0, 0), "a still page");
        assert!(display.is_trace_due(2.0, 8, 0));
        display.trace(2.0, None);
        assert!(!display.is_trace_due(7.0, 7, 0));
        assert!(display.is_trace_due(8.0, 8, 0));
        display.trace(8.0, None);
        assert!(!display.is_trace_due(9.0, 7, 1));
        assert!(display.is_trace_due(10.0, 8, 0), "it was irregular since");
        display.trace(10.0, None);
        assert!(!display.is_trace_due(14.0, 8, 0));
        assert_eq!(display.0.deadline(), Some(at(14.0) + MIN_CHECK_INTERVAL));
    }

    #[test]
    fn another_latency_counts_when_it_is_measured_twice_in_a_row() {
        let mut display = Fixture::new();
        assert_eq!(display.trace(1.0, Some(1)), None);
        assert_eq!(display.trace(2.0, Some(2)), None);
        assert!(display.is_trace_due(2.5, 8, 0), "the second sample follows at once");
        assert_eq!(display.trace(3.0, Some(0)), None);
        assert_eq!(display.trace(4.0, None), None);
        assert_eq!(display.trace(5.0, Some(0)), None);
        assert_eq!(display.trace(6.0, Some(0)), Some(0));
        assert_eq!(display.trace(7.0, Some(0)), None);
    }
}
