//! The service dies, again and again, whenever it likes: no cast is lost, none runs twice, and whoever wants to know is told all of it.
#![expect(clippy::print_stdout, reason = "what was measured is shown beside a failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pagecast_testkit::media::beeps;
use pagecast_testkit::service::{APP_ID, SDK_APP_ID};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    MachineLock, PageServer, ReceivedRequest, Recording, ServiceConfig, ServiceProcess, WebhookReceiver,
    av_sync,
};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Times that the service is killed.
const KILL_COUNT: u32 = 30;
/// Casts that are wanted at a time while it is.
const MAX_RUNNING_CASTS: usize = 3;

/// A recording by Tencent's API to a folder, small.
fn record_request(server: &PageServer, page: &str) -> Value {
    json!({
        "RecordUrl": server.url(page),
        "SdkAppId": SDK_APP_ID,
        "StorageParams": { "CloudStorage": {
            "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "rec-1250000000", "AccessKey": "a", "SecretKey": "s",
        }},
        "WebRecordVideoParams": { "Width": 640, "Height": 360 },
    })
}

/// A webcast by Volcengine's API, small.
fn webcast_request(server: &PageServer, task: &str) -> Value {
    json!({
        "AppId": APP_ID, "RoomId": "room", "TaskId": task, "UserId": format!("webcast_{task}"),
        "SourceURL": server.url("counter.html"),
        "VideoSolutions": [{ "Width": 160, "Height": 90, "FrameRate": 5 }],
    })
}

fn start_service(receiver: &WebhookReceiver) -> Result<ServiceProcess> {
    ServiceProcess::start(
        PAGECAST,
        &ServiceConfig { callback_url: Some(receiver.url("")), ..ServiceConfig::default() },
    )
}

/// The types of page and file events of a task, in the order in which they came.
fn task_events(told: &[ReceivedRequest], task: &str) -> Vec<(u64, u64)> {
    let of = |told: &ReceivedRequest| {
        let body = told.json();
        let info = &body["EventInfo"];
        let id = info["TaskId"].as_str()?;
        id.starts_with(task)
            .then(|| Some((body["EventType"].as_u64()?, info["Payload"]["Status"].as_u64()?)))?
    };
    told.iter().filter_map(of).collect()
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
    let mut service = start_service(&receiver)?;
    let (done, answer) = service.call("StartWebRecord", &record_request(&server, "sync.html"))?;
    ensure!(done, "{answer}");
    let task = answer["Response"]["TaskId"].as_str().context("no task")?.to_owned();
    let came = |event: (u64, u64)| {
        let task = task.clone();
        move |told: &[ReceivedRequest]| task_events(told, &task).contains(&event)
    };
    receiver.wait_until("it is live", TIMEOUT, came((801, 1)))?;
    std::thread::sleep(Duration::from_secs(4));
    service.kill();
    // Nobody is there meanwhile: viewers of the recording see the gap, and nothing of before is lost.
    std::thread::sleep(Duration::from_secs(1));
    service.restart()?;
    receiver.wait_until("another one goes on", TIMEOUT, came((801, 4)))?;
    let (running, described) = service.call("DescribeWebRecord", &json!({ "TaskId": task }))?;
    ensure!(running && described["Response"]["Status"] == 1, "{described}");
    std::thread::sleep(Duration::from_secs(5));
    ensure!(service.cast_pids().len() == 1, "one process runs the cast: {:?}", service.cast_pids());
    // An operator restarts it, too.
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)?;
    service.restart()?;
    let twice = |told: &[ReceivedRequest]| {
        task_events(told, &task).iter().filter(|event| **event == (801, 4)).count() == 2
    };
    receiver.wait_until("it goes on again", TIMEOUT, twice)?;
    std::thread::sleep(Duration::from_secs(4));
    ensure!(service.call("StopWebRecord", &json!({ "TaskId": task }))?.0, "it cannot be stopped");
    let told = receiver.wait_until("it is stored", TIMEOUT, came((310, 0)))?;
    let expected = [(801, 1), (801, 4), (801, 4), (802, 1), (310, 0)];
    ensure!(task_events(&told, &task) == expected, "{:?}", task_events(&told, &task));
    let (_, gone) = service.call("DescribeWebRecord", &json!({ "TaskId": task }))?;
    ensure!(gone["Response"]["Error"]["Code"] == "FailedOperation.TaskNotExist", "{gone}");
    verify_recording(&stored_file(&service, &task)?)?;
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

/// That all three parts of it are there, in step.
fn verify_recording(path: &Path) -> Result<()> {
    let file = Recording::open(path)?;
    println!("{:.1} s", file.end_s());
    ensure!(file.end_s() > 4.0, "only {:.1} s", file.end_s());
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    ensure!(pictures.is_sorted_by(|a, b| a.pts_s < b.pts_s), "pictures go back in time");
    // The page begins anew with each process.
    let counters: Vec<u32> = pictures.iter().filter_map(|p| p.timecode.as_ref()).map(|s| s.counter).collect();
    let starts = counters.windows(2).filter(|pair| pair[1] < pair[0]).count();
    ensure!(starts == 2, "the page began {starts} more times");
    let [onsets] = beeps::onsets_of_each(file.pcm()?, [av_sync::PAGE_BEEP])?;
    let offsets = av_sync::page_offsets(&pictures, &onsets);
    println!("{offsets}");
    let good = offsets.measurements.iter().filter(|(_, ms)| ms.abs() <= 40.0).count();
    ensure!(good * 4 >= offsets.len() * 3 && offsets.len() >= 2, "{:?}", offsets.measurements);
    Ok(())
}

/// Numbers without rhyme or reason, the same each time.
struct Rng(u64);

impl Rng {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What was asked for while the service was killed.
#[derive(Default)]
struct RequestedCasts {
    /// Casts whose start was answered with a success.
    started: BTreeSet<String>,
    /// Those whose stop was asked for, whatever was answered.
    stopped: BTreeSet<String>,
    /// Those whose start was not answered: they may be there or not.
    unanswered: BTreeSet<String>,
}

impl RequestedCasts {
    /// Starts a cast, or stops one.
    fn start_or_stop_cast(
        &mut self,
        service: &ServiceProcess,
        server: &PageServer,
        chance: &mut Rng,
        number: u32,
    ) -> Result<()> {
        let running: Vec<String> = self.started.difference(&self.stopped).cloned().collect();
        if running.len() >= MAX_RUNNING_CASTS || !running.is_empty() && chance.below(3) == 0 {
            let task = running[usize::try_from(chance.below(running.len() as u64))?].clone();
            let stop = json!({ "AppId": APP_ID, "RoomId": "room", "TaskId": task });
            self.stopped.insert(task);
            // The service may die of it.
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

/// `Status` of the callbacks of each task, those with an id that came before left out.
fn statuses_by_task(told: &[ReceivedRequest]) -> BTreeMap<String, Vec<u64>> {
    let mut known = BTreeSet::new();
    let mut all = BTreeMap::<String, Vec<u64>>::new();
    for told in told {
        let body = told.json();
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

#[test]
fn thirty_kills_lose_nothing() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, receiver) = (PageServer::start()?, WebhookReceiver::start()?);
    let mut service = start_service(&receiver)?;
    let (mut chance, mut asked) = (Rng(0x9e37_79b9_7f4a_7c15), RequestedCasts::default());
    let begin = Instant::now();
    for number in 0..KILL_COUNT {
        let delay = Duration::from_millis(chance.below(900));
        let seed = Rng(chance.below(u64::MAX) | 1);
        std::thread::scope(|scope| -> Result<()> {
            let (service, asked, server) = (&service, &mut asked, &server);
            let asking =
                scope.spawn(move || asked.start_or_stop_cast(service, server, &mut { seed }, number));
            std::thread::sleep(delay);
            // Dies while it is being asked, as likely as not.
            service.signal(pagecast_testkit::Signal::KILL)?;
            asking.join().map_err(|_| anyhow::anyhow!("the asking panicked"))?
        })?;
        service.kill();
        service.restart()?;
    }
    println!("{KILL_COUNT} deaths in {:.0} s, {} casts", begin.elapsed().as_secs_f64(), asked.started.len());
    settle_and_stop_all(&mut service, &receiver, &asked)?;
    let told = receiver.received();
    let told_of = statuses_by_task(&told);
    for (task, statuses) in &told_of {
        let ends = statuses.iter().filter(|status| matches!(status, 2 | 3)).count();
        ensure!(ends == 1 && matches!(statuses.last(), Some(2 | 3)), "{task} was told {statuses:?}");
        ensure!(statuses.iter().filter(|status| **status == 1).count() <= 1, "{task} was told {statuses:?}");
        ensure!(asked.started.contains(task) || asked.unanswered.contains(task), "nobody asked for {task}");
    }
    let lost: Vec<_> = asked.started.iter().filter(|task| !told_of.contains_key(*task)).collect();
    ensure!(lost.is_empty(), "nobody was told of {lost:?}");
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

/// All casts that should run do, each once; then all of them are ended.
fn settle_and_stop_all(
    service: &mut ServiceProcess,
    receiver: &WebhookReceiver,
    asked: &RequestedCasts,
) -> Result<()> {
    let of = |task: &str| json!({ "AppId": APP_ID, "RoomId": "room", "TaskId": task });
    let status = |service: &ServiceProcess, task: &str| -> Result<u64> {
        let (_, answer) = service.call("GetWebCastTask", &of(task))?;
        answer["Result"]["WebCastTask"]["Status"].as_u64().with_context(|| format!("{task}: {answer}"))
    };
    let wanted: Vec<&String> = asked.started.difference(&asked.stopped).collect();
    // What was not answered was done or not.
    let perhaps: Vec<&String> = asked.unanswered.union(&asked.stopped).collect();
    let begin = Instant::now();
    loop {
        let running = wanted.iter().map(|task| status(service, task)).collect::<Result<Vec<_>>>()?;
        let more = perhaps.iter().filter(|task| matches!(status(service, task), Ok(1 | 2))).count();
        let processes = service.cast_pids();
        if running.iter().all(|status| *status == 2) && processes.len() == wanted.len() + more {
            break;
        }
        ensure!(
            begin.elapsed() < TIMEOUT,
            "{wanted:?} have {running:?}, {more} more; processes: {processes:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    for task in wanted.into_iter().chain(perhaps) {
        // One that is not there cannot be stopped.
        let _stopped = service.call("StopWebcast", &of(task))?;
    }
    let ended = |statuses: &Vec<u64>| matches!(statuses.last(), Some(2 | 3));
    let all_ended = |told: &[ReceivedRequest]| {
        let told = statuses_by_task(told);
        told.values().all(ended) && asked.started.iter().all(|task| told.contains_key(task))
    };
    receiver.wait_until("all ends are told", TIMEOUT, all_ended)?;
    Ok(())
}
