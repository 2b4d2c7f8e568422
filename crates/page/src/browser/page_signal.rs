//! The functions by which a page says that it is ready, and that it is over.

use pagecast_core::spec::ReadySignal;
use serde_json::{Value, json};

/// How the page reaches us. Our script takes it away again before the page's own scripts run.
pub(super) const BINDING: &str = "__pagecast_signal";

/// A word from the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageSignal {
    Ready,
    End,
}

impl PageSignal {
    /// From `Runtime.bindingCalled`; a page may say no more than it was asked for.
    pub(super) fn parse(signal: ReadySignal, params: &Value) -> Option<Self> {
        match (params["name"].as_str()?, params["payload"].as_str()?, signal) {
            (BINDING, "start", ReadySignal::Webcast | ReadySignal::NotifyReady) => Some(Self::Ready),
            (BINDING, "end", ReadySignal::Webcast) => Some(Self::End),
            _ => None,
        }
    }
}

/// A script for every document, if there is something to say.
pub(super) fn script(signal: ReadySignal) -> Option<String> {
    let functions = match signal {
        ReadySignal::None => return None,
        ReadySignal::Webcast => r#"{onWebcastStart: "start", onWebcastEnd: "end"}"#,
        ReadySignal::NotifyReady => r#"{notifyReady: "start"}"#,
    };
    // A JSON string is one of JavaScript too.
    Some(format!("({})({functions}, {})", include_str!("signal.js"), json!(BINDING)))
        .map(|body| format!("(() => {{\n{body}}})();"))
}
