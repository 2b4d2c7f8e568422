//! Section about the service.

use std::fmt::Write as _;

use anyhow::Result;

use super::format_met;
use crate::service::{
    FILL_CONCURRENCY, HistoryResult, LoadResult, MAX_P99_MS, REQUESTS_PER_S, ServiceResults,
};

/// Method of the measurements.
pub(super) const METHOD_TEXT: &str = concat!(
    "- Service: requests are signed in advance, with 32 keys in turn, and sent when they are due, each on ",
    "its own connection, whether earlier ones were answered or not. The latency is from the time at which ",
    "a request is due until its response is read. The bench runs on the same cores. CPU cores: those of ",
    "the service and of the stub. For queued casts, `casts.reserved_memory_mib` is larger than the ",
    "memory, so no cast starts and each ends after `queue_timeout_s` (5 s); this fills the histories. For ",
    "casts that run, a shell script replaces the program's file after the service started: each cast is ",
    "claimed, gets a process, is live, ends and is closed, and the service needs no setting for it. Tasks ",
    "and lists are requested one by one from an idle service.\n",
);

pub(super) fn markdown(text: &mut String, service: &ServiceResults) -> Result<()> {
    let ServiceResults { duration_s: length_s, histories } = service;
    writeln!(
        text,
        "\n## Service\n\n{REQUESTS_PER_S} signed `StartWebcast` per second for {length_s} s, sent to \
         `pagecast serve` on the same machine. Its SQLite syncs to the disk (fsync) before a response. There \
         is no baseline; the service is compared with itself, with a history of casts that have ended.\n"
    )?;
    text.push_str("| history | casts are | 50 % within | 95 % | 99 % | all | errors | cores ");
    text.push_str("| goal for 99 % | goal met |\n");
    text.push_str("|---:|---|---:|---:|---:|---:|---:|---:|---:|---|\n");
    for history in histories {
        latency_row(text, history, "queued", &history.queued)?;
        latency_row(text, history, "run by a stub", &history.executed)?;
    }
    text.push_str("\n| history | `GetWebCastTask`, 50 % | 99 % | `GET /v1/casts?limit=50`, 50 % | 99 % ");
    text.push_str("| run by the stub |\n");
    text.push_str("|---:|---:|---:|---:|---:|---:|\n");
    for history in histories {
        let HistoryResult { cast_count: casts, executed_count: ran, get, list, executed: run, .. } = history;
        let [a, b, c, d] = [
            get.percentile_ms(0.5),
            get.percentile_ms(0.99),
            list.percentile_ms(0.5),
            list.percentile_ms(0.99),
        ];
        let requested = run.latency.request_count();
        writeln!(text, "| {casts} | {a:.1} ms | {b:.1} ms | {c:.1} ms | {d:.1} ms | {ran} of {requested} |")?;
    }
    if let Some(longest) = histories.last() {
        writeln!(
            text,
            "\nWith {FILL_CONCURRENCY} concurrent senders, it accepted {:.0} casts per second, for the \
             history of {}.",
            longest.filled_per_s, longest.cast_count
        )?;
    }
    Ok(())
}

fn latency_row(text: &mut String, history: &HistoryResult, state: &str, load: &LoadResult) -> Result<()> {
    let LoadResult { latency: times, cores } = load;
    let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|quantile| times.percentile_ms(quantile));
    let met = format_met(p99 <= MAX_P99_MS && times.errors == 0);
    writeln!(
        text,
        "| {} | {state} | {p50:.1} ms | {p95:.1} ms | **{p99:.1} ms** | {max:.1} ms | {} | {cores:.2} \
         | ≤ {MAX_P99_MS:.0} ms | {met} |",
        history.cast_count, times.errors
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::LatencyStats;

    #[test]
    fn a_goal_is_met_within_p99_and_without_errors() {
        let line = |ms: [f64; 2], errors: usize| {
            let answers = (0..200).map(|n| (if n < 198 { ms[0] } else { ms[1] }, None));
            let times = LatencyStats::of(answers.collect(), 200 + errors);
            let mut text = String::new();
            latency_row(
                &mut text,
                &HistoryResult::default(),
                "queued",
                &LoadResult { latency: times, cores: 0.5 },
            )
            .expect("text");
            text
        };
        let met = "| 0 | queued | 50.0 ms | 50.0 ms | **50.0 ms** | 70.0 ms | 0 | 0.50 | ≤ 50 ms | yes |\n";
        assert_eq!(line([50.0, 70.0], 0), met);
        assert!(line([50.1, 50.1], 0).ends_with("| **no** |\n"));
        assert!(line([1.0, 1.0], 1).ends_with("| 1 | 0.50 | ≤ 50 ms | **no** |\n"));
    }
}
