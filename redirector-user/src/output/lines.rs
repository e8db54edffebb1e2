//! The lines of files that are shown beside what is said of them.

use std::collections::HashMap;
use std::sync::Arc;

use redirector_core::yaml;

use super::SourceLines;
use super::diagnostics::Excerpt;
use crate::source::files::Text;

/// So many characters lie between two marks.
const STEP: usize = 1024;

/// The texts of files, in which a line and a column are found without reading
/// what stands before them: a file may have a hundred thousand findings.
#[derive(Debug)]
pub struct Lines<'a> {
    texts: HashMap<Arc<str>, &'a [u8]>,
    indexed: HashMap<Arc<str>, Option<Indexed>>,
}

impl<'a> Lines<'a> {
    /// Of these files. A text is decoded when the first of its lines is asked
    /// for.
    pub fn new(texts: &'a [Text]) -> Self {
        let texts = texts.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice())).collect();
        Self { texts, indexed: HashMap::new() }
    }
}

impl SourceLines for Lines<'_> {
    fn excerpt(&mut self, file: &str, line: u32, column: u32, most: usize) -> Option<Excerpt> {
        if !self.indexed.contains_key(file) {
            let (name, bytes) = self.texts.get_key_value(file)?;
            let indexed = yaml::decode_bytes(bytes).ok().map(|text| Indexed::new(text.into()));
            self.indexed.insert(name.clone(), indexed);
        }
        self.indexed.get(file)?.as_ref()?.excerpt(line, column, most)
    }
}

/// A text, and where its lines and every so many of its characters begin.
#[derive(Debug)]
struct Indexed {
    text: String,
    /// Byte and number of the first character of each line.
    lines: Vec<(usize, usize)>,
    /// The byte at which every [`STEP`]th character begins.
    marks: Vec<usize>,
}

impl Indexed {
    fn new(text: String) -> Self {
        let (mut lines, mut marks) = (vec![(0, 0)], Vec::new());
        for (number, (byte, character)) in text.char_indices().enumerate() {
            if number % STEP == 0 {
                marks.push(byte);
            }
            if character == '\n' {
                lines.push((byte + 1, number + 1));
            }
        }
        Self { text, lines, marks }
    }

    /// The byte at which a character begins; the end of the text when it has
    /// fewer.
    fn byte(&self, character: usize) -> usize {
        let Some(&mark) = self.marks.get(character / STEP) else { return self.text.len() };
        let rest = &self.text[mark..];
        rest.char_indices().nth(character % STEP).map_or(self.text.len(), |(at, _)| mark + at)
    }

    fn excerpt(&self, line: u32, column: u32, most: usize) -> Option<Excerpt> {
        let at = usize::try_from(line).ok()?.checked_sub(1)?;
        let &(first, first_character) = self.lines.get(at)?;
        // A last line without anything in it is none.
        if first == self.text.len() {
            return None;
        }
        let end = self.lines.get(at + 1).map_or(self.text.len(), |(next, _)| next - 1);
        let end = if self.text[first..end].ends_with('\r') { end - 1 } else { end };
        // A column behind the line's end points there.
        let place = (column as usize).checked_sub(1).map(|column| {
            let byte = self.byte(first_character.saturating_add(column));
            if byte <= end { column } else { self.text[first..end].chars().count() }
        });
        let skipped = match place {
            Some(place) if place > most * 3 / 4 => place - most / 2,
            _ => 0,
        };
        let start = self.byte(first_character + skipped).min(end);
        let shown: String = self.text[start..end].chars().take(most).collect();
        Some(Excerpt {
            more_before: skipped > 0,
            more_behind: start + shown.len() < end,
            shown,
            caret: place.map(|place| place - skipped),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str, line: u32, column: u32) -> Option<(String, Option<usize>)> {
        let texts = [("a.yaml".into(), text.as_bytes().to_vec())];
        let excerpt = Lines::new(&texts).excerpt("a.yaml", line, column, 100)?;
        Some((excerpt.shown, excerpt.caret))
    }

    #[test]
    fn lines_are_counted_from_one_and_end_before_their_line_break() {
        let text = "one\r\ntwo\n\nfour";
        assert_eq!(excerpt(text, 1, 2), Some(("one".into(), Some(1))));
        assert_eq!(excerpt(text, 2, 0), Some(("two".into(), None)));
        assert_eq!(excerpt(text, 3, 1), Some((String::new(), Some(0))));
        assert_eq!(excerpt(text, 4, 4), Some(("four".into(), Some(3))));
        assert_eq!(excerpt(text, 5, 1), None);
        assert_eq!(excerpt(text, 0, 1), None);
        assert_eq!(excerpt("one\n", 2, 1), None, "there is no line behind the last break");
    }

    #[test]
    fn a_column_behind_the_line_points_to_its_end() {
        assert_eq!(excerpt("ab\ncdefghijklmnop\n", 1, 9), Some(("ab".into(), Some(2))));
    }

    #[test]
    fn columns_are_characters_wherever_they_stand() {
        let long = format!("x: ä\n{}z{}\n", "ö".repeat(5000), "ü".repeat(3000));
        let (shown, caret) = excerpt(&long, 2, 5001).expect("the line is there");
        assert_eq!(shown.chars().nth(caret.expect("a column")), Some('z'));
        assert_eq!(shown.chars().count(), 100);
        let (shown, caret) = excerpt(&long, 2, 90_000).expect("the line is there");
        assert_eq!(caret, Some(shown.chars().count()), "behind the end of a long line");
    }
}
