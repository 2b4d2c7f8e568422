//! The life of tasks, as callers see it.

use pagecast_core::cast::EndReason;
use pagecast_fleet::{Claim, Happening, State, WorkerId};

use super::*;

const GONE: &str = "FailedOperation.TaskNotExist";

fn named(record_id: &str) -> Value {
    with(least(), "RecordId", Some(json!(record_id)))
}

/// A worker takes the task that waits.
async fn taken(world: &World) -> Claim {
    let worker = WorkerId("w".into());
    let lease = Duration::from_secs(3600);
    world.service.fleet.claim(&worker, lease, &|_| true).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_record_id_is_one_task_while_it_lives() {
    let world = World::new();
    for record_id in ["rec_1", "a", &"a".repeat(31)] {
        let first = world.start(How::Json, &named(record_id)).await.unwrap();
        for how in [How::Json, How::Form, How::Get, How::OldGet] {
            let fault = world.start(how, &named(record_id)).await.unwrap_err();
            assert_eq!(fault.code, "FailedOperation.TaskExist");
        }
        let stop = json!({ "TaskId": first.id.as_str() });
        assert_eq!(world.code(How::Form, "StopWebRecord", &stop).await, "");
        let second = world.start(How::Json, &named(record_id)).await.unwrap();
        assert_ne!(first.id, second.id, "it is free again");
    }
    let two = (world.start(How::Json, &least()).await, world.start(How::Json, &least()).await);
    assert!(two.0.unwrap().id != two.1.unwrap().id, "without one, each start is a task");
}

#[tokio::test]
async fn a_task_is_described_until_it_has_ended() {
    let world = World::new();
    let cast = world.start(How::Json, &named("rec_1")).await.unwrap();
    let by_id = json!({ "TaskId": cast.id.as_str() });
    let by_record = json!({ "SdkAppId": SDK_APP_ID, "RecordId": "rec_1" });
    let told = |answer: Result<Map<String, Value>, Fault>| Value::Object(answer.unwrap());
    let claim = taken(&world).await;
    for how in [How::Json, How::Get, How::Form, How::OldGet] {
        let answer = told(world.ask(how, "DescribeWebRecord", &by_id).await);
        assert_eq!(answer, json!({ "Status": 1, "RecordId": "rec_1" }), "{how:?}");
        let answer = told(world.ask(how, "DescribeWebRecord", &by_record).await);
        assert_eq!(answer, json!({ "Status": 1, "TaskId": cast.id.as_str() }), "{how:?}");
    }
    for _ in 0..2 {
        assert_eq!(told(world.ask(How::Json, "StopWebRecord", &by_id).await), json!({}));
    }
    let commands = world.service.fleet.commands(&claim.ticket).await.unwrap();
    assert_eq!(commands.len(), 1, "it is told once: {commands:?}");
    assert_eq!(world.code(How::Json, "DescribeWebRecord", &by_id).await, "", "it is not over yet");
    let ended = Happening::Ended { reason: EndReason::Stopped, message: None, cause: None };
    world.service.fleet.report(&claim.ticket, ended).await.unwrap();
    for (action, params) in
        [("DescribeWebRecord", &by_id), ("DescribeWebRecord", &by_record), ("StopWebRecord", &by_id)]
    {
        let fault = world.ask(How::Json, action, params).await.unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (GONE, "task not exist"), "{action}");
    }
    let plain = world.start(How::Json, &least()).await.unwrap();
    let by_id = json!({ "TaskId": plain.id.as_str() });
    let answer = told(world.ask(How::Json, "DescribeWebRecord", &by_id).await);
    assert_eq!(answer, json!({ "Status": 1 }), "it has no RecordId");
}

#[tokio::test]
async fn ids_that_are_none_are_told() {
    let world = World::new();
    let long = "a".repeat(257);
    for (params, code) in [
        (json!({}), "MissingParameter.TaskId"),
        (json!({ "TaskId": null }), "MissingParameter.TaskId"),
        (json!({ "TaskId": "" }), "MissingParameter.TaskId"),
        (json!({ "TaskId": 7 }), "InvalidParameter"),
        (json!({ "TaskId": "a b" }), "InvalidParameter.TaskId"),
        (json!({ "TaskId": long }), "InvalidParameter.TaskId"),
        (json!({ "TaskId": "abc+/=def" }), GONE),
        (json!({ "TaskId": "0123456789abcdef0123456789abcdef" }), GONE),
    ] {
        for action in ["StopWebRecord", "DescribeWebRecord"] {
            assert_eq!(world.code(How::Json, action, &params).await, code, "{action} {params}");
        }
    }
    for (params, code) in [
        (json!({ "SdkAppId": SDK_APP_ID }), "MissingParameter.TaskId"),
        (json!({ "RecordId": "a" }), "MissingParameter.SdkAppId"),
        (json!({ "RecordId": "a", "SdkAppId": 0 }), "InvalidParameter.SdkAppId"),
        (json!({ "RecordId": "a", "SdkAppId": "x" }), "InvalidParameter"),
        (json!({ "RecordId": "a", "SdkAppId": SDK_APP_ID }), GONE),
        (json!({ "RecordId": "a", "SdkAppId": 9 }), GONE),
    ] {
        assert_eq!(world.code(How::Json, "DescribeWebRecord", &params).await, code, "{params}");
    }
}

#[tokio::test]
async fn others_tasks_are_nobodys() {
    let mut other = application("other", 7);
    other.keys = vec![AccessKey { id: "AKIDother".into(), secret: Secret::new("other"), disabled: false }];
    let world = World::with(vec![application("demo", SDK_APP_ID), other], |_| {});
    let cast = world.start(How::Json, &named("rec_1")).await.unwrap();
    let by_other = async |action, params: &Value| {
        let call = signed(How::Json, "AKIDother", &Secret::new("other"), action, params, NOW_MS / 1000);
        world.act(&call).await.unwrap_err().code
    };
    let by_id = json!({ "TaskId": cast.id.as_str() });
    assert_eq!(by_other("StopWebRecord", &by_id).await, GONE);
    assert_eq!(by_other("DescribeWebRecord", &by_id).await, GONE);
    let by_record = json!({ "SdkAppId": SDK_APP_ID, "RecordId": "rec_1" });
    assert_eq!(by_other("DescribeWebRecord", &by_record).await, GONE);
    assert_eq!(by_other("StartWebRecord", &least()).await, "FailedOperation.SdkAppIdNotUnderAppId");
    let found = world.service.fleet.get(&cast.id).await.unwrap().unwrap();
    assert!(found.state == State::Queued && !found.stop_asked);
}

#[tokio::test]
async fn an_application_that_is_not_named_is_the_only_one() {
    let literal = with(least(), "SdkAppId", None);
    let cast = World::new().start(How::Json, &literal).await.unwrap();
    assert_eq!((cast.app.as_str(), &cast.request), ("demo", &json!({ "SdkAppId": SDK_APP_ID })));
    let mut silent = application("silent", 0);
    silent.sdk_app_id = None;
    let world = World::with(vec![silent], |_| {});
    assert_eq!(world.code(How::Json, "StartWebRecord", &literal).await, "MissingParameter.SdkAppId");
}

#[tokio::test]
async fn there_are_as_many_tasks_as_there_may_be() {
    let mut small = application("demo", SDK_APP_ID);
    small.max_casts = 2;
    let full = World::with(vec![small], |_| {});
    let queue = World::with(vec![application("demo", SDK_APP_ID)], |config| config.casts.queue_limit = 2);
    for world in [full, queue] {
        assert_eq!(world.code(How::Json, "StartWebRecord", &named("rec_1")).await, "");
        for expected in ["", "ResourceInsufficient.RequestRejection"] {
            assert_eq!(world.code(How::Json, "StartWebRecord", &least()).await, expected);
        }
        let again = world.code(How::Json, "StartWebRecord", &named("rec_1")).await;
        assert_eq!(again, "FailedOperation.TaskExist", "that is said first");
    }
}

#[tokio::test]
async fn the_operator_sets_the_shortest_and_the_longest_time() {
    let mut app = application("demo", SDK_APP_ID);
    app.limits.max_time = Duration::from_secs(600);
    let world = World::with(vec![app], |config| config.tencent.min_duration_s = 10);
    for (asked, lasts) in [(10, 10), (600, 600), (3600, 600)] {
        let params = with(least(), "MaxDurationLimit", Some(json!(asked)));
        let cast = world.start(How::Json, &params).await.unwrap();
        assert_eq!(cast.spec.limits.max_time, Duration::from_secs(lasts));
    }
    let params = with(least(), "MaxDurationLimit", Some(json!(9)));
    let fault = world.start(How::Json, &params).await.unwrap_err();
    assert_eq!(fault.message, "the parameter `MaxDurationLimit` is 9: 10 to 36000 are possible");
}
