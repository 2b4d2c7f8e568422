//! What is wrong with a file, for people, and without what might be a secret in it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathSegment {
    Key(String),
    Index(usize),
}

/// `applications[0].tokens`.
pub(super) fn format_path(steps: &[PathSegment]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            PathSegment::Key(key) if path.is_empty() => path.push_str(key),
            PathSegment::Key(key) => path.extend([".", key]),
            PathSegment::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// The line of a text that this offset is in, from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The line in which a key stands, from 1, if only one can be meant: indices of lists may be missing.
pub(super) fn line_of_key(text: &str, steps: &[PathSegment]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut found = Vec::new();
    find_key(document.get_ref(), steps, &mut found);
    match found[..] {
        [offset] => Some(line_at(text, offset)),
        _ => None,
    }
}

fn find_key(table: &DeTable<'_>, steps: &[PathSegment], found: &mut Vec<usize>) {
    let Some((PathSegment::Key(key), rest)) = steps.split_first() else { return };
    for (name, value) in table.iter().filter(|(name, _)| name.get_ref() == key) {
        if rest.is_empty() {
            found.push(name.span().start);
        } else {
            find_key_in_value(value, rest, found);
        }
    }
}

fn find_key_in_value(value: &Spanned<DeValue<'_>>, steps: &[PathSegment], found: &mut Vec<usize>) {
    match (value.get_ref(), steps) {
        (DeValue::Table(table), _) => find_key(table, steps, found),
        (DeValue::Array(list), [PathSegment::Index(index), rest @ ..]) => {
            let Some(element) = list.get(*index) else { return };
            match rest {
                [] => found.push(element.span().start),
                rest => find_key_in_value(element, rest, found),
            }
        }
        (DeValue::Array(list), _) => list.iter().for_each(|element| find_key_in_value(element, steps, found)),
        _ => {}
    }
}

/// Says what serde says, without the value: it may be a secret. With it, the key that is unknown, if that is what is wrong.
pub(super) fn redacted_message(message: &str) -> (String, Option<String>) {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut quoted = rest.split('`').skip(1).step_by(2).map(str::to_owned);
        let unknown = quoted.next().unwrap_or_default();
        return (unknown_key_message(&unknown, &quoted.collect::<Vec<_>>()), Some(unknown));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let mut quoted = rest.split('`').skip(1).step_by(2);
        let given = quoted.next().unwrap_or_default();
        let known = quoted.collect::<Vec<_>>();
        let perhaps =
            closest_match(given, &known).map(|word| format!("; perhaps {word}?")).unwrap_or_default();
        return (format!("one of {} is wanted{perhaps}", known.join(", ")), None);
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return (format!("{} is missing", field.replace('`', "")), None);
    }
    if let Some(rest) = message.strip_prefix("invalid type: ") {
        let (given, wanted) = rest.rsplit_once(", expected ").unwrap_or((rest, "something else"));
        let kind = given.split(['"', '`']).next().unwrap_or_default().trim();
        return (format!("{wanted} is wanted, and this is: {kind}"), None);
    }
    if let Some(rest) = message.strip_prefix("invalid value: ") {
        let why = rest.rsplit_once(", expected ").map_or("it is something else", |(_, why)| why);
        return (format!("it cannot be used: {why}"), None);
    }
    // What is quoted is what was given.
    let said = message.split('"').next().unwrap_or_default();
    (said.trim_end_matches([':', ' ', '\n']).to_owned(), None)
}

/// A key that nobody knows, and those that somebody does.
pub(super) fn unknown_key_message<S: AsRef<str>>(unknown: &str, known: &[S]) -> String {
    if let Some(word) = closest_match(unknown, known) {
        return format!("there is no such key; perhaps {word}?");
    }
    let known = known.iter().map(AsRef::as_ref).collect::<Vec<_>>();
    if known.is_empty() {
        "there is no such key".into()
    } else {
        format!("there is no such key; there are {}", known.join(", "))
    }
}

/// The word that was perhaps meant.
fn closest_match<'a, S: AsRef<str>>(word: &str, known: &'a [S]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    let word = word.get(..64).unwrap_or(&word);
    let distance = |other: &str| edit_distance(word.as_bytes(), other.as_bytes());
    let (distance, best) = known.iter().map(|w| (distance(w.as_ref()), w.as_ref())).min()?;
    (distance <= 1 + word.len() / 4).then_some(best)
}

/// Letters to change, add or leave out to make one word of the other.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
