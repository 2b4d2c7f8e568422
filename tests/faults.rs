//! Recordings that cannot start or finish end with an error message and the right exit code, and leave
//! nothing behind.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::{
    MachineLock, Outcome, PageResponse, PageServer, PagecastCommand, Recording, ScratchDir, TlsServer, Tmpfs,
};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);

const EXIT_INVALID_VALUE: i32 = 2;
const EXIT_PAGE: i32 = 3;
const EXIT_OUTPUT: i32 = 4;
const EXIT_BROWSER: i32 = 5;

fn record_command(url: &str) -> PagecastCommand {
    PagecastCommand::record(PAGECAST, url).option("duration", "3s")
}

/// Checks that the run fails with `code`, has `words` in its error message, prints no report and records
/// nothing.
fn expect_failure(run: PagecastCommand, code: i32, words: &[&str]) -> Result<Outcome> {
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_failure(code, words)?;
    outcome.expect_nothing_recorded()?;
    Ok(outcome)
}

#[test]
fn a_refused_connection() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    expect_failure(record_command(&format!("http://{free}/")), EXIT_PAGE, &["refused", &free.to_string()])
        .map(drop)
}

/// Starts a server that sends these responses in order, then the last one for ever. `None` closes the
/// connection.
fn start_scripted_server(answers: &'static [Option<&'static str>]) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let mut count = 0;
        for mut stream in listener.incoming().flatten() {
            let mut line = [0; 4096];
            let read = stream.read(&mut line).unwrap_or(0);
            // Chromium also asks for an icon, and opens connections in advance.
            if !line[..read].starts_with(b"GET / ") {
                continue;
            }
            if let Some(answer) = answers[count.min(answers.len() - 1)] {
                let _gone = stream.write_all(answer.as_bytes());
            }
            count += 1;
        }
    });
    Ok(format!("http://{address}/"))
}

#[test]
fn a_server_that_is_not_up_yet_is_waited_for() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let url = start_scripted_server(&[
        None,
        Some("HTTP/1.1 503 Later\r\nContent-Length: 5\r\nConnection: close\r\n\r\nLater"),
        Some(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\n\
             <p>Up",
        ),
    ])?;
    let outcome = PagecastCommand::record(PAGECAST, &url).option("duration", "1s").finish(TIMEOUT)?;
    let report = outcome.report()?;
    ensure!((report.end.as_str(), report.moves, report.reloads) == ("complete", 0, 0), "{report:?}");
    ensure!(outcome.stderr.contains("page load failed, retrying"), "{}", outcome.stderr);
    outcome.recording().map(drop)
}

#[test]
fn the_ready_timeout_bounds_how_long_a_server_is_waited_for() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let url = start_scripted_server(&[Some(
        "HTTP/1.1 503 Later\r\nContent-Length: 5\r\nConnection: close\r\n\r\nLater",
    )])?;
    let run = record_command(&url).option("ready-timeout", "2s");
    let begin = std::time::Instant::now();
    let outcome = expect_failure(run, EXIT_PAGE, &["HTTP 503"])?;
    ensure!(outcome.stderr.matches("retrying").count() == 1, "it is logged once: {}", outcome.stderr);
    ensure!(begin.elapsed() >= Duration::from_secs(2), "the page was given up before its timeout");
    Ok(())
}

#[test]
fn a_page_that_cannot_be_opened_has_no_summary() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let outcome =
        expect_failure(record_command(&format!("http://{free}/")).without_json(), EXIT_PAGE, &["refused"])?;
    ensure!(outcome.stdout.is_empty() && !outcome.stderr.contains("cores"), "{}", outcome.stderr);
    let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    ensure!(errors == 1, "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_connection_that_is_closed() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?.with_route("/cut", PageResponse::CloseConnection);
    expect_failure(record_command(&server.url("cut")), EXIT_PAGE, &["cut"]).map(drop)
}

#[test]
fn unknown_host() -> Result<()> {
    let _turn = MachineLock::shared()?;
    expect_failure(
        record_command("http://no-such-host.invalid/"),
        EXIT_PAGE,
        &["no-such-host.invalid", "no host of this name"],
    )
    .map(drop)
}

#[test]
fn http_errors() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?
        .with_route("/broken", PageResponse::Html(500, "<h1>Broken</h1>".to_owned()))
        .with_route("/moved", PageResponse::Redirect("/nothing".to_owned()));
    for (path, word) in [("nothing", "404"), ("broken", "500"), ("moved", "404")] {
        expect_failure(record_command(&server.url(path)), EXIT_PAGE, &[word])?;
    }
    Ok(())
}

#[test]
fn an_untrusted_certificate() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = TlsServer::start()?;
    expect_failure(record_command(&server.url()), EXIT_PAGE, &["certificate"]).map(drop)
}

#[test]
fn secrets_in_the_address_are_not_logged() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = expect_failure(record_command(&server.url("nothing?token=hunter2")), EXIT_PAGE, &["404"])?;
    ensure!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn only_web_addresses() -> Result<()> {
    for (address, word) in [
        ("file:///etc/passwd", "file"),
        ("chrome://version", "chrome"),
        ("javascript:alert(1)", "javascript"),
        ("data:text/html,hello", "data"),
        ("example.com", "http://example.com"),
        ("", "url"),
    ] {
        expect_failure(record_command(address), EXIT_INVALID_VALUE, &[word])?;
    }
    Ok(())
}

#[test]
fn a_path_is_no_address_but_can_be_served() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let page = scratch.join("x.html");
    std::fs::write(&page, "<h1>Served</h1>")?;
    let (folder, page) = (scratch.path().display(), page.display());
    for address in [format!("{page}"), format!("file://{page}")] {
        let serve = format!("--directory {folder} 8000");
        expect_failure(
            record_command(&address),
            EXIT_INVALID_VALUE,
            &["http.server", &serve, "http://localhost:8000/x.html --allow-net localhost:8000"],
        )?;
    }
    Ok(())
}

#[test]
fn outputs_that_cannot_be_written() -> Result<()> {
    let page = || record_command("http://127.0.0.1:9/");
    for output in ["y.webm", "-", "y.m3u8"] {
        expect_failure(
            page().output(output.into()),
            EXIT_INVALID_VALUE,
            &["--output", "MP4", ".mp4", "folder or bucket"],
        )?;
    }
    // No files can be created in a file system of the kernel.
    expect_failure(page().output("/proc/x.mp4".into()), EXIT_OUTPUT, &["cannot create files in /proc"])?;
    let outcome = page().option("name", "a").output("/dev/null".into()).finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_OUTPUT, &["/dev/null", "not a directory"])
}

#[test]
fn bitrates_have_units() -> Result<()> {
    for bitrate in ["3M", "2500k", "3Mbit", "2.5Mbit/s", "2500"] {
        // The output is checked after the values.
        expect_failure(
            record_command("http://127.0.0.1:9/").option("bitrate", bitrate).output("/proc/x.mp4".into()),
            EXIT_OUTPUT,
            &["/proc"],
        )?;
    }
    expect_failure(
        record_command("http://127.0.0.1:9/").option("bitrate", "3MB"),
        EXIT_INVALID_VALUE,
        &["--bitrate", "3M, 2500k"],
    )
    .map(drop)
}

#[test]
fn a_port_that_is_taken() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let taken = listener.local_addr()?;
    for option in ["listen", "listen-media"] {
        let run = PagecastCommand::cast(PAGECAST, "http://127.0.0.1:9/");
        let run = if option == "listen" { run } else { run.option("listen", "127.0.0.1:0") };
        let run = run.option(option, taken);
        let port = format!("port {} is in use", taken.port());
        let outcome = expect_failure(run, EXIT_OUTPUT, &[&port, &format!("--{option} 127.0.0.1:")])?;
        ensure!(
            !outcome.stderr.contains("os error") && !outcome.stderr.contains("a bug"),
            "{}",
            outcome.stderr
        );
    }
    Ok(())
}

#[test]
fn nothing_to_recover() -> Result<()> {
    let scratch = ScratchDir::new()?;
    std::fs::create_dir_all(scratch.join("some/folders"))?;
    let output = run_for_output(program(PAGECAST).arg("recover").arg(scratch.path()))?;
    ensure!(
        output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("nothing to recover")
    );
    let missing = program(PAGECAST).arg("recover").arg(scratch.join("nowhere")).output()?;
    let stderr = String::from_utf8_lossy(&missing.stderr);
    ensure!(
        missing.status.code() == Some(EXIT_INVALID_VALUE) && stderr.contains("is not a folder"),
        "{stderr}"
    );
    Ok(())
}

#[test]
fn values_out_of_range() -> Result<()> {
    let page = || PagecastCommand::record(PAGECAST, "http://127.0.0.1:9/");
    for (name, values) in [
        ("size", ["1281x720", "1280", "48x48", "4000x4000", "-1x5", "x", "1280x720x2"].as_slice()),
        ("fps", &["0", "61", "-1", "29.97", "many"]),
        ("duration", &["0s", "-1s", "soon", "25h", "10 parsecs"]),
        ("bitrate", &["0", "49", "1000000", "x"]),
        ("scale-factor", &["0", "9", "NaN", "inf", "x"]),
    ] {
        for value in values {
            // With `=`, so that a value with a leading minus is not an option.
            let outcome =
                expect_failure(page().flag(&format!("{name}={value}")), EXIT_INVALID_VALUE, &["error: "])?;
            let message = outcome.stderr.trim();
            ensure!(
                message.contains(name) || message.contains("cannot"),
                "--{name}={value} is refused with {message:?}"
            );
        }
    }
    expect_failure(page().flag("no-such-option"), EXIT_INVALID_VALUE, &["no-such-option"]).map(drop)
}

#[test]
fn the_folder_is_missing() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let path = scratch.path().join("nowhere/out.mp4");
    expect_failure(record_command(&server.url("counter.html")).output(path), EXIT_OUTPUT, &["nowhere"])?;
    ensure!(server.requests().is_empty(), "the page was opened");
    Ok(())
}

#[test]
fn the_output_is_a_folder() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let path = scratch.join("out.mp4");
    std::fs::create_dir(&path)?;
    let run = record_command(&server.url("counter.html")).flag("overwrite").output(path.clone());
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_OUTPUT, &["directory"])?;
    ensure!(path.is_dir(), "the folder was replaced");
    Ok(())
}

#[test]
fn the_folder_is_read_only() -> Result<()> {
    let _turn = MachineLock::shared()?;
    if !Tmpfs::is_supported_or_skip() {
        return Ok(());
    }
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let folder = Tmpfs::mount(scratch.join("locked"), 1 << 20)?;
    folder.make_read_only()?;
    expect_failure(
        record_command(&server.url("counter.html")).output(folder.path().join("out.mp4")),
        EXIT_OUTPUT,
        &["read-only"],
    )?;
    ensure!(server.requests().is_empty(), "the page was opened");
    Ok(())
}

#[test]
fn the_disk_fills_up() -> Result<()> {
    let _turn = MachineLock::shared()?;
    if !Tmpfs::is_supported_or_skip() {
        return Ok(());
    }
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let disk = Tmpfs::mount(scratch.join("small"), 4 << 20)?;
    let path = disk.path().join("out.mp4");
    let outcome = PagecastCommand::record(PAGECAST, &server.url("noise.html"))
        .option("size", "640x360")
        .option("bitrate", 20_000)
        .option("duration", "30s")
        .output(path.clone())
        .finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_OUTPUT, &["full", "out.mp4.spool"])?;
    ensure!(!path.exists(), "an incomplete file was left");
    disk.resize(32 << 20)?;
    outcome.recover(PAGECAST)?;
    let file = Recording::open(&path)?;
    let decoded = file.frames()?.filter(|frame| frame.is_ok()).count();
    println!("{decoded} pictures, {} s on the full disk", file.end_s());
    ensure!(decoded >= 15, "only {decoded} pictures were kept");
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    Ok(())
}

#[test]
fn no_browser() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let run = record_command(&server.url("counter.html")).env("PAGECAST_CHROMIUM", "/nonexistent/chromium");
    expect_failure(run, EXIT_BROWSER, &["/nonexistent/chromium", "install"]).map(drop)
}

#[test]
fn a_browser_that_cannot_start() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let run = record_command(&server.url("counter.html")).env("PAGECAST_CHROMIUM", "/bin/false");
    expect_failure(run, EXIT_BROWSER, &["/bin/false exited", "exit status: 1"]).map(drop)
}
