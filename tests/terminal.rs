//! Output to a terminal: the status line fits its width.

use std::process::Stdio;

use anyhow::{Result, ensure};
use pagecast_testkit::command::program;
use pagecast_testkit::{MachineLock, PageServer, ScratchDir};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");

/// Output of a recording of a few seconds to a terminal with this many columns.
fn terminal_output(server: &PageServer, columns: u16) -> Result<String> {
    let scratch = ScratchDir::new()?;
    let record = format!(
        "stty rows 24 cols {columns}; \
         exec {PAGECAST} record {} --duration 4s -o out.mp4 --allow-net 127.0.0.0/8",
        server.url("counter.html")
    );
    // `script` runs it in a pseudo-terminal.
    let output = program("script")
        .args(["--quiet", "--return", "--command", &record, "/dev/null"])
        .current_dir(scratch.path())
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .output()?;
    let written = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{written}");
    Ok(written)
}

#[test]
fn the_status_line_fits_the_terminal() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    for columns in [40_u16, 80, 200] {
        let written = terminal_output(&server, columns)?;
        let mut count = 0;
        // Only status lines; the summary may be longer.
        for line in
            written.split(['\r', '\n']).filter(|line| line.starts_with("00:0") || line.contains(" fps  "))
        {
            let line = line.replace("\u{1b}[J", "").replace("\u{1b}[2K", "");
            // Only ∞ may take two columns.
            let width = line.chars().count() + line.matches('∞').count();
            ensure!(width < usize::from(columns), "{width} of {columns} columns: {line:?}");
            count += 1;
        }
        ensure!(count >= 2, "{count} status lines in {columns} columns: {written:?}");
        let summary = written.contains("out.mp4") && written.contains("cores");
        ensure!(summary, "{written:?}");
    }
    Ok(())
}
