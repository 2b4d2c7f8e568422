//! JavaScript functions with which a page signals that it is ready, and that the cast is over.

use pagecast_core::spec::ReadySignal;
use serde_json::{Value, json};

/// Name of the DevTools binding. Our script removes it before the scripts of the page run.
pub(super) const BINDING: &str = "__pagecast_signal";

/// A signal of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageSignal {
    Ready,
    End,
}

impl PageSignal {
    /// Parses `Runtime.bindingCalled`; `None` for signals that `signal` does not include.
    pub(super) fn parse(signal: ReadySignal, params: &Value) -> Option<Self> {
        match (params["name"].as_str()?, params["payload"].as_str()?, signal) {
            (BINDING, "ready", ReadySignal::Webcast | ReadySignal::NotifyReady) => Some(Self::Ready),
            (BINDING, "end", ReadySignal::Webcast) => Some(Self::End),
            _ => None,
        }
    }
}

/// Script for every document that defines the functions; `None` if there are none.
pub(super) fn script(signal: ReadySignal) -> Option<String> {
    let functions = match signal {
        ReadySignal::None => return None,
        ReadySignal::Webcast => r#"{onWebcastStart: "ready", onWebcastEnd: "end"}"#,
        ReadySignal::NotifyReady => r#"{notifyReady: "ready"}"#,
    };
    // A JSON string is also a JavaScript string.
    Some(format!("({})({functions}, {})", include_str!("signal.js"), json!(BINDING)))
        .map(|body| format!("(() => {{\n{body}}})();"))
}
