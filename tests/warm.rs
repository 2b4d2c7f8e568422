//! Browsers that are started before they are wanted: a cast with one begins sooner, and each serves one cast only.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_core::CastSpec;
use pagecast_core::spec::{Network, Recording, Rule, Size, Source, SourceUrl};
use pagecast_testkit::run::processes::Family;
use pagecast_testkit::{Scratch, Server, Turn};
use pagecast_worker::cast::{Report, Stop};
use pagecast_worker::process::{self, Pool, Process};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// What a pool needs to start a browser, many times over.
const A_WHILE: Duration = Duration::from_secs(20);

fn spec(server: &Server, scratch: &Scratch, name: &str) -> Result<CastSpec> {
    let url = SourceUrl::parse(&server.url(&format!("counter.html?{name}")))?;
    let source = Source { size: Size::new(640, 360)?, ..Source::new(url) };
    Ok(CastSpec {
        duration: Some(Duration::from_secs(1)),
        recording: Some(Recording::to_file(scratch.join(&format!("{name}.mp4")))),
        network: Network { allow: vec![Rule::parse("127.0.0.0/8")?], ..Network::default() },
        ..CastSpec::new(source)
    })
}

fn run(process: Process, spec: &CastSpec) -> Result<Report> {
    let outcome = process.run(spec, process::now(), &Stop::default(), |_| ());
    ensure!(outcome.failure.is_none(), "{:?}", outcome.failure);
    outcome.report.context("no report")
}

/// Browsers of ours that run.
fn browsers() -> usize {
    let mut family = Family::of(std::process::id(), std::path::Path::new("/nowhere"));
    family.census();
    family
        .with_arguments(|all| {
            all.contains(&"--remote-debugging-pipe") && !all.iter().any(|a| a.starts_with("--type="))
        })
        .len()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let begin = std::time::Instant::now();
    while !condition() {
        ensure!(begin.elapsed() < A_WHILE, "not within {A_WHILE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn a_warm_browser_is_quicker_and_serves_one_cast() -> Result<()> {
    let _turn = Turn::alone()?;
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let cold = run(Process::start(&PathBuf::from(PAGECAST))?, &spec(&server, &scratch, "cold")?)?;
    let mut process = Process::start(&PathBuf::from(PAGECAST))?;
    process.warm(&spec(&server, &scratch, "warm")?)?;
    ensure!(server.requests().iter().all(|r| !r.ends_with("?warm")), "the page was opened before its time");
    let warm = run(process, &spec(&server, &scratch, "warm")?)?;
    println!("first frame: {} ms cold, {} ms warm", cold.first_frame_ms, warm.first_frame_ms);
    ensure!(warm.first_frame_ms < cold.first_frame_ms, "a warm browser gains nothing");
    wait_until("no browser runs", || browsers() == 0)
}

#[test]
fn a_pool_keeps_its_number_and_leaves_nothing() -> Result<()> {
    let _turn = Turn::alone()?;
    let (server, scratch) = (Server::start()?, Scratch::new()?);
    let pool = Pool::start(PathBuf::from(PAGECAST), 1, spec(&server, &scratch, "like")?)?;
    wait_until("a browser is ready", || pool.ready() == 1)?;
    let first = run(pool.take(&spec(&server, &scratch, "first")?)?, &spec(&server, &scratch, "first")?)?;
    ensure!(first.end == "complete", "{}", first.end);
    wait_until("another browser is ready", || pool.ready() == 1 && browsers() == 1)?;
    let mut other = spec(&server, &scratch, "other")?;
    other.source.size = Size::new(320, 180)?;
    let process = pool.take(&other)?;
    let second = run(process, &other)?;
    ensure!((second.end.as_str(), pool.ready()) == ("complete", 1), "{}", second.end);
    drop(pool);
    wait_until("no browser runs", || browsers() == 0)
}
