//! Detects pages that set up WebRTC connections.

use serde_json::{Value, json};

/// Name of the DevTools binding. Our script removes it before the scripts of the page run.
pub(super) const BINDING: &str = "__pagecast_webrtc";

/// Script for every document that reports its first WebRTC connection.
pub(super) fn script() -> String {
    // A JSON string is also a JavaScript string.
    format!("({})({})", include_str!("webrtc.js"), json!(BINDING))
}

/// Whether this `Runtime.bindingCalled` reports a WebRTC connection.
pub(super) fn is_connection_event(params: &Value) -> bool {
    params["name"] == BINDING
}
