//! Callbacks in Pagecast's own format.

use std::time::Duration;

use aws_lc_rs::hmac;
use axum::body::Bytes;
use base16ct::lower::encode_string as hex;
use pagecast_core::backoff::exponential;
use pagecast_core::spec::Secret;
use pagecast_fleet::{Cast, CastState, Event, EventKind};
use serde::Serialize;
use utoipa::ToSchema;

use super::API;
use super::events::EventView;
use crate::app::CallbackReceiver;
use crate::callback::{self, CallbackFormat, DeliveryPolicy, WebhookMessage};

/// Delay after the first attempt, which doubles.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Longest delay between two attempts.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(600);
/// Time after which an event is given up: a receiver may be down for a day.
const RETRY_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Format of callbacks about casts of this API.
pub(crate) const FORMAT: CallbackFormat = CallbackFormat {
    api: API,
    policy: RETRY_POLICY,
    render,
    receiver: callback::native_receiver,
    is_success: callback::is_2xx,
};

/// 10 s for an answer; delays that double from 1 s to 10 min, for 24 hours.
const RETRY_POLICY: DeliveryPolicy = DeliveryPolicy { timeout: Duration::from_secs(10), retry_delay };

fn retry_delay(attempts: u32, age: Duration) -> Option<Duration> {
    let delay = exponential(FIRST_RETRY_DELAY, MAX_RETRY_DELAY, attempts.saturating_sub(1));
    (age + delay <= RETRY_WINDOW).then_some(delay)
}

/// Body of a callback: a `POST` with `Pagecast-Event-Id`, `Pagecast-Timestamp` (Unix seconds) and, if the
/// receiver has a secret, `Pagecast-Signature: v1=HEX`, the HMAC-SHA256 of timestamp, `.` and body. A
/// repeated callback has the same bytes.
#[derive(Serialize, ToSchema)]
pub(super) struct WebhookPayload {
    /// Id of the cast.
    cast: String,
    /// Application of the cast.
    app: String,
    /// State of the cast at that time: `queued`, `starting`, `live` or `ended`.
    #[schema(value_type = String)]
    state: CastState,
    /// The event.
    #[serde(flatten)]
    #[schema(inline = false)]
    event: EventView,
}

/// State of a cast at the time of an event, derived from values that do not change any more, so that repeated
/// callbacks are the same.
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

/// Renders an event as one message.
pub(crate) fn render(receiver: &CallbackReceiver, cast: &Cast, event: &Event) -> Vec<WebhookMessage> {
    message(receiver, cast, event, EventView::new(&cast.id, event))
}

fn message(receiver: &CallbackReceiver, cast: &Cast, event: &Event, view: EventView) -> Vec<WebhookMessage> {
    let id = view.id.clone();
    let payload = WebhookPayload {
        cast: cast.id.to_string(),
        app: cast.app.clone(),
        state: state_at(cast, event),
        event: view,
    };
    let Ok(body) = serde_json::to_vec(&payload) else { return Vec::new() };
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

/// Renders a test message: an event `test` about a cast that does not exist.
pub(crate) fn render_test(receiver: &CallbackReceiver, cast: &Cast, event: &Event) -> Vec<WebhookMessage> {
    let mut view = EventView::new(&cast.id, event);
    view.event = "test";
    message(receiver, cast, event, view)
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
    fn delays_double_for_a_day() {
        let s = Duration::from_secs;
        for (attempts, age, expected) in [
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
            assert_eq!(
                (RETRY_POLICY.retry_delay)(attempts, s(age)),
                expected.map(s),
                "{attempts} tries, {age} s"
            );
        }
    }

    #[test]
    fn the_signature_matches_python() {
        // python3: hmac.new(b"key", b"1700000000." + b'{"a":1}', "sha256").hexdigest()
        assert_eq!(sign(&Secret::new("key"), "1700000000", br#"{"a":1}"#), EXPECTED_SIGNATURE);
    }

    const EXPECTED_SIGNATURE: &str = "a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03";
}
