//! What each RTMP server adds to the cost of a cast.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use pagecast_testkit::rtmp::Nginx;

use super::stream::{Clock, Stream};
use super::{Costs, PUSH_GOAL};
use crate::casts::Side;
use crate::measure::WARM_UP;
use crate::results::Pair;
use crate::site::Site;

/// How many servers at once; none is what the others are compared with.
const PAGECAST: [usize; 4] = [0, 1, 5, 10];
/// The same for the recipe, which does nothing else.
const RECIPE: [usize; 2] = [1, 5];

/// What casts cost, by their number of servers.
#[derive(Debug, Default)]
pub(crate) struct Pushes(pub(crate) Pair<BTreeMap<usize, Costs>>);

impl Pushes {
    /// One cast of each kind.
    pub(super) fn once(
        &mut self,
        site: &Site,
        program: &Path,
        nginx: &Nginx,
        window: Duration,
    ) -> Result<()> {
        for servers in PAGECAST {
            for side in Side::BOTH {
                if side == Side::Recipe && !RECIPE.contains(&servers) {
                    continue;
                }
                let stream = Stream::start(side, site, program, Clock::Page, nginx, servers)?;
                std::thread::sleep(WARM_UP);
                let what = format!("to {servers} servers, {}", side.name());
                self.0.of_mut(side).entry(servers).or_default().watch(&what, window)?;
                stream.finish(window)?;
            }
        }
        Ok(())
    }

    /// Cores and MiB that each of so many servers adds to a recording.
    pub(crate) fn added(&self, servers: usize) -> Option<(f64, f64)> {
        let (none, some) = (self.0.pagecast.get(&0)?, self.0.pagecast.get(&servers)?);
        let each = |with: f64, without: f64| (with - without) / servers as f64;
        (servers > 0).then(|| (each(some.cores(), none.cores()), each(some.mib(), none.mib())))
    }

    /// Whether each of so many servers costs as little as promised.
    pub(crate) fn meets_goal(&self, servers: usize) -> Option<bool> {
        self.added(servers).map(|(cores, _)| cores <= PUSH_GOAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_what_it_adds() {
        let pagecast = [(0, 0.20, 400), (1, 0.23, 410), (10, 0.30, 450)];
        let pagecast = pagecast.map(|(servers, cores, mib)| (servers, Costs::of(cores, mib))).into();
        let pushes = Pushes(Pair { pagecast, recipe: BTreeMap::new() });
        let (cores, mib) = pushes.added(10).expect("a difference");
        assert!((cores - 0.01).abs() < 1e-9 && (mib - 5.0).abs() < 1e-9);
        assert_eq!([0, 1, 5, 10].map(|n| pushes.meets_goal(n)), [None, Some(false), None, Some(true)]);
    }
}
