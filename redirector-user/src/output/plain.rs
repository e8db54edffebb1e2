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

/// The most characters of a word, and of a text, that people are shown.
const LONGEST: [usize; 2] = [200, 2000];

/// The text without control characters, and with an ellipsis in the middle of words
/// that nobody reads, and of the text where it is as long: what is said of a value of
/// a document holds the value.
pub fn short(text: &str) -> String {
    let [word, whole] = LONGEST;
    // A word has at least as many bytes as characters.
    if text.len() <= word {
        return plain(text).into_owned();
    }
    let words: Vec<_> = text.split(' ').map(|one| without_middle(one, word)).collect();
    plain(&without_middle(&words.join(" "), whole)).into_owned()
}

/// The text with an ellipsis in the place of all but so many of its characters.
fn without_middle(text: &str, most: usize) -> Cow<'_, str> {
    let Some((cut, _)) = text.char_indices().nth(most - most / 4) else { return text.into() };
    let mut end = text.char_indices().rev();
    match end.nth((most / 4).saturating_sub(1)) {
        Some((rest, _)) if rest > cut => format!("{}…{}", &text[..cut], &text[rest..]).into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{plain, short};

    #[test]
    fn long_values_lose_their_middle_and_what_is_said_of_them_stays() {
        let said = |value: &str| short(&format!("\"{value}\" is not a name: it takes letters"));
        assert_eq!(said("a\n"), "\"a\\n\" is not a name: it takes letters");
        let ok = "ä".repeat(198);
        assert_eq!(said(&ok), format!("\"{ok}\" is not a name: it takes letters"));
        for long in ["ä".repeat(100_000), "word and ".repeat(10_000)] {
            let said = said(&long);
            assert!(said.chars().count() <= 2001, "{said}");
            assert!(said.starts_with(&format!("\"{}", &long[..8])), "{said}");
            assert!(said.contains('…') && said.ends_with("\" is not a name: it takes letters"));
        }
    }

    #[test]
    fn control_characters_are_written_out_and_others_stay() {
        assert_eq!(plain("rules/über 1.yaml"), "rules/über 1.yaml");
        assert_eq!(plain("a\u{1b}[31m\n\u{9b}b"), "a\\u{1b}[31m\\n\\u{9b}b");
    }
}
