//! Finds out the browser's depth: a thread that samples its trace when the page starts to draw, when a tick was missed, and
//! now and then.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::Fps;

use super::{DEEPEST, Depth};
use crate::browser::Tracer;
use crate::display::Commits;

/// Ticks between two looks at whether the page draws.
const LOOK_TICKS: u32 = 6;
const SHORTEST_LOOK: Duration = Duration::from_millis(250);
/// Ticks whose pictures are followed; those of the last ones are not there yet when the sample ends.
const SAMPLE_TICKS: u32 = 10;
/// Pictures that must be seen before anything is believed: a page that draws now and then, beside a video perhaps, is not
/// held up by pictures of its own, and what it draws is not what its sound must fit.
const ENOUGH: usize = 5;
/// Time between samples of a page that draws undisturbed, and of one that misses ticks. A sample costs 20 ms of CPU.
const SELDOM: Duration = Duration::from_secs(6);
const OFTEN: Duration = Duration::from_secs(2);

/// The running thread. Stops when dropped.
#[derive(Debug)]
pub(crate) struct Probe {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    pub(crate) fn start(tracer: Tracer, commits: Commits, fps: Fps, depth: Depth) -> std::io::Result<Self> {
        let (stop, stopped) = sync_channel::<()>(0);
        let interval = fps.interval();
        let run = move || {
            let pause = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            let mut plan = Plan::default();
            let mut looked = (Instant::now(), commits.count());
            while pause(SHORTEST_LOOK.max(interval * LOOK_TICKS)) {
                let look = (Instant::now(), commits.count());
                let ticks = (look.0 - looked.0).as_secs_f64() / interval.as_secs_f64();
                let wanted = plan.wants(ticks, look.1 - looked.1, look.0);
                looked = look;
                if !wanted {
                    continue;
                }
                match tracer.sample(|| pause(interval * SAMPLE_TICKS)) {
                    Ok(pictures) => {
                        if let Some(found) = of(&pictures, interval)
                            && found != depth.get()
                        {
                            tracing::debug!(from = depth.get(), to = found, "the browser's depth");
                            depth.set(found);
                        }
                    }
                    Err(error) => tracing::debug!(%error, "no trace of the browser"),
                }
                plan.sampled(Instant::now());
                looked = (Instant::now(), commits.count());
            }
        };
        let thread = std::thread::Builder::new().name("sync".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Probe {
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
struct Plan {
    last: Option<Instant>,
    missed: bool,
}

impl Plan {
    /// Whether a sample is due, when in the last `ticks` there were this many commits.
    fn wants(&mut self, ticks: f64, commits: u64, now: Instant) -> bool {
        let commits = commits as f64;
        // One more or less is a matter of when we looked.
        self.missed |= commits + 1.5 < ticks;
        let draws = commits >= ticks / 2.0;
        let pause = if self.missed { OFTEN } else { SELDOM };
        draws && self.last.is_none_or(|last| now - last >= pause)
    }

    fn sampled(&mut self, now: Instant) {
        *self = Self { last: Some(now), missed: false };
    }
}

/// The depth, given how long each picture took from the tick on which it was begun until it was shown. Pictures are begun on
/// ticks and shown within a slot, so that whole intervals count. `None` if they do not agree.
fn of(pictures: &[Duration], interval: Duration) -> Option<u8> {
    // Ticks as the browser counts them differ from ours by less than this.
    let tolerance = interval / 20;
    let mut of_depth = [0_usize; DEEPEST as usize + 1];
    for took in pictures {
        let ticks = (*took + tolerance).as_secs_f64() / interval.as_secs_f64();
        if let Some(count) = of_depth.get_mut(ticks as usize) {
            *count += 1;
        }
    }
    let (depth, count) = (0_u8..).zip(of_depth).max_by_key(|(_, count)| *count)?;
    (count >= ENOUGH && count * 3 >= pictures.len() * 2).then_some(depth)
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
        assert_eq!(of(&ms(&[3, 4, 30, 5, 4]), INTERVAL), Some(0));
        assert_eq!(of(&ms(&[44, 43, 79, 42, 39]), INTERVAL), Some(1));
        assert_eq!(of(&ms(&[84, 83, 84, 41, 85, 84]), INTERVAL), Some(2));
        assert_eq!(of(&ms(&[44, 43, 44, 44]), INTERVAL), None, "too few");
        assert_eq!(of(&ms(&[3, 44, 3, 44, 3, 44, 3, 44, 3, 44]), INTERVAL), None, "both");
        assert_eq!(of(&ms(&[4000; 9]), INTERVAL), None, "a page that hardly draws has no depth");
    }

    #[test]
    fn samples_are_taken_at_first_then_seldom_and_after_a_miss_soon() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert!(!plan.wants(8.0, 0, start), "a still page");
        assert!(plan.wants(8.0, 8, start));
        plan.sampled(start);
        assert!(!plan.wants(8.0, 7, at(5)));
        assert!(plan.wants(8.0, 8, at(6)));
        plan.sampled(at(6));
        assert!(!plan.wants(8.0, 5, at(7)));
        assert!(plan.wants(8.0, 8, at(8)), "ticks were missed since");
        plan.sampled(at(8));
        assert!(!plan.wants(8.0, 8, at(12)));
    }
}
