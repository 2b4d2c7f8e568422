//! The section about the service.

use std::fmt::Write as _;

use anyhow::Result;

use super::format_met;
use crate::service::{
    FILL_CONCURRENCY, HistoryResult, LoadResult, MAX_P99_MS, REQUESTS_PER_S, ServiceResults,
};

/// How it was measured.
pub(super) const METHOD_TEXT: &str = "\
- Service: requests are signed beforehand, with 32 keys in turn, and sent when they are due, each on a connection of its own, whatever \
became of those before; a time begins when the request is due and ends when its answer is read. The bench has the same cores. Cores: \
everything of the service, and of the stub. No cast is begun where others are left more memory than there is \
(`casts.spare_memory_mib`); each then ends by `queue_s`, 5 s later, which is how histories are made. Where casts are run, a shell \
script takes the place of the program's file after the service started, so each cast is claimed, gets a process, is live, over and \
closed, and the service needs no setting for it. Tasks and lists are asked for one by one, of a service that has nothing else to do.
";

pub(super) fn markdown(text: &mut String, service: &ServiceResults) -> Result<()> {
    let ServiceResults { duration_s: length_s, histories } = service;
    writeln!(
        text,
        "\n## Service\n\n{REQUESTS_PER_S} signed `StartWebcast` a second for {length_s} s, asked of `pagecast serve` on the same machine; its \
         SQLite waits for the disk (fsync) before it answers. Nobody else has such a service, so it is compared with itself alone: \
         with casts that ended before and are remembered, the history.\n"
    )?;
    text.push_str("| history | casts are | 50 % within | 95 % | 99 % | all | errors | cores | goal for 99 % | goal met |\n");
    text.push_str("|---:|---|---:|---:|---:|---:|---:|---:|---:|---|\n");
    for history in histories {
        latency_row(text, history, "queued", &history.queued)?;
        latency_row(text, history, "run by a stub", &history.executed)?;
    }
    text.push_str("\n| history | `GetWebCastTask`, 50 % | 99 % | `GET /v1/casts?limit=50`, 50 % | 99 % | run by the stub |\n");
    text.push_str("|---:|---:|---:|---:|---:|---:|\n");
    for history in histories {
        let HistoryResult { cast_count: casts, executed_count: ran, get, list, executed: run, .. } = history;
        let [a, b, c, d] = [
            get.percentile_ms(0.5),
            get.percentile_ms(0.99),
            list.percentile_ms(0.5),
            list.percentile_ms(0.99),
        ];
        let asked = run.latency.request_count();
        writeln!(text, "| {casts} | {a:.1} ms | {b:.1} ms | {c:.1} ms | {d:.1} ms | {ran} of {asked} |")?;
    }
    if let Some(longest) = histories.last() {
        writeln!(
            text,
            "\nAsked as fast as {FILL_CONCURRENCY} callers can, it accepted {:.0} casts a second: the history of {}.",
            longest.filled_per_s, longest.cast_count
        )?;
    }
    Ok(())
}

fn latency_row(text: &mut String, history: &HistoryResult, are: &str, round: &LoadResult) -> Result<()> {
    let LoadResult { latency: times, cores } = round;
    let [half, most, nearly, all] = [0.5, 0.95, 0.99, 1.0].map(|part| times.percentile_ms(part));
    let met = format_met(nearly <= MAX_P99_MS && times.errors == 0);
    writeln!(
        text,
        "| {} | {are} | {half:.1} ms | {most:.1} ms | **{nearly:.1} ms** | {all:.1} ms | {} | {cores:.2} | ≤ {MAX_P99_MS:.0} ms | {met} |",
        history.cast_count, times.errors
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::LatencyStats;

    #[test]
    fn a_goal_is_met_by_nearly_all_and_without_errors() {
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
