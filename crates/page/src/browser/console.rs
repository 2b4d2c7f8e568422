//! What the page says: its console and its errors, the last lines of them.

use std::collections::VecDeque;

use serde_json::Value;

/// Lines kept; older ones are forgotten.
const MAX_MESSAGES: usize = 200;
/// Characters kept of a line; the rest is cut off.
const MAX_MESSAGE_CHARS: usize = 1000;

/// One line of the page's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleMessage {
    /// `log`, `warning`, `error` …, as the browser calls it; `exception` for an uncaught one.
    pub level: String,
    /// The text.
    pub text: String,
}

/// The last lines, oldest first.
#[derive(Debug, Default)]
pub(super) struct ConsoleLog(VecDeque<ConsoleMessage>);

impl ConsoleLog {
    /// Takes `Runtime.consoleAPICalled`, `Runtime.exceptionThrown` and `Log.entryAdded`.
    pub(super) fn handle_event(&mut self, method: &str, params: &Value) {
        let line = match method {
            "Runtime.consoleAPICalled" => {
                let words = params["args"].as_array().into_iter().flatten().map(argument_text);
                ConsoleMessage {
                    level: string_or_empty(&params["type"]),
                    text: words.collect::<Vec<_>>().join(" "),
                }
            }
            "Runtime.exceptionThrown" => {
                let details = &params["exceptionDetails"];
                let thrown = details["exception"]["description"].as_str().or(details["text"].as_str());
                ConsoleMessage { level: "exception".into(), text: thrown.unwrap_or("unknown").to_owned() }
            }
            "Log.entryAdded" => ConsoleMessage {
                level: string_or_empty(&params["entry"]["level"]),
                text: string_or_empty(&params["entry"]["text"]),
            },
            _ => return,
        };
        self.push(line);
    }

    pub(super) fn messages(&self) -> Vec<ConsoleMessage> {
        self.0.iter().cloned().collect()
    }

    fn push(&mut self, mut line: ConsoleMessage) {
        if let Some((cut, _)) = line.text.char_indices().nth(MAX_MESSAGE_CHARS) {
            line.text.truncate(cut);
        }
        tracing::debug!(level = line.level, text = line.text, "console");
        if self.0.len() == MAX_MESSAGES {
            self.0.pop_front();
        }
        self.0.push_back(line);
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
    fn keeps_the_last_lines_and_cuts_long_ones() {
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
        log.handle_event("Runtime.consoleAPICalled", &json!("nonsense"));
        let lines = log.messages();
        assert_eq!(lines.len(), 200);
        assert_eq!(lines[198], ConsoleMessage { level: "error".into(), text: "refused".into() });
        assert_eq!(lines[197].text, "Error: x");
        assert!(lines[0].text.starts_with("103 ü") && lines[0].text.chars().count() == 1000);
    }
}
