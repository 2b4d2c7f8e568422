//! Stub nodes.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::CastSpec;
use pagecast_core::spec::{Source, SourceUrl};
use pagecast_fleet::postgres::{self, PostgresFleet};
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{
    CastId, CastStats, CreateOutcome, Fleet, KeyRetention, NewCast, NodeInfo, Renewal, Ticket, UnixMs,
    WorkerId, WorkerStatus,
};
use pagecast_testkit::{Postgres, ScratchDir};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::usage::{CpuUsage, own_cpu_s};

/// Key that seals values in the databases.
pub(super) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// The default lease of a fleet.
const LEASE: Duration = Duration::from_secs(6);
/// Lease of casts that are not renewed while they are claimed.
const LONG_LEASE: Duration = Duration::from_secs(600);
/// Interval at which nodes renew leases: a third of the lease.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// Interval at which nodes send heartbeats, with the statistics of their casts.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// Interval at which nodes look for casts, events, changed applications and upkeep.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const RETENTION: Duration = Duration::from_secs(72 * 3600);
/// Most casts that a node claims at once.
const CLAIM_BATCH: usize = 32;
/// Applications that own the casts.
const APP_COUNT: usize = 10;
/// Casts that are created at the same time.
const CREATE_CONCURRENCY: usize = 32;
/// Time until the server has counted transactions: each of its processes does so once a second.
const COUNT_DELAY: Duration = Duration::from_millis(1500);

/// A database of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Sqlite,
    Postgres,
}

impl Storage {
    pub(crate) const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// Claims of all casts.
#[derive(Debug)]
pub(crate) struct ClaimResult {
    /// Time until all casts were claimed, in seconds.
    pub(crate) duration_s: f64,
}

/// Cost of what nodes do regularly.
#[derive(Debug, Default)]
pub(crate) struct UpkeepResult {
    /// Cores used: those of PostgreSQL, or those of this process with SQLite and the stub nodes.
    pub(crate) cores: f64,
    /// Transactions per second of PostgreSQL.
    pub(crate) transactions_per_s: Option<f64>,
}

impl fmt::Display for UpkeepResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} cores", self.cores)?;
        self.transactions_per_s.map_or(Ok(()), |rate| write!(f, ", {rate:.1} transactions/s"))
    }
}

/// What the nodes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// They renew leases and send heartbeats.
    Renewals,
    /// They also look for casts to claim, due events, changed applications, and upkeep.
    Everything,
}

/// Stub nodes on one database.
pub(super) struct StubFleet<'a> {
    nodes: Vec<(WorkerId, Arc<dyn Fleet>)>,
    /// The server and the name of the database.
    postgres: Option<(&'a Postgres, &'static str)>,
}

impl<'a> StubFleet<'a> {
    /// Opens this many nodes on an empty database.
    pub(super) async fn open(
        server: &'a Postgres,
        storage: Storage,
        scratch: &ScratchDir,
        database: &'static str,
        nodes: usize,
    ) -> Result<Self> {
        let workers = (0..nodes).map(|n| WorkerId(format!("node-{n}")));
        if storage == Storage::Sqlite {
            let fleet: Arc<dyn Fleet> = SqliteFleet::open(sqlite::Config {
                path: scratch.join(database),
                vault: Vault::from_text(KEY)?,
                retention: RETENTION,
                wall_clock: Arc::new(unix_ms),
                monotonic_clock: sqlite::monotonic_clock(),
                max_bytes: 1 << 40,
            })?;
            let nodes = workers.map(|worker| (worker, Arc::clone(&fleet))).collect();
            return Ok(Self { nodes, postgres: None });
        }
        server.sql("postgres", &format!("CREATE DATABASE {database}"))?;
        let mut nodes = Vec::new();
        for worker in workers {
            let fleet = PostgresFleet::open(postgres::Config {
                url: server.url(database),
                direct_url: None,
                tls: postgres::tls_config(None)?,
                vault: Vault::from_text(KEY)?,
                retention: RETENTION,
                node: worker.0.clone(),
                monotonic_clock: postgres::monotonic_clock(),
            });
            nodes.push((worker, fleet.await? as Arc<dyn Fleet>));
        }
        Ok(Self { nodes, postgres: Some((server, database)) })
    }

    /// Queues casts.
    async fn create_casts(&self, count: usize) -> Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for sender in 0..CREATE_CONCURRENCY {
            let fleet = Arc::clone(&self.nodes[sender % self.nodes.len()].1);
            let next = Arc::clone(&next);
            tasks.spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return Ok(());
                    }
                    let outcome = fleet.create(new_cast(n)?).await?;
                    ensure!(matches!(outcome, CreateOutcome::New(_)), "not created: {outcome:?}");
                }
            });
        }
        tasks.join_all().await.into_iter().collect()
    }

    /// Lets all nodes claim `per_node` casts at the same time, until `count` are claimed. Returns the tickets
    /// of each node.
    async fn claim_casts(&self, count: usize, per_node: usize, lease: Duration) -> Result<Vec<Vec<Ticket>>> {
        let claimed = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for (worker, fleet) in self.nodes.clone() {
            let claimed = Arc::clone(&claimed);
            tasks.spawn(async move {
                let (node, mut tickets) = (NodeInfo::default(), Vec::new());
                while tickets.len() < per_node && claimed.load(Ordering::Relaxed) < count {
                    let limit = CLAIM_BATCH.min(per_node - tickets.len());
                    // There may be none for a moment, while others hold the last ones.
                    let claims = fleet.claim_queued(&worker, &node, lease, limit, &|_, _| true).await?;
                    claimed.fetch_add(claims.len(), Ordering::Relaxed);
                    tickets.extend(claims.into_iter().map(|claim| claim.ticket));
                }
                Ok(tickets)
            });
        }
        let tickets: Vec<Vec<Ticket>> = tasks.join_all().await.into_iter().collect::<Result<_>>()?;
        let casts: HashSet<&CastId> = tickets.iter().flatten().map(|ticket| &ticket.cast).collect();
        let total: usize = tickets.iter().map(Vec::len).sum();
        ensure!(casts.len() == count && total == count, "{total} claims of {} casts", casts.len());
        Ok(tickets)
    }

    /// Queues casts and measures how long the nodes take to claim them all, each once.
    pub(super) async fn measure_claims(&self, casts: usize) -> Result<ClaimResult> {
        self.create_casts(casts).await?;
        let begun = Instant::now();
        self.claim_casts(casts, casts, LONG_LEASE).await?;
        Ok(ClaimResult { duration_s: begun.elapsed().as_secs_f64() })
    }

    /// Queues casts and lets each node claim its share. Returns the tickets with their nodes.
    pub(super) async fn start_casts(&self, casts: usize) -> Result<Vec<(usize, Vec<Ticket>)>> {
        self.create_casts(casts).await?;
        let share = casts.div_ceil(self.nodes.len());
        let tickets = self.claim_casts(casts, share, LONG_LEASE).await?;
        let by_node = tickets.into_iter().filter_map(|tickets| {
            let name = tickets.first()?.worker.clone();
            Some((self.nodes.iter().position(|(worker, _)| *worker == name)?, tickets))
        });
        Ok(by_node.collect())
    }

    /// Measures the cost of what nodes do regularly.
    pub(super) async fn measure_upkeep(
        &self,
        tickets: &[(usize, Vec<Ticket>)],
        work: Work,
        duration: Duration,
    ) -> Result<UpkeepResult> {
        let mut tasks = JoinSet::new();
        for (n, (node, tickets)) in tickets.iter().enumerate() {
            let (worker, fleet) = self.nodes[*node].clone();
            let tickets = tickets.clone();
            // Nodes did not start at the same moment.
            let delay = RENEW_INTERVAL.mul_f64(n as f64 / self.nodes.len() as f64);
            tasks.spawn(async move {
                sleep(delay).await;
                tokio::try_join!(
                    renew_leases(&*fleet, &tickets),
                    send_heartbeats(&*fleet, &worker, &tickets),
                    poll(&*fleet, &worker, work),
                )
                .map(drop)
            });
        }
        // Until all nodes do it.
        sleep(RENEW_INTERVAL + COUNT_DELAY).await;
        let (before, begun) = (self.usage()?, Instant::now());
        tokio::select! {
            Some(ended) = tasks.join_next() => ended.context("a node panicked")??,
            () = sleep(duration) => {}
        }
        let (after, passed_s) = (self.usage()?, begun.elapsed().as_secs_f64());
        let transactions = after.1.zip(before.1).map(|(after, before)| (after - before) / passed_s);
        Ok(UpkeepResult { cores: (after.0 - before.0) / passed_s, transactions_per_s: transactions })
    }

    /// CPU time in seconds, and number of transactions.
    fn usage(&self) -> Result<(f64, Option<f64>)> {
        let Some((server, database)) = self.postgres else { return Ok((own_cpu_s()?, None)) };
        let sql =
            format!("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{database}'");
        let transactions = server.sql("postgres", &sql)?.parse().context("no number of transactions")?;
        // No other process runs.
        Ok((CpuUsage::now()?.total(), Some(transactions)))
    }
}

async fn renew_leases(fleet: &dyn Fleet, tickets: &[Ticket]) -> Result<()> {
    let mut ticks = interval(RENEW_INTERVAL);
    loop {
        ticks.tick().await;
        let renewals = fleet.renew_all(tickets, LEASE).await?;
        ensure!(renewals.iter().all(|renewal| *renewal != Renewal::Lost), "a node has lost a lease");
    }
}

async fn send_heartbeats(fleet: &dyn Fleet, worker: &WorkerId, tickets: &[Ticket]) -> Result<()> {
    let mut ticks = interval(HEARTBEAT_INTERVAL);
    loop {
        ticks.tick().await;
        for ticket in tickets {
            fleet.put_stats(ticket, CastStats { at_ms: unix_ms(), ..CastStats::default() }).await;
        }
        fleet.heartbeat(worker, WorkerStatus { at_ms: unix_ms(), ..WorkerStatus::default() }).await?;
    }
}

async fn poll(fleet: &dyn Fleet, worker: &WorkerId, work: Work) -> Result<()> {
    let mut ticks = interval(POLL_INTERVAL);
    loop {
        ticks.tick().await;
        if work == Work::Renewals {
            continue;
        }
        let pending = fleet.pending_work().await?;
        if pending.has_queued || pending.has_expired_leases {
            let claim = fleet.claim(worker, &NodeInfo::default(), LEASE, &|_| true).await?;
            ensure!(claim.is_none(), "a lease has expired");
        }
        if pending.needs_sweep {
            fleet.sweep().await?;
        }
        if pending.documents_version.is_none() {
            fleet.documents_version().await?;
        }
        fleet.recent_workers().await;
        // Casts without notifications have no events to be delivered.
        if pending.next_delivery_in == Some(Duration::ZERO) {
            fleet.due_entries(1, &HashSet::new()).await?;
            fleet.next_due_in().await?;
        }
    }
}

fn new_cast(n: usize) -> Result<NewCast> {
    let random = (n as u64).to_be_bytes();
    let url = SourceUrl::parse(&format!("http://127.0.0.1/page?n={n}"))?;
    Ok(NewCast {
        id: CastId::new(unix_ms(), std::array::from_fn(|at| random.get(at).copied().unwrap_or_default())),
        app: format!("app-{}", n % APP_COUNT),
        api: "v1".to_owned(),
        key: None,
        key_retention: KeyRetention::UntilEnded,
        request: json!({ "url": "http://127.0.0.1/page" }),
        spec: CastSpec::new(Source::new(url)),
        queue_timeout: Duration::from_secs(3600),
        quota: u32::MAX,
        max_bytes: 1 << 40,
        queue_limit: u32::MAX,
        notify: false,
    })
}

fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
}
