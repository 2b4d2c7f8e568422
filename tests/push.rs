//! A page sent to real servers while it is recorded: viewers get what is in the file, and a server that dies is found again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::rtmp::{Nginx, free_port};
use pagecast_testkit::strip::Place;
use pagecast_testkit::{Pagecast, Recording, Server, Signal, Turn, flv};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(90);

/// Numbers of the page's frames in a file, in order.
fn counters(file: &Recording) -> Result<Vec<u32>> {
    Ok(file.strips(Place::PAGE)?.into_iter().filter_map(|seen| Some(seen.strip?.counter)).collect())
}

/// Checks that a recording of a server is a part of ours: every picture from its first to its last. Where that part ends.
fn is_a_part(of: &[u32], recorded: &std::path::Path) -> Result<(usize, usize)> {
    let seen = counters(&Recording::open(recorded)?)?;
    let first = *seen.first().context("the server has a picture")?;
    let at = of.iter().position(|counter| *counter == first).context("its first picture is in the file")?;
    ensure!(of[at..].starts_with(&seen), "{seen:?} is no part of {of:?}");
    Ok((at, at + seen.len()))
}

#[test]
fn viewers_get_what_is_in_the_file_and_a_dead_server_is_found_again() -> Result<()> {
    let _turn = Turn::shared()?;
    let (server, lives, mut dies) = (Server::start()?, Nginx::start(None)?, Nginx::start(None)?);
    let mut run = Pagecast::record(PAGECAST, &server.url("counter.html"))
        .with("push", lives.url("lives-hunter2"))
        .with("push", dies.url("dies-hunter2"))
        .with("size", "640x360")
        .start()?;
    // Some seconds of the page each: a picture every 33 ms, of which a tag is made.
    let pictures = |nginx: &Nginx, key: &str, file: usize| {
        let files = nginx.recorded(key).unwrap_or_default();
        let tags = files.get(file).and_then(|path| flv::tags(path).ok()).unwrap_or_default();
        tags.iter().filter(|tag| matches!(tag.kind, flv::Kind::Video { .. })).count()
    };
    run.wait_until("both servers had the page", LIMIT, |_| {
        pictures(&lives, "lives-hunter2", 0) > 60 && pictures(&dies, "dies-hunter2", 0) > 60
    })?;
    dies.kill();
    dies.run()?;
    run.wait_until("the server had the page again", LIMIT, |_| pictures(&dies, "dies-hunter2", 1) > 60)?;
    run.signal(Signal::INT)?;
    let outcome = run.finish(LIMIT)?;

    let (report, file) = (outcome.report()?, outcome.recording()?);
    let ours = counters(&file)?;
    let whole = is_a_part(&ours, &lives.recorded("lives-hunter2")?[0])?;
    ensure!(whole.1 == ours.len(), "{whole:?} of {}", ours.len());
    let of_dead = dies.recorded("dies-hunter2")?;
    let [before, after] = [is_a_part(&ours, &of_dead[0])?, is_a_part(&ours, &of_dead[1])?];
    ensure!(before.1 < after.0 && after.1 == ours.len(), "{before:?} and {after:?} of {}", ours.len());

    let [alive, dead] = &report.pushes[..] else { anyhow::bail!("{:?}", report.pushes) };
    ensure!(
        alive.lost == 0 && alive.reconnects == 0 && alive.error.is_none() && alive.bytes > 0,
        "{alive:?}"
    );
    ensure!(
        dead.lost > 0 && dead.reconnects == 1 && dead.error.is_some() && dead.state == "idle",
        "{dead:?}"
    );
    ensure!(alive.url.ends_with("/live/…") && !outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_push_that_never_works_ends_nothing() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let nowhere = format!("rtmp://127.0.0.1:{}/live/hunter2", free_port()?);
    let run = Pagecast::record(PAGECAST, &server.url("counter.html")).with("duration", "8s");
    let outcome = run.with("push", nowhere).finish(LIMIT)?;
    let report = outcome.report()?;
    ensure!((outcome.recording()?.end_s() - 8.0).abs() < 0.1 && report.end == "complete", "{report:?}");
    let push = report.pushes.first().context("its report")?;
    ensure!(push.bytes == 0 && push.error.as_ref().is_some_and(|why| why.contains("refused")), "{push:?}");
    ensure!(
        outcome.stderr.contains("connection refused") && !outcome.stderr.contains("hunter2"),
        "{}",
        outcome.stderr
    );
    Ok(())
}
