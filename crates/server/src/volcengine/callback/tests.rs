use pagecast_core::spec::{Layer, Room, RoomService, RoomUrl, Secret, Size, Source, SourceUrl};
use pagecast_core::{CastSpec, Fps, connection};
use pagecast_fleet::{CastId, CastState};
use serde_json::{Value, json};

use super::*;

const LIVE_MS: i64 = 1_700_000_000_000;

fn cast(live_ms: Option<i64>) -> Cast {
    let mut spec = CastSpec::new(Source::new(SourceUrl::parse("https://a.example/").unwrap()));
    let url = RoomUrl::parse("https://rooms.example/{room}").unwrap();
    let id = |text: &str| text.to_owned();
    let ids =
        RoomIds { app: id("app0123456789"), room: id("room1"), user: id("webcast_1"), task: id("task1") };
    let layer = Layer { size: Size::HD, fps: Fps::DEFAULT, bitrate_kbps: None };
    spec.room = Some(Room::new(RoomService::Whip { url, token: None }, ids, layer));
    Cast {
        id: CastId::parse("00000000000000000000000000000001").unwrap(),
        app: id("demo"),
        api: id("volcengine"),
        key: None,
        request: json!({ "AppId": "app0123456789" }),
        spec,
        state: CastState::Live,
        end: None,
        created_ms: 0,
        started_ms: Some(1),
        live_ms,
        ended_ms: None,
        stop_requested: false,
        closed: false,
        worker: None,
        epoch: 1,
        report: None,
        events_dropped: 0,
    }
}

fn receiver() -> CallbackReceiver {
    let url = "https://receiver.example/".parse().unwrap();
    CallbackReceiver { url, secret: Some(Secret::new("cb-secret")), extra_retry_s: 0, noce: false }
}

fn event(kind: EventKind) -> Event {
    Event { seq: 7, at_ms: LIVE_MS + 1, kind }
}

fn body(messages: &[WebhookMessage]) -> Value {
    let [message] = messages else { panic!("{} messages", messages.len()) };
    serde_json::from_slice(&message.body).unwrap()
}

#[test]
fn the_signature_matches_the_specification() {
    let unsigned = UnsignedPayload {
        event_type: "Webcast",
        event_data: r#"{"AppId":"app0123456789","RoomId":"room1","TaskId":"task1","UserId":"webcast_1","Status":1,"Reason":""}"#,
        event_time: "2023-11-14T22:13:20Z",
        event_id: "evt-0001",
        app_id: "app0123456789",
        version: "2020-12-01",
        nonce: "1234",
    };
    let expected = "33a76f606c77c1ed4d9019fb97c5ab749e43e8abb929b57d912932568d0c24a7";
    assert_eq!(compute_signature(&unsigned, "cb-secret"), expected);
}

/// Verifies a signature as a receiver does.
fn verify_signature(body: &Value, secret: &str) -> bool {
    let names = ["EventType", "EventData", "EventTime", "EventId", "Version", "AppId", "Nonce"];
    let mut values: Vec<&str> = names.iter().map(|name| body[*name].as_str().unwrap()).collect();
    values.push(secret);
    values.sort_unstable();
    sha256_hex(values.concat().as_bytes()) == body["Signature"]
}

#[test]
fn a_message_is_complete_and_always_the_same() {
    let cast = cast(Some(LIVE_MS));
    let live = Event { at_ms: LIVE_MS, ..event(EventKind::Live) };
    let messages = render(&receiver(), &cast, &live);
    assert_eq!(messages, render(&receiver(), &cast, &live));
    let payload = body(&messages);
    assert_eq!(
        payload,
        json!({
            "EventType": "Webcast",
            "EventData": r#"{"AppId":"app0123456789","RoomId":"room1","TaskId":"task1","UserId":"webcast_1","Status":1,"Reason":""}"#,
            "EventTime": "2023-11-14T22:13:20Z",
            "EventId": "00000000000000000000000000000001-7",
            "AppId": "app0123456789",
            "Version": "2020-12-01",
            "Nonce": payload["Nonce"],
            "Signature": payload["Signature"],
        })
    );
    let nonce = payload["Nonce"].as_str().unwrap();
    assert!(nonce.len() == 4 && nonce.bytes().all(|byte| byte.is_ascii_digit()), "{nonce}");
    assert!(verify_signature(&payload, "cb-secret") && !verify_signature(&payload, "another"));
}

#[test]
fn the_noce_and_the_business_id_are_optional() {
    let mut cast = cast(Some(LIVE_MS));
    cast.request = json!({ "BusinessId": "biz" });
    let receiver = CallbackReceiver { noce: true, secret: None, ..receiver() };
    let payload = body(&render(&receiver, &cast, &event(EventKind::Live)));
    assert_eq!((&payload["Noce"], &payload["BusinessId"]), (&payload["Nonce"], &json!("biz")));
    assert!(verify_signature(&payload, ""));
    let data: Value = serde_json::from_str(payload["EventData"].as_str().unwrap()).unwrap();
    assert_eq!(data["BusinessId"], "biz");
}

#[test]
fn events_have_the_vendors_status_and_reason() {
    use EventKind as K;
    use HealthFault as F;
    let ended = |reason| K::Ended { reason, message: Some("details".to_owned()), cause: None };
    let push = K::Push { id: 1, url: String::new(), state: connection::State::Connecting, error: None };
    for (kind, live_ms, expected) in [
        (K::Queued, None, None),
        (K::Started, None, None),
        (K::Live, Some(LIVE_MS), Some((1, ""))),
        (K::Reloaded { fault: F::StartTimeout }, None, Some((4, "StartEventTimeout"))),
        (K::Reloaded { fault: F::Freeze }, Some(LIVE_MS), Some((4, "PageFreeze"))),
        (K::Reloaded { fault: F::Blank }, Some(LIVE_MS), Some((4, "PageBlank"))),
        (K::Moved { fault: F::StartTimeout }, None, Some((5, "StartEventTimeout"))),
        (K::Moved { fault: F::Freeze }, Some(LIVE_MS), Some((5, "PageFreeze"))),
        (K::Moved { fault: F::Blank }, Some(LIVE_MS), Some((5, "PageBlank"))),
        (K::Moved { fault: F::Crash }, Some(LIVE_MS), Some((5, "PageCrash"))),
        (K::Moved { fault: F::Unreachable }, Some(LIVE_MS), Some((5, "PageCrash"))),
        (K::Restarted, Some(LIVE_MS), Some((5, "PageCrash"))),
        (K::Restarted, None, None),
        (K::Restarted, Some(LIVE_MS + 9), None),
        (K::LostNode { node: "a".into() }, Some(LIVE_MS), None),
        (K::Resumed { node: Some("b".into()) }, Some(LIVE_MS), Some((5, "PageCrash"))),
        (K::Resumed { node: None }, None, None),
        (K::RecordingStopped, Some(LIVE_MS), None),
        (push, Some(LIVE_MS), None),
        (ended(EndReason::Stopped), Some(LIVE_MS), Some((2, "StopByAPI"))),
        (ended(EndReason::MaxTime), Some(LIVE_MS), Some((2, "ExceedMaxRunningTime"))),
        (ended(EndReason::PageEnded), Some(LIVE_MS), Some((2, "UnknownStopReason"))),
        (ended(EndReason::StartFailed), None, Some((3, "StartTaskFailed"))),
        (ended(EndReason::OutputFailed), Some(LIVE_MS), Some((3, "UnknownStopReason"))),
        (ended(EndReason::PageFailed(F::Freeze)), Some(LIVE_MS), Some((3, "PageFreeze"))),
        (ended(EndReason::PageFailed(F::Blank)), Some(LIVE_MS), Some((3, "PageBlank"))),
        (ended(EndReason::PageFailed(F::Crash)), Some(LIVE_MS), Some((3, "PageCrash"))),
        (ended(EndReason::PageFailed(F::StartTimeout)), None, Some((3, "StartEventTimeout"))),
    ] {
        let (cast, event) = (cast(live_ms), event(kind));
        assert_eq!(status_and_reason(&cast, &event), expected, "{event:?}");
        assert_eq!(render(&receiver(), &cast, &event).len(), usize::from(expected.is_some()), "{event:?}");
    }
}

#[test]
fn a_callback_is_attempted_three_times() {
    let delays: Vec<_> = (0..5).map(|n| (RETRY_POLICY.retry_delay)(n, Duration::ZERO)).collect();
    let s = |count| Some(Duration::from_secs(count));
    assert_eq!(delays, [s(0), s(1), s(5), None, None]);
}
