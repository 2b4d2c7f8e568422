//! The functions by which a page says that it is ready, and that it is over.

use pagecast_core::spec::Signal;
use serde_json::{Value, json};

/// How the page reaches us. Our script takes it away again before the page's own scripts run.
pub(super) const BINDING: &str = "__pagecast_signal";

/// A word from the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Start,
    End,
}

impl Word {
    /// From `Runtime.bindingCalled`; a page may say no more than it was asked for.
    pub(super) fn read(signal: Signal, params: &Value) -> Option<Self> {
        match (params["name"].as_str()?, params["payload"].as_str()?, signal) {
            (BINDING, "start", Signal::Webcast | Signal::NotifyReady) => Some(Self::Start),
            (BINDING, "end", Signal::Webcast) => Some(Self::End),
            _ => None,
        }
    }
}

/// A script for every document, if there is something to say.
pub(super) fn script(signal: Signal) -> Option<String> {
    let functions = match signal {
        Signal::None => return None,
        Signal::Webcast => r#"{onWebcastStart: "start", onWebcastEnd: "end"}"#,
        Signal::NotifyReady => r#"{notifyReady: "start"}"#,
    };
    // A JSON string is one of JavaScript too.
    Some(format!("({})({functions}, {})", include_str!("signal.js"), json!(BINDING)))
        .map(|body| format!("(() => {{\n{body}}})();"))
}
