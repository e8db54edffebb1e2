//! Tables that read well in a terminal: columns as wide as their widest cell,
//! two spaces between them, nothing else.

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// At the left edge.
    Left,
    /// At the right edge: numbers.
    Right,
}

/// A table with a heading.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// A table whose columns stand at the left.
    pub fn left(columns: &[&str]) -> Self {
        Self::new(&columns.iter().map(|name| (*name, Align::Left)).collect::<Vec<_>>())
    }

    /// Adds a row; missing cells are empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, heading first, each line ended.
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| width(name)).collect();
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell));
            }
        }
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for (at, (cell, (_, align))) in row.iter().zip(&self.columns).enumerate() {
                let padding = " ".repeat(widths[at].saturating_sub(width(cell)));
                if at > 0 {
                    line.push_str("  ");
                }
                match align {
                    Align::Left => line.extend([cell.as_str(), &padding]),
                    Align::Right => line.extend([padding.as_str(), cell]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Width on a terminal; names in documents are nearly always ASCII, and others
/// are counted by characters.
fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("TO", Align::Left)]);
        table.row(["echo", "1", "x"]);
        table.row(["longer-name", "100", ""]);
        assert_eq!(
            table.render(),
            "NAME           N  TO\n\
             echo           1  x\n\
             longer-name  100\n"
        );
    }
}
