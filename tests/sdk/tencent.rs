//! Tencent's SDKs: for Python, Node.js and Go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::service::SDK_APP_ID;
use pagecast_testkit::{Receiver, Server, Service, Setup, Turn};
use serde_json::{Map, Value, json};

use crate::client::{LIMIT, Language, Sdk, patched, until};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TC3: &str = "TC3-HMAC-SHA256";
const RECORD_ID: &str = "sdk_life_1";
const GONE: &str = "FailedOperation.TaskNotExist";
/// The vendor takes 20 a second of each action.
const PACE: Duration = Duration::from_millis(60);

/// An SDK that keeps to the vendor's pace.
pub(crate) struct Tencent {
    sdk: Sdk,
    language: Language,
    last: Instant,
}

impl Tencent {
    pub(crate) fn start(language: Language, service: &Service) -> Result<Option<Self>> {
        let sdk = Sdk::start(language, "tencent", service)?;
        Ok(sdk.map(|sdk| Self { sdk, language, last: Instant::now() }))
    }

    fn ask(&mut self, step: &Value) -> Result<Value> {
        std::thread::sleep(PACE.saturating_sub(self.last.elapsed()));
        self.last = Instant::now();
        let usual = json!({ "version": "2019-07-22", "region": "ap-guangzhou", "sign": TC3, "typed": true });
        self.sdk.ask(&patched(usual, step))
    }

    /// What a call that did well returns.
    pub(crate) fn ok(&mut self, step: &Value) -> Result<Map<String, Value>> {
        let answer = self.ask(step)?;
        let returned =
            answer["returned"].as_object().with_context(|| format!("{step} raised: {answer}"))?.clone();
        let id = returned.get("RequestId").and_then(Value::as_str).unwrap_or_default();
        ensure!(id.len() == 36, "{step} has no request id: {answer}");
        Ok(returned)
    }

    /// The code and the message of what this SDK raises.
    fn refusal(&self, answer: &Value) -> Result<(String, String)> {
        let raised = &answer["raised"];
        let kind = match self.language {
            Language::Python => "TencentCloudSDKException",
            Language::Node => "TencentCloudSDKHttpException",
            Language::Go => "TencentCloudSDKError",
        };
        ensure!(raised["type"] == kind, "it raised no {kind}: {answer}");
        ensure!(raised["request_id"].as_str().is_some_and(|id| id.len() == 36), "no request id: {answer}");
        let text = |name: &str| raised[name].as_str().unwrap_or_default().to_owned();
        let (code, message) = (text("code"), text("message"));
        ensure!(message.len() > 8, "no message: {answer}");
        Ok((code, message))
    }

    fn refused(&mut self, step: &Value, code: &str) -> Result<String> {
        let answer = self.ask(step)?;
        let (came, message) = self.refusal(&answer).with_context(|| step.to_string())?;
        ensure!(came == code, "{:?}, {step}: {came} ({message}), not {code}", self.language);
        Ok(message)
    }
}

fn start(page: &str) -> Value {
    let params = json!({
        "RecordUrl": page,
        "SdkAppId": SDK_APP_ID,
        "MaxDurationLimit": 300,
        "RecordId": RECORD_ID,
        "ReadyTimeout": 0,
        "WebRecordVideoParams": { "Width": 320, "Height": 180, "Format": "mp4" },
        "StorageParams": { "CloudStorage": {
            "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "rec-125",
            "AccessKey": "AKIDtest", "SecretKey": "secret+/=", "FileNamePrefix": ["record", "video_1"],
        }},
    });
    json!({ "action": "StartWebRecord", "params": params })
}

fn about(action: &str, params: &Value) -> Value {
    json!({ "action": action, "params": params })
}

/// All ways to sign and to send.
fn ways(language: Language) -> Vec<Value> {
    let mut ways = Vec::new();
    for sign in [TC3, "HmacSHA1", "HmacSHA256"] {
        for method in ["POST", "GET"] {
            ways.push(json!({ "sign": sign, "method": method }));
        }
    }
    // That for Node.js cannot leave the payload out.
    if language != Language::Node {
        ways.push(json!({ "sign": TC3, "unsigned": true }));
        ways.push(json!({ "sign": TC3, "method": "GET", "unsigned": true }));
    }
    ways
}

/// A task from its start to its file.
fn life(tencent: &mut Tencent, page: &str, service: &Service, told: &Receiver) -> Result<()> {
    let started = tencent.ok(&start(page))?;
    let id = started["TaskId"].clone();
    let path = id.as_str().context("no task")?;
    let by_id = json!({ "TaskId": id });
    let by_record = json!({ "SdkAppId": SDK_APP_ID, "RecordId": RECORD_ID });
    wait_for_event(told, path, 801)?;
    for way in ways(tencent.language) {
        let with = |step: Value| patched(step, &way);
        let found = tencent.ok(&with(about("DescribeWebRecord", &by_id)))?;
        ensure!(found["Status"] == 1 && found["RecordId"] == RECORD_ID, "{way}: {found:?}");
        let found = tencent.ok(&with(about("DescribeWebRecord", &by_record)))?;
        ensure!(found["Status"] == 1 && found["TaskId"] == id, "{way}: {found:?}");
        // It is refused by the last of all checks: all before it did well, of every field.
        tencent.refused(&with(start(page)), "FailedOperation.TaskExist")?;
        let wrong = patched(start(page), &json!({ "secret": "wrong" }));
        tencent.refused(&with(wrong), "AuthFailure.SignatureFailure")?;
        let late = patched(start(page), &json!({ "params": { "ReadyTimeout": 61 } }));
        tencent.refused(&with(late), "InvalidParameter.OutOfRange")?;
        tencent.refused(&with(about("StopWebRecord", &json!({ "TaskId": "abc+/=def" }))), GONE)?;
    }
    // The application may have one.
    let second = patched(start(page), &json!({ "params": { "RecordId": null } }));
    tencent.refused(&second, "ResourceInsufficient.RequestRejection")?;
    let stopped = tencent.ok(&about("StopWebRecord", &by_id))?;
    ensure!(stopped.get("TaskId").is_none_or(Value::is_null), "{stopped:?}");
    wait_for_event(told, path, 310)?;
    until("the task is over", || {
        let answer = tencent.ask(&about("DescribeWebRecord", &by_id))?;
        Ok(answer.get("raised").is_some().then_some(()))
    })?;
    for (action, params) in
        [("DescribeWebRecord", &by_id), ("DescribeWebRecord", &by_record), ("StopWebRecord", &by_id)]
    {
        let message = tencent.refused(&about(action, params), GONE)?;
        ensure!(message == "task not exist", "{message}");
    }
    let folder = service.data().join("buckets/rec-125/record/video_1").join(path);
    let files: Vec<_> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    let video = files.iter().find(|file| file.extension().is_some_and(|ending| ending == "mp4"));
    ensure!(video.is_some(), "no recording in {}: {files:?}", folder.display());
    Ok(())
}

/// Waits until the callbacks say this of a task.
pub(crate) fn wait_for_event(told: &Receiver, task: &str, event: u64) -> Result<()> {
    let like = |body: &Value| {
        // Those about files have something behind it.
        let of = body["EventInfo"]["TaskId"].as_str().is_some_and(|id| id.starts_with(task));
        of && body["EventType"] == event
    };
    told.wait_until(&format!("event {event} of {task}"), LIMIT, |told| told.iter().any(|t| like(&t.json())))?;
    Ok(())
}

/// What is asked, beside a good start, and the code that comes back.
fn refusals() -> Vec<(Value, &'static str)> {
    let params = |patch: Value| json!({ "params": patch });
    let cloud = |patch: Value| json!({ "params": { "StorageParams": { "CloudStorage": patch } } });
    let eleven = vec![json!({ "PublishCdnUrl": "rtmp://127.0.0.1/live/a", "IsTencentCdn": 0 }); 11];
    let vod = json!({ "CloudStorage": null, "CloudVod": { "TencentVod": { "ExpireTime": 86400 } } });
    let mut rows = vec![
        (json!({ "key": "AKIDnobody" }), "AuthFailure.SecretIdNotFound"),
        (json!({ "secret": "wrong" }), "AuthFailure.SignatureFailure"),
        (json!({ "token": "a token" }), "AuthFailure.TokenFailure"),
        (json!({ "skip_sign": true }), "AuthFailure.InvalidAuthorization"),
        (json!({ "action": "StartEverything" }), "InvalidAction"),
        (json!({ "version": "2020-12-01" }), "NoSuchVersion"),
        (params(json!({ "RecordUrl": null })), "MissingParameter"),
        (params(json!({ "RecordUrl": "file:///etc/passwd" })), "InvalidParameter"),
        (params(json!({ "SdkAppId": 1_499_999_999 })), "FailedOperation.SdkAppIdNotUnderAppId"),
        (params(json!({ "SdkAppId": 0 })), "InvalidParameter.SdkAppId"),
        (params(json!({ "SdkAppId": "many" })), "InvalidParameter"),
        (params(json!({ "RecordId": "r".repeat(32) })), "InvalidParameter.RecordId"),
        (params(json!({ "MaxDurationLimit": 86_401 })), "InvalidParameter.OutOfRange"),
        (params(json!({ "MaxDurationLimit": 9 })), "InvalidParameter.OutOfRange"),
        (params(json!({ "ReadyTimeout": -1 })), "InvalidParameter.OutOfRange"),
        (params(json!({ "ReadyTimeout": 1.5 })), "InvalidParameter"),
        (params(json!({ "WebRecordVideoParams": { "Width": 1921 } })), "InvalidParameter.OutOfRange"),
        (params(json!({ "WebRecordVideoParams": { "Format": "avi" } })), "InvalidParameter"),
        (params(json!({ "PublishCdnParams": eleven })), "InvalidParameter.PublishCdnUrls"),
        (
            params(json!({ "PublishCdnParams": [{ "PublishCdnUrl": "http://a/b" }] })),
            "InvalidParameter.PublishCdnUrls",
        ),
        (params(json!({ "StorageParams": null })), "MissingParameter.StorageParams"),
        (cloud(json!(null)), "MissingParameter.CloudStorage"),
        (cloud(json!({ "Vendor": 2 })), "InvalidParameter.OutOfRange"),
        (cloud(json!({ "FileNamePrefix": ["a/b"] })), "InvalidParameter"),
        (params(json!({ "StorageParams": vod })), "FailedOperation.NotAbility"),
    ];
    for (name, code) in [
        ("Vendor", "MissingParameter.Vendor"),
        ("Region", "MissingParameter.Region"),
        ("Bucket", "MissingParameter.Bucket"),
        ("AccessKey", "MissingParameter.AccessKey"),
        ("SecretKey", "MissingParameter.SecretKey"),
    ] {
        rows.push((cloud(json!({ name: null })), code));
    }
    rows
}

fn refuses(tencent: &mut Tencent) -> Result<()> {
    // The typed clients have their own opinion of what is not a number.
    let good = patched(start("http://127.0.0.1/"), &json!({ "typed": false }));
    for (patch, code) in refusals() {
        tencent.refused(&patched(good.clone(), &patch), code)?;
    }
    for (action, params, code) in [
        ("StopWebRecord", json!({}), "MissingParameter.TaskId"),
        ("StopWebRecord", json!({ "TaskId": "not an id" }), "InvalidParameter.TaskId"),
        ("StopWebRecord", json!({ "TaskId": "abc+/-_=." }), GONE),
        ("DescribeWebRecord", json!({}), "MissingParameter.TaskId"),
        ("DescribeWebRecord", json!({ "RecordId": "r" }), "MissingParameter.SdkAppId"),
        ("DescribeWebRecord", json!({ "RecordId": "r", "SdkAppId": SDK_APP_ID }), GONE),
        ("DescribeWebRecord", json!({ "TaskId": "页" }), "InvalidParameter.TaskId"),
    ] {
        for way in ways(tencent.language) {
            tencent.refused(&patched(about(action, &params), &way), code)?;
        }
    }
    // The SDK for Go asks the clock of the machine.
    if tencent.language != Language::Go {
        for clock in [-301 - 60, 301 + 60] {
            for way in ways(tencent.language) {
                let step = patched(about("DescribeWebRecord", &json!({ "TaskId": "t" })), &way);
                tencent.refused(&patched(step, &json!({ "clock": clock })), "AuthFailure.SignatureExpire")?;
            }
        }
    }
    Ok(())
}

/// More questions a second than there may be.
fn too_often(tencent: &mut Tencent) -> Result<()> {
    let step = patched(about("DescribeWebRecord", &json!({ "TaskId": "t" })), &json!({ "times": 100 }));
    let code = until("more than 20 questions in a second", || {
        let answer = tencent.ask(&step)?;
        for one in answer["all"].as_array().with_context(|| format!("no answers: {answer}"))? {
            let (code, _message) = tencent.refusal(one)?;
            if code != GONE {
                return Ok(Some(code));
            }
        }
        Ok(None)
    })?;
    ensure!(code == "RequestLimitExceeded", "{code}");
    Ok(())
}

fn all_of(language: Language) -> Result<()> {
    let _turn = Turn::shared()?;
    let (pages, told) = (Server::start()?, Receiver::start()?);
    let setup =
        Setup { callbacks: Some(told.url("")), application: "max_casts = 1".to_owned(), ..Setup::default() };
    let service = Service::start(PAGECAST, &setup)?;
    let Some(mut tencent) = Tencent::start(language, &service)? else { return Ok(()) };
    refuses(&mut tencent)?;
    life(&mut tencent, &pages.url("counter.html?name=页&tags=a+b"), &service, &told)?;
    too_often(&mut tencent)
}

#[test]
fn tencent_for_python() -> Result<()> {
    all_of(Language::Python)
}

#[test]
fn tencent_for_node() -> Result<()> {
    all_of(Language::Node)
}

#[test]
fn tencent_for_go() -> Result<()> {
    all_of(Language::Go)
}
