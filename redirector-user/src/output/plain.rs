//! Text of others on a terminal.

use std::borrow::Cow;

/// The text without control characters, which are written out (`\u{1b}`,
/// `\n`): what files are called, and what stands in them, neither moves the
/// cursor of the one who reads of it nor begins a line of its own.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn control_characters_are_written_out_and_others_stay() {
        assert_eq!(plain("rules/über 1.yaml"), "rules/über 1.yaml");
        assert_eq!(plain("a\u{1b}[31m\n\u{9b}b"), "a\\u{1b}[31m\\n\\u{9b}b");
    }
}
