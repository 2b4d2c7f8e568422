//! Rules about the text of a Rust file. Each check returns one message per violation.

use std::collections::BTreeMap;

/// Longest file without its tests, in lines. A reader keeps one file in mind; above this it has two topics.
pub(crate) const MAX_CODE_LINES: usize = 800;
/// Most lines of tests in one file. Tests are read one at a time, and most stand alone, so a file of them may
/// be a little longer than code; above this it tests more than one module.
pub(crate) const MAX_TEST_LINES: usize = 900;
/// Longest line, in characters. `rustfmt.toml` has the same number for code.
pub(crate) const MAX_COLUMNS: usize = 110;
/// Names with more words than this are sentences (names of tests) and may use any word.
const MAX_NAME_WORDS: usize = 3;

/// Words that no identifier and no file name may have, and what to use instead. See the glossary in
/// CONTRIBUTING.md.
pub(crate) const BANNED_WORDS: &[(&str, &str)] = &[
    ("asked", "requested"),
    ("asker", "Caller"),
    ("beat", "heartbeat"),
    ("beats", "heartbeats"),
    ("breath", "TIMEOUT or what it bounds"),
    ("care", "health"),
    ("courier", "WebhookDispatcher or Uploader"),
    ("deaf", "what it does not receive"),
    ("desk", "AppState or RequestGate"),
    ("ear", "LogForwarder"),
    ("ears", "LogForwarder"),
    ("endure", "what it retries"),
    ("farewell", "SHUTDOWN_TIMEOUT or what it bounds"),
    ("footage", "Recording or what it holds"),
    ("glance", "what it measures"),
    ("happening", "Event"),
    ("happenings", "events"),
    ("heard", "received"),
    ("hears", "receives"),
    ("ill", "RetryLater or Error"),
    ("keying", "GopPolicy"),
    ("look", "POLL_INTERVAL or what is checked"),
    ("looked", "checked or CheckResult"),
    ("looks", "checks"),
    ("manner", "Mode or what it selects"),
    ("news", "Event"),
    ("notice", "OutboxEntry or Event"),
    ("notices", "entries or events"),
    ("obeyed", "ack_commands"),
    ("patience", "TIMEOUT or what it bounds"),
    ("purse", "BitBudget"),
    ("rig", "Fixture or what it is"),
    ("said", "reported, logged or the name of the value"),
    ("sayings", "messages"),
    ("shelf", "what it stores"),
    ("shot", "EncodeParams"),
    ("shots", "EncodeParams"),
    ("tell", "report or put_stats"),
    ("teller", "EventReporter"),
    ("tells", "reports"),
    ("told", "reported, EventMapper or the name of the value"),
    ("tongue", "ApiFrontend"),
    ("trouble", "HealthFault or Problem"),
    ("troubles", "faults or problems"),
    ("vitals", "CastStats or RoomStats"),
    ("wish", "CreateCastRequest or request"),
    ("wishes", "requests"),
];

/// What a character of a Rust file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
    RawText,
}

/// The kind of each character.
fn kinds(text: &[char]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; text.len()];
    let mut at = 0;
    while at < text.len() {
        let (kind, end) = token(text, at);
        kinds[at..end].fill(kind);
        at = end;
    }
    kinds
}

/// Kind and end of what begins at `at`: a comment, a literal, an identifier or one character.
fn token(text: &[char], at: usize) -> (Kind, usize) {
    let next = text.get(at + 1).copied();
    let find_from = |from: usize, wanted: &[char]| {
        let found = text[from..].windows(wanted.len()).position(|w| w == wanted);
        found.map_or(text.len(), |i| from + i + wanted.len())
    };
    match text[at] {
        '/' if next == Some('/') => (Kind::Comment, find_from(at, &['\n']).saturating_sub(1).max(at + 2)),
        '/' if next == Some('*') => (Kind::Comment, find_from(at + 2, &['*', '/'])),
        '"' => (Kind::Text, quoted_end(text, at)),
        // A character, or the name of a lifetime.
        '\'' if next == Some('\\') => (Kind::Text, find_from(at + 3, &['\''])),
        '\'' if text.get(at + 2) == Some(&'\'') => (Kind::Text, at + 3),
        c if c.is_alphanumeric() || c == '_' => {
            let end = (at..text.len()).find(|i| !is_word(text[*i])).unwrap_or(text.len());
            let word: String = text[at..end].iter().collect();
            let hashes = text[end..].iter().take_while(|c| **c == '#').count();
            if matches!(word.as_str(), "r" | "br" | "cr") && text.get(end + hashes) == Some(&'"') {
                let closing: Vec<char> =
                    std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                return (Kind::RawText, find_from(end + hashes + 1, &closing));
            }
            (Kind::Code, end)
        }
        _ => (Kind::Code, at + 1),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// End of the string literal whose quote is at `at`.
fn quoted_end(text: &[char], at: usize) -> usize {
    let mut at = at + 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Files with too many lines. A test module stands behind `#[cfg(test)]`, as `mod tests { … }` or in a file
/// that `is_test` marks.
pub(crate) fn length_violations(text: &str, is_test: bool) -> Vec<String> {
    let (mut code, mut tests) = (0, 0);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if is_test {
            tests += 1;
        } else if let Some(indent) = line.strip_suffix("#[cfg(test)]") {
            tests += 1 + test_item_lines(&mut lines, indent);
        } else {
            code += 1;
        }
    }
    let mut found = Vec::new();
    if code > MAX_CODE_LINES {
        found.push(format!("{code} lines without tests, {MAX_CODE_LINES} are allowed: split it"));
    }
    if tests > MAX_TEST_LINES {
        found.push(format!("{tests} lines of tests, {MAX_TEST_LINES} are allowed: split them"));
    }
    found
}

/// Lines of the item after `#[cfg(test)]`, which are taken from `lines`. `indent` stands before the
/// attribute.
fn test_item_lines<'a>(lines: &mut impl Iterator<Item = &'a str>, indent: &str) -> usize {
    let mut count = 0;
    let mut is_open = false;
    for line in lines {
        count += 1;
        is_open |= line.ends_with(['{', '(', '[']) && !line.trim_start().starts_with('#');
        let at_indent = line.strip_prefix(indent).is_some_and(|rest| !rest.starts_with(' '));
        if is_open && at_indent && line.trim_start().starts_with(['}', ')', ']'])
            || !is_open && line.ends_with([';', '}', ','])
        {
            break;
        }
    }
    count
}

/// Doc comments whose first paragraph has fewer than two words.
pub(crate) fn doc_violations(text: &str) -> Vec<String> {
    let doc = |line: &'_ str| -> Option<(&'static str, String)> {
        let line = line.trim_start();
        let of = |marker| line.strip_prefix(marker).map(|rest| (marker, rest.trim().to_owned()));
        of("///").or_else(|| of("//!"))
    };
    let mut found = Vec::new();
    let mut previous = None;
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let current = doc(line);
        if let Some((marker, paragraph)) = &current
            && previous != Some(*marker)
        {
            let next = lines.peek().and_then(|(_, line)| doc(line));
            let ends = next.is_none_or(|(other, text)| other != *marker || text.is_empty());
            if ends && paragraph.split_whitespace().count() < 2 {
                found.push(format!("{}: say in a sentence what it is, not {paragraph:?}", index + 1));
            }
        }
        previous = current.map(|(marker, _)| marker);
    }
    found
}

/// Lines that are too long. Raw strings are not judged: a break in one would be part of the text.
pub(crate) fn width_violations(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let kinds = kinds(&chars);
    let mut found = Vec::new();
    let mut start = 0;
    for (index, line) in text.split('\n').enumerate() {
        let length = line.chars().count();
        let has_raw_text = kinds[start..start + length].contains(&Kind::RawText);
        if length > MAX_COLUMNS && !has_raw_text {
            found.push(format!("{}: {length} columns, {MAX_COLUMNS} are allowed", index + 1));
        }
        start += length + 1;
    }
    found
}

/// Identifiers with a banned word.
pub(crate) fn name_violations(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let kinds = kinds(&chars);
    let mut names = BTreeMap::<String, usize>::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let mut end = at + 1;
        if kinds[at] == Kind::Code && is_word(chars[at]) {
            end = (at..chars.len())
                .find(|i| kinds[*i] != Kind::Code || !is_word(chars[*i]))
                .unwrap_or(chars.len());
            names.entry(chars[at..end].iter().collect()).or_insert(line);
        }
        line += usize::from(chars[at] == '\n');
        at = end;
    }
    let mut found = Vec::new();
    for (name, line) in names {
        found.extend(banned_words(&name).map(|message| format!("{line}: {message}")));
    }
    found
}

/// One message for each banned word in a name, which is an identifier or the name of a file.
pub(crate) fn banned_words(name: &str) -> impl Iterator<Item = String> {
    let words = words_of(name);
    let is_sentence = words.len() > MAX_NAME_WORDS;
    let found =
        BANNED_WORDS.iter().filter(move |(banned, _)| !is_sentence && words.iter().any(|w| w == banned));
    found.map(move |(banned, instead)| format!("{name} has the word {banned:?}, use {instead}"))
}

/// The words of an identifier in snake case, camel case or capitals, in lower case.
fn words_of(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut previous = '_';
    for c in name.chars() {
        if c == '_' {
            previous = c;
            continue;
        }
        let begins = previous == '_' || c.is_uppercase() && !previous.is_uppercase();
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
        previous = c;
    }
    words
}

#[test]
fn length_counts_what_follows_tests() {
    let code = |n| "let x = 1;\n".repeat(n);
    let around = |n| {
        format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n{}", code(400), "    fine();\n".repeat(500), code(n))
    };
    assert!(length_violations(&around(400), false).is_empty());
    assert_eq!(length_violations(&around(401), false).len(), 1);
    let field =
        format!("struct A {{\n    #[cfg(test)]\n    x: u8,\n}}\n#[cfg(test)]\nmod tests;\n{}", code(797));
    assert_eq!(length_violations(&field, false).len(), 0);
    assert_eq!(length_violations(&format!("{field}{}", code(2)), false).len(), 1);
    assert!(length_violations(&code(900), true).is_empty());
    assert_eq!(length_violations(&code(901), true).len(), 1);
}

#[test]
fn one_word_doc_comments_are_found() {
    let bad =
        "//! Module.\n\n/// Which.\nstruct A {\n    /// They.\n    ///\n    /// But they.\n    a: u8,\n}\n";
    assert_eq!(doc_violations(bad).len(), 3, "{:?}", doc_violations(bad));
    let good =
        "//! A module.\n/// Its\n/// first item.\n///\n/// # Errors\n/// None.\nstruct A;\n// Which.\n";
    assert!(doc_violations(good).is_empty(), "{:?}", doc_violations(good));
}

#[test]
fn long_lines_are_found() {
    let line = |n: usize| format!("// {}\n", "ä".repeat(n));
    assert!(width_violations(&line(107)).is_empty());
    assert_eq!(width_violations(&line(108)).len(), 1);
    assert_eq!(width_violations(&format!("let a = \"{}\";\n", "x".repeat(110))).len(), 1);
    let raw = format!("let a = r#\"\n{}\n\"#;\n{}", "x\"".repeat(110), line(108));
    assert_eq!(width_violations(&raw).len(), 1, "{:?}", width_violations(&raw));
}

#[test]
fn banned_names_are_found_in_identifiers_only() {
    let bad = "struct BitPurse; fn open_desk() { let told = 1; const MY_WISH: u8 = b'\\''; }";
    assert_eq!(name_violations(bad).len(), 4, "{:?}", name_violations(bad));
    let good = "// told\n/* wish */ fn early_search(a: &'a str) { \"said \\\" told\"; r#\"told \" told\"#; \
                'x'; }\n\
                fn a_page_is_told_of_it() {}";
    assert!(name_violations(good).is_empty(), "{:?}", name_violations(good));
    assert_eq!((banned_words("care").count(), banned_words("careful_tests").count()), (1, 0));
}
