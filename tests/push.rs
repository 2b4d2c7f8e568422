//! Pushes to real RTMP servers during a recording: the servers receive the pictures of the file, and a push
//! reconnects to a server that restarts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_core::connection::State;
use pagecast_core::spec::{
    NetworkPolicy, NetworkRule, Push, PushUrl, Recording as Recorded, Size, Source, SourceUrl,
};
use pagecast_core::{CastSpec, SpecError};
use pagecast_testkit::rtmp::{NginxRtmp, free_port};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{MachineLock, PageServer, PagecastCommand, Recording, ScratchDir, Signal, flv};
use pagecast_worker::cast::{Assignment, CastEvent, CastPaths, Change, StopToken};
use pagecast_worker::process::{self, Process};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(90);

/// Numbers of the page's frames in a file, in order.
fn frame_counters(file: &Recording) -> Result<Vec<u32>> {
    Ok(file
        .timecodes(TimecodePosition::PAGE)?
        .into_iter()
        .filter_map(|frame| Some(frame.timecode?.counter))
        .collect())
}

/// Checks that a server's recording has every picture of ours from its first to its last. Returns the range
/// of these pictures.
fn verify_is_part(ours: &[u32], recorded: &std::path::Path) -> Result<(usize, usize)> {
    let counters = frame_counters(&Recording::open(recorded)?)?;
    let first = *counters.first().context("the server recorded no picture")?;
    let at =
        ours.iter().position(|counter| *counter == first).context("its first picture is not in the file")?;
    ensure!(ours[at..].starts_with(&counters), "{counters:?} is not a part of {ours:?}");
    Ok((at, at + counters.len()))
}

#[test]
fn servers_receive_the_recorded_pictures_and_a_push_reconnects() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, lives, mut dies) = (PageServer::start()?, NginxRtmp::start(None)?, NginxRtmp::start(None)?);
    let mut run = PagecastCommand::record(PAGECAST, &server.url("counter.html"))
        .option("push", lives.url("lives-hunter2"))
        .option("push", dies.url("dies-hunter2"))
        .option("size", "640x360")
        .start()?;
    // Two seconds of the page each: every picture (33 ms) is an FLV tag.
    let pictures = |nginx: &NginxRtmp, key: &str, file: usize| {
        let files = nginx.recordings(key).unwrap_or_default();
        let tags = files.get(file).and_then(|path| flv::tags(path).ok()).unwrap_or_default();
        tags.iter().filter(|tag| matches!(tag.kind, flv::TagKind::Video { .. })).count()
    };
    run.wait_until("both servers had the page", TIMEOUT, |_| {
        pictures(&lives, "lives-hunter2", 0) > 60 && pictures(&dies, "dies-hunter2", 0) > 60
    })?;
    dies.kill();
    dies.restart()?;
    run.wait_until("the server had the page again", TIMEOUT, |_| pictures(&dies, "dies-hunter2", 1) > 60)?;
    run.signal(Signal::INT)?;
    let outcome = run.finish(TIMEOUT)?;

    let (report, file) = (outcome.report()?, outcome.recording()?);
    let ours = frame_counters(&file)?;
    let whole = verify_is_part(&ours, &lives.recordings("lives-hunter2")?[0])?;
    ensure!(whole.1 == ours.len(), "{whole:?} of {}", ours.len());
    let of_dead = dies.recordings("dies-hunter2")?;
    let [before, after] = [verify_is_part(&ours, &of_dead[0])?, verify_is_part(&ours, &of_dead[1])?];
    ensure!(before.1 < after.0 && after.1 == ours.len(), "{before:?} and {after:?} of {}", ours.len());

    let [alive, dead] = &report.pushes[..] else { anyhow::bail!("{:?}", report.pushes) };
    ensure!(
        alive.lost == 0 && alive.reconnects == 0 && alive.error.is_none() && alive.bytes > 0,
        "{alive:?}"
    );
    ensure!(
        dead.lost > 0 && dead.reconnects == 1 && dead.interruption.is_some() && dead.state == "idle",
        "{dead:?}"
    );
    ensure!(dead.error.is_none(), "the push failed: {dead:?}");
    ensure!(alive.url.ends_with("/live/…") && !outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_push_that_never_connects_does_not_end_the_cast() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let nowhere = format!("rtmp://127.0.0.1:{}/live/hunter2", free_port()?);
    let run = PagecastCommand::record(PAGECAST, &server.url("counter.html")).option("duration", "8s");
    let outcome = run.option("push", nowhere).finish(TIMEOUT)?;
    let report = outcome.report()?;
    ensure!((outcome.recording()?.end_s() - 8.0).abs() < 0.1 && report.end == "complete", "{report:?}");
    let push = report.pushes.first().context("no report of the push")?;
    ensure!(push.bytes == 0 && push.error.as_ref().is_some_and(|why| why.contains("refused")), "{push:?}");
    ensure!(
        outcome.stderr.contains("connection refused") && !outcome.stderr.contains("hunter2"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

#[test]
fn pushes_are_added_and_removed_while_the_cast_runs() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch, nginx) = (PageServer::start()?, ScratchDir::new()?, NginxRtmp::start(None)?);
    let source = Source::new(SourceUrl::parse(&server.url("counter.html"))?);
    let spec = CastSpec {
        recording: Some(Recorded::to_file(scratch.join("out.mp4"))),
        network: NetworkPolicy {
            allow: vec![NetworkRule::parse("127.0.0.0/8")?],
            ..NetworkPolicy::default()
        },
        ..CastSpec::new(Source { size: Size::new(320, 180)?, ..source })
    };
    let process = Process::start(std::path::Path::new(PAGECAST))?;
    let (changes, stop) = (process.change_sender(), StopToken::default());
    let push = |key: &str| {
        Ok::<_, SpecError>(Push { url: PushUrl::parse(&nginx.url(key))?, reconnect_timeout: None })
    };
    let (first, second) = (push("first")?, push("second")?);
    // Sent before the cast runs.
    ensure!(changes.send(Change::AddPush(first.clone())));
    let mut states = Vec::new();
    let paths = CastPaths { spool: scratch.join("out.spool"), ..CastPaths::default() };
    let outcome = process.run(&Assignment::new(spec, paths), process::now(), &stop, |event| {
        let CastEvent::Push(push) = event else { return };
        match (push.id, push.state) {
            (1, State::Running) => {
                assert!(changes.send(Change::AddPush(first.clone())), "the second push to a URL is refused");
                assert!(changes.send(Change::AddPush(second.clone())));
            }
            (2, State::Running) => assert!(changes.send(Change::RemovePush(first.url.clone()))),
            (1, State::Idle) => stop.request(),
            _ => {}
        }
        states.push((push.id, push.state));
    });
    ensure!(outcome.failure.is_none(), "{:?}", outcome.failure);
    for id in [1, 2] {
        let mut own: Vec<_> = states.iter().filter(|(of, _)| *of == id).map(|(_, state)| *state).collect();
        // `Connecting` may be reported more than once.
        own.dedup();
        let expected = [State::Connecting, State::Running, State::Disconnecting, State::Idle];
        ensure!(own == expected, "{id}: {own:?}");
    }
    let refused: Vec<_> = states.iter().filter(|(of, _)| *of == 0).collect();
    ensure!(refused == [&(0, State::Failed)], "{refused:?}");
    let report = outcome.report.context("no report")?;
    ensure!(
        report.pushes.len() == 2 && report.pushes.iter().all(|p| p.bytes > 0 && p.lost == 0),
        "{report:?}"
    );
    Ok(())
}
