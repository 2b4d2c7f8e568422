//! Output to a terminal: the status line and tables fit its width.

use std::process::Stdio;

use anyhow::{Result, ensure};
use pagecast_testkit::command::program;
use pagecast_testkit::service::{ADMIN_TOKEN, REST_TOKEN, ServiceConfig};
use pagecast_testkit::{MachineLock, PageServer, ScratchDir, ServiceProcess};
use serde_json::{Value, json};

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

/// Exit code, standard output and standard error of a command that asks a service.
fn listing(
    service: &ServiceProcess,
    command: &str,
    token: &str,
    more: &[&str],
) -> Result<(i32, String, String)> {
    let mut listing = program(PAGECAST);
    listing.args([command, "--url", &service.url("")]).args(more).env("PAGECAST_CALL_TOKEN", token);
    let output = listing.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}

/// What such a command writes to a terminal with this many columns.
fn listing_on_terminal(service: &ServiceProcess, command: &str, columns: u16) -> Result<String> {
    let command = format!("stty rows 24 cols {columns}; exec {PAGECAST} {command} --url {}", service.url(""));
    let output = program("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .env("PAGECAST_CALL_TOKEN", ADMIN_TOKEN)
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n"))
}

#[test]
fn nodes_and_casts_are_listed() -> Result<()> {
    let top_level_toml = "[fleet]\nlabels = [\"zone-a\"]".to_owned();
    let config = ServiceConfig { no_capacity: true, top_level_toml, ..ServiceConfig::default() };
    let service = ServiceProcess::start(PAGECAST, &config)?;
    let request = json!({"url": "http://127.0.0.1:9/page", "recording": {}});
    let created = service.rest("POST", "/v1/casts", Some(&request))?;
    ensure!(created.status == 201, "{created:?}");
    let id = serde_json::from_slice::<Value>(&created.body)?["id"].as_str().unwrap_or_default().to_owned();
    let (code, table, _) = listing(&service, "nodes", ADMIN_TOKEN, &[])?;
    let lines: Vec<&str> = table.lines().collect();
    ensure!(code == 0 && lines.len() == 2, "{table}");
    ensure!(lines[0].starts_with("NODE      STATE    CASTS") && lines[0].ends_with("LABELS"), "{table}");
    ensure!(lines[1].starts_with("embedded  running      0") && lines[1].ends_with("zone-a"), "{table}");
    for columns in [110, 60, 20] {
        let table = listing_on_terminal(&service, "nodes", columns)?;
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        ensure!(widest < usize::from(columns) && table.contains("embedded"), "{columns} columns: {table}");
        ensure!(!table.contains("LABELS") || columns == 110, "{columns} columns: {table}");
    }
    let (code, table, _) = listing(&service, "casts", REST_TOKEN, &[])?;
    ensure!(code == 0 && table.contains(&format!("\n{id}  queued 1")), "{table}");
    ensure!(table.trim_end().ends_with("http://127.0.0.1:9/page"), "{table}");
    let (code, json, _) = listing(&service, "casts", REST_TOKEN, &["--json"])?;
    ensure!(code == 0 && serde_json::from_str::<Value>(&json)?["id"] == id, "{json}");
    let (code, table, _) = listing(&service, "casts", REST_TOKEN, &["--state", "live"])?;
    ensure!(code == 0 && table.lines().count() == 1, "{table}");
    let (code, table, error) = listing(&service, "nodes", REST_TOKEN, &[])?;
    ensure!(code == 2 && table.is_empty() && error.contains("only the administrator"), "{code} {error}");
    let (code, _, error) = listing(&service, "casts", REST_TOKEN, &["--state", "asleep"])?;
    ensure!(code == 2 && error.contains("queued, starting, live or ended"), "{code} {error}");
    let (code, _, error) = listing(&service, "casts", "", &["--credentials", "/nowhere"])?;
    ensure!(code == 1 && error.contains("PAGECAST_CALL_TOKEN"), "{code} {error}");
    Ok(())
}
