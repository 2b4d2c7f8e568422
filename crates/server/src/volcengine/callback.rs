//! Callbacks of Volcengine's event `Webcast`.

use std::time::Duration;

use aws_lc_rs::digest;
use axum::body::Bytes;
use pagecast_core::cast::{EndReason, HealthFault};
use pagecast_core::spec::RoomIds;
use pagecast_fleet::{Cast, Event, EventKind};
use serde::Serialize;

use super::API;
use super::signature::sha256_hex;
use super::task::end_status;
use crate::app::CallbackReceiver;
use crate::callback::{self, CallbackFormat, DeliveryPolicy, WebhookMessage};

const EVENT_TYPE: &str = "Webcast";
const VERSION: &str = "2020-12-01";

/// Format of callbacks about casts of this API.
pub(crate) const FORMAT: CallbackFormat = CallbackFormat {
    api: API,
    policy: RETRY_POLICY,
    render,
    receiver: |app, _| app.settings.callbacks.volcengine.clone(),
    is_success: callback::is_200,
};

/// The vendor's policy: 5 s for an answer, and two retries, after 1 s and 5 s.
const RETRY_POLICY: DeliveryPolicy = DeliveryPolicy { timeout: Duration::from_secs(5), retry_delay };

fn retry_delay(attempts: u32, _age: Duration) -> Option<Duration> {
    match attempts {
        0 => Some(Duration::ZERO),
        1 => Some(Duration::from_secs(1)),
        2 => Some(Duration::from_secs(5)),
        _ => None,
    }
}

/// Renders an event, if the vendor reports it. The same event gives the same bytes each time.
#[must_use]
pub fn render(receiver: &CallbackReceiver, cast: &Cast, event: &Event) -> Vec<WebhookMessage> {
    let (Some((status, reason)), Some(room)) = (status_and_reason(cast, event), &cast.spec.room) else {
        return Vec::new();
    };
    let RoomIds { app, room, user, task } = &room.ids;
    let business_id = cast.request.get("BusinessId").and_then(|id| id.as_str());
    let data =
        EventData { app_id: app, business_id, room_id: room, task_id: task, user_id: user, status, reason };
    let id = event.id(&cast.id);
    let time = chrono::DateTime::from_timestamp_millis(event.at_ms).unwrap_or_default();
    let unsigned = UnsignedPayload {
        event_type: EVENT_TYPE,
        event_data: &serde_json::to_string(&data).unwrap_or_default(),
        event_time: &time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        event_id: &id,
        app_id: app,
        version: VERSION,
        nonce: &nonce(&id),
    };
    let secret = receiver.secret.as_ref().map_or("", |secret| secret.reveal());
    let body = CallbackBody {
        signature: &compute_signature(&unsigned, secret),
        noce: receiver.noce.then_some(unsigned.nonce),
        business_id,
        unsigned: &unsigned,
    };
    let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
    vec![WebhookMessage { body, headers: Vec::new() }]
}

/// `Status` and `Reason`. The vendor documents the reasons of 1, 4 and 5. For 2 and 3 we send the stop reason
/// of the task, or the word of the fault for a page that was given up.
fn status_and_reason(cast: &Cast, event: &Event) -> Option<(u8, &'static str)> {
    let live_before = || cast.live_ms.is_some_and(|live| live <= event.at_ms);
    match &event.kind {
        EventKind::Live => Some((1, "")),
        EventKind::Ended { reason, .. } => {
            let end = end_status(*reason, cast.live_ms.is_some());
            let reason = match reason {
                EndReason::PageFailed(fault) => fault_reason(*fault),
                _ => end.reason,
            };
            Some((if end.failed { 3 } else { 2 }, reason))
        }
        EventKind::Reloaded { fault } => Some((4, fault_reason(*fault))),
        EventKind::Moved { fault } => Some((5, fault_reason(*fault))),
        EventKind::Restarted | EventKind::Resumed { .. } => live_before().then_some((5, "PageCrash")),
        EventKind::Queued
        | EventKind::Started
        | EventKind::LostNode { .. }
        | EventKind::RecordingStopped
        | EventKind::Warning { .. }
        | EventKind::Push { .. }
        | EventKind::Room { .. }
        | EventKind::Upload { .. }
        | EventKind::Stored { .. } => None,
    }
}

fn fault_reason(fault: HealthFault) -> &'static str {
    match fault {
        HealthFault::StartTimeout => "StartEventTimeout",
        HealthFault::Freeze => "PageFreeze",
        HealthFault::Blank => "PageBlank",
        HealthFault::Crash | HealthFault::Unreachable => "PageCrash",
    }
}

/// Four digits, derived from the event id so that a retry sends the same.
fn nonce(event_id: &str) -> String {
    let digest = digest::digest(&digest::SHA256, event_id.as_bytes());
    let number = digest.as_ref().iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    format!("{:04}", number % 10_000)
}

fn compute_signature(unsigned: &UnsignedPayload<'_>, secret: &str) -> String {
    let UnsignedPayload { event_type, event_data, event_time, event_id, app_id, version, nonce } = unsigned;
    let mut values = [event_type, event_data, event_time, event_id, version, app_id, nonce, &secret];
    values.sort_unstable();
    sha256_hex(values.map(|value| *value).concat().as_bytes())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventData<'a> {
    app_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    business_id: Option<&'a str>,
    room_id: &'a str,
    task_id: &'a str,
    user_id: &'a str,
    status: u8,
    reason: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UnsignedPayload<'a> {
    event_type: &'a str,
    /// JSON as a string inside JSON.
    event_data: &'a str,
    event_time: &'a str,
    event_id: &'a str,
    app_id: &'a str,
    version: &'a str,
    nonce: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CallbackBody<'a> {
    #[serde(flatten)]
    unsigned: &'a UnsignedPayload<'a>,
    signature: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    noce: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    business_id: Option<&'a str>,
}

#[cfg(test)]
mod tests;
