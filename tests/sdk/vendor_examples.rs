//! Runs the examples of the vendors' documents. Only the address of the page is replaced.

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::{MachineLock, PageServer, ServiceConfig, ServiceProcess, WebhookReceiver};
use serde_json::{Value, json};

use crate::client::Language;
use crate::tencent::{TencentClient, wait_for_event};
use crate::volcengine::{SdkKind, wait_for_status};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Application with the name and keys of the example.
const APPLICATION_TOML: &str = "
    [[applications]]
    name = \"example\"
    app_id = \"Your_AppId\"
    keys = [{ id = \"AKEXAMPLE\", secret = \"example\" }]
    network.allow = [\"127.0.0.0/8\"]
";
/// Body of `StartWebcast`.
const WEBCAST_BODY: &str = r#"{
    "AppId": "Your_AppId",
    "RoomId": "Your_RoomId",
    "TaskId": "Your_TaskId",
    "UserId": "Your_UserId",
    "SourceURL": "https://xxx.xxx.xxx",
    "VideoSolutions": [
        {
            "Width": 1280,
            "Height": 720,
            "FrameRate": 30
        }
    ],
    "MonitorConfig": {
        "FreezeCheckInterval": 3,
        "BlankCheckInterval": 5,
        "CrashCheckInterval": 5
    },
    "EventNotifyConfig": {
        "EnableEventNotify": false,
        "StartTimeout": 0
    },
    "MaxRunningTime": 60
}"#;
/// Body of `StartWebRecord`, without an `SdkAppId`.
const RECORD_BODY: &str = r#"{
"RecordUrl": "https://web-record-xxxxx.cos.ap-xxx.myqcloud.com/xxxx/xxx.mp4",
"StorageParams": {
"CloudStorage": {
"Vendor": 0,
"Bucket": "webrecord-1234589",
"Region": "ap-chengdu",
"AccessKey": "AKxxxxxx",
"SecretKey": "Idxxxxxx",
"FileNamePrefix": [
"record",
"video"
]
}
},
"MaxDurationLimit": 3600,
"WebRecordVideoParams": {
"Width": 1280,
"Height": 720,
"Format": "mp4"
}
}"#;

#[test]
fn volcengines_example_of_a_webcast_works() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let pages = PageServer::start()?;
    let service = ServiceProcess::start(
        PAGECAST,
        &ServiceConfig { top_level_toml: APPLICATION_TOML.to_owned(), ..ServiceConfig::default() },
    )?;
    let kind = SdkKind::Base;
    let mut sdk = kind.start(&service)?.context("Python is always installed")?;
    let own = json!({ "key": "AKEXAMPLE", "secret": "example" });
    sdk.set_defaults(&own);
    let body = WEBCAST_BODY.replace("https://xxx.xxx.xxx", &pages.url("counter.html"));
    let (version, task) =
        ("2020-12-01", json!({ "AppId": "Your_AppId", "RoomId": "Your_RoomId", "TaskId": "Your_TaskId" }));
    let started = sdk.call(&json!({ "action": "StartWebcast", "version": version, "body": body }))?;
    ensure!(kind.expect_result(&started)? == "ok", "{started}");
    let metadata = &started["returned"]["ResponseMetadata"];
    for (name, value) in
        [("Action", "StartWebcast"), ("Version", version), ("Service", "rtc"), ("Region", "cn-north-1")]
    {
        ensure!(metadata[name] == value, "{name}: {started}");
    }
    let found = wait_for_status(kind, &mut sdk, version, &task, 2)?;
    ensure!(found["MonitorConfig"]["FreezeCheckInterval"] == 3 && found["MaxRunningTime"] == 60, "{found}");
    let stopped = sdk.call(&json!({ "action": "StopWebcast", "version": version, "params": task }))?;
    ensure!(kind.expect_result(&stopped)? == "ok", "{stopped}");
    wait_for_status(kind, &mut sdk, version, &task, 3).map(drop)
}

#[test]
fn tencents_example_of_a_recording_works() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (pages, receiver) = (PageServer::start()?, WebhookReceiver::start()?);
    let config = ServiceConfig { callback_url: Some(receiver.url("")), ..ServiceConfig::default() };
    let service = ServiceProcess::start(PAGECAST, &config)?;
    let mut tencent =
        TencentClient::start(Language::Python, &service)?.context("Python is always installed")?;
    let mut params: Value = serde_json::from_str(RECORD_BODY)?;
    params["RecordUrl"] = pages.url("counter.html").into();
    let started =
        tencent.expect_ok(&json!({ "action": "StartWebRecord", "params": params, "typed": false }))?;
    let id = started["TaskId"].as_str().context("no task")?.to_owned();
    wait_for_event(&receiver, &id, 801)?;
    let task = json!({ "TaskId": id });
    tencent.expect_ok(&json!({ "action": "StopWebRecord", "params": task }))?;
    wait_for_event(&receiver, &id, 310)?;
    let video = format!("buckets/webrecord-1234589/record/video/{id}/{id}_0.mp4");
    ensure!(service.data_folder().join(&video).exists(), "no recording at {video}");
    Ok(())
}
