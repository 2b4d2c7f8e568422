//! Test messages to the receivers of callbacks.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{API, ApiError, Caller, ErrorCode, Json, RestState, callback, error, json_response};
use crate::callback::{send_test, test_event};
use crate::route::DIALECTS;

/// Receiver to send a test message to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::rest) struct TestCallbackRequest {
    /// API whose receiver and format are used.
    api: CallbackApi,
}

/// API with a format of callbacks.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum CallbackApi {
    V1,
    Volcengine,
    Tencent,
}

impl CallbackApi {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => API,
            Self::Volcengine => crate::volcengine::API,
            Self::Tencent => crate::tencent::API,
        }
    }
}

/// Test message that was sent, and the answer of the receiver.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct TestCallbackResponse {
    /// Address of the receiver; its query is shown as `…`.
    url: String,
    /// Headers of the message.
    headers: BTreeMap<&'static str, String>,
    /// Body of the message.
    body: String,
    /// HTTP status of the answer; null without one.
    #[schema(required = true)]
    status: Option<u16>,
    /// Beginning of the answer, up to 500 characters, with control characters escaped; null if it was empty.
    #[schema(required = true)]
    answer: Option<String>,
    /// Why a message like this would not count as delivered; null if it would.
    #[schema(required = true)]
    error: Option<String>,
    /// Time until the answer, in milliseconds.
    duration_ms: u64,
}

/// Send a test message to a receiver of callbacks.
///
/// The message is sent once, by the same way, within the same network policy and with the same signature as
/// any other. It is about a cast that does not exist: an event `test`, or in the vendors' formats the start
/// of a task, for Volcengine of the task and room `pagecast-test`.
#[utoipa::path(post, path = "/v1/applications/{name}/callbacks/test", tag = "applications",
    operation_id = "testCallback",
    params(("name" = String, Path, description = "Name of the application. A token of an application may \
        name its own.")),
    request_body = TestCallbackRequest,
    responses((status = 200, description = "The message was sent, or could not be.",
            body = TestCallbackResponse),
        (status = 403, description = "`forbidden`: another application.", body = error::ErrorResponse),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse),
        (status = 409, description = "`no-receiver`: the application has no receiver of this API.",
            body = error::ErrorResponse),
        (status = 429, description = "`too-many-requests`, also if the service is busy with other tests.",
            body = error::ErrorResponse)))]
pub(in crate::rest) async fn test(
    State(rest): State<RestState>,
    caller: Caller,
    Path(name): Path<String>,
    Json { value, .. }: Json<TestCallbackRequest>,
) -> Result<Response, ApiError> {
    let app = caller.find_application(&rest.service, &name)?;
    let api = value.api.as_str();
    let no_receiver =
        || ApiError::new(ErrorCode::NoReceiver, "the application has no receiver of callbacks of this API");
    let format = DIALECTS.iter().find(|format| format.api == api).ok_or_else(no_receiver)?;
    let (cast, event) =
        test_event(&app, api, rest.service.new_cast_id(), rest.service.now()).map_err(|_| no_receiver())?;
    let receiver = (format.receiver)(&app, &cast).ok_or_else(no_receiver)?;
    let render = if api == API { callback::render_test } else { format.render };
    let message = render(&receiver, &cast, &event).into_iter().next().ok_or_else(no_receiver)?;
    let _slot = rest.acquire_test_slot()?;
    let sent = send_test(&rest.webhooks, &app, &receiver, format, message).await;
    Ok(json_response(
        StatusCode::OK,
        &TestCallbackResponse {
            url: sent.url,
            headers: sent.headers,
            body: sent.body,
            status: sent.status,
            answer: sent.answer,
            error: sent.error,
            duration_ms: u64::try_from(sent.duration.as_millis()).unwrap_or(u64::MAX),
        },
    ))
}
