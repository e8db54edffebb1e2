//! Tables that read well in a terminal: columns as wide as their widest cell,
//! two spaces between them, nothing else. Where that is too wide, long cells are
//! folded, and a last one that has little room stands below its row. Where there is
//! no terminal, a row is a line.

use super::fold::{UNLIMITED, hang, width};
use super::plain::plain;

/// Between columns.
const GAP: &str = "  ";

/// With less room than this the last cell of a row stands below it.
const LEAST: usize = 36;

/// How far to the right of the row it stands.
const BELOW: &str = "    ";

/// How far to the right of what a group of rows has in common they stand.
const INDENT: &str = "  ";

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
    /// What groups of rows are by, where they are.
    group: Option<&'static str>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
enum Row {
    Cells(Vec<String>),
    /// What the rows below have in common.
    Group(String),
}

/// How a table fits.
struct Fit {
    /// Of the columns, or of those before one that stands below where it has to.
    widths: Vec<usize>,
    below: bool,
    /// Of the terminal.
    columns: usize,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, group: None, rows: Vec::new() }
    }

    /// A table whose rows are in groups by something of this name. In a terminal that
    /// stands over the rows of each, elsewhere in a column of its own before them.
    pub fn grouped(group: &'static str, columns: &[(&str, Align)]) -> Self {
        Self { group: Some(group), ..Self::new(columns) }
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

    /// Begins a group: what the rows from here on have in common.
    pub fn group(&mut self, text: impl Into<String>) {
        self.rows.push(Row::Group(plain(&text.into()).into_owned()));
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text for so many columns, heading first, each line ended.
    pub fn render(self, columns: usize) -> String {
        let (heading, body) = self.parts(columns);
        heading + &body
    }

    /// The heading and the rest of the text, for so many columns.
    pub fn parts(mut self, columns: usize) -> (String, String) {
        match (self.group.take(), columns) {
            (Some(group), UNLIMITED) => self.spread(group),
            (Some(group), _) => self.indent(group),
            (None, _) => {}
        }
        let fit = self.fit(columns);
        let (mut heading, mut text) = (String::new(), String::new());
        self.line(self.columns.iter().map(|(name, _)| name.as_str()), &fit, &mut heading);
        for row in &self.rows {
            match row {
                Row::Cells(cells) => self.line(cells.iter().map(String::as_str), &fit, &mut text),
                Row::Group(group) => {
                    hang(group, columns).iter().for_each(|line| end(line, &mut text));
                }
            }
        }
        (heading, text)
    }

    /// Gives each row what its group has in common as its first cell.
    fn spread(&mut self, name: &str) {
        self.columns.insert(0, (name.to_owned(), Align::Left));
        let mut group = String::new();
        self.rows = std::mem::take(&mut self.rows)
            .into_iter()
            .filter_map(|row| match row {
                Row::Group(text) => {
                    group = text;
                    None
                }
                Row::Cells(mut cells) => {
                    cells.insert(0, group.clone());
                    Some(Row::Cells(cells))
                }
            })
            .collect();
    }

    /// Has rows stand a little to the right of what their group has in common.
    fn indent(&mut self, name: &str) {
        let Some((first, align)) = self.columns.first_mut() else { return };
        // Numbers stand to the right as it is.
        if *align == Align::Right {
            return;
        }
        *first = format!("{name} / {first}");
        for row in &mut self.rows {
            if let Row::Cells(cells) = row
                && let Some(cell) = cells.first_mut()
            {
                cell.insert_str(0, INDENT);
            }
        }
    }

    /// The widths of the columns.
    fn fit(&self, columns: usize) -> Fit {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| width(name)).collect();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (widest, cell) in widths.iter_mut().zip(cells) {
                *widest = (*widest).max(width(cell));
            }
        }
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        if widths.iter().sum::<usize>() + gaps <= columns {
            return Fit { widths, below: false, columns };
        }
        if let Some((_, Align::Left)) = self.columns.last()
            && let [before @ .., last] = widths.as_mut_slice()
            && !before.is_empty()
            && *last > LEAST
        {
            let before: usize = before.iter().sum();
            *last = columns.saturating_sub(before + gaps);
            if *last >= LEAST {
                return Fit { widths, below: false, columns };
            }
            widths.pop();
            self.narrow(&mut widths, columns);
            return Fit { widths, below: true, columns };
        }
        self.narrow(&mut widths, columns);
        Fit { widths, below: false, columns }
    }

    /// Takes from the widest columns of text until all fit.
    fn narrow(&self, widths: &mut [usize], columns: usize) {
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        let text = |at: &usize| self.columns[*at].1 == Align::Left;
        while widths.iter().sum::<usize>() + gaps > columns {
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
            if before + width(last) <= fit.columns { cells.push(last) } else { below = Some(last) }
        }
        let folded: Vec<Vec<String>> = (cells.iter().enumerate())
            .map(|(at, cell)| hang(cell, fit.widths.get(at).copied().unwrap_or(fit.columns)))
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
        for line in below.iter().flat_map(|last| hang(&format!("{BELOW}{last}"), fit.columns)) {
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
    use crate::output::WIDTH;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("TO", Align::Left)]);
        table.row(["echo", "1", "x"]);
        table.row(["longer-name", "100", ""]);
        assert_eq!(
            table.render(WIDTH),
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
        let text = table.render(WIDTH);
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
        let text = table.render(WIDTH);
        fits(&text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], format!("    {rule}"), "{text}");
        assert!(lines[3].ends_with("80  refuse"), "{text}");
    }

    #[test]
    fn long_names_share_the_room_with_numbers_that_stay_whole() {
        let mut table = Table::grouped(
            "PATH",
            &[("NAME", Align::Left), ("OF", Align::Left), ("COUNT", Align::Right)],
        );
        table.group(format!("over {}", "all/columns/".repeat(12)));
        table.row(["q".repeat(63) + "/" + &"z".repeat(63), "o".repeat(100), "1234567".to_owned()]);
        for columns in [60, 80, 120, 200] {
            let text = table.clone().render(columns);
            assert!(text.lines().all(|line| width(line) <= columns), "{columns}:\n{text}");
            assert!(text.starts_with("PATH / NAME"), "{text}");
            assert!(text.contains(" 1234567\n"), "{text}");
            assert!(text.contains("over all/columns/"), "{text}");
            let count = |letter| text.matches(letter).count();
            assert_eq!((count('q'), count('z')), (63, 63), "{text}");
        }
    }

    #[test]
    fn without_a_terminal_a_row_is_a_line_and_names_its_group() {
        let mut table = Table::grouped("ROUTE", &[("TO", Align::Left), ("N", Align::Right)]);
        table.group("a route");
        table.row(["x".repeat(300), "1".to_owned()]);
        table.row(["y", "2"]);
        table.group("another");
        table.row(["z", "3"]);
        let text = table.render(UNLIMITED);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split("  ").collect()).collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0][0] == "ROUTE" && lines[2][0] == "a route", "{text}");
        assert!(text.ends_with("  3\n") && text.contains("another  z"), "{text}");
    }
}
