//! Cost that each RTMP server adds to a cast.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use pagecast_testkit::rtmp::NginxRtmp;

use super::pushed_cast::{PushedCast, TimecodeClock};
use super::{CastCosts, MAX_CORES_PER_PUSH};
use crate::cast::Recorder;
use crate::measure::WARM_UP;
use crate::results::PerRecorder;
use crate::site::BenchSite;

/// Numbers of servers; the others are compared with none.
const PAGECAST_SERVER_COUNTS: [usize; 4] = [0, 1, 5, 10];
/// Numbers of servers for the baseline, which needs at least one.
const BASELINE_SERVER_COUNTS: [usize; 2] = [1, 5];

/// Costs of casts by number of servers.
#[derive(Debug, Default)]
pub(crate) struct PushCosts(pub(crate) PerRecorder<BTreeMap<usize, CastCosts>>);

impl PushCosts {
    /// Measures one cast of each kind.
    pub(super) fn measure_once(
        &mut self,
        site: &BenchSite,
        program: &Path,
        nginx: &NginxRtmp,
        window: Duration,
    ) -> Result<()> {
        for servers in PAGECAST_SERVER_COUNTS {
            for recorder in Recorder::ALL {
                if recorder == Recorder::Baseline && !BASELINE_SERVER_COUNTS.contains(&servers) {
                    continue;
                }
                let stream = PushedCast::start(recorder, site, program, TimecodeClock::Page, nginx, servers)?;
                std::thread::sleep(WARM_UP);
                let what = format!("to {servers} servers, {}", recorder.name());
                self.0.get_mut(recorder).entry(servers).or_default().measure(&what, window)?;
                stream.finish(window)?;
            }
        }
        Ok(())
    }

    /// CPU cores and MiB that each of this many servers adds to a recording.
    pub(crate) fn cost_per_server(&self, servers: usize) -> Option<(f64, f64)> {
        let (none, some) = (self.0.pagecast.get(&0)?, self.0.pagecast.get(&servers)?);
        let each = |with: f64, without: f64| (with - without) / servers as f64;
        (servers > 0).then(|| (each(some.cores(), none.cores()), each(some.memory_mib(), none.memory_mib())))
    }

    /// Whether the goal is met with this many servers.
    pub(crate) fn meets_goal(&self, servers: usize) -> Option<bool> {
        self.cost_per_server(servers).map(|(cores, _)| cores <= MAX_CORES_PER_PUSH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_per_server_is_what_each_server_adds() {
        let pagecast = [(0, 0.20, 400), (1, 0.23, 410), (10, 0.30, 450)];
        let pagecast =
            pagecast.map(|(servers, cores, mib)| (servers, CastCosts::for_test(cores, mib))).into();
        let pushes = PushCosts(PerRecorder { pagecast, baseline: BTreeMap::new() });
        let (cores, mib) = pushes.cost_per_server(10).expect("a difference");
        assert!((cores - 0.01).abs() < 1e-9 && (mib - 5.0).abs() < 1e-9);
        assert_eq!([0, 1, 5, 10].map(|n| pushes.meets_goal(n)), [None, Some(false), None, Some(true)]);
    }
}
