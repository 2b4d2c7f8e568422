//! Test messages: sent like any other, to see whether a receiver is reached and accepts the signature. They
//! are about a cast that does not exist, and are sent once.

use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_core::spec::{
    Ice, Room, RoomCodec, RoomIds, RoomService, RoomUrl, Source, SourceUrl, SpecError,
};
use pagecast_fleet::{Cast, CastId, CastState, Event, EventKind, UnixMs};
use serde_json::json;
use tokio::time::Instant;

use super::client::{SentHeaders, WebhookClient, sent_headers, shown_url};
use super::{CallbackFormat, WebhookMessage};
use crate::app::{Application, CallbackReceiver};

/// Name of room, user and task in test messages.
const TEST_NAME: &str = "pagecast-test";

/// A test message that was sent, and what came of it.
#[derive(Debug)]
pub(crate) struct TestOutcome {
    /// Address of the receiver, without what may be secret.
    pub(crate) url: String,
    /// Headers of the message.
    pub(crate) headers: SentHeaders,
    /// Body of the message.
    pub(crate) body: String,
    /// HTTP status of the answer, if there was one.
    pub(crate) status: Option<u16>,
    /// Beginning of the answer, if it had a body.
    pub(crate) answer: Option<String>,
    /// Why a message like this would not count as delivered.
    pub(crate) error: Option<String>,
    pub(crate) duration: Duration,
}

/// A cast that does not exist, of this application, and the event that it is live.
pub(crate) fn test_event(
    app: &Application,
    api: &str,
    id: CastId,
    now: UnixMs,
) -> Result<(Cast, Event), SpecError> {
    let mut spec = CastSpec::new(Source::new(SourceUrl::parse("https://example.com/")?));
    let name = || TEST_NAME.to_owned();
    let app_id = app.settings.app_id.clone().unwrap_or_else(|| app.name.clone());
    spec.room = Some(Room {
        service: RoomService::Whip { url: RoomUrl::parse("https://example.com/")?, token: None },
        ids: RoomIds { app: app_id, room: name(), user: name(), task: name() },
        layers: Vec::new(),
        codec: RoomCodec::default(),
        ice: Ice::default(),
    });
    let cast = Cast {
        id,
        app: app.name.clone(),
        api: api.to_owned(),
        key: None,
        request: json!({"SdkAppId": app.settings.sdk_app_id.unwrap_or_default()}),
        spec,
        state: CastState::Live,
        end: None,
        created_ms: now,
        started_ms: Some(now),
        live_ms: Some(now),
        ended_ms: None,
        stop_requested: false,
        closed: false,
        worker: None,
        epoch: 0,
        report: None,
        events_dropped: 0,
    };
    Ok((cast, Event { seq: 1, at_ms: now, kind: EventKind::Live }))
}

/// Sends a test message once, with the time limit of the format.
pub(crate) async fn send_test(
    client: &WebhookClient,
    app: &Application,
    receiver: &CallbackReceiver,
    format: &CallbackFormat,
    message: WebhookMessage,
) -> TestOutcome {
    let started = Instant::now();
    let (headers, body) = (sent_headers(&message), String::from_utf8_lossy(&message.body).into_owned());
    let network = &app.settings.network;
    let sent = client.send(&receiver.url, message, &format.policy, network, format.is_success).await;
    TestOutcome {
        url: shown_url(&receiver.url),
        headers,
        body,
        status: sent.status,
        answer: sent.answer,
        error: sent.result.err().map(|error| error.to_string()),
        duration: started.elapsed(),
    }
}
