//! Runs the programs that the explorer writes for its calls, with the vendors' SDKs.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::service::{ACCESS_KEY, APP_ID, SDK_APP_ID};
use pagecast_testkit::{MachineLock, PageServer, ServiceConfig, ServiceProcess};
use serde_json::{Value, json};

use crate::guide_examples::run_program;

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Texts that are written differently in each language.
const HOSTILE: &str = "it's \"quoted\" \\u0041 \\n $HOME `id` ${x} «action» 页";

/// Name of a task with the same, as far as they fit.
const RECORD_ID: &str = "it's \"q\" \\u0041 $HOME «x»";

/// Runs the call in each language. `check` judges what a program prints.
fn run_all(
    service: &ServiceProcess,
    action: &str,
    parameters: &Value,
    check: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let body = json!({ "action": action, "parameters": parameters });
    let call = service.rest("POST", "/v1/explorer/call", Some(&body))?.json()?;
    let folder = Path::new(PAGECAST).parent().context("the program is in a folder")?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    for (language, name) in
        [("python", "python"), ("javascript", "node"), ("go", "go"), ("java", "java"), ("sh", "cli")]
    {
        let program = call["code"][name].as_str().with_context(|| format!("no {name}: {call}"))?;
        let Some(output) = run_program(language, program, &[("PATH", &path)])? else { continue };
        ensure!(check(&output), "{action} in {name}: {output}\n{program}");
    }
    Ok(())
}

#[test]
fn programs_of_the_explorer_work() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (pages, service) =
        (PageServer::start()?, ServiceProcess::start(PAGECAST, &ServiceConfig::default())?);
    let explorer = service.rest("GET", "/v1/explorer", None)?.json()?;
    ensure!(explorer["keys"][0]["id"] == ACCESS_KEY.0, "no key");
    let task = json!({ "AppId": APP_ID, "RoomId": "room1", "TaskId": "task1" });
    let mut start = task.clone();
    start["UserId"] = "webcast_1".into();
    start["SourceURL"] = format!("{}?{HOSTILE}", pages.url("counter.html")).into();
    start["VideoSolutions"] = json!([{ "Width": 320, "Height": 180 }]);
    start["EventNotifyConfig"] = json!({ "EnableEventNotify": false });
    // All but the first find the task running, which is a success.
    let started = |text: &str| text.contains("ok") || text.contains("has been started");
    run_all(&service, "StartWebcast", &start, &started)?;
    run_all(&service, "GetWebCastTask", &task, &|text| text.contains("webcast_1"))?;

    let storage = json!({
        "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "talks-125", "AccessKey": "AKID", "SecretKey": "key",
    });
    let record = json!({
        "SdkAppId": SDK_APP_ID, "RecordId": RECORD_ID, "RecordUrl": start["SourceURL"],
        "StorageParams": { "CloudStorage": storage },
    });
    let body = json!({ "action": "StartWebRecord", "parameters": record, "send": true });
    let call = service.rest("POST", "/v1/explorer/call", Some(&body))?.json()?;
    let answer: Value = serde_json::from_str(call["response"]["body"].as_str().unwrap_or_default())?;
    let id = answer["Response"]["TaskId"].as_str().with_context(|| call.to_string())?;
    let record = json!({ "SdkAppId": SDK_APP_ID, "RecordId": RECORD_ID, "TaskId": null });
    run_all(&service, "DescribeWebRecord", &record, &|text| text.contains(id))
}
