//! Calls as programs that use the vendors' SDKs, as in `docs/guides/sdks.md`: keys come from the environment.

mod literal;

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use literal::{Language, literal, string};

/// The same call in several languages. Keys come from the environment variables `ACCESS_KEY` and
/// `SECRET_KEY`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ExplorerPrograms)]
pub(crate) struct Programs {
    /// Python: `volcengine` or `tencentcloud-sdk-python`.
    pub(crate) python: String,
    /// Node.js: `@volcengine/openapi` or `tencentcloud-sdk-nodejs`.
    pub(crate) node: String,
    /// Go: `volcengine-go-sdk` or `tencentcloud-sdk-go`.
    pub(crate) go: String,
    /// Java: `volc-sdk-java` or `tencentcloud-sdk-java-common`.
    pub(crate) java: String,
    /// Command line of `pagecast call`, with its keys in `PAGECAST_CALL_KEY` and `PAGECAST_CALL_SECRET`.
    pub(crate) cli: String,
}

/// A call to write down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    pub(crate) action: &'a str,
    pub(crate) version: &'a str,
    /// Whether the action is called by GET, with its parameters in the query.
    pub(crate) is_get: bool,
    pub(crate) region: &'a str,
    pub(crate) parameters: &'a Map<String, Value>,
    /// Host and port of the service.
    pub(crate) host: &'a str,
    /// `http` or `https`.
    pub(crate) scheme: &'a str,
}

impl Program<'_> {
    /// Programs for the SDKs of Volcengine.
    pub(crate) fn volcengine(&self) -> Programs {
        Programs {
            python: self.fill(include_str!("program/volcengine.py"), Language::Python),
            node: self.fill(include_str!("program/volcengine.js"), Language::JavaScript),
            go: self.fill(include_str!("program/volcengine.go"), Language::Go),
            java: self.fill(include_str!("program/volcengine.java"), Language::Java),
            cli: self.command(),
        }
    }

    /// Programs for the SDKs of Tencent.
    pub(crate) fn tencent(&self) -> Programs {
        Programs {
            python: self.fill(include_str!("program/tencent.py"), Language::Python),
            node: self.fill(include_str!("program/tencent.js"), Language::JavaScript),
            go: self.fill(include_str!("program/tencent.go"), Language::Go),
            java: self.fill(include_str!("program/tencent.java"), Language::Java),
            cli: self.command(),
        }
    }

    /// Replaces the words in capitals of a template. Each is replaced once, from the front to the back, so
    /// that a value which contains such a word stays as it is.
    fn fill(&self, template: &str, language: Language) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('«') {
            let Some((name, next)) = after.split_once('»') else { break };
            out.push_str(before);
            // Nested lines continue at the indentation of their first one.
            let line = out.rsplit('\n').next().unwrap_or_default();
            let indent = line.len() - line.trim_start().len();
            out.push_str(&self.value(name, language, indent));
            rest = next;
        }
        out.push_str(rest);
        out
    }

    fn value(&self, name: &str, language: Language, indent: usize) -> String {
        let is_get = self.is_get;
        match name {
            "action" => string(self.action),
            "version" => string(self.version),
            "region" => string(self.region),
            "host" => string(self.host),
            "scheme" => string(self.scheme),
            "scheme:" => string(&format!("{}:", self.scheme)),
            "scheme://" => string(&format!("{}://", self.scheme)),
            "SCHEME" => string(&self.scheme.to_ascii_uppercase()),
            "plain" => (self.scheme == "http").to_string(),
            "method" => string(if is_get { "GET" } else { "POST" }),
            "go-method" => if is_get { "GET" } else { "POST" }.to_owned(),
            "python-call" if is_get => "rtc.get(\"call\", parameters)".to_owned(),
            "python-call" => "rtc.json(\"call\", {}, json.dumps(parameters))".to_owned(),
            "node-action" if is_get => format!(
                "rtc.createAPI({}, {{ Version: {}, method: \"GET\" }})",
                string(self.action),
                string(self.version)
            ),
            "node-action" => {
                format!("rtc.createJSONAPI({}, {{ Version: {} }})", string(self.action), string(self.version))
            }
            "java-call" if is_get => {
                let pairs = self.parameters.iter().map(|(name, value)| {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    format!("pair({}, {})", string(name), string(&value))
                });
                format!("rtc.query(\"call\", List.of({}))", pairs.collect::<Vec<_>>().join(", "))
            }
            "java-call" => format!("rtc.json(\"call\", new ArrayList<>(), {})", self.json_string()),
            "json" => self.json_string(),
            "parameters" => literal(&Value::from(self.parameters.clone()), language, indent),
            _ => String::new(),
        }
    }

    /// The parameters as JSON in a string.
    fn json_string(&self) -> String {
        string(&Value::from(self.parameters.clone()).to_string())
    }

    fn command(&self) -> String {
        let mut line = String::from("PAGECAST_CALL_KEY=$ACCESS_KEY PAGECAST_CALL_SECRET=$SECRET_KEY");
        let json = Value::from(self.parameters.clone()).to_string();
        let _infallible = write!(
            line,
            " \\\n  pagecast call {} {} --endpoint {}",
            self.action,
            shell_word(&json),
            shell_word(&format!("{}://{}", self.scheme, self.host))
        );
        line
    }
}

/// A word of a shell, in quotes.
fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn programs(parameters: &Value, is_get: bool) -> [Programs; 2] {
        let program = Program {
            action: "StartWebcast",
            version: "2020-12-01",
            is_get,
            region: "cn-north-1",
            parameters: parameters.as_object().unwrap(),
            host: "127.0.0.1:8080",
            scheme: "http",
        };
        [program.volcengine(), program.tencent()]
    }

    #[test]
    fn every_word_of_the_templates_is_replaced() {
        for is_get in [false, true] {
            for programs in programs(&json!({"A": "«action» x"}), is_get) {
                for text in [&programs.python, &programs.node, &programs.go, &programs.java] {
                    assert_eq!(text.matches('«').count(), 1, "only that of the value: {text}");
                    assert!(text.contains("«action» x") && text.contains("127.0.0.1:8080"), "{text}");
                    assert!(text.contains("ACCESS_KEY") && text.ends_with('\n'), "{text}");
                }
            }
        }
    }

    #[test]
    fn commands_quote_their_words() {
        let [program, _] = programs(&json!({"A": "it's $HOME"}), false);
        let expected = "PAGECAST_CALL_KEY=$ACCESS_KEY PAGECAST_CALL_SECRET=$SECRET_KEY \\\n  pagecast call \
                        StartWebcast '{\"A\":\"it'\\''s $HOME\"}' --endpoint 'http://127.0.0.1:8080'";
        assert_eq!(program.cli, expected);
    }
}
