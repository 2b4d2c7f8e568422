//! What cannot be recorded is said in a sentence, with the right exit code, and nothing is left behind.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::command::{output_of, program};
use pagecast_testkit::{Outcome, Pagecast, Recording, Reply, Scratch, SelfSigned, Server, Tmpfs, Turn};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(60);

const BAD_VALUE: i32 = 2;
const PAGE: i32 = 3;
const OUTPUT: i32 = 4;
const BROWSER: i32 = 5;

fn record(url: &str) -> Pagecast {
    Pagecast::record(PAGECAST, url).with("duration", "3s")
}

/// Runs into a fault: the words are in the sentence, stdout stays free for reports, no file is made.
fn check(run: Pagecast, code: i32, words: &[&str]) -> Result<Outcome> {
    let outcome = run.finish(LIMIT)?;
    outcome.expect_failure(code, words)?;
    outcome.nothing_recorded()?;
    Ok(outcome)
}

#[test]
fn nobody_listens() -> Result<()> {
    let _turn = Turn::shared()?;
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    check(record(&format!("http://{free}/")), PAGE, &["refused", &free.to_string()]).map(drop)
}

/// Answers one request after the other: with these, and the last one again and again. `None` closes the
/// connection.
fn answering(answers: &'static [Option<&'static str>]) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let mut asked = 0;
        for mut stream in listener.incoming().flatten() {
            let mut line = [0; 4096];
            let read = stream.read(&mut line).unwrap_or(0);
            // Not for its icon, nor by a connection in advance.
            if !line[..read].starts_with(b"GET / ") {
                continue;
            }
            if let Some(answer) = answers[asked.min(answers.len() - 1)] {
                let _gone = stream.write_all(answer.as_bytes());
            }
            asked += 1;
        }
    });
    Ok(format!("http://{address}/"))
}

#[test]
fn a_server_that_is_not_up_yet_is_waited_for() -> Result<()> {
    let _turn = Turn::shared()?;
    let url = answering(&[
        None,
        Some("HTTP/1.1 503 Later\r\nContent-Length: 5\r\nConnection: close\r\n\r\nLater"),
        Some(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<p>Up",
        ),
    ])?;
    let outcome = Pagecast::record(PAGECAST, &url).with("duration", "1s").finish(LIMIT)?;
    let report = outcome.report()?;
    ensure!((report.end.as_str(), report.moves, report.reloads) == ("complete", 0, 0), "{report:?}");
    ensure!(outcome.stderr.contains("HTTP 503; trying again"), "{}", outcome.stderr);
    outcome.recording().map(drop)
}

#[test]
fn the_ready_timeout_bounds_how_long_a_server_is_waited_for() -> Result<()> {
    let _turn = Turn::shared()?;
    let url =
        answering(&[Some("HTTP/1.1 503 Later\r\nContent-Length: 5\r\nConnection: close\r\n\r\nLater")])?;
    let run = record(&url).with("ready-timeout", "2s");
    let begin = std::time::Instant::now();
    let outcome = check(run, PAGE, &["HTTP 503"])?;
    ensure!(outcome.stderr.matches("trying again").count() == 1, "it is said once: {}", outcome.stderr);
    ensure!(begin.elapsed() >= Duration::from_secs(2), "it was given up at once");
    Ok(())
}

#[test]
fn a_page_that_cannot_be_opened_is_not_summed_up() -> Result<()> {
    let _turn = Turn::shared()?;
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let outcome = check(record(&format!("http://{free}/")).for_people(), PAGE, &["refused"])?;
    ensure!(outcome.stdout.is_empty() && !outcome.stderr.contains("cores"), "{}", outcome.stderr);
    let said = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    ensure!(said == 1, "{}", outcome.stderr);
    Ok(())
}

#[test]
fn the_server_hangs_up() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?.route("/cut", Reply::HangUp);
    check(record(&server.url("cut")), PAGE, &["cut"]).map(drop)
}

#[test]
fn unknown_host() -> Result<()> {
    let _turn = Turn::shared()?;
    check(record("http://no-such-host.invalid/"), PAGE, &["no-such-host.invalid", "no host of this name"])
        .map(drop)
}

#[test]
fn http_errors() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?
        .route("/broken", Reply::Html(500, "<h1>Broken</h1>".to_owned()))
        .route("/moved", Reply::Redirect("/nothing".to_owned()));
    for (path, word) in [("nothing", "404"), ("broken", "500"), ("moved", "404")] {
        check(record(&server.url(path)), PAGE, &[word])?;
    }
    Ok(())
}

#[test]
fn a_certificate_nobody_vouches_for() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = SelfSigned::start()?;
    check(record(&server.url()), PAGE, &["certificate"]).map(drop)
}

#[test]
fn secrets_in_the_address_are_not_told() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let outcome = check(record(&server.url("nothing?token=hunter2")), PAGE, &["404"])?;
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
        check(record(address), BAD_VALUE, &[word])?;
    }
    Ok(())
}

#[test]
fn a_path_is_no_address_but_can_be_served() -> Result<()> {
    let scratch = Scratch::new()?;
    let page = scratch.join("x.html");
    std::fs::write(&page, "<h1>Served</h1>")?;
    let (folder, page) = (scratch.path().display(), page.display());
    for address in [format!("{page}"), format!("file://{page}")] {
        let serve = format!("--directory {folder} 8000");
        check(
            record(&address),
            BAD_VALUE,
            &["http.server", &serve, "http://localhost:8000/x.html --allow-net localhost:8000"],
        )?;
    }
    Ok(())
}

#[test]
fn only_what_can_be_made_is_recorded() -> Result<()> {
    let page = || record("http://127.0.0.1:9/");
    for output in ["y.webm", "-", "y.m3u8"] {
        check(page().output(output.into()), BAD_VALUE, &["--output", "MP4", ".mp4", "folder or bucket"])?;
    }
    // A kernel's file system says that there is no such folder.
    check(page().output("/proc/x.mp4".into()), OUTPUT, &["no files can be made in /proc"])?;
    let outcome = page().with("name", "a").output("/dev/null".into()).finish(LIMIT)?;
    outcome.expect_failure(OUTPUT, &["/dev/null", "not a directory"])
}

#[test]
fn bitrates_have_units() -> Result<()> {
    for bitrate in ["3M", "2500k", "3Mbit", "2.5Mbit/s", "2500"] {
        // Fails only after the values are found good.
        check(
            record("http://127.0.0.1:9/").with("bitrate", bitrate).output("/proc/x.mp4".into()),
            OUTPUT,
            &["/proc"],
        )?;
    }
    check(record("http://127.0.0.1:9/").with("bitrate", "3MB"), BAD_VALUE, &["--bitrate", "3M, 2500k"])
        .map(drop)
}

#[test]
fn a_port_that_is_taken() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let taken = listener.local_addr()?;
    for option in ["listen", "listen-media"] {
        let run = Pagecast::cast(PAGECAST, "http://127.0.0.1:9/");
        let run = if option == "listen" { run } else { run.with("listen", "127.0.0.1:0") };
        let run = run.with(option, taken);
        let port = format!("port {} is in use", taken.port());
        let outcome = check(run, OUTPUT, &[&port, &format!("--{option} 127.0.0.1:")])?;
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
    let scratch = Scratch::new()?;
    std::fs::create_dir_all(scratch.join("some/folders"))?;
    let said = output_of(program(PAGECAST).arg("recover").arg(scratch.path()))?;
    ensure!(said.stdout.is_empty() && String::from_utf8_lossy(&said.stderr).contains("nothing to recover"));
    let missing = program(PAGECAST).arg("recover").arg(scratch.join("nowhere")).output()?;
    let said = String::from_utf8_lossy(&missing.stderr);
    ensure!(missing.status.code() == Some(BAD_VALUE) && said.contains("there is no folder"), "{said}");
    Ok(())
}

#[test]
fn values_out_of_range() -> Result<()> {
    let page = || Pagecast::record(PAGECAST, "http://127.0.0.1:9/");
    for (name, values) in [
        ("size", ["1281x720", "1280", "48x48", "4000x4000", "-1x5", "x", "1280x720x2"].as_slice()),
        ("fps", &["0", "61", "-1", "29.97", "many"]),
        ("duration", &["0s", "-1s", "soon", "25h", "10 parsecs"]),
        ("bitrate", &["0", "49", "1000000", "x"]),
        ("scale-factor", &["0", "9", "NaN", "inf", "x"]),
    ] {
        for value in values {
            // With `=`, so that a leading minus is a value and no option.
            let outcome = check(page().flag(&format!("{name}={value}")), BAD_VALUE, &["error: "])?;
            let said = outcome.stderr.trim();
            ensure!(
                said.contains(name) || said.contains("cannot"),
                "--{name}={value} is refused with {said:?}"
            );
        }
    }
    check(page().flag("no-such-option"), BAD_VALUE, &["no-such-option"]).map(drop)
}

#[test]
fn the_folder_is_missing() -> Result<()> {
    let _turn = Turn::shared()?;
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let path = scratch.path().join("nowhere/out.mp4");
    check(record(&server.url("counter.html")).output(path), OUTPUT, &["nowhere"])?;
    ensure!(server.requests().is_empty(), "the page was opened for nothing");
    Ok(())
}

#[test]
fn the_output_is_a_folder() -> Result<()> {
    let _turn = Turn::shared()?;
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let path = scratch.join("out.mp4");
    std::fs::create_dir(&path)?;
    let run = record(&server.url("counter.html")).flag("overwrite").output(path.clone());
    let outcome = run.finish(LIMIT)?;
    outcome.expect_failure(OUTPUT, &["directory"])?;
    ensure!(path.is_dir(), "the folder was replaced");
    Ok(())
}

#[test]
fn the_folder_is_read_only() -> Result<()> {
    let _turn = Turn::shared()?;
    if !Tmpfs::possible() {
        eprintln!("skipped: mounting a read-only folder needs root");
        return Ok(());
    }
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let folder = Tmpfs::mount(scratch.join("locked"), 1 << 20)?;
    folder.make_read_only()?;
    check(record(&server.url("counter.html")).output(folder.path().join("out.mp4")), OUTPUT, &["read-only"])?;
    ensure!(server.requests().is_empty(), "the page was opened for nothing");
    Ok(())
}

#[test]
fn the_disk_fills_up() -> Result<()> {
    let _turn = Turn::shared()?;
    if !Tmpfs::possible() {
        eprintln!("skipped: mounting a small disk needs root");
        return Ok(());
    }
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let disk = Tmpfs::mount(scratch.join("small"), 4 << 20)?;
    let path = disk.path().join("out.mp4");
    let outcome = Pagecast::record(PAGECAST, &server.url("noise.html"))
        .with("size", "640x360")
        .with("bitrate", 20_000)
        .with("duration", "30s")
        .output(path.clone())
        .finish(LIMIT)?;
    outcome.expect_failure(OUTPUT, &["full", "out.mp4.spool"])?;
    ensure!(!path.exists(), "half a file was left");
    disk.grow(32 << 20)?;
    outcome.recover(PAGECAST)?;
    let file = Recording::open(&path)?;
    let decoded = file.frames()?.filter(|frame| frame.is_ok()).count();
    println!("{decoded} pictures, {} s on the full disk", file.end_s());
    ensure!(decoded >= 15, "only {decoded} pictures were kept");
    ensure!(file.complaints()?.is_empty(), "{}", file.complaints()?);
    Ok(())
}

#[test]
fn no_browser() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let run = record(&server.url("counter.html")).env("PAGECAST_CHROMIUM", "/nonexistent/chromium");
    check(run, BROWSER, &["/nonexistent/chromium", "install"]).map(drop)
}

#[test]
fn a_browser_that_cannot_start() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let run = record(&server.url("counter.html")).env("PAGECAST_CHROMIUM", "/bin/false");
    check(run, BROWSER, &["/bin/false ended", "exit status: 1"]).map(drop)
}
