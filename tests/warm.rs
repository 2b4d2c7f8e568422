//! Warm browsers, started in advance: casts start sooner with them, and each serves one cast only.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use pagecast_core::CastSpec;
use pagecast_core::spec::{NetworkPolicy, NetworkRule, Recording, Size, Source, SourceUrl, Storage};
use pagecast_testkit::pagecast::processes::ProcessTree;
use pagecast_testkit::{MachineLock, PageServer, ScratchDir, wait_until};
use pagecast_worker::cast::{Assignment, CastPaths, Report, StopToken};
use pagecast_worker::process::{self, Pool, Process};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Longest wait for a browser: many times its start on an idle machine.
const POOL_TIMEOUT: Duration = Duration::from_secs(20);

fn cast_spec(server: &PageServer, scratch: &ScratchDir, name: &str) -> Result<CastSpec> {
    let url = SourceUrl::parse(&server.url(&format!("counter.html?{name}")))?;
    let source = Source { size: Size::new(640, 360)?, ..Source::new(url) };
    Ok(CastSpec {
        duration: Some(Duration::from_secs(1)),
        recording: Some(Recording::to_file(scratch.join(&format!("{name}.mp4")))),
        network: NetworkPolicy {
            allow: vec![NetworkRule::parse("127.0.0.0/8")?],
            ..NetworkPolicy::default()
        },
        ..CastSpec::new(source)
    })
}

fn run_cast(process: Process, spec: &CastSpec) -> Result<Report> {
    let file = match spec.recording.as_ref().map(|recording| &recording.to) {
        Some(Storage::File(file)) => file.with_extension("spool"),
        other => bail!("not a recording to a file: {other:?}"),
    };
    let paths = CastPaths { spool: file, ..CastPaths::default() };
    let assignment = Assignment::new(spec.clone(), paths);
    let outcome = process.run(&assignment, process::now(), &StopToken::default(), |_| ());
    ensure!(outcome.failure.is_none(), "{:?}", outcome.failure);
    outcome.report.context("no report")
}

/// Number of browsers that this test runs.
fn running_browsers() -> usize {
    let mut tree = ProcessTree::new(std::process::id(), std::path::Path::new("/nowhere"));
    tree.refresh();
    tree.with_arguments(|all| {
        all.contains(&"--remote-debugging-pipe") && !all.iter().any(|a| a.starts_with("--type="))
    })
    .len()
}

fn wait_for_browsers(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    wait_until(what, POOL_TIMEOUT, || {
        ensure!(condition(), "{} browsers run", running_browsers());
        Ok(())
    })
}

/// Tests that measure time, so they need the machine for themselves.
mod exclusive {
    use super::*;

    #[test]
    fn a_warm_browser_is_quicker_and_serves_one_cast() -> Result<()> {
        let _turn = MachineLock::exclusive()?;
        let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
        let cold =
            run_cast(Process::start(&PathBuf::from(PAGECAST))?, &cast_spec(&server, &scratch, "cold")?)?;
        let mut process = Process::start(&PathBuf::from(PAGECAST))?;
        process.warm_up(&cast_spec(&server, &scratch, "warm")?)?;
        ensure!(
            server.requests().iter().all(|r| !r.ends_with("?warm")),
            "the page was opened by the warm-up"
        );
        let warm = run_cast(process, &cast_spec(&server, &scratch, "warm")?)?;
        println!("first frame: {} ms cold, {} ms warm", cold.first_frame_ms, warm.first_frame_ms);
        ensure!(warm.first_frame_ms < cold.first_frame_ms, "a warm browser is not faster");
        wait_for_browsers("no browser runs", || running_browsers() == 0)
    }

    #[test]
    fn a_pool_keeps_its_number_and_leaves_nothing() -> Result<()> {
        let _turn = MachineLock::exclusive()?;
        let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
        let pool = Pool::start(PathBuf::from(PAGECAST), 1, cast_spec(&server, &scratch, "like")?)?;
        wait_for_browsers("a browser is ready", || pool.ready_count() == 1)?;
        let first = run_cast(
            pool.take(&cast_spec(&server, &scratch, "first")?)?,
            &cast_spec(&server, &scratch, "first")?,
        )?;
        ensure!(first.end == "complete", "{}", first.end);
        wait_for_browsers("another browser is ready", || pool.ready_count() == 1 && running_browsers() == 1)?;
        let mut other = cast_spec(&server, &scratch, "other")?;
        other.source.size = Size::new(320, 180)?;
        let process = pool.take(&other)?;
        let second = run_cast(process, &other)?;
        ensure!((second.end.as_str(), pool.ready_count()) == ("complete", 1), "{}", second.end);
        drop(pool);
        wait_for_browsers("no browser runs", || running_browsers() == 0)
    }
}
