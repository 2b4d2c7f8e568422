use pagecast_core::CastSpec;
use pagecast_core::spec::{
    Bucket, Format, Push, PushUrl, Recording, Secret, Source, SourceUrl, StorageService, Vod,
};
use pagecast_fleet::{CastId, CastState};
use serde_json::{Value, json};

use super::*;

const AT_MS: i64 = 1_700_000_000_000;
const PUSH_URL: &str = "rtmp://push.example.com/live/key?secret=1";

fn receiver(secret: Option<&str>) -> CallbackReceiver {
    CallbackReceiver {
        url: "http://example.com/hook".parse().unwrap(),
        secret: secret.map(Secret::new),
        extra_retry_s: 0,
        noce: false,
    }
}

fn cast(to: Storage, format: Format) -> Cast {
    let id = CastId::parse("0123456789abcdef0123456789abcdef").unwrap();
    let mut spec = CastSpec::new(Source::new(SourceUrl::parse("https://example.com/").unwrap()));
    spec.recording = Some(Recording { format, ..Recording::new(id.as_str(), to) });
    spec.pushes = vec![Push { url: PushUrl::parse(PUSH_URL).unwrap(), reconnect_timeout: None }];
    Cast {
        id,
        app: "demo".into(),
        api: "tencent".into(),
        key: None,
        request: json!({ "SdkAppId": 1_400_000_001, PUSH_URLS_FIELD: [PUSH_URL] }),
        spec,
        state: CastState::Live,
        end: None,
        created_ms: AT_MS - 9000,
        started_ms: Some(AT_MS - 8000),
        live_ms: Some(AT_MS - 7000),
        ended_ms: None,
        stop_requested: false,
        closed: false,
        worker: None,
        epoch: 1,
        report: None,
        events_dropped: 0,
    }
}

fn cos_cast(format: Format) -> Cast {
    cast(Storage::Bucket(Bucket::new(StorageService::Cos, "records-1250000000")), format)
}

fn vod_cast() -> Cast {
    cast(Storage::TencentVod(Vod::default()), Format::Mp4)
}

fn rendered(cast: &Cast, kind: EventKind) -> Vec<Value> {
    let event = Event { seq: 4, at_ms: AT_MS, kind };
    let messages = render(&receiver(None), cast, &event);
    assert_eq!(messages, render(&receiver(None), cast, &event), "a repeated callback is the same");
    messages.iter().map(|message| serde_json::from_slice(&message.body).unwrap()).collect()
}

/// Group, type, status and message of each callback about the page.
fn page_messages(kind: EventKind) -> Vec<(i64, i64, i64, String)> {
    let number = |value: &Value| value.as_i64().unwrap();
    rendered(&cos_cast(Format::Mp4), kind)
        .iter()
        .map(|body| {
            let (info, id) = (&body["EventInfo"], "0123456789abcdef0123456789abcdef");
            assert_eq!((number(&info["EventMsTs"]), number(&body["CallbackTs"])), (AT_MS, AT_MS));
            assert_eq!(info["TaskId"], id);
            assert!(info.get("RoomId").is_none() && info.get("EventTs").is_none());
            let payload = &info["Payload"];
            let text = payload["EventMessage"].as_str().unwrap().to_owned();
            (number(&body["EventGroupId"]), number(&body["EventType"]), number(&payload["Status"]), text)
        })
        .collect()
}

fn file(media_id: Option<&str>) -> StoredFile {
    StoredFile {
        name: "a_0.mp4".into(),
        bytes: 7,
        begin_ms: AT_MS - 6000,
        end_ms: AT_MS - 1000,
        media_id: media_id.map(str::to_owned),
        url: media_id.map(|id| format!("https://vod.example.com/{id}.mp4")),
    }
}

fn stored(files: Vec<StoredFile>, complete: bool, backup: bool) -> EventKind {
    let error = (!complete).then(|| "the bucket is gone".to_owned());
    EventKind::Stored { files, complete, backup, error }
}

#[test]
fn a_body_is_signed_as_in_the_documents() {
    assert_eq!(
        sign(
            "callbackkey123",
            br#"{"EventGroupId":8,"EventType":801,"CallbackTs":1700000000500,"EventInfo":{"EventMsTs":1700000000000,"TaskId":"task-abc","Payload":{"Status":1,"EventMessage":"Success"}}}"#
        ),
        "8KzpwPucXdZhi2z4KF/Ra13E9CTOD6BEApI669z4UMw="
    );
    let event = Event { seq: 3, at_ms: AT_MS, kind: EventKind::Live };
    let [message] =
        render(&receiver(Some("callbackkey123")), &cos_cast(Format::Mp4), &event).try_into().unwrap();
    let body = r#"{"EventGroupId":8,"EventType":801,"CallbackTs":1700000000000,"EventInfo":{"EventMsTs":1700000000000,"TaskId":"0123456789abcdef0123456789abcdef","Payload":{"Status":1,"EventMessage":"Success"}}}"#;
    assert_eq!(message.body, body.as_bytes());
    let signature = sign("callbackkey123", body.as_bytes());
    assert_eq!(message.headers, [("SdkAppId", "1400000001".to_owned()), ("Sign", signature)]);
    let [unsigned] = render(&receiver(None), &cos_cast(Format::Mp4), &event).try_into().unwrap();
    assert_eq!(unsigned.headers, [("SdkAppId", "1400000001".to_owned())]);
}

#[test]
fn page_events_have_the_vendors_codes_and_messages() {
    let end =
        |reason, message: &str| EventKind::Ended { reason, message: Some(message.to_owned()), cause: None };
    let end_without_message = |reason| EventKind::Ended { reason, message: None, cause: None };
    let one = |kind, status, text: &str| vec![(8, kind, status, text.to_owned())];
    let stopped = || one(802, 1, "Success");
    let fault = HealthFault::Freeze;
    for (kind, expected) in [
        (EventKind::Live, one(801, 1, "Success")),
        (
            end(
                EndReason::StartFailed,
                "cannot open https://example.com/: the host does not answer (net::ERR_TIMED_OUT)",
            ),
            one(801, 2, "Goto url timeout"),
        ),
        (
            end(EndReason::StartFailed, "cannot open https://example.com/: no answer within 30 s"),
            one(801, 2, "Goto url timeout"),
        ),
        (
            end(EndReason::StartFailed, "cannot open https://example.com/: nothing listens there"),
            one(801, 2, "StartRecording error"),
        ),
        (
            end(EndReason::StartFailed, "cannot open https://example.com/no answer within: HTTP 404"),
            one(801, 2, "StartRecording error"),
        ),
        (
            end(EndReason::StartFailed, "the browser gave no answer within 20 s"),
            one(801, 2, "StartRecording error"),
        ),
        (end_without_message(EndReason::StartFailed), one(801, 2, "StartRecording error")),
        (
            end_without_message(EndReason::PageFailed(HealthFault::StartTimeout)),
            one(801, 2, "Page load timeout"),
        ),
        (EventKind::Restarted, one(801, 3, "Chrome exception, exit task")),
        (EventKind::Moved { fault: HealthFault::Crash }, one(801, 3, "Chrome exception, exit task")),
        (EventKind::Moved { fault }, one(801, 4, "Recording tasks have been migrated")),
        (EventKind::LostNode { node: "a".into() }, Vec::new()),
        (EventKind::Resumed { node: Some("b".into()) }, one(801, 4, "Recording tasks have been migrated")),
        (end_without_message(EndReason::PageFailed(fault)), one(801, 5, "Exception error, exit task")),
        (end_without_message(EndReason::OutputFailed), one(801, 5, "Exception error, exit task")),
        (EventKind::Reloaded { fault: HealthFault::StartTimeout }, one(803, 1, "Page load timeout")),
        (EventKind::Reloaded { fault }, one(803, 1, "PageRefresh")),
        (end_without_message(EndReason::MaxTime), [one(804, 1, "Over time limit"), stopped()].concat()),
        (end_without_message(EndReason::VideoTooLarge), one(804, 2, "Exceeding resolution limitation")),
        (end_without_message(EndReason::Stopped), stopped()),
        (end_without_message(EndReason::PageEnded), stopped()),
        (end_without_message(EndReason::Complete), stopped()),
        (EventKind::Queued, Vec::new()),
        (EventKind::Started, Vec::new()),
        (EventKind::RecordingStopped, Vec::new()),
        (EventKind::Upload { failing: true, pending: 1, error: None }, Vec::new()),
        (EventKind::Room { state: connection::State::Running, error: None }, Vec::new()),
    ] {
        assert_eq!(page_messages(kind.clone()), expected, "{kind:?}");
    }
}

#[test]
fn files_are_reported_when_they_are_stored() {
    let [body] = rendered(&cos_cast(Format::Mp4), stored(vec![file(None)], true, false)).try_into().unwrap();
    assert_eq!(
        body,
        json!({
            "EventGroupId": 3, "EventType": 310, "CallbackTs": AT_MS,
            "EventInfo": {
                "RoomId": "", "EventTs": 1_700_000_000, "EventMsTs": AT_MS, "UserId": "",
                "TaskId": "0123456789abcdef0123456789abcdef_StartTimeMs_1699999994000",
                "Payload": {
                    "Status": 0,
                    "FileList": ["a_0.mp4"],
                    "FileMessage": [{
                        "FileName": "a_0.mp4", "UserId": "", "TrackType": "audio_video", "MediaId": "mix",
                        "StartTimeStamp": AT_MS - 6000, "EndTimeStamp": AT_MS - 1000,
                    }],
                },
            },
        })
    );
    let status = |kind| rendered(&cos_cast(Format::Mp4), kind)[0]["EventInfo"]["Payload"]["Status"].clone();
    assert_eq!(status(stored(vec![file(None)], false, false)), 1, "some files were not stored");
    assert_eq!(status(stored(vec![file(None)], true, true)), 1, "they were stored in the backup");
    assert_eq!(status(stored(Vec::new(), false, false)), 2, "nothing was stored");
    assert!(rendered(&cos_cast(Format::Mp4), stored(Vec::new(), true, false)).is_empty());
    let never_live = Cast { live_ms: None, ..cos_cast(Format::Mp4) };
    assert!(rendered(&never_live, stored(Vec::new(), false, false)).is_empty());
    let [body] =
        rendered(&cos_cast(Format::HlsTs), stored(vec![file(None)], true, false)).try_into().unwrap();
    assert_eq!((&body["EventGroupId"], &body["EventType"]), (&json!(3), &json!(305)));
    assert_eq!(body["EventInfo"]["Payload"], json!({ "Status": 0, "LeaveCode": 0 }));
    assert_eq!(body["EventInfo"]["TaskId"], "0123456789abcdef0123456789abcdef");
}

#[test]
fn vod_files_are_reported_each_and_then_all() {
    let [first, second, done] =
        rendered(&vod_cast(), stored(vec![file(Some("m1")), file(None)], false, false)).try_into().unwrap();
    assert_eq!(
        (&first["EventType"], &second["EventType"], &done["EventType"]),
        (&json!(311), &json!(311), &json!(312))
    );
    assert_eq!(
        first["EventInfo"]["Payload"],
        json!({
            "Status": 0,
            "TencentVod": {
                "UserId": "", "TrackType": "audio_video", "MediaId": "mix", "FileId": "m1",
                "VideoUrl": "https://vod.example.com/m1.mp4", "CacheFile": "a_0.mp4",
                "StartTimeStamp": AT_MS - 6000, "EndTimeStamp": AT_MS - 1000,
            },
        })
    );
    assert_eq!(second["EventInfo"]["Payload"]["Status"], 1);
    assert_eq!(second["EventInfo"]["Payload"]["Errmsg"], "the bucket is gone");
    assert_eq!(done["EventInfo"]["Payload"], json!({ "Status": 1 }));
    let [_, done] = rendered(&vod_cast(), stored(vec![file(Some("m1"))], true, false)).try_into().unwrap();
    assert_eq!(done["EventInfo"]["Payload"], json!({ "Status": 0 }));
    let [none, _] = rendered(&vod_cast(), stored(Vec::new(), false, false)).try_into().unwrap();
    assert_eq!(none["EventInfo"]["Payload"]["Status"], 2);
}

#[test]
fn pushes_are_reported_with_the_requested_address() {
    let shown = PushUrl::parse(PUSH_URL).unwrap().to_string();
    let payload_of = |id, url: &str, state, error: Option<&str>| {
        let kind = EventKind::Push { id, url: url.to_owned(), state, error: error.map(str::to_owned) };
        let [body] = rendered(&cos_cast(Format::Mp4), kind).try_into().unwrap();
        assert_eq!((&body["EventGroupId"], &body["EventType"]), (&json!(4), &json!(401)));
        let info = &body["EventInfo"];
        assert_eq!(
            (&info["RoomId"], &info["RoomType"], &info["UserId"]),
            (&json!(""), &json!(1), &json!(""))
        );
        assert_eq!(info["EventMsTs"], AT_MS);
        info["Payload"].clone()
    };
    for (state, status) in [
        (connection::State::Idle, 0),
        (connection::State::Connecting, 1),
        (connection::State::Running, 2),
        (connection::State::Recovering, 3),
        (connection::State::Failed, 4),
        (connection::State::Disconnecting, 5),
    ] {
        let payload = payload_of(1, &shown, state, None);
        assert_eq!(payload, json!({ "Url": PUSH_URL, "Status": status, "ErrorCode": 0, "ErrorMsg": "" }));
    }
    let payload = payload_of(1, &shown, connection::State::Failed, Some("refused"));
    assert_eq!(payload, json!({ "Url": PUSH_URL, "Status": 4, "ErrorCode": 1, "ErrorMsg": "refused" }));
    for id in [0, 2, u32::MAX] {
        assert_eq!(
            payload_of(id, &shown, connection::State::Running, None)["Url"],
            PUSH_URL,
            "the cast has only one push of this address"
        );
    }
    let similar = Cast {
        request: json!({ PUSH_URLS_FIELD: [PUSH_URL, format!("{PUSH_URL}2")] }),
        ..cos_cast(Format::Mp4)
    };
    let url_of_push = |id| {
        let kind = EventKind::Push { id, url: shown.clone(), state: connection::State::Running, error: None };
        rendered(&similar, kind)[0]["EventInfo"]["Payload"]["Url"].as_str().unwrap().to_owned()
    };
    assert_eq!((url_of_push(1), url_of_push(2)), (PUSH_URL.to_owned(), format!("{PUSH_URL}2")));
    assert_eq!(url_of_push(3), shown, "a push that was added later");
    assert_eq!(payload_of(1, "rtmp://b/c/…", connection::State::Running, None)["Url"], "rtmp://b/c/…");
}

#[test]
fn a_message_is_retried_for_a_minute() {
    let secs = Duration::from_secs;
    for (attempts, age, expected) in [
        (1, 0, Some(0)),
        (1, 5, Some(0)),
        (2, 5, Some(10)),
        (3, 20, Some(10)),
        (6, 50, Some(10)),
        (7, 51, None),
        (1, 61, None),
        (u32::MAX, u64::MAX, None),
    ] {
        assert_eq!(
            (RETRY_POLICY.retry_delay)(attempts, secs(age)),
            expected.map(secs),
            "{attempts} after {age} s"
        );
    }
}
