//! Colours.

use std::fmt::Display;

/// How to colour a piece of text, or not to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    enabled: bool,
}

impl Style {
    /// With colours or without.
    pub const fn new(enabled: bool) -> Self {
        Self { enabled }
    }

    /// Whether there are colours.
    pub const fn enabled(self) -> bool {
        self.enabled
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.enabled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Something is wrong.
    pub fn error(self, text: impl Display) -> String {
        self.paint("1;31", text)
    }

    /// Something will surprise.
    pub fn warning(self, text: impl Display) -> String {
        self.paint("1;33", text)
    }

    /// All is well.
    pub fn good(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// Worth knowing, or how to mend it.
    pub fn help(self, text: impl Display) -> String {
        self.paint("36", text)
    }

    /// Headings.
    pub fn strong(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    /// Beside the point.
    pub fn faint(self, text: impl Display) -> String {
        self.paint("2", text)
    }
}
