//! Tells whoever wants to know: from the fleet's outbox to a receiver, in the words of the dialect that a cast came by.
//!
//! The outbox gives the first event of each cast that is not settled; the [`WebhookDispatcher`] tells many casts' events at once and each
//! cast's in order, and settles them. What a receiver is and what its secret is stands in the application, and is read anew for each
//! try. [`retry`] decides when to try again, [`client`] how a message gets there and where it may not go.

mod client;
mod dispatcher;
#[cfg(test)]
mod embedded;
mod retry;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::body::Bytes;
use pagecast_fleet::{Cast, Event};

use crate::app::{Application, CallbackReceiver};

pub(crate) use client::AttemptOutcome;
pub use dispatcher::WebhookDispatcher;

/// A message to a receiver, whole but for its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookMessage {
    /// The body, as it is signed.
    pub body: Bytes,
    /// Headers besides those that every request has.
    pub headers: Vec<(&'static str, String)>,
}

/// How a vendor delivers.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryPolicy {
    /// An answer must have come by then.
    pub timeout: Duration,
    /// Pause before try number `tries + 1`, for a message that was first tried `age` ago; `None`: no more tries.
    pub retry_delay: fn(tries: u32, age: Duration) -> Option<Duration>,
}

/// What an event is in a vendor's words: none, one or several messages. Pure, so that a second try says the same.
pub(crate) type RenderFn = fn(&CallbackReceiver, &Cast, &Event) -> Vec<WebhookMessage>;

/// How casts of one API are told about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallbackFormat {
    /// The name of the API, [`Cast::api`].
    pub(crate) api: &'static str,
    pub(crate) policy: DeliveryPolicy,
    pub(crate) render: RenderFn,
    /// Who of an application is told about this cast.
    pub(crate) receiver: fn(&Application, &Cast) -> Option<CallbackReceiver>,
    /// Whether an answer with this status means that it arrived.
    pub(crate) is_success: fn(u16) -> bool,
}

/// Whether a status is the one that both vendors take for success.
pub(crate) fn is_200(status: u16) -> bool {
    status == 200
}

/// Whether a status is any that means success.
pub(crate) fn is_2xx(status: u16) -> bool {
    (200..300).contains(&status)
}

/// The receiver that a cast of the REST API was asked for with, or else the application's.
pub(crate) fn native_receiver(app: &Application, cast: &Cast) -> Option<CallbackReceiver> {
    let own = cast.request.get("callback").cloned();
    let own = own.and_then(|receiver| serde_json::from_value::<CallbackReceiver>(receiver).ok());
    own.or_else(|| app.callbacks.native.clone())
}
