//! Dry runs: `pagecast check` and `POST /v1/casts/check` open real pages and say what is wrong with them.
#![expect(clippy::print_stdout, reason = "a report is printed beside a failure")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::RgbImage;
use pagecast_testkit::media::image::Rect;
use pagecast_testkit::service::REST_TOKEN;
use pagecast_testkit::{
    MachineLock, Outcome, PageResponse, PageServer, PagecastCommand, ScratchDir, ServiceConfig,
    ServiceProcess, http, wait_until,
};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Longest dry run, with the end of its processes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(40);
/// A page that moves and plays a tone. Half of it is teal.
const LIVELY_PAGE: &str = "<!doctype html><meta charset=utf-8><title>A lively pagé</title>
    <style>body { margin: 0; background: #0f766e }
    div { position: absolute; right: 0; width: 50%; height: 100% }</style><div></div><script>
    const box = document.querySelector('div');
    const draw = (at) => { box.style.background = `hsl(${at / 10} 80% 50%)`; requestAnimationFrame(draw) };
    requestAnimationFrame(draw);
    const context = new AudioContext();
    const tone = new OscillatorNode(context, { frequency: 440 });
    tone.connect(new GainNode(context, { gain: 0.25 })).connect(context.destination);
    tone.start();
    console.log('it begins', 1, { a: 2 });
    </script>";

fn page(html: &str) -> PageResponse {
    PageResponse::Html(200, html.to_owned())
}

/// The report of a run with this exit code.
fn report(outcome: &Outcome, code: i32) -> Result<Value> {
    outcome.expect_code(code)?;
    println!("{} s: {}", outcome.elapsed.as_secs_f64(), without_picture(&outcome.stdout));
    serde_json::from_str(&outcome.stdout).with_context(|| format!("no report: {}", outcome.stdout))
}

fn without_picture(json: &str) -> String {
    let mut report: Value = serde_json::from_str(json).unwrap_or_default();
    if let Some(picture) = report.get_mut("picture") {
        *picture = format!("{} bytes", picture.as_str().map_or(0, str::len)).into();
    }
    report.to_string()
}

/// The kinds of warnings in a report.
fn warnings(report: &Value) -> Vec<&str> {
    report["warnings"].as_array().into_iter().flatten().filter_map(|w| w["kind"].as_str()).collect()
}

#[test]
fn a_good_page_is_measured() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?.with_route("/", page(LIVELY_PAGE));
    let scratch = ScratchDir::new()?;
    let picture = scratch.join("page.jpg");
    let outcome = PagecastCommand::check(PAGECAST, &server.url("/?secret=1")).output(picture.clone());
    let report = report(&outcome.finish(TIMEOUT)?, 0)?;
    ensure!(report["ok"] == true && report["problem"].is_null(), "{report}");
    ensure!(report["title"] == "A lively pagé" && report["http_status"] == 200, "{report}");
    ensure!(!report.to_string().contains("secret"), "{report}");
    for time in ["load_ms", "ready_ms"] {
        ensure!(report[time].as_u64().is_some_and(|ms| ms < 8000), "{time}: {report}");
    }
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or(-1.0);
    ensure!((10.0..31.0).contains(&number("/fps")), "{} fps", number("/fps"));
    ensure!((0.01..8.0).contains(&number("/cpu_cores")), "{} cores", number("/cpu_cores"));
    ensure!(number("/memory_bytes") > 5e7, "{} bytes", number("/memory_bytes"));
    ensure!(number("/sound/streams") == 1.0, "{}", report["sound"]);
    ensure!((0.2..0.3).contains(&number("/sound/peak/0")), "{}", report["sound"]);
    ensure!(report["autoplay"]["allowed"] == true, "{report}");
    for codec in ["h264", "vp8", "vp9", "av1", "aac", "opus"] {
        ensure!(report["codecs"][codec] == true, "{codec}: {}", report["codecs"]);
    }
    ensure!(report["console"] == json!([{"level": "log", "text": "it begins 1 Object"}]), "{report}");
    ensure!(report["failed_requests"] == json!([]) && warnings(&report).is_empty(), "{report}");
    let image = RgbImage::open(&picture)?;
    ensure!((image.width, image.height) == (640, 360), "{}x{}", image.width, image.height);
    let teal = image.mean_rgb(Rect { x: 8, y: 8, width: 300, height: 340 });
    ensure!(teal.iter().zip([15.0, 118.0, 110.0]).all(|(a, b)| (a - b).abs() < 4.0), "{teal:?}");
    if let Some(folder) = std::env::var_os("KEEP") {
        std::fs::copy(&picture, std::path::Path::new(&folder).join("check-good.jpg"))?;
    }
    Ok(())
}

#[test]
fn failures_of_a_page_are_listed() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let elsewhere = PageServer::start()?;
    let frame = PageServer::start()?
        .with_route("/frame", page("<script src='/missing-in-frame.js'></script>"))
        .with_route("/missing-in-frame.js", PageResponse::Html(500, String::new()));
    let server = PageServer::start()?;
    let html = format!(
        "<!doctype html><title>\u{1b}[31m&lt;b&gt;</title><script src='/missing.js?token=1'></script>\
         <img src='http://10.9.8.7/x.png'><iframe src='{}'></iframe>\
         <script>fetch('{}').catch(() => {{}}); console.error('bad \\u001b[2J thing'); \
         undefinedFunction()</script>",
        frame.url("/frame").replace("127.0.0.1", "localhost"),
        elsewhere.url("/static.html"),
    );
    server.set_route("/", page(&html));
    server.set_route("/missing.js", PageResponse::Html(404, String::new()));
    let command = PagecastCommand::check(PAGECAST, &server.url("/")).option("allow-net", "localhost");
    let outcome = command.finish(TIMEOUT)?;
    let report = report(&outcome, 0)?;
    let reason = |part: &str| {
        let all = report["failed_requests"].as_array();
        let found = all.into_iter().flatten().find(|r| r["url"].as_str().is_some_and(|u| u.contains(part)));
        found.cloned().with_context(|| format!("{part} is not among {}", report["failed_requests"]))
    };
    let script = reason("/missing.js")?;
    ensure!(script["status"] == 404 && script["type"] == "script", "{script}");
    ensure!(script["url"].as_str().is_some_and(|url| url.ends_with("/missing.js?…")), "{script}");
    ensure!(reason("/missing-in-frame.js")?["status"] == 500, "{report}");
    let denied = reason("10.9.8.7")?;
    ensure!(denied["reason"].as_str().is_some_and(|r| r.contains("not a public address")), "{denied}");
    let cors = reason("/static.html")?;
    ensure!(cors["reason"].as_str().is_some_and(|r| r.contains("CORS")), "{cors}");
    ensure!(warnings(&report).contains(&"network-denied"), "{report}");
    let console = report["console"].as_array().context("console")?;
    let has = |level: &str, text: &str| {
        console.iter().any(|m| m["level"] == level && m["text"].as_str().is_some_and(|t| t.contains(text)))
    };
    ensure!(has("error", "bad \u{1b}[2J thing") && has("exception", "undefinedFunction"), "{console:?}");
    let readable = PagecastCommand::check(PAGECAST, &server.url("/")).without_json().finish(TIMEOUT)?;
    readable.expect_code(0)?;
    println!("{}", readable.stdout);
    ensure!(!readable.stdout.contains('\u{1b}'), "the page controls the terminal: {:?}", readable.stdout);
    for part in
        ["[31m<b>", "failed      script ", "console     exception: ", "warning     the network policy"]
    {
        ensure!(readable.stdout.contains(part), "{part}: {}", readable.stdout);
    }
    Ok(())
}

#[test]
fn pages_that_cannot_be_opened_have_a_problem() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?
        .with_route("/silent", PageResponse::NoResponse)
        .with_route("/gone", PageResponse::Html(410, "<body style='background:#f00'>gone".to_owned()))
        .with_route("/", page("<p>hello"));
    let denied = PagecastCommand::check(PAGECAST, &server.url("/")).deny_loopback().finish(TIMEOUT)?;
    denied.expect_failure(3, &["not a public address", "--allow-net 127.0.0.1:"])?;
    let result = report(&denied, 3)?;
    ensure!(result["problem"]["kind"] == "not-public" && result["ok"] == false, "{result}");
    ensure!(result["picture"].is_null() && result["http_status"].is_null(), "{result}");
    let silent = PagecastCommand::check(PAGECAST, &server.url("/silent")).finish(TIMEOUT)?;
    let result = report(&silent, 3)?;
    ensure!(result["problem"]["kind"] == "timed-out" && result["load_ms"].is_null(), "{result}");
    ensure!(silent.elapsed < Duration::from_secs(25), "{:?}", silent.elapsed);
    let gone = PagecastCommand::check(PAGECAST, &server.url("/gone")).finish(TIMEOUT)?;
    let result = report(&gone, 3)?;
    ensure!(result["problem"]["kind"] == "http-status" && result["http_status"] == 410, "{result}");
    ensure!(result["picture"].is_string(), "the server's own page is shown: {result}");
    ensure!(warnings(&result).is_empty() && result["title"] == "", "{result}");
    PagecastCommand::check(PAGECAST, "ftp://a.example/").finish(TIMEOUT)?.expect_failure(2, &["http:"])?;
    Ok(())
}

#[test]
fn pages_that_hang_or_are_never_ready_end_in_time() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?
        .with_route("/hang", page("<title>x</title><p>before<script>for (;;) {}</script>"))
        .with_route("/later", page("<p>hello<script>setTimeout(() => { for (;;) {} }, 2500)</script>"))
        .with_route("/plain", page("<!doctype html><title>plain</title><p>hello"));
    let hang = PagecastCommand::check(PAGECAST, &server.url("/hang")).finish(TIMEOUT)?;
    let result = report(&hang, 5)?;
    ensure!(result["problem"]["kind"] == "unresponsive" && warnings(&result).is_empty(), "{result}");
    ensure!(hang.elapsed < Duration::from_secs(27), "{:?}", hang.elapsed);
    let later = PagecastCommand::check(PAGECAST, &server.url("/later")).finish(TIMEOUT)?;
    let result = report(&later, 0)?;
    ensure!(warnings(&result) == ["unresponsive"], "{result}");
    let never = PagecastCommand::check(PAGECAST, &server.url("/plain"))
        .option("ready-timeout", "3s")
        .option("wait-for-selector", "#never")
        .finish(TIMEOUT)?;
    let result = report(&never, 3)?;
    ensure!(result["problem"]["kind"] == "not-ready" && result["ready_ms"].is_null(), "{result}");
    let message = result["problem"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("after 3 s") && message.contains("selector"), "{message}");
    Ok(())
}

#[test]
fn the_service_checks_pages_as_it_casts_them() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?.with_route(
        "/",
        page(
            "<!doctype html><title>x</title><body>hello<script>document.title = navigator.language</script>",
        ),
    );
    let mut service = ServiceProcess::start(PAGECAST, &ServiceConfig::default())?;
    let request = json!({
        "url": server.url("/"), "locale": "de-DE", "headers": {"X-Room": "blue"},
        "css": "html { background: #f00 !important }", "recording": {},
    });
    let checks = || service.rest("POST", "/v1/casts/check", Some(&request));
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads = [scope.spawn(checks), scope.spawn(checks)];
        threads.map(|thread| thread.join().ok().context("a panic")?).into_iter().collect::<Result<_>>()
    })?;
    let [good, refused] = answers.as_slice() else { anyhow::bail!("{answers:?}") };
    let (good, refused) = if good.status == 200 { (good, refused) } else { (refused, good) };
    ensure!(refused.status == 429 && refused.header("retry-after") == Some("8"), "{}", refused.text());
    let result = good.json()?;
    println!("{}", without_picture(&good.text()));
    ensure!(result["ok"] == true && result["title"] == "de-DE", "{result}");
    ensure!(result["fits_now"] == true && result["fits_reason"].is_null(), "{result}");
    ensure!(result["node"] == "embedded", "{result}");
    let took_ms = result["took_ms"].as_u64().context("took_ms")?;
    ensure!((4000..25_000).contains(&took_ms), "{took_ms}");
    ensure!(server.request_header_values("/", "x-room") == [Some("blue".to_owned())], "{result}");
    let casts = service.rest("GET", "/v1/casts", None)?.json()?;
    ensure!(casts["casts"] == json!([]), "no cast was created: {casts}");
    // Nothing of a check is left, and a service that ends takes a running one with it.
    ensure!(service.cast_pids().is_empty(), "{:?}", service.cast_pids());
    let (url, body) = (service.url("/v1/casts/check"), request.to_string());
    let late = std::thread::spawn(move || {
        let token = format!("Bearer {REST_TOKEN}");
        let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
        http::request("POST", &url, &headers, body.as_bytes()).map(|response| response.status)
    });
    wait_until("a check has begun", TIMEOUT, || {
        ensure!(server.request_header_values("/", "x-room").len() == 2, "{:?}", server.requests());
        Ok(())
    })?;
    service.stop(TIMEOUT)?;
    service.wait_until_exited(TIMEOUT)?;
    println!("the last check: {:?}", late.join());
    Ok(())
}
