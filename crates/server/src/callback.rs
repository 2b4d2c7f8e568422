//! Callbacks: webhooks that report events of casts, in the format of the API that created the cast.
//!
//! The fleet's outbox holds the undelivered events. The [`WebhookDispatcher`] delivers events of many casts
//! at once, those of one cast in order, and settles them. The receiver and its secret are read from the
//! application at each attempt. [`retry`] decides when to try again; [`client`] sends a message and enforces
//! the network policy.

mod client;
mod dispatcher;
#[cfg(test)]
mod embedded;
mod retry;
mod test_message;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::body::Bytes;
use pagecast_fleet::{Cast, Event};

use crate::app::{Application, CallbackReceiver};

pub(crate) use client::{AttemptOutcome, WebhookClient, sent_headers, shown_url};
pub use dispatcher::WebhookDispatcher;
pub(crate) use test_message::{send_test, test_event};

/// Body and headers of a webhook request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookMessage {
    /// Signed body, in JSON.
    pub body: Bytes,
    /// Headers in addition to those of every request.
    pub headers: Vec<(&'static str, String)>,
}

/// Timeout and retries that a vendor documents.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryPolicy {
    /// Time limit for the response.
    pub timeout: Duration,
    /// Delay after `attempts` failed attempts, the first of them `age` ago. `None`: no further attempt.
    pub retry_delay: fn(attempts: u32, age: Duration) -> Option<Duration>,
}

/// Renders an event as no, one or several messages. It is pure, so that every attempt sends the same body.
pub(crate) type RenderFn = fn(&CallbackReceiver, &Cast, &Event) -> Vec<WebhookMessage>;

/// Callback format of one API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallbackFormat {
    /// The name of the API, [`Cast::api`].
    pub(crate) api: &'static str,
    pub(crate) policy: DeliveryPolicy,
    pub(crate) render: RenderFn,
    /// Returns the receiver of a cast.
    pub(crate) receiver: fn(&Application, &Cast) -> Option<CallbackReceiver>,
    /// Whether a response with this status confirms the delivery.
    pub(crate) is_success: fn(u16) -> bool,
}

/// Whether a status is 200, the only one that both vendors accept as success.
pub(crate) fn is_200(status: u16) -> bool {
    status == 200
}

/// Whether a status is in the range of success, 200 to 299.
pub(crate) fn is_2xx(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Returns the receiver in the request of a REST cast, or else the application's.
pub(crate) fn native_receiver(app: &Application, cast: &Cast) -> Option<CallbackReceiver> {
    let own = cast.request.get("callback").cloned().and_then(CallbackReceiver::from_stored);
    own.or_else(|| app.settings.callbacks.native.clone())
}
