//! Section about the databases of a fleet.

use std::fmt::Write as _;

use anyhow::Result;

use super::format_met;
use crate::fleet::{
    CAST_COUNT, CLAIMING_NODES, DatabaseResult, FleetResults, MAX_CLAIM_S, MAX_UPKEEP_CORES,
    MAX_UPKEEP_TRANSACTIONS_PER_S, RUNNING_NODES, UpkeepResult,
};
use crate::service::{MAX_P99_MS, REQUESTS_PER_S};

/// Method of the measurements.
pub(super) const METHOD_TEXT: &str = concat!(
    "- Fleet: PostgreSQL of this Debian with `fsync=on` and otherwise its defaults runs on the same ",
    "cores as the bench. Starts are measured as for the service, and the cores include those of ",
    "PostgreSQL. Nodes and casts are stubs in the bench, each with its own connections to PostgreSQL; on ",
    "SQLite, which is for one machine, they share one open database. Each node renews all its leases ",
    "every 2 s in one statement and sends a heartbeat with the statistics of its casts every 2 s. All ",
    "regular work: it also asks every second for casts to claim, due events, changed applications, other ",
    "nodes, and upkeep, as its loops do. Cores are those of PostgreSQL, or, for SQLite, those of the ",
    "bench with its stub nodes; transactions are counted by the server (`pg_stat_database`).\n",
);

pub(super) fn markdown(text: &mut String, fleet: &FleetResults) -> Result<()> {
    writeln!(
        text,
        "\n## Fleet\n\n{REQUESTS_PER_S} signed `StartWebcast` per second for {} s; {CAST_COUNT} queued casts \
         claimed by {CLAIMING_NODES} nodes, each once; {CAST_COUNT} casts on {RUNNING_NODES} nodes.\n",
        fleet.duration_s
    )?;
    text.push_str("| | ");
    fleet.databases.iter().try_for_each(|result| write!(text, "{} | ", result.storage.name()))?;
    text.push_str("goal | goal met |\n|---|");
    text.push_str(&"---:|".repeat(fleet.databases.len()));
    text.push_str("---|---|\n");
    let p99 = |result: &DatabaseResult| result.starts.latency.percentile_ms(0.99);
    row(text, fleet, "start, 50 %", |r| format!("{:.1} ms", r.starts.latency.percentile_ms(0.5)), None)?;
    let fast = |result: &DatabaseResult| p99(result) <= MAX_P99_MS && result.starts.latency.errors == 0;
    let goal = format!("≤ {MAX_P99_MS:.0} ms");
    row(text, fleet, "start, 99 %", |r| format!("**{:.1} ms**", p99(r)), Some((&goal, &fast)))?;
    row(text, fleet, "errors", |r| r.starts.latency.errors.to_string(), None)?;
    row(text, fleet, "cores of starts", |r| format!("{:.2}", r.starts.cores), None)?;
    let claimed = |result: &DatabaseResult| result.claims.duration_s <= MAX_CLAIM_S;
    let goal = format!("≤ {MAX_CLAIM_S:.0} s");
    row(
        text,
        fleet,
        "all claimed",
        |r| format!("**{:.2} s**", r.claims.duration_s),
        Some((&goal, &claimed)),
    )?;
    row(text, fleet, "renewals and heartbeats", |r| r.renewals.to_string(), None)?;
    let goal = format!("≤ {MAX_UPKEEP_CORES} cores, ≤ {MAX_UPKEEP_TRANSACTIONS_PER_S:.0} transactions/s");
    let cheap = |result: &DatabaseResult| is_cheap(&result.upkeep);
    row(text, fleet, "all regular work", |r| format!("**{}**", r.upkeep), Some((&goal, &cheap)))
}

fn is_cheap(upkeep: &UpkeepResult) -> bool {
    upkeep.cores <= MAX_UPKEEP_CORES
        && upkeep.transactions_per_s.is_none_or(|rate| rate <= MAX_UPKEEP_TRANSACTIONS_PER_S)
}

/// Goal of a row, and whether a database meets it.
type Goal<'a> = (&'a str, &'a dyn Fn(&DatabaseResult) -> bool);

fn row(
    text: &mut String,
    fleet: &FleetResults,
    what: &str,
    value: impl Fn(&DatabaseResult) -> String,
    goal: Option<Goal<'_>>,
) -> Result<()> {
    write!(text, "| {what} | ")?;
    fleet.databases.iter().try_for_each(|result| write!(text, "{} | ", value(result)))?;
    let met = goal.map_or("–", |(_, is_met)| format_met(fleet.databases.iter().all(is_met)));
    writeln!(text, "{} | {met} |", goal.map_or("none", |(goal, _)| goal))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{ClaimResult, Storage};
    use crate::service::{LatencyStats, LoadResult};

    fn result(storage: Storage, claimed_s: f64, rate: Option<f64>) -> DatabaseResult {
        let latency = LatencyStats::of(vec![(3.0, None); 100], 100);
        DatabaseResult {
            storage,
            starts: LoadResult { latency, cores: 0.5 },
            claims: ClaimResult { duration_s: claimed_s },
            renewals: UpkeepResult { cores: 0.1, transactions_per_s: rate },
            upkeep: UpkeepResult { cores: 0.2, transactions_per_s: rate },
        }
    }

    #[test]
    fn a_goal_is_met_if_both_databases_meet_it() {
        let databases = vec![result(Storage::Sqlite, 1.0, None), result(Storage::Postgres, 6.0, Some(40.0))];
        let mut text = String::new();
        markdown(&mut text, &FleetResults { duration_s: 20, databases }).expect("text");
        for line in [
            "| | SQLite | PostgreSQL | goal | goal met |",
            "| start, 99 % | **3.0 ms** | **3.0 ms** | ≤ 50 ms | yes |",
            "| all claimed | **1.00 s** | **6.00 s** | ≤ 5 s | **no** |",
            "| renewals and heartbeats | 0.100 cores | 0.100 cores, 40.0 transactions/s | none | – |",
            "| all regular work | **0.200 cores** | **0.200 cores, 40.0 transactions/s** \
             | ≤ 0.2 cores, ≤ 40 transactions/s | yes |",
        ] {
            assert!(text.lines().any(|of| of == line), "{line}\n{text}");
        }
    }
}
