//! The width of the terminal, and lines that fit into it.

use std::os::fd::AsFd;

/// Columns of a terminal that does not report its width.
const DEFAULT_COLUMNS: usize = 80;
/// Columns counted for a character that is not ASCII: terminals disagree about many of them, and none uses
/// more than two.
const MAX_CHAR_COLUMNS: usize = 2;
const FIELD_SEPARATOR: &str = "  ";

/// A field of the status line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) text: String,
    /// Rank for dropping: where the terminal is too narrow, the field with the largest rank is dropped first.
    pub(super) drop_rank: u8,
}

impl Field {
    pub(super) fn new(rank: u8, text: String) -> Self {
        Self { text, drop_rank: rank }
    }
}

/// Returns the current width of the terminal, in columns.
pub(super) fn columns() -> usize {
    columns_of(std::io::stderr())
}

/// Returns the width of the terminal that this file is, in columns.
pub(super) fn columns_of(terminal: impl AsFd) -> usize {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => DEFAULT_COLUMNS,
    }
}

/// Joins all fields to one line.
pub(super) fn join(fields: &[Field]) -> String {
    fields.iter().map(|field| field.text.as_str()).collect::<Vec<_>>().join(FIELD_SEPARATOR)
}

/// Joins the most important fields to a line that a terminal of this width does not wrap. The last column
/// stays free, because some terminals wrap as soon as it is written.
pub(super) fn fit(mut fields: Vec<Field>, columns: usize) -> String {
    let width = columns.saturating_sub(1);
    loop {
        let line = join(&fields);
        if text_width(&line) <= width {
            return line;
        }
        let least =
            fields.iter().enumerate().max_by_key(|(_, field)| field.drop_rank).map(|(index, _)| index);
        match least {
            Some(index) if fields.len() > 1 => drop(fields.remove(index)),
            _ => return truncate(&line, width),
        }
    }
}

/// Returns the start of a line, in no more than `width` columns.
pub(super) fn truncate(line: &str, width: usize) -> String {
    let mut taken = 0;
    let fits = |character: &char| {
        taken += char_width(*character);
        taken <= width
    };
    line.chars().take_while(fits).collect()
}

/// Most columns that a terminal gives this text.
pub(super) fn text_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(character: char) -> usize {
    if character.is_ascii() { 1 } else { MAX_CHAR_COLUMNS }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Vec<Field> {
        let fields = [(0, "00:00:02.000"), (1, "page 30 fps"), (3, "unchanged 0/s"), (2, "sound 0/-∞ dB")];
        fields.map(|(rank, text)| Field::new(rank, text.to_owned())).into()
    }

    #[test]
    fn the_field_with_the_largest_rank_is_dropped_first() {
        for (columns, line) in [
            (200, "00:00:02.000  page 30 fps  unchanged 0/s  sound 0/-∞ dB"),
            (57, "00:00:02.000  page 30 fps  unchanged 0/s  sound 0/-∞ dB"),
            (56, "00:00:02.000  page 30 fps  sound 0/-∞ dB"),
            (41, "00:00:02.000  page 30 fps"),
            (25, "00:00:02.000"),
            (9, "00:00:02"),
            (1, ""),
            (0, ""),
        ] {
            assert_eq!(fit(fields(), columns), line, "{columns} columns");
        }
    }

    #[test]
    fn wide_characters_count_two_columns() {
        let width = || vec![Field::new(0, "课堂 1".to_owned()), Field::new(1, "房间".to_owned())];
        assert_eq!(fit(width(), 13), "课堂 1  房间");
        assert_eq!(fit(width(), 12), "课堂 1");
        assert_eq!(fit(width(), 5), "课堂");
        assert_eq!(fit(width(), 4), "课");
    }
}
