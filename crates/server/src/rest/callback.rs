//! What receivers of our own are told, and how.

use std::time::Duration;

use aws_lc_rs::hmac;
use axum::body::Bytes;
use pagecast_core::spec::Secret;
use pagecast_fleet::{Cast, CastState, Event, EventKind};
use serde::Serialize;
use utoipa::ToSchema;

use super::applications::keys::hex;
use super::events::EventView;
use crate::app::CallbackReceiver;
use crate::callback::{DeliveryPolicy, WebhookMessage};

/// Longest pause between two tries.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);
/// How long an event is tried.
const RETRY_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Ten seconds for an answer; pauses that double from 1 s to 10 min, for 24 hours.
pub(crate) const RETRY_POLICY: DeliveryPolicy =
    DeliveryPolicy { timeout: Duration::from_secs(10), retry_delay: next_pause };

fn next_pause(tries: u32, age: Duration) -> Option<Duration> {
    let doubled = 1_u64.checked_shl(tries.saturating_sub(1)).unwrap_or(u64::MAX);
    let pause = Duration::from_secs(doubled).min(MAX_RETRY_DELAY);
    (age + pause <= RETRY_WINDOW).then_some(pause)
}

/// What a receiver gets: `POST` with `Pagecast-Event-Id`, `Pagecast-Timestamp` (seconds since 1970) and, if it has a secret,
/// `Pagecast-Signature: v1=HEX`, the HMAC-SHA256 of timestamp, `.` and body. Told again, it is the same byte by byte.
#[derive(Serialize, ToSchema)]
#[schema(as = Notice)]
pub(super) struct WebhookPayload {
    /// The cast.
    cast: String,
    /// Its application.
    app: String,
    /// Where the cast stood then: `queued`, `starting`, `live` or `ended`.
    #[schema(value_type = String)]
    state: CastState,
    /// What happened.
    #[serde(flatten)]
    #[schema(inline = false)]
    event: EventView,
}

/// Where a cast stood when this happened. Told from what never changes again, so that it is the same each time.
fn state_at(cast: &Cast, event: &Event) -> CastState {
    let later = |time: Option<i64>| time.is_some_and(|time| event.at_ms > time);
    match event.kind {
        EventKind::Queued => CastState::Queued,
        EventKind::Started => CastState::Starting,
        EventKind::Live => CastState::Live,
        EventKind::Ended { .. } | EventKind::Stored { .. } => CastState::Ended,
        _ if later(cast.ended_ms) => CastState::Ended,
        _ if later(cast.live_ms) => CastState::Live,
        _ => CastState::Starting,
    }
}

/// An event in our own words: one message.
pub(crate) fn render(receiver: &CallbackReceiver, cast: &Cast, event: &Event) -> Vec<WebhookMessage> {
    let view = EventView::new(&cast.id, event);
    let id = view.id.clone();
    let notice = WebhookPayload {
        cast: cast.id.to_string(),
        app: cast.app.clone(),
        state: state_at(cast, event),
        event: view,
    };
    let Ok(body) = serde_json::to_vec(&notice) else { return Vec::new() };
    let timestamp = event.at_ms.div_euclid(1000).to_string();
    let mut headers = vec![
        ("Content-Type", "application/json".to_owned()),
        ("Pagecast-Event-Id", id),
        ("Pagecast-Timestamp", timestamp.clone()),
    ];
    if let Some(secret) = &receiver.secret {
        headers.push(("Pagecast-Signature", format!("v1={}", sign(secret, &timestamp, &body))));
    }
    vec![WebhookMessage { body: Bytes::from(body), headers }]
}

fn sign(secret: &Secret, timestamp: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
    let mut signed = hmac::Context::with_key(&key);
    signed.update(timestamp.as_bytes());
    signed.update(b".");
    signed.update(body);
    hex(signed.sign().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_for_a_day() {
        let s = Duration::from_secs;
        for (tries, age, expected) in [
            (0, 0, Some(1)),
            (1, 0, Some(1)),
            (2, 1, Some(2)),
            (5, 20, Some(16)),
            (11, 3000, Some(600)),
            (64, 80_000, Some(600)),
            (u32::MAX, 85_800, Some(600)),
            (200, 85_801, None),
            (200, 90_000, None),
        ] {
            assert_eq!((RETRY_POLICY.retry_delay)(tries, s(age)), expected.map(s), "{tries} tries, {age} s");
        }
    }

    #[test]
    fn the_signature_is_that_of_others() {
        // python3: hmac.new(b"key", b"1700000000." + b'{"a":1}', "sha256").hexdigest()
        assert_eq!(sign(&Secret::new("key"), "1700000000", br#"{"a":1}"#), EXPECTED_SIGNATURE);
    }

    const EXPECTED_SIGNATURE: &str = "a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03";
}
