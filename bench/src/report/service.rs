//! The section about the service.

use std::fmt::Write as _;

use anyhow::Result;

use super::yes_or_no;
use crate::service::{FILLERS, GOAL_MS, History, RATE, Round, Service};

/// How it was measured.
pub(super) const METHOD: &str = "\
- Service: requests are signed beforehand, with 32 keys in turn, and sent when they are due, each on a connection of its own, whatever \
became of those before; a time begins when the request is due and ends when its answer is read. The bench has the same cores. Cores: \
everything of the service, and of the stub. No cast is begun where others are left more memory than there is \
(`casts.spare_memory_mib`); each then ends by `queue_s`, 5 s later, which is how histories are made. Where casts are run, a shell \
script takes the place of the program's file after the service started, so each cast is claimed, gets a process, is live, over and \
closed, and the service needs no setting for it. Tasks and lists are asked for one by one, of a service that has nothing else to do.
";

pub(super) fn markdown(text: &mut String, service: &Service) -> Result<()> {
    let Service { length_s, histories } = service;
    writeln!(
        text,
        "\n## Service\n\n{RATE} signed `StartWebcast` a second for {length_s} s, asked of `pagecast serve` on the same machine; its \
         SQLite waits for the disk (fsync) before it answers. Nobody else has such a service, so it is compared with itself alone: \
         with casts that ended before and are remembered, the history.\n"
    )?;
    text.push_str("| history | casts are | 50 % within | 95 % | 99 % | all | errors | cores | goal for 99 % | goal met |\n");
    text.push_str("|---:|---|---:|---:|---:|---:|---:|---:|---:|---|\n");
    for history in histories {
        row(text, history, "queued", &history.queued)?;
        row(text, history, "run by a stub", &history.run)?;
    }
    text.push_str("\n| history | `GetWebCastTask`, 50 % | 99 % | `GET /v1/casts?limit=50`, 50 % | 99 % | run by the stub |\n");
    text.push_str("|---:|---:|---:|---:|---:|---:|\n");
    for history in histories {
        let History { casts, ran, get, list, run, .. } = history;
        let [a, b, c, d] =
            [get.within_ms(0.5), get.within_ms(0.99), list.within_ms(0.5), list.within_ms(0.99)];
        let asked = run.times.asked();
        writeln!(text, "| {casts} | {a:.1} ms | {b:.1} ms | {c:.1} ms | {d:.1} ms | {ran} of {asked} |")?;
    }
    if let Some(longest) = histories.last() {
        writeln!(
            text,
            "\nAsked as fast as {FILLERS} callers can, it accepted {:.0} casts a second: the history of {}.",
            longest.filled_per_s, longest.casts
        )?;
    }
    Ok(())
}

fn row(text: &mut String, history: &History, are: &str, round: &Round) -> Result<()> {
    let Round { times, cores } = round;
    let [half, most, nearly, all] = [0.5, 0.95, 0.99, 1.0].map(|part| times.within_ms(part));
    let met = yes_or_no(nearly <= GOAL_MS && times.errors == 0);
    writeln!(
        text,
        "| {} | {are} | {half:.1} ms | {most:.1} ms | **{nearly:.1} ms** | {all:.1} ms | {} | {cores:.2} | ≤ {GOAL_MS:.0} ms | {met} |",
        history.casts, times.errors
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Times;

    #[test]
    fn a_goal_is_met_by_nearly_all_and_without_errors() {
        let line = |ms: [f64; 2], errors: usize| {
            let answers = (0..200).map(|n| (if n < 198 { ms[0] } else { ms[1] }, None));
            let times = Times::of(answers.collect(), 200 + errors);
            let mut text = String::new();
            row(&mut text, &History::default(), "queued", &Round { times, cores: 0.5 }).expect("text");
            text
        };
        let met = "| 0 | queued | 50.0 ms | 50.0 ms | **50.0 ms** | 70.0 ms | 0 | 0.50 | ≤ 50 ms | yes |\n";
        assert_eq!(line([50.0, 70.0], 0), met);
        assert!(line([50.1, 50.1], 0).ends_with("| **no** |\n"));
        assert!(line([1.0, 1.0], 1).ends_with("| 1 | 0.50 | ≤ 50 ms | **no** |\n"));
    }
}
