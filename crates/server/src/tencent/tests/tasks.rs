//! States and identity of tasks, as clients see them.

use pagecast_core::cast::EndReason;
use pagecast_fleet::{CastState, Claim, EventKind, WorkerId};

use super::*;
use crate::app::testing::pending_commands;

const TASK_NOT_FOUND: &str = "FailedOperation.TaskNotExist";

fn with_record_id(record_id: &str) -> Value {
    with_value(minimal_params(), "RecordId", Some(json!(record_id)))
}

/// Claims the queued task as a worker.
async fn claim_task(fixture: &Fixture) -> Claim {
    let worker = WorkerId("w".into());
    let lease = Duration::from_secs(3600);
    fixture.service.fleet.claim(&worker, &Default::default(), lease, &|_| true).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_record_id_names_one_running_task() {
    let fixture = Fixture::new();
    for record_id in ["rec_1", "a", &"a".repeat(31)] {
        let first = fixture.start(Encoding::Json, &with_record_id(record_id)).await.unwrap();
        for encoding in [Encoding::Json, Encoding::FormV1, Encoding::Get, Encoding::GetV1] {
            let error = fixture.start(encoding, &with_record_id(record_id)).await.unwrap_err();
            assert_eq!(error.code, "FailedOperation.TaskExist");
        }
        let stop = json!({ "TaskId": first.id.as_str() });
        assert_eq!(fixture.error_code(Encoding::FormV1, "StopWebRecord", &stop).await, "");
        let second = fixture.start(Encoding::Json, &with_record_id(record_id)).await.unwrap();
        assert_ne!(first.id, second.id, "the RecordId is free after the end");
    }
    let two = (
        fixture.start(Encoding::Json, &minimal_params()).await,
        fixture.start(Encoding::Json, &minimal_params()).await,
    );
    assert!(two.0.unwrap().id != two.1.unwrap().id, "without a RecordId, each request starts a task");
}

#[tokio::test]
async fn a_task_is_described_until_it_has_ended() {
    let fixture = Fixture::new();
    let cast = fixture.start(Encoding::Json, &with_record_id("rec_1")).await.unwrap();
    let by_id = json!({ "TaskId": cast.id.as_str() });
    let by_record = json!({ "SdkAppId": SDK_APP_ID, "RecordId": "rec_1" });
    let success = |result: Result<Map<String, Value>, ApiError>| Value::Object(result.unwrap());
    let claim = claim_task(&fixture).await;
    for encoding in [Encoding::Json, Encoding::Get, Encoding::FormV1, Encoding::GetV1] {
        let response = success(fixture.send(encoding, "DescribeWebRecord", &by_id).await);
        assert_eq!(response, json!({ "Status": 1, "RecordId": "rec_1" }), "{encoding:?}");
        let response = success(fixture.send(encoding, "DescribeWebRecord", &by_record).await);
        assert_eq!(response, json!({ "Status": 1, "TaskId": cast.id.as_str() }), "{encoding:?}");
    }
    for _ in 0..2 {
        assert_eq!(success(fixture.send(Encoding::Json, "StopWebRecord", &by_id).await), json!({}));
    }
    let commands = pending_commands(&*fixture.service.fleet, &claim.ticket).await;
    assert_eq!(commands.len(), 1, "the command is sent once: {commands:?}");
    assert_eq!(
        fixture.error_code(Encoding::Json, "DescribeWebRecord", &by_id).await,
        "",
        "the task has not ended yet"
    );
    let ended = EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None };
    fixture.service.fleet.report_event(&claim.ticket, ended).await.unwrap();
    for (action, params) in
        [("DescribeWebRecord", &by_id), ("DescribeWebRecord", &by_record), ("StopWebRecord", &by_id)]
    {
        let error = fixture.send(Encoding::Json, action, params).await.unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            (TASK_NOT_FOUND, "task not exist"),
            "{action}"
        );
    }
    let plain = fixture.start(Encoding::Json, &minimal_params()).await.unwrap();
    let by_id = json!({ "TaskId": plain.id.as_str() });
    let response = success(fixture.send(Encoding::Json, "DescribeWebRecord", &by_id).await);
    assert_eq!(response, json!({ "Status": 1 }), "the task has no RecordId");
}

#[tokio::test]
async fn invalid_ids_are_refused() {
    let fixture = Fixture::new();
    let long = "a".repeat(257);
    for (params, code) in [
        (json!({}), "MissingParameter.TaskId"),
        (json!({ "TaskId": null }), "MissingParameter.TaskId"),
        (json!({ "TaskId": "" }), "MissingParameter.TaskId"),
        (json!({ "TaskId": 7 }), "InvalidParameter"),
        (json!({ "TaskId": "a b" }), "InvalidParameter.TaskId"),
        (json!({ "TaskId": long }), "InvalidParameter.TaskId"),
        (json!({ "TaskId": "abc+/=def" }), TASK_NOT_FOUND),
        (json!({ "TaskId": "0123456789abcdef0123456789abcdef" }), TASK_NOT_FOUND),
    ] {
        for action in ["StopWebRecord", "DescribeWebRecord"] {
            assert_eq!(fixture.error_code(Encoding::Json, action, &params).await, code, "{action} {params}");
        }
    }
    for (params, code) in [
        (json!({ "SdkAppId": SDK_APP_ID }), "MissingParameter.TaskId"),
        (json!({ "RecordId": "a" }), "MissingParameter.SdkAppId"),
        (json!({ "RecordId": "a", "SdkAppId": 0 }), "InvalidParameter.SdkAppId"),
        (json!({ "RecordId": "a", "SdkAppId": "x" }), "InvalidParameter"),
        (json!({ "RecordId": "a", "SdkAppId": SDK_APP_ID }), TASK_NOT_FOUND),
        (json!({ "RecordId": "a", "SdkAppId": 9 }), TASK_NOT_FOUND),
    ] {
        assert_eq!(fixture.error_code(Encoding::Json, "DescribeWebRecord", &params).await, code, "{params}");
    }
}

#[tokio::test]
async fn tasks_of_other_applications_are_not_found() {
    let mut other = application("other", 7);
    other.keys = vec![AccessKey { id: "AKIDother".into(), secret: Secret::new("other"), disabled: false }];
    let fixture = Fixture::with(vec![application("demo", SDK_APP_ID), other], |_| {});
    let cast = fixture.start(Encoding::Json, &with_record_id("rec_1")).await.unwrap();
    let by_other = async |action, params: &Value| {
        let call =
            signed_request(Encoding::Json, "AKIDother", &Secret::new("other"), action, params, NOW_MS / 1000);
        fixture.execute(&call).await.unwrap_err().code
    };
    let by_id = json!({ "TaskId": cast.id.as_str() });
    assert_eq!(by_other("StopWebRecord", &by_id).await, TASK_NOT_FOUND);
    assert_eq!(by_other("DescribeWebRecord", &by_id).await, TASK_NOT_FOUND);
    let by_record = json!({ "SdkAppId": SDK_APP_ID, "RecordId": "rec_1" });
    assert_eq!(by_other("DescribeWebRecord", &by_record).await, TASK_NOT_FOUND);
    assert_eq!(by_other("StartWebRecord", &minimal_params()).await, "FailedOperation.SdkAppIdNotUnderAppId");
    let found = fixture.service.fleet.get(&cast.id).await.unwrap().unwrap();
    assert!(found.state == CastState::Queued && !found.stop_requested);
}

#[tokio::test]
async fn without_an_sdk_app_id_the_only_application_is_used() {
    let params = with_value(minimal_params(), "SdkAppId", None);
    let cast = Fixture::new().start(Encoding::Json, &params).await.unwrap();
    let request = without_body(cast.request);
    assert_eq!((cast.app.as_str(), request), ("demo", json!({ "SdkAppId": SDK_APP_ID })));
    let mut without_id = application("without-id", 0);
    without_id.settings.sdk_app_id = None;
    let fixture = Fixture::with(vec![without_id], |_| {});
    assert_eq!(
        fixture.error_code(Encoding::Json, "StartWebRecord", &params).await,
        "MissingParameter.SdkAppId"
    );
}

#[tokio::test]
async fn quota_and_queue_limit_are_enforced() {
    let mut small = application("demo", SDK_APP_ID);
    small.settings.max_casts = 2;
    let full = Fixture::with(vec![small], |_| {});
    let queue =
        Fixture::with(vec![application("demo", SDK_APP_ID)], |config| config.casts.max_queued_casts = 2);
    for fixture in [full, queue] {
        assert_eq!(fixture.error_code(Encoding::Json, "StartWebRecord", &with_record_id("rec_1")).await, "");
        for expected in ["", "ResourceInsufficient.RequestRejection"] {
            assert_eq!(
                fixture.error_code(Encoding::Json, "StartWebRecord", &minimal_params()).await,
                expected
            );
        }
        let again = fixture.error_code(Encoding::Json, "StartWebRecord", &with_record_id("rec_1")).await;
        assert_eq!(again, "FailedOperation.TaskExist", "this error comes first");
    }
}

#[tokio::test]
async fn the_operator_limits_the_duration() {
    let mut app = application("demo", SDK_APP_ID);
    app.settings.limits.max_time_s = 600;
    let fixture = Fixture::with(vec![app], |config| config.tencent.min_duration_s = 10);
    for (requested, max_time) in [(10, 10), (600, 600), (3600, 600)] {
        let params = with_value(minimal_params(), "MaxDurationLimit", Some(json!(requested)));
        let cast = fixture.start(Encoding::Json, &params).await.unwrap();
        assert_eq!(cast.spec.limits.max_time, Duration::from_secs(max_time));
    }
    let params = with_value(minimal_params(), "MaxDurationLimit", Some(json!(9)));
    let error = fixture.start(Encoding::Json, &params).await.unwrap_err();
    assert_eq!(error.message, "the parameter `MaxDurationLimit` is 9: it must be 10 to 36000");
}
