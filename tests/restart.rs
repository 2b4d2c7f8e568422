//! The service is killed repeatedly: no cast is lost, none runs twice, and each callback is delivered.
//!
//! The seeds alternate between the backends, because each takes half a minute. The recording that is resumed
//! is on PostgreSQL; `handover.rs` resumes recordings on SQLite.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pagecast_testkit::media::beeps;
use pagecast_testkit::service::{APP_ID, SDK_APP_ID};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    Backend, MachineLock, PageServer, ReceivedRequest, Recording, ServiceConfig, ServiceProcess,
    WebhookReceiver, av_sync, wait_until,
};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Seeds of the sequences of requests and kills, and the backend of each. Several short sequences meet more
/// states than a long one.
const SEEDS: [(u64, Backend); 3] = [
    (0x9e37_79b9_7f4a_7c15, Backend::Postgres),
    (0x2545_f491_4f6c_dd1d, Backend::Sqlite),
    (0xd1b5_4a32_d192_ed03, Backend::Postgres),
];
/// Kills of the service for each seed.
const KILLS_PER_SEED: u32 = 10;
/// In each n-th round the service is killed when its casts are live; in the others after less than a second.
const LIVE_KILL_INTERVAL: u32 = 5;
/// Most casts that run at a time: what two cores carry.
const MAX_RUNNING_CASTS: usize = 3;

/// Parameters of a small recording to a folder by Tencent's API.
fn record_request(server: &PageServer, page: &str) -> Value {
    json!({
        "RecordUrl": server.url(page),
        "SdkAppId": SDK_APP_ID,
        "StorageParams": { "CloudStorage": {
            "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "rec-1250000000",
            "AccessKey": "a", "SecretKey": "s",
        }},
        "WebRecordVideoParams": { "Width": 640, "Height": 360 },
    })
}

/// Parameters of a small webcast by Volcengine's API.
fn webcast_request(server: &PageServer, task: &str) -> Value {
    json!({
        "AppId": APP_ID, "RoomId": "room", "TaskId": task, "UserId": format!("webcast_{task}"),
        "SourceURL": server.url("counter.html"),
        "VideoSolutions": [{ "Width": 160, "Height": 90, "FrameRate": 5 }],
    })
}

fn start_service(receiver: &WebhookReceiver, backend: Backend) -> Result<ServiceProcess> {
    ServiceProcess::start(
        PAGECAST,
        &ServiceConfig { backend, callback_url: Some(receiver.url("")), ..ServiceConfig::default() },
    )
}

/// Types and statuses of the events of a Tencent task, in order.
fn task_events(callbacks: &[ReceivedRequest], task: &str) -> Vec<(u64, u64)> {
    let event = |callback: &ReceivedRequest| {
        let body = callback.json();
        let info = &body["EventInfo"];
        let id = info["TaskId"].as_str()?;
        id.starts_with(task)
            .then(|| Some((body["EventType"].as_u64()?, info["Payload"]["Status"].as_u64()?)))?
    };
    callbacks.iter().filter_map(event).collect()
}

fn stored_file(service: &ServiceProcess, task: &str) -> Result<PathBuf> {
    let folder = service.data_folder().join("buckets/rec-1250000000").join(task);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    ensure!(files.len() == 1, "{files:?} were stored");
    files.pop().context("no file")
}

#[test]
fn a_recording_resumes_after_the_service_was_killed() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, receiver) = (PageServer::start()?, WebhookReceiver::start()?);
    let mut service = start_service(&receiver, Backend::Postgres)?;
    let (done, answer) = service.call("StartWebRecord", &record_request(&server, "sync.html?report"))?;
    ensure!(done, "{answer}");
    let task = answer["Response"]["TaskId"].as_str().context("no task")?.to_owned();
    let has_event = |event: (u64, u64)| {
        let task = task.clone();
        move |callbacks: &[ReceivedRequest]| task_events(callbacks, &task).contains(&event)
    };
    let wait_for_loads = |loads| server.wait_for_requests("/report/second-4", loads, TIMEOUT);
    receiver.wait_until("it is live", TIMEOUT, has_event((801, 1)))?;
    wait_for_loads(1)?;
    service.kill();
    // A gap of a second: the recording before it must be kept.
    std::thread::sleep(Duration::from_secs(1));
    service.restart()?;
    receiver.wait_until("the cast is resumed", TIMEOUT, has_event((801, 4)))?;
    let (running, described) = service.call("DescribeWebRecord", &json!({ "TaskId": task }))?;
    ensure!(running && described["Response"]["Status"] == 1, "{described}");
    wait_for_loads(2)?;
    ensure!(service.cast_pids().len() == 1, "one process runs the cast: {:?}", service.cast_pids());
    // A restart by the operator.
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)?;
    service.restart()?;
    let twice = |callbacks: &[ReceivedRequest]| {
        task_events(callbacks, &task).iter().filter(|event| **event == (801, 4)).count() == 2
    };
    receiver.wait_until("the cast is resumed again", TIMEOUT, twice)?;
    wait_for_loads(3)?;
    ensure!(service.call("StopWebRecord", &json!({ "TaskId": task }))?.0, "the task cannot be stopped");
    let callbacks = receiver.wait_until("it is stored", TIMEOUT, has_event((310, 0)))?;
    let expected = [(801, 1), (801, 4), (801, 4), (802, 1), (310, 0)];
    ensure!(task_events(&callbacks, &task) == expected, "{:?}", task_events(&callbacks, &task));
    let (_, gone) = service.call("DescribeWebRecord", &json!({ "TaskId": task }))?;
    ensure!(gone["Response"]["Error"]["Code"] == "FailedOperation.TaskNotExist", "{gone}");
    verify_recording(&stored_file(&service, &task)?)?;
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

/// Checks that the file has all three parts, in sync.
fn verify_recording(path: &Path) -> Result<()> {
    let file = Recording::open(path)?;
    println!("{:.1} s", file.end_s());
    ensure!(file.end_s() > 4.0, "only {:.1} s", file.end_s());
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    ensure!(pictures.is_sorted_by(|a, b| a.pts_s < b.pts_s), "pictures go back in time");
    // The page is loaded anew by each process.
    let counters: Vec<u32> = pictures.iter().filter_map(|p| p.timecode.as_ref()).map(|s| s.counter).collect();
    let starts = counters.windows(2).filter(|pair| pair[1] < pair[0]).count();
    ensure!(starts == 2, "the page was loaded {starts} more times");
    let [onsets] = beeps::onsets_of_each(file.pcm()?, [av_sync::PAGE_BEEP])?;
    let offsets = av_sync::page_offsets(&pictures, &onsets);
    println!("{offsets}");
    // Other tests use the processor, too: `sync.rs` measures precisely. A part at the wrong time, after a gap
    // of a second, is off by much more.
    let good = offsets.measurements.iter().filter(|(_, ms)| ms.abs() <= 150.0).count();
    ensure!(good * 4 >= offsets.len() * 3 && offsets.len() >= 2, "{:?}", offsets.measurements);
    Ok(())
}

/// Pseudo-random numbers (xorshift), the same sequence for the same seed.
struct Rng(u64);

impl Rng {
    /// Next number, below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Requests that were sent while the service was killed.
#[derive(Default)]
struct RequestedCasts {
    /// Casts whose start succeeded.
    started: BTreeSet<String>,
    /// Casts with a stop request, whatever its response.
    stopped: BTreeSet<String>,
    /// Casts whose start had no response: they may exist or not.
    unanswered: BTreeSet<String>,
    /// Casts that the API described as live.
    seen_live: BTreeSet<String>,
}

impl RequestedCasts {
    /// Casts that must be running.
    fn running(&self) -> Vec<String> {
        self.started.difference(&self.stopped).cloned().collect()
    }

    /// Waits until all casts that must be running are live, and returns their number.
    fn wait_until_live(&mut self, service: &ServiceProcess) -> Result<usize> {
        let running = self.running();
        for task in &running {
            wait_until("it is live", TIMEOUT, || {
                let status = status(service, task)?;
                ensure!(status == STATUS_LIVE, "{task} has status {status}");
                Ok(())
            })?;
            self.seen_live.insert(task.clone());
        }
        Ok(running.len())
    }

    /// Starts a cast, or stops one.
    fn start_or_stop_cast(
        &mut self,
        service: &ServiceProcess,
        server: &PageServer,
        rng: &mut Rng,
        number: u32,
    ) -> Result<()> {
        let running = self.running();
        if running.len() >= MAX_RUNNING_CASTS || !running.is_empty() && rng.below(3) == 0 {
            let task = running[usize::try_from(rng.below(running.len() as u64))?].clone();
            let stop = task_params(&task);
            self.stopped.insert(task);
            // The service may be killed before it responds.
            let _answer = service.call("StopWebcast", &stop);
            return Ok(());
        }
        let task = format!("task-{number}");
        match service.call("StartWebcast", &webcast_request(server, &task)) {
            Ok((true, _)) => drop(self.started.insert(task)),
            Ok((false, answer)) => bail!("{task} was refused: {answer}"),
            Err(_) => drop(self.unanswered.insert(task)),
        }
        Ok(())
    }
}

/// `Status` of the callbacks of each task, in order. Repeated deliveries of an event count once.
fn statuses_by_task(callbacks: &[ReceivedRequest]) -> BTreeMap<String, Vec<u64>> {
    let mut known = BTreeSet::new();
    let mut all = BTreeMap::<String, Vec<u64>>::new();
    for callback in callbacks {
        let body = callback.json();
        let data: Value =
            serde_json::from_str(body["EventData"].as_str().unwrap_or_default()).unwrap_or_default();
        if known.insert(body["EventId"].to_string())
            && let (Some(task), Some(status)) = (data["TaskId"].as_str(), data["Status"].as_u64())
        {
            all.entry(task.to_owned()).or_default().push(status);
        }
    }
    all
}

/// `Status` of a task in `GetWebCastTask`: started and not yet live.
const STATUS_STARTING: u64 = 1;
/// `Status` of a task in `GetWebCastTask`: live.
const STATUS_LIVE: u64 = 2;
/// `Status` of a callback: the cast is live.
const EVENT_LIVE: u64 = 1;
/// `Status` of callbacks: the cast has ended, or has failed.
const EVENTS_END: [u64; 2] = [2, 3];

fn task_params(task: &str) -> Value {
    json!({ "AppId": APP_ID, "RoomId": "room", "TaskId": task })
}

fn status(service: &ServiceProcess, task: &str) -> Result<u64> {
    let (_, answer) = service.call("GetWebCastTask", &task_params(task))?;
    answer["Result"]["WebCastTask"]["Status"].as_u64().with_context(|| format!("{task}: {answer}"))
}

fn has_ended(statuses: &[u64]) -> bool {
    statuses.last().is_some_and(|last| EVENTS_END.contains(last))
}

#[test]
fn kills_lose_neither_casts_nor_callbacks() -> Result<()> {
    let _turn = MachineLock::shared()?;
    for (seed, backend) in SEEDS {
        check_kills(seed, backend).with_context(|| format!("seed {seed:#x}, {backend:?}"))?;
    }
    Ok(())
}

/// Kills the service [`KILLS_PER_SEED`] times between and during requests, then checks casts and callbacks.
fn check_kills(seed: u64, backend: Backend) -> Result<()> {
    let (server, receiver) = (PageServer::start()?, WebhookReceiver::start()?);
    let mut service = start_service(&receiver, backend)?;
    let (mut rng, mut requested, mut killed_live) = (Rng(seed), RequestedCasts::default(), 0);
    let begin = Instant::now();
    for number in 0..KILLS_PER_SEED {
        if (number + 1).is_multiple_of(LIVE_KILL_INTERVAL) {
            killed_live += requested.wait_until_live(&service)?;
        }
        let delay = Duration::from_millis(rng.below(900));
        let mut request_rng = Rng(rng.below(u64::MAX) | 1);
        std::thread::scope(|scope| -> Result<()> {
            let (service, requested, server) = (&service, &mut requested, &server);
            let request =
                scope.spawn(move || requested.start_or_stop_cast(service, server, &mut request_rng, number));
            std::thread::sleep(delay);
            // The request may be under way.
            service.signal(pagecast_testkit::Signal::KILL)?;
            request.join().map_err(|_| anyhow::anyhow!("the thread with the request panicked"))?
        })?;
        service.kill();
        service.restart()?;
    }
    println!(
        "seed {seed:#x}, {backend:?}: {KILLS_PER_SEED} kills in {:.0} s, {} casts, {killed_live} live when \
         killed",
        begin.elapsed().as_secs_f64(),
        requested.started.len()
    );
    ensure!(killed_live > 0, "no cast was live when the service was killed");
    settle_and_stop_all(&mut service, &receiver, &mut requested)?;
    verify_callbacks(&statuses_by_task(&receiver.received()), &requested)?;
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

/// Laws of the callbacks: each cast ends once, with its last event; a cast that was live is reported as live
/// exactly once, before anything else; others at most once.
fn verify_callbacks(statuses_by_task: &BTreeMap<String, Vec<u64>>, requested: &RequestedCasts) -> Result<()> {
    for (task, statuses) in statuses_by_task {
        let is_requested = requested.started.contains(task) || requested.unanswered.contains(task);
        ensure!(is_requested, "{task} was never requested");
        let ends = statuses.iter().filter(|status| EVENTS_END.contains(status)).count();
        ensure!(ends == 1 && has_ended(statuses), "{task} has the events {statuses:?}");
        let live = statuses.iter().filter(|status| **status == EVENT_LIVE).count();
        ensure!(live <= 1, "{task} has the events {statuses:?}");
        if requested.seen_live.contains(task) {
            ensure!(statuses.first() == Some(&EVENT_LIVE), "{task} was live and has the events {statuses:?}");
        }
    }
    let lost: Vec<_> =
        requested.started.iter().filter(|task| !statuses_by_task.contains_key(*task)).collect();
    ensure!(lost.is_empty(), "there are no callbacks of {lost:?}");
    Ok(())
}

/// Waits until all casts that must be running are live, each in one process. Then stops all casts and waits
/// for their last callbacks.
fn settle_and_stop_all(
    service: &mut ServiceProcess,
    receiver: &WebhookReceiver,
    requested: &mut RequestedCasts,
) -> Result<()> {
    requested.wait_until_live(service)?;
    let running = requested.running();
    // Requests without a response may have been carried out.
    let uncertain: Vec<String> = requested.unanswered.union(&requested.stopped).cloned().collect();
    wait_until("each running cast has one process", TIMEOUT, || {
        let active = [STATUS_STARTING, STATUS_LIVE];
        let is_active = |task: &&String| status(service, task).is_ok_and(|status| active.contains(&status));
        let expected = running.len() + uncertain.iter().filter(is_active).count();
        let processes = service.cast_pids();
        ensure!(processes.len() == expected, "{expected} casts run, in the processes {processes:?}");
        Ok(())
    })?;
    for task in running.iter().chain(&uncertain) {
        // A cast that has ended cannot be stopped.
        let _stopped = service.call("StopWebcast", &task_params(task))?;
    }
    let all_ended = |callbacks: &[ReceivedRequest]| {
        let by_task = statuses_by_task(callbacks);
        by_task.values().all(|statuses| has_ended(statuses))
            && requested.started.iter().all(|task| by_task.contains_key(task))
    };
    receiver.wait_until("all ends are reported", TIMEOUT, all_ended)?;
    Ok(())
}
