//! The nodes of a fleet are one cloud to the SDKs: a task is started through one, described by another, and
//! stopped through the third.

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::fleet::{BUCKET, S3_KEYS};
use pagecast_testkit::{FleetConfig, MachineLock, TestFleet};
use serde_json::json;

use crate::client::{Language, merge_patch};
use crate::tencent::{self, TencentClient, wait_for_event};
use crate::volcengine::{self, ALREADY_STARTED, SdkKind, task_params, wait_for_status};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");

#[test]
fn a_task_may_be_managed_through_any_node() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let fleet = TestFleet::start(PAGECAST, &FleetConfig::of_nodes(3))?;
    check_volcengine(&fleet)?;
    check_tencent(&fleet)
}

fn check_volcengine(fleet: &TestFleet) -> Result<()> {
    let (kind, version, task) = (SdkKind::Core, "2023-11-01", task_params("everywhere"));
    let page = fleet.page.url("counter.html");
    let mut sdk = kind.start(&fleet.nodes[0])?.context("Python is always installed")?;
    let started = sdk.call(&volcengine::start_step(version, &task, &page))?;
    ensure!(kind.expect_result(&started)? == "ok", "{started}");
    sdk.connect_to(&fleet.nodes[1]);
    let found = wait_for_status(kind, &mut sdk, version, &task, 2)?;
    ensure!(found["SourceURL"] == page, "{found}");
    sdk.connect_to(&fleet.nodes[2]);
    let again = sdk.call(&volcengine::start_step(version, &task, &page))?;
    ensure!(kind.expect_result(&again)? == ALREADY_STARTED, "{again}");
    let stopped = sdk.call(&volcengine::stop_step(version, &task))?;
    ensure!(kind.expect_result(&stopped)? == "ok", "{stopped}");
    sdk.connect_to(&fleet.nodes[0]);
    let found = wait_for_status(kind, &mut sdk, version, &task, 3)?;
    ensure!(found["StopReason"] == "StopByAPI", "{found}");
    Ok(())
}

fn check_tencent(fleet: &TestFleet) -> Result<()> {
    let page = fleet.page.url("counter.html");
    let mut sdk =
        TencentClient::start(Language::Python, &fleet.nodes[0])?.context("Python is always installed")?;
    let bucket = json!({ "Bucket": BUCKET, "AccessKey": S3_KEYS.0, "SecretKey": S3_KEYS.1 });
    let storage = json!({ "params": { "StorageParams": { "CloudStorage": bucket } } });
    let start = merge_patch(tencent::start_step(&page), &storage);
    let started = sdk.expect_ok(&start)?;
    let id = started["TaskId"].as_str().context("no task")?;
    wait_for_event(&fleet.callbacks, id, 801)?;
    let step = |action: &str| json!({ "action": action, "params": { "TaskId": id } });
    sdk.connect_to(&fleet.nodes[1]);
    let found = sdk.expect_ok(&step("DescribeWebRecord"))?;
    ensure!(found["Status"] == 1 && found["RecordId"] == tencent::RECORD_ID, "{found:?}");
    sdk.connect_to(&fleet.nodes[2]);
    sdk.expect_error(&start, "FailedOperation.TaskExist")?;
    sdk.expect_ok(&step("StopWebRecord"))?;
    wait_for_event(&fleet.callbacks, id, 310)?;
    sdk.connect_to(&fleet.nodes[0]);
    sdk.expect_error(&step("StopWebRecord"), tencent::TASK_NOT_EXIST).map(drop)
}
