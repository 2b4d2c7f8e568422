//! What a person sees in a terminal: a live line that never wraps, whatever its width.

use std::process::Stdio;

use anyhow::{Result, ensure};
use pagecast_testkit::command::program;
use pagecast_testkit::{MachineLock, PageServer, ScratchDir};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");

/// Everything that a recording of a few seconds writes to a terminal of so many columns.
fn terminal_output(server: &PageServer, columns: u16) -> Result<String> {
    let scratch = ScratchDir::new()?;
    let record = format!(
        "stty rows 24 cols {columns}; exec {PAGECAST} record {} --duration 4s -o out.mp4 --allow-net 127.0.0.0/8",
        server.url("counter.html")
    );
    // `script` runs it in a terminal of its own.
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
        let mut live = 0;
        // The summary is written once and may be longer.
        for line in
            written.split(['\r', '\n']).filter(|line| line.starts_with("00:0") || line.contains(" fps  "))
        {
            let line = line.replace("\u{1b}[J", "").replace("\u{1b}[2K", "");
            // Of what is in it, ∞ alone may take two columns.
            let width = line.chars().count() + line.matches('∞').count();
            ensure!(width < usize::from(columns), "{width} of {columns} columns: {line:?}");
            live += 1;
        }
        ensure!(live >= 2, "{live} live lines in {columns} columns: {written:?}");
        let summary = written.contains("out.mp4") && written.contains("cores");
        ensure!(summary, "{written:?}");
    }
    Ok(())
}
