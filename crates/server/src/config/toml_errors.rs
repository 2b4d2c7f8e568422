//! Error messages about TOML: worded for operators, without values, which may be secrets.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A segment of the path to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathSegment {
    Key(String),
    Index(usize),
}

/// Formats a path, like `applications[0].tokens`.
pub(super) fn format_path(path: &[PathSegment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            PathSegment::Key(key) if text.is_empty() => text.push_str(key),
            PathSegment::Key(key) => text.extend([".", key]),
            PathSegment::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Returns the line number of an offset, from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Returns the line number of a key, from 1, if it is unambiguous: the path may lack list indices.
pub(super) fn line_of_key(text: &str, path: &[PathSegment]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut found = Vec::new();
    find_key(document.get_ref(), path, &mut found);
    match found[..] {
        [offset] => Some(line_at(text, offset)),
        _ => None,
    }
}

fn find_key(table: &DeTable<'_>, path: &[PathSegment], found: &mut Vec<usize>) {
    let Some((PathSegment::Key(key), rest)) = path.split_first() else { return };
    for (name, value) in table.iter().filter(|(name, _)| name.get_ref() == key) {
        if rest.is_empty() {
            found.push(name.span().start);
        } else {
            find_key_in_value(value, rest, found);
        }
    }
}

fn find_key_in_value(value: &Spanned<DeValue<'_>>, path: &[PathSegment], found: &mut Vec<usize>) {
    match (value.get_ref(), path) {
        (DeValue::Table(table), _) => find_key(table, path, found),
        (DeValue::Array(list), [PathSegment::Index(index), rest @ ..]) => {
            let Some(element) = list.get(*index) else { return };
            match rest {
                [] => found.push(element.span().start),
                rest => find_key_in_value(element, rest, found),
            }
        }
        (DeValue::Array(list), _) => list.iter().for_each(|element| find_key_in_value(element, path, found)),
        _ => {}
    }
}

/// Rewords an error of serde without the rejected value, which may be a secret. For an unknown key, also
/// returns the key; `more_keys` are known besides those in the message.
pub(super) fn redacted_message(message: &str, more_keys: &[&str]) -> (String, Option<String>) {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut quoted = rest.split('`').skip(1).step_by(2);
        let unknown = quoted.next().unwrap_or_default();
        let known = quoted.chain(more_keys.iter().copied()).collect::<Vec<_>>();
        return (unknown_key_message(unknown, &known), Some(unknown.to_owned()));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let mut quoted = rest.split('`').skip(1).step_by(2);
        let rejected = quoted.next().unwrap_or_default();
        let known = quoted.collect::<Vec<_>>();
        let suggestion =
            closest_match(rejected, &known).map(|word| format!("; did you mean {word}?")).unwrap_or_default();
        return (format!("must be one of {}{suggestion}", known.join(", ")), None);
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return (format!("the key {} is missing", field.replace('`', "")), None);
    }
    if let Some(rest) = message.strip_prefix("invalid type: ") {
        let (found, expected) = rest.rsplit_once(", expected ").unwrap_or((rest, "another type"));
        let kind = found.split(['"', '`']).next().unwrap_or_default().trim();
        return (format!("must be {}, found {kind}", type_name(expected)), None);
    }
    if let Some(rest) = message.strip_prefix("invalid value: ") {
        let expected = rest.rsplit_once(", expected ").map_or("another value", |(_, expected)| expected);
        return (format!("must be {expected}"), None);
    }
    // Quoted text is part of the value.
    let text = message.split('"').next().unwrap_or_default();
    (text.trim_end_matches([':', ' ', '\n']).to_owned(), None)
}

/// Converts the name of a Rust type to that of a TOML type.
fn type_name(expected: &str) -> &str {
    match expected {
        "u16" | "u32" | "u64" | "usize" => "an integer of at least 0",
        "f64" => "a number",
        name if name.starts_with("struct ") => "a table",
        other => other,
    }
}

/// Builds the message for an unknown key, with the key that was probably meant, or with all known keys.
fn unknown_key_message(unknown: &str, known: &[&str]) -> String {
    if let Some(word) = closest_match(unknown, known) {
        return format!("unknown key; did you mean {word}?");
    }
    if known.is_empty() {
        "unknown key".into()
    } else {
        format!("unknown key; known keys: {}", known.join(", "))
    }
}

/// Returns the known word closest to `word`, if it is close enough to be a typing error.
fn closest_match<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    // The distance takes quadratic time.
    let word = word.get(..64).unwrap_or(&word);
    let (distance, best) = known.iter().map(|known| (strsim::levenshtein(word, known), *known)).min()?;
    (distance <= 1 + word.len() / 4).then_some(best)
}
