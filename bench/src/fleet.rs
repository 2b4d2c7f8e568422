//! A fleet on SQLite and on PostgreSQL, side by side: latency of the service, claims by many nodes, and the
//! cost of leases.
//!
//! Nodes and casts are stubs: tasks in this process that do to the database what nodes do. SQLite is for one
//! machine, so its stub nodes share one open database. Each stub node on PostgreSQL has its own connections.

mod nodes;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pagecast_testkit::service::Environment;
use pagecast_testkit::{Postgres, ScratchDir};
use tokio::runtime::Runtime;

use crate::service::{LoadResult, measure_starts};
pub(crate) use nodes::{ClaimResult, Storage, UpkeepResult};
use nodes::{KEY, StubFleet, Work};

/// Number of casts that are claimed, and that run.
pub(crate) const CAST_COUNT: usize = 1000;
/// Number of nodes that claim the casts.
pub(crate) const CLAIMING_NODES: usize = 10;
/// Number of nodes that run the casts.
pub(crate) const RUNNING_NODES: usize = 20;
/// Goal: longest time until all casts are claimed, in seconds.
pub(crate) const MAX_CLAIM_S: f64 = 5.0;
/// Goal: most cores and transactions per second of PostgreSQL with all that nodes ask regularly.
pub(crate) const MAX_UPKEEP_CORES: f64 = 0.2;
pub(crate) const MAX_UPKEEP_TRANSACTIONS_PER_S: f64 = 40.0;
const DURATION_S: u32 = 20;
/// Duration of each measurement with `--quick`.
const QUICK_DURATION_S: u32 = 6;

/// Results on both databases.
#[derive(Debug)]
pub(crate) struct FleetResults {
    /// Duration of the load and of the upkeep, in seconds.
    pub(crate) duration_s: u32,
    /// Results of each database.
    pub(crate) databases: Vec<DatabaseResult>,
}

/// Results on one database.
#[derive(Debug)]
pub(crate) struct DatabaseResult {
    pub(crate) storage: Storage,
    /// Requests for casts, which stay queued.
    pub(crate) starts: LoadResult,
    pub(crate) claims: ClaimResult,
    /// All casts run: nodes renew leases and send heartbeats.
    pub(crate) renewals: UpkeepResult,
    /// The same with everything else that nodes ask the database every second.
    pub(crate) upkeep: UpkeepResult,
}

impl FleetResults {
    pub(crate) fn measure(program: &Path, quick: bool) -> Result<Self> {
        let duration_s = if quick { QUICK_DURATION_S } else { DURATION_S };
        let server = Postgres::start()?;
        let measure = |storage| DatabaseResult::measure(program, &server, storage, duration_s);
        Ok(Self { duration_s, databases: Storage::ALL.into_iter().map(measure).collect::<Result<_>>()? })
    }
}

impl DatabaseResult {
    fn measure(program: &Path, server: &Postgres, storage: Storage, duration_s: u32) -> Result<Self> {
        eprintln!("fleet, {}:", storage.name());
        let starts = measure_starts(program, environment(server, storage)?, duration_s)?;
        let runtime = Runtime::new().context("cannot start a runtime")?;
        let duration = Duration::from_secs(duration_s.into());
        runtime.block_on(async {
            let scratch = ScratchDir::new()?;
            let claims = StubFleet::open(server, storage, &scratch, "claims", CLAIMING_NODES).await?;
            let claims = claims.measure_claims(CAST_COUNT).await?;
            eprintln!("  {CAST_COUNT} casts claimed by {CLAIMING_NODES} nodes: {:.2} s", claims.duration_s);
            let fleet = StubFleet::open(server, storage, &scratch, "running", RUNNING_NODES).await?;
            let tickets = fleet.start_casts(CAST_COUNT).await?;
            let renewals = fleet.measure_upkeep(&tickets, Work::Renewals, duration).await?;
            eprintln!("  renewals and heartbeats: {renewals}");
            let upkeep = fleet.measure_upkeep(&tickets, Work::Everything, duration).await?;
            eprintln!("  all that nodes ask regularly: {upkeep}");
            Ok(Self { storage, starts, claims, renewals, upkeep })
        })
    }
}

/// Environment variables of a service on a database of its own.
fn environment(server: &Postgres, storage: Storage) -> Result<Environment> {
    if storage == Storage::Sqlite {
        return Ok(Environment::new());
    }
    server.sql("postgres", "CREATE DATABASE starts")?;
    Ok(vec![("PAGECAST_DATABASE", server.url("starts")), ("PAGECAST_SECRET_KEY", KEY.to_owned())])
}
