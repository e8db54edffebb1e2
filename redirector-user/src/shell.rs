//! Remedies are commands, and are typed.

use std::path::Path;

/// A path as a word for a shell, whatever is in it: remedies are typed.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+,=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_path_in_a_remedy_is_one_word_whatever_is_in_it() {
        let path = |text: &str| quoted(std::path::Path::new(text));
        assert_eq!(path("/sys/fs/bpf/a.b-c@1:2"), "/sys/fs/bpf/a.b-c@1:2");
        assert_eq!(path("/a b; rm -r $HOME"), "'/a b; rm -r $HOME'");
        assert_eq!(path("it's"), r"'it'\''s'");
    }
}
