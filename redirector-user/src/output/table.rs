//! Tables that read well in a terminal: columns as wide as their widest cell,
//! two spaces between them, nothing else. Where that is too wide, long cells are
//! folded, and a last one that has little room stands below its row.

use super::fold::{WIDTH, hang, width};
use super::plain::plain;

/// Between columns.
const GAP: &str = "  ";

/// With less room than this the last cell of a row stands below it.
const LEAST: usize = 36;

/// How far to the right of the row it stands.
const BELOW: &str = "    ";

/// No column that is folded gets narrower.
const NARROWEST: usize = 8;

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// At the left edge.
    Left,
    /// At the left edge and never folded: addresses.
    Whole,
    /// At the right edge: numbers.
    Right,
}

/// A table with a heading.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
enum Row {
    Cells(Vec<String>),
    /// Over all columns.
    Over(String),
}

/// How a table fits.
struct Fit {
    /// Of the columns, or of those before one that stands below where it has to.
    widths: Vec<usize>,
    below: bool,
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

    /// Adds a row; missing cells are empty. Control characters are written out.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells = cells.into_iter().map(|cell| plain(&cell.into()).into_owned());
        self.rows.push(Row::Cells(cells.collect()));
    }

    /// Adds a line over all columns: what the rows below it have in common.
    pub fn over(&mut self, text: impl Into<String>) {
        self.rows.push(Row::Over(plain(&text.into()).into_owned()));
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, heading first, each line ended.
    pub fn render(&self) -> String {
        let fit = self.fit();
        let mut text = String::new();
        self.line(self.columns.iter().map(|(name, _)| name.as_str()), &fit, &mut text);
        for row in &self.rows {
            match row {
                Row::Cells(cells) => self.line(cells.iter().map(String::as_str), &fit, &mut text),
                Row::Over(over) => hang(over, WIDTH).iter().for_each(|line| end(line, &mut text)),
            }
        }
        text
    }

    /// The widths of the columns.
    fn fit(&self) -> Fit {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| width(name)).collect();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (widest, cell) in widths.iter_mut().zip(cells) {
                *widest = (*widest).max(width(cell));
            }
        }
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        if widths.iter().sum::<usize>() + gaps <= WIDTH {
            return Fit { widths, below: false };
        }
        if let Some((_, Align::Left)) = self.columns.last()
            && let [before @ .., last] = widths.as_mut_slice()
            && !before.is_empty()
            && *last > LEAST
        {
            let before: usize = before.iter().sum();
            *last = WIDTH.saturating_sub(before + gaps);
            if *last >= LEAST {
                return Fit { widths, below: false };
            }
            widths.pop();
            self.narrow(&mut widths);
            return Fit { widths, below: true };
        }
        self.narrow(&mut widths);
        Fit { widths, below: false }
    }

    /// Takes from the widest columns of text until all fit.
    fn narrow(&self, widths: &mut [usize]) {
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        let text = |at: &usize| self.columns[*at].1 == Align::Left;
        while widths.iter().sum::<usize>() + gaps > WIDTH {
            let widest = (0..widths.len()).filter(text).max_by_key(|at| widths[*at]);
            match widest {
                Some(at) if widths[at] > NARROWEST => widths[at] -= 1,
                // Numbers alone are too many; nothing can be done about that.
                _ => return,
            }
        }
    }

    /// Adds the lines of a row.
    fn line<'c>(&self, cells: impl Iterator<Item = &'c str>, fit: &Fit, text: &mut String) {
        let mut cells: Vec<&str> = cells.collect();
        let mut below = None;
        if fit.below && cells.len() > fit.widths.len() {
            let last = cells.pop().unwrap_or_default();
            let before = fit.widths.iter().map(|width| width + GAP.len()).sum::<usize>();
            if before + width(last) <= WIDTH { cells.push(last) } else { below = Some(last) }
        }
        let folded: Vec<Vec<String>> = (cells.iter().enumerate())
            .map(|(at, cell)| hang(cell, fit.widths.get(at).copied().unwrap_or(WIDTH)))
            .collect();
        for number in 0..folded.iter().map(Vec::len).max().unwrap_or(0) {
            let mut line = String::new();
            for (at, (cell, (_, align))) in folded.iter().zip(&self.columns).enumerate() {
                let piece = cell.get(number).map_or("", String::as_str);
                let room = fit.widths.get(at).copied().unwrap_or(0);
                let padding = " ".repeat(room.saturating_sub(width(piece)));
                if at > 0 {
                    line.push_str(GAP);
                }
                match align {
                    Align::Left | Align::Whole => line.extend([piece, &padding]),
                    Align::Right => line.extend([padding.as_str(), piece]),
                }
            }
            end(&line, text);
        }
        for line in below.iter().flat_map(|last| hang(&format!("{BELOW}{last}"), WIDTH)) {
            end(&line, text);
        }
    }
}

/// Adds a line, without spaces at its end.
fn end(line: &str, text: &mut String) {
    text.push_str(line.trim_end());
    text.push('\n');
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

    fn fits(text: &str) {
        for line in text.lines() {
            assert!(width(line) <= WIDTH, "{} columns: {line}\n{text}", width(line));
        }
    }

    #[test]
    fn a_last_column_that_is_too_wide_is_folded_where_it_stands() {
        let mut table = Table::new(&[("CLASS", Align::Right), ("WORKLOADS", Align::Left)]);
        table.row(["1".to_owned(), ["shop/web"; 20].join(", ")]);
        table.row(["2", "shop/db"]);
        let text = table.render();
        fits(&text);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("    1  shop/web, shop/web"), "{text}");
        assert!(lines[2].starts_with("         shop/web,"), "{text}");
        assert_eq!(lines.last(), Some(&"    2  shop/db"));
    }

    #[test]
    fn a_last_column_without_room_stands_below_its_row() {
        let mut table =
            Table::new(&[("PREFIX", Align::Left), ("PORT", Align::Right), ("SAYS", Align::Left)]);
        let address = "2001:db8:1234:5678:9abc:def0:1234:5678/128";
        let rule = "route 12: VirtualService/a-namespace/a-service tcp[0]";
        table.row([address, "443", rule]);
        table.row([address, "80", "refuse"]);
        let text = table.render();
        fits(&text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], format!("    {rule}"), "{text}");
        assert!(lines[3].ends_with("80  refuse"), "{text}");
    }

    #[test]
    fn long_names_share_the_room_with_numbers_that_stay_whole() {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("OF", Align::Left), ("COUNT", Align::Right)]);
        table.over(format!("over {}", "all/columns/".repeat(12)));
        table.row(["q".repeat(63) + "/" + &"z".repeat(63), "o".repeat(100), "1234567".to_owned()]);
        let text = table.render();
        fits(&text);
        assert!(text.contains(" 1234567\n"), "{text}");
        assert!(text.contains("over all/columns/"), "{text}");
        let count = |letter| text.matches(letter).count();
        assert_eq!((count('q'), count('z')), (63, 63), "{text}");
    }
}
