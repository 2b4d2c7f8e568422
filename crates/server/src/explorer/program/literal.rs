//! Values as they are written in programs.

use serde_json::Value;

/// Language of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    JavaScript,
    Go,
    Java,
}

/// A string in double quotes. The escapes of JSON are those of all four languages.
pub(super) fn string(text: &str) -> String {
    Value::from(text).to_string()
}

/// A value, in several lines if it has nested ones. `indent` is the number of spaces or tabs before its first
/// line.
pub(super) fn literal(value: &Value, language: Language, indent: usize) -> String {
    let unit = if language == Language::Go { "\t" } else { "    " };
    let width = if language == Language::Go { 1 } else { 4 };
    let (inner, outer) = (unit.repeat(indent / width + 1), unit.repeat(indent / width));
    let block = |open: &str, lines: Vec<String>, close: &str| {
        if lines.is_empty() {
            return format!("{open}{close}");
        }
        let lines: String = lines.iter().map(|line| format!("{inner}{line},\n")).collect();
        format!("{open}\n{lines}{outer}{close}")
    };
    let nested = |value: &Value| literal(value, language, indent + width);
    match (value, language) {
        (Value::Null, Language::Python) => "None".to_owned(),
        (Value::Null, Language::Go) => "nil".to_owned(),
        (Value::Bool(flag), Language::Python) => if *flag { "True" } else { "False" }.to_owned(),
        (Value::Object(members), _) => {
            let lines =
                members.iter().map(|(name, value)| format!("{}: {}", string(name), nested(value))).collect();
            let open = if language == Language::Go { "map[string]interface{}{" } else { "{" };
            block(open, lines, "}")
        }
        (Value::Array(values), Language::Go) => {
            block("[]interface{}{", values.iter().map(nested).collect(), "}")
        }
        (Value::Array(values), _) => block("[", values.iter().map(nested).collect(), "]"),
        (other, _) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_literals_of_their_language() {
        let value = json!({"a": [1, {"b": true}], "c": null, "d": {}, "e": "\"\\\n"});
        for (language, expected) in [
            (
                Language::Python,
                "{\n    \"a\": [\n        1,\n        {\n            \"b\": True,\n        },\n    ],\n    \
                 \"c\": None,\n    \"d\": {},\n    \"e\": \"\\\"\\\\\\n\",\n}",
            ),
            (
                Language::JavaScript,
                "{\n    \"a\": [\n        1,\n        {\n            \"b\": true,\n        },\n    ],\n    \
                 \"c\": null,\n    \"d\": {},\n    \"e\": \"\\\"\\\\\\n\",\n}",
            ),
            (
                Language::Go,
                "map[string]interface{}{\n\t\"a\": []interface{}{\n\t\t1,\n\t\tmap[string]interface{}{\n\
                 \t\t\t\"b\": true,\n\t\t},\n\t},\n\t\"c\": nil,\n\t\
                 \"d\": map[string]interface{}{},\n\t\"e\": \
                 \"\\\"\\\\\\n\",\n}",
            ),
        ] {
            assert_eq!(literal(&value, language, 0), expected);
        }
    }
}
