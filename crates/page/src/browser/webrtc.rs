//! Pages that set up connections of WebRTC.

use serde_json::{Value, json};

/// How our script reaches us. It takes it away again before the page's own scripts run.
pub(super) const BINDING: &str = "__pagecast_webrtc";

/// A script for every document.
pub(super) fn script() -> String {
    // A JSON string is one of JavaScript too.
    format!("({})({})", include_str!("webrtc.js"), json!(BINDING))
}

/// Whether `Runtime.bindingCalled` tells of such a connection.
pub(super) fn is_connection_event(params: &Value) -> bool {
    params["name"] == BINDING
}
