//! Tencent's SDKs: for Python, Node.js and Go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::service::SDK_APP_ID;
use pagecast_testkit::{Backend, MachineLock, PageServer, ServiceConfig, ServiceProcess, WebhookReceiver};
use serde_json::{Map, Value, json};

use crate::client::{Language, SdkClient, TIMEOUT, merge_patch, poll_until};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TC3: &str = "TC3-HMAC-SHA256";
pub(crate) const RECORD_ID: &str = "sdk_life_1";
pub(crate) const TASK_NOT_EXIST: &str = "FailedOperation.TaskNotExist";
/// Pause between calls. The vendor allows 20 per second of each action.
const MIN_CALL_INTERVAL: Duration = Duration::from_millis(60);

/// An SDK client that stays below the vendor's rate limit.
pub(crate) struct TencentClient {
    sdk: SdkClient,
    language: Language,
    last_call: Instant,
}

impl TencentClient {
    pub(crate) fn start(language: Language, service: &ServiceProcess) -> Result<Option<Self>> {
        let sdk = SdkClient::start(language, "tencent", service)?;
        Ok(sdk.map(|sdk| Self { sdk, language, last_call: Instant::now() }))
    }

    /// Sends all further calls to this service.
    pub(crate) fn connect_to(&mut self, service: &ServiceProcess) {
        self.sdk.connect_to(service);
    }

    fn call(&mut self, step: &Value) -> Result<Value> {
        std::thread::sleep(MIN_CALL_INTERVAL.saturating_sub(self.last_call.elapsed()));
        self.last_call = Instant::now();
        let defaults =
            json!({ "version": "2019-07-22", "region": "ap-guangzhou", "sign": TC3, "typed": true });
        self.sdk.call(&merge_patch(defaults, step))
    }

    /// Result of a call that must succeed.
    pub(crate) fn expect_ok(&mut self, step: &Value) -> Result<Map<String, Value>> {
        let answer = self.call(step)?;
        let returned =
            answer["returned"].as_object().with_context(|| format!("{step} raised: {answer}"))?.clone();
        let id = returned.get("RequestId").and_then(Value::as_str).unwrap_or_default();
        ensure!(id.len() == 36, "{step} has no request id: {answer}");
        Ok(returned)
    }

    /// Code and message of the error that this SDK raised.
    fn parse_error(&self, answer: &Value) -> Result<(String, String)> {
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

    /// Message of the error of a call that must be refused with this code.
    pub(crate) fn expect_error(&mut self, step: &Value, code: &str) -> Result<String> {
        let answer = self.call(step)?;
        let (actual, message) = self.parse_error(&answer).with_context(|| step.to_string())?;
        ensure!(actual == code, "{:?}, {step}: {actual} ({message}), expected {code}", self.language);
        Ok(message)
    }
}

/// Step that starts a small recording of a page.
pub(crate) fn start_step(page: &str) -> Value {
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

fn task_step(action: &str, params: &Value) -> Value {
    json!({ "action": action, "params": params })
}

/// All combinations of signature and HTTP method.
fn signing_variants(language: Language) -> Vec<Value> {
    let mut variants = Vec::new();
    for sign in [TC3, "HmacSHA1", "HmacSHA256"] {
        for method in ["POST", "GET"] {
            variants.push(json!({ "sign": sign, "method": method }));
        }
    }
    // The SDK for Node.js always signs the payload.
    if language != Language::Node {
        variants.push(json!({ "sign": TC3, "unsigned": true }));
        variants.push(json!({ "sign": TC3, "method": "GET", "unsigned": true }));
    }
    variants
}

/// Checks a task from its start to its stored file.
fn check_lifecycle(
    tencent: &mut TencentClient,
    page: &str,
    service: &ServiceProcess,
    receiver: &WebhookReceiver,
) -> Result<()> {
    let started = tencent.expect_ok(&start_step(page))?;
    let id = started["TaskId"].clone();
    let path = id.as_str().context("no task")?;
    let by_id = json!({ "TaskId": id });
    let by_record = json!({ "SdkAppId": SDK_APP_ID, "RecordId": RECORD_ID });
    wait_for_event(receiver, path, 801)?;
    for variant in signing_variants(tencent.language) {
        let with = |step: Value| merge_patch(step, &variant);
        let found = tencent.expect_ok(&with(task_step("DescribeWebRecord", &by_id)))?;
        ensure!(found["Status"] == 1 && found["RecordId"] == RECORD_ID, "{variant}: {found:?}");
        let found = tencent.expect_ok(&with(task_step("DescribeWebRecord", &by_record)))?;
        ensure!(found["Status"] == 1 && found["TaskId"] == id, "{variant}: {found:?}");
        // The check for a running task is the last one, so all fields passed theirs.
        tencent.expect_error(&with(start_step(page)), "FailedOperation.TaskExist")?;
        let wrong = merge_patch(start_step(page), &json!({ "secret": "wrong" }));
        tencent.expect_error(&with(wrong), "AuthFailure.SignatureFailure")?;
        let late = merge_patch(start_step(page), &json!({ "params": { "ReadyTimeout": 61 } }));
        tencent.expect_error(&with(late), "InvalidParameter.OutOfRange")?;
        tencent.expect_error(
            &with(task_step("StopWebRecord", &json!({ "TaskId": "abc+/=def" }))),
            TASK_NOT_EXIST,
        )?;
    }
    // The application is limited to one cast.
    let second = merge_patch(start_step(page), &json!({ "params": { "RecordId": null } }));
    tencent.expect_error(&second, "ResourceInsufficient.RequestRejection")?;
    let stopped = tencent.expect_ok(&task_step("StopWebRecord", &by_id))?;
    ensure!(stopped.get("TaskId").is_none_or(Value::is_null), "{stopped:?}");
    wait_for_event(receiver, path, 310)?;
    poll_until("the task has ended", || {
        let answer = tencent.call(&task_step("DescribeWebRecord", &by_id))?;
        Ok(answer.get("raised").is_some().then_some(()))
    })?;
    for (action, params) in
        [("DescribeWebRecord", &by_id), ("DescribeWebRecord", &by_record), ("StopWebRecord", &by_id)]
    {
        let message = tencent.expect_error(&task_step(action, params), TASK_NOT_EXIST)?;
        ensure!(message == "task not exist", "{message}");
    }
    let folder = service.data_folder().join("buckets/rec-125/record/video_1").join(path);
    let files: Vec<_> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    let video = files.iter().find(|file| file.extension().is_some_and(|extension| extension == "mp4"));
    ensure!(video.is_some(), "no recording in {}: {files:?}", folder.display());
    Ok(())
}

/// Waits for a callback with this event of a task.
pub(crate) fn wait_for_event(receiver: &WebhookReceiver, task: &str, event: u64) -> Result<()> {
    let matches = |body: &Value| {
        // Callbacks about files append to the task id.
        let is_task = body["EventInfo"]["TaskId"].as_str().is_some_and(|id| id.starts_with(task));
        is_task && body["EventType"] == event
    };
    receiver.wait_until(&format!("event {event} of {task}"), TIMEOUT, |received| {
        received.iter().any(|callback| matches(&callback.json()))
    })?;
    Ok(())
}

/// Changes to a valid start step, and the expected error codes.
fn error_cases() -> Vec<(Value, &'static str)> {
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

fn check_errors(tencent: &mut TencentClient) -> Result<()> {
    // Typed clients would refuse some values themselves.
    let good = merge_patch(start_step("http://127.0.0.1/"), &json!({ "typed": false }));
    for (patch, code) in error_cases() {
        tencent.expect_error(&merge_patch(good.clone(), &patch), code)?;
    }
    for (action, params, code) in [
        ("StopWebRecord", json!({}), "MissingParameter.TaskId"),
        ("StopWebRecord", json!({ "TaskId": "not an id" }), "InvalidParameter.TaskId"),
        ("StopWebRecord", json!({ "TaskId": "abc+/-_=." }), TASK_NOT_EXIST),
        ("DescribeWebRecord", json!({}), "MissingParameter.TaskId"),
        ("DescribeWebRecord", json!({ "RecordId": "r" }), "MissingParameter.SdkAppId"),
        ("DescribeWebRecord", json!({ "RecordId": "r", "SdkAppId": SDK_APP_ID }), TASK_NOT_EXIST),
        ("DescribeWebRecord", json!({ "TaskId": "页" }), "InvalidParameter.TaskId"),
    ] {
        for variant in signing_variants(tencent.language) {
            tencent.expect_error(&merge_patch(task_step(action, &params), &variant), code)?;
        }
    }
    // The SDK for Go uses the clock of the machine.
    if tencent.language != Language::Go {
        for clock in [-301 - 60, 301 + 60] {
            for variant in signing_variants(tencent.language) {
                let step = merge_patch(task_step("DescribeWebRecord", &json!({ "TaskId": "t" })), &variant);
                tencent.expect_error(
                    &merge_patch(step, &json!({ "clock": clock })),
                    "AuthFailure.SignatureExpire",
                )?;
            }
        }
    }
    Ok(())
}

/// Checks the limit of requests per second.
fn check_rate_limit(tencent: &mut TencentClient) -> Result<()> {
    let step =
        merge_patch(task_step("DescribeWebRecord", &json!({ "TaskId": "t" })), &json!({ "times": 100 }));
    let code = poll_until("more than 20 requests within a second", || {
        let answer = tencent.call(&step)?;
        for one in answer["all"].as_array().with_context(|| format!("no answers: {answer}"))? {
            let (code, _message) = tencent.parse_error(one)?;
            if code != TASK_NOT_EXIST {
                return Ok(Some(code));
            }
        }
        Ok(None)
    })?;
    ensure!(code == "RequestLimitExceeded", "{code}");
    Ok(())
}

fn check_all(language: Language, backend: Backend) -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (pages, receiver) = (PageServer::start()?, WebhookReceiver::start()?);
    let config = ServiceConfig {
        backend,
        callback_url: Some(receiver.url("")),
        application_toml: "max_casts = 1".to_owned(),
        ..ServiceConfig::default()
    };
    let service = ServiceProcess::start(PAGECAST, &config)?;
    let Some(mut tencent) = TencentClient::start(language, &service)? else { return Ok(()) };
    check_errors(&mut tencent)?;
    check_lifecycle(&mut tencent, &pages.url("counter.html?name=页&tags=a+b"), &service, &receiver)?;
    check_rate_limit(&mut tencent)
}

#[test]
fn tencent_for_python() -> Result<()> {
    check_all(Language::Python, Backend::Postgres)
}

#[test]
fn tencent_for_node() -> Result<()> {
    check_all(Language::Node, Backend::Sqlite)
}

#[test]
fn tencent_for_go() -> Result<()> {
    check_all(Language::Go, Backend::Postgres)
}
