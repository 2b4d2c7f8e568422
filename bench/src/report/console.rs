//! Section about the console.

use std::fmt::Write as _;

use anyhow::Result;

use crate::service::console::{CAST_COUNT, ConsoleResults};

/// Method of the measurements.
pub(super) const METHOD_TEXT: &str = concat!(
    "- Console: the service runs stubs of casts, each of which reports progress every second, as real ones ",
    "do. A console is the stream of casts that each open page of it reads (`GET /v1/casts` as an event ",
    "stream). Pictures of casts are not counted: a page asks for those that it shows. Cores are those of ",
    "the service, without the processes of its casts.\n",
);

pub(super) fn markdown(text: &mut String, ConsoleResults(results): &ConsoleResults) -> Result<()> {
    writeln!(
        text,
        "\n## Console\n\nThe service without casts and with {CAST_COUNT} live ones, while consoles are open \
         and nobody does anything.\n\n\
         | live casts | open consoles | cores of the service | each console receives |\n|---:|---:|---:|---:|"
    )?;
    for result in results {
        let received =
            result.bytes_per_min.map_or("–".to_owned(), |bytes| format!("{:.0} kB a minute", bytes / 1e3));
        writeln!(
            text,
            "| {} | {} | {:.3} | {received} |",
            result.cast_count, result.console_count, result.cores
        )?;
    }
    Ok(())
}
