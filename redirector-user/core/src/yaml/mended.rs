//! What the parser of Go takes, and that of C does not.
//!
//! Both are one parser, and have parted since. The parts of a text that only the
//! former reads are written another way, and places are those before that.

use std::borrow::Cow;

use super::Position;
use super::events::{Mark, Refusal};

/// How much of a text is mended: each time it is read anew.
const MOST: usize = 100;

/// A text that is parsed by itself.
pub(super) struct Mended<'t> {
    text: Cow<'t, str>,
    /// How many lines stand before it, and on its first line, how many characters.
    before: (u32, u32),
    /// In the order in which they were made.
    changes: Vec<Shift>,
    /// How often it was mended.
    times: usize,
}

/// A character more, or less, from a column of a line on.
struct Shift {
    line: u64,
    column: u64,
    more: bool,
}

impl<'t> Mended<'t> {
    pub fn new(text: Cow<'t, str>, line: u32, column: u32) -> Self {
        Self { text, before: (line, column), changes: Vec::new(), times: 0 }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Writes another way what it was refused for. Returns whether it did.
    pub fn mend(&mut self, why: &Refusal) -> bool {
        let Ok(at) = usize::try_from(why.at.byte) else { return false };
        let Some(rest) = self.text.get(at..).filter(|_| self.times < MOST) else {
            return false;
        };
        let Mark { line, column, .. } = why.at;
        match &*why.problem {
            // `{a:,}`: a value that is nothing.
            "found unexpected ':'" if rest.starts_with(':') => {
                self.text.to_mut().insert(at + 1, ' ');
                self.changes.push(Shift { line, column, more: true });
            }
            // `"\'"`: an apostrophe.
            "found unknown escape character" if rest.starts_with("\\'") => {
                self.text.to_mut().remove(at);
                self.changes.push(Shift { line, column, more: false });
            }
            // `!!str, x`: to Go a comma is part of a tag, as a semicolon is to both.
            "did not find expected whitespace or line break" if rest.starts_with(',') => {
                self.text.to_mut().replace_range(at..=at, ";");
            }
            _ => return false,
        }
        self.times += 1;
        true
    }

    /// Where that is in the file.
    pub fn position(&self, mark: Mark) -> Position {
        let mut column = mark.column;
        for change in self.changes.iter().rev().filter(|change| change.line == mark.line) {
            match change.more {
                true if column > change.column => column -= 1,
                false if column >= change.column => column += 1,
                _ => {}
            }
        }
        position(self.before, mark.line, column)
    }
}

/// The place of a line and column, both counted from 0, behind so many lines, and
/// characters of the first line.
pub(super) fn position(before: (u32, u32), line: u64, column: u64) -> Position {
    let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Position {
        line: clamp(line).saturating_add(1).saturating_add(before.0),
        column: clamp(column).saturating_add(1).saturating_add(if line == 0 {
            before.1
        } else {
            0
        }),
    }
}
