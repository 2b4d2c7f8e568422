//! Tables that fit the width of the terminal.

use super::terminal::{text_width, truncate};

/// Space between two columns.
const GAP: &str = "  ";

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Rank for dropping: where the terminal is too narrow, the column with the largest rank is dropped
    /// first.
    pub(crate) drop_rank: u8,
    /// Whether the column has numbers, which are aligned at their ends.
    pub(crate) is_number: bool,
}

impl Column {
    /// A column of text.
    pub(crate) const fn text(drop_rank: u8, title: &'static str) -> Self {
        Self { title, drop_rank, is_number: false }
    }

    /// A column of numbers.
    pub(crate) const fn number(drop_rank: u8, title: &'static str) -> Self {
        Self { title, drop_rank, is_number: true }
    }
}

/// Renders a table with a line of titles. With a `width`, in columns of the terminal, no line is wrapped: the
/// least important columns are dropped, and what is still too long is cut off.
pub(crate) fn render<const N: usize>(
    columns: &[Column; N],
    rows: &[[String; N]],
    width: Option<usize>,
) -> Vec<String> {
    let titles = columns.map(|column| column.title.to_owned());
    let lines: Vec<[String; N]> =
        std::iter::once(&titles).chain(rows).map(|row| row.each_ref().map(|cell| printable(cell))).collect();
    let widest = |n: usize| lines.iter().map(|line| text_width(&line[n])).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(widest);
    let mut shown: Vec<usize> = (0..N).collect();
    if let Some(width) = width {
        let needed = |shown: &[usize]| {
            shown.iter().map(|n| widths[*n]).sum::<usize>() + GAP.len() * shown.len().saturating_sub(1)
        };
        while shown.len() > 1 && needed(&shown) >= width {
            let least = shown.iter().copied().max_by_key(|n| columns[*n].drop_rank);
            shown.retain(|n| Some(*n) != least);
        }
    }
    let render_line = |line: &[String; N]| {
        let cells = shown.iter().map(|n| {
            let (cell, padding) = (&line[*n], " ".repeat(widths[*n] - text_width(&line[*n])));
            if columns[*n].is_number { format!("{padding}{cell}") } else { format!("{cell}{padding}") }
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        let line = line.trim_end();
        width.map_or_else(|| line.to_owned(), |width| truncate(line, width.saturating_sub(1)))
    };
    lines.iter().map(render_line).collect()
}

/// Replaces control characters: a service may send anything, escape sequences included.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::text(0, "NODE"), Column::number(1, "CASTS"), Column::text(2, "LABELS")];

    fn rows() -> [[String; 3]; 2] {
        [["a", "12", "zone-a"], ["worker-7", "3", ""]].map(|row| row.map(str::to_owned))
    }

    #[test]
    fn columns_are_aligned() {
        let expected = ["NODE      CASTS  LABELS", "a            12  zone-a", "worker-7      3"];
        assert_eq!(render(&COLUMNS, &rows(), None), expected);
        assert_eq!(render(&COLUMNS, &rows(), Some(24)), expected);
        assert_eq!(render(&COLUMNS, &[], None), ["NODE  CASTS  LABELS"]);
    }

    #[test]
    fn the_column_with_the_largest_rank_is_dropped_first() {
        let narrow = |width| render(&COLUMNS, &rows(), Some(width));
        assert_eq!(narrow(23), ["NODE      CASTS", "a            12", "worker-7      3"]);
        assert_eq!(narrow(15), ["NODE", "a", "worker-7"]);
        assert_eq!(narrow(5), ["NODE", "a", "work"]);
        assert_eq!(narrow(0), ["", "", ""]);
    }

    #[test]
    fn control_characters_are_not_printed() {
        let rows = [["\x1b[2Ja\n".to_owned()]];
        assert_eq!(render(&[Column::text(0, "NODE")], &rows, None), ["NODE", "?[2Ja?"]);
    }
}
