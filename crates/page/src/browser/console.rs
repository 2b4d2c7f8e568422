//! Keeps the last messages of the page's console, uncaught exceptions included.

use std::collections::VecDeque;

use serde_json::Value;

use super::request_log::is_favicon;

/// Messages that are kept; the oldest is dropped for a new one.
const MAX_MESSAGES: usize = 200;
/// Characters that are kept of a message; the rest is cut off.
const MAX_MESSAGE_CHARS: usize = 1000;

/// One message of the page's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleMessage {
    /// Level as the browser calls it, like `log`, `warning` or `error`; `exception` for an uncaught
    /// exception.
    pub level: String,
    /// Text of the message.
    pub text: String,
}

/// The last messages, oldest first.
#[derive(Debug, Default)]
pub(super) struct ConsoleLog(VecDeque<ConsoleMessage>);

impl ConsoleLog {
    /// Handles `Runtime.consoleAPICalled`, `Runtime.exceptionThrown` and `Log.entryAdded`.
    pub(super) fn handle_event(&mut self, method: &str, params: &Value) {
        let message = match method {
            "Runtime.consoleAPICalled" => {
                let arguments = params["args"].as_array().into_iter().flatten().map(argument_text);
                ConsoleMessage {
                    level: string_or_empty(&params["type"]),
                    text: arguments.collect::<Vec<_>>().join(" "),
                }
            }
            "Runtime.exceptionThrown" => {
                let details = &params["exceptionDetails"];
                let thrown = details["exception"]["description"].as_str().or(details["text"].as_str());
                ConsoleMessage { level: "exception".into(), text: thrown.unwrap_or("unknown").to_owned() }
            }
            // The page did not request it.
            "Log.entryAdded" if params["entry"]["url"].as_str().is_some_and(is_favicon) => return,
            "Log.entryAdded" => ConsoleMessage {
                level: string_or_empty(&params["entry"]["level"]),
                text: string_or_empty(&params["entry"]["text"]),
            },
            _ => return,
        };
        self.push(message);
    }

    pub(super) fn messages(&self) -> Vec<ConsoleMessage> {
        self.0.iter().cloned().collect()
    }

    fn push(&mut self, mut message: ConsoleMessage) {
        if let Some((cut, _)) = message.text.char_indices().nth(MAX_MESSAGE_CHARS) {
            message.text.truncate(cut);
        }
        tracing::debug!(level = message.level, text = message.text, "page console message");
        if self.0.len() == MAX_MESSAGES {
            self.0.pop_front();
        }
        self.0.push_back(message);
    }
}

fn string_or_empty(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn argument_text(arg: &Value) -> String {
    match &arg["value"] {
        Value::Null => arg["description"].as_str().or(arg["type"].as_str()).unwrap_or_default().to_owned(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_the_last_messages_and_cuts_long_ones() {
        let mut log = ConsoleLog::default();
        for i in 0..300 {
            log.handle_event(
                "Runtime.consoleAPICalled",
                &json!({"type": "log", "args": [{"value": i}, {"value": "ü".repeat(5000)}]}),
            );
        }
        log.handle_event(
            "Runtime.exceptionThrown",
            &json!({"exceptionDetails": {"text": "Uncaught", "exception": {"description": "Error: x"}}}),
        );
        log.handle_event("Log.entryAdded", &json!({"entry": {"level": "error", "text": "refused"}}));
        let icon = json!({"level": "error", "text": "404", "url": "http://a.example/favicon.ico"});
        log.handle_event("Log.entryAdded", &json!({ "entry": icon }));
        log.handle_event("Runtime.consoleAPICalled", &json!("nonsense"));
        let messages = log.messages();
        assert_eq!(messages.len(), 200);
        assert_eq!(messages[198], ConsoleMessage { level: "error".into(), text: "refused".into() });
        assert_eq!(messages[197].text, "Error: x");
        assert!(messages[0].text.starts_with("103 ü") && messages[0].text.chars().count() == 1000);
    }
}
